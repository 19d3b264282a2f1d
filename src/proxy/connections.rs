//! Connections around the engine: a cap, TLS, and an end for connections on which no request is running.
//!
//! The engine has no connection limit; it lets a client send one header line every few seconds for ever, and waits
//! without limit for the first 24 bytes of a connection that may turn out to be HTTP/2.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::time::Instant;

use super::handshake::shake_hands;
use crate::shutdown::Draining;
use crate::telemetry::CoreMetrics;
use crate::world::World;

/// Longest time without a running request: above the keep-alive of 75 s, so that it only meets what the engine
/// does not end itself.
const LONGEST_IDLE: Duration = Duration::from_secs(90);
/// How exactly that is kept.
const TICK: Duration = Duration::from_secs(1);

struct Connection {
    running: AtomicUsize,
    idle_since: Mutex<Instant>,
}

/// Open connections by peer.
#[derive(Default)]
pub struct Connections(Mutex<HashMap<SocketAddr, Arc<Connection>>>);

/// A request is running on a connection.
pub struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Connections {
    /// A request head is complete: the connection is busy until the guard is dropped.
    #[must_use]
    pub fn busy(&self, peer: Option<SocketAddr>) -> Option<Busy> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&peer?)?.clone();
        connection.running.fetch_add(1, Ordering::AcqRel);
        Some(Busy(connection))
    }

    /// Open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Connection {
    async fn idle_too_long(&self) {
        loop {
            // in this order: a request that ends in between has set the time already
            let running = self.running.load(Ordering::Acquire);
            let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            let end = since + LONGEST_IDLE;
            if running == 0 && end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end.max(Instant::now() + TICK)).await;
        }
    }
}

/// The engine's application behind a connection cap and an idle limit.
pub struct ConnectionGuard<A> {
    inner: Arc<A>,
    /// Connections that are open.
    taken: AtomicUsize,
    world: Arc<ArcSwap<World>>,
    connections: Arc<Connections>,
    draining: Arc<Draining>,
    metrics: Arc<CoreMetrics>,
}

impl<A> ConnectionGuard<A> {
    /// Wraps an application. The world says how many connections there may be.
    #[must_use]
    pub fn new(
        inner: A,
        world: Arc<ArcSwap<World>>,
        connections: Arc<Connections>,
        draining: Arc<Draining>,
        metrics: Arc<CoreMetrics>,
    ) -> Self {
        Self { inner: Arc::new(inner), taken: AtomicUsize::new(0), world, connections, draining, metrics }
    }

    /// The connection as the engine is to see it: with TLS, if the listener speaks it.
    async fn secured(&self, stream: Stream) -> Option<Stream> {
        let Some(tls) = self.world.load().server.tls.clone() else { return Some(stream) };
        // in a box of its own: a connection without TLS has no room for it as long as it lives
        let secured = Box::pin(shake_hands(stream, tls.acceptor())).await;
        secured.map_err(|why| self.metrics.handshake_failed(why.as_str())).ok()
    }

    fn slot(&self) -> Option<Slot<'_>> {
        let most = self.world.load().server.max_connections;
        let room = |taken: usize| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok().map(|_| Slot(&self.taken))
    }
}

/// One of the connections that there may be.
struct Slot<'a>(&'a AtomicUsize);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for ConnectionGuard<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let Some(_slot) = self.slot() else {
            tracing::warn!("connection refused: server.max_connections is reached");
            return None;
        };
        let stream = self.secured(stream).await?;
        let peer =
            stream.get_socket_digest().and_then(|digest| digest.peer_addr().and_then(|peer| peer.as_inet().copied()));
        let connection = Arc::new(Connection { running: AtomicUsize::new(0), idle_since: Mutex::new(Instant::now()) });
        if let Some(peer) = peer {
            self.connections.0.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, Arc::clone(&connection));
        }
        let next = tokio::select! {
            next = ServerApp::process_new(&self.inner, stream, shutdown) => next,
            () = connection.idle_too_long() => None,
        };
        if let Some(peer) = peer {
            let mut open = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
            // a client may use its port again before the end of its last connection is noticed here
            if open.get(&peer).is_some_and(|known| Arc::ptr_eq(known, &connection)) {
                open.remove(&peer);
            }
        }
        next
    }

    /// The listener is closed. Connections that are idle end, once they have had the time to learn of it.
    async fn cleanup(&self) {
        tokio::time::sleep(self.draining.linger()).await;
        self.inner.http_cleanup().await;
    }
}
