//! Services that filters ask of each other. The traits stand here, because filters never depend on each other.

use std::net::IpAddr;
use std::time::Duration;

/// Slows down clients that fail to authenticate. Offered as an `Arc<dyn AuthFailures>` by the part that owns the
/// limits, asked by the part that checks credentials.
pub trait AuthFailures: Send + Sync {
    /// Takes note of one failure of a client; `None` is a client without an address.
    ///
    /// # Errors
    /// The client failed too often; the wait until another failure is tolerated.
    fn note(&self, client: Option<IpAddr>) -> Result<(), Duration>;
}
