//! Refused authentications, as the audit log is told of them.

use std::sync::Arc;

use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord, AuthReason};
use dgx_gateway_filter::facts::{Caller, Principal};
use dgx_gateway_filter::{BuildEnv, ExchangeCx};

use crate::tenant::Tenant;
use crate::token::Token;

/// The audit log, if there is one.
pub(crate) fn audit(env: &BuildEnv) -> Option<Arc<dyn Audit>> {
    env.service::<Arc<dyn Audit>>().ok().map(|audit| Arc::clone(&*audit))
}

/// Of a request that was not admitted, the token and its own tenant are told, as far as the secret proves them.
pub(crate) fn refused(
    audit: &dyn Audit,
    reason: AuthReason,
    token: Option<&Token>,
    tenant: Option<&Tenant>,
    cx: &ExchangeCx<'_>,
) {
    let event = AuditEvent::Auth { reason, client_ip: cx.client_ip() };
    audit.record(&AuditRecord {
        tenant_id: tenant.map(|tenant| &*tenant.id),
        token_id: token.map(|token| &*token.id),
        pseudonymous: tenant.and_then(|tenant| tenant.defaults.audit_user_id_pseudonymize).unwrap_or_default(),
        ..AuditRecord::of_request(cx.request, cx.facts.get::<Caller>(), None, event)
    });
}

/// What a principal that is known asked for and may not.
pub(crate) fn not_allowed(
    audit: Option<&Arc<dyn Audit>>,
    reason: AuthReason,
    principal: &Principal,
    cx: &ExchangeCx<'_>,
) {
    if let Some(audit) = audit {
        let event = AuditEvent::Auth { reason, client_ip: cx.client_ip() };
        audit.record(&AuditRecord::of_request(cx.request, cx.facts.get::<Caller>(), Some(principal), event));
    }
}
