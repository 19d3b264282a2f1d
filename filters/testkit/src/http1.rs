//! HTTP/1.1 messages over TCP, read for both sides: the mock reads requests, the client reads responses.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httparse::Status;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::WireError;

/// Longest head: 256 KiB, above what any gateway lets pass.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Most header fields of a head.
const MAX_HEADERS: usize = 256;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// What follows the bytes of a chunk.
const CHUNK_END: &[u8] = b"\r\n";

/// A connection and what was read from it ahead of use.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    pub(crate) inbox: BytesMut,
}

/// Head of a request.
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

/// Where a body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Chunked,
    Done,
    Sized(u64),
    UntilClose,
}

impl Body {
    /// Reads the framing headers; `otherwise` is what holds without any.
    pub(crate) fn framed(headers: &HeaderMap, otherwise: Self) -> Result<Self, WireError> {
        if headers.get(http::header::TRANSFER_ENCODING).is_some_and(|coding| coding.as_bytes().ends_with(b"chunked")) {
            return Ok(Self::Chunked);
        }
        match headers.get(http::header::CONTENT_LENGTH) {
            None => Ok(otherwise),
            Some(length) => {
                let length = length.to_str().ok().and_then(|length| length.parse().ok());
                length.map(Self::Sized).ok_or(WireError::Malformed("content-length"))
            }
        }
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, inbox: BytesMut::new() }
    }

    /// Reads more; 0 at the end of the stream.
    pub(crate) async fn fill(&mut self) -> Result<usize, WireError> {
        self.inbox.reserve(READ_BYTES);
        Ok(self.stream.read_buf(&mut self.inbox).await?)
    }

    async fn fill_some(&mut self) -> Result<(), WireError> {
        match self.fill().await? {
            0 if self.inbox.is_empty() => Err(WireError::Closed),
            0 => Err(WireError::Cut),
            _ => Ok(()),
        }
    }

    /// The next request head.
    pub(crate) async fn request_head(&mut self) -> Result<RequestHead, WireError> {
        loop {
            if let Some((length, head)) = parse_request(&self.inbox)? {
                self.inbox.advance(length);
                return Ok(head);
            }
            self.head_room()?;
            self.fill_some().await?;
        }
    }

    /// The next response head, interim ones included.
    pub(crate) async fn response_head(&mut self) -> Result<(StatusCode, HeaderMap), WireError> {
        loop {
            if let Some((length, status, headers)) = parse_response(&self.inbox)? {
                self.inbox.advance(length);
                return Ok((status, headers));
            }
            self.head_room()?;
            self.fill_some().await?;
        }
    }

    fn head_room(&self) -> Result<(), WireError> {
        if self.inbox.len() > MAX_HEAD_BYTES { Err(WireError::Malformed("head too long")) } else { Ok(()) }
    }

    /// The next piece of a body: one chunk, or what has arrived of a sized body. `None` at its end.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub(crate) async fn piece(
        &mut self,
        body: &mut Body,
        trailers: &mut HeaderMap,
    ) -> Result<Option<Bytes>, WireError> {
        match *body {
            Body::Done | Body::Sized(0) => Ok(None),
            Body::Chunked => self.chunk(body, trailers).await,
            Body::Sized(left) => {
                if self.inbox.is_empty() && self.fill().await? == 0 {
                    return Err(WireError::Cut);
                }
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.inbox.len());
                *body = Body::Sized(left.saturating_sub(take as u64));
                Ok(Some(self.inbox.split_to(take).freeze()))
            }
            Body::UntilClose => {
                if self.inbox.is_empty() && self.fill().await? == 0 {
                    *body = Body::Done;
                    return Ok(None);
                }
                Ok(Some(self.inbox.split().freeze()))
            }
        }
    }

    /// Takes nothing from the inbox before the chunk is complete.
    async fn chunk(&mut self, body: &mut Body, trailers: &mut HeaderMap) -> Result<Option<Bytes>, WireError> {
        loop {
            if let Some((line, size)) = chunk_size(&self.inbox)? {
                let end = line.saturating_add(size);
                let rest = self.inbox.get(end..).unwrap_or_default();
                if size == 0 {
                    if let Some((length, fields)) = parse_trailers(rest)? {
                        self.inbox.advance(end + length);
                        *trailers = fields;
                        *body = Body::Done;
                        return Ok(None);
                    }
                } else if rest.len() >= CHUNK_END.len() {
                    if !rest.starts_with(CHUNK_END) {
                        return Err(WireError::Malformed("chunk end"));
                    }
                    self.inbox.advance(line);
                    let chunk = self.inbox.split_to(size).freeze();
                    self.inbox.advance(CHUNK_END.len());
                    return Ok(Some(chunk));
                }
            }
            self.fill_body().await?;
        }
    }

    /// Inside a body the end of the stream is always a cut.
    async fn fill_body(&mut self) -> Result<(), WireError> {
        if self.fill().await? == 0 { Err(WireError::Cut) } else { Ok(()) }
    }
}

fn parse_request(bytes: &[u8]) -> Result<Option<(usize, RequestHead)>, WireError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let Status::Complete(length) = request.parse(bytes).map_err(|_| WireError::Malformed("request head"))? else {
        return Ok(None);
    };
    let method = request.method.unwrap_or_default();
    let head = RequestHead {
        method: Method::from_bytes(method.as_bytes()).map_err(|_| WireError::Malformed("method"))?,
        path: request.path.unwrap_or_default().to_owned(),
        headers: header_map(request.headers)?,
    };
    Ok(Some((length, head)))
}

fn parse_response(bytes: &[u8]) -> Result<Option<(usize, StatusCode, HeaderMap)>, WireError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut fields);
    let Status::Complete(length) = response.parse(bytes).map_err(|_| WireError::Malformed("response head"))? else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| WireError::Malformed("status"))?;
    Ok(Some((length, status, header_map(response.headers)?)))
}

/// Length of the size line, and the size.
fn chunk_size(bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let malformed = WireError::Malformed("chunk size");
    match httparse::parse_chunk_size(bytes) {
        Err(_) => Err(malformed),
        Ok(Status::Partial) => Ok(None),
        Ok(Status::Complete((line, size))) => Ok(Some((line, usize::try_from(size).map_err(|_| malformed)?))),
    }
}

fn parse_trailers(bytes: &[u8]) -> Result<Option<(usize, HeaderMap)>, WireError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(bytes, &mut fields).map_err(|_| WireError::Malformed("trailers"))? {
        Status::Complete((length, fields)) => Ok(Some((length, header_map(fields)?))),
        Status::Partial => Ok(None),
    }
}

fn header_map(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, WireError> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| WireError::Malformed("header name"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| WireError::Malformed("header value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}
