//! HTTP/2 in cleartext, by prior knowledge; shows resets and trailers.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::ConnectError;

/// One connection; closed when dropped.
pub struct H2Client {
    sender: SendRequest<Bytes>,
    connection: AbortHandle,
}

/// One request on its way; dropping it resets the stream.
pub struct H2Exchange {
    sending: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    receiving: Option<RecvStream>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct H2Response {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Trailers, if sent.
    pub trailers: Option<HeaderMap>,
}

impl H2Client {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// No connection, or the peer does not speak HTTP/2.
    pub async fn connect(addr: SocketAddr) -> Result<Self, ConnectError> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        // How the connection ends shows in the streams that are open on it.
        let connection = tokio::spawn(async move { connection.await.is_ok() }).abort_handle();
        Ok(Self { sender, connection })
    }

    /// Sends a head whose body follows. The URI must be absolute.
    ///
    /// # Errors
    /// The connection is gone or the head is not valid.
    pub async fn start(&mut self, head: Request<()>) -> Result<H2Exchange, h2::Error> {
        poll_fn(|cx| self.sender.poll_ready(cx)).await?;
        let (response, sending) = self.sender.send_request(head, false)?;
        Ok(H2Exchange { sending, response: Some(response), receiving: None })
    }

    /// Sends a whole request and reads the whole answer.
    ///
    /// # Errors
    /// The stream or the connection was reset; [`h2::Error::reason`] says why.
    pub async fn request(&mut self, request: Request<Bytes>) -> Result<H2Response, h2::Error> {
        let (parts, body) = request.into_parts();
        let mut exchange = self.start(Request::from_parts(parts, ())).await?;
        exchange.send(body).await?;
        exchange.end()?;
        exchange.read_response().await
    }
}

/// The sending half of a request; dropping it resets the stream.
pub struct H2Sending(SendStream<Bytes>);

/// The receiving half of a request whose head has come.
pub struct H2Receiving(RecvStream);

impl H2Exchange {
    /// Both halves, so that two tasks can use them; the head of the answer must have been read.
    ///
    /// # Errors
    /// It was not.
    pub fn split(self) -> Result<(H2Sending, H2Receiving), h2::Error> {
        let receiving = self.receiving.ok_or(Reason::INTERNAL_ERROR)?;
        Ok((H2Sending(self.sending), H2Receiving(receiving)))
    }
}

impl H2Sending {
    /// Sends a piece of the body, as the windows of the peer allow.
    ///
    /// # Errors
    /// The peer reset the stream.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), h2::Error> {
        crate::mock::send_paced(&mut self.0, bytes).await
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The peer reset the stream.
    pub fn end(&mut self) -> Result<(), h2::Error> {
        self.0.send_data(Bytes::new(), true)
    }
}

impl H2Receiving {
    /// The rest of the body, and the trailers after it.
    ///
    /// # Errors
    /// The stream was reset.
    pub async fn read_rest(&mut self) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.0.data().await.transpose()? {
            self.0.flow_control().release_capacity(piece.len())?;
            body.extend_from_slice(&piece);
        }
        Ok((body.freeze(), self.0.trailers().await?))
    }
}

impl Drop for H2Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl H2Exchange {
    /// Sends a piece of the body, as the windows of the peer allow.
    ///
    /// # Errors
    /// The peer reset the stream.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), h2::Error> {
        crate::mock::send_paced(&mut self.sending, bytes).await
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The peer reset the stream.
    pub fn end(&mut self) -> Result<(), h2::Error> {
        self.sending.send_data(Bytes::new(), true)
    }

    /// Ends the body with trailers.
    ///
    /// # Errors
    /// The peer reset the stream.
    pub fn end_with(&mut self, trailers: HeaderMap) -> Result<(), h2::Error> {
        self.sending.send_trailers(trailers)
    }

    /// Takes the request back.
    pub fn reset(&mut self, reason: Reason) {
        self.sending.send_reset(reason);
    }

    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// The stream was reset, or the head was read before.
    pub async fn read_head(&mut self) -> Result<Response<()>, h2::Error> {
        let response = self.response.take().ok_or(Reason::INTERNAL_ERROR)?;
        let (parts, body) = response.await?.into_parts();
        self.receiving = Some(body);
        Ok(Response::from_parts(parts, ()))
    }

    /// The next piece of the answer's body; `None` at its end.
    ///
    /// # Errors
    /// The stream was reset.
    pub async fn read_piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let Some(receiving) = &mut self.receiving else { return Ok(None) };
        let Some(piece) = receiving.data().await.transpose()? else { return Ok(None) };
        receiving.flow_control().release_capacity(piece.len())?;
        Ok(Some(piece))
    }

    /// Trailers, after the body has ended.
    ///
    /// # Errors
    /// The stream was reset.
    pub async fn read_trailers(&mut self) -> Result<Option<HeaderMap>, h2::Error> {
        match &mut self.receiving {
            Some(receiving) => receiving.trailers().await,
            None => Ok(None),
        }
    }

    /// Reads the whole answer.
    ///
    /// # Errors
    /// The stream was reset.
    pub async fn read_response(&mut self) -> Result<H2Response, h2::Error> {
        let (head, ()) = self.read_head().await?.into_parts();
        let mut body = BytesMut::new();
        while let Some(piece) = self.read_piece().await? {
            body.extend_from_slice(&piece);
        }
        let trailers = self.read_trailers().await?;
        Ok(H2Response { status: head.status, headers: head.headers, body: body.freeze(), trailers })
    }
}
