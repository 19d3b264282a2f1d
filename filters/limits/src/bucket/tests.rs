use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const ALICE: Key = [1; 32];

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn key(number: u64) -> Key {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

fn new_map(cap: usize, origin: Instant) -> BucketMap {
    let buckets = prometheus::IntGauge::new("buckets", "Buckets.").unwrap();
    let shared_takes = prometheus::IntCounter::new("shared_takes", "Takes.").unwrap();
    BucketMap::new(cap, origin, MapMetrics { buckets, shared_takes })
}

#[test]
fn follows_the_table_of_the_specification() {
    let start = Instant::now();
    let map = new_map(1000, start);
    let rate = Rate::new(30, 1.0);
    assert_eq!(map.try_take(&ALICE, 1, rate, start), Ok(Taken { remaining: 29, full_in: millis(1000) }));
    for left in (0..29).rev() {
        assert_eq!(map.try_take(&ALICE, 1, rate, start).map(|taken| taken.remaining), Ok(left));
    }
    let empty = Refused { remaining: 0, wait: millis(1000), full_in: millis(30_000) };
    assert_eq!(map.try_take(&ALICE, 1, rate, start), Err(empty));
    let later = Refused { remaining: 0, wait: millis(600), full_in: millis(29_600) };
    assert_eq!(map.try_take(&ALICE, 1, rate, start + millis(400)), Err(later));
    assert_eq!(
        map.try_take(&ALICE, 1, rate, start + millis(1000)),
        Ok(Taken { remaining: 0, full_in: millis(30_000) })
    );
}

#[test]
fn succeeds_exactly_when_the_wait_is_over() {
    let start = Instant::now();
    let map = new_map(10, start);
    let rate = Rate::new(1, 0.3);
    map.try_take(&ALICE, 1, rate, start).unwrap();
    let wait = map.try_take(&ALICE, 1, rate, start).unwrap_err().wait;
    assert!(map.try_take(&ALICE, 1, rate, start + wait - Duration::from_micros(1)).is_err());
    assert!(map.try_take(&ALICE, 1, rate, start + wait).is_ok());
}

#[test]
fn keeps_fractions_of_a_unit_over_many_short_steps() {
    let start = Instant::now();
    let map = new_map(10, start);
    let rate = Rate::new(1, 0.001);
    map.try_take(&ALICE, 1, rate, start).unwrap();
    for step in 1..1000 {
        assert!(map.try_take(&ALICE, 1, rate, start + Duration::from_secs(step)).is_err());
    }
    assert!(map.try_take(&ALICE, 1, rate, start + Duration::from_secs(1000)).is_ok());
}

#[test]
fn a_clock_that_steps_back_adds_nothing() {
    let start = Instant::now();
    let map = new_map(10, start);
    let rate = Rate::new(1, 1.0);
    let later = start + millis(5000);
    map.try_take(&ALICE, 1, rate, later).unwrap();
    assert!(map.try_take(&ALICE, 1, rate, start).is_err());
    assert!(map.try_take(&ALICE, 1, rate, later + millis(999)).is_err());
    assert!(map.try_take(&ALICE, 1, rate, later + millis(1000)).is_ok());
}

#[test]
fn keys_do_not_share_a_bucket() {
    let start = Instant::now();
    let map = new_map(1000, start);
    let rate = Rate::new(1, 1.0);
    for number in 0..100 {
        assert!(map.try_take(&key(number), 1, rate, start).is_ok());
        assert!(map.try_take(&key(number), 1, rate, start).is_err());
    }
    assert_eq!((map.metrics().buckets.get(), map.metrics().shared_takes.get()), (100, 0));
}

#[test]
fn a_raised_limit_does_not_give_back_what_was_taken() {
    let start = Instant::now();
    let map = new_map(10, start);
    for _ in 0..2 {
        map.try_take(&ALICE, 1, Rate::new(2, 1.0), start).unwrap();
    }
    assert!(map.try_take(&ALICE, 1, Rate::new(50, 1.0), start).is_err());
    assert_eq!(map.try_take(&ALICE, 1, Rate::new(50, 1.0), start + millis(3000)).map(|taken| taken.remaining), Ok(2));
}

#[test]
fn a_lowered_limit_holds_at_once() {
    let start = Instant::now();
    let map = new_map(10, start);
    map.try_take(&ALICE, 1, Rate::new(50, 1.0), start).unwrap();
    assert_eq!(map.try_take(&ALICE, 1, Rate::new(3, 1.0), start).map(|taken| taken.remaining), Ok(2));
}

#[test]
fn a_take_above_the_capacity_never_succeeds() {
    let start = Instant::now();
    let map = new_map(10, start);
    let rate = Rate::new(2, 1.0);
    for seconds in [0, 10, 1_000_000] {
        assert!(map.try_take(&ALICE, 3, rate, start + Duration::from_secs(seconds)).is_err());
    }
}

#[test]
fn forgets_buckets_that_are_full_again() {
    let start = Instant::now();
    let map = new_map(1 << 20, start);
    let rate = Rate::new(5, 1.0);
    for number in 0..200_000 {
        // Each key asks once and is full again after a second; about ten thousand are busy at any moment.
        let now = start + Duration::from_micros(number * 100);
        map.try_take(&key(number), 1, rate, now).unwrap();
    }
    let held = map.metrics().buckets.get();
    assert!(held < 40_000, "{held}");
}

#[test]
fn at_the_cap_it_neither_grows_nor_forgets_a_busy_key() {
    let start = Instant::now();
    let map = new_map(640, start);
    let rate = Rate::new(1, 0.001);
    map.try_take(&ALICE, 1, rate, start).unwrap();
    let admitted = (0..50_000).filter(|number| map.try_take(&key(*number), 1, rate, start).is_ok()).count();
    let held = map.metrics().buckets.get();
    assert!(held <= 640, "{held}");
    assert!(map.metrics().shared_takes.get() > 0);
    assert!(admitted <= 640 + 64, "{admitted} takes for 640 own and 64 shared buckets");
    assert!(map.try_take(&ALICE, 1, rate, start).is_err());
}

#[test]
fn a_key_that_used_the_shared_bucket_does_not_get_a_second_burst() {
    let start = Instant::now();
    let map = new_map(1, start);
    let (slow, quick) = (Rate::new(4, 0.001), Rate::new(4, 4.0));
    // One bucket per shard: the first keys fill all shards, and are full again after a second.
    for number in 0..10_000 {
        let _admitted = map.try_take(&key(number), 1, quick, start).is_ok();
    }
    let admitted = (0..8).filter(|step| map.try_take(&ALICE, 1, slow, start + millis(step * 1000)).is_ok()).count();
    assert!(admitted <= 4, "{admitted}");
}

#[test]
fn odd_numbers_of_a_configuration_still_make_a_bucket() {
    for per_second in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e-30] {
        assert_eq!(Rate::new(0, per_second), Rate { capacity: 1, micro_units_per_second: 1 });
    }
    assert_eq!(Rate::new(10, 0.1).micro_units_per_second, 100_000);
    assert_eq!(Rate::per_minute(10, 30), Rate::new(10, 0.5));
}

