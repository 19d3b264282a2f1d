//! The public listener: the engine's application behind our own guard, which speaks TLS where it is to, on a socket that
//! is open already, and closed when the drain says so.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::listeners::{ListenerConfig, TcpSocketOptions};
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::proxy::http_proxy;
use pingora::server::{ListenFds, RuntimeOpts, Server, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening;

use crate::notify::Notifier;
use crate::proxy::{ConnectionGuard, Connections, Gateway};
use crate::shutdown::Draining;
use crate::telemetry::CoreMetrics;
use crate::world::World;

/// HTTP/2 window of one upload: the default of 64 KiB makes 32 MiB bodies wait for the client 512 times.
const H2_STREAM_WINDOW: u32 = 1 << 20;
/// HTTP/2 window of one connection.
const H2_CONNECTION_WINDOW: u32 = 4 << 20;

/// What the public service is made of.
pub(super) struct Parts {
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) spool_dir: PathBuf,
    pub(super) world: Arc<ArcSwap<World>>,
    pub(super) metrics: Arc<CoreMetrics>,
    pub(super) draining: Arc<Draining>,
    pub(super) notifier: Arc<Notifier>,
}

/// The service, as the engine runs it.
pub(super) fn service(server: &Server, parts: Parts) -> impl Service + use<> {
    let Parts { socket, address, spool_dir, world, metrics, draining, notifier } = parts;
    let connections = Arc::new(Connections::default());
    let closing = draining.closing();
    let gateway = Gateway::new(
        Arc::clone(&world),
        spool_dir,
        Arc::clone(&connections),
        Arc::clone(&metrics),
        Arc::clone(&draining),
    );
    let mut proxy = http_proxy(&server.configuration, gateway);
    let mut options = HttpServerOptions::default();
    options.h2c = true; // without TLS; with it, ALPN decides
    proxy.server_options = Some(options);
    let mut h2 = pingora::protocols::http::v2::server::default_h2_options();
    h2.initial_window_size(H2_STREAM_WINDOW).initial_connection_window_size(H2_CONNECTION_WINDOW);
    proxy.h2_options = Some(h2);
    let app = ConnectionGuard::new(proxy, world, connections, draining, metrics);
    let mut inner = listening::Service::new("public".to_owned(), app);
    inner.add_listener(endpoint(address));
    Public { inner, socket: Some(socket), address, closing, notifier }
}

/// Where the engine listens. It reads straight into the buffers of heads and bodies: a buffer before them would take
/// 64 KiB of each connection, and a copy of each byte.
fn endpoint(address: SocketAddr) -> ListenerConfig {
    let buffers = L4BufferSettings::default().read(0);
    ListenerConfig::tcp(address.to_string()).tcp_socket_options(TcpSocketOptions::default()).l4_buffer(buffers)
}

struct Public<A> {
    inner: listening::Service<A>,
    /// The engine takes it over at the start.
    socket: Option<TcpListener>,
    address: SocketAddr,
    closing: ShutdownWatch,
    notifier: Arc<Notifier>,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Service for Public<A> {
    /// Accepts until the drain closes the listener. The engine's own signal would come too late for that: it is the
    /// end of everything.
    async fn start_service(&mut self, fds: Option<ListenFds>, _shutdown: ShutdownWatch, listeners_per_fd: usize) {
        if let (Some(fds), Some(socket)) = (&fds, self.socket.take()) {
            fds.lock().add(self.address.to_string(), socket.into_raw_fd());
        }
        let notifier = Arc::clone(&self.notifier);
        let alive = tokio::spawn(async move { notifier.keep_alive().await });
        self.inner.start_service(fds, self.closing.clone(), listeners_per_fd).await;
        drop(alive); // it goes on while the rest of the requests run
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn threads(&self) -> Option<usize> {
        self.inner.threads()
    }

    fn runtime_opts_override(&self, global: &RuntimeOpts) -> Option<RuntimeOpts> {
        Service::runtime_opts_override(&self.inner, global)
    }
}
