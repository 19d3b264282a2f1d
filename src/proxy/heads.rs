//! Heads at both ends, built from nothing: what goes to an upstream is an allow-list plus what the core owns, what
//! goes to a client is what filters left of a response plus what they put on every answer.

use dgx_gateway_filter::ResponseHead;
use dgx_gateway_filter::upstream::{Address, AttemptRequest, HttpVersion, Upstream};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{ErrorType, OrErr, Result};

use super::context::RequestCtx;
use super::cors;
use super::followed::{self, Followed};
use super::upgrade;

/// What the gateway calls itself towards upstreams.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("dgx-gateway/", env!("CARGO_PKG_VERSION")));
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers that belong to one connection and never cross the gateway.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// How the body goes to the upstream.
pub(super) enum Framing {
    /// It is replayed, with so many bytes.
    Replayed(usize),
    /// It streams through, framed as the client framed it.
    Streamed,
    /// It is replayed while it arrives, without a length.
    Unsized,
    /// There is none: the connection is to be switched to WebSocket.
    Switching,
}

/// The request head for the upstream. Takes the headers out of the attempt.
pub(super) fn to_upstream(
    request: &mut AttemptRequest,
    upstream: &Upstream,
    client: &http::request::Parts,
    (request_id, followed): (&str, Option<&Followed>),
    framing: Framing,
) -> Result<RequestHeader> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = request.method.clone();
    parts.uri = request.path.parse().or_err(ErrorType::InternalError, "path of an attempt")?;
    let mut headers = std::mem::take(&mut request.headers);
    headers.insert(header::HOST, host(upstream)?);
    headers.insert(header::USER_AGENT, USER_AGENT);
    headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    headers.insert(REQUEST_ID, HeaderValue::from_str(request_id).or_err(ErrorType::InternalError, "request id")?);
    followed::pass_on(followed, &client.headers, &mut headers);
    match framing {
        Framing::Replayed(0) if request.method != http::Method::POST => {}
        Framing::Replayed(length) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
        Framing::Unsized if upstream.version == HttpVersion::Http2 => {}
        Framing::Unsized => drop(headers.insert(header::TRANSFER_ENCODING, CHUNKED)),
        Framing::Streamed => frame_as(client, upstream.version, &mut headers),
        Framing::Switching => upgrade::ask(client, &mut headers),
    }
    parts.headers = headers;
    Ok(RequestHeader::from(parts))
}

fn frame_as(client: &http::request::Parts, version: HttpVersion, headers: &mut HeaderMap) {
    if version == HttpVersion::Http2 {
        // there, a body needs no other framing
        if let Some(length) = client.headers.get(header::CONTENT_LENGTH) {
            headers.insert(header::CONTENT_LENGTH, length.clone());
        }
    } else if let Some(length) = client.headers.get(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.clone());
    } else if client.headers.contains_key(header::TRANSFER_ENCODING) || client.version == http::Version::HTTP_2 {
        headers.insert(header::TRANSFER_ENCODING, CHUNKED);
    }
}

fn host(upstream: &Upstream) -> Result<HeaderValue> {
    let host = match &upstream.address {
        Address::Embedded(_) => return Ok(HeaderValue::from_static("embedded")),
        Address::Tcp { host, port, tls } if *port == if *tls { 443 } else { 80 } => HeaderValue::from_str(host),
        Address::Tcp { host, port, .. } => HeaderValue::try_from(format!("{host}:{port}")),
    };
    host.or_err(ErrorType::InternalError, "host of an upstream")
}

/// The response head as filters see it: without framing and hop-by-hop headers. Leaves an empty head in its place.
pub(super) fn from_upstream(response: &mut ResponseHeader) -> Result<ResponseHead> {
    let empty = ResponseHeader::build_no_case(response.status, None)?;
    let parts: http::response::Parts = std::mem::replace(response, empty).into();
    let mut headers = parts.headers;
    let length = headers.remove(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    for name in named_by_connection(&headers) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    Ok(ResponseHead { status: parts.status, headers, length })
}

/// Headers that the `Connection` header declares to be for this connection only.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

impl RequestCtx {
    /// The head that leaves: that of the response, its framing, and the headers that filters put on every answer.
    pub(crate) fn outgoing(&self, response: ResponseHead) -> ResponseHeader {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = response.status;
        parts.headers = response.headers;
        let reply_headers = &self.chain.shared.reply_headers;
        parts.headers.reserve(reply_headers.len() + 3);
        for (name, value) in reply_headers {
            parts.headers.insert(name.clone(), value.clone()); // ours win over what an upstream said
        }
        if let Some(length) = response.length {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        if let Some(origin) = &self.cors {
            cors::expose(origin, &mut parts.headers);
        }
        ResponseHeader::from(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_connection_does_not_cross() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "12"),
            ("x-kept", "2"),
        ] {
            response.append_header(name, value).unwrap();
        }
        let seen = from_upstream(&mut response).unwrap();
        let names: Vec<&str> = seen.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!((names, seen.length), (vec!["x-kept"], Some(12)));
        assert!(response.headers.is_empty());
    }
}
