//! An OpenAI-compatible upstream on a free loopback port that misbehaves on demand.
//!
//! HTTP/1.1 is written by hand on the socket, so that every byte and every reset can be placed; HTTP/2 is
//! spoken by prior knowledge on the same port. What each request looked like and how it ended is recorded.
//!
//! A request gets the first of: the next behaviour of the queue; the one that its header
//! [`BEHAVIOUR_HEADER`] or the `model` of its body names, if the script knows the name; the default.
//!
//! The end of the client's stream counts as leaving, half-closed or not.

mod answer;
mod audio;
mod behaviour;
mod connection;
mod dialects;
mod gzip;
mod http1;
mod http2;
mod named;
mod record;
mod reply;
mod script;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Version};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

pub use self::behaviour::{Answer, Behaviour, Repeated};
pub use self::named::{Named, names};
pub use self::record::{Ending, Phase, Recorded};
pub use self::script::{BEHAVIOUR_HEADER, Script};

pub(crate) use self::http2::send_paced;

use self::record::{Log, Place};
use self::script::Director;

/// A wait took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mock upstream did not see it in time")]
pub struct WaitedTooLong;

/// A running mock. It stops, with all its connections, when dropped.
#[derive(Debug)]
pub struct MockUpstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    director: Director,
    log: Log,
}

impl Shared {
    /// Records a request whose head has arrived, unless it is a look that is kept apart.
    fn open(&self, method: &Method, path: &str, version: Version, headers: &HeaderMap) -> Place {
        (!self.director.is_look(method, path)).then(|| self.log.open(method, path, version, headers)).flatten()
    }
}

impl MockUpstream {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(script: Script) -> io::Result<Self> {
        Self::start_on(0, script).await
    }

    /// Listens on a given port of 127.0.0.1; 0 means a free one.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start_on(port: u16, script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let addr = listener.local_addr()?;
        let log = Log::new(script.is_recording());
        let shared = Arc::new(Shared { director: Director::new(script), log });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { addr, shared, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// Queues a behaviour for a later request.
    pub fn push(&self, behaviour: Behaviour) {
        self.shared.director.push(behaviour);
    }

    /// All requests whose head has arrived, in that order.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.log.requests()
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.log.open_connections()
    }

    /// Connections that were accepted so far.
    #[must_use]
    pub fn accepted_connections(&self) -> usize {
        self.shared.log.accepted_connections()
    }

    /// Waits until at least `n` requests have been read in full, or have ended.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_for_requests(&self, n: usize, timeout: Duration) -> Result<Vec<Recorded>, WaitedTooLong> {
        let read = |all: &[Recorded]| all.iter().filter(|one| one.ending != Ending::Reading).count() >= n;
        self.shared.log.wait(timeout, |all| read(all).then(|| all.to_vec())).await
    }

    /// Waits until at least `n` requests have ended, in whatever way.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_for_ends(&self, n: usize, timeout: Duration) -> Result<Vec<Recorded>, WaitedTooLong> {
        let ended = |all: &[Recorded]| all.iter().filter(|one| one.ending.is_final()).count() >= n;
        self.shared.log.wait(timeout, |all| ended(all).then(|| all.to_vec())).await
    }

    /// Waits until some client has left, and gives the first such request.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_for_cancel(&self, timeout: Duration) -> Result<Recorded, WaitedTooLong> {
        let left = |one: &&Recorded| matches!(one.ending, Ending::Cancelled { .. });
        self.shared.log.wait(timeout, |all| all.iter().find(left).cloned()).await
    }

    /// Waits until exactly `n` connections are open.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_for_connections(&self, n: usize, timeout: Duration) -> Result<(), WaitedTooLong> {
        self.shared.log.wait_for_connections(n, timeout).await
    }
}

impl Drop for MockUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An address of this machine where nothing listens: connections are refused.
///
/// # Errors
/// There is no free port.
pub async fn dead_addr() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connection::serve(stream, Arc::clone(&shared)));
    }
}
