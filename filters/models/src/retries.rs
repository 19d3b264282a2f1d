//! How often a model is tried once more: as a share of its requests, so that trouble does not multiply the load.
//!
//! A further attempt takes one from the budget of the model; each request brings a share of one, and time some more. While
//! the budget runs low, backends whose last attempt failed are tried behind the others: a request that begins at a
//! backend that answers needs no further attempt. When it is used up there is none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use dgx_gateway_filter::Problem;

use crate::settings::RetriesFile;

/// Parts of one attempt: a request brings whole ones, and so does a microsecond.
const ATTEMPT: u64 = 1_000_000;
/// Attempts that are there from the start, and are saved at most, beside those of some seconds.
const SPARE: u64 = 10;
/// Seconds whose attempts are saved at most.
const SECONDS: u64 = 10;
const MAX_PERCENT: u32 = 10_000;
const MAX_PER_SECOND: u32 = 10_000;

/// What flows into the budgets of all models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retries {
    percent: u64,
    per_second: u64,
}

impl Retries {
    pub(crate) fn check(file: RetriesFile, problems: &mut Vec<Problem>) -> Self {
        for (key, value, most) in
            [("percent", file.percent, MAX_PERCENT), ("per_second", file.per_second, MAX_PER_SECOND)]
        {
            if value > most {
                problems.push(Problem::at(format!("retries.{key}"), format!("must be 0 to {most}")));
            }
        }
        Self { percent: file.percent.into(), per_second: file.per_second.into() }
    }

    /// The most that a budget holds, in parts.
    fn capacity(self) -> u64 {
        let some = self.percent > 0 || self.per_second > 0;
        if some { (SPARE + SECONDS * self.per_second) * ATTEMPT } else { 0 }
    }
}

/// The further attempts that one model may make.
#[derive(Debug, Default)]
pub(crate) struct RetryBudget {
    /// Requests that have not been counted in yet.
    requests: AtomicU64,
    level: Mutex<Option<Level>>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    parts: u64,
    at: Instant,
}

impl RetryBudget {
    /// A request begins.
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one attempt; false when there is none left.
    pub(crate) fn take(&self, flow: Retries, now: Instant) -> bool {
        self.with(flow, now, |level| {
            let left = level.checked_sub(ATTEMPT);
            *level = left.unwrap_or(*level);
            left.is_some()
        })
    }

    /// Whether less than half of it is left.
    pub(crate) fn is_low(&self, flow: Retries, now: Instant) -> bool {
        self.with(flow, now, |level| *level < flow.capacity() / 2)
    }

    fn with<T>(&self, flow: Retries, now: Instant, act: impl FnOnce(&mut u64) -> T) -> T {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let known = level.unwrap_or(Level { parts: flow.capacity(), at: now });
        let elapsed = u64::try_from(now.saturating_duration_since(known.at).as_micros()).unwrap_or(u64::MAX);
        let of_time = elapsed.saturating_mul(flow.per_second);
        let of_requests =
            self.requests.swap(0, Ordering::Relaxed).saturating_mul(flow.percent).saturating_mul(ATTEMPT / 100);
        let parts = known.parts.saturating_add(of_time).saturating_add(of_requests).min(flow.capacity());
        let made = level.insert(Level { parts, at: known.at.max(now) });
        act(&mut made.parts)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn flow(percent: u32, per_second: u32) -> Retries {
        let mut problems = Vec::new();
        let flow = Retries::check(RetriesFile { percent, per_second }, &mut problems);
        assert_eq!(problems, []);
        flow
    }

    /// Further attempts of so many requests, each of which wants one.
    fn taken(budget: &RetryBudget, flow: Retries, requests: usize, now: Instant) -> usize {
        let wants = |_: &usize| {
            budget.request();
            budget.take(flow, now)
        };
        (0..requests).filter(wants).count()
    }

    #[test]
    fn a_share_of_the_requests_is_tried_once_more_to_the_edge() {
        let now = Instant::now();
        for percent in [1, 20, 50, 99] {
            let budget = RetryBudget::default();
            // what is there from the start, then a share of all but the first request, which finds the budget full
            let expected = 10 + 999 * percent as usize / 100;
            assert_eq!(taken(&budget, flow(percent, 0), 1000, now), expected, "{percent}");
        }
        let budget = RetryBudget::default();
        assert_eq!(taken(&budget, flow(100, 0), 1000, now), 1000);
        assert_eq!(taken(&RetryBudget::default(), flow(0, 0), 1000, now), 0, "none at all");
    }

    #[test]
    fn time_brings_some_however_few_requests_there_are_and_saves_up_to_a_rim() {
        let (budget, flow, mut now) = (RetryBudget::default(), flow(0, 2), Instant::now());
        assert_eq!(taken(&budget, flow, 100, now), 30, "ten, and those of ten seconds");
        now += Duration::from_micros(499_999);
        assert!(!budget.take(flow, now));
        now += Duration::from_micros(1);
        assert!(budget.take(flow, now) && !budget.take(flow, now));
        // a reading of the clock from before the last one brings nothing
        assert!(!budget.take(flow, now.checked_sub(Duration::from_secs(100)).unwrap()));
        now += Duration::from_secs(100_000);
        assert_eq!(taken(&budget, flow, 100, now), 30);
    }

    #[test]
    fn it_is_low_below_its_half() {
        let (budget, flow, now) = (RetryBudget::default(), flow(20, 0), Instant::now());
        for left in (5..10).rev() {
            assert!(budget.take(flow, now));
            assert!(!budget.is_low(flow, now), "{left} are left");
        }
        assert!(budget.take(flow, now) && budget.is_low(flow, now));
        for _ in 0..5 {
            assert!(budget.is_low(flow, now));
            budget.request();
        }
        assert!(!budget.is_low(flow, now), "five requests have brought one");
    }

    #[test]
    fn threads_that_take_at_the_same_time_get_no_more_than_there_is() {
        let (budget, flow, now) = (RetryBudget::default(), flow(20, 0), Instant::now());
        let some = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&budget, flow, 2500, now))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert!((2000..=2010).contains(&some), "{some}");
    }

    #[test]
    fn numbers_out_of_range_are_told() {
        let mut problems = Vec::new();
        Retries::check(RetriesFile { percent: 10_001, per_second: 10_001 }, &mut problems);
        let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["retries.percent", "retries.per_second"]);
    }
}
