//! Keys and tokens in a text.

use regex::{Captures, Regex};

use super::patterns::pattern;

const SECRET: &str = "[secret]";

/// Finds keys by the word in front, by their prefix, or by their looks.
#[derive(Debug)]
pub(super) struct Secrets {
    bearer: Regex,
    prefixed: Regex,
    run: Regex,
}

impl Secrets {
    pub(super) fn new() -> Self {
        Self {
            bearer: pattern(r#"(?i)\bbearer[\s:="'`]+[a-z0-9._~+/=*-]*[a-z0-9_~+/=*-]"#),
            // Providers repeat a refused key with its middle starred out; such a key is hidden as well.
            prefixed: pattern(
                r"(^|[^A-Za-z0-9])(?:sk-|sk_|pk-|rk-|gsk_|hf_|nvapi-|xai-|AIza)[A-Za-z0-9_.*-]{7,}[A-Za-z0-9_*-]",
            ),
            run: pattern(r"[A-Za-z0-9_-]{32,}"),
        }
    }

    pub(super) fn hide(&self, text: &str) -> String {
        let text = self.bearer.replace_all(text, SECRET);
        let text = self.prefixed.replace_all(&text, "${1}[secret]");
        self.run.replace_all(&text, |found: &Captures<'_>| hidden_if_mixed(&found[0])).into_owned()
    }
}

/// A long run of letters alone is a word, one of digits alone a number.
fn hidden_if_mixed(run: &str) -> String {
    let mixed = run.bytes().any(|byte| byte.is_ascii_alphabetic()) && run.bytes().any(|byte| byte.is_ascii_digit());
    if mixed { SECRET.to_owned() } else { run.to_owned() }
}
