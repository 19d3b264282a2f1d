//! Responses that are held until all of them is there, judged, and let go as a whole.

use bytes::Bytes;
use dgx_gateway_filter::upstream::AttemptResult;
use dgx_gateway_filter::{ErrorCode, FilterError, Outcome, ResponseHead};
use pingora::http::ResponseHeader;

use super::attempt::{Attempt, Next, Stage};
use super::body::Held;
use super::collector::Collector;
use super::compressed;
use super::context::RequestCtx;

/// So much is looked at of a response that is not whole: what an error says stands at its beginning.
const BEGINNING: usize = 64 * 1024;

/// A response that is read before it is judged.
pub(super) struct Judged {
    head: ResponseHead,
    body: Collector,
    max_bytes: usize,
    pub complete: bool,
}

impl Judged {
    pub(super) fn new(head: ResponseHead, max_bytes: usize) -> Self {
        Self { head, body: Collector::default(), max_bytes, complete: true }
    }

    /// Takes as much of a piece as may still be read.
    fn take(&mut self, mut piece: Bytes, budget: &mut Held) -> Holding {
        let room = self.max_bytes.saturating_sub(self.body.len());
        let fits = piece.len() <= room;
        piece.truncate(room);
        if !budget.raise_by(piece.len()) {
            return Holding::NoRoom;
        }
        self.body.push(piece);
        if fits { Holding::Whole } else { Holding::Broken }
    }
}

/// What became of a piece of a response that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// The response is larger than it may be, or damaged.
    Broken,
    /// The budget of held bytes is spent.
    NoRoom,
    /// All of the response so far is held.
    Whole,
}

impl Attempt {
    /// Holds a piece of a response that is judged first, decoded.
    pub(super) fn hold(&mut self, piece: Bytes, end: bool, budget: &mut Held) -> Holding {
        let Stage::Held(judged) = &mut self.stage else { return Holding::Whole };
        let mut held = Holding::Whole;
        match &mut self.compressed {
            None => held = judged.take(piece, budget),
            Some(_) if self.undecodable => held = Holding::Broken,
            Some(compressed) => {
                let decoded = compressed.push(piece, end, |step| {
                    held = judged.take(step, budget);
                    if held == Holding::Whole { Ok(()) } else { Err(compressed::too_much()) }
                });
                self.undecodable = decoded.is_err();
                if self.undecodable && held == Holding::Whole {
                    held = Holding::Broken;
                }
            }
        }
        judged.complete = held == Holding::Whole;
        held
    }
}

impl RequestCtx {
    /// A held response is complete (or broke off): judges it with what is there.
    pub(super) fn judge_held(&mut self, head: &http::request::Parts) -> Next {
        let Stage::Held(judged) = std::mem::replace(&mut self.attempt.stage, Stage::Relaying) else {
            return Next::Relay;
        };
        let Judged { head: response, body, complete, .. } = *judged;
        let body = if complete { body.into_bytes() } else { body.beginning(BEGINNING) };
        let next = self.judge(head, &AttemptResult::Body { head: &response, body: &body, complete });
        if !matches!(next, Next::Relay) {
            return next;
        }
        if !complete {
            return self
                .fail(FilterError::upstream(ErrorCode::UpstreamError, "The upstream answer could not be used."));
        }
        match self.dress_held(head, response, body) {
            Ok((response, body)) => {
                if let Some(replay) = &self.replay {
                    replay.release(response, body);
                }
                self.attempt.stage = Stage::Released;
                Next::Relay
            }
            Err(error) => self.fail(error),
        }
    }

    fn dress_held(
        &mut self,
        head: &http::request::Parts,
        mut response: ResponseHead,
        body: Bytes,
    ) -> Result<(ResponseHeader, Bytes), FilterError> {
        response.length = Some(body.len() as u64);
        self.response_head(head, &mut response)?;
        let mut part = Some(body);
        self.response_chunk(head, &mut part, true)?;
        let body = part.unwrap_or_default();
        response.length = Some(body.len() as u64);
        self.complete_at(0, &Outcome::Answered { status: response.status, code: None });
        Ok((self.outgoing(response), body))
    }
}
