//! A downstream session that hands the engine a body we already hold, rewound for every attempt.
//!
//! The engine keeps at most 64 KiB of a body for retries. This wrapper owns the genuine session and a rope: it
//! gives out slices without copying, starts again whenever the engine starts an attempt, watches the client
//! meanwhile, turns our time limits into errors, and holds a response back while its head may still change.
//!
//! It implements a hidden trait of the engine; the version is pinned and the tests of body plans run it end to end.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dgx_gateway_filter::Rope;
use dgx_gateway_filter::upstream::{AttemptTimeouts, HttpVersion};
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use tokio::time::{Instant, Sleep};

/// The first byte of the response, or the next piece, came too late.
pub(super) const STALLED: ErrorType = ErrorType::new("UpstreamStalled");
/// The whole exchange took too long.
pub(super) const TOTAL: ErrorType = ErrorType::new("RequestDeadline");
/// A response that was held back is complete; the core decides about it.
pub(super) const HELD_BACK: ErrorType = ErrorType::new("ResponseHeldBack");

/// An error was said as the last piece of the answer; nothing more is relayed.
pub(super) const CUT: ErrorType = ErrorType::new("AnswerCut");

/// Largest slice given to the engine at once: 128 KiB keeps the watch on the client and the time limits close.
const SLICE: usize = 128 * 1024;

/// Parts of a body below this size are sent together: a patched body of a few kilobytes is one write, not five.
const SMALL_PART: usize = 16 * 1024;

/// What the core and the wrapper share about the current attempt.
#[derive(Default)]
struct Control {
    body: Rope,
    length: usize,
    timeouts: Option<AttemptTimeouts>,
    version: HttpVersion,
    hold: bool,
    release: Option<(Box<ResponseHeader>, Bytes)>,
    cut: bool,
    /// The genuine session, put back when the wrapper is dropped.
    genuine: Option<Box<ServerSession>>,
}

/// The core's end of an installed wrapper.
#[derive(Clone)]
pub(super) struct ReplayHandle(Arc<Mutex<Control>>);

fn lock(control: &Mutex<Control>) -> MutexGuard<'_, Control> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReplayHandle {
    /// Puts the wrapper in the place of the session. The body must have been read completely.
    pub(super) fn install(session: &mut Session, started: std::time::Instant) -> Self {
        let control = Arc::new(Mutex::new(Control::default()));
        let genuine = std::mem::replace(&mut session.downstream_session, placeholder());
        let replay = Replay {
            inner: Some(genuine),
            control: Arc::clone(&control),
            parts: Rope::new(),
            position: Position::default(),
            limits: None,
            started: Instant::from_std(started),
            mark: Instant::now(),
            any_byte: false,
            begun: false,
            answered: false,
            version: HttpVersion::Http1,
            timer: None,
            pending_head: None,
            holding: false,
        };
        *session.downstream_session = ServerSession::Custom(Box::new(replay)); // into the box of the placeholder
        Self(control)
    }

    /// What the next attempt sends, and how long it may take.
    pub(super) fn prepare(&self, body: Rope, timeouts: AttemptTimeouts, version: HttpVersion) {
        let mut control = lock(&self.0);
        control.length = body.len();
        control.body = body.joined(SMALL_PART);
        control.timeouts = Some(timeouts);
        control.version = version;
        control.hold = false;
        control.release = None;
        control.cut = false;
    }

    /// Takes a released response that the engine had no more piece to carry.
    pub(super) fn take_release(&self) -> Option<(Box<ResponseHeader>, Bytes)> {
        lock(&self.0).release.take()
    }

    /// Ends the exchange with [`CUT`] as soon as the pieces that are on their way have been written.
    pub(super) fn cut(&self) {
        lock(&self.0).cut = true;
    }

    /// Holds the response back until it is complete and [`ReplayHandle::release`] was called.
    pub(super) fn hold(&self) {
        lock(&self.0).hold = true;
    }

    /// Lets a held response go, with a new head and body.
    pub(super) fn release(&self, head: ResponseHeader, body: Bytes) {
        lock(&self.0).release = Some((Box::new(head), body));
    }

    /// Puts the genuine session back. Does nothing when that has happened already.
    pub(super) fn restore(&self, session: &mut Session) {
        if session.downstream_session.is_custom() {
            drop(std::mem::replace(&mut session.downstream_session, placeholder()));
            if let Some(genuine) = lock(&self.0).genuine.take() {
                session.downstream_session = genuine;
            }
        }
    }
}

