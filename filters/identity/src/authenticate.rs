//! Filter `identity`: secret, tenant and client address.

use std::sync::Arc;

use dgx_gateway_filter::audit::{Audit, AuthReason};
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::facts::Principal;
use dgx_gateway_filter::services::{AuthFailures, NotTolerated, Noted};
use dgx_gateway_filter::tenant_config::{TenantConfig, TenantSettings};
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem, async_trait,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::catalog::{Catalog, Known, Tokens};
use crate::credential::{self, Accepted, NoSecret};
use crate::refusal;
use crate::tenant::Tenant;
use crate::tenant_choice;
use crate::token::Token;
use crate::told;

/// Filter kind `identity`: finds out who sends the request and states it as [`Principal`], without the user.
#[derive(Debug)]
pub struct Authenticate;

/// Parameters of the filter `identity`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthenticateConfig {
    /// Whether the secret may also stand in `x-api-key`, as clients of the messages API send it. Default false.
    /// `Authorization` counts where both are sent.
    pub api_key_header: bool,
}

impl FilterKind for Authenticate {
    const NAME: &'static str = "identity";
    type Config = AuthenticateConfig;
    type Checked = AuthenticateConfig;

    fn check(raw: AuthenticateConfig) -> Result<AuthenticateConfig, Vec<Problem>> {
        Ok(raw)
    }

    fn build(checked: AuthenticateConfig, env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        let accepted = if checked.api_key_header { Accepted::AuthorizationOrApiKey } else { Accepted::Authorization };
        let gate = Gate {
            accepted,
            audit: told::audit(env),
            clock: Arc::clone(&env.clock),
            failures: Arc::clone(&*env.service::<Arc<dyn AuthFailures>>()?),
            tenant_config: Arc::clone(&*env.service::<Arc<dyn TenantConfig>>()?),
            tokens: env.service()?,
        };
        Ok(Arc::new(AuthenticateFilter(Arc::new(gate))))
    }
}

struct AuthenticateFilter(Arc<Gate>);

impl Filter for AuthenticateFilter {
    fn authenticates(&self) -> bool {
        true
    }

    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(AuthenticateExchange(Arc::clone(&self.0)))
    }
}

struct AuthenticateExchange(Arc<Gate>);

#[async_trait]
impl Exchange for AuthenticateExchange {
    async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        match self.0.admit(cx) {
            Ok(()) => Ok(Flow::Continue),
            Err(Refusal::OfRequest(refusal)) => Err(*refusal),
            Err(Refusal::OfSecret(refusal)) => Err(self.0.count_failure(*refusal, cx).await),
        }
    }
}

/// Why a request is not admitted. Boxed, since hardly any request meets one.
enum Refusal {
    /// The secret is right, something else is not.
    OfRequest(Box<FilterError>),
    /// A failure to authenticate.
    OfSecret(Box<FilterError>),
}

impl From<FilterError> for Refusal {
    fn from(refusal: FilterError) -> Self {
        Self::OfRequest(Box::new(refusal))
    }
}

/// What one route entry checks with.
struct Gate {
    accepted: Accepted,
    audit: Option<Arc<dyn Audit>>,
    clock: Arc<dyn Clock>,
    failures: Arc<dyn AuthFailures>,
    tenant_config: Arc<dyn TenantConfig>,
    tokens: Arc<Tokens>,
}

