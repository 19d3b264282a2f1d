//! An answer, and what must hold for every one of them.

use bytes::Bytes;
use dgx_gateway_testkit::client::{H2Response, RawResponse};
use http::HeaderMap;
use serde_json::Value;

/// Headers that an answer may carry; everything else would come from an upstream or the engine.
const ALLOWED: &[&str] = &[
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "keep-alive",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "spass-applied",
    "spass-attempts",
    "spass-augment-applied",
    "spass-budget-warning",
    "spass-cost-available",
    "spass-cost-eur",
    "spass-cost-exchange-rate",
    "spass-cost-exchange-rate-source",
    "spass-cost-source",
    "spass-cost-usd",
    "spass-request-id",
    "spass-resolved-backend",
    "spass-resolved-model",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-accel-buffering",
    "x-content-type-options",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-rust-api-applied",
    "x-should-retry",
];

/// A whole answer that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl From<RawResponse> for Answer {
    fn from(response: RawResponse) -> Self {
        Self::new(response.status.as_u16(), response.headers, response.body)
    }
}

impl From<H2Response> for Answer {
    fn from(response: H2Response) -> Self {
        Self::new(response.status.as_u16(), response.headers, response.body)
    }
}

impl Answer {
    fn new(status: u16, headers: HeaderMap, body: Bytes) -> Self {
        check_head(status, &headers);
        let answer = Self { status, headers, body };
        if status >= 400 && !answer.body.is_empty() {
            answer.check_envelope();
        }
        answer
    }

    fn check_envelope(&self) {
        let body = self.json();
        let mut members: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        if body["type"] == "error" {
            assert_eq!(members, ["error", "request_id", "type"], "{body}");
            assert_eq!(body["request_id"], self.header("request-id").unwrap(), "{body}");
        } else if self.status >= 500 {
            assert_eq!(members, ["error", "request_id"], "{body}");
            assert_eq!(body["request_id"], self.header("x-request-id").unwrap(), "{body}");
        } else {
            let used_up = body["error"]["code"] == "openrouter_daily_quota_exhausted";
            let expected: &[&str] = if used_up { &["available_fallbacks", "dgx_code", "error"] } else { &["error"] };
            assert_eq!(members, expected, "{body}");
        }
        check_error(&body["error"]);
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// Asserts an error: status, code and `param`, where `""` stands for null.
    #[track_caller]
    pub(crate) fn is_error(&self, status: u16, code: &str, param: &str) {
        let body = self.json();
        let seen = (self.status, &body["error"]["code"], body["error"]["param"].as_str().unwrap_or_default());
        assert_eq!(seen, (status, &Value::from(code), param), "{body}");
    }

    /// Asserts 200.
    #[track_caller]
    pub(crate) fn is_ok(&self) -> &Self {
        assert_eq!(self.status, 200, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    /// Whether the end of the connection was announced.
    pub(crate) fn says_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// What must hold for the head of every answer.
pub(crate) fn check_head(status: u16, headers: &HeaderMap) {
    let id = headers.get("x-request-id").unwrap_or_else(|| panic!("{status} without x-request-id: {headers:?}"));
    assert!(!id.is_empty());
    assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
    assert_eq!(headers.get_all("spass-request-id").iter().collect::<Vec<_>>(), [id]);
    for name in headers.keys() {
        assert!(ALLOWED.contains(&name.as_str()), "header {name} must not reach a client: {headers:?}");
    }
    if status >= 400 {
        assert_eq!(headers["content-type"], "application/json", "{headers:?}");
    }
}

/// The four members of every error.
pub(crate) fn check_error(error: &Value) {
    let mut members: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "message", "param", "type"], "{error}");
    for name in ["code", "message", "type"] {
        assert!(error[name].as_str().is_some_and(|text| !text.is_empty()), "{error}");
    }
    assert!(error["param"].is_null() || error["param"].is_string(), "{error}");
}
