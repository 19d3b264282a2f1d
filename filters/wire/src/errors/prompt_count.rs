//! The size of the prompt as an upstream counted it, told in the text of a refusal for length.
//!
//! Only exact statements count. "At least 8193 tokens" is what a server says that stopped counting, and an amount that
//! holds the answer, too, says nothing of the prompt.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::upstream_text::Statement;

/// What a refusal for length says in numbers, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptCount {
    /// The prompt: messages, tools and all other input.
    pub prompt: u64,
    /// What prompt and answer may have together, if the text names it.
    pub window: Option<u64>,
}

/// Reads both numbers from an error body; `None` when the prompt's is not in it.
#[must_use]
pub fn prompt_count(body: &[u8]) -> Option<PromptCount> {
    let text = Statement::of(body).text;
    let prompt = PROMPTS.iter().find_map(|pattern| sum(&pattern.captures(&text)?))?;
    let window = WINDOWS.iter().find_map(|pattern| sum(&pattern.captures(&text)?));
    Some(PromptCount { prompt, window })
}

/// The sum of the groups that matched: messages, functions and tools are told apart by some.
fn sum(captures: &Captures<'_>) -> Option<u64> {
    let mut parts = captures.iter().skip(1).flatten().peekable();
    parts.peek()?;
    parts.try_fold(0_u64, |sum, part| sum.checked_add(part.as_str().parse().ok()?))
}

/// Wordings of the prompt, the more exact ones first. The text is in lower case.
static PROMPTS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    patterns(&[
        // OpenAI, vLLM, and aggregators in front of them
        r"\((\d+) (?:in|of) (?:the |your )?(?:messages|prompt)(?:, (\d+) in the functions)?[,;]",
        // OpenRouter
        r"\((\d+) of text input(?:, (\d+) of tool input)?(?:, (\d+) of image input)?,",
        r"(?:your request has|messages resulted in|the request contains|prompt contains) (\d+) (?:input )?tokens",
        // vLLM
        r"(?:prompt|inputs?) \((?:total )?length (\d+)\)",
        // Anthropic
        r"prompt is too long: (\d+) tokens",
        r"exceed context limit: (\d+) \+ \d+ > \d+",
        // Google
        r"input token count \((\d+)\)",
        r"input token count is (\d+)",
        // text-generation-inference
        r"given: (\d+) `inputs` tokens",
    ])
});

/// Wordings of the window.
static WINDOWS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    patterns(&[
        r"maximum context length (?:is|of) (\d+)",
        r"with (\d+) maximum context length",
        r"maximum model length of (\d+)",
        r"maximum prompt length is (\d+)",
        r"prompt is too long: \d+ tokens > (\d+)",
        r"exceed context limit: \d+ \+ \d+ > (\d+)",
        r"maximum number of tokens allowed \(?(\d+)",
        r"`max_new_tokens` must be <= (\d+)",
    ])
});

fn patterns(sources: &[&str]) -> Vec<Regex> {
    #[expect(clippy::expect_used, reason = "the patterns are constants; a test matches each of them")]
    let compiled = sources.iter().map(|source| Regex::new(source).expect("the pattern is well formed"));
    compiled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Option<(u64, Option<u64>)> {
        let body = serde_json::json!({"error": {"message": text, "code": 400}}).to_string();
        prompt_count(body.as_bytes()).map(|count| (count.prompt, count.window))
    }

    #[test]
    fn the_usual_wordings() {
        for (text, prompt, window) in [
            // OpenAI
            (
                "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. Please reduce the length of the messages.",
                9000,
                Some(8192),
            ),
            (
                "This model's maximum context length is 8192 tokens. However, you requested 8500 tokens (500 in the messages, 8000 in the completion). Please reduce the length of the messages or completion.",
                500,
                Some(8192),
            ),
            (
                "This model's maximum context length is 8192 tokens. However, you requested 8550 tokens (500 in the messages, 50 in the functions, and 8000 in the completion).",
                550,
                Some(8192),
            ),
            (
                "This model's maximum context length is 4097 tokens, however you requested 5000 tokens (1000 in your prompt; 4000 for the completion).",
                1000,
                Some(4097),
            ),
            // vLLM
            (
                "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the messages, 100 in the completion). Please reduce the length of the messages or completion.",
                4900,
                Some(4096),
            ),
            (
                "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context length is 8192 tokens and your request has 1200 input tokens (9000 > 8192 - 1200).",
                1200,
                Some(8192),
            ),
            (
                "This model's maximum context length is 8192 tokens. However, your request has 9001 input tokens. Please reduce the length of the input messages.",
                9001,
                Some(8192),
            ),
            (
                "The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure that `max_model_len` is no smaller than the number of text tokens.",
                9000,
                Some(8192),
            ),
            // LiteLLM in front of others
            (
                "litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: OpenAIException - This model's maximum context length is 128000 tokens. However, you requested 130000 tokens (120000 in the messages, 10000 in the completion).",
                120_000,
                Some(128_000),
            ),
            // Anthropic
            ("prompt is too long: 210000 tokens > 200000 maximum", 210_000, Some(200_000)),
            (
                "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or `max_tokens` and try again",
                190_000,
                Some(200_000),
            ),
            // OpenRouter
            (
                "This endpoint's maximum context length is 131072 tokens. However, you requested about 140000 tokens (125000 of text input, 5000 of tool input, 10000 in the output). Please reduce the length of either one.",
                130_000,
                Some(131_072),
            ),
            // others
            (
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
                1_200_000,
                Some(1_048_576),
            ),
            (
                "The input token count is 1200000 but the maximum number of tokens allowed 1048576.",
                1_200_000,
                Some(1_048_576),
            ),
            (
                "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
                537_812,
                Some(131_072),
            ),
            (
                "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
                40_000,
                Some(32_768),
            ),
            (
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 200 `max_new_tokens`",
                4000,
                Some(4096),
            ),
            ("Your messages resulted in 300000 tokens.", 300_000, None),
        ] {
            assert_eq!(count(text), Some((prompt, window)), "{text}");
        }
    }

    #[test]
    fn what_an_aggregator_wraps_is_read_too() {
        let body = r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"prompt is too long: 9 tokens > 8 maximum\"}}"}}}"#;
        assert_eq!(prompt_count(body.as_bytes()), Some(PromptCount { prompt: 9, window: Some(8) }));
        assert_eq!(prompt_count(b"prompt is too long: 9 tokens > 8 maximum").map(|count| count.prompt), Some(9));
    }

    #[test]
    fn what_names_no_exact_prompt_gives_nothing() {
        for text in [
            "",
            "Too long.",
            "This model's maximum context length is 4096 tokens.",
            "However, you requested 100 output tokens and your prompt contains at least 8093 input tokens, for a total of at least 8193 tokens.",
            "you requested 5000 tokens",
            "prompt is too long: 99999999999999999999999999 tokens > 8 maximum",
        ] {
            assert_eq!(count(text), None, "{text}");
        }
    }
}
