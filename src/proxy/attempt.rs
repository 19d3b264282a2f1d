//! Attempts at upstreams: what goes out, what came back, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dgx_gateway_filter::upstream::{
    AttemptFailure, AttemptRequest, AttemptResult, AttemptTimeouts, HttpVersion, KeepAlive, Upstream, Verdict,
};
use dgx_gateway_filter::{ErrorCode, FilterError, Outcome, ResponseHead};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora::{Error, ErrorType};

use super::compressed::{self, Compressed};
use super::context::{Chain, RequestCtx};
use super::judged::Judged;
use super::replay::{Alive, Prepared, STALLED, TOTAL};
use crate::route::Route;

/// How much later than the limits of an attempt the engine's own limit falls, so that it meets only what those miss.
const AFTER_LIMITS: Duration = Duration::from_secs(5);

/// How far the response of an attempt has come.
#[derive(Default)]
pub(super) enum Stage {
    /// It was broken off, because its protocol cannot say an error in it.
    Broken,
    /// It broke off, and a filter knows that nothing of the answer is missing.
    Complete,
    /// It is read before it is judged; the client sees nothing of it.
    Held(Box<Judged>),
    /// It was held, judged, and let go as a whole: its hooks have run.
    Released,
    /// Its head has come, and it passes piece by piece.
    Relaying,
    /// An error was said in it as its last piece; nothing more passes.
    Said,
    /// The connection was switched to another protocol: bytes pass both ways, and nobody looks at them.
    Switched,
    /// Nothing of it has come.
    #[default]
    Waiting,
}

/// Where the attempts of a request stand.
#[derive(Default)]
pub(super) struct Attempt {
    /// Position of the current target in the plan.
    pub index: usize,
    /// What goes to it.
    pub request: Option<AttemptRequest>,
    /// The target.
    pub upstream: Option<Arc<Upstream>>,
    /// How far its response has come.
    pub stage: Stage,
    /// It has a connection of its own, which serves no other.
    pub apart: bool,
    /// Status of the response that passes.
    pub status: StatusCode,
    /// The length of its body is told in its head.
    pub sized: bool,
    /// Bytes of its body that have passed.
    pub passed: usize,
    /// The response comes compressed, and is decoded.
    pub compressed: Option<Compressed>,
    /// It is not what its coding says; nothing behind this can be read.
    pub undecodable: bool,
    /// What filters kept back until the end of a body that ended with trailers.
    pub rest: Option<Bytes>,
    /// The pooled connection was dead once already; the same target is not tried a third time.
    pub stale: bool,
    /// A filter had the same target tried once more; it is not asked a third time.
    pub again: bool,
}

impl Attempt {
    /// Goes on to the next target.
    fn advance(&mut self) {
        self.index += 1;
        self.stale = false;
        self.again = false;
    }

    /// Puts the decoded bytes of a compressed response that passes in the place of a piece.
    pub(super) fn decode(&mut self, part: &mut Option<Bytes>, end: bool) {
        let Some(compressed) = &mut self.compressed else { return };
        let piece = part.take().unwrap_or_default();
        if !self.undecodable {
            let (decoded, result) = compressed.decode(piece, end, compressed::MAX_PIECE_BYTES);
            self.undecodable = result.is_err();
            *part = Some(decoded).filter(|decoded| !decoded.is_empty());
        }
    }

    /// Stays at the same target for another attempt; false when it has been repeated already.
    fn repeat(&mut self) -> bool {
        self.stale = false;
        !std::mem::replace(&mut self.again, true)
    }
}

/// What follows from a verdict.
pub(super) enum Next {
    Fail,
    ReadBody(usize),
    Relay,
    Retry,
}

