//! The catalog: slugs, models, and the route of each to backends. Immutable; a new one replaces it.
//!
//! | Module | Holds |
//! |---|---|
//! | [`entry`] | one step of a route, with what is known of it right now |
//! | `provider` | the slug that a provider selector means |
//! | `read` | from the models file to models |
//! | `slugs` | the names that a model and its route give |

pub mod entry;
mod provider;
mod read;
mod slugs;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use dgx_gateway_filter::budget::RouteRead;
use dgx_gateway_filter::facts::Principal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::entry::Entry;
pub(crate) use self::entry::{choices, ordered};
pub use self::provider::NoProvider;
pub(crate) use self::read::{Sources, discovered, discovered_entry, is_slug, read};
use crate::backend::{Backend, Protocol};
use crate::retries::RetryBudget;
use crate::settings::{LicenseFile, ModalitiesFile, Reasoning};
use dgx_gateway_filter::glob::matches;

/// Scope that makes slugs of single machines known.
pub(crate) const MACHINE_SCOPE: &str = "models:use:machine";

/// What a model does.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ModelKind {
    Audio,
    #[default]
    Chat,
    Embedding,
    Image,
    Rerank,
}

impl Model {
    /// Whether its type fits an endpoint. Chat models that draw fit the one for images, too.
    pub(crate) fn fits(&self, protocol: Protocol) -> bool {
        let draws = || self.about.modalities.output.iter().any(|kind| kind == "image");
        self.kind.fits(protocol) || self.kind == ModelKind::Chat && protocol == Protocol::Images && draws()
    }
}

impl ModelKind {
    fn fits(self, protocol: Protocol) -> bool {
        use Protocol as P;
        match self {
            Self::Audio => matches!(protocol, P::Speech | P::Transcription | P::Translation),
            Self::Chat => matches!(protocol, P::Chat | P::Completions | P::Messages | P::Responses | P::Tokenize),
            Self::Embedding => protocol == P::Embeddings,
            Self::Image => matches!(protocol, P::Chat | P::Completions | P::Messages | P::Responses | P::Images),
            Self::Rerank => protocol == P::Rerank,
        }
    }
}

/// One model as the catalog describes it.
#[derive(Debug)]
pub struct Model {
    /// Base alias.
    pub alias: Arc<str>,
    /// What it does.
    pub kind: ModelKind,
    /// Owner.
    pub vendor: String,
    /// Unix time.
    pub created: i64,
    /// Whether it takes images.
    pub image_input: bool,
    /// Whether image URLs pass.
    pub accepts_image_url: bool,
    /// Floor of `max_tokens`.
    pub min_max_tokens: Option<u32>,
    /// Ceiling of `max_tokens`.
    pub max_output_tokens: Option<u32>,
    /// Name in answers, if not the slug.
    pub response_model: Option<Arc<str>>,
    /// Caps of embedding inputs.
    pub embedding: EmbeddingCaps,
    /// What nothing but `GET /v1/info` tells.
    pub about: About,
    /// Where it runs, in order.
    pub route: Vec<Arc<Entry>>,
    /// The route with the entries that are only listed.
    pub listed: Vec<Arc<Entry>>,
    /// Further attempts that its requests may make.
    pub(crate) retries: RetryBudget,
}

/// What the catalog says of a model for people and for programs that choose one. `None`: not known.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Family.
    pub family: Option<String>,
    /// Owner.
    pub vendor: Option<String>,
    /// One line.
    pub description: Option<String>,
    /// Context window in tokens.
    pub context_window: Option<u64>,
    /// Whether it calls tools.
    pub tools: Option<bool>,
    /// Whether it thinks before it answers.
    pub reasoning: Option<Reasoning>,
    /// Kinds of input and output.
    pub modalities: ModalitiesFile,
    /// Whether it can be asked for JSON.
    pub json_mode: bool,
    /// Licence.
    pub license: Option<LicenseFile>,
    /// How long an answer takes as a rule.
    pub typical_response_seconds: Option<u32>,
    /// Further words.
    pub notes: Option<Arc<str>>,
}

/// Caps of embedding inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingCaps {
    /// Native number of dimensions.
    pub dimensions: Option<u32>,
    /// Whether another number passes.
    pub dimensions_supported: bool,
    /// Most inputs of one request.
    pub max_inputs: usize,
    /// Most bytes of one input.
    pub max_input_bytes: u64,
    /// Most integers of one input.
    pub max_input_tokens: u64,
}

/// Which part of a model's route a slug means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The whole route: the alias itself.
    Base,
    /// Its local or its cloud part.
    Domain,
    /// One number format.
    Quantization,
    /// One cloud slot.
    CloudSlot,
    /// One machine; known only with its own scope.
    Machine,
    /// Another name, for everybody.
    Pin,
    /// Another name, for some tenants.
    Tenant,
}

