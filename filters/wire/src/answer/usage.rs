//! The `usage` object in the words of the different upstreams.

use dgx_gateway_filter::facts::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

mod decimal;

pub use self::decimal::plain_decimal;

/// What a `usage` object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) usage: Option<Usage>,
    pub(super) cost_usd: Option<String>,
    /// Seconds of audio as plain decimal text.
    pub(super) seconds: Option<String>,
}

impl Reported {
    /// Reads the object; one of another shape says nothing.
    pub(super) fn read(value: Option<&RawValue>) -> Self {
        let view: Option<View<'_>> = value.and_then(|value| serde_json::from_str(value.get()).ok());
        view.map_or_else(Self::default, |view| Self {
            usage: view.usage(),
            cost_usd: view.cost_usd(),
            seconds: view.seconds.and_then(seconds),
        })
    }
}

/// Values stay raw: a number that is written as `12.0`, or a detail that is `null`, spoils nothing.
#[derive(Deserialize)]
struct View<'a> {
    #[serde(borrow)]
    prompt_tokens: Option<&'a RawValue>,
    completion_tokens: Option<&'a RawValue>,
    total_tokens: Option<&'a RawValue>,
    prompt_tokens_details: Option<&'a RawValue>,
    input_tokens: Option<&'a RawValue>,
    output_tokens: Option<&'a RawValue>,
    input_tokens_details: Option<&'a RawValue>,
    cache_read_input_tokens: Option<&'a RawValue>,
    cache_creation_input_tokens: Option<&'a RawValue>,
    cost: Option<&'a RawValue>,
    seconds: Option<&'a RawValue>,
}

/// Parts of a prompt. Who counts what is written into a cache here does so under several names.
#[derive(Deserialize)]
struct DetailsView<'a> {
    #[serde(borrow)]
    cached_tokens: Option<&'a RawValue>,
    #[serde(alias = "cache_creation_tokens", alias = "cache_creation_input_tokens")]
    cache_write_tokens: Option<&'a RawValue>,
}

#[derive(Default)]
struct Details {
    cached: Option<u64>,
    written: Option<u64>,
}

impl Details {
    fn read(details: Option<&RawValue>) -> Self {
        let view: Option<DetailsView<'_>> = details.and_then(|details| serde_json::from_str(details.get()).ok());
        view.map_or_else(Self::default, |view| Self {
            cached: count(view.cached_tokens),
            written: count(view.cache_write_tokens),
        })
    }
}

impl View<'_> {
    fn usage(&self) -> Option<Usage> {
        let completion = count(self.completion_tokens).or_else(|| count(self.output_tokens));
        if let Some(prompt) = count(self.prompt_tokens) {
            let details = Details::read(self.prompt_tokens_details);
            let written = count(self.cache_creation_input_tokens);
            return Some(usage(prompt, completion, details.cached, details.written.or(written)));
        }
        if let Some(input) = count(self.input_tokens) {
            // Anthropic counts cached tokens beside the input, everybody else within it.
            let (read, written) = (count(self.cache_read_input_tokens), count(self.cache_creation_input_tokens));
            let prompt = input.saturating_add(read.unwrap_or(0)).saturating_add(written.unwrap_or(0));
            let details = Details::read(self.input_tokens_details);
            return Some(usage(prompt, completion, read.or(details.cached), written.or(details.written)));
        }
        // A sum alone comes from embeddings, which write nothing.
        let prompt = if completion.is_none() { count(self.total_tokens)? } else { 0 };
        Some(usage(prompt, completion, None, None))
    }

    fn cost_usd(&self) -> Option<String> {
        let text = self.cost?.get();
        plain_decimal(text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text))
    }
}

fn usage(prompt_tokens: u64, completion: Option<u64>, cached: Option<u64>, written: Option<u64>) -> Usage {
    let cached_tokens = cached.unwrap_or(0).min(prompt_tokens);
    Usage {
        prompt_tokens,
        completion_tokens: completion.unwrap_or(0),
        cached_tokens,
        cache_write_tokens: written.unwrap_or(0).min(prompt_tokens - cached_tokens),
    }
}

/// A length in seconds, as a number or as text.
pub(super) fn seconds(value: &RawValue) -> Option<String> {
    let text = value.get();
    plain_decimal(text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text))
}

