//! How a failure is said: the catalog of codes, the envelopes of the dialects, and what may be
//! repeated of an upstream's own words.
//!
//! | Module | Holds |
//! |---|---|
//! | [`catalog`] | status, type and texts of every code |
//! | [`envelope`] | an error as a response body or as the last event of a stream |
//! | [`classify`](mod@classify) | what an upstream refusal means |
//! | [`sanitize`] | an upstream text without hosts, addresses, keys and provider names |

pub mod catalog;
pub mod classify;
pub mod envelope;
pub mod sanitize;

mod upstream_text;

pub use self::classify::{UpstreamRefusal, classify};
