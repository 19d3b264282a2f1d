//! How long an upstream that is out of quota wants to be left alone, where only its body says so.

use std::time::Duration;

use serde::Deserialize;

/// A body in the form of Google's APIs; behind some of their gateways it stands in a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    List(Vec<Refusal>),
    One(Refusal),
}

#[derive(Deserialize)]
struct Refusal {
    error: Error,
}

#[derive(Deserialize)]
struct Error {
    #[serde(default)]
    details: Vec<Detail>,
}

/// Details of other kinds have other members.
#[derive(Deserialize)]
struct Detail {
    #[serde(rename = "retryDelay")]
    retry_delay: Option<String>,
}

/// The longest `error.details[].retryDelay` of a refusal: decimal seconds, as in `34.07s`. `None` if there is none.
#[must_use]
pub fn retry_delay(body: &[u8]) -> Option<Duration> {
    let refusals = match serde_json::from_slice(body).ok()? {
        Body::List(refusals) => refusals,
        Body::One(refusal) => vec![refusal],
    };
    let details = refusals.into_iter().flat_map(|refusal| refusal.error.details);
    details.filter_map(|detail| seconds(&detail.retry_delay?)).max()
}

fn seconds(text: &str) -> Option<Duration> {
    let digits = text.trim().strip_suffix('s')?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    Duration::try_from_secs_f64(digits.parse().ok().filter(|_| plain)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn google(delay: &str) -> String {
        format!(
            r#"{{"error":{{"code":429,"message":"You exceeded your current quota","status":"RESOURCE_EXHAUSTED","details":[{{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[]}},{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":{delay}}}]}}}}"#
        )
    }

    #[test]
    fn reads_the_delay_of_googles_form() {
        for (delay, expected) in [
            (r#""34s""#, Some(34_000)),
            (r#""34.074824224s""#, Some(34_074)),
            (r#"" 0.5s ""#, Some(500)),
            (r#""0s""#, Some(0)),
            (r#""34""#, None),
            (r#""-1s""#, None),
            (r#""1e3s""#, None),
            (r#""infs""#, None),
            (r#""s""#, None),
            (r#""99999999999999999999999999999s""#, None),
            ("null", None),
        ] {
            let millis = |body: &str| retry_delay(body.as_bytes()).map(|delay| delay.as_millis());
            assert_eq!(millis(&google(delay)), expected, "{delay}");
            assert_eq!(millis(&format!("[{}]", google(delay))), expected, "{delay}");
        }
    }

    #[test]
    fn other_bodies_say_nothing() {
        for body in ["", "{}", "[]", "no", r#"{"error":"busy"}"#, r#"{"error":{"details":"none"}}"#, r#"{"error":{}}"#]
        {
            assert_eq!(retry_delay(body.as_bytes()), None, "{body}");
        }
    }
}
