//! How an error becomes a body: the trait is here, the dialects are in `wire`.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::error::FilterError;

/// An error in the form of one protocol.
#[derive(Debug)]
pub struct Rendered {
    /// Status line.
    pub status: StatusCode,
    /// `content-type` and whatever the dialect adds; not `content-length`.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Renders errors in one dialect. A filter on the route may choose another one than the gateway's default
/// by putting an `Arc<dyn ErrorRenderer>` into [`crate::exchange::ExchangeCx::renderer`].
pub trait ErrorRenderer: Send + Sync + 'static {
    /// The whole answer.
    fn render(&self, error: &FilterError, request_id: &str) -> Rendered;

    /// The event that ends a stream whose head has left already; `None` when the protocol has none.
    fn stream_event(&self, error: &FilterError, request_id: &str) -> Option<Bytes>;

    /// A further header that carries the request id on every answer of the route, where the dialect has one.
    fn request_id_header(&self) -> Option<HeaderName> {
        None
    }

    /// Status of a code, for metrics and logs.
    fn status(&self, error: &FilterError) -> StatusCode;
}
