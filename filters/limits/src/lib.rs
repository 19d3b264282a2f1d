//! How often a client may ask: exact token buckets per bearer and per client address.
//!
//! Owns the key `limits` of the configuration file, the buckets and the counter of refusals. Who a client is comes
//! from the identity filter as a fact; money and tokens per minute are no concern of this crate yet.
//!
//! Both filters work in `request_head`, once per request, and never wait. They fail closed: without the facts they
//! need, the request ends with an internal error.
//!
//! | Module | Holds |
//! |---|---|
//! | [`bucket`] | the arithmetic of one bucket and the bounded map of many |
//! | [`config`] | the settings and the service behind them |
//! | `state` | what the filters share: settings, buckets, metrics |
//! | `requests`, `public_pages` | the two filter kinds |
//! | `auth_failures` | the bucket that slows down who guesses secrets |
//! | `address`, `headers`, `events` | keys of addresses, the response headers, what a refusal logs and counts |

mod address;
mod auth_failures;
pub mod bucket;
pub mod config;
mod events;
mod headers;
mod public_pages;
mod requests;
mod state;
#[cfg(test)]
mod testing;

pub use self::config::Service;
pub use self::public_pages::{PublicPages, PublicPagesConfig};
pub use self::requests::{Requests, RequestsConfig};
pub use self::state::Limits;
