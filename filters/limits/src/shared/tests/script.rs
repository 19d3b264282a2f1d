//! The script beside the bucket of this process.

use std::time::{Duration, Instant};

use dgx_gateway_testkit::redis::RedisServer;
use proptest::prelude::*;
use redis::aio::MultiplexedConnection;

use super::super::script::{self, BucketScript, Grant};
use super::super::*;
use super::{SOON, connection};
use crate::bucket::{BucketMap, Key, MAX_TOKENS_PER_MINUTE, MapMetrics, Rate, Refused, Ticket};
use crate::events::LimitKind;

const SCRIPT: &str = include_str!("../bucket.lua");

/// The script with a clock that the test sets: the last two arguments. The server's own clock, by which keys vanish,
/// goes on, so they last for long.
fn script_with_clock() -> BucketScript {
    let (clock, ttl) = ("redis.call('TIME')", "math.min(ttl, LONGEST_TTL)");
    assert_eq!((SCRIPT.matches(clock).count(), SCRIPT.matches(ttl).count()), (1, 1));
    BucketScript::of(&SCRIPT.replace(clock, "{ ARGV[#ARGV - 1], ARGV[#ARGV] }").replace(ttl, "LONGEST_TTL"))
}

fn map(origin: Instant) -> BucketMap {
    let buckets = prometheus::IntGauge::new("buckets", "Buckets.").unwrap();
    let shared_takes = prometheus::IntCounter::new("shared_takes", "Takes.").unwrap();
    BucketMap::new(100_000, origin, MapMetrics { buckets, shared_takes })
}

/// The bucket of this process and the one of the store, at the same moments.
struct Both {
    script: BucketScript,
    connection: MultiplexedConnection,
    map: BucketMap,
    origin: Instant,
    name: String,
    key: Key,
}

impl Both {
    async fn new(server: &RedisServer, name: &str) -> Self {
        let origin = Instant::now();
        Self {
            script: script_with_clock(),
            connection: connection(server).await,
            map: map(origin),
            origin,
            name: name.to_owned(),
            key: [3; 32],
        }
    }

    /// One step in both; the answers have to be the same. Reservations give both tickets.
    async fn step(&mut self, step: [Step; 2], rate: Rate, at_micros: u64) -> Result<Option<(Ticket, Ticket)>, Refused> {
        // the store's clock does not begin at 0: neither the seconds nor the microseconds are round
        let clock = 1_700_000_000_900_001 + at_micros;
        let more = [clock / 1_000_000, clock % 1_000_000];
        let now = self.origin + Duration::from_micros(at_micros);
        let there = self.script.run(&mut self.connection, &self.name, step[1], rate, &more).await.unwrap();
        let full = |full_in: Duration| full_in.is_zero();
        let forgets = there.map_or_else(|refused| full(refused.full_in), |grant| full(grant.taken.full_in));
        let result = self.same_here(step[0], there, rate, at_micros, now);
        if forgets {
            self.map.forget(&self.key); // the store forgets a full bucket at once, a map some time later
        }
        result
    }

    fn same_here(
        &self,
        step: Step,
        there: Result<Grant, Refused>,
        rate: Rate,
        at_micros: u64,
        now: Instant,
    ) -> Result<Option<(Ticket, Ticket)>, Refused> {
        match step {
            Step::Take(units) => {
                let here = self.map.try_take(&self.key, units, rate, now);
                assert_eq!(here, there.map(|grant| grant.taken), "take {units} at {at_micros}");
                here.map(|_| None)
            }
            Step::Reserve(units) => {
                let here = self.map.try_reserve(&self.key, units, rate, now);
                let taken = here.map(|(taken, _)| taken);
                assert_eq!(taken, there.map(|grant| grant.taken), "reserve {units} at {at_micros}");
                Ok(here.ok().zip(there.ok()).map(|((_, ticket), grant)| (ticket, grant.ticket)))
            }
            Step::Settle(ticket, used) => {
                self.map.settle(&self.key, ticket, used, rate, now);
                let here = self.map.try_take(&self.key, 0, rate, now);
                let level = there.map(|grant| grant.taken);
                // a take of nothing fails in a debt; a settlement never does
                match here {
                    Ok(here) => assert_eq!(Ok(here), level, "settle at {at_micros}"),
                    Err(here) => assert_eq!(here.full_in, level.unwrap().full_in, "settle at {at_micros}"),
                }
                Ok(None)
            }
        }
    }

    async fn take(&mut self, units: u64, rate: Rate, at_micros: u64) -> Result<(), Refused> {
        self.step([Step::Take(units); 2], rate, at_micros).await.map(drop)
    }
}

#[tokio::test]
async fn the_script_follows_the_table_of_the_specification() {
    let server = RedisServer::start().await.unwrap();
    let mut both = Both::new(&server, "table").await;
    let rate = Rate::new(30, 1.0);
    for _ in 0..30 {
        both.take(1, rate, 0).await.unwrap();
    }
    let refused = both.take(1, rate, 0).await.unwrap_err();
    assert_eq!((refused.wait, refused.full_in), (Duration::from_secs(1), Duration::from_secs(30)));
    let refused = both.take(1, rate, 400_000).await.unwrap_err();
    assert_eq!((refused.wait, refused.full_in), (Duration::from_millis(600), Duration::from_millis(29_600)));
    both.take(1, rate, 1_000_000).await.unwrap();
    both.take(1, rate, 1_000_000).await.unwrap_err();
}

