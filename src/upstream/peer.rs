//! From an upstream to the engine's peer. The only place that makes peers: an empty server name would switch
//! certificate checks off, and a host name would be resolved on the worker.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::upstream::{Address, HttpVersion, Upstream};
use pingora::protocols::tls::CaType;
use pingora::tls::CertificateDer;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::utils::tls::{WrappedX509, parse_x509};

use super::embedded::EmbeddedConnector;
use super::pipe::{Flow, PipeConnector};
use super::resolve::Resolver;

/// How long an idle connection stays in the pool: below the 75 s and 60 s at which common servers close theirs.
const POOL_IDLE: Duration = Duration::from_secs(55);
/// Longest time for one write to an upstream.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Streams that share one HTTP/2 connection.
const MOST_H2_STREAMS: u32 = 100;
/// How much of an answer over HTTP/2 may wait for its client.
const H2_STREAM_WINDOW: u32 = 1 << 20;
/// Room for all streams of a connection, so that clients that do not read hold up nobody else.
const H2_CONNECTION_WINDOW: u32 = MOST_H2_STREAMS * H2_STREAM_WINDOW;

/// Makes the peer for an upstream.
///
/// # Errors
/// The host name cannot be resolved.
pub async fn peer(upstream: &Arc<Upstream>, resolver: &Resolver) -> std::io::Result<HttpPeer> {
    let mut peer = match &upstream.address {
        Address::Embedded(router) => {
            let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
            let mut peer = HttpPeer::new(nowhere, false, String::new());
            peer.options.custom_l4 = Some(Arc::new(EmbeddedConnector(Arc::clone(router))));
            peer
        }
        Address::Tcp { host, port, tls } => {
            let address = resolver.resolve(host, *port).await?;
            // an address of IPv6 stands in brackets in a URL, and without them in a certificate
            let name = host.trim_start_matches('[').trim_end_matches(']');
            HttpPeer::new(address, *tls, name.to_owned())
        }
    };
    // connections of different upstreams never mix in the pool, even on one address
    peer.group_key = group_key(upstream);
    let options = &mut peer.options;
    options.connection_timeout = Some(upstream.connect_timeout);
    options.total_connection_timeout = Some(upstream.connect_timeout);
    options.idle_timeout = Some(POOL_IDLE);
    options.write_timeout = Some(WRITE_TIMEOUT);
    options.max_h2_streams = MOST_H2_STREAMS as usize;
    options.h2_stream_window_size = Some(H2_STREAM_WINDOW);
    options.h2_connection_window_size = Some(H2_CONNECTION_WINDOW);
    if let Some(authorities) = &upstream.authorities {
        options.ca = Some(Arc::clone(&authorities.made(engine_form).0));
    }
    match upstream.version {
        HttpVersion::Http1 => options.set_http_version(1, 1),
        HttpVersion::Http2 => options.set_http_version(2, 2),
    }
    Ok(peer)
}

/// Has the peer connected to once, for this attempt alone, by a connection that takes a large request at once.
pub(crate) fn connect_apart(peer: &mut HttpPeer, flow: Arc<Flow>) {
    let Some(address) = peer.address().as_inet().copied() else { return };
    // no other attempt finds it, and it is not kept
    let mut hasher = DefaultHasher::new();
    (peer.group_key, Arc::as_ptr(&flow).addr()).hash(&mut hasher);
    peer.group_key = hasher.finish();
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer.options.custom_l4 = Some(Arc::new(PipeConnector { flow, address }));
}

/// Authorities as the engine wants them.
struct EngineForm(Arc<CaType>);

fn engine_form(certificates: &[CertificateDer<'static>]) -> EngineForm {
    // the engine's reader is the one that read them when they were loaded, so this cannot fail
    EngineForm(certificates.iter().map(|one| WrappedX509::new(one.to_vec(), parse_x509)).collect())
}

fn group_key(upstream: &Upstream) -> u64 {
    let mut hasher = DefaultHasher::new();
    upstream.label.hash(&mut hasher);
    upstream.version.eq(&HttpVersion::Http2).hash(&mut hasher);
    // a connection that was made when others were believed is not used any more
    upstream.authorities.as_ref().map(|authorities| authorities.digest()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(host: &str, tls: bool) -> Arc<Upstream> {
        Arc::new(Upstream {
            label: host.into(),
            address: Address::Tcp { host: host.into(), port: 443, tls },
            version: HttpVersion::Http1,
            authorities: None,
            connect_timeout: Duration::from_secs(1),
            slots: None,
        })
    }

    #[tokio::test]
    async fn a_tls_peer_always_has_a_server_name_and_checks_it() {
        let peer = peer(&upstream("localhost", true), &Resolver::default()).await.unwrap();
        assert_eq!(peer.sni(), "localhost");
        assert!(peer.verify_cert() && peer.verify_hostname());
    }

    #[tokio::test]
    async fn an_address_of_ipv6_is_the_name_without_its_brackets() {
        assert_eq!(peer(&upstream("[::1]", true), &Resolver::default()).await.unwrap().sni(), "::1");
    }

    #[tokio::test]
    async fn upstreams_with_one_address_do_not_share_connections() {
        let resolver = Resolver::default();
        let a = peer(&upstream("127.0.0.1", false), &resolver).await.unwrap();
        let b = peer(&upstream("localhost", false), &resolver).await.unwrap();
        assert_ne!(a.reuse_hash(), b.reuse_hash());
    }
}
