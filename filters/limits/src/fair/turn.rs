//! The filter kind that has a request wait for its turn.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dgx_gateway_filter::facts::{Principal, TenantLimits};
use dgx_gateway_filter::upstream::Admission;
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, FinishCx, Outcome, Problem,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;

use super::lingering::Lingering;
use super::slots::{Entry, Permit, Slots, Ticket};
use crate::state::Limits;

/// When to come back to a queue that is full, or took too long.
const AFTER_QUEUE: Duration = Duration::from_secs(5);
/// When to come back to a limit of 0, which lets nothing run: the longest wait that is ever told.
const NEVER: Duration = Duration::from_secs(3600);

/// Filter kind `limits-queue`: before each attempt a request takes a slot of its backend and, where its tenant has a
/// limit, one of its tenant. Where none is free it waits for its turn, by the weights of the tenants; all its waits
/// together take at most `limits.queue_timeout_ms`. Slots come back when the request ends, when another target is tried,
/// and shortly after the answer of the backend is complete.
///
/// Waits in no hook; fails closed.
#[derive(Debug)]
pub struct Turn;

/// The entry takes no parameters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TurnConfig {}

impl FilterKind for Turn {
    const NAME: &'static str = "limits-queue";
    const AFTER: &'static [&'static str] = &["identity", "models"];
    type Config = TurnConfig;
    type Checked = ();

    fn check(_raw: TurnConfig) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build((): (), env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(TurnFilter { limits: env.service()?, slots: env.service()? }))
    }
}

struct TurnFilter {
    limits: Arc<Limits>,
    slots: Arc<Slots>,
}

impl Filter for TurnFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(TurnExchange {
            limits: Arc::clone(&self.limits),
            slots: Arc::clone(&self.slots),
            held: Held::Nothing,
            waiting: None,
            waited: Duration::ZERO,
        })
    }
}

struct TurnExchange {
    limits: Arc<Limits>,
    slots: Arc<Slots>,
    held: Held,
    waiting: Option<Waiting>,
    /// How long its earlier attempts had to wait.
    waited: Duration,
}

/// What an attempt holds.
enum Held {
    /// Its answer is complete.
    Ends(Lingering),
    Nothing,
    /// It runs, at this position of the plan.
    Runs(usize, Permit),
}

impl Held {
    fn take(&mut self) -> Option<Permit> {
        match std::mem::replace(self, Self::Nothing) {
            Self::Ends(lingering) => lingering.take(),
            Self::Nothing => None,
            Self::Runs(_, permit) => Some(permit),
        }
    }
}

/// An attempt that has to wait.
struct Waiting {
    ticket: Ticket,
    until: Instant,
}

impl Exchange for TurnExchange {
    fn before_attempt(&mut self, index: usize, cx: &mut ExchangeCx<'_>) -> Result<Admission, FilterError> {
        if let Some(waiting) = self.waiting.take() {
            return self.go_on(waiting, index, cx);
        }
        if matches!(self.held, Held::Runs(running, _) if running == index) {
            return Ok(Admission::Granted); // the same target once more
        }
        let limits = *cx.facts.get::<TenantLimits>().ok_or_else(|| FilterError::internal("no limits were stated"))?;
        let choice = cx.plan.choice_at(index);
        if limits.max_in_flight.is_none() && choice.first().is_none_or(|target| target.upstream.slots.is_none()) {
            self.held = Held::Nothing;
            return Ok(Admission::Granted);
        }
        if limits.max_in_flight == Some(0) {
            let message = "This tenant may not call models.";
            return Err(FilterError::policy(ErrorCode::ServiceOverloaded, message).retry_after(NEVER));
        }
        let principal = cx.facts.get::<Principal>().ok_or_else(|| FilterError::internal("no principal was stated"))?;
        let candidates = choice.iter().map(|target| (Arc::clone(&target.upstream.label), target.upstream.slots));
        let before = self.held.take();
        match self.slots.enter(&principal.tenant_id, limits, candidates.collect(), before) {
            Entry::Granted(permit) => {
                self.hold(permit, index, cx);
                Ok(Admission::Granted)
            }
            Entry::Waits(ticket) => {
                let left = self.limits.settings().queue_timeout.saturating_sub(self.waited);
                self.go_on(Waiting { ticket, until: Instant::now() + left }, index, cx)
            }
            Entry::Full => Err(overloaded("Too many requests wait for this model. Wait for the time in Retry-After.")),
        }
    }

    /// The backend has done its part once its answer is complete, whether or not the client has taken all of it.
    fn response_chunk(
        &mut self,
        _part: &mut Option<Bytes>,
        end: bool,
        _cx: &mut ExchangeCx<'_>,
    ) -> Result<(), FilterError> {
        if end && let Some(permit) = self.held.take() {
            self.held = Held::Ends(permit.linger());
        }
        Ok(())
    }

    fn finish(&mut self, _outcome: &Outcome, _cx: &FinishCx<'_>) {
        self.waiting = None;
        self.held = Held::Nothing;
    }
}

impl TurnExchange {
    fn go_on(&mut self, mut waiting: Waiting, index: usize, cx: &mut ExchangeCx<'_>) -> Result<Admission, FilterError> {
        if let Some(permit) = waiting.ticket.take() {
            self.waited += waiting.ticket.waited();
            self.hold(permit, index, cx);
            return Ok(Admission::Granted);
        }
        if waiting.until <= Instant::now() {
            return Err(overloaded("All slots of this model are taken. Wait for the time in Retry-After."));
        }
        let granted = tokio::time::timeout_at(waiting.until, waiting.ticket.granted());
        self.waiting = Some(waiting);
        Ok(Admission::Wait(Box::pin(async { drop(granted.await) })))
    }

    /// The attempt may begin, at the backend whose slot it got.
    fn hold(&mut self, permit: Permit, index: usize, cx: &mut ExchangeCx<'_>) {
        let is_it = |label: &Arc<str>| **label == *permit.label();
        let behind = cx.plan.choice_at(index).iter().position(|target| is_it(&target.upstream.label));
        cx.plan.prefer(index, behind.unwrap_or_default());
        self.held = Held::Runs(index, permit);
    }
}

fn overloaded(message: &'static str) -> FilterError {
    FilterError::policy(ErrorCode::ServiceOverloaded, message).retry_after(AFTER_QUEUE)
}

#[cfg(test)]
mod tests;
