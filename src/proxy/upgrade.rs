//! Switching a connection to WebSocket (RFC 6455, section 4): what a client may ask for, and which answer is one.
//!
//! Only the handshake is looked at. It is written anew on both sides, so nothing but the headers of the protocol
//! crosses; the frames after it belong to the client and the upstream.

use dgx_gateway_filter::{ErrorCode, FilterError};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

const WEBSOCKET: &str = "websocket";
/// Headers of the handshake towards the upstream. Those of its answer pass like any other.
const HANDSHAKE: [HeaderName; 4] = [
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_VERSION,
];

/// Whether the client asks to switch. Another protocol, or one that `Connection` does not name, is no question: the
/// header is ignored, as RFC 9110 (section 7.8) allows. In HTTP/2 there is none.
///
/// # Errors
/// The question is not a valid one.
pub(super) fn asked(head: &http::request::Parts) -> Result<bool, FilterError> {
    let asks = head.version == Version::HTTP_11
        && names(&head.headers, &header::CONNECTION, "upgrade")
        && names(&head.headers, &header::UPGRADE, WEBSOCKET);
    if !asks {
        return Ok(false);
    }
    let refused = |header: &HeaderName, message: &'static str| {
        Err(FilterError::client(ErrorCode::InvalidField, message).param(format!("headers.{header}")))
    };
    if head.method != Method::GET {
        return refused(&header::UPGRADE, "A WebSocket begins with GET.");
    }
    let empty = head.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0");
    if !empty || head.headers.contains_key(header::TRANSFER_ENCODING) {
        return refused(&header::UPGRADE, "A request that begins a WebSocket has no body.");
    }
    // 16 bytes in base64
    let mut keys = head.headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if key.len() == 24 => Ok(true),
        _ => refused(&header::SEC_WEBSOCKET_KEY, "A WebSocket begins with one key of 16 bytes in base64."),
    }
}

/// Writes the question into a head for the upstream.
pub(super) fn ask(client: &http::request::Parts, headers: &mut HeaderMap) {
    headers.extend(switch());
    for name in HANDSHAKE {
        let values = client.headers.get_all(&name).iter();
        headers.extend(values.map(|value| (name.clone(), value.clone())));
    }
}

/// Whether the answer with status 101 switches to what was asked for.
pub(super) fn agreed(answer: &HeaderMap) -> bool {
    names(answer, &header::CONNECTION, "upgrade")
        && names(answer, &header::UPGRADE, WEBSOCKET)
        && answer.contains_key(header::SEC_WEBSOCKET_ACCEPT)
}

/// What the head of a switch says on both sides.
pub(super) fn switch() -> [(HeaderName, HeaderValue); 2] {
    [(header::CONNECTION, HeaderValue::from_static("Upgrade")), (header::UPGRADE, HeaderValue::from_static(WEBSOCKET))]
}

/// Whether a list of words holds this one.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const ASK: [(&str, &str); 2] = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];

    fn ask(method: Method, headers: &[(&str, &str)]) -> Result<bool, String> {
        let mut request = http::Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        asked(&request.body(()).unwrap().into_parts().0).map_err(|error| error.param.unwrap().to_string())
    }

    #[test]
    fn a_whole_question_is_one_and_other_upgrades_are_none() {
        assert_eq!(ask(Method::GET, &[ASK[0], ASK[1], KEY]), Ok(true));
        assert_eq!(ask(Method::GET, &[ASK[0], ASK[1], KEY, ("content-length", "0")]), Ok(true));
        assert_eq!(ask(Method::GET, &[]), Ok(false));
        assert_eq!(ask(Method::GET, &[ASK[1], KEY]), Ok(false), "Connection does not name it");
        assert_eq!(ask(Method::GET, &[ASK[0], ("upgrade", "h2c"), KEY]), Ok(false));
        assert_eq!(ask(Method::GET, &[ASK[0], ("upgrade", "h2c, websocket"), KEY]), Ok(true));
    }

    #[test]
    fn a_question_that_is_not_valid_is_refused() {
        let refused = |headers: &[(&str, &str)]| ask(Method::GET, &[&ASK, headers].concat()).unwrap_err();
        assert_eq!(refused(&[]), "headers.sec-websocket-key");
        assert_eq!(refused(&[KEY, KEY]), "headers.sec-websocket-key");
        assert_eq!(refused(&[("sec-websocket-key", "c2hvcnQ=")]), "headers.sec-websocket-key");
        assert_eq!(refused(&[KEY, ("content-length", "1")]), "headers.upgrade");
        assert_eq!(refused(&[KEY, ("transfer-encoding", "chunked")]), "headers.upgrade");
        assert_eq!(ask(Method::POST, &[ASK[0], ASK[1], KEY]), Err("headers.upgrade".to_owned()));
    }
}
