//! Checks of requests: headers that are not about identity, and bodies.
//! Three filter kinds for JSON, since headers come before bodies and the model is chosen between the two looks at a
//! body, and one for forms:
//!
//! - [`Headers`] (`headers`) reads `SPASS-Augment`, states it as the fact
//!   [`Augmentation`](dgx_gateway_filter::facts::Augmentation), and says in the answer what was added to the prompt.
//!   Hooks: once per request, and once per relayed response.
//! - [`Body`] (`body`) scans the body once while it arrives, refuses what is not JSON at the bad byte, checks the
//!   members that every request of the protocol needs, and states the [`Scan`](dgx_gateway_wire::request::Scan) as
//!   a fact. Hooks: once per request, and per piece of the body.
//! - [`Content`] (`guard`) checks images, tool-call arguments and embedding inputs against what the chosen model
//!   takes. Hook: once per request.
//! - [`AudioForm`] (`form`) scans a multipart form with a recording while it arrives, lets the model be chosen as soon
//!   as its name and that of the file are known, and states the [`Form`](dgx_gateway_wire::multipart::Form). Hooks:
//!   once per request, and per piece of the body.
//!
//! None of them waits for anything, so their own machinery cannot fail.

mod body;
mod content;
mod form;
mod headers;
mod plain;

pub use self::body::{Body, BodyConfig, Protocol};
pub use self::content::{Content, ContentConfig};
pub use self::form::{AudioForm, FormConfig, FormProtocol};
pub use self::headers::{Headers, HeadersConfig};
