//! The envelopes, byte for byte.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::*;

fn body_of(rendered: &Rendered) -> &str {
    std::str::from_utf8(&rendered.body).unwrap()
}

fn header<'a>(rendered: &'a Rendered, name: &str) -> Option<&'a str> {
    rendered.headers.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn all_four_members_are_always_there() {
    let error = FilterError::client(ErrorCode::InvalidJson, "Body is not \"JSON\".");
    let rendered = OpenAi.render(&error, "req-1");
    assert_eq!(rendered.status, 400);
    assert_eq!(header(&rendered, "content-type"), Some("application/json"));
    assert_eq!(
        body_of(&rendered),
        r#"{"error":{"type":"invalid_request_error","code":"invalid_json","message":"Body is not \"JSON\".","param":null}}"#
    );
    let error = FilterError::client(ErrorCode::MissingField, "Header SPASS-User-Id is required.")
        .param("headers.spass-user-id");
    assert_eq!(
        body_of(&OpenAi.render(&error, "req-1")),
        concat!(
            r#"{"error":{"type":"invalid_request_error","code":"missing_field","#,
            r#""message":"Header SPASS-User-Id is required.","param":"headers.spass-user-id"}}"#
        )
    );
}

#[test]
fn a_server_error_names_the_request() {
    let error = FilterError::upstream(ErrorCode::UpstreamTimeout, "The upstream timed out.");
    let rendered = OpenAi.render(&error, "req-7");
    assert_eq!(rendered.status, 504);
    assert_eq!(
        body_of(&rendered),
        concat!(
            r#"{"error":{"type":"upstream_error","code":"upstream_timeout","#,
            r#""message":"The upstream timed out.","param":null},"request_id":"req-7"}"#
        )
    );
}

#[test]
fn the_status_of_the_upstream_can_replace_that_of_the_catalog() {
    let error = FilterError::upstream(ErrorCode::UpstreamBadRequest, "Too big.").status(StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(OpenAi.status(&error), 413);
    assert_eq!(Anthropic.render(&error, "r").status, 413);
}

#[test]
fn a_missing_credential_is_challenged() {
    let error = FilterError::client(ErrorCode::MissingAuthorization, "Send a bearer token.");
    assert_eq!(header(&OpenAi.render(&error, "r"), "www-authenticate"), Some("Bearer"));
    assert_eq!(header(&Anthropic.render(&error, "r"), "www-authenticate"), Some("Bearer"));
}

#[test]
fn a_wait_is_rounded_up_and_at_least_one_second() {
    for (wait, seconds, milliseconds) in [
        (Duration::ZERO, "1", "1"),
        (Duration::from_micros(599_400), "1", "600"),
        (Duration::from_secs(1), "1", "1000"),
        (Duration::from_millis(1001), "2", "1001"),
        (Duration::from_secs(32400), "32400", "32400000"),
    ] {
        let error = FilterError::policy(ErrorCode::RateLimitExceeded, "Wait.").retry_after(wait);
        let rendered = OpenAi.render(&error, "r");
        assert_eq!(header(&rendered, "retry-after"), Some(seconds));
        assert_eq!(header(&rendered, "retry-after-ms"), Some(milliseconds));
    }
}

#[test]
fn pointless_retries_are_discouraged() {
    let hint = |error: FilterError| header(&OpenAi.render(&error, "r"), "x-should-retry").map(str::to_owned);
    let limited =
        |millis| FilterError::policy(ErrorCode::RateLimitExceeded, "Wait.").retry_after(Duration::from_millis(millis));
    assert_eq!(hint(limited(60_000)), None);
    assert_eq!(hint(limited(60_001)), Some("false".into()));
    assert_eq!(hint(FilterError::client(ErrorCode::Conflict, "Exists.")), Some("false".into()));
    let overloaded = FilterError::upstream(ErrorCode::ServiceOverloaded, "Busy.").retry_after(Duration::from_secs(90));
    assert_eq!(hint(overloaded), None);
}

#[test]
fn headers_of_the_error_are_kept() {
    let error = FilterError::upstream(ErrorCode::UpstreamError, "Failed.")
        .header(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"))
        .header(http::header::ALLOW, HeaderValue::from_static("GET"))
        .header(http::header::ALLOW, HeaderValue::from_static("POST"));
    let rendered = OpenAi.render(&error, "r");
    assert_eq!(header(&rendered, "x-should-retry"), Some("false"));
    assert_eq!(rendered.headers.get_all("allow").iter().count(), 2);
}

#[test]
fn a_used_up_day_names_the_fallbacks() {
    let error = FilterError::policy(ErrorCode::OpenrouterDailyQuotaExhausted, "Used up.")
        .available_fallbacks(vec!["claude-text".into(), "gemini-text".into()]);
    assert_eq!(
        body_of(&OpenAi.render(&error, "r")),
        concat!(
            r#"{"error":{"type":"rate_limit_error","code":"openrouter_daily_quota_exhausted","#,
            r#""message":"Used up.","param":null},"dgx_code":"openrouter_daily_quota_exhausted","#,
            r#""available_fallbacks":["claude-text","gemini-text"]}"#
        )
    );
}

#[test]
fn the_messages_dialect_has_its_own_words() {
    for (code, kind) in [
        (ErrorCode::Forbidden, "permission_error"),
        (ErrorCode::RouteNotFound, "not_found_error"),
        (ErrorCode::InternalError, "api_error"),
        (ErrorCode::UpstreamError, "api_error"),
        (ErrorCode::ServiceOverloaded, "overloaded_error"),
        (ErrorCode::InvalidField, "invalid_request_error"),
        (ErrorCode::InvalidAuthorization, "authentication_error"),
        (ErrorCode::RateLimitExceeded, "rate_limit_error"),
    ] {
        let rendered = Anthropic.render(&FilterError::client(code, "No."), "req-3");
        let expected = format!(
            r#"{{"type":"error","error":{{"type":"{kind}","code":"{code}","message":"No.","param":null}},"request_id":"req-3"}}"#
        );
        assert_eq!(body_of(&rendered), expected);
    }
}

#[test]
fn a_committed_stream_ends_with_an_event() {
    let error = FilterError::upstream(ErrorCode::UpstreamError, "Failed.\nBadly.");
    assert_eq!(
        OpenAi.stream_event(&error, "req-4").unwrap(),
        concat!(
            r#"data: {"error":{"type":"upstream_error","code":"upstream_error","message":"Failed.\nBadly.","param":null},"#,
            r#""request_id":"req-4"}"#,
            "\n\n"
        )
    );
    assert_eq!(
        Anthropic.stream_event(&error, "req-4").unwrap(),
        concat!(
            "event: error\n",
            r#"data: {"type":"error","error":{"type":"api_error","code":"upstream_error","message":"Failed.\nBadly.","param":null},"#,
            r#""request_id":"req-4"}"#,
            "\n\n"
        )
    );
}
