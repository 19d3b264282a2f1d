//! Whether an upstream that is out of quota means its limit of a day.

use super::upstream_text::Statement;

/// Words for a limit of a day, as OpenRouter and those behind it say it; in lower case.
const PHRASES: [&str; 11] = [
    "-per-day",
    "per day",
    "daily limit",
    "daily quota",
    "daily rate limit",
    "daily request limit",
    "daily token limit",
    "limit for today",
    "requests_per_day",
    "tokens_per_day",
    "(daily)",
];

/// Whether a refusal with 402 or 429 reports the limit of a day, told from its body.
#[must_use]
pub fn is_daily_limit(body: &[u8]) -> bool {
    let statement = Statement::of(body);
    let says = |text: &String| PHRASES.iter().any(|phrase| text.contains(phrase));
    says(&statement.text) || statement.codes.iter().any(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_a_day_and_other_limits() {
        for (body, expected) in [
            (
                r#"{"error":{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day","code":429}}"#,
                true,
            ),
            (
                r#"{"error":{"message":"Rate limit exceeded: limit_rpd/acme/x. Daily limit reached for acme/x.","code":429}}"#,
                true,
            ),
            (
                r#"{"error":{"message":"Key limit exceeded (daily limit). Manage it using https://upstream.example/keys","code":402}}"#,
                true,
            ),
            (r#"{"error":{"message":"Quota exceeded","code":"requests_per_day_limit"}}"#, true),
            (
                r#"{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"{\"error\":{\"message\":\"Rate limit reached on requests per day (RPD): Limit 200\"}}"}}}"#,
                true,
            ),
            ("You have used up your daily quota.", true),
            (r#"{"error":{"message":"Rate limit exceeded: free-models-per-min.","code":429}}"#, false),
            (r#"{"error":{"message":"Insufficient credits","code":402}}"#, false),
            (r#"{"error":{"message":"Key limit exceeded (monthly limit)","code":402}}"#, false),
            ("", false),
        ] {
            assert_eq!(is_daily_limit(body.as_bytes()), expected, "{body}");
        }
    }
}