impl RequestCtx {
    /// Prepares the attempt at the current target; `None` when the plan has no further one.
    pub(super) fn prepare_attempt(
        &mut self,
        head: &http::request::Parts,
    ) -> Result<Option<Arc<Upstream>>, FilterError> {
        let Some(route) = self.route.clone() else { return Ok(None) };
        let Some(target) = self.chain.shared.plan.targets.get(self.attempt.index) else { return Ok(None) };
        let (upstream, entry) = (Arc::clone(&target.upstream), target.entry);
        self.away.begin();
        let total = self.world.server.total_timeout;
        let mut request = AttemptRequest {
            index: self.attempt.index,
            entry,
            method: head.method.clone(),
            path: String::new(),
            headers: HeaderMap::with_capacity(8),
            body: self.body.clone(),
            patches: Vec::new(),
            timeouts: AttemptTimeouts { first_byte: None, idle: None, total, total_once_begun: total },
            keep_alive: None,
            decode_answer: false,
        };
        fill_fixed(&route, head, &mut request);
        for exchange in &mut self.chain.exchanges {
            exchange.attempt(&mut request, &mut self.chain.shared.cx(head))?;
        }
        if !request.body.is_empty() {
            request.body = request.body.patched(&std::mem::take(&mut request.patches));
        }
        if let Some(replay) = &self.replay {
            let (body, timeouts) = (request.body.clone(), request.timeouts);
            let patches = std::mem::take(&mut request.patches);
            let alive = request.keep_alive.take().map(|keep_alive| self.alive(keep_alive, head.version));
            let (version, alive) = (upstream.version, alive.unwrap_or_default());
            replay.prepare(Prepared { body, patches, timeouts, version, alive });
        }
        if let Some(followed) = &mut self.chain.followed {
            followed.attempt(&upstream, &request);
        }
        self.attempt.stage = Stage::Waiting;
        self.attempt.passed = 0;
        self.attempt.compressed = None;
        self.attempt.undecodable = false;
        self.held_answer.give_back();
        self.attempt.request = Some(request);
        self.attempt.upstream = Some(Arc::clone(&upstream));
        Ok(Some(upstream))
    }

    /// What keeps the answer of an attempt alive, with the head as it would leave.
    pub(super) fn alive(&self, keep_alive: KeepAlive, client: http::Version) -> Alive {
        let KeepAlive { commit_after, head, heartbeat } = keep_alive;
        let early_head = commit_after.map(|after| {
            let mut head = self.outgoing(head());
            if client == http::Version::HTTP_11 {
                // else the engine delimits by closing; a name and a value that are fixed are never refused
                drop(head.insert_header(header::TRANSFER_ENCODING, "chunked"));
            }
            (self.chain.shared.request.started + after, Box::new(head))
        });
        Alive::new(early_head, heartbeat)
    }

    /// Longest silence of the upstream that the engine itself bears. The limits of an attempt are watched beside
    /// the client, so not while the upload is stuck, nor on a route whose body streams through: without this limit
    /// such an exchange would never end.
    pub(super) fn longest_silence(&self) -> Duration {
        let total = self.world.server.total_timeout;
        let step = self.attempt.request.as_ref().and_then(|request| {
            let limits = &request.timeouts;
            Some(limits.first_byte?.max(limits.idle?))
        });
        match step {
            Some(step) if self.replay.is_none() => step, // there is no other watch
            step => step.unwrap_or(total) + AFTER_LIMITS,
        }
    }

    /// The first opinion of a filter, in reverse order.
    fn opinion(&mut self, head: &http::request::Parts, result: &AttemptResult<'_>) -> Option<Verdict> {
        let Chain { exchanges, shared, .. } = &mut self.chain;
        exchanges.iter_mut().rev().find_map(|exchange| exchange.judge(result, &mut shared.cx(head)))
    }

