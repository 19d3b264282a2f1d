//! What fuzz targets reach of this module. Only part of builds for them (`--cfg fuzzing`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::Rope;
use dgx_gateway_filter::upstream::{Address, AttemptRequest, AttemptTimeouts, HttpVersion, Upstream};
use http::{HeaderMap, Method};
use ipnet::IpNet;

use super::heads::{self, Framing};
use super::{client_ip, context};

/// Whose request it is.
#[must_use]
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    client_ip::client_ip(peer, headers, trusted)
}

/// The request id: taken over or made.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> Arc<str> {
    context::request_id(headers).0
}

/// The headers that reach an upstream, before filters add theirs; `None` when there is no head.
#[must_use]
pub fn to_upstream(headers: &HeaderMap) -> Option<HeaderMap> {
    let limit = Duration::from_secs(1);
    let mut request = AttemptRequest {
        index: 0,
        entry: 0,
        method: Method::POST,
        path: "/".to_owned(),
        headers: HeaderMap::new(),
        body: Rope::new(),
        patches: Vec::new(),
        keep_alive: None,
        decode_answer: false,
        timeouts: AttemptTimeouts { first_byte: None, idle: None, total: limit, total_once_begun: limit },
    };
    let upstream = Upstream {
        label: "first".into(),
        address: Address::Tcp { host: "192.0.2.1".into(), port: 80, tls: false },
        version: HttpVersion::Http1,
        authorities: None,
        connect_timeout: limit,
        slots: None,
    };
    let (mut client, ()) = http::Request::new(()).into_parts();
    client.headers = headers.clone();
    let id = request_id(headers);
    let head = heads::to_upstream(&mut request, &upstream, &client, (&id, None), Framing::Replayed(0)).ok()?;
    let parts: http::request::Parts = head.into();
    Some(parts.headers)
}
