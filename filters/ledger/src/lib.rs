//! What model calls cost, and the exact account of them.
//!
//! Owns the key `ledger`, the tables `usage_calls` and `usage_requests`, and the directory `data/sqlite/instances`.
//! A call is written as `reserved` before the upstream hears of it and settled exactly once when the request ends,
//! however it ends: answered, failed, aborted, or with the process, whose open calls the next start settles.
//!
//! The filter `ledger` stands last on a route, behind everything that can refuse. It waits for the disk only where
//! `ledger.durability` says so; its place in the queue of writes is taken before the call, so settling neither waits
//! nor fails. A full queue or a disk that refuses before the call is `storage_error`.
//!
//! | Module | Holds |
//! |---|---|
//! | `config` | the key `ledger` and the service behind it |
//! | `service` | terms, prices, recovery |
//! | `filter` | the filter kind |
//! | [`money`] | the arithmetic |
//! | `rows` | tables and SQL |
//! | `instance` | which processes are alive |

mod config;
mod filter;
mod instance;
pub mod money;
mod rows;
mod service;
#[cfg(test)]
mod tests;

pub use self::config::{Durability, LedgerSettings, Service, Settings};
pub use self::filter::{Book, BookConfig};
pub use self::service::Ledger;
