//! HTTP/1.1 by hand: any bytes can be sent, each piece of an answer can be looked at as it arrives.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::WireError;
use crate::http1::{Body, Wire};

/// One connection.
pub struct RawClient {
    wire: Wire,
    body: Body,
    trailers: HeaderMap,
    /// Whether the answer to the last request has no body whatever its headers say.
    bodiless: bool,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct RawResponse {
    /// Status.
    pub status: StatusCode,
    /// Headers, framing included.
    pub headers: HeaderMap,
    /// The body, unframed.
    pub body: Bytes,
    /// The pieces of the body: the chunks of a chunked one.
    pub pieces: Vec<Bytes>,
    /// Trailers of a chunked body.
    pub trailers: HeaderMap,
}

impl RawResponse {
    /// A header that is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as text; what is no UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl RawClient {
    /// Connects, without Nagle's delay.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { wire: Wire::new(stream), body: Body::Done, trailers: HeaderMap::new(), bodiless: false })
    }

    /// Address of this side.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.wire.stream.local_addr()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.stream.write_all(bytes.as_ref()).await
    }

    /// Sends a head alone, ended; adds `host` unless given.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send_head(&mut self, method: &Method, path: &str, headers: &[(&str, &str)]) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("host: {}\r\n", self.wire.stream.peer_addr()?));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.bodiless = *method == Method::HEAD;
        self.send(head).await
    }

    /// Sends a request with a sized body; `host` and `content-length` are added.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn request(
        &mut self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("content-length", &length));
        self.send_head(method, path, &headers).await?;
        self.send(body).await
    }

    /// Sends a JSON body with POST.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn post_json(&mut self, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<()> {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        self.request(&Method::POST, path, &headers, body.as_bytes()).await
    }

    /// Sends one chunk of a chunked body; an empty one ends the body.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(format!("{:x}\r\n", bytes.len())).await?;
        self.send(bytes).await?;
        self.send("\r\n").await
    }

    /// Reads an interim (1xx) response head, or the final one, whose body is then lost to [`Self::read_piece`].
    ///
    /// # Errors
    /// The connection ended or broke, or the bytes are no head.
    pub async fn read_interim(&mut self) -> Result<(StatusCode, HeaderMap), WireError> {
        self.wire.response_head().await
    }

    /// Reads a response head, interim (1xx) ones skipped. Its body is read with [`Self::read_piece`].
    ///
    /// # Errors
    /// The connection ended or broke, or the bytes are no head.
    pub async fn read_head(&mut self) -> Result<(StatusCode, HeaderMap), WireError> {
        let (status, headers) = loop {
            let (status, headers) = self.wire.response_head().await?;
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                break (status, headers);
            }
        };
        let none = self.bodiless || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        self.body = if none { Body::Done } else { Body::framed(&headers, Body::UntilClose)? };
        self.trailers.clear();
        Ok((status, headers))
    }

    /// The next piece of the body: one chunk, or what has arrived of a sized body. `None` at its end.
    ///
    /// # Errors
    /// The connection ended or broke inside the body.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing; the next call goes on where this one stood.
    pub async fn read_piece(&mut self) -> Result<Option<Bytes>, WireError> {
        self.wire.piece(&mut self.body, &mut self.trailers).await
    }

    /// Reads a whole response.
    ///
    /// # Errors
    /// The connection ended or broke, or the bytes are no response.
    pub async fn read_response(&mut self) -> Result<RawResponse, WireError> {
        let (status, headers) = self.read_head().await?;
        let (mut body, mut pieces) = (BytesMut::new(), Vec::new());
        while let Some(piece) = self.read_piece().await? {
            body.extend_from_slice(&piece);
            pieces.push(piece);
        }
        Ok(RawResponse { status, headers, body: body.freeze(), pieces, trailers: std::mem::take(&mut self.trailers) })
    }

    /// Reads whatever comes until the peer closes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read_to_end(&mut self) -> Result<Bytes, WireError> {
        while self.wire.fill().await? > 0 {}
        Ok(self.wire.inbox.split().freeze())
    }

    /// Closes the sending side; answers can still be read.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.wire.stream.shutdown().await
    }

    /// Leaves with a reset instead of an orderly end.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn abort(self) -> io::Result<()> {
        self.wire.stream.set_zero_linger()
    }
}
