//! Refused authentications, as the audit log is told of them.

use std::sync::Arc;

use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord, AuthReason};
use dgx_gateway_filter::facts::{Caller, Principal};
use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::{BuildEnv, ExchangeCx};

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
    tenant: Option<(&str, &TenantSettings)>,
    cx: &ExchangeCx<'_>,
) {
    let event = AuditEvent::Auth { reason, client_ip: cx.client_ip() };
    audit.record(&AuditRecord {
        tenant_id: tenant.map(|(id, _)| id),
        token_id: token.map(|token| &*token.id),
        pseudonymous: tenant.is_some_and(|(_, settings)| settings.audit_user_id_pseudonymize),
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
