//! How refusals of this crate are said: short, helpful, and without a hint at what would have worked.

use std::borrow::Cow;
use std::time::Duration;

use dgx_gateway_filter::{ErrorCode, FilterError};
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;

const AUTHORIZATION: &str = "headers.authorization";

fn unauthorized(code: ErrorCode, message: &'static str) -> FilterError {
    FilterError::client(code, message).param(AUTHORIZATION).header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

pub(crate) fn missing_authorization() -> FilterError {
    unauthorized(ErrorCode::MissingAuthorization, "Header Authorization with a bearer token is required.")
}

pub(crate) fn malformed_authorization() -> FilterError {
    unauthorized(ErrorCode::InvalidAuthorization, "Header Authorization must have the form: Bearer <token>.")
}

/// One text for unknown, expired and not yet valid secrets.
pub(crate) fn invalid_secret() -> FilterError {
    unauthorized(ErrorCode::InvalidAuthorization, "The token is not valid.")
}

/// One text for tenants that are unknown and tenants of others.
pub(crate) fn foreign_tenant() -> FilterError {
    unauthorized(ErrorCode::InvalidAuthorization, "The token is not valid for this tenant.")
}

pub(crate) fn foreign_user() -> FilterError {
    unauthorized(ErrorCode::InvalidAuthorization, "The token is not valid for this user.")
}

pub(crate) fn too_many_failures(wait: Duration) -> FilterError {
    let message = "Too many failed authentications from this address. Wait for the time in Retry-After.";
    FilterError::policy(ErrorCode::RateLimitExceeded, message).retry_after(wait)
}

pub(crate) fn foreign_address() -> FilterError {
    FilterError::policy(ErrorCode::Forbidden, "The token must not be used from this address.")
}

pub(crate) fn missing_scope() -> FilterError {
    FilterError::policy(ErrorCode::Forbidden, "The token does not have the permission for this request.")
}

pub(crate) fn missing(param: &'static str, message: impl Into<Cow<'static, str>>) -> FilterError {
    FilterError::client(ErrorCode::MissingField, message).param(param)
}

pub(crate) fn invalid(param: &'static str, message: impl Into<Cow<'static, str>>) -> FilterError {
    FilterError::client(ErrorCode::InvalidField, message).param(param)
}
