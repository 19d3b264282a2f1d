//! The secret in a request head.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::header::{self, Single};

/// Which headers may carry the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// `Authorization` only.
    Authorization,
    /// Also `x-api-key`, where there is no `Authorization`.
    AuthorizationOrApiKey,
}

/// Why there is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSecret {
    /// Not the form `Bearer <secret>`, an empty secret, or several that differ.
    Malformed,
    /// No header carries one.
    Missing,
}

/// Takes the secret from the head. Any bytes may stand there; nothing is said of whether it is known.
pub(crate) fn secret(headers: &HeaderMap, accepted: Accepted) -> Result<&[u8], NoSecret> {
    match header::single(headers, [&AUTHORIZATION]) {
        Single::Conflict => Err(NoSecret::Malformed),
        Single::One(value) => bearer(value).ok_or(NoSecret::Malformed),
        Single::Absent if accepted == Accepted::Authorization => Err(NoSecret::Missing),
        Single::Absent => match header::single(headers, [&header::API_KEY]) {
            Single::Absent => Err(NoSecret::Missing),
            Single::One(value) if !value.trim_ascii().is_empty() => Ok(value.trim_ascii()),
            Single::Conflict | Single::One(_) => Err(NoSecret::Malformed),
        },
    }
}

/// The secret after the scheme `Bearer`, which is written in any case and ends with a space (RFC 9110, 11.4).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.trim_ascii().split_at_checked(b"bearer".len())?;
    let secret = rest.strip_prefix(b" ")?.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !secret.is_empty()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    fn both(pairs: &[(&'static str, &[u8])]) -> Result<Vec<u8>, NoSecret> {
        secret(&headers(pairs), Accepted::AuthorizationOrApiKey).map(<[u8]>::to_vec)
    }

    fn authorization(value: &[u8]) -> Result<Vec<u8>, NoSecret> {
        secret(&headers(&[("authorization", value)]), Accepted::Authorization).map(<[u8]>::to_vec)
    }

    #[test]
    fn takes_the_secret_whatever_the_case_of_the_scheme() {
        for value in ["Bearer abc", "bearer abc", "BEARER abc", "bEaReR   abc  "] {
            assert_eq!(authorization(value.as_bytes()).as_deref(), Ok(&b"abc"[..]), "{value}");
        }
    }

    #[test]
    fn refuses_every_other_form() {
        for value in
            ["", " ", "Bearer", "Bearer ", "Bearer    ", "Bearerabc", "Basic abc", "abc", "Token abc", "Bearer\tabc"]
        {
            assert_eq!(authorization(value.as_bytes()), Err(NoSecret::Malformed), "{value:?}");
        }
        assert_eq!(secret(&HeaderMap::new(), Accepted::Authorization), Err(NoSecret::Missing));
    }

    #[test]
    fn refuses_two_different_authorizations() {
        assert_eq!(
            both(&[("authorization", b"Bearer one"), ("authorization", b"Bearer two")]),
            Err(NoSecret::Malformed)
        );
    }

    #[test]
    fn reads_the_api_key_only_where_it_is_accepted() {
        let only_key = headers(&[("x-api-key", b"abc")]);
        assert_eq!(secret(&only_key, Accepted::Authorization), Err(NoSecret::Missing));
        assert_eq!(secret(&only_key, Accepted::AuthorizationOrApiKey), Ok(&b"abc"[..]));
        assert_eq!(both(&[("x-api-key", b" ")]), Err(NoSecret::Malformed));
        assert_eq!(both(&[("x-api-key", b"a"), ("x-api-key", b"b")]), Err(NoSecret::Malformed));
    }

    #[test]
    fn authorization_counts_before_the_api_key_even_when_it_is_bad() {
        assert_eq!(both(&[("x-api-key", b"key"), ("authorization", b"Bearer abc")]).as_deref(), Ok(&b"abc"[..]));
        assert_eq!(both(&[("x-api-key", b"key"), ("authorization", b"Basic abc")]), Err(NoSecret::Malformed));
    }

    proptest! {
        #[test]
        fn survives_any_bytes(value in prop::collection::vec(any::<u8>(), 0..40), prefix in "(?i:bearer)? ?") {
            let bytes = [prefix.as_bytes(), &value].concat();
            if HeaderValue::from_bytes(&bytes).is_ok()
                && let Ok(found) = authorization(&bytes)
            {
                prop_assert!(!found.is_empty() && !found.starts_with(b" ") && !found.ends_with(b" "));
            }
        }
    }
}
