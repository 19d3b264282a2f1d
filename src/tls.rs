//! What the public listener needs to speak TLS: certificate chain and key, read with the configuration, so that one
//! generation holds all of it. The handshake itself is in `proxy/handshake.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::certificates::{self, BadCertificates};
use jiff::Timestamp;
use pingora::listeners::tls::Acceptor;
use pingora::tls::sign::{CertifiedKey, SingleCertAndKey};
use pingora::tls::{CertificateDer, CryptoProvider, PrivateKeyDer, RusTlsError, ServerConfig, version};
use rustls_pki_types::pem::{self, PemObject};
use schemars::JsonSchema;
use serde::Deserialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// What is negotiated with clients that can, best first (ALPN).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// How long before its end a certificate is warned of. Certificates that renew themselves do so with 30 days left.
const SOON: i64 = 14 * 24 * 60 * 60;

/// File shape of `server.tls`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsFile {
    /// PEM file with the certificate and, behind it, those that lead to its authority. One that has ended, or has not
    /// begun, is warned of and served all the same.
    pub cert_file: PathBuf,
    /// PEM file with the key of the certificate, without a passphrase: PKCS#8, PKCS#1 or SEC1; RSA (2048 bits or more),
    /// ECDSA (P-256, P-384) or Ed25519. That everyone on the machine can read it is warned of.
    pub key_file: PathBuf,
}

/// Checked `server.tls`: how new connections are accepted.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: Arc<Acceptor>,
    cert_file: PathBuf,
    key_file: PathBuf,
    /// First and last second in which the certificate holds (Unix time).
    valid: (i64, i64),
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("cert_file", &self.cert_file).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads both files; changes of them bring a reload.
    pub(crate) fn check(file: TlsFile, key: &str, ambient: &Ambient, problems: &mut Vec<Problem>) -> Option<Self> {
        let TlsFile { cert_file, key_file } = file;
        let (cert_key, key_key) = (format!("{key}.cert_file"), format!("{key}.key_file"));
        let cert = certificates::read(&cert_file, &cert_key, ambient, problems);
        let private = certificates::read(&key_file, &key_key, ambient, problems);
        let chain = cert.and_then(|text| {
            let chain = chain(&text);
            chain.map_err(|error| problems.push(at(&cert_key, &cert_file, &error))).ok()
        });
        let private = private.and_then(|text| {
            let private = private_key(&text);
            private.map_err(|error| problems.push(at(&key_key, &key_file, &error))).ok()
        });
        let ((chain, valid), private) = (chain?, private?);
        match acceptor(chain, private) {
            Ok(acceptor) => Some(Self { acceptor: Arc::new(acceptor), cert_file, key_file, valid }),
            Err(error @ TlsError::Certificate(_)) => {
                problems.push(at(&cert_key, &cert_file, &error));
                None
            }
            Err(error) => {
                problems.push(at(&key_key, &key_file, &error));
                None
            }
        }
    }

    /// The last second in which the certificate holds (Unix time).
    pub(crate) fn ends(&self) -> i64 {
        self.valid.1
    }

    /// Accepts connections.
    pub(crate) fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    /// Says what is not good and no reason to refuse it.
    pub(crate) fn warn(&self, now: SystemTime) {
        let file = self.cert_file.display();
        let now = Timestamp::try_from(now).unwrap_or_default().as_second();
        let (from, until) = self.valid;
        let day = |second| Timestamp::from_second(second).unwrap_or_default();
        if until < now {
            tracing::warn!(file.path = %file, until = %day(until), "the certificate has ended; clients refuse it");
        } else if from > now {
            tracing::warn!(file.path = %file, from = %day(from), "the certificate does not hold yet; clients refuse it");
        } else if until - now < SOON {
            tracing::warn!(file.path = %file, until = %day(until), "the certificate ends soon");
        }
        if std::fs::metadata(&self.key_file).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
            let file = self.key_file.display();
            tracing::warn!(file.path = %file, "everyone on this machine can read the key of the certificate; use mode 0600");
        }
    }
}

fn at(key: &str, file: &Path, error: &TlsError) -> Problem {
    Problem::at(key, format!("{}: {error}", file.display()))
}

/// Why TLS cannot be spoken with these files. Nothing of a key is told.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error("{0}")]
    Certificate(#[from] BadCertificates),
    #[error("the private key is encrypted; it must be stored without a passphrase")]
    Encrypted,
    #[error("the private key in it cannot be read")]
    Key,
    #[error("the private key does not belong to the first certificate of cert_file")]
    Mismatch,
    #[error("there is no private key in it (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    #[error("the private key is of a kind that is not supported; use RSA, ECDSA P-256 or P-384, or Ed25519")]
    Unsupported,
}

/// The chain of a text, and from when until when its first certificate holds.
fn chain(text: &str) -> Result<(Vec<CertificateDer<'static>>, (i64, i64)), TlsError> {
    let chain = certificates::certificates(text)?;
    let first = chain.first().ok_or(BadCertificates::None)?;
    let (_, read) = X509Certificate::from_der(first).map_err(|_| BadCertificates::Broken(1))?;
    let valid = (read.validity.not_before.timestamp(), read.validity.not_after.timestamp());
    Ok((chain, valid))
}

fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    let encrypted = text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED");
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        _ if encrypted => TlsError::Encrypted,
        pem::Error::NoItemsFound => TlsError::NoKey,
        _ => TlsError::Key,
    })
}

fn acceptor(chain: Vec<CertificateDer<'static>>, private: PrivateKeyDer<'static>) -> Result<Acceptor, TlsError> {
    pingora::tls::install_default_crypto_provider();
    let provider = CryptoProvider::get_default().ok_or(TlsError::Unsupported)?;
    let private = provider.key_provider.load_private_key(private).map_err(|_| TlsError::Unsupported)?;
    let certified = CertifiedKey::new(chain, private);
    match certified.keys_match() {
        Ok(()) => {}
        Err(RusTlsError::InconsistentKeys(_)) => return Err(TlsError::Mismatch),
        Err(_) => return Err(TlsError::Certificate(BadCertificates::Broken(1))),
    }
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    let mut config = ServerConfig::builder_with_protocol_versions(&[&version::TLS12, &version::TLS13])
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Acceptor::from_server_config(Arc::new(config)))
}

#[cfg(test)]
mod tests;
