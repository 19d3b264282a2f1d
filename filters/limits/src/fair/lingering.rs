//! Calls whose answers are complete: they keep their slots until their requests end, and for a moment at most.
//!
//! One task ends all that stay for too long: a timer for each call would cost every request more than the few that need it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::slots::Permit;

/// Time between two looks. A call whose answer is complete, and whose request does not end, keeps its slots for one to two
/// of it: as long as its connection may take to be free for the next call. A client that does not take its answer holds
/// them no longer.
pub(super) const LOOK: Duration = Duration::from_millis(25);

type Shared = Mutex<Option<Permit>>;

/// All calls that are about to end.
#[derive(Debug, Default)]
pub(super) struct Lingerers(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    /// In the order in which their answers were complete; those whose requests have ended leave a place without a call.
    calls: VecDeque<(Instant, Weak<Shared>)>,
    /// A task looks at them.
    watched: bool,
}

/// A call that is about to end.
#[derive(Debug)]
pub(super) struct Lingering(Arc<Shared>);

impl Lingering {
    /// What it holds, if it still does.
    pub(super) fn take(self) -> Option<Permit> {
        taken(&self.0)
    }
}

impl Lingerers {
    /// A call keeps its slots until the value is dropped, for a short time at most.
    pub(super) fn add(&self, permit: Permit) -> Lingering {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return Lingering(Arc::default()) };
        let shared = Arc::new(Mutex::new(Some(permit)));
        let mut list = lock(&self.0);
        list.calls.push_back((Instant::now(), Arc::downgrade(&shared)));
        if !std::mem::replace(&mut list.watched, true) {
            drop(runtime.spawn(Watch { list: Arc::clone(&self.0), over: false }.run()));
        }
        Lingering(shared)
    }
}

/// The task. When its runtime ends before it, the next call starts another.
struct Watch {
    list: Arc<Mutex<List>>,
    over: bool,
}

impl Watch {
    async fn run(mut self) {
        while !self.over {
            sleep(LOOK).await;
            let due = self.due(Instant::now());
            due.into_iter().filter_map(|call| taken(&*call.upgrade()?)).for_each(drop); // not under the lock
        }
    }

    /// The calls that were there at the last look already. Without others there is nothing left to watch.
    fn due(&mut self, now: Instant) -> Vec<Weak<Shared>> {
        let mut list = lock(&self.list);
        let count = list.calls.partition_point(|(since, _)| *since + LOOK <= now);
        let due = list.calls.drain(..count).map(|(_, call)| call).collect();
        self.over = list.calls.is_empty();
        list.watched = !self.over;
        due
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.over {
            lock(&self.list).watched = false;
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken(shared: &Shared) -> Option<Permit> {
    lock(shared).take()
}
