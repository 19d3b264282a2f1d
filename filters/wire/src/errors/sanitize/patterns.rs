//! Regular expressions from constants and from configured words.

use regex::{Regex, RegexBuilder};

/// Words per expression: small enough that no configuration exceeds the size limit of the compiler.
const WORDS_PER_PATTERN: usize = 128;

/// Longer words are no host names (RFC 1035, section 2.3.4) and no backend ids.
const MAX_WORD_BYTES: usize = 255;

/// Compiles a pattern of this crate.
pub(super) fn pattern(source: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "patterns are constants or escaped words of bounded number and length")]
    RegexBuilder::new(source).size_limit(64 << 20).build().expect("the pattern is well formed")
}

/// Expressions for whole words in any case, followed by `suffix`; to be applied in turn, longest words first.
pub(super) fn one_of(words: impl IntoIterator<Item = String>, suffix: &str) -> Vec<Regex> {
    let mut words: Vec<String> = words.into_iter().map(|word| word.trim().to_lowercase()).collect();
    words.retain(|word| !word.is_empty() && word.len() <= MAX_WORD_BYTES);
    words.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
    words.dedup();
    words.chunks(WORDS_PER_PATTERN).map(|words| pattern(&alternatives(words, suffix))).collect()
}

fn alternatives(words: &[String], suffix: &str) -> String {
    let words: Vec<String> = words.iter().map(|word| bounded(word)).collect();
    format!("(?i)(?:{}){suffix}", words.join("|"))
}

/// The word with a word boundary at each side where it begins or ends with a word character.
fn bounded(word: &str) -> String {
    let boundary = |edge: Option<char>| if edge.is_some_and(is_word_char) { r"\b" } else { "" };
    let spaced: Vec<String> = word.split_whitespace().map(regex::escape).collect();
    format!("{}{}{}", boundary(word.chars().next()), spaced.join(r"\s+"), boundary(word.chars().last()))
}

fn is_word_char(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}
