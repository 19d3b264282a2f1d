//! Keeps a backend's own credential out of what a backend says. Some repeat the key that they refuse.

use std::borrow::Cow;

use http::HeaderValue;

/// What stands in the place of a credential.
const SECRET: &[u8] = b"[secret]";

/// The text without the credential of a header, with or without its scheme.
pub(crate) fn without_credential<'a>(text: &'a [u8], credential: Option<&HeaderValue>) -> Cow<'a, [u8]> {
    let Some(credential) = credential.map(HeaderValue::as_bytes) else { return Cow::Borrowed(text) };
    let secret = credential.strip_prefix(b"Bearer ").unwrap_or(credential);
    if secret.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = find(rest, secret) {
        let (before, found) = rest.split_at(at);
        out.extend_from_slice(before);
        out.extend_from_slice(SECRET);
        rest = found.get(secret.len()..).unwrap_or_default();
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hide(text: &str, credential: Option<&'static str>) -> String {
        let credential = credential.map(HeaderValue::from_static);
        String::from_utf8(without_credential(text.as_bytes(), credential.as_ref()).into_owned()).unwrap()
    }

    #[test]
    fn every_occurrence_is_hidden() {
        assert_eq!(hide("key-1 and 'key-1', not key-2", Some("Bearer key-1")), "[secret] and '[secret]', not key-2");
        assert_eq!(hide("Bearer key-1", Some("key-1")), "Bearer [secret]");
        assert_eq!(hide("key-", Some("key-1")), "key-");
        assert_eq!(hide("key-1", None), "key-1");
        assert_eq!(hide("", Some("Bearer key-1")), "");
        assert_eq!(hide("Bearer ", Some("Bearer ")), "Bearer ");
    }
}
