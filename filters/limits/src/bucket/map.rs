//! Many buckets under one roof: sharded, bounded, and never waiting for anything but a short lock.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::{IntCounter, IntGauge};

use super::{Bucket, MICROS, Micros, Rate, Refused, Taken, Ticket};

/// Key of a bucket: a digest, or an address spread over its bytes.
pub type Key = [u8; 32];

/// Locks that share the buckets. Many more than cores, so that two requests rarely meet.
const SHARDS: usize = 64;

/// Size of a shard below which full buckets are not looked for.
const FIRST_SWEEP: usize = 64;

/// How often a shard at its cap may be searched for full buckets: a search costs one pass.
const SWEEP_AT_CAP_EVERY: Micros = MICROS;

/// Exact token buckets by key.
///
/// A bucket that is full again says nothing, so it is forgotten; that never admits more than the rate. At the cap,
/// keys without a bucket share one bucket per shard until others are full again: the map neither grows nor
/// forgets who has used up what.
#[derive(Debug)]
pub struct BucketMap {
    origin: Instant,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    cap_per_shard: usize,
    metrics: MapMetrics,
}

/// What a map tells about itself. Both figures can be registered, or just be read.
#[derive(Clone, Debug)]
pub struct MapMetrics {
    /// Buckets that are held.
    pub buckets: IntGauge,
    /// Takes that had to use a shared bucket, because the map was at its cap.
    pub shared_takes: IntCounter,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<Key, Bucket, RandomState>,
    shared: Option<Bucket>,
    sweep_at_len: usize,
    swept_at_cap: Option<Micros>,
    /// Buckets made so far.
    births: u64,
}

impl BucketMap {
    /// An empty map for about `cap` buckets. Times given to [`Self::try_take`] count from `origin`.
    #[must_use]
    pub fn new(cap: usize, origin: Instant, metrics: MapMetrics) -> Self {
        Self {
            origin,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            cap_per_shard: cap.div_ceil(SHARDS).max(1),
            metrics,
        }
    }

    /// What the map tells about itself.
    #[must_use]
    pub fn metrics(&self) -> &MapMetrics {
        &self.metrics
    }

    /// Takes `units` from the bucket of `key`. A key that is not known has a full bucket.
    ///
    /// # Errors
    /// The bucket holds less; nothing is taken.
    pub fn try_take(&self, key: &Key, units: u64, rate: Rate, now: Instant) -> Result<Taken, Refused> {
        self.with_bucket(key, rate, now, |bucket, now| bucket.try_take(units, rate, now))
    }

    /// Takes `units` that may come back: [`Self::settle`] has to follow.
    ///
    /// # Errors
    /// The bucket holds less; nothing is taken.
    pub fn try_reserve(&self, key: &Key, units: u64, rate: Rate, now: Instant) -> Result<(Taken, Ticket), Refused> {
        self.with_bucket(key, rate, now, |bucket, now| bucket.try_reserve(units, rate, now))
    }

    /// Ends a reservation of which `used` units were used.
    pub fn settle(&self, key: &Key, ticket: Ticket, used: u64, rate: Rate, now: Instant) {
        self.with_bucket(key, rate, now, |bucket, now| bucket.settle(ticket, used, rate, now));
    }

    /// Forgets a bucket, as it happens to one that is full.
    #[cfg(test)]
    pub(crate) fn forget(&self, key: &Key) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).buckets.remove(key);
        }
    }

    fn with_bucket<T>(&self, key: &Key, rate: Rate, now: Instant, act: impl FnOnce(&mut Bucket, Micros) -> T) -> T {
        let now = Micros::try_from(now.saturating_duration_since(self.origin).as_micros()).unwrap_or(Micros::MAX);
        let shards = u64::try_from(self.shards.len()).unwrap_or(1).max(1);
        let index = usize::try_from(self.hasher.hash_one(key) % shards).unwrap_or(0);
        let Some(shard) = self.shards.get(index) else {
            return act(&mut Bucket::full(rate, 0, now), now);
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = shard.buckets.get_mut(key) {
            return act(bucket, now);
        }
        let before = shard.buckets.len();
        shard.make_room(self.cap_per_shard, now);
        let result = if shard.buckets.len() < self.cap_per_shard {
            let mut bucket = shard.first_bucket(rate, now);
            let result = act(&mut bucket, now);
            shard.buckets.insert(*key, bucket);
            result
        } else {
            self.metrics.shared_takes.inc();
            let born = shard.birth();
            act(shard.shared.get_or_insert_with(|| Bucket::full(rate, born, now)), now)
        };
        let (before, after) = (i64::try_from(before).unwrap_or(0), i64::try_from(shard.buckets.len()).unwrap_or(0));
        self.metrics.buckets.add(after - before);
        result
    }
}

impl Shard {
    fn birth(&mut self) -> u64 {
        self.births = self.births.wrapping_add(1);
        self.births
    }

    /// What a key begins with: a full bucket, or a copy of the shared one while that still remembers takes of keys
    /// that had no bucket of their own.
    fn first_bucket(&mut self, rate: Rate, now: Micros) -> Bucket {
        if let Some(shared) = &mut self.shared {
            shared.refill(now);
            if !shared.is_full() {
                return *shared;
            }
        }
        self.shared = None;
        Bucket::full(rate, self.birth(), now)
    }

    /// Forgets full buckets when the shard has doubled since the last time, or stands at its cap. So the cost per
    /// new key is constant on average.
    fn make_room(&mut self, cap: usize, now: Micros) {
        let len = self.buckets.len();
        if len >= cap {
            if self.swept_at_cap.is_some_and(|at| now.saturating_sub(at) < SWEEP_AT_CAP_EVERY) {
                return;
            }
            self.swept_at_cap = Some(now);
        } else if len < self.sweep_at_len.max(FIRST_SWEEP) {
            return;
        }
        self.buckets.retain(|_, bucket| {
            bucket.refill(now);
            !bucket.is_full()
        });
        self.sweep_at_len = self.buckets.len().saturating_mul(2);
        self.buckets.shrink_to(self.sweep_at_len.max(FIRST_SWEEP));
    }
}
