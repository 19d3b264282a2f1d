//! One backend: its slots, who waits for one, and whose turn is next. Pure.
//!
//! Start-time fair queueing: each tenant that waits has a start in virtual time, the least start is next, and a grant
//! moves the tenant's start on by the inverse of its weight. Time at the backend is the start that was granted last; a
//! tenant that was away, or was not allowed to run, begins there, so that nobody saves credit up. What counts is the
//! number of grants, not how long a call runs, which nobody knows before its end.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::queue::Call;

/// What a grant moves the start of a tenant of weight 1 on by. Divided by the largest weight (1000) it is still exact
/// to a tenth of a percent, and 2^44 grants fit.
const TURN: u64 = 1 << 20;
/// Tenants of which a start is remembered before those that mean nothing any more are forgotten.
const FEW_FLOWS: usize = 64;

/// One backend.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// `None`: no limit.
    slots: Option<NonZeroU32>,
    running: u32,
    /// Calls that wait here, over all tenants.
    waiting: usize,
    /// Time here: the start that was granted last.
    now: u64,
    flows: HashMap<Arc<str>, Flow>,
    /// The tenants that wait and may run.
    ready: BTreeSet<Turn>,
    /// Turns that were given out: among equal starts the older one is first.
    turns: u64,
    /// Flows at which forgetting begins.
    many_flows: usize,
}

/// What one tenant does at one backend.
#[derive(Debug, Default)]
struct Flow {
    start: u64,
    /// Its calls that wait, the oldest first.
    calls: BTreeSet<Call>,
    /// Its place among those that may run.
    turn: Option<Turn>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    start: u64,
    order: u64,
    tenant: Arc<str>,
}

impl Place {
    pub(super) fn new(slots: Option<NonZeroU32>) -> Self {
        Self { slots, many_flows: FEW_FLOWS, ..Self::default() }
    }

    pub(super) fn set_slots(&mut self, slots: Option<NonZeroU32>) {
        self.slots = slots;
    }

    pub(super) fn has_room(&self) -> bool {
        self.slots.is_none_or(|slots| self.running < slots.get())
    }

    /// Whether nothing is known of it that a new one would not know.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting == 0
    }

    /// Calls that wait here.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Calls of one tenant that wait here.
    pub(super) fn waiting_of(&self, tenant: &str) -> usize {
        self.flows.get(tenant).map_or(0, |flow| flow.calls.len())
    }

    /// A call of the tenant begins to run. It must have been granted room.
    pub(super) fn take(&mut self, tenant: &Arc<str>, weight: NonZeroU32) {
        self.running += 1;
        if self.slots.is_none() {
            return; // nobody waits for a slot here, so there are no shares
        }
        self.forget_what_is_past();
        let flow = self.flows.entry(Arc::clone(tenant)).or_default();
        self.now = self.now.max(flow.start);
        flow.start = self.now + TURN / u64::from(weight.get());
        if let Some(turn) = flow.turn.take() {
            self.ready.remove(&turn);
            self.make_ready(tenant);
        }
    }

    /// A call has ended. A place that has room and nobody to fill it owes nothing to anybody.
    pub(super) fn give_back(&mut self) {
        self.running = self.running.saturating_sub(1);
        if self.waiting == 0 && self.has_room() {
            self.flows.clear();
            self.now = 0;
        }
    }

    /// A call begins to wait. Its tenant may run, or [`Place::block`] has to follow.
    pub(super) fn add(&mut self, tenant: &Arc<str>, call: Call) {
        let flow = self.flows.entry(Arc::clone(tenant)).or_default();
        if flow.calls.insert(call) {
            self.waiting += 1;
        }
        self.make_ready(tenant);
    }

    /// A call waits no longer. Gives whether its tenant has none left here.
    pub(super) fn remove(&mut self, tenant: &Arc<str>, call: Call) -> bool {
        let Some(flow) = self.flows.get_mut(tenant) else { return true };
        if flow.calls.remove(&call) {
            self.waiting -= 1;
        }
        let none_left = flow.calls.is_empty();
        if none_left {
            self.block(tenant);
        }
        none_left
    }

    /// The tenant may not run for now.
    pub(super) fn block(&mut self, tenant: &str) {
        if let Some(turn) = self.flows.get_mut(tenant).and_then(|flow| flow.turn.take()) {
            self.ready.remove(&turn);
        }
    }

    /// The tenant may run (again): it gets a turn if it waits here and has none.
    pub(super) fn make_ready(&mut self, tenant: &Arc<str>) {
        let Some(flow) = self.flows.get_mut(tenant) else { return };
        if flow.calls.is_empty() || flow.turn.is_some() {
            return;
        }
        flow.start = flow.start.max(self.now);
        self.turns += 1;
        let turn = Turn { start: flow.start, order: self.turns, tenant: Arc::clone(tenant) };
        self.ready.insert(turn.clone());
        flow.turn = Some(turn);
    }

    /// The call whose turn it is.
    pub(super) fn next(&self) -> Option<Call> {
        let turn = self.ready.first()?;
        self.oldest_of(&turn.tenant)
    }

    /// The oldest call of a tenant that waits here.
    pub(super) fn oldest_of(&self, tenant: &str) -> Option<Call> {
        self.flows.get(tenant)?.calls.first().copied()
    }

    /// Tenants that are away and whose start has passed would begin like new ones.
    fn forget_what_is_past(&mut self) {
        if self.flows.len() >= self.many_flows {
            let now = self.now;
            self.flows.retain(|_, flow| !flow.calls.is_empty() || flow.start > now);
            self.many_flows = FEW_FLOWS.max(2 * self.flows.len());
        }
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> u32 {
        self.running
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> Option<u32> {
        self.slots.map(NonZeroU32::get)
    }

    /// Whether the tenant has a turn exactly when it waits and `may_run`.
    #[cfg(test)]
    pub(super) fn is_sound_for(&self, tenant: &str, may_run: bool) -> bool {
        let flow = self.flows.get(tenant);
        flow.is_none_or(|flow| flow.turn.is_some() == (may_run && !flow.calls.is_empty()))
            && self.ready.iter().all(|turn| self.flows[&turn.tenant].turn.as_ref() == Some(turn))
            && self.waiting == self.flows.values().map(|flow| flow.calls.len()).sum::<usize>()
    }
}
