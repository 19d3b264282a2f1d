//! The rate-limit headers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The three headers of one limit.
pub(crate) struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

/// Of the request limit.
pub(crate) const REQUESTS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-requests"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
    reset: HeaderName::from_static("x-ratelimit-reset-requests"),
};

/// Of the limit of tokens per minute.
pub(crate) const TOKENS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
    reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
};

/// Sets the three headers of a limit.
pub(crate) fn set(headers: &mut HeaderMap, names: Names, limit: u64, remaining: u64, full_in: Duration) {
    headers.insert(names.limit, HeaderValue::from(limit));
    headers.insert(names.remaining, HeaderValue::from(remaining));
    if let Ok(reset) = HeaderValue::try_from(reset_text(full_in)) {
        headers.insert(names.reset, reset);
    }
}

/// A duration as clients of this header know it: `0s`, `400ms`, `30s`, `6m0s`, `1h0m5s`. Rounded up.
fn reset_text(duration: Duration) -> String {
    let millis = duration.as_micros().div_ceil(1000);
    match millis {
        0 => return "0s".to_owned(),
        1..1000 => return format!("{millis}ms"),
        _ => {}
    }
    let seconds = millis.div_ceil(1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_time_to_a_full_bucket_as_clients_read_it() {
        for (micros, text) in [
            (0, "0s"),
            (1, "1ms"),
            (400_000, "400ms"),
            (400_001, "401ms"),
            (999_000, "999ms"),
            (999_001, "1s"),
            (1_000_000, "1s"),
            (1_000_001, "2s"),
            (29_600_000, "30s"),
            (59_000_001, "1m0s"),
            (360_000_000, "6m0s"),
            (3_600_000_000, "1h0m0s"),
            (3_723_000_000, "1h2m3s"),
        ] {
            assert_eq!(reset_text(Duration::from_micros(micros)), text, "{micros} us");
        }
    }
}
