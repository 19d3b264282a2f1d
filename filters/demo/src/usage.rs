//! The token estimate: a word costs one token per started four bytes of UTF-8; white space costs nothing.

use serde::Serialize;

/// Bytes per token, the usual rule of thumb for English text.
pub(crate) const BYTES_PER_TOKEN: usize = 4;

/// Tokens of an image, whatever its size: the flat price of a low-detail image in the OpenAI documentation.
pub(crate) const TOKENS_PER_IMAGE: usize = 85;

/// Tokens of a text.
pub(crate) fn tokens(text: &str) -> usize {
    text.split_whitespace().map(|word| word.len().div_ceil(BYTES_PER_TOKEN)).sum()
}

/// The `usage` member of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<usize>,
    total_tokens: usize,
}

impl Usage {
    /// Of a generated answer.
    pub(crate) fn generated(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens: Some(completion_tokens),
            total_tokens: prompt_tokens + completion_tokens,
        }
    }

    /// Of embeddings, which generate nothing.
    pub(crate) fn read_only(prompt_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens: None, total_tokens: prompt_tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_started_four_bytes_of_each_word() {
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens("  a   bcde\nfghij "), 1 + 1 + 2);
        assert_eq!(tokens("日本"), 2);
    }
}
