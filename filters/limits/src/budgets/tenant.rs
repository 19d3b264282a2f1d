//! What the calls of one tenant hold and have used, behind a lock, and reservations that settle themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dgx_gateway_filter::budget::{Amounts, HistoryError, TenantBudgets, UsageHistory};
use tokio::sync::RwLock;

use super::shared::{Names, Settlements};
use super::usage::{Answer, Call, Share, Ticket, Usage};
use super::window::{Period, WINDOWS, moment};

/// A tenant that has budgets. Outlives the files that list it, so a call that is in flight across a reload counts.
pub(crate) struct Tenant {
    pub(crate) id: Arc<str>,
    state: Mutex<State>,
    /// Held for reading by every step on budgets in a store, and for writing while it is told there what this process
    /// knows: so no step is on its way meanwhile.
    pub(super) steps: RwLock<()>,
}

/// What the lock protects.
#[derive(Default)]
pub(super) struct State {
    pub(super) usage: Usage,
    pub(super) names: Names,
}

impl State {
    /// Puts the budgets of a file in place.
    pub(super) fn adopt(&mut self, tenant_id: &str, budgets: &Arc<TenantBudgets>) {
        if !Arc::ptr_eq(&self.usage.budgets, budgets) {
            self.usage.adopt(budgets);
            self.names.adopt(tenant_id, budgets);
        }
    }
}

impl Tenant {
    /// A tenant whose calls begin now.
    pub(crate) fn new(id: &Arc<str>) -> Self {
        Self { id: Arc::clone(id), state: Mutex::default(), steps: RwLock::default() }
    }

    /// A tenant with what the ledger knows of its calls. Blocks.
    pub(crate) fn load(id: &Arc<str>, history: &dyn UsageHistory, now: i64) -> Result<Self, HistoryError> {
        let mut usage = Usage::default();
        for window in WINDOWS {
            let Period { start, end } = Period::at(window, now);
            for used in history.used(id, moment(start), moment(end))? {
                usage.seed(window, now, &used.slug, &used.alias, used.used);
            }
        }
        let state = State { usage, names: Names::default() };
        Ok(Self { state: Mutex::new(state), ..Self::new(id) })
    }

    /// Never held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the budgets and holds what the call may use, as one step: on all of them or on none.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        budgets: &Arc<TenantBudgets>,
        call: &Call<'_>,
        share: Share,
    ) -> Result<Granted, Answer> {
        let mut state = self.state();
        state.adopt(&self.id, budgets);
        let answer = state.usage.ask(call, share);
        if answer.refused_until.is_some() {
            return Err(answer);
        }
        let ticket = state.usage.reserve(call);
        drop(state);
        Ok(Granted { answer, reservation: Reservation::new(self, ticket, None) })
    }
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenant").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A call that may be made.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) answer: Answer,
    pub(crate) reservation: Reservation,
}

/// What a call holds. Settles itself when it is dropped: without a settlement nobody knows what the call used, so all
/// that it held counts as used once an upstream has heard of it.
#[derive(Debug)]
pub(crate) struct Reservation {
    tenant: Arc<Tenant>,
    ticket: Option<Ticket>,
    tried: bool,
    settlements: Option<Settlements>,
}

impl Reservation {
    pub(super) fn new(tenant: &Arc<Tenant>, ticket: Ticket, settlements: Option<Settlements>) -> Self {
        Self { tenant: Arc::clone(tenant), ticket: Some(ticket), tried: false, settlements }
    }

    /// An upstream hears of the call.
    pub(crate) fn try_now(&mut self) {
        self.tried = true;
    }

    pub(crate) fn was_tried(&self) -> bool {
        self.tried
    }

    /// Ends the call.
    pub(crate) fn settle(mut self, used: Amounts) {
        self.end(used);
    }

    fn end(&mut self, used: Amounts) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut state = self.tenant.state();
        state.usage.settle(&ticket, used);
        if let Some(settlements) = &self.settlements {
            settlements.settle(&self.tenant, &mut state, &ticket, used);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let worst = self.ticket.as_ref().filter(|_| self.tried).map(|ticket| ticket.worst);
        self.end(worst.unwrap_or_default());
    }
}
