//! How a failure is said: the catalog of codes, the envelopes of the dialects, and what may be
//! repeated of an upstream's own words.
//!
//! | Module | Holds |
//! |---|---|
//! | [`catalog`] | status, type and texts of every code |
//! | [`envelope`] | an error as a response body or as the last event of a stream |
//! | [`classify`](mod@classify) | what an upstream refusal means |
//! | [`daily_limit`] | whether a quota is one of a day |
//! | [`prompt_count`](mod@prompt_count) | the size of a prompt that an upstream names |
//! | [`sanitize`] | an upstream text without hosts, addresses, keys and provider names |

pub mod catalog;
pub mod classify;
pub mod daily_limit;
pub mod envelope;
pub mod prompt_count;
pub mod retry_delay;
pub mod sanitize;

mod upstream_text;

pub use self::classify::{UpstreamRefusal, classify};
pub use self::daily_limit::is_daily_limit;
pub use self::prompt_count::{PromptCount, prompt_count};
pub use self::retry_delay::retry_delay;
