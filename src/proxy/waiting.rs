//! Waiting before an attempt, where a filter asks for it: beside the client, who may leave meanwhile, and within the
//! time of the whole request.
//!
//! The engine looks at nobody while it waits for an upstream to be chosen. A body that streams is read on in the
//! meantime, into its spool, because only who reads learns that the client is gone. A body that streams through without
//! being kept is left alone; then the client is not watched.

use dgx_gateway_filter::upstream::{AttemptFailure, AttemptResult};
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::{Instant, sleep_until};

use super::admit::Stop;
use super::attempt::exhausted;
use super::context::{RequestCtx, Wait};

/// Asks all filters whether the next attempt may begin, and waits until it may.
///
/// # Errors
/// A filter refuses, the client left, or the time of the request is over.
///
/// # Cancel safety
/// Dropping it drops what is waited for; what the filters hold they give back when the request ends.
pub(super) async fn before_attempt(session: &mut Session, ctx: &mut RequestCtx) -> Result<(), Stop> {
    let index = ctx.attempt.index;
    if index >= ctx.chain.shared.plan.targets.len() {
        return Ok(()); // there is no attempt
    }
    let mut asked = 0;
    while let Some(wait) = ctx.chain.before_attempt(session.req_header(), index, &mut asked)? {
        beside_client(session, ctx, wait).await?;
    }
    Ok(())
}

async fn beside_client(session: &mut Session, ctx: &mut RequestCtx, mut wait: Wait) -> Result<(), Stop> {
    let until = Instant::from_std(ctx.chain.request().started + ctx.world.server.total_timeout);
    if let Some(replay) = ctx.replay.clone() {
        let alive = ctx.chain.shared.plan.keep_alive.take();
        replay.wait(alive.map(|alive| ctx.alive(alive, session.req_header().version)));
    }
    let watched = ctx.replay.is_some() || session.is_body_done();
    loop {
        let seen = tokio::select! {
            biased;
            () = &mut wait => return Ok(()),
            seen = session.read_body_or_idle(true), if watched => seen,
            () = sleep_until(until) => {
                return Err(exhausted(&AttemptResult::Failed(AttemptFailure::Total)).into());
            }
        };
        let Some(replay) = ctx.replay.clone() else { return Err(left(seen.err()).into()) };
        if let Some(refusal) = replay.take_failure() {
            return Err(refusal.into());
        }
        if let Err(error) = seen {
            return Err(left(Some(error)).into());
        }
        for piece in replay.take_fresh() {
            ctx.chain.request_chunk(session.req_header(), &piece)?;
        }
    }
}

/// The client has left, or sent what does not belong to its request.
fn left(error: Option<Box<Error>>) -> Box<Error> {
    let mut error = error.unwrap_or_else(|| Error::new(ErrorType::ConnectionClosed));
    error.set_retry(false);
    error.into_down()
}
