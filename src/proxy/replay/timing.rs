//! The time limits of an exchange, watched beside the client.

use std::pin::Pin;

use dgx_gateway_filter::upstream::AttemptTimeouts;
use pingora::{Error, ErrorType, Result};
use tokio::time::{Instant, Sleep};

use super::{STALLED, TOTAL};

/// How long an exchange may take, and where it stands.
pub(super) struct Timing {
    limits: Option<AttemptTimeouts>,
    started: Instant,
    /// End of the upload, then the last piece of the response.
    mark: Instant,
    /// Some byte of the response body has arrived.
    any_byte: bool,
    /// Some byte of the answer has left.
    begun: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Timing {
    /// Without limits until an attempt begins.
    pub(super) fn new(started: std::time::Instant) -> Self {
        Self {
            limits: None,
            started: Instant::from_std(started),
            mark: Instant::now(),
            any_byte: false,
            begun: false,
            timer: None,
        }
    }

    /// An attempt begins.
    pub(super) fn restart(&mut self, limits: Option<AttemptTimeouts>) {
        self.limits = limits;
        self.mark = Instant::now();
        self.any_byte = false;
        self.begun = false;
        self.timer = None;
    }

    /// A piece has passed, in either direction.
    pub(super) fn progress(&mut self) {
        self.mark = Instant::now();
    }

    /// A piece of the response body has arrived.
    pub(super) fn body_came(&mut self) {
        if !self.any_byte {
            self.any_byte = true;
            self.timer = None; // another limit counts from here
        }
    }

    /// The answer begins to leave.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }

    /// Something has to be done earlier than the timer is set to.
    pub(super) fn rearm(&mut self) {
        self.timer = None;
    }

    /// When the whole exchange has to have begun to answer.
    pub(super) fn total(&self) -> Option<Instant> {
        self.limits.map(|limits| self.started + limits.total)
    }

    /// The timer runs after the upload only; a slow upload must not outlast the whole exchange.
    pub(super) fn check_upload(&self) -> Result<()> {
        match self.total() {
            Some(at) if at <= Instant::now() => Error::e_explain(TOTAL, "time limit of the exchange"),
            _ => Ok(()),
        }
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

    /// The next moment at which there is something to do: a limit passes, or `other`.
    fn next(&self, other: Option<Instant>) -> Option<Instant> {
        self.deadline().map(|(at, _)| at).into_iter().chain(other).min()
    }

    /// Arms the one timer for the next limit or for `other`, and gives it. It is not moved on progress: when it fires
    /// early, it is set again.
    pub(super) fn timer(&mut self, other: Option<Instant>) -> Option<&mut Pin<Box<Sleep>>> {
        if self.timer.is_none()
            && let Some(at) = self.next(other)
        {
            self.timer = Some(Box::pin(tokio::time::sleep_until(at)));
        }
        self.timer.as_mut()
    }

    /// The timer fired: either a limit has passed, or the timer is set anew.
    pub(super) fn fired(&mut self) -> Result<()> {
        self.timer = None;
        match self.deadline() {
            Some((at, what)) if at <= Instant::now() => Error::e_explain(what, "time limit of the exchange"),
            _ => Ok(()),
        }
    }
}
