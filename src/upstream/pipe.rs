//! Large requests to upstreams of HTTP/1.1.
//!
//! While the engine writes a piece to such an upstream, it looks at nothing else: not at the client, not at our time
//! limits, not at an answer that has come already. An upstream that does not read would hold it there for as long as a
//! write may take. Two things prevent that.
//!
//! - [`Flow`]: the next piece of a body is handed out once the engine has written the one before, so that the engine
//!   waits for us meanwhile, and we watch.
//! - [`PipeConnector`]: its connections take a piece at once, whatever the upstream does, and send it when they are
//!   read from, which the engine does all the time. With such a connection the flow counts what has not been sent, too.
//!
//! The engine knows no number for such a connection and could not tell two apart in its pool, so each serves one
//! request. That is why only large ones are sent over them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::socket::SocketAddr as EngineAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Bodies above this are sent over connections of their own: below, what the systems at both ends buffer mostly takes
/// all of it at once, and a new connection would cost more than the rest.
pub(crate) const LARGE: usize = 1 << 20;
/// Most bytes that wait in a connection.
const MOST_WAITING: usize = 256 * 1024;
/// So few that another piece fits, with what TLS adds to it.
const FEW_WAITING: usize = 96 * 1024;

/// How far the body of an attempt is on its way to the upstream.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Pieces that the engine has.
    in_engine: AtomicUsize,
    /// Bytes that wait in the connection.
    waiting: AtomicUsize,
    changed: Notify,
}

impl Flow {
    /// Whether another piece can be handed out.
    pub(crate) fn has_room(&self) -> bool {
        self.in_engine.load(Ordering::Acquire) == 0 && self.waiting.load(Ordering::Acquire) <= FEW_WAITING
    }

    /// Waits until something has moved since this was last asked.
    ///
    /// # Cancel safety
    /// What moves meanwhile is told the next time.
    pub(crate) async fn moved(&self) {
        self.changed.notified().await;
    }

    /// A piece that tells when the engine is done with it.
    pub(crate) fn follow(self: &Arc<Self>, piece: Bytes) -> Bytes {
        self.in_engine.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Followed { piece, flow: Arc::clone(self) })
    }

    fn set_waiting(&self, bytes: usize) {
        if self.waiting.swap(bytes, Ordering::AcqRel) != bytes {
            self.changed.notify_one();
        }
    }
}

struct Followed {
    piece: Bytes,
    flow: Arc<Flow>,
}

impl AsRef<[u8]> for Followed {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.flow.in_engine.fetch_sub(1, Ordering::AcqRel);
        self.flow.changed.notify_one();
    }
}

/// Makes the connection for one attempt.
#[derive(Debug)]
pub(crate) struct PipeConnector {
    pub flow: Arc<Flow>,
    pub address: SocketAddr,
}

#[async_trait]
impl Connect for PipeConnector {
    async fn connect(&self, _address: &EngineAddr) -> Result<Stream> {
        // the engine watches the time that this takes
        let tcp = TcpStream::connect(self.address).await.or_err(ErrorType::ConnectError, "no connection")?;
        Ok(VirtualSocketStream::new(Box::new(Pipe::new(tcp, Arc::clone(&self.flow)))).into())
    }
}

