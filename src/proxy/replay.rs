//! A downstream session that hands the engine a body we already hold, rewound for every attempt.
//!
//! The engine keeps at most 64 KiB of a body for retries. This wrapper owns the genuine session and a rope: it
//! gives out slices without copying, starts again whenever the engine starts an attempt, watches the client
//! meanwhile, turns our time limits into errors, and holds a response back while its head may still change.
//!
//! It implements a hidden trait of the engine; the version is pinned and the tests of body plans run it end to end.

mod session;
mod source;
mod timing;
mod writing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dgx_gateway_filter::Rope;
use dgx_gateway_filter::upstream::{AttemptTimeouts, HttpVersion};
use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;

use self::session::Replay;

/// The first byte of the response, or the next piece, came too late.
pub(super) const STALLED: ErrorType = ErrorType::new("UpstreamStalled");
/// The whole exchange took too long.
pub(super) const TOTAL: ErrorType = ErrorType::new("RequestDeadline");
/// A response that was held back is complete; the core decides about it.
pub(super) const HELD_BACK: ErrorType = ErrorType::new("ResponseHeldBack");

/// An error was said as the last piece of the answer; nothing more is relayed.
pub(super) const CUT: ErrorType = ErrorType::new("AnswerCut");

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
        let replay = Replay::new(genuine, Arc::clone(&control), started);
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
