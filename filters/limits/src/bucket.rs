//! An exact token bucket in integers: never more than capacity + refill x time is admitted over any window.
//!
//! A *unit* is what one request takes; it has a million micro-units. Levels are held in *parts*: micro-units times
//! microseconds per second. So the refill of `m` micro-units per second over `t` microseconds is `m x t` parts, one
//! multiplication without a remainder, and no rounding error can add up.

mod map;

use std::time::Duration;

pub use self::map::{BucketMap, Key, MapMetrics};

const MICROS: u64 = 1_000_000;
const PARTS_PER_UNIT: u128 = MICROS as u128 * MICROS as u128;

/// Capacity and refill of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    capacity: u32,
    micro_units_per_second: u64,
}

impl Rate {
    /// From the numbers of a configuration. The refill is rounded down to micro-units per second; both are at least
    /// the smallest amount that lets a bucket work (1 unit, 1 micro-unit per second).
    #[must_use]
    pub fn new(capacity: u32, per_second: f64) -> Self {
        // Seconds to microseconds and units to micro-units are the same conversion, and this one cannot overflow.
        let micro_units = Duration::try_from_secs_f64(per_second).map_or(0, |refill| refill.as_micros());
        Self::from_micro_units(capacity, u64::try_from(micro_units).unwrap_or(u64::MAX))
    }

    /// From a number per minute.
    #[must_use]
    pub fn per_minute(capacity: u32, per_minute: u32) -> Self {
        Self::from_micro_units(capacity, u64::from(per_minute) * MICROS / 60)
    }

    fn from_micro_units(capacity: u32, micro_units_per_second: u64) -> Self {
        Self { capacity: capacity.max(1), micro_units_per_second: micro_units_per_second.max(1) }
    }

    /// Units in a full bucket.
    #[must_use]
    pub fn capacity(self) -> u32 {
        self.capacity
    }

    fn capacity_parts(self) -> u128 {
        u128::from(self.capacity) * PARTS_PER_UNIT
    }

    /// Time in which the given parts flow in, rounded up to a microsecond.
    fn time_for(self, parts: u128) -> Duration {
        let micros = parts.div_ceil(u128::from(self.micro_units_per_second));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

/// The bucket after a successful take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whole units that are left.
    pub remaining: u32,
    /// Time until the bucket is full.
    pub full_in: Duration,
}

/// The bucket after a refused take, which takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whole units that are left.
    pub remaining: u32,
    /// Time until the same take succeeds, if nobody else takes. For more than the capacity: until it would, if the
    /// bucket had no rim; it never does.
    pub wait: Duration,
    /// Time until the bucket is full.
    pub full_in: Duration,
}

/// Microseconds since an origin that all readings of one map share.
type Micros = u64;

/// One bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    parts: u128,
    filled_at: Micros,
}

impl Bucket {
    fn full(rate: Rate, now: Micros) -> Self {
        Self { rate, parts: rate.capacity_parts(), filled_at: now }
    }

    /// Brings the level up to date. A clock reading from before the last one adds nothing.
    fn refill(&mut self, now: Micros) {
        let elapsed = u128::from(now.saturating_sub(self.filled_at));
        let gained = elapsed * u128::from(self.rate.micro_units_per_second);
        self.parts = self.parts.saturating_add(gained).min(self.rate.capacity_parts());
        self.filled_at = self.filled_at.max(now);
    }

    /// Changes the rate. What was taken stays taken: a larger bucket fills up at its own pace.
    fn adopt(&mut self, rate: Rate) {
        self.rate = rate;
        self.parts = self.parts.min(rate.capacity_parts());
    }

    fn is_full(&self) -> bool {
        self.parts >= self.rate.capacity_parts()
    }

    fn remaining(&self) -> u32 {
        u32::try_from(self.parts / PARTS_PER_UNIT).unwrap_or(u32::MAX)
    }

    fn full_in(&self) -> Duration {
        self.rate.time_for(self.rate.capacity_parts().saturating_sub(self.parts))
    }

    fn try_take(&mut self, units: u32, rate: Rate, now: Micros) -> Result<Taken, Refused> {
        self.refill(now);
        if self.rate != rate {
            self.adopt(rate);
        }
        let wanted = u128::from(units) * PARTS_PER_UNIT;
        match self.parts.checked_sub(wanted) {
            Some(left) => {
                self.parts = left;
                Ok(Taken { remaining: self.remaining(), full_in: self.full_in() })
            }
            None => Err(Refused {
                remaining: self.remaining(),
                wait: rate.time_for(wanted - self.parts),
                full_in: self.full_in(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
