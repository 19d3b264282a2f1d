//! Clients that show what is on the wire: HTTP/1.1 by hand, HTTP/2 by prior knowledge.

mod http1;
mod http2;

/// Why an HTTP/2 stream was reset.
pub use h2::Reason;

pub use self::http1::{RawClient, RawResponse};
pub use self::http2::{H2Client, H2Exchange, H2Receiving, H2Response, H2Sending};

/// Why a message could not be read from an HTTP/1.1 connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The peer closed between two messages.
    #[error("the connection was closed between messages")]
    Closed,
    /// The peer closed inside a message.
    #[error("the connection was closed inside a message")]
    Cut,
    /// The connection broke; a reset is [`std::io::ErrorKind::ConnectionReset`].
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes are no HTTP/1.1 message.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

impl WireError {
    /// Whether the peer sent a reset.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
    }
}

/// Why an HTTP/2 connection could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The handshake failed.
    #[error("HTTP/2 handshake: {0}")]
    Handshake(#[from] h2::Error),
    /// No TCP connection.
    #[error("connect: {0}")]
    Io(#[from] std::io::Error),
}
