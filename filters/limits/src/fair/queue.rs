//! Who runs and who waits, over all backends and tenants. Pure: no clock, no lock, no tasks.
//!
//! A call needs a slot of its backend and, where its tenant has a limit, one of its tenant. It may wait at several
//! backends at once and gets the first that has room. What always holds between two calls of a method: no backend has
//! room while a call waits there whose tenant may run.
//!
//! Everything that is idle is forgotten, so memory follows what runs and waits. Each operation takes a time that is
//! logarithmic in what waits, times the backends at which one tenant waits.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::place::Place;

/// A call that waits, or did. Later ones have larger numbers.
pub(super) type Call = u64;

/// What a tenant is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Most calls at the same time, over all backends; `None`: no limit.
    pub(super) max: Option<u32>,
    /// Its part of the slots, in proportion to the weights of the others.
    pub(super) weight: NonZeroU32,
}

/// Most calls that wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// At one backend.
    pub(super) per_place: usize,
    /// Of one tenant at one backend: less, so that a flood leaves room to others.
    pub(super) per_tenant: usize,
}

/// A call that runs. It has to be given back with [`FairQueue::end`] or [`FairQueue::move_on`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Running {
    pub(super) tenant: Arc<str>,
    pub(super) place: Arc<str>,
}

/// What became of a call that wants to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// It runs.
    Granted(Running),
    /// It waits, until it is granted or [`FairQueue::leave`] is called.
    Waits(Call),
    /// It may not even wait.
    Full,
}

/// A place where a call may run, and its slots in case nothing is known of it; `None`: no limit.
pub(super) type Candidate = (Arc<str>, Option<NonZeroU32>);

/// All backends and tenants with something to do.
#[derive(Debug)]
pub(super) struct FairQueue {
    room: Room,
    places: HashMap<Arc<str>, Place>,
    tenants: HashMap<Arc<str>, Tenant>,
    waiting: HashMap<Call, Waiting>,
    granted: Vec<(Call, Running)>,
    last: Call,
}

