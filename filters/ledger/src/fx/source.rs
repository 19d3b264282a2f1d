//! Where new rates come from: a URL or a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::certificates::Authorities;

use super::document::MAX_BYTES;
use super::kept::read_file;

/// Longest time for a whole download.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most redirects that are followed.
const REDIRECTS: usize = 3;

/// A place.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file that something else keeps up to date.
    File(PathBuf),
    /// A server, and whom it is checked against, if not against whom the system trusts.
    Url(String, Option<Arc<Authorities>>),
}

/// Whether a text is an address that can be asked.
pub(crate) fn is_url(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoDocument {
    #[error("the file cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error("the server cannot be asked: {0}")]
    Server(#[from] reqwest::Error),
    #[error("the server answered {0}")]
    Status(u16),
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
}

impl Source {
    /// Gets the document.
    pub(super) async fn get(&self) -> Result<Vec<u8>, NoDocument> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                bounded(read.map_err(std::io::Error::other)??)
            }
            Self::Url(url, authorities) => download(url, authorities.as_deref()).await,
        }
    }
}

fn bounded(document: Vec<u8>) -> Result<Vec<u8>, NoDocument> {
    if document.len() > MAX_BYTES { Err(NoDocument::TooLarge) } else { Ok(document) }
}

async fn download(url: &str, authorities: Option<&Authorities>) -> Result<Vec<u8>, NoDocument> {
    let mut client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
        .no_proxy();
    if let Some(authorities) = authorities {
        client = client.tls_built_in_root_certs(false);
        for certificate in authorities.certificates() {
            client = client.add_root_certificate(reqwest::Certificate::from_der(certificate)?);
        }
    }
    let mut answer = client.build()?.get(url).send().await.map_err(reqwest::Error::without_url)?;
    if !answer.status().is_success() {
        return Err(NoDocument::Status(answer.status().as_u16()));
    }
    let mut document = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        document.extend_from_slice(&piece);
        if document.len() > MAX_BYTES {
            return Err(NoDocument::TooLarge);
        }
    }
    Ok(document)
}
