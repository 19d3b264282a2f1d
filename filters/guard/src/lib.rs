//! Checks of JSON request bodies.
//!
//! Two filter kinds, because the model is chosen between them:
//!
//! - [`Body`] (`body`) scans the body once while it arrives, refuses what is not JSON at the bad byte, checks the
//!   members that every request of the protocol needs, and states the [`Scan`](dgx_gateway_wire::request::Scan) as
//!   a fact. Hooks: once per request, and per piece of the body.
//! - [`Content`] (`guard`) checks images, tool-call arguments and embedding inputs against what the chosen model
//!   takes. Hook: once per request.
//!
//! Neither waits for anything, so their own machinery cannot fail.

mod body;
mod content;
mod plain;

pub use self::body::{Body, BodyConfig, Protocol};
pub use self::content::{Content, ContentConfig};
