//! Which tenant a request belongs to.

use std::sync::Arc;

use dgx_gateway_filter::FilterError;
use http::HeaderMap;

use crate::catalog::Catalog;
use crate::header::{self, Single, TENANT_ID, TENANT_ID_ALIAS};
use crate::refusal;
use crate::tenant::{DEFAULT_TENANT, Tenant};
use crate::token::Token;

const PARAM: &str = "headers.spass-tenant-id";

/// Chooses by the token and the tenant headers.
///
/// # Errors
/// The headers contradict each other (told first), name a tenant that the token is not for, or are needed.
pub(crate) fn resolve<'a>(
    headers: &HeaderMap,
    token: &Token,
    catalog: &'a Catalog,
) -> Result<&'a Arc<Tenant>, FilterError> {
    let named = match header::single(headers, [&TENANT_ID, &TENANT_ID_ALIAS]) {
        Single::Absent => None,
        Single::One(value) => Some(value),
        Single::Conflict => {
            let message = "Headers SPASS-Tenant-Id and X-Tenant-Id name different tenants.";
            return Err(refusal::invalid(PARAM, message));
        }
    };
    match (&token.bound_tenant, named) {
        (Some(bound), Some(named)) if bound.as_bytes() != named => Err(refusal::foreign_tenant()),
        (Some(bound), _) => catalog.tenant(bound).ok_or_else(refusal::foreign_tenant),
        (None, Some(named)) => {
            let tenant = std::str::from_utf8(named).ok().and_then(|named| catalog.tenant(named));
            tenant.ok_or_else(refusal::foreign_tenant)
        }
        (None, None) => {
            catalog.tenant(DEFAULT_TENANT).ok_or_else(|| refusal::missing(PARAM, "Header SPASS-Tenant-Id is required."))
        }
    }
}
