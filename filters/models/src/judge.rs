//! What an upstream's answer means: the table of the contract. Pure.

use std::time::{Duration, SystemTime};

use dgx_gateway_filter::upstream::{AttemptFailure, Verdict};
use dgx_gateway_filter::{ErrorCode, FilterError};
use dgx_gateway_wire::errors::{UpstreamRefusal, classify, retry_delay};
use http::{HeaderMap, HeaderName, StatusCode, header};

/// Longest error body that is read before it is judged: well above any provider's.
pub(crate) const MAX_ERROR_BYTES: usize = 64 * 1024;
/// The wait in milliseconds, as SDKs of OpenAI know it; finer than `Retry-After`, so it goes before it.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// `Retry-After` when an upstream that is out of quota names none.
const DEFAULT_RETRY: Duration = Duration::from_secs(60);
/// Longest `Retry-After` that is passed on.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// Whether the body has to be read before an error status can be judged. Of an upstream that is out of quota and does
/// not say in its head for how long, it may be in the body.
pub(crate) fn needs_body(status: StatusCode, headers: &HeaderMap) -> bool {
    match status.as_u16() {
        400 | 403 | 404 | 409 | 413 | 415 | 422 => true,
        402 | 429 => wait_in_head(headers).is_none(),
        _ => false,
    }
}

/// How long an upstream that answered 429 or 402 wants to be left alone.
pub(crate) fn retry_after(headers: &HeaderMap, body: &[u8]) -> Duration {
    wait_in_head(headers).or_else(|| retry_delay(body)).unwrap_or(DEFAULT_RETRY).min(LONGEST_RETRY)
}

fn wait_in_head(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let in_millis = || number_of(text(RETRY_AFTER_MS)?, Duration::from_millis);
    let at = |text| number_of(text, Duration::from_secs).or_else(|| until(text));
    in_millis().or_else(|| at(text(header::RETRY_AFTER)?))
}

/// Digits, however many: what no number holds is long in any case. A fraction behind them does not count.
fn number_of(text: &str, unit: impl FnOnce(u64) -> Duration) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(fraction)).then(|| whole.parse().map_or(LONGEST_RETRY, unit))
}

