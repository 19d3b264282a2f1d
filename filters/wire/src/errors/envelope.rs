//! An error as the body of a response, or as the event that ends a stream.
//!
//! The dialects differ in the names of the types and in the frame; status and headers are the same
//! in both and come from one place.

use bytes::Bytes;
use dgx_gateway_filter::render::{ErrorRenderer, Rendered};
use dgx_gateway_filter::{ErrorCode, FilterError};
use http::{HeaderName, StatusCode};
use serde::Serialize;

use super::catalog::{Kind, entry};

mod headers;
mod responses;

pub use self::responses::Responses;

/// Header of the request id in the dialect of `/v1/messages`.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The dialect of chat, completions, embeddings and all own endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAi;

/// The dialect of `/v1/messages`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anthropic;

impl ErrorRenderer for OpenAi {
    fn render(&self, error: &FilterError, request_id: &str) -> Rendered {
        let status = status_of(error);
        let body = Envelope { request_id: status.is_server_error().then_some(request_id), ..Envelope::new(error) };
        Rendered { status, headers: headers::of(error, status), body: json(&body) }
    }

    fn stream_event(&self, error: &FilterError, request_id: &str) -> Option<Bytes> {
        let body = Envelope { request_id: Some(request_id), ..Envelope::new(error) };
        Some(event(b"data: ", &body))
    }

    fn status(&self, error: &FilterError) -> StatusCode {
        status_of(error)
    }
}

impl ErrorRenderer for Anthropic {
    fn render(&self, error: &FilterError, request_id: &str) -> Rendered {
        let status = status_of(error);
        let body = MessagesEnvelope::new(error, request_id);
        Rendered { status, headers: headers::of(error, status), body: json(&body) }
    }

    fn stream_event(&self, error: &FilterError, request_id: &str) -> Option<Bytes> {
        Some(event(b"event: error\ndata: ", &MessagesEnvelope::new(error, request_id)))
    }

    fn request_id_header(&self) -> Option<HeaderName> {
        Some(REQUEST_ID)
    }

    fn status(&self, error: &FilterError) -> StatusCode {
        status_of(error)
    }
}

/// The four members that every dialect has.
#[derive(Serialize)]
struct Members<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    code: &'static str,
    message: &'a str,
    param: Option<&'a str>,
}

impl<'a> Members<'a> {
    fn new(error: &'a FilterError, kind: &'static str) -> Self {
        Self { kind, code: error.code.as_str(), message: &error.message, param: error.param.as_deref() }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Members<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dgx_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_fallbacks: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    fn new(error: &'a FilterError) -> Self {
        let daily_quota = error.code == ErrorCode::OpenrouterDailyQuotaExhausted;
        Self {
            error: Members::new(error, entry(error.code).kind.as_str()),
            dgx_code: daily_quota.then_some(error.code.as_str()),
            available_fallbacks: daily_quota
                .then(|| error.available_fallbacks.as_ref().map_or(&[][..], |slugs| slugs.as_slice())),
            request_id: None,
        }
    }
}

#[derive(Serialize)]
struct MessagesEnvelope<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: Members<'a>,
    request_id: &'a str,
}

impl<'a> MessagesEnvelope<'a> {
    fn new(error: &'a FilterError, request_id: &'a str) -> Self {
        Self { kind: "error", error: Members::new(error, messages_kind(error.code)), request_id }
    }
}

/// The type in the words of `/v1/messages`.
fn messages_kind(code: ErrorCode) -> &'static str {
    if code == ErrorCode::ServiceOverloaded {
        return "overloaded_error";
    }
    match entry(code).kind {
        Kind::Permission => "permission_error",
        Kind::NotFound => "not_found_error",
        Kind::Internal | Kind::Upstream => "api_error",
        kind => kind.as_str(),
    }
}

fn status_of(error: &FilterError) -> StatusCode {
    error
        .status
        .or_else(|| StatusCode::from_u16(entry(error.code).status).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn json(body: &impl Serialize) -> Bytes {
    // Strings and arrays of strings always serialise; the fallback keeps the envelope's shape nevertheless.
    serde_json::to_vec(body).map_or(Bytes::from_static(FALLBACK), Bytes::from)
}

const FALLBACK: &[u8] =
    br#"{"error":{"type":"internal_error","code":"internal_error","message":"Internal error.","param":null}}"#;

fn event(prefix: &[u8], body: &impl Serialize) -> Bytes {
    let body = json(body);
    [prefix, &body, b"\n\n"].concat().into()
}

#[cfg(test)]
mod tests;
