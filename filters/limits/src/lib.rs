//! How often a client may ask, and how much a tenant may use: exact token buckets and budgets.
//!
//! Owns the key `limits` of the configuration file, the buckets, what tenants with budgets hold and have used, and the
//! counter of refusals; with a shared store also the table `limits_node`, the name of a data directory. Who a client is
//! comes from the identity filter as a fact, what a model call may use from the models filter, what it costs from the
//! ledger, which also knows what was used before.
//!
//! `limits` and `limits-public` work in `request_head`, once per request. `limits-tokens` reserves in
//! `request_ready`, looks at what passes in `response_chunk` and settles in `finish`; `limits-budgets` reserves in
//! `request_ready` and settles in `complete`, or in `finish` where an answer was not completed. Without a shared store nothing
//! waits. All fail closed: without the facts they need, the request ends with an internal error. While a shared
//! store is down, `limits.on_store_failure` decides.
//!
//! | Module | Holds |
//! |---|---|
//! | [`bucket`] | the arithmetic of one bucket and the bounded map of many |
//! | `buckets` | the buckets of one kind, in this process or shared |
//! | `shared` | buckets in a store |
//! | `budgets` | budgets of tenants, in this process or shared |
//! | [`config`], `failure` | the settings and the service behind them; what holds while the store is down |
//! | `state` | what the filters share: settings, buckets, metrics |
//! | `requests`, `public_pages`, `tokens` | the filter kinds |
//! | `spent` | what a model call used, as far as it can be known |
//! | `auth_failures` | the bucket that slows down who guesses secrets |
//! | `address`, `headers`, `events` | keys of addresses, the response headers, what a refusal logs and counts |

mod address;
mod auth_failures;
pub mod bucket;
mod buckets;
mod budgets;
pub mod config;
mod events;
mod failure;
mod fair;
mod headers;
mod public_pages;
mod requests;
mod shared;
mod spent;
mod state;
#[cfg(test)]
mod testing;
mod tokens;

pub use self::budgets::{BudgetService, Budgets, BudgetsConfig, NoSettings, TenantsWithBudgets, unpriced_budgets};
pub use self::config::Service;
pub use self::failure::FailureRules;
pub use self::fair::{Slots, Turn, TurnConfig};
pub use self::public_pages::{PublicPages, PublicPagesConfig};
pub use self::requests::{Requests, RequestsConfig};
pub use self::shared::StoreAddress;
pub use self::state::{LimitState, Limits};
pub use self::tokens::{Tokens, TokensConfig};
