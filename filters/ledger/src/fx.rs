//! The exchange rate: that of the ECB, as new as it could be had.
//!
//! There is always one. It begins with the newest that was kept in `data/fx/`, else with the one that comes with the
//! binary; a task looks for a newer one, so that no start waits for it. What is older than the rate in use, of a day to
//! come, or makes no sense is left aside and logged.
//!
//! | Module | Holds |
//! |---|---|
//! | `document` | from XML to a rate |
//! | `kept` | the directory of rates that were accepted |
//! | `source` | where new ones come from |
//! | `watch` | the task, and the metrics |

mod document;
mod kept;
mod source;
#[cfg(test)]
mod tests;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use dgx_gateway_filter::clock::Clock;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;

use self::document::{DayRate, NoRate};
use self::kept::Kept;
pub(crate) use self::source::{Source, is_url};
pub(crate) use self::watch::{Gauges, watch};

/// The rate that comes with the binary, as the ECB published it.
const SHIPPED: &str = include_str!("fx/shipped.xml");
/// What a start goes on with if even that could not be read, which a test rules out.
const LAST_RESORT: DayRate =
    DayRate { day: jiff::civil::date(2026, 5, 15), rate: Decimal::from_parts(8546, 0, 0, false, 4) };

/// How the rate is looked for and judged.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Where new rates come from; `None`: nowhere.
    pub source: Option<Source>,
    /// Hours between two looks.
    pub refresh_hours: u32,
    /// Days after which a rate is stale.
    pub max_age_days: u32,
}

/// The rate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub day: Date,
    pub eur_per_usd: Decimal,
    /// `ecb-` and the day.
    pub source: Arc<str>,
}

impl From<DayRate> for Rate {
    fn from(DayRate { day, rate }: DayRate) -> Self {
        Self { day, eur_per_usd: rate, source: format!("ecb-{day}").into() }
    }
}

/// Why a document was left aside.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the document {0}")]
    Document(#[from] NoRate),
    #[error("it is of {0}, which is still to come")]
    Future(Date),
    #[error("it is of {0}, older than the one in use")]
    Older(Date),
    #[error("it could not be kept: {0}")]
    NotKept(#[source] std::io::Error),
}

/// The rate in use and where it is kept.
pub(crate) struct Exchange {
    rate: ArcSwap<Rate>,
    rules: ArcSwap<Rules>,
    changed: tokio::sync::Notify,
    kept: Kept,
    clock: Arc<dyn Clock>,
}

impl Exchange {
    /// Begins with the newest rate that was kept, else with the shipped one.
    pub(crate) fn open(directory: PathBuf, rules: Rules, clock: Arc<dyn Clock>) -> Self {
        let kept = Kept::new(directory);
        let shipped = document::read(SHIPPED.as_bytes()).unwrap_or(LAST_RESORT);
        let newest = kept.newest().filter(|kept| kept.day >= shipped.day).unwrap_or(shipped);
        Self {
            rate: ArcSwap::from_pointee(newest.into()),
            rules: ArcSwap::from_pointee(rules),
            changed: tokio::sync::Notify::new(),
            kept,
            clock,
        }
    }

    /// The rate in use.
    pub(crate) fn rate(&self) -> Arc<Rate> {
        self.rate.load_full()
    }

    /// Takes other rules over; the task looks anew at once.
    pub(crate) fn follow(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
        self.changed.notify_one();
    }

    /// Takes a document; the rate in use if it is newer, or corrects the same day. Blocks.
    pub(crate) fn offer(&self, document: &[u8]) -> Result<Arc<Rate>, Refused> {
        let found = document::read(document)?;
        let used = self.rate();
        if found.day < used.day {
            return Err(Refused::Older(found.day));
        }
        // a clock that is behind by hours, or a day that begins earlier elsewhere, is none of our business
        if self.today().tomorrow().is_ok_and(|tomorrow| found.day > tomorrow) {
            return Err(Refused::Future(found.day));
        }
        let rate = Arc::new(Rate::from(found));
        if *rate != *used || !self.kept.has(found.day) {
            self.kept.keep(found.day, document).map_err(Refused::NotKept)?;
            self.rate.store(Arc::clone(&rate));
            tracing::info!(fx.rate = %rate.eur_per_usd, fx.source = %rate.source, "a new exchange rate is in use");
        }
        Ok(rate)
    }

    /// Whether the rate in use is older than it should be.
    pub(crate) fn is_stale(&self) -> bool {
        let age = self.rate.load().day.until(self.today()).map(|span| span.get_days());
        age.is_ok_and(|days| i64::from(days) > i64::from(self.rules.load().max_age_days))
    }

    fn today(&self) -> Date {
        day_of(self.clock.wall())
    }
}

/// The day of a moment, in UTC.
fn day_of(time: SystemTime) -> Date {
    Timestamp::try_from(time).unwrap_or_default().to_zoned(TimeZone::UTC).date()
}