#[tokio::test]
async fn the_script_is_exact_at_the_largest_numbers() {
    let server = RedisServer::start().await.unwrap();
    for (name, rate) in [
        ("tokens", Rate::tokens_per_minute(MAX_TOKENS_PER_MINUTE)),
        ("odd", Rate::tokens_per_minute(MAX_TOKENS_PER_MINUTE - 1)),
        ("quick", Rate::new(1_000_000, 1_000_000.0)),
        ("slow", Rate::new(1_000_000, 0.000_001)),
    ] {
        let mut both = Both::new(&server, name).await;
        both.take(rate.capacity(), rate, 0).await.unwrap();
        for at in [1, 2, 999_999, 1_000_000, 1_999_998, 59_999_999, 86_400_000_000, 31_536_000_000_000] {
            for units in [1, rate.capacity() / 3, rate.capacity()] {
                let _either: Result<(), Refused> = both.take(units, rate, at).await;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Reserve(u64),
    Settle(usize, u64),
    SetRate(Rate),
    Take(u64),
}

fn rates() -> impl Strategy<Value = Rate> {
    prop_oneof![
        (1u32..50, 0.0f64..20.0).prop_map(|(capacity, per_second)| Rate::new(capacity, per_second)),
        (1u64..100_000).prop_map(Rate::tokens_per_minute),
        (0..=MAX_TOKENS_PER_MINUTE).prop_map(Rate::tokens_per_minute),
    ]
}

fn acts() -> impl Strategy<Value = Act> {
    let units = prop_oneof![0u64..60, 0u64..100_000, 0..=MAX_TOKENS_PER_MINUTE];
    let used = prop_oneof![0u64..60, 0u64..100_000, 0..=u64::MAX >> 11];
    prop_oneof![
        3 => units.clone().prop_map(Act::Take),
        3 => units.prop_map(Act::Reserve),
        3 => (0usize..8, used).prop_map(|(index, used)| Act::Settle(index, used)),
        1 => rates().prop_map(Act::SetRate),
    ]
}

#[test]
fn the_script_does_what_the_local_bucket_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(RedisServer::start()).unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    });
    let number = std::cell::Cell::new(0);
    let pauses = prop_oneof![Just(0u64), 0u64..2_000_000, 0u64..200_000_000];
    let strategy = (rates(), prop::collection::vec((pauses, acts()), 1..40));
    let result = runner.run(&strategy, |(first_rate, steps)| {
        runtime.block_on(async {
            number.set(number.get() + 1);
            let mut both = Both::new(&server, &format!("random-{}", number.get())).await;
            let (mut rate, mut at, mut tickets) = (first_rate, 0, Vec::new());
            for (pause, act) in steps {
                at += pause;
                match act {
                    Act::Take(units) => drop(both.take(units, rate, at).await),
                    Act::Reserve(units) => {
                        let units = units.min(rate.capacity());
                        let reserved = both.step([Step::Reserve(units); 2], rate, at).await;
                        tickets.extend(reserved.ok().flatten());
                    }
                    Act::Settle(index, used) if !tickets.is_empty() => {
                        let (here, there) = tickets.swap_remove(index % tickets.len());
                        let step = [Step::Settle(here, used), Step::Settle(there, used)];
                        both.step(step, rate, at).await.unwrap();
                    }
                    Act::Settle(..) => {}
                    Act::SetRate(new) => rate = new,
                }
            }
        });
        Ok(())
    });
    result.unwrap();
}

#[tokio::test]
async fn a_clock_of_the_store_that_steps_back_adds_nothing() {
    let server = RedisServer::start().await.unwrap();
    let mut both = Both::new(&server, "back").await;
    let rate = Rate::new(1, 1.0);
    both.take(1, rate, 5_000_000).await.unwrap();
    both.take(1, rate, 0).await.unwrap_err();
    both.take(1, rate, 5_999_999).await.unwrap_err();
    both.take(1, rate, 6_000_000).await.unwrap();
}

#[tokio::test]
async fn keys_are_digests_and_vanish_when_the_bucket_is_full() {
    let server = RedisServer::start().await.unwrap();
    let mut connection = connection(&server).await;
    let script = BucketScript::new();
    let bearer = [0xab; 32];
    let name = script::name(LimitKind::Requests, &bearer);
    assert!(name.starts_with("dgx-gateway:limits:requests:") && !name.contains("abab"), "{name}");
    assert_ne!(name, script::name(LimitKind::Auth, &bearer));
    let rate = Rate::new(10, 100.0);
    script.run(&mut connection, &name, Step::Take(10), rate, &[]).await.unwrap().unwrap();
    let ttl: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await.unwrap();
    assert!((1..=101).contains(&ttl), "{ttl}");
    let gone = async {
        loop {
            let exists: bool = redis::cmd("EXISTS").arg(&name).query_async(&mut connection).await.unwrap();
            if !exists {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.unwrap();
    // what comes back at once leaves nothing behind either
    let slow = Rate::new(10, 0.001);
    let ticket = script.run(&mut connection, &name, Step::Reserve(5), slow, &[]).await.unwrap().unwrap().ticket;
    script.run(&mut connection, &name, Step::Settle(ticket, 0), slow, &[]).await.unwrap().unwrap();
    let level = script.run(&mut connection, &name, Step::Take(0), slow, &[]).await.unwrap().unwrap().taken;
    assert_eq!(level.remaining, 10);
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

#[test]
fn a_grant_of_the_script_reads_as_one_of_the_local_bucket() {
    let taken = Rate::new(30, 1.0).taken(29 * 1_000_000_000_000);
    let grant = Grant { taken, ticket: Ticket { units: 1, born: 0, spilled: 0 } };
    assert_eq!((grant.taken.remaining, grant.taken.full_in), (29, Duration::from_secs(1)));
}
