//! Failures while a request is proxied: what follows from them, and what the client is told.

use dgx_gateway_filter::upstream::{AttemptFailure, AttemptResult};
use dgx_gateway_filter::{FilterError, Outcome};
use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, ErrorSource, ErrorType, RetryType};

use super::attempt::{self, Next, Stage, failure_of};
use super::context::wait_for;
use super::replay::{ANSWERED, BODY_REFUSED, CUT, HELD_BACK, ReplayHandle, STALLED, TOTAL};
use super::{REFUSED, RequestCtx, final_head};
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
        // a held response that ended without a last piece (an empty body, trailers): nothing failed
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
        return FailToProxy { error_code: status, can_reuse_downstream: false };
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
    let mut status = 0;
    if (said || complete) && (is_ours(error) || *error.esource() != ErrorSource::Downstream) {
        let mut last = None;
        if complete && let Err(error) = ctx.response_chunk(session.req_header(), &mut last, true) {
            tracing::debug!(%error, "the end of a complete answer was not understood");
        }
        if complete {
            ctx.complete(&Outcome::Answered { status: ctx.attempt.status, code: None }).await;
        }
        // the error, or the finish, was the last event: end the body properly
        if let Err(error) = session.write_response_body(last, true).await {
            tracing::debug!(%error, "the client left before the end of its stream");
        }
    }
    if let Some(failure) = failure {
        status = ctx.renderer().status(&failure).as_u16();
        session.set_keepalive(None);
        if final_head(session).is_none() {
            if let Err(error) = reply::error(session, ctx, &failure).await {
                tracing::debug!(%error, "the client left before its error answer");
            }
        } else {
            let event = reply::stream_event(session, ctx, &failure);
            ctx.attempt.stage = Stage::Said;
            ctx.complete(&Outcome::Cut(failure.code)).await;
            let said = match (event, reply::trailers(session, &failure, status)) {
                (Some(event), _) => session.write_response_body(Some(event), true).await,
                (None, Some(trailers)) => session.downstream_session.write_response_trailers(trailers).await,
                (None, None) => Ok(()),
            };
            if let Err(error) = said {
                tracing::debug!(%error, "the client left before the end of its stream");
            }
        }
    }
    FailToProxy { error_code: status, can_reuse_downstream: false }
}
