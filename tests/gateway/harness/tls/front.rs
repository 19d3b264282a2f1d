//! A front with TLS before an upstream without it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Issued, listen, relay};

/// TLS before an upstream without it.
pub(crate) struct Front {
    pub(crate) addr: SocketAddr,
    shaken: Arc<Mutex<Vec<Result<(), String>>>>,
    accepting: AbortHandle,
}

impl Front {
    pub(crate) async fn before(upstream: SocketAddr, issued: &Issued, protocols: &[&str]) -> Self {
        let acceptor = acceptor(issued, protocols);
        let shaken = Arc::new(Mutex::new(Vec::new()));
        let results = Arc::clone(&shaken);
        let (addr, accepting) = listen(move |stream| {
            let (acceptor, results) = (acceptor.clone(), Arc::clone(&results));
            async move {
                let secure = acceptor.accept(stream).await;
                let result = secure.as_ref().map(|_| ()).map_err(ToString::to_string);
                results.lock().unwrap().push(result);
                let Ok(secure) = secure else { return };
                let Ok(plain) = TcpStream::connect(upstream).await else { return };
                plain.set_nodelay(true).unwrap();
                relay(secure, plain).await;
            }
        })
        .await;
        Self { addr, shaken, accepting }
    }

    /// How handshakes ended so far.
    pub(crate) fn shaken(&self) -> Vec<Result<(), String>> {
        self.shaken.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn acceptor(issued: &Issued, protocols: &[&str]) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}