    /// Asks the filters what to do with a result, and settles what that means here and now.
    pub(super) fn judge(&mut self, head: &http::request::Parts, result: &AttemptResult<'_>) -> Next {
        let verdict = self.opinion(head, result);
        let verdict = verdict.unwrap_or(match result {
            AttemptResult::Failed(AttemptFailure::Total) => Verdict::Fail(Box::new(exhausted(result))),
            AttemptResult::Failed(_) => Verdict::Next,
            _ => Verdict::Relay,
        });
        let next = self.next(result, verdict);
        if let Some(followed) = &mut self.chain.followed {
            followed.judged(result, &next, &self.chain.shared.facts);
        }
        next
    }

    fn next(&mut self, result: &AttemptResult<'_>, verdict: Verdict) -> Next {
        match verdict {
            Verdict::Relay if matches!(result, AttemptResult::Failed(_)) => self.fail(exhausted(result)),
            Verdict::Relay => Next::Relay,
            Verdict::ReadBody { max_bytes } if matches!(result, AttemptResult::Head(_)) && self.replay.is_some() => {
                Next::ReadBody(max_bytes)
            }
            Verdict::ReadBody { .. } => Next::Relay,
            Verdict::Again if self.replay.is_some() && self.attempt.repeat() => Next::Retry,
            Verdict::Next
                if self.can_repeat(result) && self.attempt.index + 1 < self.chain.shared.plan.targets.len() =>
            {
                self.attempt.advance();
                Next::Retry
            }
            Verdict::Again | Verdict::Next => self.fail(exhausted(result)),
            Verdict::Fail(error) => self.fail(*error),
        }
    }

    /// The response broke off after its head had left: does a filter know that nothing of the answer is missing?
    pub(super) fn is_complete(&mut self, head: &http::request::Parts, failure: AttemptFailure) -> bool {
        matches!(self.opinion(head, &AttemptResult::Failed(failure)), Some(Verdict::Relay))
    }

    /// Whether the request can be sent once more: its body is held, or nothing of it has been sent yet.
    fn can_repeat(&self, result: &AttemptResult<'_>) -> bool {
        use AttemptFailure::{Connect, Tls};
        self.replay.is_some() || matches!(result, AttemptResult::Failed(Connect | Tls))
    }

    /// No attempt follows, for this reason.
    pub(super) fn fail(&mut self, error: FilterError) -> Next {
        self.failure.get_or_insert(error);
        Next::Fail
    }

    pub(super) fn response_head(
        &mut self,
        head: &http::request::Parts,
        response: &mut ResponseHead,
    ) -> Result<(), FilterError> {
        for exchange in self.chain.exchanges.iter_mut().rev() {
            exchange.response_head(response, &mut self.chain.shared.cx(head))?;
        }
        Ok(())
    }

    pub(super) fn response_chunk(
        &mut self,
        head: &http::request::Parts,
        part: &mut Option<Bytes>,
        end: bool,
    ) -> Result<(), FilterError> {
        let Chain { exchanges, shared, .. } = &mut self.chain;
        let mut cx = shared.cx(head);
        exchanges.iter_mut().rev().try_for_each(|exchange| exchange.response_chunk(part, end, &mut cx))
    }

    /// A piece of a relayed body, of this length, is ready to leave, and `ending` or `end` says that it is the last: its
    /// last bytes wait for what the filters have to do before. What stands before them does not, unless the client
    /// can tell from the length alone that the answer is complete.
    pub(super) fn completing(&mut self, ending: Option<usize>, length: usize) {
        let before = match ending {
            Some(ending) => length.saturating_sub(ending),
            None if self.attempt.sized => 0,
            None => length,
        };
        let outcome = Outcome::Answered { status: self.attempt.status, code: None };
        self.complete_at(self.attempt.passed + before, &outcome);
    }

    /// What leaves of the answer behind the first `at` bytes waits for what the filters have to do before its end.
    pub(super) fn complete_at(&mut self, at: usize, outcome: &Outcome) {
        // without the wrapper nothing could wait, so `finish` is the end
        let Some(replay) = self.replay.as_ref().filter(|_| !self.chain.is_completed()) else { return };
        let pending = self.chain.complete(outcome);
        replay.end_at(at, pending);
    }

