//! TLS towards clients. The handshake takes place behind the connection cap and has an end, so that clients that say
//! nothing take no more than a place for a moment; the engine's own is before the cap, and waits for 60 s.
//!
//! Each handshake takes the certificate of the generation in use. Open connections keep theirs.

use std::time::Duration;

use pingora::listeners::tls::Acceptor;
use pingora::protocols::Peek;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Longest time for a handshake: five round trips over a bad line, and no more.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest time for the answer to a client that does not speak TLS.
const GOODBYE: Duration = Duration::from_secs(1);
/// Most that such a client is listened to, so that its system does not throw the answer away.
const MOST_UNREAD: u64 = 64 * 1024;
/// First byte of a handshake (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// What a client that speaks HTTP without TLS is told.
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 44\r\nConnection: close\r\n\r\n\
                     This port speaks HTTPS. Use https:// for it.";

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTls {
    /// The client left, or both sides have nothing in common.
    Failed,
    /// The client speaks HTTP without TLS.
    Plain,
    /// It took too long.
    TooLate,
}

impl NoTls {
    /// The word in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Plain => "plain_http",
            Self::TooLate => "timeout",
        }
    }
}

/// Speaks TLS with a client from here on.
///
/// # Cancel safety
/// When dropped, the connection is closed.
pub(super) async fn shake_hands(stream: Stream, acceptor: &Acceptor) -> Result<Stream, NoTls> {
    let Ok(mut socket) = stream.into_any().downcast::<Socket>() else { return Err(NoTls::Failed) };
    let shaken = timeout(HANDSHAKE, async {
        let mut first = [0; 1];
        socket.try_peek(&mut first).await.map_err(|_| NoTls::Failed)?;
        match first {
            [HANDSHAKE_RECORD] => {}
            [byte] if byte.is_ascii_alphabetic() => {
                say_goodbye(*socket).await;
                return Err(NoTls::Plain);
            }
            _ => return Err(NoTls::Failed),
        }
        match acceptor.tls_handshake(*socket).await {
            Ok(stream) => Ok(Box::new(stream) as Stream),
            Err(error) => {
                tracing::debug!(%error, "no TLS with a client");
                Err(NoTls::Failed)
            }
        }
    });
    shaken.await.unwrap_or(Err(NoTls::TooLate))
}

async fn say_goodbye(mut socket: Socket) {
    let said = timeout(GOODBYE, async {
        socket.write_all(PLAIN.as_bytes()).await?;
        socket.flush().await?;
        AsyncWriteExt::shutdown(&mut socket).await?;
        tokio::io::copy(&mut socket.take(MOST_UNREAD), &mut tokio::io::sink()).await
    });
    if !matches!(said.await, Ok(Ok(_))) {
        tracing::debug!("a client without TLS did not wait for the answer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_length_that_it_says() {
        let (head, body) = PLAIN.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }
}
