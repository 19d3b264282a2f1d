//! Catalogs and callers for tests.

use std::sync::Arc;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::facts::{Principal, Scopes};
use dgx_gateway_filter::upstream::EmbeddedUpstreams;

use super::{Catalog, Sources, read};
use crate::settings::{BackendFile, CatalogFile};

/// A catalog from the texts of its two files.
pub(crate) fn read_catalog(backends: &str, models: &str) -> (Catalog, Vec<Problem>) {
    let files: Vec<BackendFile> = serde_yaml::from_str(backends).unwrap();
    let mut problems = Vec::new();
    let embedded = EmbeddedUpstreams::default();
    let backends = crate::service::backends(&files, &embedded, &[], &mut problems);
    let file: CatalogFile = serde_yaml::from_str(models).unwrap();
    let ids: Vec<String> = files.into_iter().map(|file| file.id).collect();
    let slugs = read(file, &Sources { backends: &backends, ids: &ids }, &mut problems);
    (Catalog::new(slugs, backends), problems)
}

struct Holds(&'static [&'static str]);

impl Scopes for Holds {
    fn allow(&self, scope: &str) -> bool {
        self.0.contains(&scope)
    }
}

/// A caller with scopes and without lists.
pub(crate) fn principal(tenant: &str, scopes: &'static [&'static str]) -> Principal {
    Principal {
        tenant_id: tenant.into(),
        token_id: "t".into(),
        user_id: None,
        bearer_digest: [0; 32],
        rate_limit: None,
        rate_limit_bypass: false,
        models: None,
        max_tokens: None,
        models_allowlist: None,
        models_blacklist: None,
        cost_markup_factor: rust_decimal::Decimal::ONE,
        pseudonymous: false,
        scopes: Arc::new(Holds(scopes)),
    }
}

/// A list of globs.
pub(crate) fn globs(globs: &[&str]) -> Option<Arc<[String]>> {
    Some(globs.iter().map(|glob| (*glob).to_owned()).collect())
}
