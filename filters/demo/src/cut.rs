//! Where an answer ends early: `stop` and `max_tokens`.

use serde::{Deserialize, Serialize};

use crate::usage::{BYTES_PER_TOKEN, tokens};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Finish {
    /// `max_tokens` was reached.
    Length,
    /// The answer is complete, or met a stop text.
    Stop,
    /// A tool is called.
    ToolCalls,
}

/// The `stop` member: one text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Stop {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// Ends a text before the first stop text, then at the token limit.
pub(crate) fn cut(text: &str, stop: Option<&Stop>, max_tokens: Option<usize>) -> (String, Finish) {
    let stopped = before_stop(text, stop);
    match max_tokens.and_then(|max| within(stopped, max)) {
        Some(short) => (short.to_owned(), Finish::Length),
        None => (stopped.to_owned(), Finish::Stop),
    }
}

fn before_stop<'a>(text: &'a str, stop: Option<&Stop>) -> &'a str {
    let stops = stop.map(Stop::texts).unwrap_or_default();
    let at = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    at.and_then(|at| text.get(..at)).unwrap_or(text)
}

/// The longest start of a text that costs at most `max` tokens; `None` when all of it does.
/// A word that does not fit is cut inside, at a character boundary.
fn within(text: &str, max: usize) -> Option<&str> {
    let (mut used, mut end) = (0, 0);
    for piece in text.split_inclusive(char::is_whitespace) {
        let cost = tokens(piece);
        if used + cost > max {
            let room = (max - used).saturating_mul(BYTES_PER_TOKEN);
            return text.get(..end + piece.floor_char_boundary(room)).map(str::trim_end);
        }
        used += cost;
        end += piece.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_fits_is_left_alone() {
        assert_eq!(cut("one two", None, Some(2)), ("one two".to_owned(), Finish::Stop));
    }

    #[test]
    fn never_costs_more_than_the_limit() {
        let text = "Überlänge   日本語のテキスト and a-very-long-word-indeed.";
        for max in 1..20 {
            let (short, _) = cut(text, None, Some(max));
            assert!(tokens(&short) <= max && text.starts_with(&short), "{max}: {short}");
        }
        assert_eq!(cut("a-very-long-word", None, Some(2)), ("a-very-l".to_owned(), Finish::Length));
    }

    #[test]
    fn the_earliest_stop_text_wins() {
        let stop = Stop::Many(vec!["d".to_owned(), "b".to_owned(), String::new()]);
        assert_eq!(cut("a b c d", Some(&stop), None), ("a ".to_owned(), Finish::Stop));
    }
}