impl Gate {
    /// Checks in the order of the specification; the first failing step answers.
    fn admit(&self, cx: &mut ExchangeCx<'_>) -> Result<(), Refusal> {
        let catalog = self.tokens.catalog();
        let known = self.authenticate(catalog, cx).map_err(|refusal| Refusal::OfSecret(Box::new(refusal)))?;
        let tenant = tenant_choice::resolve(&cx.head.headers, &known.token, catalog).inspect_err(|refusal| {
            if refusal.code == ErrorCode::InvalidAuthorization {
                self.tell(AuthReason::Tenant, Some(&known.token), catalog, cx);
            }
        })?;
        if !known.token.is_usable_from(cx.client_ip()) {
            tracing::info!(
                token.id = &*known.token.id,
                request.id = &*cx.request.id,
                "token used from a foreign address"
            );
            self.tell(AuthReason::Address, Some(&known.token), catalog, cx);
            return Err(refusal::foreign_address().into());
        }
        // a tenant without its configuration could do more than its operator allows, so it can do nothing
        let unknown = || FilterError::internal("the configuration of a tenant is not known");
        let settings = self.tenant_config.settings(&tenant.id).ok_or_else(unknown)?;
        cx.facts.insert(principal(known, tenant, &settings));
        cx.facts.insert_shared(settings);
        cx.facts.insert_shared(Arc::clone(&known.token));
        cx.facts.insert_shared(Arc::clone(&tenant.limits));
        if !tenant.budgets.0.is_empty() {
            cx.facts.insert_shared(Arc::clone(&tenant.budgets));
        }
        Ok(())
    }

    fn authenticate<'a>(&self, catalog: &'a Catalog, cx: &ExchangeCx<'_>) -> Result<&'a Known, FilterError> {
        let secret = credential::secret(&cx.head.headers, self.accepted).map_err(|reason| match reason {
            NoSecret::Malformed => {
                self.tell(AuthReason::Unknown, None, catalog, cx);
                refusal::malformed_authorization()
            }
            NoSecret::Missing => {
                self.tell(AuthReason::Missing, None, catalog, cx);
                refusal::missing_authorization()
            }
        })?;
        let known = catalog.find(secret).ok_or_else(|| {
            self.tell(AuthReason::Unknown, None, catalog, cx);
            refusal::invalid_secret()
        })?;
        if !known.secret.is_valid_at(self.clock.wall()) {
            tracing::info!(token.id = &*known.token.id, request.id = &*cx.request.id, "secret outside its dates");
            self.tell(AuthReason::Expired, Some(&known.token), catalog, cx);
            return Err(refusal::invalid_secret());
        }
        Ok(known)
    }

    fn tell(&self, reason: AuthReason, token: Option<&Token>, catalog: &Catalog, cx: &ExchangeCx<'_>) {
        if let Some(audit) = &self.audit {
            let tenant = token.and_then(|token| catalog.tenant(token.bound_tenant.as_ref()?));
            let settings = tenant.and_then(|tenant| self.tenant_config.settings(&tenant.id));
            let tenant = tenant.and_then(|tenant| Some((&*tenant.id, settings.as_deref()?)));
            told::refused(&**audit, reason, token, tenant, cx);
        }
    }

    /// Every 401 about the secret takes from the bucket of the client; an empty bucket turns it into a 429. Only
    /// refusals come here, so a valid secret from the same address is not affected.
    async fn count_failure(&self, refusal: FilterError, cx: &ExchangeCx<'_>) -> FilterError {
        let noted = match self.failures.note(cx.client_ip(), &cx.request.route) {
            Noted::Now(noted) => noted,
            Noted::Later(noted) => noted.await,
        };
        match noted {
            Ok(()) => refusal,
            Err(NotTolerated::NotCounted(answer)) => *answer,
            Err(NotTolerated::TooOften(wait)) => refusal::too_many_failures(wait),
        }
    }
}

fn principal(known: &Known, tenant: &Tenant, settings: &TenantSettings) -> Principal {
    let token = &known.token;
    Principal {
        tenant_id: Arc::clone(&tenant.id),
        token_id: Arc::clone(&token.id),
        user_id: None,
        bearer_digest: known.secret.digest.bytes(),
        rate_limit: token.rate_limit,
        rate_limit_bypass: token.rate_limit_bypass,
        models: token.models.clone(),
        max_tokens: token.max_tokens,
        models_allowlist: settings.models_allowlist.clone(),
        models_blacklist: settings.models_blacklist.clone(),
        cost_markup_factor: settings.cost_markup_factor,
        pseudonymous: settings.audit_user_id_pseudonymize,
        scopes: Arc::clone(&token.scopes),
    }
}

#[cfg(test)]
mod tests;