/// Lets `threads` threads take at the same instants and returns how many units each instant admitted.
fn admitted_per_step(rate: Rate, steps: &[Duration], threads: usize, tries: u64) -> Vec<u64> {
    let start = Instant::now();
    let (map, barrier) = (new_map(100, start), Barrier::new(threads));
    let worker = || {
        let mut now = start;
        steps
            .iter()
            .map(|step| {
                now += *step;
                barrier.wait();
                (0..tries).map(|_| u64::from(map.try_take(&ALICE, 1, rate, now).is_ok())).sum::<u64>()
            })
            .collect::<Vec<_>>()
    };
    let per_thread: Vec<Vec<u64>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    (0..steps.len()).map(|step| per_thread.iter().map(|counts| counts[step]).sum()).collect()
}

#[test]
fn a_rate_of_tokens_holds_a_minute() {
    assert_eq!(Rate::tokens_per_minute(60), Rate::new(60, 1.0));
    assert_eq!(Rate::tokens_per_minute(1), Rate { capacity: 1, micro_units_per_second: 16_667 });
    let most = Rate::tokens_per_minute(MAX_TOKENS_PER_MINUTE);
    assert_eq!(most.capacity(), MAX_TOKENS_PER_MINUTE);
    assert_eq!(Rate::tokens_per_minute(MAX_TOKENS_PER_MINUTE + 1), most);
    assert_eq!(Rate::tokens_per_minute(u64::MAX), most);
}

#[test]
fn a_share_of_a_limit_is_at_least_one() {
    assert_eq!(Rate::new(60, 3.0).share(3), Rate::new(20, 1.0));
    assert_eq!(Rate::new(2, 0.000_001).share(3), Rate { capacity: 1, micro_units_per_second: 1 });
    assert_eq!(Rate::new(60, 3.0).share(0), Rate::new(60, 3.0));
}

