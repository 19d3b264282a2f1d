//! The tokens in use: found by digest, replaced as a whole.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use dgx_gateway_filter::BuildError;
use dgx_gateway_filter::budget::{BudgetRead, BudgetsOfTenants};
use dgx_gateway_filter::tenant_config::{Level, Tenants};
use secrecy::ExposeSecret;

use crate::bootstrap::{self, Bootstrap};
use crate::digest::Digest;
use crate::scopes::Role;
use crate::tenant::{DEFAULT_TENANT, Tenant};
use crate::token::{Secret, Token};

/// Tokens and tenants of the file and the environment, free of problems.
#[derive(Debug, Default)]
pub struct CheckedTokens {
    /// Where they stand.
    pub(crate) file: PathBuf,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) tokens: Vec<(Token, Vec<Secret>)>,
    /// The budgets of the file and where they stand.
    pub(crate) budgets: Vec<BudgetRead>,
}

impl CheckedTokens {
    /// The tenants with budgets.
    pub(crate) fn budgets_of_tenants(&self) -> BudgetsOfTenants {
        let with_budgets = self.tenants.iter().filter(|tenant| !tenant.budgets.0.is_empty());
        BudgetsOfTenants(with_budgets.map(|tenant| (Arc::clone(&tenant.id), Arc::clone(&tenant.budgets))).collect())
    }

    /// Adds a tenant unless it is listed.
    pub(crate) fn ensure_tenant(&mut self, id: &str) {
        if !self.tenants.iter().any(|tenant| *tenant.id == *id) {
            self.tenants.push(Tenant::named(id));
        }
    }
}

/// Which secret belongs to which token, as one state of the file says. A reload makes new ones.
pub struct Tokens {
    catalog: Catalog,
    /// The bootstrap secret, once this process has used it.
    bootstrap: Option<Arc<Bootstrap>>,
}

/// One state of the file.
pub(crate) struct Catalog {
    /// The map's own hash is keyed at random, and the keys are digests: nobody can choose colliding ones.
    secrets: HashMap<Digest, Known>,
    tenants: HashMap<Arc<str>, Arc<Tenant>>,
    uses_bootstrap: bool,
}

/// A secret and the token that it proves.
pub(crate) struct Known {
    pub(crate) secret: Secret,
    pub(crate) token: Arc<Token>,
}

impl Tokens {
    /// Puts tokens into use. Without any, the bootstrap token is taken over from `previous`, read from the data
    /// directory or made there.
    ///
    /// # Errors
    /// The bootstrap token cannot be read or written.
    pub fn new(mut checked: CheckedTokens, data_dir: &Path, previous: Option<&Self>) -> Result<Self, BuildError> {
        let uses_bootstrap = checked.tokens.is_empty();
        let mut bootstrap = previous.and_then(|previous| previous.bootstrap.clone());
        if uses_bootstrap {
            let made = match bootstrap {
                Some(known) => known,
                None => Arc::new(bootstrap::load_or_make(data_dir)?),
            };
            let token = Token::implicit("bootstrap", DEFAULT_TENANT, Role::TenantAdmin, Some("me"));
            checked.tokens.push((token, vec![Secret::lasting(made.secret.expose_secret())]));
            checked.ensure_tenant(DEFAULT_TENANT);
            bootstrap = Some(made);
        }
        Ok(Self { catalog: Catalog::from_checked(checked, uses_bootstrap), bootstrap })
    }

    /// Whether no token is configured, so that the bootstrap token is in use.
    #[must_use]
    pub fn uses_bootstrap(&self) -> bool {
        self.catalog.uses_bootstrap
    }

    /// The bootstrap secret while it is in use, and whether this process made it. For the one line that tells an
    /// operator how to begin; never for a log.
    #[must_use]
    pub fn bootstrap_secret(&self) -> Option<(&str, bool)> {
        let bootstrap = self.bootstrap.as_ref().filter(|_| self.uses_bootstrap())?;
        Some((bootstrap.secret.expose_secret(), bootstrap.newly_made))
    }

    /// A tenant, if there is one of that id.
    #[must_use]
    pub fn tenant(&self, id: &str) -> Option<Arc<Tenant>> {
        self.catalog.tenant(id).cloned()
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

impl Tenants for Tokens {
    fn each(&self, see: &mut dyn FnMut(&Arc<str>, &Arc<Level>)) {
        for tenant in self.catalog().tenants.values() {
            see(&tenant.id, &tenant.defaults);
        }
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Catalog {
    fn from_checked(checked: CheckedTokens, uses_bootstrap: bool) -> Self {
        let mut secrets = HashMap::new();
        for (token, of_token) in checked.tokens {
            let token = Arc::new(token);
            for secret in of_token {
                secrets.insert(secret.digest, Known { secret, token: Arc::clone(&token) });
            }
        }
        let tenants = checked.tenants.into_iter().map(|tenant| (Arc::clone(&tenant.id), Arc::new(tenant))).collect();
        Self { secrets, tenants, uses_bootstrap }
    }

    /// The token of a secret. Costs one hash of the secret, however many tokens there are.
    pub(crate) fn find(&self, secret: &[u8]) -> Option<&Known> {
        let digest = Digest::of(secret);
        self.secrets.get(&digest).filter(|known| known.secret.digest.equals(&digest))
    }

    pub(crate) fn tenant(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(id)
    }
}

#[cfg(test)]
mod tests;
