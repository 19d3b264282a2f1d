//! The queue as requests use it: places that give themselves back when they are dropped.
//!
//! One lock for all backends and tenants: what it protects is a handful of map operations, and who meets no limit does
//! not come here. Wakers are called outside of it.

use std::collections::HashMap;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::facts::TenantLimits;
use dgx_gateway_filter::services::FairShare;

use super::lingering::{Lingerers, Lingering};
use super::metrics::Waits;
use super::queue::{Call, Candidate, Entered, FairQueue, Room, Running, Share};

/// Most calls that wait for one backend, in this process; further ones are refused at once. Each holds its body, whose
/// bytes have limits of their own.
const MOST_WAITING: usize = 8192;
/// Most of one tenant among them, so that a flood leaves the others room.
const MOST_WAITING_OF_TENANT: usize = 1024;

/// All slots of this process. Lives as long as it: a reload changes what backends and tenants are entitled to.
pub struct Slots {
    state: Mutex<State>,
    lingerers: Lingerers,
    clock: Arc<dyn Clock>,
    waits: Waits,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    queue: FairQueue,
    /// Calls that were granted and have not been told.
    granted: HashMap<Call, Running>,
    wakers: HashMap<Call, Waker>,
    /// What the configuration in use says.
    backends: HashMap<Arc<str>, Option<NonZeroU32>>,
    tenants: HashMap<Arc<str>, Share>,
}

/// What became of a call that wants to run.
#[derive(Debug)]
pub(super) enum Entry {
    /// It runs as long as it keeps this.
    Granted(Permit),
    /// It waits as long as it keeps this.
    Waits(Ticket),
    /// It may not even wait.
    Full,
}

/// A call that runs. Dropped, its slots go to those that wait.
#[derive(Debug)]
pub(super) struct Permit {
    slots: Arc<Slots>,
    running: Option<Running>,
}

/// A call that waits, or was granted without knowing it. Dropped, its place in the queue, or what it was granted, goes
/// to those behind it.
#[derive(Debug)]
pub(super) struct Ticket {
    slots: Arc<Slots>,
    call: Call,
    since: Instant,
    /// Backend it waits at, the first if there are several.
    label: Arc<str>,
    taken: bool,
}

/// Is over when a call was granted.
#[derive(Debug)]
pub(super) struct Granted {
    slots: Arc<Slots>,
    call: Call,
}

impl State {
    fn share(&self, tenant: &str, limits: TenantLimits) -> Share {
        self.tenants.get(tenant).copied().unwrap_or_else(|| share_of(limits))
    }

    /// Puts what the configuration in use says in the place of what the request brought along.
    fn correct(&self, candidates: &mut [Candidate]) {
        for (label, slots) in candidates {
            if let Some(known) = self.backends.get(label) {
                *slots = *known;
            }
        }
    }

    /// Moves what was granted to where it is found; gives who has to be woken.
    fn deliver(&mut self) -> Vec<Waker> {
        let granted = self.queue.take_granted();
        let wakers = granted.into_iter().filter_map(|(call, running)| {
            self.granted.insert(call, running);
            self.wakers.remove(&call)
        });
        wakers.collect()
    }
}

fn share_of(limits: TenantLimits) -> Share {
    Share { max: limits.max_in_flight, weight: NonZeroU32::new(limits.weight).unwrap_or(NonZeroU32::MIN) }
}

impl Slots {
    pub(super) fn new(clock: Arc<dyn Clock>, waits: Waits) -> Self {
        Self::with_room(Room { per_place: MOST_WAITING, per_tenant: MOST_WAITING_OF_TENANT }, clock, waits)
    }