/// A date in the form of HTTP.
fn until(date: &str) -> Option<Duration> {
    let at = httpdate::parse_http_date(date).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

/// An error status. `say` makes a message for the client from the body.
pub(crate) fn status(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    say: impl FnOnce(&[u8]) -> String,
) -> Verdict {
    use ErrorCode as E;
    let refusal = classify(status.as_u16(), body);
    match (status.as_u16(), refusal) {
        (_, UpstreamRefusal::ContextLength) => fail(
            // what the backend says names its window
            FilterError::client(E::ContextLengthExceeded, say(body)).param("messages"),
        ),
        (400, UpstreamRefusal::MaxTokensTooSmall) => fail(
            FilterError::client(E::MaxTokensBelowMinimum, "This model needs a larger max_tokens.").param("max_tokens"),
        ),
        (403, UpstreamRefusal::Moderation) => {
            fail(FilterError::client(E::UpstreamBadRequest, say(body)).status(StatusCode::BAD_REQUEST))
        }
        (400 | 409 | 413 | 415 | 422, _) | (404, UpstreamRefusal::UnknownObject) => {
            fail(FilterError::client(E::UpstreamBadRequest, say(body)).status(status))
        }
        (402 | 404 | 405 | 410 | 429 | 500..=599, _) => Verdict::Next,
        (408, _) => fail(last_status(status, headers, body)),
        _ => fail(FilterError::upstream(E::UpstreamError, "The upstream failed.")),
    }
}

fn fail(error: FilterError) -> Verdict {
    Verdict::Fail(Box::new(error))
}

/// The answer when the last entry of a route gave this status.
pub(crate) fn last_status(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> FilterError {
    match status.as_u16() {
        402 | 429 => FilterError::policy(
            ErrorCode::ModelQuotaExhausted,
            "The quota of this model is used up. Wait, or choose another model.",
        )
        .param("model")
        .retry_after(retry_after(headers, body)),
        408 => FilterError::upstream(ErrorCode::UpstreamTimeout, "The upstream did not answer in time."),
        _ => FilterError::upstream(ErrorCode::UpstreamError, "The upstream failed."),
    }
}

/// A failure without a response. Whether another entry may be tried is the caller's question.
pub(crate) fn failure(failure: AttemptFailure) -> Verdict {
    match failure {
        AttemptFailure::Total => fail(last_failure(failure)),
        AttemptFailure::Connect | AttemptFailure::Reset | AttemptFailure::Timeout | AttemptFailure::Tls => {
            Verdict::Next
        }
    }
}

/// The answer when the last entry of a route failed like this.
pub(crate) fn last_failure(failure: AttemptFailure) -> FilterError {
    match failure {
        AttemptFailure::Connect | AttemptFailure::Tls => {
            FilterError::upstream(ErrorCode::UpstreamUnavailable, "No backend of this model can be reached.")
        }
        AttemptFailure::Timeout | AttemptFailure::Total => {
            FilterError::upstream(ErrorCode::UpstreamTimeout, "The model did not answer in time.")
        }
        AttemptFailure::Reset => FilterError::upstream(ErrorCode::UpstreamError, "The upstream failed."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: u16, body: &str) -> String {
        let status_code = StatusCode::from_u16(code).unwrap();
        match status(status_code, &HeaderMap::new(), body.as_bytes(), |_| "said".to_owned()) {
            Verdict::Next => format!("next, then {}", last_status(status_code, &HeaderMap::new(), &[]).code),
            Verdict::Fail(error) => match error.status {
                Some(status) => format!("{} {}", status.as_u16(), error.code),
                None => error.code.to_string(),
            },
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn follows_the_table_of_the_contract() {
        for (code, body, expected) in [
            (400, r#"{"error":{"message":"bad"}}"#, "400 upstream_bad_request"),
            (409, "{}", "409 upstream_bad_request"),
            (413, "{}", "413 upstream_bad_request"),
            (415, "{}", "415 upstream_bad_request"),
            (422, "{}", "422 upstream_bad_request"),
            (400, r#"{"error":{"code":"context_length_exceeded","message":"too long"}}"#, "context_length_exceeded"),
            (401, "{}", "upstream_error"),
            (403, "{}", "upstream_error"),
            (404, r#"{"error":{"message":"The model `x` does not exist."}}"#, "next, then upstream_error"),
            (405, "{}", "next, then upstream_error"),
            (410, "{}", "next, then upstream_error"),
            (402, "{}", "next, then model_quota_exhausted"),
            (429, "{}", "next, then model_quota_exhausted"),
            (408, "{}", "upstream_timeout"),
            (418, "{}", "upstream_error"),
            (302, "{}", "upstream_error"),
            (500, "{}", "next, then upstream_error"),
            (503, "{}", "next, then upstream_error"),
        ] {
            assert_eq!(judged(code, body), expected, "{code} {body}");
        }
    }

    #[test]
    fn failures_without_a_response() {
        use AttemptFailure::{Connect, Reset, Timeout, Tls, Total};
        for (kind, next, code) in [
            (Connect, true, "upstream_unavailable"),
            (Tls, true, "upstream_unavailable"),
            (Reset, true, "upstream_error"),
            (Timeout, true, "upstream_timeout"),
            (Total, false, "upstream_timeout"),
        ] {
            assert_eq!(matches!(failure(kind), Verdict::Next), next, "{kind:?}");
            assert_eq!(last_failure(kind).code.as_str(), code, "{kind:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, &[]).as_secs()
        };
        assert_eq!((wait("7"), wait("999999"), wait("soon")), (7, 3600, 60));
        assert_eq!((wait("99999999999999999999999"), wait("-5"), wait("+5"), wait("")), (3600, 60, 60, 60));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        assert!((28..=30).contains(&wait(&date)));
        assert_eq!(retry_after(&HeaderMap::new(), &[]).as_secs(), 60);
    }

    #[test]
    fn milliseconds_go_before_seconds_and_the_head_before_the_body() {
        let body = br#"{"error":{"details":[{"retryDelay":"34.5s"}]}}"#;
        let wait = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, text)| (HeaderName::from_static(name), text.parse().unwrap()));
            retry_after(&pairs.collect(), body).as_millis()
        };
        for (pairs, expected) in [
            (&[][..], 34_500),
            (&[("retry-after", "7")], 7000),
            (&[("retry-after", "7.9")], 7000),
            (&[("retry-after", "7"), ("retry-after-ms", "250")], 250),
            (&[("retry-after", "7"), ("retry-after-ms", "250.75")], 250),
            (&[("retry-after", "7"), ("retry-after-ms", "-1")], 7000),
            (&[("retry-after-ms", "1.")], 34_500),
            (&[("retry-after-ms", "999999999999")], 3_600_000),
        ] {
            assert_eq!(wait(pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_body_is_read_for_the_wait_only_where_the_head_does_not_tell_it() {
        let silent = HeaderMap::new();
        let tells: HeaderMap = [(header::RETRY_AFTER, "7".parse().unwrap())].into_iter().collect();
        for code in [402, 429] {
            let status = StatusCode::from_u16(code).unwrap();
            assert!(needs_body(status, &silent) && !needs_body(status, &tells));
        }
        assert!(!needs_body(StatusCode::SERVICE_UNAVAILABLE, &silent));
    }
}
