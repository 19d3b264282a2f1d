//! One call on its way into the database: opened, settled, and written once if both come together.
//!
//! Where nobody waits for a row, it gathers for some milliseconds before it is written. A call that is over by then is
//! written as settled at once: one statement in place of two, and no entry in the index of open calls that would have
//! to be taken out again. The outcome is the same, because both stand in one transaction anyway.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dgx_gateway_store::Group;
use dgx_gateway_store::rusqlite::Result;

use crate::rows::{self, Opened, Settled};

/// The row of the only call of a request.
pub(crate) struct Row {
    pub(crate) call: Opened,
    instance: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    settled: Option<Settled>,
    /// The row was written as settled.
    whole: bool,
}

impl Row {
    pub(crate) fn new(call: Opened, instance: &Arc<str>) -> Self {
        Self { call, instance: Arc::clone(instance), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the call ended. Before its settlement is handed over.
    pub(crate) fn is_settled(&self, settled: Settled) {
        self.state().settled = Some(settled);
    }

    /// Writes the row, as far as is known. May run again, in a transaction that begins anew.
    pub(crate) fn open(&self, group: &Group<'_>) -> Result<()> {
        let mut state = self.state();
        state.whole = state.settled.is_some();
        match &state.settled {
            Some(settled) => rows::write_settled(group, &self.call, settled, &self.instance),
            None => rows::open(group, &self.call, &self.instance),
        }
    }

    /// Settles the row, unless it was written as settled. Behind [`Row::open`] in the queue, so behind it in a
    /// transaction, too.
    pub(crate) fn settle(&self, group: &Group<'_>) -> Result<()> {
        let state = self.state();
        match &state.settled {
            Some(settled) if !state.whole => rows::settle_only(group, &self.call, settled),
            _ => Ok(()),
        }
    }
}
