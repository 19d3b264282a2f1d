//! Cross-origin requests: what a browser has to be told before a page of another origin may call, and may read the
//! answer. Credentials of the browser (cookies) are never allowed; a bearer is not one.

use dgx_gateway_filter::Reply;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::config::AllowedOrigins;

/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const ANY: HeaderValue = HeaderValue::from_static("*");
const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
/// Headers that a browser shows to every page.
const ALWAYS_EXPOSED: [HeaderName; 6] = [
    header::CACHE_CONTROL,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPIRES,
    header::LAST_MODIFIED,
];

/// Value of `Access-Control-Allow-Origin` for a request, if its origin is allowed.
pub(super) fn allowed(origins: &AllowedOrigins, request: &HeaderMap) -> Option<HeaderValue> {
    let origin = request.get(header::ORIGIN)?;
    match origins {
        AllowedOrigins::None => None,
        AllowedOrigins::Any => Some(ANY),
        AllowedOrigins::Listed(listed) => {
            let sent = origin.as_bytes();
            listed.iter().any(|known| sent.eq_ignore_ascii_case(known.as_bytes())).then(|| origin.clone())
        }
    }
}

/// Whether a request asks if another one would be allowed.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight. `methods` are those of the path, as in `Allow`. Any header may be sent: what counts is
/// decided by the request itself, and only the page knows the names that it needs.
pub(super) fn preflight(methods: &str, request: &HeaderMap) -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = StatusCode::NO_CONTENT;
    let headers = reply.headers_mut();
    if let Ok(methods) = HeaderValue::from_str(methods) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(asked) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    reply
}

/// Lets the page read an answer: all of its headers, by name, because `*` does not hold for all browsers.
pub(super) fn expose(origin: &HeaderValue, headers: &mut HeaderMap) {
    let mut names = String::new();
    for name in headers.keys().filter(|name| !ALWAYS_EXPOSED.contains(name)) {
        if !name.as_str().starts_with("access-control-") && *name != header::VARY {
            names.push_str(if names.is_empty() { "" } else { ", " });
            names.push_str(name.as_str());
        }
    }
    if let Ok(names) = HeaderValue::from_str(&names)
        && !names.is_empty()
    {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
    if *origin != ANY {
        headers.append(header::VARY, ORIGIN); // the answer is for this origin; a cache must not give it to another
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(origin: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_str(origin).unwrap())])
    }

    #[test]
    fn an_origin_is_allowed_when_it_is_listed_whatever_its_case() {
        let listed = AllowedOrigins::Listed(["https://a.example".to_owned()].into());
        for (origins, origin, expected) in [
            (&listed, "https://a.example", Some("https://a.example")),
            (&listed, "https://A.Example", Some("https://A.Example")),
            (&listed, "https://a.example.evil", None),
            (&listed, "https://a.example:444", None),
            (&listed, "null", None),
            (&AllowedOrigins::Any, "null", Some("*")),
            (&AllowedOrigins::None, "https://a.example", None),
        ] {
            let answer = allowed(origins, &request(origin));
            assert_eq!(answer.as_ref().map(|value| value.to_str().unwrap()), expected, "{origin}");
        }
        assert_eq!(allowed(&AllowedOrigins::Any, &HeaderMap::new()), None, "not a request of a page");
    }

    #[test]
    fn all_headers_of_an_answer_are_exposed_by_name() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("content-type", "a/b"), ("x-request-id", "1"), ("retry-after", "2"), ("vary", "Accept")]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        expose(&HeaderValue::from_static("https://a.example"), &mut headers);
        assert_eq!(headers[header::ACCESS_CONTROL_EXPOSE_HEADERS], "x-request-id, retry-after");
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(headers.get_all(header::VARY).iter().collect::<Vec<_>>(), ["Accept", "Origin"]);
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }
}
