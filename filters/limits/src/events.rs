//! What a refusal logs and counts, together.

use prometheus::{IntCounterVec, Opts, Registry};

/// Which limit refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitKind {
    /// Failed authentication per client address.
    Auth,
    /// Budget of a tenant.
    Budget,
    /// Public pages per client address.
    Public,
    /// Requests per bearer.
    Requests,
    /// Tokens per minute and tenant.
    Tokens,
}

impl LimitKind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Budget => "budget",
            Self::Public => "public",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// Label of refusals that belong to no tenant.
const NO_TENANT: &str = "(none)";

/// The counter `dgx_gateway_rate_limited_total`. Tenants come from the token catalog, so the series are as few as
/// the tenants.
#[derive(Clone, Debug)]
pub(crate) struct Refusals(IntCounterVec);

impl Refusals {
    /// Registers the counter.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new("dgx_gateway_rate_limited_total", "Requests refused by a limit.");
        let counter = IntCounterVec::new(opts, &["tenant", "kind"])?;
        registry.register(Box::new(counter.clone()))?;
        Ok(Self(counter))
    }

    /// A limit refused something.
    pub(crate) fn record(&self, refusal: &RateLimited<'_>) {
        let tenant = refusal.tenant.unwrap_or(NO_TENANT);
        self.0.with_label_values(&[tenant, refusal.kind.label()]).inc();
        tracing::debug!(
            tenant.id = tenant,
            token.id = refusal.token,
            limit.kind = refusal.kind.label(),
            request.id = refusal.request_id,
            "a limit refused the request"
        );
    }
}

/// A request was refused by a limit.
pub(crate) struct RateLimited<'a> {
    pub(crate) kind: LimitKind,
    /// Tenant of the token catalog, where one is known.
    pub(crate) tenant: Option<&'a str>,
    /// Id of the token, where one is known.
    pub(crate) token: Option<&'a str>,
    pub(crate) request_id: Option<&'a str>,
}
