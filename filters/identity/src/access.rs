//! Filter `access`: scope, user id and the headers beside it.

use std::sync::Arc;

use dgx_gateway_filter::audit::{Audit, AuthReason};
use dgx_gateway_filter::facts::Principal;
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem, async_trait,
};
use http::Method;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::header::{self, SCOPE_ID, Single, USER_ID};
use crate::refusal;
use crate::scopes;
use crate::token::Token;
use crate::told;
use crate::user;

/// Scope that lets a token read a whole tenant.
const TENANT_READ: &str = "tenant:read";

const USER_PARAM: &str = "headers.spass-user-id";
const SCOPE_PARAM: &str = "headers.spass-scope-id";
const PATTERN: &str = "1 to 128 letters, digits and . _ : @ + ~ -";

/// Filter kind `access`: checks the scope, and completes [`Principal::user_id`].
#[derive(Debug)]
pub struct Access;

/// Parameters of the filter `access`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// Scope that the token needs. Must be given.
    pub scope: String,
    /// Whether the endpoint works for an end user. Default `not_used`.
    pub user_id: UserIdRule,
}

/// Whether an endpoint works for an end user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UserIdRule {
    /// `SPASS-User-Id` is ignored.
    #[default]
    NotUsed,
    /// `SPASS-User-Id` is required, unless the token stands for one user or may read the whole tenant.
    Required,
}

/// A scope that exists, and the rule.
#[derive(Clone, Debug)]
pub struct CheckedAccess {
    scope: Arc<str>,
    user_id: UserIdRule,
}

impl FilterKind for Access {
    const NAME: &'static str = "access";
    const AFTER: &'static [&'static str] = &["identity"];
    type Config = AccessConfig;
    type Checked = CheckedAccess;

    fn check(raw: AccessConfig) -> Result<CheckedAccess, Vec<Problem>> {
        if raw.scope.is_empty() {
            return Err(vec![Problem::at("scope", "is required")]);
        }
        if !scopes::is_known(&raw.scope) {
            return Err(vec![Problem::at("scope", format!("there is no scope {}", raw.scope))]);
        }
        Ok(CheckedAccess { scope: raw.scope.into(), user_id: raw.user_id })
    }

    fn build(checked: CheckedAccess, env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(AccessFilter(Arc::new(Gate { checked, audit: told::audit(env) }))))
    }
}

/// What one route entry checks with.
struct Gate {
    checked: CheckedAccess,
    audit: Option<Arc<dyn Audit>>,
}

struct AccessFilter(Arc<Gate>);

impl Filter for AccessFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(AccessExchange(Arc::clone(&self.0)))
    }
}

struct AccessExchange(Arc<Gate>);

#[async_trait]
impl Exchange for AccessExchange {
    async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        self.0.admit(cx)?;
        Ok(Flow::Continue)
    }
}

impl Gate {
    /// Checks in the order of the specification: scope, headers, query.
    fn admit(&self, cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let unidentified = || FilterError::internal("no principal was stated");
        let principal = cx.facts.get::<Principal>().ok_or_else(unidentified)?;
        let token = cx.facts.get::<Token>().ok_or_else(unidentified)?;
        if !principal.scopes.allow(&self.checked.scope) {
            tracing::info!(
                tenant.id = &*principal.tenant_id,
                token.id = &*principal.token_id,
                request.id = &*cx.request.id,
                scope.missing = &*self.checked.scope,
                "the token lacks a scope"
            );
            told::not_allowed(self.audit.as_ref(), AuthReason::Scope, principal, cx);
            return Err(refusal::missing_scope());
        }
        let user_id = match self.checked.user_id {
            UserIdRule::NotUsed => None,
            UserIdRule::Required => user_id(cx.head, principal, token).inspect_err(|refusal| {
                if refusal.code == ErrorCode::InvalidAuthorization {
                    told::not_allowed(self.audit.as_ref(), AuthReason::User, principal, cx);
                }
            })?,
        };
        check_scope_id(cx.head)?;
        if self.checked.user_id == UserIdRule::Required {
            refuse_user_id_in_query(cx.head)?;
        }
        if user_id.is_some() {
            let complete = Principal { user_id, ..principal.clone() };
            cx.facts.insert(complete);
        }
        Ok(())
    }
}

/// The end user of the request; `None` where the whole tenant is read.
fn user_id(head: &http::request::Parts, principal: &Principal, token: &Token) -> Result<Option<Arc<str>>, FilterError> {
    let sent = match header::single(&head.headers, [&USER_ID]) {
        Single::Absent | Single::One(b"") => None,
        Single::One(value) => Some(checked_id(value, USER_PARAM, "SPASS-User-Id")?),
        Single::Conflict => return Err(refusal::invalid(USER_PARAM, "Header SPASS-User-Id must be sent once.")),
    };
    match (sent, &token.default_user_id) {
        (Some(sent), Some(default)) if *sent != **default => Err(refusal::foreign_user()),
        (_, Some(default)) => Ok(Some(Arc::clone(default))),
        (Some(sent), None) => Ok(Some(sent.into())),
        (None, None) if reads(&head.method) && principal.scopes.allow(TENANT_READ) => Ok(None),
        (None, None) => Err(refusal::missing(USER_PARAM, "Header SPASS-User-Id is required.")),
    }
}

/// HEAD is answered like GET.
fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn check_scope_id(head: &http::request::Parts) -> Result<(), FilterError> {
    match header::single(&head.headers, [&SCOPE_ID]) {
        Single::Absent => Ok(()),
        Single::One(value) => checked_id(value, SCOPE_PARAM, "SPASS-Scope-Id").map(drop),
        Single::Conflict => Err(refusal::invalid(SCOPE_PARAM, "Header SPASS-Scope-Id must be sent once.")),
    }
}

fn checked_id<'a>(value: &'a [u8], param: &'static str, header: &str) -> Result<&'a str, FilterError> {
    let id = std::str::from_utf8(value).ok().filter(|id| user::is_id(id.as_bytes()));
    id.ok_or_else(|| refusal::invalid(param, format!("Header {header} must be {PATTERN}.")))
}

/// The header is the only source of the user: a second one would invite mistakes.
fn refuse_user_id_in_query(head: &http::request::Parts) -> Result<(), FilterError> {
    let query = head.uri.query().unwrap_or_default();
    if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "user_id") {
        let message = "The user is named by header SPASS-User-Id only; remove user_id from the query.";
        return Err(refusal::invalid("query.user_id", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