/// A count, also when it is written with a fraction of zero.
fn count(value: Option<&RawValue>) -> Option<u64> {
    let text = value?.get();
    let whole = text.split_once('.').filter(|(_, fraction)| fraction.bytes().all(|digit| digit == b'0'));
    whole.map_or(text, |(whole, _)| whole).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reported {
        Reported::read(Some(serde_json::from_str(text).unwrap()))
    }

    fn counts(text: &str) -> Option<(u64, u64, u64, u64)> {
        let all = |usage: Usage| {
            (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.cache_write_tokens)
        };
        read(text).usage.map(all)
    }

    #[test]
    fn reads_the_counts_of_each_upstream() {
        for (text, expected) in [
            (r#"{"prompt_tokens":12,"completion_tokens":2,"total_tokens":14}"#, Some((12, 2, 0, 0))),
            (
                r#"{"prompt_tokens":12,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}"#,
                Some((12, 2, 8, 0)),
            ),
            (r#"{"prompt_tokens":12,"completion_tokens":2,"prompt_tokens_details":null}"#, Some((12, 2, 0, 0))),
            // reasoning is part of what was written
            (
                r#"{"prompt_tokens":75,"completion_tokens":1186,"total_tokens":1261,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":1024,"audio_tokens":0}}"#,
                Some((75, 1186, 0, 0)),
            ),
            (
                r#"{"input_tokens":75,"input_tokens_details":{"cached_tokens":64},"output_tokens":1186,"output_tokens_details":{"reasoning_tokens":1024},"total_tokens":1261}"#,
                Some((75, 1186, 64, 0)),
            ),
            (r#"{"prompt_tokens":5,"total_tokens":5}"#, Some((5, 0, 0, 0))),
            (r#"{"total_tokens":7}"#, Some((7, 0, 0, 0))),
            (
                r#"{"input_tokens":10,"output_tokens":3,"input_tokens_details":{"cached_tokens":4}}"#,
                Some((10, 3, 4, 0)),
            ),
            // Anthropic: read and written tokens stand beside the input
            (
                r#"{"input_tokens":10,"cache_read_input_tokens":100,"cache_creation_input_tokens":7,"output_tokens":3}"#,
                Some((117, 3, 100, 7)),
            ),
            (
                r#"{"input_tokens":10,"cache_read_input_tokens":0,"cache_creation_input_tokens":2051,"cache_creation":{"ephemeral_5m_input_tokens":2051,"ephemeral_1h_input_tokens":0},"output_tokens":503}"#,
                Some((2061, 503, 0, 2051)),
            ),
            // A proxy that translates adds Anthropic's counts to a prompt that holds them already.
            (
                r#"{"prompt_tokens":117,"completion_tokens":3,"cache_read_input_tokens":100,"cache_creation_input_tokens":7,"prompt_tokens_details":{"cached_tokens":100}}"#,
                Some((117, 3, 100, 7)),
            ),
            (
                r#"{"prompt_tokens":117,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":100,"cache_creation_tokens":7}}"#,
                Some((117, 3, 100, 7)),
            ),
            (
                r#"{"prompt_tokens":10339,"completion_tokens":60,"prompt_tokens_details":{"cached_tokens":10318,"cache_write_tokens":21},"cost":0.0065}"#,
                Some((10_339, 60, 10_318, 21)),
            ),
            // parts that are larger than the whole
            (
                r#"{"prompt_tokens":10,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":8,"cache_write_tokens":9}}"#,
                Some((10, 1, 8, 2)),
            ),
            (r#"{"output_tokens":15}"#, Some((0, 15, 0, 0))),
            (r#"{"prompt_tokens":12.0,"completion_tokens":null}"#, Some((12, 0, 0, 0))),
            (r#"{"prompt_tokens":-1}"#, None),
            ("{}", None),
            ("[]", None),
            ("3", None),
        ] {
            assert_eq!(counts(text), expected, "{text}");
        }
    }

    #[test]
    fn reads_seconds_of_audio_and_no_tokens_with_them() {
        for (text, expected) in [
            (r#"{"type":"duration","seconds":62}"#, Some("62")),
            (r#"{"type":"duration","seconds":61.480000019073486}"#, Some("61.480000019073486")),
            (r#"{"type":"duration","seconds":"9.5"}"#, Some("9.5")),
            (r#"{"type":"duration","seconds":-1}"#, None),
            (r#"{"type":"duration","seconds":null}"#, None),
        ] {
            let reported = read(text);
            assert_eq!((reported.seconds.as_deref(), reported.usage), (expected, None), "{text}");
        }
        let both = read(r#"{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59,"seconds":3}"#);
        assert_eq!((both.seconds.as_deref(), both.usage.map(|usage| usage.prompt_tokens)), (Some("3"), Some(14)));
    }

    #[test]
    fn reads_the_cost_as_text() {
        assert_eq!(read(r#"{"cost":0.00042}"#).cost_usd.as_deref(), Some("0.00042"));
        assert_eq!(read(r#"{"cost":"0.5"}"#).cost_usd.as_deref(), Some("0.5"));
        assert_eq!(read(r#"{"cost":1.95e-05}"#).cost_usd.as_deref(), Some("0.0000195"));
        assert_eq!(read(r#"{"cost":null}"#).cost_usd, None);
        assert_eq!(read(r#"{"cost":{"total":1}}"#).cost_usd, None);
    }
}