/// A connection that takes what is written at once.
#[derive(Debug)]
struct Pipe<S> {
    stream: S,
    out: BytesMut,
    flow: Arc<Flow>,
    failed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pipe<S> {
    fn new(stream: S, flow: Arc<Flow>) -> Self {
        Self { stream, out: BytesMut::new(), flow, failed: false }
    }

    /// Sends what waits, as far as it goes.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut sent = Ok(());
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Pending => break,
                Poll::Ready(Ok(bytes)) if bytes > 0 => self.out.advance(bytes),
                Poll::Ready(result) => {
                    // nobody takes it any more; what the upstream has said before can still be read
                    (self.failed, self.out) = (true, BytesMut::new());
                    sent = result.and(Err(io::ErrorKind::WriteZero.into()));
                }
            }
        }
        self.flow.set_waiting(self.out.len());
        sent
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Pipe<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let pipe = self.get_mut();
        if !pipe.out.is_empty() {
            drop(pipe.send(cx)); // the next write tells it
        }
        Pin::new(&mut pipe.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Pipe<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let pipe = self.get_mut();
        pipe.send(cx)?;
        if pipe.out.is_empty()
            && let written @ Poll::Ready(_) = Pin::new(&mut pipe.stream).poll_write(cx, buf)
        {
            return written;
        }
        let taken = buf.len().min(MOST_WAITING.saturating_sub(pipe.out.len()));
        if taken == 0 && !buf.is_empty() {
            return Poll::Pending; // woken when some of what waits can be sent
        }
        pipe.out.extend_from_slice(buf.get(..taken).unwrap_or_default());
        pipe.flow.set_waiting(pipe.out.len());
        Poll::Ready(Ok(taken))
    }

    /// What waits is sent later, whenever the connection is read from.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().send(cx))
    }

    /// The exchange is over: what still waits has come too late.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl VirtualSocket for Pipe<TcpStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.stream.set_nodelay(true),
            VirtualSockOpt::KeepAlive(settings) => {
                let set: Result<(), Box<Error>> = set_tcp_keepalive(&self.stream, &settings);
                set.map_err(io::Error::other)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pipe(room: usize) -> (Pipe<DuplexStream>, DuplexStream, Arc<Flow>) {
        let (ours, theirs) = duplex(room);
        let flow = Arc::new(Flow::default());
        (Pipe::new(ours, Arc::clone(&flow)), theirs, flow)
    }

    #[tokio::test]
    async fn a_write_to_an_upstream_that_reads_nothing_ends_and_an_answer_is_heard() {
        let (mut pipe, mut upstream, flow) = pipe(1000);
        pipe.write_all(&vec![1; 128 * 1024]).await.unwrap();
        pipe.flush().await.unwrap();
        assert!(!flow.has_room());
        upstream.write_all(b"no").await.unwrap();
        assert_eq!(pipe.read_u16().await.unwrap(), u16::from_be_bytes(*b"no"));
    }

    #[tokio::test]
    async fn what_waits_is_sent_while_the_connection_is_read() {
        let (mut pipe, mut upstream, flow) = pipe(1000);
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        pipe.write_all(&sent).await.unwrap();
        let (got, _) = tokio::join!(
            async {
                let mut got = vec![0; sent.len()];
                upstream.read_exact(&mut got).await.unwrap();
                upstream.write_all(b"ok").await.unwrap();
                got
            },
            pipe.read_u16(),
        );
        assert!(got == sent && flow.has_room());
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (mut pipe, _upstream, _) = pipe(1000);
        pipe.write_all(&vec![1; MOST_WAITING + 1000]).await.unwrap();
        let more = tokio::time::timeout(Duration::from_millis(20), pipe.write(b"x")).await;
        assert!(more.is_err());
        assert!(pipe.out.len() <= MOST_WAITING);
    }

    #[tokio::test]
    async fn a_write_that_fails_is_told_and_room_is_there() {
        let (mut pipe, upstream, flow) = pipe(1000);
        pipe.write_all(&vec![1; 128 * 1024]).await.unwrap();
        drop(upstream);
        assert_eq!(pipe.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(flow.has_room());
        assert!(pipe.write_all(b"x").await.is_err());
    }

    #[test]
    fn a_piece_tells_when_nobody_has_it_any_more() {
        let flow = Arc::new(Flow::default());
        let piece = flow.follow(Bytes::from_static(b"piece"));
        let copy = piece.clone();
        assert_eq!(&piece[..], b"piece");
        drop(piece);
        assert!(!flow.has_room());
        drop(copy);
        assert!(flow.has_room());
    }
}
