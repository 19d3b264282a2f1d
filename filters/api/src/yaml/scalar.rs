//! `${NAME}` and `${NAME:-default}` inside one scalar of a file.

use std::borrow::Cow;

use crate::ambient::Ambient;

/// Why a scalar could not be expanded. Names the variable, never a value.
#[derive(Debug, PartialEq, Eq)]
pub enum ExpandError {
    /// `${` is not followed by a name and a closing brace.
    Malformed,
    /// The variable is not set, and there is no default.
    Unset(String),
}

impl std::fmt::Display for ExpandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => f.write_str("write ${NAME} or ${NAME:-default}"),
            Self::Unset(name) => write!(f, "the environment variable {name} is not set and has no default"),
        }
    }
}

/// Whether there is something to expand.
pub fn needed(text: &str) -> bool {
    text.contains("${")
}

/// Replaces every reference by its value. Values are not expanded again; an empty variable counts as not set.
///
/// # Errors
/// A reference is malformed, or its variable is not set and has no default.
pub fn expand<'a>(text: &'a str, ambient: &Ambient) -> Result<Cow<'a, str>, ExpandError> {
    if !needed(text) {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, reference)) = rest.split_once("${") {
        out.push_str(before);
        let (inside, after) = reference.split_once('}').ok_or(ExpandError::Malformed)?;
        out.push_str(value(inside, ambient)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

fn value<'a>(inside: &'a str, ambient: &'a Ambient) -> Result<&'a str, ExpandError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = !name.is_empty()
        && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
        && !name.starts_with(|first: char| first.is_ascii_digit());
    if !is_name {
        return Err(ExpandError::Malformed);
    }
    ambient.var(name).or(default).ok_or_else(|| ExpandError::Unset(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ambient() -> Ambient {
        Ambient::new([("A", "1"), ("TWO", "${A}: \"x\""), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())))
    }

    #[test]
    fn replaces_references_and_leaves_the_rest() {
        for (text, expanded) in [
            ("plain $A {A}", "plain $A {A}"),
            ("${A}", "1"),
            ("<${A}${A}>", "<11>"),
            ("${TWO}", "${A}: \"x\""),
            ("${NONE:-d:-e}", "d:-e"),
            ("${EMPTY:-d}", "d"),
            ("${NONE:-}", ""),
        ] {
            assert_eq!(expand(text, &ambient()).as_deref(), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn tells_what_is_wrong() {
        assert_eq!(expand("x${NONE}", &ambient()), Err(ExpandError::Unset("NONE".to_owned())));
        for text in ["${", "${}", "${A", "${:-x}", "${1A}", "${A B}", "${A-}"] {
            assert_eq!(expand(text, &ambient()), Err(ExpandError::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[${}:A-]{0,20}|.{0,20}") {
            let _result = expand(&text, &ambient());
        }
    }
}
