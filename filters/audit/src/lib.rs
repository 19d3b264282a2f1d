//! The audit log: who did what, one line each; and pseudonyms of users.
//!
//! Owns the key `audit` and, in the data directory, `keys/audit-hmac.key`.

mod config;
mod pseudonyms;

pub use self::config::{AuditSettings, Service, Settings};
