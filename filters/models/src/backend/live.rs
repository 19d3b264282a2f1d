//! What happens to a backend while it is used. A reload takes it over: a backend that keeps its id and its address
//! stays up or down, keeps its running requests, and its entries keep what they remember.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Backend;
use crate::catalog::entry::History;

/// State of one backend.
#[derive(Debug)]
pub(crate) struct Live {
    /// Whether the last look or request found it alive.
    up: AtomicBool,
    /// Requests running on it.
    in_flight: AtomicI64,
    /// What happened to its entries, by base alias and name of the model; kept as long as a catalog has them.
    histories: Mutex<Histories>,
}

type Histories = HashMap<(Arc<str>, Arc<str>), Weak<History>>;

impl Default for Live {
    fn default() -> Self {
        Self { up: AtomicBool::new(true), in_flight: AtomicI64::new(0), histories: Mutex::default() }
    }
}

impl Live {
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    pub(super) fn in_flight(&self) -> i64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begins(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ends(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// What happened to the entry of a model, if it is known, or a new history.
    pub(crate) fn history(&self, alias: &Arc<str>, model: &Arc<str>) -> Arc<History> {
        let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(alias), Arc::clone(model));
        if let Some(known) = histories.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        histories.retain(|_, history| history.strong_count() > 0);
        let history = Arc::default();
        histories.insert(key, Arc::downgrade(&history));
        history
    }
}

/// Gives backends the state of those that have their ids and stand at the same addresses.
pub(crate) fn take_over(backends: &mut [Arc<Backend>], before: &[Arc<Backend>]) {
    for backend in backends.iter_mut().filter_map(Arc::get_mut) {
        let same = |known: &&Arc<Backend>| known.id == backend.id && known.root() == backend.root();
        if let Some(known) = before.iter().find(same) {
            backend.live = Arc::clone(&known.live);
        }
    }
}
