//! What a limit costs a request: one take, or a reservation and its settlement, among few and among many buckets.
//!
//! `cargo bench -p dgx-gateway-limits`

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails")]

use std::time::{Duration, Instant};

use dgx_gateway_limits::bucket::{BucketMap, Key, MapMetrics, Rate};
use divan::Bencher;
use prometheus::{IntCounter, IntGauge};

fn main() {
    divan::main();
}

fn key(index: usize) -> Key {
    let mut key = [0; 32];
    key.iter_mut().zip(index.to_le_bytes()).for_each(|(to, from)| *to = from);
    key
}

/// A map in which so many buckets are in use.
fn map(buckets: usize, rate: Rate, now: Instant) -> BucketMap {
    let metrics = MapMetrics {
        buckets: IntGauge::new("buckets", "x").unwrap(),
        shared_takes: IntCounter::new("takes", "x").unwrap(),
    };
    let map = BucketMap::new(1 << 20, now, metrics);
    for index in 0..buckets {
        map.try_take(&key(index), 1_000, rate, now).unwrap();
    }
    map
}

#[divan::bench(args = [1, 10_000])]
fn take(bencher: Bencher<'_, '_>, buckets: usize) {
    let (rate, mut now) = (Rate::new(1_000_000, 1_000_000.0), Instant::now());
    let map = map(buckets, rate, now);
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 7919) % buckets;
        now += Duration::from_micros(1);
        map.try_take(&key(next), 1, rate, now)
    });
}

#[divan::bench(args = [1, 10_000])]
fn reserve_and_settle(bencher: Bencher<'_, '_>, buckets: usize) {
    let (rate, mut now) = (Rate::tokens_per_minute(1_000_000_000), Instant::now());
    let map = map(buckets, rate, now);
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 7919) % buckets;
        now += Duration::from_micros(10);
        let (_, ticket) = map.try_reserve(&key(next), 4096, rate, now).unwrap();
        map.settle(&key(next), ticket, 300, rate, now);
    });
}

#[divan::bench]
fn refused(bencher: Bencher<'_, '_>) {
    let (rate, now) = (Rate::new(1, 0.000_001), Instant::now());
    let map = map(0, rate, now);
    map.try_take(&key(0), 1, rate, now).unwrap();
    bencher.bench_local(|| map.try_take(&key(0), 1, rate, now));
}
