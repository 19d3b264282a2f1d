//! The hooks of one request, in the order in which they run.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::body::Rope;
use crate::code::ErrorCode;
use crate::error::FilterError;
use crate::facts::{ClientIp, Facts};
use crate::render::ErrorRenderer;
use crate::upstream::{Admission, AttemptRequest, AttemptResult, UpstreamPlan, Verdict};

/// A response that a filter or an endpoint gives itself; the body may be whole or a stream.
pub type Reply = http::Response<axum::body::Body>;

/// Something that the last piece of an answer waits for, for at most [`LAST_PIECE_WAIT`].
pub type Pending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Longest time for which the last piece of an answer waits: several times what a disk takes on a bad day. Then it
/// leaves all the same, because a call that was made must not be lost to its account.
pub const LAST_PIECE_WAIT: Duration = Duration::from_secs(2);

/// Whether the chain goes on. An answer is a value, never an error.
#[derive(Debug)]
pub enum Flow {
    /// The next filter runs.
    Continue,
    /// The request ends with this response.
    Reply(Box<Reply>),
}

/// What the core knows of a request before any filter ran.
#[derive(Clone, Debug)]
pub struct RequestInfo {
    /// Request id: taken over from the client or made here.
    pub id: Arc<str>,
    /// Method.
    pub method: Method,
    /// Name of the matched route: its path template.
    pub route: Arc<str>,
    /// Whether the route asks who sends the request.
    pub protected: bool,
    /// Peer address of the connection.
    pub peer: Option<SocketAddr>,
    /// When the head was complete.
    pub started: Instant,
    /// Largest body that the route takes, in bytes after decoding.
    pub max_body_bytes: usize,
}

/// What the hooks of a request see and may change.
pub struct ExchangeCx<'a> {
    /// The request head as the client sent it. Read-only: upstream heads are built from nothing.
    pub head: &'a http::request::Parts,
    /// What the core knows.
    pub request: &'a RequestInfo,
    /// What filters told each other.
    pub facts: &'a mut Facts,
    /// Headers that go on whatever response leaves, error answers included.
    pub reply_headers: &'a mut HeaderMap,
    /// Where the request may go; left empty by routes that end in an endpoint.
    pub plan: &'a mut UpstreamPlan,
    /// Dialect of errors, if not the gateway's default.
    pub renderer: &'a mut Option<Arc<dyn ErrorRenderer>>,
    /// Set in `response_chunk` by the filter that knows the protocol: so many bytes at the end of the piece are those
    /// with which the protocol ends the answer, and nothing of it is missing. Without it, its end is that of the body.
    pub ending: &'a mut Option<usize>,
}

impl ExchangeCx<'_> {
    /// Refuses a body that the client declares to be larger than the route takes. For filters that look at other
    /// headers of the body; the core asks, too, after all of them.
    ///
    /// # Errors
    /// `body_too_large`, the client is to blame.
    pub fn refuse_declared_too_large(&self) -> Result<(), FilterError> {
        let declared = self.head.headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        match declared.and_then(|text| text.parse::<u64>().ok()) {
            Some(length) if length > self.request.max_body_bytes as u64 => {
                Err(FilterError::too_large(self.request.max_body_bytes))
            }
            _ => Ok(()),
        }
    }

    /// Address of the client: the fact [`ClientIp`], else the peer. An IPv4 address in IPv6 form is given as IPv4,
    /// so that rules and limits can't be met under two names.
    #[must_use]
    pub fn client_ip(&self) -> Option<IpAddr> {
        let stated = self.facts.get::<ClientIp>().map(|ip| ip.0);
        stated.or_else(|| self.request.peer.map(|peer| peer.ip())).map(|ip| ip.to_canonical())
    }
}

/// What is left of a request when it ends.
#[derive(Debug)]
pub struct FinishCx<'a> {
    /// What the core knows.
    pub request: &'a RequestInfo,
    /// What filters told each other.
    pub facts: &'a Facts,
    /// Time since the head.
    pub duration: Duration,
    /// What went over the connection; `None` while it is not complete, and when the task was dropped: nobody counts then.
    pub traffic: Option<Traffic>,
}

/// What went over the connection of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Status of the answer; `None` when the client left before there was one.
    pub status: Option<StatusCode>,
    /// Bytes of the request body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were written.
    pub bytes_out: u64,
}

