//! The filter interface: what a plug-in crate implements and what it may know of a request.
//!
//! Dependencies point one way: this crate <- `filters/*` <- the root package. It depends on no filter,
//! not on the core and not on the proxy engine.
//!
//! | Module | Holds |
//! |---|---|
//! | [`filter`] | the three things a plug-in can export: service, filter kind, endpoint kind |
//! | [`exchange`] | the hooks of one request, in the order in which they run |
//! | [`body`] | body needs and the rope that carries a held body without copying |
//! | [`upstream`] | where a request may go: targets, attempts, verdicts |
//! | [`facts`] | what filters tell each other, as types |
//! | [`services`] | what filters ask of each other, as traits |
//! | [`audit`] | records of the audit log, and who writes them |
//! | [`tenant_config`] | keys of the tenant configuration, and which level counts |
//! | [`error`], [`code`], [`render`] | how a refusal is said, once, in every dialect |
//! | [`glob`] | names with `*` in them |
//! | [`money`] | the terms of a request, what it may cost and what it cost |
//! | [`budget`] | budgets of tenants, and what was used of them |
//! | [`trace`] | the context of traces, and who follows requests |
//! | [`views`] | what services have read, for checks over several files |
//! | [`health`] | what limits the service at the moment, from whoever knows |
//! | [`certificates`] | files with certificates, and whom upstreams over TLS are checked against |
//! | [`ambient`], [`files`], [`clock`], [`yaml`] | environment, configuration files and time, injected |

pub mod ambient;
pub mod audit;
pub mod body;
pub mod budget;
pub mod certificates;
pub mod clock;
pub mod code;
pub mod error;
pub mod exchange;
pub mod facts;
pub mod files;
pub mod filter;
pub mod glob;
pub mod health;
pub mod money;
pub mod render;
pub mod services;
pub mod tenant_config;
pub mod trace;
pub mod upstream;
pub mod views;
pub mod yaml;

pub use async_trait::async_trait;

pub use self::body::{BodyNeed, Rope};
pub use self::code::ErrorCode;
pub use self::error::{Blame, FilterError};
pub use self::exchange::{
    Exchange, ExchangeCx, FinishCx, Flow, LAST_PIECE_WAIT, Outcome, Pending, Reply, RequestInfo, ResponseHead, Traffic,
};
pub use self::facts::Facts;
pub use self::filter::{BuildEnv, BuildError, EndpointKind, Filter, FilterKind, Problem, ServiceKind};
