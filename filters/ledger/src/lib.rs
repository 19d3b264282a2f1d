//! What model calls cost, and the exact account of them.
//!
//! Owns the keys `ledger`, `pricing_file` and `fx`, the tables `usage_*`, and the
//! directories `data/sqlite/instances` and `data/fx`.
//! A call is written as `reserved` before the upstream hears of it and settled exactly once, however the
//! request ends: answered or failed (hook `complete`, before the last of the answer leaves), aborted (hook `finish`), or
//! with the process, whose open calls the next start settles.
//!
//! The filter `ledger` stands last on a route, behind everything that can refuse. It waits for the disk only where
//! `ledger.durability` says so; its place in the queue of writes is taken before the call, so settling cannot fail,
//! and the last of an answer waits for it within bounds only. A full queue or a disk that refuses before the call is
//! `storage_error`.
//!
//! | Module | Holds |
//! |---|---|
//! | `config` | the keys and the service behind them |
//! | `service` | terms, recovery, what others may ask |
//! | `cost` | where the cost of a call comes from |
//! | `prices` | the price table |
//! | `events` | metrics and audit records of settled requests |
//! | `filter` | the filter kind |
//! | `fx` | the exchange rate |
//! | [`money`] | the arithmetic |
//! | `report` | the endpoint `billing-usage` |
//! | `row` | one call on its way into the database |
//! | `rows` | tables and SQL |
//! | `instance` | which processes are alive |

mod config;
mod cost;
mod events;
mod filter;
mod fx;
mod instance;
pub mod money;
mod prices;
mod report;
mod row;
mod rows;
mod service;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waits;

pub use self::config::{Checked, Durability, FxSettings, LedgerSettings, Service, Settings, Share};
pub use self::filter::{Book, BookConfig};
pub use self::prices::file::{CurrencyFile, Price, PriceFile, PricingFile};
pub use self::report::Usage;
pub use self::service::Ledger;

/// A time in tables: milliseconds of UTC.
fn millis(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
