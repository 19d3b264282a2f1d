//! Failures while a request is proxied: what follows from them, and what the client is told.

use bytes::Bytes;
use dgx_gateway_filter::upstream::{AttemptFailure, AttemptResult};
use dgx_gateway_filter::{Blame, FilterError, Outcome};
use pingora::http::ResponseHeader;
use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};

use super::attempt::{self, Next, Stage, failure_of};
use super::context::wait_for;
use super::replay::{ANSWERED, BODY_REFUSED, CUT, HELD_BACK, ReplayHandle, STALLED, TOTAL};
use super::{REFUSED, RequestCtx, final_head, refuse, retry};
use crate::reply;

/// A failure before anything was sent: what do the filters say?
pub(super) fn before_sending(session: &Session, ctx: &mut RequestCtx, failure: AttemptFailure) -> bool {
    if ctx.failure.is_some() {
        return false;
    }
    let next = ctx.judge(session.req_header(), &AttemptResult::Failed(failure));
    matches!(next, Next::Retry) && ctx.untouched(session)
}

/// Whether an error that the engine takes for one of the client is a limit that our wrapper watches there.
fn is_ours(error: &Error) -> bool {
    [CUT, HELD_BACK, STALLED, TOTAL].contains(error.etype())
}

/// An exchange with an upstream broke off: is there another attempt, and what is left to say?
pub(super) fn broke_off(session: &Session, ctx: &mut RequestCtx, mut error: Box<Error>, reused: bool) -> Box<Error> {
    if [ANSWERED, BODY_REFUSED, CUT, REFUSED].contains(error.etype()) {
        return error; // decided already
    }
    if *error.esource() == ErrorSource::Downstream && !is_ours(&error) {
        error.set_retry(false);
        return error;
    }
    let untouched = ctx.untouched(session);
    // a write to a connection that the server has just closed fails before any read can say so
    let broke = error.retry == RetryType::ReusedOnly || *error.etype() == ErrorType::WriteError;
    let nothing_came = untouched && matches!(ctx.attempt.stage, Stage::Waiting);
    if reused && broke && nothing_came && ctx.replay.is_some() && !ctx.attempt.stale {
        ctx.attempt.stale = true; // the pooled connection was dead: the same target once more
        error.set_retry(true);
        return error;
    }
    let failure = failure_of(&error);
    let next = match &mut ctx.attempt.stage {
        // no time is left for another target, whatever is here of the response
        Stage::Held(_) if failure == AttemptFailure::Total => {
            ctx.attempt.stage = Stage::Relaying;
            ctx.judge(session.req_header(), &AttemptResult::Failed(failure))
        }
        Stage::Held(judged) => {
            judged.complete &= *error.etype() == HELD_BACK;
            ctx.judge_held(session.req_header())
        }
        _ if ctx.failure.is_some() => Next::Fail,
        _ if !untouched => {
            if matches!(ctx.attempt.stage, Stage::Relaying) && ctx.is_complete(session.req_header(), failure) {
                ctx.attempt.stage = Stage::Complete;
            } else {
                ctx.failure = Some(attempt::exhausted(&AttemptResult::Failed(failure)));
            }
            Next::Fail
        }
        _ => ctx.judge(session.req_header(), &AttemptResult::Failed(failure)),
    };
    error.set_retry(matches!(next, Next::Retry) && untouched);
    error
}

/// A piece of an answer cannot pass: what follows? An error that is given back stops the engine at once, with what it has
/// not written yet. Once the answer has begun, the error is therefore said as one more piece, and the wrapper stops the
/// engine after it.
pub(super) fn inside_answer(
    session: &mut Session,
    part: &mut Option<Bytes>,
    error: FilterError,
    ctx: &mut RequestCtx,
) -> Result<()> {
    if ctx.chain.is_completed() {
        tracing::debug!(cause = error.source.as_deref().map(tracing::field::display), "unusable after the end");
        ctx.attempt.stage = Stage::Complete; // nothing is missing, so what follows is dropped, whatever it is
        *part = None;
        return Ok(());
    }
    if ctx.untouched(session) {
        if error.blame == Blame::Upstream && ctx.replay.is_some() {
            let next = ctx.judge(session.req_header(), &AttemptResult::Failed(AttemptFailure::Reset));
            return Err(retry(ctx.untouched(session), &next));
        }
        return Err(refuse(ctx, error));
    }
    let Some(event) = reply::stream_event(session, ctx, &error) else {
        ctx.attempt.stage = Stage::Broken;
        return Err(refuse(ctx, error)); // without its end the client can tell that the answer is cut
    };
    let before = part.take().unwrap_or_default();
    ctx.complete_at(ctx.attempt.passed + before.len(), &Outcome::Cut(error.code));
    *part = Some(if before.is_empty() { event } else { [before, event].concat().into() });
    ctx.attempt.stage = Stage::Said;
    if let Some(replay) = &ctx.replay {
        replay.cut();
    }
    Ok(())
}

