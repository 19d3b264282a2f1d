//! The database of one machine: SQLite, one writer, commits in groups.
//!
//! Owns the key `storage`, the file `data/sqlite/gateway.sqlite` and no table in it: a crate that keeps state brings
//! its own tables with [`Store::migrate`] and its own SQL as [`Work`]. What many pieces of work add to, such as a sum, is
//! written once per transaction ([`Together`]).
//!
//! All writes go through one thread. It takes what has gathered in its bounded queue and commits it in one
//! transaction, so that concurrent requests share one wait for the disk. Whoever has to be sure waits for its
//! [`Receipt`]; work that nobody waits for gathers for at most [`GATHER`]. A [`Slot`] is a place in the queue that is
//! taken beforehand: with it in hand, work can be handed over without waiting and without the chance to be turned away.
//!
//! When a commit fails (a full disk), work that may fail is reported as failed, and work that must not be lost stays
//! and is tried again every [`RETRY`]; meanwhile nothing more is taken, so the queue fills and new slots are refused.
//! Without such work a page is written every [`RETRY`] to find out when the disk takes something again.
//!
//! | Module | Holds |
//! |---|---|
//! | `config` | the key `storage` and the service behind it |
//! | [`copy`] | a copy of a database while others write to it |
//! | `group` | what the pieces of work of one transaction share |
//! | `log` | whether the log of a database is whole |
//! | `migrate` | schema versions by owner |
//! | `queue` | what waits to be written |
//! | `store` | the handle: slots, receipts, readers |
//! | `sound` | whether a database is whole, at the start and while it is open |
//! | `writer` | the thread |

mod config;
pub mod copy;
mod group;
mod log;
mod migrate;
mod queue;
mod sound;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use self::config::{Service, Settings, StorageSettings};
pub use self::group::{Group, Together};
pub use self::store::{Keep, Receipt, Slot, Store, StoreError, Wait, Work};
pub use self::writer::{GATHER, RETRY};
/// SQLite as this crate builds it; plug-ins use it for their SQL.
pub use rusqlite;
