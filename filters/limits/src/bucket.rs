//! An exact token bucket in integers: never more than capacity + refill x time is admitted over any window.
//!
//! A *unit* is what one request takes; it has a million micro-units. Levels are held in *parts*: micro-units times
//! microseconds per second. So the refill of `m` micro-units per second over `t` microseconds is `m x t` parts, one
//! multiplication without a remainder, and no rounding error can add up.
//!
//! What is *reserved* may come back in part when it is *settled*. If all that came back were simply added, a late
//! settlement could bring back what the refill had replaced long ago, and a window would see more than the rate
//! allows. So a bucket knows what it holds for reservations, and level and holdings together never pass the
//! capacity: where the refill would push them over it, the holdings *spill*, and what has spilled since a
//! reservation began does not come back. A bucket of which nothing is reserved pays nothing for that.

mod map;

use std::time::Duration;

pub use self::map::{BucketMap, Key, MapMetrics};

const MICROS: u64 = 1_000_000;
pub(crate) const PARTS_PER_UNIT: i128 = MICROS as i128 * MICROS as i128;

/// Most tokens per minute that are told apart. The script of the shared store counts in floating point numbers, and
/// up to here it is exact.
pub const MAX_TOKENS_PER_MINUTE: u64 = 100_000_000_000;

/// A call that used more than it had reserved leaves a debt. It is at most this many capacities: with the refill of
/// a capacity per minute an hour.
const MAX_DEBT: u64 = 60;

/// Capacity and refill of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    capacity: u64,
    micro_units_per_second: u64,
}

impl Rate {
    /// From the numbers of a configuration. The refill is rounded down to micro-units per second; both are at least
    /// the smallest amount that lets a bucket work (1 unit, 1 micro-unit per second).
    #[must_use]
    pub fn new(capacity: u32, per_second: f64) -> Self {
        // Seconds to microseconds and units to micro-units are the same conversion, and this one cannot overflow.
        let micro_units = Duration::try_from_secs_f64(per_second).map_or(0, |refill| refill.as_micros());
        Self::from_micro_units(capacity.into(), u64::try_from(micro_units).unwrap_or(u64::MAX))
    }

    /// From a number per minute. The refill is rounded up to micro-units per second, so that one per minute is back
    /// after a minute and not a moment later.
    #[must_use]
    pub fn per_minute(capacity: u32, per_minute: u32) -> Self {
        Self::from_micro_units(capacity.into(), (u64::from(per_minute) * MICROS).div_ceil(60))
    }

    /// A minute's worth at once, and as much per minute; at most [`MAX_TOKENS_PER_MINUTE`]. The refill is rounded up
    /// to micro-units per second, so that an empty bucket is full in a minute: a token more in eleven days.
    #[must_use]
    pub fn tokens_per_minute(tokens: u64) -> Self {
        let tokens = tokens.min(MAX_TOKENS_PER_MINUTE);
        Self::from_micro_units(tokens, (tokens * MICROS).div_ceil(60))
    }

    /// The share of one of several processes; of the capacity at least 1.
    #[must_use]
    pub fn share(self, processes: u32) -> Self {
        let processes = u64::from(processes.max(1));
        Self::from_micro_units(self.capacity / processes, self.micro_units_per_second / processes)
    }

    fn from_micro_units(capacity: u64, micro_units_per_second: u64) -> Self {
        Self { capacity: capacity.max(1), micro_units_per_second: micro_units_per_second.max(1) }
    }

    /// Units in a full bucket.
    #[must_use]
    pub fn capacity(self) -> u64 {
        self.capacity
    }

    /// Whole units per second that flow in, and the micro-units beyond them.
    pub(crate) fn refill(self) -> (u64, u64) {
        (self.micro_units_per_second / MICROS, self.micro_units_per_second % MICROS)
    }

    fn capacity_parts(self) -> i128 {
        parts(self.capacity)
    }

    /// Time in which the given parts flow in, rounded up to a microsecond.
    fn time_for(self, missing: i128) -> Duration {
        let missing = u128::try_from(missing).unwrap_or(0);
        let micros = missing.div_ceil(u128::from(self.micro_units_per_second));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// What is told of a bucket after a take.
    pub(crate) fn taken(self, level: i128) -> Taken {
        Taken { remaining: whole_units(level), full_in: self.time_for(self.capacity_parts() - level) }
    }

    /// What is told of a bucket that does not hold `wanted`.
    pub(crate) fn refused(self, level: i128, wanted: u64) -> Refused {
        let Taken { remaining, full_in } = self.taken(level);
        Refused { remaining, wait: self.time_for(parts(wanted) - level), full_in }
    }
}

fn parts(units: u64) -> i128 {
    i128::from(units) * PARTS_PER_UNIT
}

/// Units of a level, rounded down; none in a debt.
fn whole_units(level: i128) -> u64 {
    u64::try_from(level / PARTS_PER_UNIT).unwrap_or(0)
}

/// The bucket after a successful take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whole units that are left.
    pub remaining: u64,
    /// Time until the bucket is full.
    pub full_in: Duration,
}

