//! The tokens in use: found by digest, swapped as a whole.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use dgx_gateway_filter::BuildError;
use dgx_gateway_filter::budget::{BudgetRead, BudgetsOfTenants};
use secrecy::ExposeSecret;

use crate::bootstrap::{self, Bootstrap};
use crate::digest::Digest;
use crate::scopes::Role;
use crate::tenant::{DEFAULT_TENANT, Tenant};
use crate::token::{Secret, Token};

/// Tokens and tenants of the file and the environment, free of problems.
#[derive(Debug, Default)]
pub struct CheckedTokens {
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

/// Which secret belongs to which token. Shared by all requests; a request keeps what it found.
pub struct Tokens {
    catalog: ArcSwap<Catalog>,
    data_dir: PathBuf,
    bootstrap: OnceLock<Bootstrap>,
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
    /// Puts the tokens into use. Without any, the bootstrap token is read from the data directory or made there.
    ///
    /// # Errors
    /// The bootstrap token cannot be read or written.
    pub fn new(checked: CheckedTokens, data_dir: PathBuf) -> Result<Self, BuildError> {
        let tokens = Self { catalog: ArcSwap::from_pointee(Catalog::empty()), data_dir, bootstrap: OnceLock::new() };
        tokens.replace(checked)?;
        Ok(tokens)
    }

    /// Swaps all tokens and tenants at once, after a reload.
    ///
    /// # Errors
    /// No token is left, and the bootstrap token cannot be read or written. The old tokens stay in use.
    pub fn replace(&self, mut checked: CheckedTokens) -> Result<(), BuildError> {
        let uses_bootstrap = checked.tokens.is_empty();
        if uses_bootstrap {
            let token = Token::implicit("bootstrap", DEFAULT_TENANT, Role::TenantAdmin, Some("me"));
            let secret = Secret::lasting(self.bootstrap()?.secret.expose_secret());
            checked.tokens.push((token, vec![secret]));
            checked.ensure_tenant(DEFAULT_TENANT);
        }
        self.catalog.store(Arc::new(Catalog::from_checked(checked, uses_bootstrap)));
        Ok(())
    }

    /// The bootstrap secret while it is in use, and whether this process made it. For the one line that tells an
    /// operator how to begin; never for a log.
    #[must_use]
    pub fn bootstrap_secret(&self) -> Option<(&str, bool)> {
        let in_use = self.catalog.load().uses_bootstrap;
        let bootstrap = self.bootstrap.get().filter(|_| in_use)?;
        Some((bootstrap.secret.expose_secret(), bootstrap.newly_made))
    }

    /// A tenant, if there is one of that id.
    #[must_use]
    pub fn tenant(&self, id: &str) -> Option<Arc<Tenant>> {
        self.catalog.load().tenant(id).cloned()
    }

    pub(crate) fn catalog(&self) -> arc_swap::Guard<Arc<Catalog>> {
        self.catalog.load()
    }

    fn bootstrap(&self) -> Result<&Bootstrap, BuildError> {
        if let Some(bootstrap) = self.bootstrap.get() {
            return Ok(bootstrap);
        }
        let bootstrap = bootstrap::load_or_make(&self.data_dir)?;
        Ok(self.bootstrap.get_or_init(|| bootstrap))
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Catalog {
    fn empty() -> Self {
        Self { secrets: HashMap::new(), tenants: HashMap::new(), uses_bootstrap: false }
    }

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
