//! Globs of model names and ids: `*` stands for any run of characters. Matched per request, so nothing is compiled.

/// Whether `pattern` matches the whole of `text`.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, mut pattern)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    while let Some((piece, further)) = pattern.split_once('*') {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        (pattern, rest) = (further, after);
    }
    rest.ends_with(pattern)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_any_run() {
        for (pattern, text, expected) in [
            ("claude-*", "claude-opus", true),
            ("claude-*", "claude-", true),
            ("claude-*", "xclaude-", false),
            ("*", "", true),
            ("*-cloud*", "a-cloud-2", true),
            ("*-cloud*", "a-local", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("", "", true),
            ("", "a", false),
            ("a**c", "abc", true),
            ("*b*b*", "abab", true),
            ("*b*b*", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