/// The bucket after a refused take, which takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whole units that are left.
    pub remaining: u64,
    /// Time until the same take succeeds, if nobody else takes. For more than the capacity: until it would, if the
    /// bucket had no rim; it never does.
    pub wait: Duration,
    /// Time until the bucket is full.
    pub full_in: Duration,
}

/// What has to be known to settle a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Units that were reserved.
    pub units: u64,
    /// Which bucket it was: one that was full is forgotten, and a later one of the same key owes it nothing.
    pub born: u64,
    /// What had spilled by then, in parts.
    pub(crate) spilled: i128,
}

/// Microseconds since an origin that all readings of one map share.
type Micros = u64;

/// One bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    /// Level; negative after calls that used more than they had reserved.
    parts: i128,
    /// Parts that reservations may still bring back; together with the level at most the capacity.
    held: i128,
    /// Parts of reservations that will not come back, because the refill took their place.
    spilled: i128,
    born: u64,
    filled_at: Micros,
}

impl Bucket {
    fn full(rate: Rate, born: u64, now: Micros) -> Self {
        Self { rate, parts: rate.capacity_parts(), held: 0, spilled: 0, born, filled_at: now }
    }

    /// Brings the level up to date. A clock reading from before the last one adds nothing.
    fn refill(&mut self, now: Micros) {
        let elapsed = i128::from(now.saturating_sub(self.filled_at));
        let gained = elapsed * i128::from(self.rate.micro_units_per_second);
        self.parts = self.parts.saturating_add(gained).min(self.rate.capacity_parts());
        self.filled_at = self.filled_at.max(now);
        self.spill();
    }

    /// Lets go of what the level leaves no room for.
    fn spill(&mut self) {
        if self.held == 0 {
            return;
        }
        let over = (self.parts + self.held - self.rate.capacity_parts()).max(0);
        self.held -= over;
        self.spilled = self.spilled.saturating_add(over);
    }

    /// Changes the rate. What was taken stays taken: a larger bucket fills up at its own pace.
    fn adopt(&mut self, rate: Rate) {
        self.rate = rate;
        self.parts = self.parts.min(rate.capacity_parts());
        self.spill();
    }

    fn is_full(&self) -> bool {
        self.parts >= self.rate.capacity_parts()
    }

    fn bring_up_to_date(&mut self, rate: Rate, now: Micros) {
        self.refill(now);
        if self.rate != rate {
            self.adopt(rate);
        }
    }

    fn try_take(&mut self, units: u64, rate: Rate, now: Micros) -> Result<Taken, Refused> {
        self.bring_up_to_date(rate, now);
        let left = self.parts - parts(units);
        if left < 0 {
            return Err(rate.refused(self.parts, units));
        }
        self.parts = left;
        Ok(rate.taken(left))
    }

    fn try_reserve(&mut self, units: u64, rate: Rate, now: Micros) -> Result<(Taken, Ticket), Refused> {
        let taken = self.try_take(units, rate, now)?;
        self.held += parts(units);
        Ok((taken, Ticket { units, born: self.born, spilled: self.spilled }))
    }

    /// Ends a reservation: brings back what was not used, and takes what was used beyond it.
    fn settle(&mut self, ticket: Ticket, used: u64, rate: Rate, now: Micros) {
        self.bring_up_to_date(rate, now);
        let mine = if ticket.born == self.born {
            parts(ticket.units).saturating_sub((self.spilled - ticket.spilled).max(0)).max(0)
        } else {
            0
        };
        let back = parts(ticket.units.saturating_sub(used)).min(mine);
        let beyond = used.saturating_sub(ticket.units).min(MAX_DEBT * rate.capacity);
        self.held = (self.held - mine).max(0);
        let level = (self.parts + back).min(rate.capacity_parts()) - parts(beyond);
        self.parts = level.max(-parts(MAX_DEBT * rate.capacity));
    }
}

#[cfg(test)]
mod tests;