/// Head of a response on its way to the client.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// Status.
    pub status: StatusCode,
    /// Headers. From an upstream, hop-by-hop headers and framing are gone already.
    pub headers: HeaderMap,
    /// Length of the body, if known. A filter that will change the length sets it to `None`.
    pub length: Option<u64>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete answer left, an error answer included.
    Answered {
        /// Its status.
        status: StatusCode,
        /// Its code, when it was an error of the gateway.
        code: Option<ErrorCode>,
    },
    /// The client left before the answer was complete.
    ClientLeft,
    /// The answer broke off after its head had left.
    Cut(ErrorCode),
    /// The task was dropped: shutdown, or a connection that was cut from outside.
    Dropped,
}

/// One filter's part in one request. Every hook has a do-nothing default.
///
/// Request hooks run in the order of the route, response hooks in reverse order.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Once, when the head is complete and before any byte of the body is read.
    async fn request_head(&mut self, _cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        Ok(Flow::Continue)
    }

    /// For every piece of the body, as it arrives and before an upstream gets it, when the filter needs `Chunks`,
    /// `Start` or `Whole`. Must not block: at most a linear look at the piece.
    ///
    /// # Errors
    /// The body is refused; the rest of it is not read.
    fn request_chunk(&mut self, _chunk: &Bytes, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        Ok(())
    }

    /// On a route with need `Start`: whether the upstream can be chosen with what has been seen of the body. Asked
    /// before the first piece and after each; once all filters have said so, `request_ready` runs. The pieces that
    /// follow are still shown to [`Exchange::request_chunk`].
    fn seen_enough(&self) -> bool {
        true
    }

    /// Once, before the upstream is chosen or the endpoint runs. On a route with need `Whole` the body is
    /// complete and may be replaced; otherwise it is empty.
    async fn request_ready(&mut self, _body: &mut Rope, _cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        Ok(Flow::Continue)
    }

    /// Before every attempt, and before anything of it is prepared: whether it may begin now. `index` is its position in
    /// the plan; among the targets of one choice the filter may have another come first ([`UpstreamPlan::prefer`]). It
    /// is asked again after a wait, and with the same `index` when the same target is tried once more. The attempt
    /// before it, if there was one, is over.
    ///
    /// # Errors
    /// The request is refused; no further target is tried.
    fn before_attempt(&mut self, _index: usize, _cx: &mut ExchangeCx<'_>) -> Result<Admission, FilterError> {
        Ok(Admission::Granted)
    }

    /// Once per attempt, before the request head is sent to a target of the plan.
    ///
    /// # Errors
    /// The request is refused; no further target is tried.
    fn attempt(&mut self, _attempt: &mut AttemptRequest, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        Ok(())
    }

    /// Once or twice per attempt. The first filter (in reverse order) with an opinion decides;
    /// without one a response is relayed and a failure moves on to the next target.
    fn judge(&mut self, _result: &AttemptResult<'_>, _cx: &mut ExchangeCx<'_>) -> Option<Verdict> {
        None
    }

    /// Once per response that will be relayed. Not for error answers of the gateway.
    ///
    /// # Errors
    /// The response cannot be used; the client gets this error instead.
    fn response_head(&mut self, _head: &mut ResponseHead, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        Ok(())
    }

    /// For every piece of a relayed body. `end` is true exactly once, possibly with `None`.
    /// Must not block.
    ///
    /// # Errors
    /// The answer ends. While nothing has left, an error that the upstream is to blame for is judged as a reset, so
    /// another target may be tried, and any other is the answer; later it is said in-band where the protocol can.
    fn response_chunk(
        &mut self,
        _part: &mut Option<Bytes>,
        _end: bool,
        _cx: &mut ExchangeCx<'_>,
    ) -> Result<(), FilterError> {
        Ok(())
    }

    /// At most once, when it is known how the answer ends and the last of it has not left: behind all
    /// [`Exchange::response_chunk`] hooks, or before an error answer or the event of an error. What is given back is
    /// awaited before the last piece leaves, for at most [`LAST_PIECE_WAIT`]; pieces before it do not wait. Must not
    /// block. What is settled here is not to be settled again in [`Exchange::finish`], whose outcome may differ: the
    /// client may leave before the last byte.
    fn complete(&mut self, _outcome: &Outcome, _cx: &FinishCx<'_>) -> Option<Pending> {
        None
    }

    /// Exactly once, whatever happened, after the last byte. Must not block.
    fn finish(&mut self, _outcome: &Outcome, _cx: &FinishCx<'_>) {}
}
