//! The headers of an error answer, the same in every dialect.

use std::time::Duration;

use dgx_gateway_filter::FilterError;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A client that retries by itself should not sit on a longer wait than this, in seconds.
const LONGEST_SENSIBLE_WAIT: u64 = 60;

/// Headers of an answer with `status`. What the error carries itself is never replaced.
pub(super) fn of(error: &FilterError, status: StatusCode) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(error.headers.len() + 4);
    for (name, value) in &error.headers {
        headers.append(name.clone(), value.clone());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.entry(WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer"));
    }
    if let Some(wait) = error.retry_after {
        headers.entry(RETRY_AFTER).or_insert(HeaderValue::from(whole_seconds(wait)));
        headers.entry(RETRY_AFTER_MS).or_insert(HeaderValue::from(whole_milliseconds(wait)));
    }
    if retry_is_pointless(error, status) {
        headers.entry(SHOULD_RETRY).or_insert(HeaderValue::from_static("false"));
    }
    headers
}

fn retry_is_pointless(error: &FilterError, status: StatusCode) -> bool {
    match status {
        StatusCode::CONFLICT => true,
        StatusCode::TOO_MANY_REQUESTS => {
            error.retry_after.is_some_and(|wait| whole_seconds(wait) > LONGEST_SENSIBLE_WAIT)
        }
        _ => false,
    }
}

/// Rounded up, at least 1.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Rounded up, at least 1.
fn whole_milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}