fn placeholder() -> Box<ServerSession> {
    Box::new(ServerSession::Custom(Box::new(())))
}

#[derive(Clone, Copy, Default)]
struct Position {
    part: usize,
    offset: usize,
}

struct Replay {
    /// The genuine session; `None` only while dropping.
    inner: Option<Box<ServerSession>>,
    control: Arc<Mutex<Control>>,
    parts: Rope,
    position: Position,
    limits: Option<AttemptTimeouts>,
    started: Instant,
    /// End of the upload, then the last piece of the response.
    mark: Instant,
    /// Some byte of the response body has arrived.
    any_byte: bool,
    /// Some byte of the answer has left.
    begun: bool,
    /// Something of the response has arrived.
    answered: bool,
    /// What the upstream of the attempt speaks.
    version: HttpVersion,
    timer: Option<Pin<Box<Sleep>>>,
    /// A response head that leaves with the first bytes of its body, so that a failure before them is still a
    /// real error or another attempt.
    pending_head: Option<Box<ResponseHeader>>,
    holding: bool,
}

impl Drop for Replay {
    fn drop(&mut self) {
        lock(&self.control).genuine = self.inner.take();
    }
}

impl Replay {
    #[expect(clippy::expect_used, reason = "`inner` is taken by drop only")]
    fn genuine(&self) -> &ServerSession {
        self.inner.as_deref().expect("the genuine session is there until drop")
    }

    #[expect(clippy::expect_used, reason = "`inner` is taken by drop only")]
    fn genuine_mut(&mut self) -> &mut ServerSession {
        self.inner.as_deref_mut().expect("the genuine session is there until drop")
    }

    fn rewind(&mut self) {
        let (body, limits, version) = {
            let mut control = lock(&self.control);
            (std::mem::take(&mut control.body), control.timeouts, control.version)
        };
        self.version = version;
        self.parts = body;
        self.limits = limits;
        self.position = Position::default();
        self.mark = Instant::now();
        self.any_byte = false;
        self.begun = false;
        self.answered = false;
        self.pending_head = None;
        self.holding = false;
        self.timer = None;
    }

    fn exhausted(&self) -> bool {
        self.position.part >= self.parts.parts().len()
    }

    fn next_slice(&mut self) -> Option<Bytes> {
        let part = self.parts.parts().get(self.position.part)?;
        let end = part.len().min(self.position.offset + SLICE);
        let slice = part.slice(self.position.offset..end);
        self.position = if end == part.len() {
            Position { part: self.position.part + 1, offset: 0 }
        } else {
            Position { offset: end, ..self.position }
        };
        self.mark = Instant::now();
        Some(slice)
    }

    /// The next time limit, and what its passing means.
    fn deadline(&self) -> Option<(Instant, ErrorType)> {
        let limits = self.limits?;
        let total = if self.begun { limits.total_once_begun } else { limits.total };
        let total = (self.started + total, TOTAL);
        let step = if self.any_byte { limits.idle } else { limits.first_byte };
        match step.map(|step| (self.mark + step, STALLED)) {
            Some(step) if step.0 < total.0 => Some(step),
            _ => Some(total),
        }
    }

    /// Arms the one timer. It is not moved on progress: when it fires early, it is set again.
    fn arm(&mut self) {
        if self.timer.is_none()
            && let Some((at, _)) = self.deadline()
        {
            self.timer = Some(Box::pin(tokio::time::sleep_until(at)));
        }
    }

    /// The timer fired: either a limit has passed, or the timer is set to the limit as it is now.
    fn fired(&mut self) -> Result<()> {
        match self.deadline() {
            Some((at, what)) if at <= Instant::now() => Error::e_explain(what, "time limit of the exchange"),
            Some((at, _)) => {
                if let Some(timer) = &mut self.timer {
                    timer.as_mut().reset(at);
                }
                Ok(())
            }
            None => {
                self.timer = None;
                Ok(())
            }
        }
    }

    /// Looks at the client once, without waiting.
    async fn client_left(&mut self) -> Option<Box<Error>> {
        let mut idle = std::pin::pin!(self.genuine_mut().read_body_or_idle(true));
        match futures_util::poll!(&mut idle) {
            std::task::Poll::Ready(Err(error)) => Some(error),
            _ => None,
        }
    }

