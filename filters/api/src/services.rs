//! Services that filters ask of each other. The traits stand here, because filters never depend on each other.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use crate::error::FilterError;

/// Slows down clients that fail to authenticate. Offered as an `Arc<dyn AuthFailures>` by the part that owns the
/// limits, asked by the part that checks credentials.
pub trait AuthFailures: Send + Sync {
    /// Takes note of one failure of a client on a route; `None` is a client without an address.
    fn note<'a>(&'a self, client: Option<IpAddr>, route: &str) -> Noted<'a>;
}

/// What became of a note: known at once, or once others were asked.
pub enum Noted<'a> {
    /// Known.
    Now(Result<(), NotTolerated>),
    /// To be waited for; safe to drop at every await.
    Later(Pin<Box<dyn Future<Output = Result<(), NotTolerated>> + Send + 'a>>),
}

/// Why a failure to authenticate has another answer than that.
#[derive(Debug)]
pub enum NotTolerated {
    /// It cannot be counted, and the route is closed then; the answer.
    NotCounted(Box<FilterError>),
    /// The client failed too often; the wait until another failure is tolerated.
    TooOften(Duration),
}
