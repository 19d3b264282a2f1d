//! The session as the engine sees it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dgx_gateway_filter::upstream::HttpVersion;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, Result};
use tokio::time::Instant;

use super::alive::Alive;
use super::genuine::Genuine;
use super::source::{HeldSource, Source};
use super::spooled::SpooledSource;
use super::timing::Timing;
use super::{BODY_REFUSED, Control, Length, lock};
use crate::proxy::body::ReadError;
use crate::upstream::pipe::Flow;

/// Stands in the place of the client's session.
pub(super) struct Replay {
    pub(super) genuine: Genuine,
    /// Keeps the answer alive while nothing comes.
    pub(super) alive: Alive,
    /// Something of the answer of this attempt has left.
    pub(super) passed: bool,
    pub(super) control: Arc<Mutex<Control>>,
    pub(super) source: Source,
    pub(super) timing: Timing,
    /// Something of the response has arrived.
    answered: bool,
    /// The end of a body without a length was told.
    end_told: bool,
    /// The upstream was told the length.
    sized: bool,
    /// What the upstream of the attempt speaks.
    version: HttpVersion,
    /// A response head that leaves with the first bytes of its body, so that a failure before them is still a
    /// real error or another attempt.
    pub(super) pending_head: Option<Box<ResponseHeader>>,
    /// How far the body is on its way, if that takes more than one piece.
    pub(super) flow: Option<Arc<Flow>>,
    /// The answer has been written to its end.
    pub(super) ended: bool,
    /// Bytes of the body of the response that have been written.
    pub(super) written: usize,
    holding: bool,
}

impl Drop for Replay {
    fn drop(&mut self) {
        lock(&self.control).genuine = self.genuine.take();
    }
}

impl Replay {
    /// A wrapper around the genuine session.
    pub(super) fn new(
        genuine: Box<ServerSession>,
        source: Source,
        control: Arc<Mutex<Control>>,
        started: std::time::Instant,
    ) -> Self {
        Self {
            genuine: Genuine::Here(genuine),
            alive: Alive::default(),
            passed: false,
            control,
            source,
            end_told: false,
            sized: true,
            timing: Timing::new(started),
            answered: false,
            version: HttpVersion::Http1,
            pending_head: None,
            flow: None,
            ended: false,
            written: 0,
            holding: false,
        }
    }

    fn rewind(&mut self) {
        let (body, patches, limits) = {
            let mut control = lock(&self.control);
            self.alive.replace(std::mem::take(&mut control.alive));
            self.version = control.version;
            self.flow = control.flow.clone();
            self.sized = control.length != Length::Unknown;
            (std::mem::take(&mut control.body), std::mem::take(&mut control.patches), control.timeouts)
        };
        match &mut self.source {
            Source::Held(held) => *held = HeldSource::new(body),
            Source::Spooled(spooled) => spooled.rewind(patches),
        }
        self.timing.restart(limits);
        self.answered = false;
        self.end_told = false;
        self.pending_head = None;
        self.ended = false;
        self.written = 0;
        self.passed = false;
        self.holding = false;
    }

    /// The next piece of the body; `None` when there is no more.
    async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let until = self.timing.total().map(Instant::into_std);
        let Self { genuine, source, control, .. } = self;
        let piece = match source {
            Source::Held(held) => held.next(),
            Source::Spooled(spooled) => {
                let next = spooled.next(genuine.ready().await?, until).await;
                took(control, spooled, next)?
            }
        };
        if piece.is_some() {
            self.timing.progress();
        }
        Ok(match &self.flow {
            Some(flow) => piece.map(|piece| flow.follow(piece)),
            None => piece,
        })
    }
}

/// Tells the core what was read of a body that streams.
pub(super) fn took<T>(control: &Mutex<Control>, spooled: &mut SpooledSource, read: Result<T, ReadError>) -> Result<T> {
    let mut control = lock(control);
    control.fresh.append(&mut spooled.take_fresh());
    if spooled.is_complete() {
        control.arriving = Length::Known(spooled.received());
    }
    match read {
        Ok(piece) => Ok(piece),
        Err(ReadError::Broken(error)) => Err(error),
        Err(ReadError::Refused(error)) => {
            control.failure.get_or_insert(error);
            Error::e_explain(BODY_REFUSED, "the rest of the body is refused")
        }
    }
}

