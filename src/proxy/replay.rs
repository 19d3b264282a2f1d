//! A downstream session that hands the engine a body, rewound for every attempt.
//!
//! The engine keeps at most 64 KiB of a body for retries. This wrapper owns the genuine session and the source of the
//! body: a rope, given out in slices without copying, or a spool with the client behind it. It starts again whenever
//! the engine starts an attempt, watches the client meanwhile, turns our time limits into errors, and holds a response
//! back while its head may still change.
//!
//! It implements a hidden trait of the engine; the version is pinned and the tests of body plans run it end to end.

mod alive;
mod genuine;
mod session;
mod source;
mod splice;
mod spooled;
mod timing;
mod watching;
mod writing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dgx_gateway_filter::body::Patch;
use dgx_gateway_filter::upstream::{Address, AttemptTimeouts, HttpVersion, Upstream};
use dgx_gateway_filter::{FilterError, Pending, Rope};
use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;

pub(super) use self::alive::Alive;
use self::session::Replay;
use self::source::{HeldSource, SLICE, Source};
use self::splice::patched_length;
pub(super) use self::spooled::Beginning;
use self::spooled::SpooledSource;
use super::body::declared_length;
use crate::upstream::pipe::Flow;

/// The first byte of the response, or the next piece, came too late.
pub(super) const STALLED: ErrorType = ErrorType::new("UpstreamStalled");
/// The whole exchange took too long.
pub(super) const TOTAL: ErrorType = ErrorType::new("RequestDeadline");
/// A response that was held back is complete; the core decides about it.
pub(super) const HELD_BACK: ErrorType = ErrorType::new("ResponseHeldBack");

/// The rest of a body that streams is refused; the answer waits in the wrapper.
pub(super) const BODY_REFUSED: ErrorType = ErrorType::new("BodyRefused");

/// The answer is complete, and the upstream takes nothing more of the request.
pub(super) const ANSWERED: ErrorType = ErrorType::new("AnsweredEarly");

/// An error was said as the last piece of the answer; nothing more is relayed.
pub(super) const CUT: ErrorType = ErrorType::new("AnswerCut");

/// Parts of a body below this size are sent together: a patched body of a few kilobytes is one write, not five.
const SMALL_PART: usize = 16 * 1024;

/// How long the body is, as it goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes.
    Known(usize),
    /// The client has not said it, and is not done.
    Unknown,
}

impl Default for Length {
    fn default() -> Self {
        Self::Known(0)
    }
}

/// What the core and the wrapper share about the current attempt.
#[derive(Default)]
struct Control {
    body: Rope,
    patches: Vec<Patch>,
    /// Length of what the attempt sends.
    length: Length,
    /// Whether the body streams; then its length as it comes.
    streams: bool,
    arriving: Length,
    timeouts: Option<AttemptTimeouts>,
    version: HttpVersion,
    /// How far the body is on its way.
    flow: Option<Arc<Flow>>,
    hold: bool,
    release: Option<(Box<ResponseHeader>, Bytes)>,
    cut: bool,
    /// The end of the answer, while it has not left.
    ending: Option<Ending>,
    /// It has.
    end_left: bool,
    /// Pieces of a body that streams which no filter has seen.
    fresh: Vec<Bytes>,
    /// The upstream is to be told the end of the body with the next piece.
    end: bool,
    /// Why the rest of the body is refused.
    failure: Option<FilterError>,
    /// What keeps the answer of the next attempt alive.
    alive: Alive,
    /// No attempt runs: the next one has to wait.
    waiting: bool,
    /// What keeps the answer alive meanwhile, unless that of the last attempt does.
    waiting_alive: Option<Alive>,
    /// A head has left that belongs to no attempt, and nothing else.
    head_left_early: bool,
    /// The genuine session, put back when the wrapper is dropped.
    genuine: Option<Box<ServerSession>>,
}

/// Where an answer ends, and what that waits for.
struct Ending {
    /// So many bytes of the body stand before.
    at: usize,
    pending: Option<Pending>,
}