    async fn watch_client(&mut self) -> Result<Option<Bytes>> {
        loop {
            self.arm();
            let Self { inner, timer, .. } = self;
            let Some(inner) = inner.as_deref_mut() else { return Ok(None) };
            let Some(timer) = timer else { return inner.read_body_or_idle(true).await };
            tokio::select! {
                biased;
                read = inner.read_body_or_idle(true) => return read,
                () = timer.as_mut() => {}
            }
            self.fired()?;
        }
    }

    async fn write_held(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        for task in tasks {
            match task {
                HttpTask::Failed(error) => return Err(error),
                task if task.is_end() => {
                    let release = lock(&self.control).release.take();
                    let Some((head, body)) = release else {
                        return Error::e_explain(HELD_BACK, "held response is complete");
                    };
                    let tasks = vec![HttpTask::Header(head, false), HttpTask::Body(Some(body), true)];
                    return self.genuine_mut().response_duplex_vec(tasks).await;
                }
                _ => {}
            }
        }
        Ok(false)
    }

    async fn write_through(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut out = Vec::with_capacity(tasks.len() + 1);
        for task in tasks {
            match task {
                // interim heads are built by the upstream, not by our allow-list, and nobody asked for them
                HttpTask::Header(head, _) if head.status.is_informational() => {}
                HttpTask::Header(head, false) => self.pending_head = Some(head),
                HttpTask::Body(None, false) => {}
                HttpTask::Body(Some(part), false) if part.is_empty() => {}
                // nothing of the answer has left: say the failure properly
                HttpTask::Failed(error) if self.pending_head.is_some() && out.is_empty() => return Err(error),
                task => {
                    if let Some(head) = self.pending_head.take() {
                        out.push(HttpTask::Header(head, false));
                    }
                    out.push(task);
                }
            }
        }
        if out.is_empty() {
            return Ok(false);
        }
        self.begun = true;
        if self.exhausted() {
            self.parts = Rope::new(); // the answer has begun, so the body will not be sent again
            self.position = Position::default();
        }
        let done = self.genuine_mut().response_duplex_vec(out).await?;
        // the upstream may stay silent after its error: do not wait for another piece
        if lock(&self.control).cut { Error::e_explain(CUT, "the answer ended with an error") } else { Ok(done) }
    }
}

#[async_trait]
impl CustomSession for Replay {
    fn req_header(&self) -> &RequestHeader {
        self.genuine().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.genuine_mut().req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(self.next_slice())
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.genuine_mut().write_response_header(head).await
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, _end: bool) -> Result<()> {
        self.genuine_mut().write_response_header_ref(head).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.genuine_mut().write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.genuine_mut().write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        if !self.any_byte && tasks.iter().any(|task| matches!(task, HttpTask::Body(..))) {
            self.any_byte = true;
            self.timer = None; // another limit counts from here
        }
        self.answered = true;
        self.holding = self.holding || lock(&self.control).hold;
        let written = if self.holding { self.write_held(tasks).await } else { self.write_through(tasks).await };
        self.mark = Instant::now();
        written
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.genuine_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.genuine().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.genuine_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.genuine().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.genuine_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.genuine().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.genuine().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.genuine().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.genuine_mut().shutdown().await;
    }

    /// Not before the response begins: when the body is done while its last piece fills the pipe to the upstream,
    /// the engine looks at nothing but the response, neither at the client nor at our limits. An upstream of HTTP/1.1
    /// knows the length and needs no other end; one of HTTP/2 would wait for the end of the stream.
    fn is_body_done(&mut self) -> bool {
        self.exhausted() && (self.answered || self.version == HttpVersion::Http2)
    }

    async fn finish(&mut self) -> Result<()> {
        self.genuine_mut().finish_body().await
    }

    /// Asked before the rewind of an attempt, so it looks at what the attempt will send.
    fn is_body_empty(&mut self) -> bool {
        lock(&self.control).length == 0
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.exhausted() {
            return self.watch_client().await;
        }
        // the timer runs after the upload; a slow one must not outlast the whole exchange
        if self.limits.is_some_and(|limits| self.started + limits.total <= Instant::now()) {
            return Error::e_explain(TOTAL, "time limit of the exchange");
        }
        match self.client_left().await {
            Some(error) => Err(error),
            None => Ok(self.next_slice()),
        }
    }

    fn body_bytes_sent(&self) -> usize {
        self.genuine().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.genuine().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.genuine().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.genuine_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.genuine().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.genuine().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.genuine().to_h1_raw()
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