#[async_trait]
impl CustomSession for Replay {
    fn req_header(&self) -> &RequestHeader {
        self.genuine.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.genuine.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.next_piece().await
    }

    /// The body is drained by its source. What is called here is the end of the wrapper: no write may be left that
    /// has the session.
    async fn drain_request_body(&mut self) -> Result<()> {
        self.genuine.ready().await.map(drop)
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.genuine.ready().await?.write_response_header(head).await
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, _end: bool) -> Result<()> {
        self.genuine.ready().await?.write_response_header_ref(head).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.genuine.ready().await?.write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.genuine.ready().await?.write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        if tasks.iter().any(|task| matches!(task, HttpTask::Body(..))) {
            self.timing.body_came();
        }
        self.answered = true;
        self.holding = self.holding || lock(&self.control).hold;
        let written = if self.holding { self.write_held(tasks).await } else { self.write_through(tasks).await };
        self.timing.progress();
        self.ended |= matches!(written, Ok(true));
        written
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        if let Some(session) = self.genuine.session_mut() {
            session.set_read_timeout(timeout);
        }
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.genuine.session().and_then(ServerSession::get_read_timeout)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        if let Some(session) = self.genuine.session_mut() {
            session.set_write_timeout(timeout);
        }
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.genuine.session().and_then(ServerSession::get_write_timeout)
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        if let Some(session) = self.genuine.session_mut() {
            session.set_total_drain_timeout(timeout);
        }
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.genuine.session().and_then(ServerSession::get_total_drain_timeout)
    }

    fn request_summary(&self) -> String {
        self.genuine.session().map(ServerSession::request_summary).unwrap_or_default()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.genuine.response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        if let Ok(session) = self.genuine.ready().await {
            session.shutdown().await;
        }
    }

    /// Not before the response begins: when the body is done while its last piece fills the pipe to the upstream,
    /// the engine looks at nothing but the response, neither at the client nor at our limits. An upstream of HTTP/1.1
    /// that knows the length needs no other end, and one that does not is told it alone ([`super::ReplayHandle::take_end`]).
    /// One of HTTP/2 would wait for the end of the stream.
    fn is_body_done(&mut self) -> bool {
        self.source.exhausted() && (self.answered || self.version == HttpVersion::Http2)
    }

    async fn finish(&mut self) -> Result<()> {
        self.genuine.ready().await?.finish_body().await
    }

    /// Asked before the rewind of an attempt, so it looks at what the attempt will send.
    fn is_body_empty(&mut self) -> bool {
        lock(&self.control).length == Length::Known(0)
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected {
            return self.watch_client().await;
        }
        if !self.source.exhausted() {
            self.timing.check_upload()?;
            self.until_room().await?;
            if self.client_is_done()
                && let Some(error) = self.client_left().await
            {
                return Err(error);
            }
            if let Some(piece) = self.next_piece().await? {
                return Ok(Some(piece));
            }
        }
        // Once the response has begun, its last piece ends the exchange. If the end of the body is learned of only behind
        // that piece (from a client of HTTP/2 it may come in a frame of its own), it has to be told here.
        if self.answered || self.version == HttpVersion::Http2 {
            return Ok(None);
        }
        if self.sized || std::mem::replace(&mut self.end_told, true) {
            return self.watch_client().await;
        }
        // an empty piece that the core turns into the end for the upstream alone: see `is_body_done`
        lock(&self.control).end = true;
        Ok(Some(Bytes::new()))
    }

    fn body_bytes_sent(&self) -> usize {
        self.genuine.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.genuine.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.genuine.session().and_then(ServerSession::digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.genuine.session_mut().and_then(ServerSession::digest_mut)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.genuine.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.genuine.session().and_then(ServerSession::server_addr)
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.genuine.session().map(ServerSession::to_h1_raw).unwrap_or_default()
    }

    /// The engine calls this at the start of every attempt: the rewind point.
    fn enable_retry_buffering(&mut self) {
        self.rewind();
    }

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
