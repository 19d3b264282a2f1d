//! The provider selector: a suffix for a base alias, chosen by a word. Pure.

use std::sync::Arc;

use dgx_gateway_filter::facts::Principal;

use super::{Catalog, Slug, Tier};

/// The words, and what each appends.
const SUFFIXES: [(&str, &str); 5] = [
    ("local", "-local"),
    ("cloud", "-cloud"),
    ("ollama", "-cloud-1"),
    ("openrouter", "-cloud-2"),
    ("nvidia", "-cloud-3"),
];

/// Why a selector gives no slug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoProvider {
    /// The slug does not exist, or not for this caller: 400 `model_not_in_allowlist`, `model`.
    NotAvailable,
    /// The word is unknown, or the model is no base alias: 400 `invalid_field`, `provider`.
    NotValid,
}

impl Catalog {
    /// The slug of a base alias at a provider.
    ///
    /// # Errors
    /// Why there is none.
    pub fn at_provider(
        &self,
        model: &str,
        provider: &str,
        principal: Option<&Principal>,
    ) -> Result<&Arc<Slug>, NoProvider> {
        let suffix = SUFFIXES.iter().find(|(word, _)| *word == provider).map(|(_, suffix)| suffix);
        let is_base =
            self.by_id.get(model).and_then(|index| self.slugs.get(*index)).is_some_and(|slug| slug.tier == Tier::Base);
        let suffix = suffix.filter(|_| is_base).ok_or(NoProvider::NotValid)?;
        self.find(&format!("{model}{suffix}"), principal).ok_or(NoProvider::NotAvailable)
    }
}