#[test]
fn what_was_not_used_comes_back_and_what_was_used_beyond_is_taken() {
    let start = Instant::now();
    let map = new_map(10, start);
    let rate = Rate::new(1000, 10.0);
    let level = || map.try_take(&ALICE, 0, rate, start).map(|taken| taken.remaining).unwrap();
    for (used, left) in [(0, 1000), (400, 600), (600, 0)] {
        let (taken, ticket) = map.try_reserve(&ALICE, 500, rate, start).unwrap();
        assert_eq!(taken.remaining, level());
        map.settle(&ALICE, ticket, used, rate, start);
        assert_eq!(level(), left, "{used}");
    }
}

#[test]
fn a_debt_is_paid_back_by_the_refill_and_is_at_most_an_hour() {
    let start = Instant::now();
    let map = new_map(10, start);
    let rate = Rate::tokens_per_minute(60);
    let (_, ticket) = map.try_reserve(&ALICE, 60, rate, start).unwrap();
    map.settle(&ALICE, ticket, 90, rate, start);
    let refused = map.try_take(&ALICE, 1, rate, start).unwrap_err();
    let in_debt = Refused { remaining: 0, wait: millis(31_000), full_in: millis(90_000) };
    assert_eq!(refused, in_debt);
    assert!(map.try_take(&ALICE, 1, rate, start + millis(31_000)).is_ok());

    let (_, ticket) = map.try_reserve(&key(2), 1, rate, start).unwrap();
    map.settle(&key(2), ticket, u64::MAX, rate, start);
    let full_in = map.try_take(&key(2), 1, rate, start).unwrap_err().full_in;
    assert_eq!(full_in, Duration::from_secs(3601));
    map.settle(&key(2), Ticket { units: 0, ..ticket }, u64::MAX, rate, start);
    let full_in = map.try_take(&key(2), 1, rate, start).unwrap_err().full_in;
    assert_eq!(full_in, Duration::from_secs(3660), "an hour until it is empty, a minute until it is full");
}

#[test]
fn what_the_refill_has_replaced_does_not_come_back_a_second_time() {
    let start = Instant::now();
    let map = new_map(10, start);
    let rate = Rate::tokens_per_minute(600);
    let (_, ticket) = map.try_reserve(&ALICE, 300, rate, start).unwrap();
    // half a minute later the bucket is full again, and somebody takes all of it
    let later = start + millis(30_000);
    map.try_take(&ALICE, 600, rate, later).unwrap();
    map.settle(&ALICE, ticket, 0, rate, later);
    assert_eq!(map.try_take(&ALICE, 1, rate, later).unwrap_err().remaining, 0);
}

#[test]
fn a_single_call_costs_exactly_what_it_used_however_long_it_took() {
    let start = Instant::now();
    let rate = Rate::tokens_per_minute(600); // 10 per second
    for (seconds, left) in [(0, 500), (5, 550), (10, 600), (50, 600)] {
        let map = new_map(10, start);
        let (_, ticket) = map.try_reserve(&ALICE, 400, rate, start).unwrap();
        let later = start + Duration::from_secs(seconds);
        map.settle(&ALICE, ticket, 100, rate, later);
        assert_eq!(map.try_take(&ALICE, 0, rate, later).unwrap().remaining, left, "{seconds} s");
    }
}

#[test]
fn a_bucket_that_was_forgotten_owes_nothing() {
    let start = Instant::now();
    let map = new_map(64, start); // one bucket per shard: a new key pushes out those that are full
    let rate = Rate::tokens_per_minute(600);
    let (_, ticket) = map.try_reserve(&ALICE, 600, rate, start).unwrap();
    let later = start + Duration::from_secs(120);
    for number in 0..1000 {
        map.try_take(&key(number), 1, rate, later).unwrap_or(Taken { remaining: 0, full_in: millis(0) });
    }
    map.try_take(&ALICE, 600, rate, later).unwrap_or(Taken { remaining: 0, full_in: millis(0) });
    map.settle(&ALICE, ticket, 0, rate, later);
    assert!(map.try_take(&ALICE, 600, rate, later).is_err());
}

/// A call of a model: tokens it reserves, and tokens it uses of them.
#[derive(Clone, Copy, Debug)]
struct Call {
    reserves: u64,
    uses: u64,
    /// Steps after which it ends.
    lasts: usize,
}

fn calls() -> impl Strategy<Value = Call> {
    (1u64..150, prop_oneof![Just(0.0), 0.0f64..=1.0], 0usize..6).prop_map(|(reserves, part, lasts)| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let uses = (reserves as f64 * part) as u64;
        Call { reserves, uses, lasts }
    })
}

const THREADS: usize = 64;

