//! Models: which there are, where they run, and the way of a request to one of them.
//!
//! - [`Service`] owns `backends`, `models_file` and `stream`, the [`catalog`] made from them, and the background
//!   look at the backends ([`discover`]).
//! - [`Route`] (`models`) chooses the model, states [`ModelChoice`](dgx_gateway_filter::facts::ModelChoice) and
//!   [`ModelTraits`](dgx_gateway_filter::facts::ModelTraits), makes the plan of attempts, rewrites the request for
//!   each of them, judges what comes back and rewrites the answer. Hooks: once per request, once per attempt, and
//!   per piece of the answer.
//!   With `count_tokens` it asks for a count instead of an answer, and estimates where no backend counts.
//! - [`ListEndpoint`] (`models`) is `GET /v1/models` and `GET /v1/info`.
//!
//! When no backend answers, the filter refuses with the code of the last failure; it never invents an answer.

mod applied;
mod attempts;
mod backend;
pub mod catalog;
mod chosen;
mod cost;
mod count;
mod daily_quota;
mod dialect;
pub mod discover;
mod document;
mod embeddings;
mod endpoint;
mod events;
mod filter;
mod hidden;
mod info;
mod judge;
mod max_tokens;
mod measured;
mod recording;
mod relay;
mod retries;
mod service;
mod settings;
mod sound;
mod streaming;
mod tokenize;
mod transcript;
mod verdict;
mod worst_case;

pub use self::backend::{Backend, BackendKind, Domain, Protocol, Running, SttMode};
pub use self::endpoint::ListEndpoint;
pub use self::filter::{Route, RouteConfig, Task};
pub use self::service::{Checked, Models, Service};
pub use self::settings::{
    AliasEntryFile, BackendEntryFile, BackendFile, CatalogFile, ConstraintsFile, EntryFile, LicenseFile,
    ModalitiesFile, ModelFile, PinFile, Reasoning, RetriesFile, Settings, StreamFile, TenantAliasFile,
};
