//! The audit log: who did what, one line each; and pseudonyms of users.
//!
//! Owns the key `audit` and, in the data directory, `audit/` and `keys/audit-hmac.key`. Offers [`Audit`], through which other
//! parts say what happened, [`Pseudonyms`], and a [`RequestObserver`] that records each request of a protected route when it
//! has ended, whatever became of it. It has no filter: what an operator must be able to prove cannot be left out of a route.
//!
//! A record becomes a line in a bounded queue (4 MiB) at once; a thread of its own appends what has gathered for 50 ms, and
//! brings it to the disk once a second and at the end (`fdatasync`). Callers never wait. While the disk refuses, the queue
//! keeps what fits, further records are counted and left out, the service is impaired but goes on, and it is tried again
//! every second; the log then says itself how many records are missing.
//!
//! [`Audit`]: dgx_gateway_filter::audit::Audit
//! [`Pseudonyms`]: dgx_gateway_filter::audit::Pseudonyms
//! [`RequestObserver`]: dgx_gateway_filter::audit::RequestObserver
//!
//! | Module | Holds |
//! |---|---|
//! | `config` | the key `audit` and the service behind it |
//! | `log` | the handle: takes records, knows its health |
//! | `line` | a record as JSON |
//! | `refusals` | refused authentications: one line per address and second |
//! | `observer` | records of requests |
//! | `writer` | the thread |
//! | `file` | appending, closing, mending, removing files; other processes beside this one |
//! | `pseudonyms` | the key, and names made with it |
//! | `events` | metrics and log lines about the log itself |

mod config;
mod events;
mod file;
mod line;
mod log;
mod observer;
mod pseudonyms;
mod refusals;
#[cfg(test)]
mod tests;
mod writer;

pub use self::config::{AuditSettings, Service, Settings};
pub use self::log::AuditLog;