/// A name that callers use.
#[derive(Debug)]
pub struct Slug {
    /// The name.
    pub id: Arc<str>,
    /// Which part of the route it means.
    pub tier: Tier,
    /// The model behind it.
    pub model: Arc<Model>,
    /// Its part of the route.
    pub entries: Vec<Arc<Entry>>,
    /// Its part of the route with the entries that are only listed.
    pub listed: Vec<Arc<Entry>>,
    /// Tenants that know it; empty for the tiers that everybody knows.
    pub tenants: Vec<String>,
    /// What a further name stands for.
    pub target: Option<Target>,
    /// Set when its tenants rely on just this model: the slugs that they are told of when its day is used up.
    pub pinned: Option<Arc<[String]>>,
    /// For people.
    pub notes: Option<Arc<str>>,
}

/// What a further name stands for.
#[derive(Clone, Debug)]
pub struct Target {
    /// The slug.
    pub slug: Arc<str>,
    /// Its tier.
    pub tier: Tier,
}

/// Why a slug cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No backend of its route speaks the protocol.
    NoBackend,
    /// Unknown, not allowed, or not for this endpoint.
    NotAvailable,
}

/// All slugs and backends.
#[derive(Debug, Default)]
pub struct Catalog {
    slugs: Vec<Arc<Slug>>,
    by_id: HashMap<Arc<str>, usize>,
    /// Backends in use, in file order.
    pub backends: Vec<Arc<Backend>>,
    /// All backends, in file order.
    pub listed: Vec<Arc<Backend>>,
}

impl Catalog {
    /// A catalog of slugs in the order in which they are listed. The first of two with one name wins.
    #[must_use]
    pub fn new(slugs: Vec<Arc<Slug>>, listed: Vec<Arc<Backend>>) -> Self {
        let backends = listed.iter().filter(|backend| backend.enabled).cloned().collect();
        let mut catalog = Self { backends, listed, ..Self::default() };
        for slug in slugs {
            if !catalog.by_id.contains_key(&slug.id) {
                catalog.by_id.insert(Arc::clone(&slug.id), catalog.slugs.len());
                catalog.slugs.push(slug);
            }
        }
        catalog
    }

    /// All slugs, in order.
    #[must_use]
    pub fn slugs(&self) -> &[Arc<Slug>] {
        &self.slugs
    }

    /// The models, each once, in order.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.slugs.iter().filter(|slug| slug.tier == Tier::Base).map(|slug| &slug.model)
    }

    /// Whether there is such a slug, for whomever.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.by_id.contains_key(name)
    }

    /// A slug, if this caller may know it.
    #[must_use]
    pub fn find(&self, name: &str, principal: Option<&Principal>) -> Option<&Arc<Slug>> {
        let by_name = |name: &str| self.by_id.get(name).and_then(|index| self.slugs.get(*index));
        // the older form of `-cloud-1`
        let older = || {
            let first_slot = by_name(&format!("{}-cloud-1", name.strip_suffix("-ollama")?));
            first_slot.filter(|slug| slug.tier == Tier::CloudSlot)
        };
        by_name(name).or_else(older).filter(|slug| slug.usable_by(principal))
    }

    /// A slug that this caller may use with this protocol, and the entries that speak it.
    ///
    /// # Errors
    /// Why not.
    pub fn resolve(
        &self,
        name: &str,
        principal: Option<&Principal>,
        protocol: Protocol,
    ) -> Result<(&Arc<Slug>, Vec<Arc<Entry>>), Unusable> {
        let slug = self.find(name, principal).filter(|slug| slug.model.fits(protocol)).ok_or(Unusable::NotAvailable)?;
        let speaks = |entry: &&Arc<Entry>| entry.backend.protocols.contains(&protocol);
        let entries: Vec<Arc<Entry>> = slug.entries.iter().filter(speaks).cloned().collect();
        if entries.is_empty() { Err(Unusable::NoBackend) } else { Ok((slug, entries)) }
    }
}

impl Slug {
    /// Whether this caller may use it: the tenant's lists, the token's own list, and what its tier asks for.
    #[must_use]
    pub fn usable_by(&self, principal: Option<&Principal>) -> bool {
        let Some(principal) = principal else { return !matches!(self.tier, Tier::Machine | Tier::Tenant) };
        let known = match self.tier {
            Tier::Machine => principal.scopes.allow(MACHINE_SCOPE),
            Tier::Tenant => self.tenants.iter().any(|tenant| **tenant == *principal.tenant_id),
            _ => true,
        };
        known
            && principal.models_allowlist.as_deref().is_none_or(|globs| self.allowed_by(globs))
            && !principal.models_blacklist.as_deref().is_some_and(|globs| self.named_by(globs))
            && principal.models.as_deref().is_none_or(|globs| self.named_by(globs))
    }

    /// What it is called and leads to, for checks over several files.
    pub(crate) fn as_read(&self) -> RouteRead {
        RouteRead {
            slug: Arc::clone(&self.id),
            alias: Arc::clone(&self.model.alias),
            tenants: (self.tier == Tier::Tenant).then(|| self.tenants.clone()),
            targets: self.entries.iter().map(|entry| entry.as_target()).collect(),
        }
    }

    fn allowed_by(&self, globs: &[String]) -> bool {
        match self.tier {
            Tier::Tenant => true,
            Tier::Machine => globs.iter().any(|glob| matches(glob, &self.id)),
            _ => self.named_by(globs),
        }
    }

    fn named_by(&self, globs: &[String]) -> bool {
        globs.iter().any(|glob| matches(glob, &self.id) || matches(glob, &self.model.alias))
    }
}