    /// How the request ended, for the filters and the log.
    pub(super) fn outcome(&self, written: Option<StatusCode>, error: Option<&Error>) -> Outcome {
        match (written, error, self.answered_code) {
            (Some(_), _, Some(code)) if matches!(self.attempt.stage, Stage::Broken | Stage::Said) => Outcome::Cut(code),
            (Some(status), _, None)
                if self.delivered
                    || matches!(self.attempt.stage, Stage::Complete | Stage::Released | Stage::Switched) =>
            {
                Outcome::Answered { status, code: None }
            }
            (Some(status), None, code) | (Some(status), Some(_), code @ Some(_)) => Outcome::Answered { status, code },
            _ => Outcome::ClientLeft,
        }
    }
}

fn fill_fixed(route: &Route, head: &http::request::Parts, request: &mut AttemptRequest) {
    let Some(fixed) = route.fixed() else { return };
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    request.path = format!("{}{path}", fixed.prefix);
    let of_grpc: &[HeaderName] = if is_grpc(head) { &GRPC_HEADERS } else { &[] };
    for name in fixed.forward_headers.iter().chain([&header::CONTENT_TYPE, &header::ACCEPT]).chain(of_grpc) {
        if !request.headers.contains_key(name) {
            request.headers.extend(head.headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    if fixed.upstream.version == HttpVersion::Http2 && takes_trailers(head) {
        request.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    (request.timeouts.first_byte, request.timeouts.idle) = (fixed.idle, fixed.idle);
}

/// Whether the client can be given trailers: towards HTTP/1.1 the engine writes none.
fn takes_trailers(client: &http::request::Parts) -> bool {
    let says_so = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"trailers");
    client.version == http::Version::HTTP_2 && client.headers.get_all(header::TE).iter().any(says_so)
}

/// Headers of a call of gRPC that are part of its protocol.
const GRPC_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-timeout"),
];

fn is_grpc(head: &http::request::Parts) -> bool {
    let content_type = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.first().is_none_or(|next| b"+;".contains(next)))
}

/// The error when no target is left.
pub(super) fn exhausted(result: &AttemptResult<'_>) -> FilterError {
    use ErrorCode::{UpstreamError, UpstreamTimeout, UpstreamUnavailable};
    match result {
        AttemptResult::Failed(AttemptFailure::Connect | AttemptFailure::Tls) => {
            FilterError::upstream(UpstreamUnavailable, "No upstream could be reached.")
        }
        AttemptResult::Failed(AttemptFailure::Timeout | AttemptFailure::Total) => {
            FilterError::upstream(UpstreamTimeout, "The upstream did not answer in time.")
        }
        _ => FilterError::upstream(UpstreamError, "The upstream failed."),
    }
}

/// The class of a failure of the engine.
pub(super) fn failure_of(error: &Error) -> AttemptFailure {
    match error.etype() {
        kind if *kind == TOTAL => AttemptFailure::Total,
        kind if *kind == STALLED => AttemptFailure::Timeout,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => AttemptFailure::Timeout,
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::TLSWantX509Lookup
        | ErrorType::InvalidCert => AttemptFailure::Tls,
        ErrorType::ConnectTimedout
        | ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::SocketError
        | ErrorType::BindError => AttemptFailure::Connect,
        _ => AttemptFailure::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_repeated_once_and_the_next_one_once_more() {
        let mut attempt = Attempt { stale: true, ..Attempt::default() };
        assert!(attempt.repeat());
        assert_eq!((attempt.index, attempt.stale), (0, false), "its pooled connection may be dead once more");
        assert!(!attempt.repeat() && !attempt.repeat());
        attempt.advance();
        assert_eq!((attempt.index, attempt.again, attempt.stale), (1, false, false));
        assert!(attempt.repeat() && !attempt.repeat());
    }
}