/// What an attempt sends, and how long it may take.
pub(super) struct Prepared {
    /// The body, if it is held.
    pub body: Rope,
    /// What changes in a body that streams.
    pub patches: Vec<Patch>,
    pub timeouts: AttemptTimeouts,
    pub version: HttpVersion,
    /// What keeps its answer alive.
    pub alive: Alive,
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
        Self::install_with(session, started, Source::Held(HeldSource::default()), Length::default())
    }

    /// The same for a body that streams, of which the beginning has been read.
    pub(super) fn install_streaming(session: &mut Session, started: std::time::Instant, beginning: Beginning) -> Self {
        let declared = declared_length(session).and_then(|length| usize::try_from(length).ok());
        let length = match declared {
            _ if beginning.complete => Length::Known(beginning.spool.len()),
            Some(length) => Length::Known(length),
            None => Length::Unknown,
        };
        let source = Source::Spooled(Box::new(SpooledSource::new(beginning)));
        Self::install_with(session, started, source, length)
    }

    fn install_with(session: &mut Session, started: std::time::Instant, source: Source, arriving: Length) -> Self {
        let control = Arc::new(Mutex::new(Control {
            arriving,
            streams: matches!(source, Source::Spooled(_)),
            ..Control::default()
        }));
        let genuine = std::mem::replace(&mut session.downstream_session, placeholder());
        let replay = Replay::new(genuine, source, Arc::clone(&control), started);
        *session.downstream_session = ServerSession::Custom(Box::new(replay)); // into the box of the placeholder
        Self(control)
    }

    /// What the next attempt sends, and how long it may take.
    pub(super) fn prepare(&self, next: Prepared) {
        let mut control = lock(&self.0);
        let Prepared { body, patches, timeouts, version, alive } = next;
        control.alive = alive;
        control.length = match control.arriving {
            _ if !control.streams => Length::Known(body.len()),
            Length::Known(length) => Length::Known(patched_length(length, &patches)),
            Length::Unknown => Length::Unknown,
        };
        control.patches = patches;
        control.body = body.joined(SMALL_PART);
        control.timeouts = Some(timeouts);
        control.version = version;
        control.hold = false;
        control.release = None;
        control.cut = false;
        control.end = false;
        control.waiting = false;
    }

    /// The next attempt has to wait: until then whoever looks for the client's leaving meets no limit of an attempt, and
    /// reads on of a body that streams.
    pub(super) fn wait(&self, alive: Option<Alive>) {
        let mut control = lock(&self.0);
        control.waiting = true;
        if alive.is_some() {
            control.waiting_alive = alive;
        }
    }

    /// If the body is more than one piece, and goes to an upstream of HTTP/1.1 outside: what tells how far it is on its
    /// way in the attempt that begins, and how many bytes it has at most.
    pub(super) fn begin_flow(&self, upstream: &Upstream) -> Option<(Arc<Flow>, usize)> {
        let mut control = lock(&self.0);
        let length = match control.length {
            Length::Known(length) => length,
            Length::Unknown => usize::MAX,
        };
        let fits = upstream.version == HttpVersion::Http1 && matches!(upstream.address, Address::Tcp { .. });
        control.flow = (fits && length > SLICE).then(Arc::default);
        Some((control.flow.clone()?, length))
    }

    /// Length of what the attempt sends.
    pub(super) fn length(&self) -> Length {
        lock(&self.0).length
    }

    /// Takes the pieces of a body that streams which have come since.
    pub(super) fn take_fresh(&self) -> Vec<Bytes> {
        std::mem::take(&mut lock(&self.0).fresh)
    }

    /// Whether the piece at hand stands for the end of the body towards the upstream.
    pub(super) fn take_end(&self) -> bool {
        std::mem::take(&mut lock(&self.0).end)
    }

    /// Takes the reason why the rest of the body is refused.
    pub(super) fn take_failure(&self) -> Option<FilterError> {
        lock(&self.0).failure.take()
    }

    /// Whether only a head has left that belongs to no attempt: another attempt can still give the answer.
    pub(super) fn head_left_early(&self) -> bool {
        lock(&self.0).head_left_early
    }

    /// Takes a released response that the engine had no more piece to carry.
    pub(super) fn take_release(&self) -> Option<(Box<ResponseHeader>, Bytes)> {
        lock(&self.0).release.take()
    }

    /// Ends the exchange with [`CUT`] as soon as the pieces that are on their way have been written.
    pub(super) fn cut(&self) {
        lock(&self.0).cut = true;
    }

    /// What leaves of the body behind its first `at` bytes is the end of the answer, and waits for this.
    pub(super) fn end_at(&self, at: usize, pending: Option<Pending>) {
        lock(&self.0).ending = Some(Ending { at, pending });
    }

    /// Takes what the end of the answer waits for.
    pub(super) fn take_pending(&self) -> Option<Pending> {
        lock(&self.0).ending.take()?.pending
    }

    /// Whether the end of the answer has been written.
    pub(super) fn end_left(&self) -> bool {
        lock(&self.0).end_left
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
    /// A write to the client that is under way ends first.
    pub(super) async fn restore(&self, session: &mut Session) {
        if session.downstream_session.is_custom() {
            if let Err(error) = session.downstream_session.drain_request_body().await {
                tracing::debug!(%error, "the client left while a heartbeat was written");
            }
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