#[derive(Debug)]
struct Tenant {
    share: Share,
    running: u32,
    /// Where its calls wait.
    waits_at: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Waiting {
    tenant: Arc<str>,
    places: Vec<Arc<str>>,
}

impl Tenant {
    fn may_run(&self) -> bool {
        self.share.max.is_none_or(|max| self.running < max)
    }
}

impl FairQueue {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            places: HashMap::new(),
            tenants: HashMap::new(),
            waiting: HashMap::new(),
            granted: Vec::new(),
            last: 0,
        }
    }

    /// A call wants to run at one of these places; the first that is free is taken.
    pub(super) fn enter(&mut self, tenant: &Arc<str>, share: Share, candidates: &[Candidate]) -> Entered {
        let known = self.tenants.entry(Arc::clone(tenant));
        let known = known.or_insert_with(|| Tenant { share, running: 0, waits_at: BTreeSet::new() });
        let (may_run, weight) = (known.may_run(), known.share.weight);
        for (label, slots) in candidates {
            let place = self.places.entry(Arc::clone(label)).or_insert_with(|| Place::new(*slots));
            if may_run && place.has_room() {
                place.take(tenant, weight);
                known.running += 1;
                self.tenant_ran(tenant);
                self.forget_idle(candidates.iter().map(|(label, _)| label));
                return Entered::Granted(Running { tenant: Arc::clone(tenant), place: Arc::clone(label) });
            }
        }
        let entered = self.wait(tenant, candidates, may_run).map_or(Entered::Full, Entered::Waits);
        self.forget_idle(candidates.iter().map(|(label, _)| label));
        self.forget_tenant(tenant);
        entered
    }

    fn wait(&mut self, tenant: &Arc<str>, candidates: &[Candidate], may_run: bool) -> Option<Call> {
        let Room { per_place, per_tenant } = self.room;
        let has_room = |place: &Place| place.waiting() < per_place && place.waiting_of(tenant) < per_tenant;
        let known = self.tenants.get_mut(tenant)?;
        let call = self.last + 1;
        let mut places = Vec::with_capacity(candidates.len());
        for (label, _) in candidates {
            let Some(place) = self.places.get_mut(label).filter(|place| has_room(place)) else { continue };
            if places.contains(label) {
                continue;
            }
            place.add(tenant, call);
            if !may_run {
                place.block(tenant);
            }
            known.waits_at.insert(Arc::clone(label));
            places.push(Arc::clone(label));
        }
        if places.is_empty() {
            return None;
        }
        self.last = call;
        self.waiting.insert(call, Waiting { tenant: Arc::clone(tenant), places });
        Some(call)
    }

    /// A call does not want to wait any more. Nothing happens if it does not.
    pub(super) fn leave(&mut self, call: Call) {
        if let Some(waiting) = self.unqueue(call) {
            self.forget_idle(waiting.places.iter());
            self.forget_tenant(&waiting.tenant);
        }
    }

    /// Whether a call waits.
    pub(super) fn waits(&self, call: Call) -> bool {
        self.waiting.contains_key(&call)
    }

    /// A call has ended; what it held goes to those that wait.
    pub(super) fn end(&mut self, running: Running) {
        let Running { tenant, place } = running;
        if let Some(place) = self.places.get_mut(&place) {
            place.give_back();
        }
        self.tenant_stopped(&tenant);
        self.serve_tenant(&tenant);
        self.serve(&place);
        self.forget_idle([&place]);
        self.forget_tenant(&tenant);
    }

    /// A call that runs goes on elsewhere: what it held of its backend goes to those that wait, what it holds of its
    /// tenant's limit it keeps, if it need not wait.
    pub(super) fn move_on(&mut self, running: Running, share: Share, candidates: &[Candidate]) -> Entered {
        let Running { tenant, place } = running;
        if let Some(place) = self.places.get_mut(&place) {
            place.give_back();
        }
        self.serve(&place);
        if let Some(known) = self.tenants.get_mut(&tenant) {
            known.running = known.running.saturating_sub(1);
        }
        let entered = self.enter(&tenant, share, candidates);
        self.tenant_may_run_again(&tenant);
        self.serve_tenant(&tenant);
        self.forget_idle([&place]);
        self.forget_tenant(&tenant);
        entered
    }

    /// The calls that were granted since this was last asked.
    pub(super) fn take_granted(&mut self) -> Vec<(Call, Running)> {
        std::mem::take(&mut self.granted)
    }

    /// A backend has other slots from now on: more are given out at once, fewer as calls end.
    pub(super) fn set_slots(&mut self, label: &Arc<str>, slots: Option<NonZeroU32>) {
        if let Some(place) = self.places.get_mut(label) {
            place.set_slots(slots);
            self.serve(label);
        }
    }

    /// A tenant is entitled to something else from now on.
    pub(super) fn set_share(&mut self, tenant: &Arc<str>, share: Share) {
        let Some(known) = self.tenants.get_mut(tenant) else { return };
        known.share = share;
        self.tenant_ran(tenant);
        self.tenant_may_run_again(tenant);
        self.serve_tenant(tenant);
    }

    /// Calls that wait at a backend.
    pub(super) fn depth(&self, label: &str) -> usize {
        self.places.get(label).map_or(0, Place::waiting)
    }

    /// Grants what there is room for at one place.
    fn serve(&mut self, label: &Arc<str>) {
        while let Some(call) = self.places.get(label).filter(|place| place.has_room()).and_then(Place::next) {
            self.grant(call, label);
        }
    }

    /// Grants what one tenant may run, its oldest calls first. Where others wait for the same slot, it may be theirs.
    fn serve_tenant(&mut self, tenant: &Arc<str>) {
        while let Some(known) = self.tenants.get(tenant).filter(|known| known.may_run()) {
            let free = known.waits_at.iter().filter_map(|label| {
                let place = self.places.get(label).filter(|place| place.has_room())?;
                Some((place.oldest_of(tenant)?, place.next()?, label))
            });
            let Some((_, call, label)) = free.min() else { return };
            let label = Arc::clone(label);
            self.grant(call, &label);
        }
    }

    fn grant(&mut self, call: Call, label: &Arc<str>) {
        let Some(Waiting { tenant, places }) = self.unqueue(call) else { return };
        if let (Some(place), Some(known)) = (self.places.get_mut(label), self.tenants.get_mut(&tenant)) {
            place.take(&tenant, known.share.weight);
            known.running += 1;
        }
        self.tenant_ran(&tenant);
        self.forget_idle(places.iter());
        self.granted.push((call, Running { tenant, place: Arc::clone(label) }));
    }

    fn unqueue(&mut self, call: Call) -> Option<Waiting> {
        let waiting = self.waiting.remove(&call)?;
        let mut known = self.tenants.get_mut(&waiting.tenant);
        for label in &waiting.places {
            let Some(place) = self.places.get_mut(label) else { continue };
            if place.remove(&waiting.tenant, call)
                && let Some(known) = &mut known
            {
                known.waits_at.remove(label);
            }
        }
        Some(waiting)
    }

    /// One more call of the tenant runs: it may have to wait from now on.
    fn tenant_ran(&mut self, tenant: &Arc<str>) {
        let Some(known) = self.tenants.get(tenant).filter(|known| !known.may_run()) else { return };
        for label in &known.waits_at {
            if let Some(place) = self.places.get_mut(label) {
                place.block(tenant);
            }
        }
    }

    fn tenant_stopped(&mut self, tenant: &Arc<str>) {
        if let Some(known) = self.tenants.get_mut(tenant) {
            known.running = known.running.saturating_sub(1);
        }
        self.tenant_may_run_again(tenant);
    }

    fn tenant_may_run_again(&mut self, tenant: &Arc<str>) {
        let Some(known) = self.tenants.get(tenant).filter(|known| known.may_run()) else { return };
        for label in &known.waits_at {
            if let Some(place) = self.places.get_mut(label) {
                place.make_ready(tenant);
            }
        }
    }

    fn forget_idle<'a>(&mut self, labels: impl IntoIterator<Item = &'a Arc<str>>) {
        for label in labels {
            if self.places.get(label).is_some_and(Place::is_idle) {
                self.places.remove(label);
            }
        }
    }

    fn forget_tenant(&mut self, tenant: &Arc<str>) {
        if self.tenants.get(tenant).is_some_and(|known| known.running == 0 && known.waits_at.is_empty()) {
            self.tenants.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests;