/// A pause, and how many threads make a call after it. Where few do, the bucket fills up while calls still run.
#[derive(Clone, Copy, Debug)]
struct Step {
    pause: Duration,
    callers: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![Just(0u64), 0u64..3_000_000].prop_map(Duration::from_micros);
    let callers = prop_oneof![Just(0), 1usize..6, Just(THREADS)];
    prop::collection::vec((pause, callers).prop_map(|(pause, callers)| Step { pause, callers }), 1..10)
}

/// Lets 64 threads make calls at the same instants, which end some steps later; returns the tokens that the calls
/// admitted at each instant turned out to use, and what is left once all have ended.
fn used_per_step(rate: Rate, steps: &[Step], calls: &[Call]) -> (Vec<u64>, u64) {
    let start = Instant::now();
    let (map, barrier) = (new_map(100, start), Barrier::new(THREADS));
    let worker = |thread: usize| {
        let (mut now, mut running, mut used) = (start, Vec::new(), vec![0; steps.len()]);
        for (step, Step { pause, callers }) in steps.iter().enumerate() {
            now += *pause;
            barrier.wait();
            running.retain(|(ends, ticket, call): &(usize, Ticket, Call)| {
                if *ends <= step {
                    map.settle(&ALICE, *ticket, call.uses, rate, now);
                }
                *ends > step
            });
            let call = calls[(thread * 7 + step * 13) % calls.len()];
            if thread < *callers
                && let Ok((_, ticket)) = map.try_reserve(&ALICE, call.reserves.min(rate.capacity()), rate, now)
            {
                let uses = call.uses.min(ticket.units);
                used[step] += uses;
                running.push((step + call.lasts, ticket, Call { uses, ..call }));
            }
        }
        barrier.wait();
        for (_, ticket, call) in running {
            map.settle(&ALICE, ticket, call.uses, rate, now);
        }
        used
    };
    let per_thread: Vec<Vec<u64>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || worker(thread))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let end = start + steps.iter().map(|step| step.pause).sum::<Duration>();
    let left = map.try_take(&ALICE, 0, rate, end).map_or(0, |taken| taken.remaining);
    ((0..steps.len()).map(|step| per_thread.iter().map(|used| used[step]).sum()).collect(), left)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn never_uses_more_than_capacity_plus_rate_times_time_over_any_window(
        capacity in 1u64..200,
        micro_units_per_second in 1u64..200_000_000,
        steps in steps(),
        calls in prop::collection::vec(calls(), 1..40),
    ) {
        let rate = Rate { capacity, micro_units_per_second };
        let (used, _) = used_per_step(rate, &steps, &calls);
        for first in 0..steps.len() {
            for last in first..steps.len() {
                let window: Duration = steps[first + 1..=last].iter().map(|step| step.pause).sum();
                let sum: u64 = used[first..=last].iter().sum();
                let most = u128::from(capacity) * 1_000_000_000_000
                    + window.as_micros() * u128::from(micro_units_per_second);
                prop_assert!(u128::from(sum) * 1_000_000_000_000 <= most, "{} in {:?}", sum, window);
            }
        }
    }

    #[test]
    fn nothing_leaks_once_all_calls_have_ended(
        capacity in 1u64..4000,
        steps in 1usize..10,
        calls in prop::collection::vec(calls(), 1..40),
    ) {
        // time stands still, so what is left is the capacity less what was used
        let rate = Rate { capacity, micro_units_per_second: 1_000_000 };
        let (used, left) = used_per_step(rate, &vec![Step { pause: Duration::ZERO, callers: THREADS }; steps], &calls);
        prop_assert_eq!(left, capacity - used.iter().sum::<u64>());
    }

    #[test]
    fn never_admits_more_than_burst_plus_rate_times_time_over_any_window(
        burst in 1u64..20,
        micro_units_per_second in 1u64..5_000_000,
        steps in prop::collection::vec((0u64..3_000_000).prop_map(Duration::from_micros), 1..12),
        tries in 1u64..12,
    ) {
        let rate = Rate { capacity: burst, micro_units_per_second };
        let admitted = admitted_per_step(rate, &steps, 4, tries);
        for first in 0..steps.len() {
            for last in first..steps.len() {
                let window: Duration = steps[first + 1..=last].iter().sum();
                let taken: u64 = admitted[first..=last].iter().sum();
                let most = u128::from(burst) * 1_000_000_000_000 + window.as_micros() * u128::from(micro_units_per_second);
                prop_assert!(u128::from(taken) * 1_000_000_000_000 <= most, "{} in {:?}", taken, window);
            }
        }
        let demand = 4 * tries;
        prop_assert_eq!(admitted[0], demand.min(burst), "a full bucket gives all it has");
    }
}
