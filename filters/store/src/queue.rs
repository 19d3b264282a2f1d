//! The queue between requests and the writer: bounded, and quiet. Work that nobody waits for wakes the writer once for
//! a whole group, not once for each piece.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::sync::{AcquireError, Semaphore, TryAcquireError};

use crate::store::{Keep, StoreError, Wait, Work};

/// A piece of work in the queue.
pub(crate) struct Job {
    pub work: Work,
    pub wait: Wait,
    pub keep: Keep,
    pub told: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("wait", &self.wait).field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl Job {
    pub(crate) fn tell(&mut self, result: Result<(), StoreError>) {
        if let Some(told) = self.told.take() {
            drop(told.send(result)); // nobody has to wait
        }
    }
}

/// Work that waits, and the places that were taken for more.
#[derive(Debug)]
pub(crate) struct Queue {
    room: Semaphore,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Places that were taken and not used yet: the writer does not end before them.
    open: usize,
    /// Somebody waits for a job in the queue.
    hurry: bool,
    closed: bool,
}

/// Whether a first job is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// However long it takes.
    Endless,
    /// Not at all.
    None,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { room: Semaphore::new(capacity), state: Mutex::default(), wake: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, and waits for one at most so long.
    ///
    /// # Cancel safety
    /// A place that was not given is not taken.
    pub(crate) async fn place(&self, limit: Duration) -> Result<(), StoreError> {
        let closed = |_: AcquireError| StoreError::Closed;
        let permit = match self.room.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(StoreError::Closed),
            Err(TryAcquireError::NoPermits) => {
                tokio::time::timeout(limit, self.room.acquire()).await.map_err(|_| StoreError::Busy)?.map_err(closed)?
            }
        };
        let mut state = self.state();
        if state.closed {
            return Err(StoreError::Closed);
        }
        state.open += 1;
        permit.forget(); // comes back with `done` or `leave`
        Ok(())
    }

    /// Uses a place.
    pub(crate) fn put(&self, job: Job) {
        let mut state = self.state();
        state.open -= 1;
        let first = state.jobs.is_empty();
        let hurry = job.wait == Wait::Now && !state.hurry;
        state.hurry |= hurry;
        state.jobs.push_back(job);
        drop(state);
        if first || hurry {
            self.wake.notify_one();
        }
    }

    /// Gives a place back that was not used.
    pub(crate) fn leave(&self) {
        let mut state = self.state();
        state.open -= 1;
        drop(state);
        self.room.add_permits(1);
        self.wake.notify_one(); // it may have been the last one that the writer waits for
    }

    /// So many jobs are done.
    pub(crate) fn done(&self, jobs: usize) {
        self.room.add_permits(jobs);
    }

    /// Takes no more places; those that were taken may still be used.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.room.close();
        self.wake.notify_one();
    }

    /// The next group: what has come within `gather` of its first job, less if somebody waits, at most `most`. Blocks;
    /// `None` when there will be no more. An impatient one does not wait for a first job and may get none.
    pub(crate) fn group(&self, patience: Patience, gather: Duration, most: usize) -> Option<Vec<Job>> {
        let mut state = self.state();
        while state.jobs.is_empty() {
            if state.closed && state.open == 0 {
                return None;
            }
            if patience == Patience::None {
                return Some(Vec::new());
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + gather;
        while !state.hurry && !state.closed && state.jobs.len() < most {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = state.jobs.len().min(most);
        let group = state.jobs.drain(..count).collect();
        state.hurry = state.jobs.iter().any(|job| job.wait == Wait::Now);
        Some(group)
    }

    /// Whether somebody waits for a job in the queue, `much` is in it, or it is to end.
    pub(crate) fn is_in_a_hurry(&self, much: usize) -> bool {
        let state = self.state();
        state.hurry || state.closed || state.jobs.len() >= much
    }

    /// Takes out what may fail, for a disk that refuses: whoever waits for it is not to wait until there is room again.
    pub(crate) fn take_what_may_fail(&self) -> Vec<Job> {
        let mut state = self.state();
        let (may_fail, kept): (Vec<Job>, Vec<Job>) = state.jobs.drain(..).partition(|job| job.keep == Keep::Never);
        state.jobs = kept.into();
        state.hurry = state.jobs.iter().any(|job| job.wait == Wait::Now);
        may_fail
    }

    /// Waits, but not for anything that comes; for a disk that refuses. Blocks.
    pub(crate) fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.state();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(3600);

    fn job(wait: Wait) -> Job {
        Job { work: Box::new(|_| Ok(())), wait, keep: Keep::Always, told: None }
    }

    #[tokio::test]
    async fn a_full_queue_takes_more_once_a_place_is_given_back_or_a_job_is_done() {
        let queue = Queue::new(2);
        queue.place(NONE).await.unwrap();
        queue.place(NONE).await.unwrap();
        assert!(matches!(queue.place(NONE).await, Err(StoreError::Busy)));
        queue.leave();
        queue.place(NONE).await.unwrap();
        queue.put(job(Wait::Now));
        assert!(matches!(queue.place(NONE).await, Err(StoreError::Busy)), "a job keeps its place until it is done");
        assert_eq!(queue.group(Patience::Endless, LONG, 10).unwrap().len(), 1);
        queue.done(1);
        queue.place(NONE).await.unwrap();
        assert_eq!(queue.group(Patience::None, LONG, 10).unwrap().len(), 0, "the impatient one gets what is there");
        queue.leave();
        queue.leave();
        queue.close();
        assert!(queue.group(Patience::None, LONG, 10).is_none());
    }

    #[tokio::test]
    async fn one_that_waits_takes_all_before_it_along_at_once() {
        let queue = Queue::new(9);
        for wait in [Wait::Later, Wait::Later, Wait::Now, Wait::Later] {
            queue.place(NONE).await.unwrap();
            queue.put(job(wait));
        }
        assert_eq!(queue.group(Patience::Endless, LONG, 3).unwrap().len(), 3);
        queue.place(NONE).await.unwrap();
        queue.put(job(Wait::Now));
        assert_eq!(queue.group(Patience::Endless, LONG, 9).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_was_taken_before_the_end_may_still_be_used() {
        let queue = std::sync::Arc::new(Queue::new(9));
        queue.place(NONE).await.unwrap();
        queue.place(NONE).await.unwrap();
        queue.close();
        assert!(matches!(queue.place(NONE).await, Err(StoreError::Closed)));
        let writer = std::thread::spawn({
            let queue = std::sync::Arc::clone(&queue);
            move || {
                std::iter::from_fn(|| queue.group(Patience::Endless, LONG, 9)).map(|group| group.len()).sum::<usize>()
            }
        });
        queue.put(job(Wait::Later));
        queue.leave();
        assert_eq!(writer.join().unwrap(), 1);
    }

    #[tokio::test]
    async fn it_is_in_a_hurry_with_much_in_it_with_a_waiter_and_at_the_end() {
        let queue = Queue::new(3);
        for _ in 0..3 {
            queue.place(NONE).await.unwrap();
        }
        queue.put(job(Wait::Later));
        assert!(!queue.is_in_a_hurry(2));
        queue.put(job(Wait::Later));
        assert!(queue.is_in_a_hurry(2));
        assert!(!queue.is_in_a_hurry(3));
        queue.put(job(Wait::Now));
        assert!(queue.is_in_a_hurry(9));
        assert_eq!(queue.group(Patience::Endless, LONG, 10).unwrap().len(), 3);
        assert!(!queue.is_in_a_hurry(1));
        queue.close();
        assert!(queue.is_in_a_hurry(1));
    }
}
