//! The report `GET /v1/billing/usage`: what a tenant was billed, by hours or days.
//!
//! Hours are summed up when a request is settled, in the transaction of its row, so a month of any number of requests is
//! a few thousand rows. The parts of hours at both ends are counted from the rows of requests, unless nothing of
//! the hour lies outside.
//!
//! | Module | Holds |
//! |---|---|
//! | `answer` | the JSON |
//! | `endpoint` | the endpoint, and who may read at the same time |
//! | `hours` | the sums of hours, and their SQL |
//! | `period` | the query |

mod answer;
mod endpoint;
pub(crate) mod hours;
mod period;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rust_decimal::Decimal;

pub(crate) use self::endpoint::Reports;
pub use self::endpoint::Usage;
use self::hours::Line;
use self::period::{Granularity, Period};
use crate::money::{MICROS, half_up};

/// Digits of cents behind the point.
const CENTS: u32 = 2;

/// What was billed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub requests: u64,
    pub eur_cents: i64,
    pub usd_cents: i64,
    pub upstream_usd: Decimal,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.eur_cents = self.eur_cents.saturating_add(other.eur_cents);
        self.usd_cents = self.usd_cents.saturating_add(other.usd_cents);
        self.upstream_usd = self.upstream_usd.saturating_add(other.upstream_usd);
    }

    fn eur(&self) -> String {
        format!("{:.2}", Decimal::new(self.eur_cents, CENTS))
    }

    fn usd(&self) -> String {
        format!("{:.2}", Decimal::new(self.usd_cents, CENTS))
    }

    /// At most 6 digits, of the sum and not of its parts.
    fn upstream(&self) -> String {
        half_up(self.upstream_usd, MICROS).normalize().to_string()
    }
}

/// An hour or a day with something in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bucket {
    all: Sum,
    by_model: BTreeMap<String, Sum>,
    by_source: BTreeMap<String, u64>,
}

/// Lines in buckets, by their beginning in milliseconds of UTC.
fn buckets(lines: Vec<Line>, granularity: Granularity) -> BTreeMap<i64, Bucket> {
    let mut buckets: BTreeMap<i64, Bucket> = BTreeMap::new();
    for Line { at, model, source, sum } in lines {
        let bucket = buckets.entry(granularity.begin(at)).or_default();
        bucket.all.add(&sum);
        bucket.by_model.entry(model).or_default().add(&sum);
        let requests = bucket.by_source.entry(source).or_default();
        *requests = requests.saturating_add(sum.requests);
    }
    buckets
}