    fn with_room(room: Room, clock: Arc<dyn Clock>, waits: Waits) -> Self {
        let state = State {
            queue: FairQueue::new(room),
            granted: HashMap::new(),
            wakers: HashMap::new(),
            backends: HashMap::new(),
            tenants: HashMap::new(),
        };
        Self { state: Mutex::new(state), lingerers: Lingerers::default(), clock, waits }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and wakes whom it concerns.
    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let (result, wakers) = {
            let mut state = self.state();
            (act(&mut state), state.deliver())
        };
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    /// A call of a tenant wants to run at one of these backends, the first that is free. `before` is what it held at
    /// another one.
    pub(super) fn enter(
        self: &Arc<Self>,
        tenant: &Arc<str>,
        limits: TenantLimits,
        mut candidates: Vec<Candidate>,
        before: Option<Permit>,
    ) -> Entry {
        let before = before.and_then(|mut permit| permit.running.take());
        let entered = self.change(|state| {
            state.correct(&mut candidates);
            let share = state.share(tenant, limits);
            match before {
                Some(running) => state.queue.move_on(running, share, &candidates),
                None => state.queue.enter(tenant, share, &candidates),
            }
        });
        match entered {
            Entered::Granted(running) => {
                self.waits.record(&running.place, Duration::ZERO);
                Entry::Granted(Permit { slots: Arc::clone(self), running: Some(running) })
            }
            Entered::Waits(call) => {
                let label = candidates.into_iter().next().map_or_else(|| "".into(), |(label, _)| label);
                let since = self.clock.now();
                Entry::Waits(Ticket { slots: Arc::clone(self), call, since, label, taken: false })
            }
            Entered::Full => Entry::Full,
        }
    }

    /// The backends of the configuration in use, and how many calls wait at each.
    pub(super) fn depths(&self) -> Vec<(Arc<str>, usize)> {
        let state = self.state();
        let depth = |label: &Arc<str>| (Arc::clone(label), state.queue.depth(label));
        state.backends.keys().map(depth).collect()
    }
}

impl FairShare for Slots {
    fn backends(&self, slots: Vec<(Arc<str>, Option<NonZeroU32>)>) {
        self.change(|state| {
            state.backends = slots.into_iter().collect();
            for (label, slots) in &state.backends {
                state.queue.set_slots(label, *slots);
            }
        });
    }

    fn tenants(&self, limits: Vec<(Arc<str>, TenantLimits)>) {
        self.change(|state| {
            state.tenants = limits.into_iter().map(|(id, limits)| (id, share_of(limits))).collect();
            for (id, share) in &state.tenants {
                state.queue.set_share(id, *share);
            }
        });
    }
}

impl Permit {
    /// The backend whose slot it is.
    pub(super) fn label(&self) -> &str {
        self.running.as_ref().map_or("", |running| &running.place)
    }

    /// The call is about to end.
    pub(super) fn linger(self) -> Lingering {
        let slots = Arc::clone(&self.slots);
        slots.lingerers.add(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.slots.change(|state| state.queue.end(running));
        }
    }
}

impl Ticket {
    /// What was granted, if it was. Else the ticket stays as it is.
    pub(super) fn take(&mut self) -> Option<Permit> {
        let running = self.slots.state().granted.remove(&self.call)?;
        self.taken = true;
        Some(Permit { slots: Arc::clone(&self.slots), running: Some(running) })
    }

    /// Is over when the call was granted, or does not wait any more.
    pub(super) fn granted(&self) -> Granted {
        Granted { slots: Arc::clone(&self.slots), call: self.call }
    }

    /// How long it has waited.
    pub(super) fn waited(&self) -> Duration {
        self.slots.clock.now().saturating_duration_since(self.since)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.slots.waits.record(&self.label, self.waited());
        if self.taken {
            return;
        }
        self.slots.change(|state| {
            state.wakers.remove(&self.call);
            match state.granted.remove(&self.call) {
                Some(running) => state.queue.end(running),
                None => state.queue.leave(self.call),
            }
        });
    }
}

impl Future for Granted {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.slots.state();
        if !state.queue.waits(self.call) {
            return Poll::Ready(());
        }
        match state.wakers.get_mut(&self.call) {
            Some(known) => known.clone_from(cx.waker()),
            None => drop(state.wakers.insert(self.call, cx.waker().clone())),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
