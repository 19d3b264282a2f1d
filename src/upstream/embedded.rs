//! Upstreams inside this process: the engine connects through a socket pair, an HTTP server answers at the other
//! end. So an embedded service passes every phase that a remote one passes, and needs no listening port.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::{ErrorType, OrErr, Result};
use tokio::net::UnixStream;

/// Makes connections to one embedded service.
pub struct EmbeddedConnector(pub Arc<axum::Router>);

impl fmt::Debug for EmbeddedConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmbeddedConnector")
    }
}

#[async_trait]
impl Connect for EmbeddedConnector {
    async fn connect(&self, _address: &SocketAddr) -> Result<Stream> {
        let (ours, theirs) =
            UnixStream::pair().or_err(ErrorType::ConnectError, "no socket pair for an embedded service")?;
        let service = TowerToHyperService::new(self.0.as_ref().clone());
        // ends by itself when the engine closes its end
        tokio::spawn(async move {
            if let Err(error) =
                auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(theirs), service).await
            {
                tracing::debug!(%error, "embedded connection ended");
            }
        });
        Ok(ours.into())
    }
}
