//! Headers that may be said once only.

use http::{HeaderMap, HeaderName};

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const SCOPE_ID: HeaderName = HeaderName::from_static("spass-scope-id");
pub(crate) const TENANT_ID: HeaderName = HeaderName::from_static("spass-tenant-id");
pub(crate) const TENANT_ID_ALIAS: HeaderName = HeaderName::from_static("x-tenant-id");
pub(crate) const USER_ID: HeaderName = HeaderName::from_static("spass-user-id");

/// What all values of one or several headers say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Single<'a> {
    /// There is no such header.
    Absent,
    /// The values differ: whichever is meant, somebody else may read the other one.
    Conflict,
    /// Every value is this.
    One(&'a [u8]),
}

/// Reads the headers of the given names as one.
pub(crate) fn single<'a, const N: usize>(headers: &'a HeaderMap, names: [&HeaderName; N]) -> Single<'a> {
    let mut values = names.into_iter().flat_map(|name| headers.get_all(name)).map(http::HeaderValue::as_bytes);
    let Some(first) = values.next() else { return Single::Absent };
    if values.all(|other| other == first) { Single::One(first) } else { Single::Conflict }
}
