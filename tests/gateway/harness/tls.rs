//! An authority of the tests with its certificates, and a way on which clients without TLS reach a gateway that speaks
//! it.

mod front;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, SupportedProtocolVersion};

pub(crate) use self::front::Front;
use super::soon;

/// Names of this machine, for which certificates are issued.
pub(crate) const HERE: [&str; 2] = ["localhost", "127.0.0.1"];

/// Whoever issues certificates.
pub(crate) struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
    /// Certificates between it and the one that is trusted.
    between: String,
}

/// A certificate with its chain and its key, as text.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: authority("root").self_signed(&key).unwrap(), key, between: String::new() }
    }

    /// An authority that this one vouches for.
    pub(crate) fn below(&self) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = authority("between").signed_by(&key, &self.certificate, &self.key).unwrap();
        Self { between: certificate.pem() + &self.between, certificate, key }
    }

    /// Its own certificate, for those who trust it.
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for these names.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_but(names, |_| {})
    }

    /// A certificate that is somehow different.
    pub(crate) fn issue_but(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let issued = params.signed_by(&key, &self.certificate, &self.key).unwrap();
        Issued { chain: issued.pem() + &self.between, key: key.serialize_pem() }
    }

    /// A certificate that has ended.
    pub(crate) fn issue_ended(&self, names: &[&str]) -> Issued {
        self.issue_but(names, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    /// A client that trusts this authority alone.
    pub(crate) fn client(&self, protocols: &[&str]) -> TlsClient {
        self.client_of(protocols, rustls::ALL_VERSIONS)
    }

    /// One that speaks these versions of TLS.
    pub(crate) fn client_of(&self, protocols: &[&str], versions: &[&'static SupportedProtocolVersion]) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config =
            builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsClient(Arc::new(config))
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Issued {
    /// One that nobody vouches for.
    pub(crate) fn by_itself(names: &[&str]) -> Self {
        let made = rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let made = made.unwrap();
        Self { chain: made.cert.pem(), key: made.key_pair.serialize_pem() }
    }

    /// Writes `cert.pem` and `key.pem`, each beside its place and then renamed.
    pub(crate) fn write(&self, dir: &Path) {
        for (name, text) in [("cert", &self.chain), ("key", &self.key)] {
            let beside = dir.join(format!("{name}.new"));
            fs::write(&beside, text).unwrap();
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(&beside, dir.join(format!("{name}.pem"))).unwrap();
        }
    }

    /// The certificate itself.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }
}

/// The key `server.tls` for the files of a directory.
pub(crate) fn files(dir: &Path) -> Value {
    json!({"cert_file": dir.join("cert.pem"), "key_file": dir.join("key.pem")})
}

/// A client that speaks TLS.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// A new connection after its handshake.
    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        soon("the handshake", TlsConnector::from(Arc::clone(&self.0)).connect(name, stream)).await
    }

    /// The certificate that a new connection is shown.
    pub(crate) async fn shown(&self, addr: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(addr).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// A way for clients without TLS.
    pub(crate) async fn way_to(&self, addr: SocketAddr) -> Way {
        let client = self.clone();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&shown);
        let (at, accepting) = listen(move |plain| {
            let (client, seen) = (client.clone(), Arc::clone(&seen));
            async move {
                let Ok(secure) = client.connect(addr).await else { return };
                let certificate = secure.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
                seen.lock().unwrap().push(certificate);
                relay(plain, secure).await;
            }
        })
        .await;
        Way { addr: at, shown, accepting }
    }
}

/// Where clients without TLS reach a gateway that speaks it.
pub(crate) struct Way {
    pub(crate) addr: SocketAddr,
    shown: Arc<Mutex<Vec<CertificateDer<'static>>>>,
    accepting: AbortHandle,
}

impl Way {
    /// The certificates that its connections were shown so far.
    pub(crate) fn shown(&self) -> Vec<CertificateDer<'static>> {
        self.shown.lock().unwrap().clone()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn listen<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    (addr, accepting.abort_handle())
}

/// Carries bytes both ways until both ends have closed, or one broke.
async fn relay(mut one: impl AsyncRead + AsyncWrite + Unpin, mut other: impl AsyncRead + AsyncWrite + Unpin) {
    drop(copy_bidirectional(&mut one, &mut other).await);
}