/// Ends a request that failed: with an error answer, with an event in its stream, or with nothing when the client left.
pub(super) async fn answer(session: &mut Session, ctx: &mut RequestCtx, error: &Error) -> FailToProxy {
    if let Some(replay) = &ctx.replay {
        replay.restore(session).await;
        if let Some(failure) = replay.take_failure() {
            ctx.failure.get_or_insert(failure);
        }
    }
    let released = ctx.replay.as_ref().filter(|_| *error.etype() == HELD_BACK).and_then(ReplayHandle::take_release);
    if let Some((head, body)) = released {
        let error_code = let_go(session, ctx, head, body).await;
        return FailToProxy { error_code, can_reuse_downstream: false };
    }
    let client_left = ctx.failure.is_none() && *error.esource() == ErrorSource::Downstream;
    let said = matches!(ctx.attempt.stage, Stage::Said);
    let complete = matches!(ctx.attempt.stage, Stage::Complete);
    let ended = said || complete || *error.etype() == ANSWERED || matches!(ctx.attempt.stage, Stage::Broken);
    let failure = match ctx.failure.take() {
        _ if client_left || ended => None,
        Some(failure) => Some(failure),
        None => Some(FilterError::internal(error.to_string())),
    };
    if (said || complete) && (is_ours(error) || *error.esource() != ErrorSource::Downstream) {
        end_body(session, ctx, complete).await;
    }
    let error_code = match failure {
        Some(failure) => say(session, ctx, &failure).await,
        None => 0,
    };
    FailToProxy { error_code, can_reuse_downstream: false }
}

/// A held response that ended without a last piece (an empty body, trailers): nothing failed. Gives its status.
async fn let_go(session: &mut Session, ctx: &RequestCtx, head: Box<ResponseHeader>, body: Bytes) -> u16 {
    let status = head.status.as_u16();
    if let Some(pending) = ctx.replay.as_ref().and_then(ReplayHandle::take_pending) {
        wait_for(pending).await;
    }
    let written = match session.write_response_header(head, false).await {
        Ok(()) => session.write_response_body(Some(body), true).await,
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        tracing::debug!(%error, "the client left before its answer");
    }
    status
}

/// The error, or the finish, was the last event: ends the body properly.
async fn end_body(session: &mut Session, ctx: &mut RequestCtx, complete: bool) {
    let mut last = None;
    if complete {
        if let Err(error) = ctx.response_chunk(session.req_header(), &mut last, true) {
            tracing::debug!(%error, "the end of a complete answer was not understood");
        }
        ctx.complete(&Outcome::Answered { status: ctx.attempt.status, code: None }).await;
    }
    if let Err(error) = session.write_response_body(last, true).await {
        tracing::debug!(%error, "the client left before the end of its stream");
    }
}

/// Tells the client of a failure: as its answer, or inside of it once that has begun. Gives the status.
async fn say(session: &mut Session, ctx: &mut RequestCtx, failure: &FilterError) -> u16 {
    let status = ctx.renderer().status(failure).as_u16();
    session.set_keepalive(None);
    if final_head(session).is_none() {
        if let Err(error) = reply::error(session, ctx, failure).await {
            tracing::debug!(%error, "the client left before its error answer");
        }
        return status;
    }
    let event = reply::stream_event(session, ctx, failure);
    ctx.attempt.stage = Stage::Said;
    ctx.complete(&Outcome::Cut(failure.code)).await;
    let said = match (event, reply::trailers(session, failure, status)) {
        (Some(event), _) => session.write_response_body(Some(event), true).await,
        (None, Some(trailers)) => session.downstream_session.write_response_trailers(trailers).await,
        (None, None) => Ok(()),
    };
    if let Err(error) = said {
        tracing::debug!(%error, "the client left before the end of its stream");
    }
    status
}
