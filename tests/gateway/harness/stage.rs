//! An upstream that the test plays itself, byte by byte: what it sends, and when, is the test's to say.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::soon;

/// Requests that wait until the test looks at them.
const WAITING: usize = 1024;

/// The answer to a look at the models.
const LOOK: &str = r#"{"data":[]}"#;

/// An upstream that accepts connections. Looks at its models are answered; other requests go to the test.
pub(crate) struct Stage {
    pub(crate) addr: SocketAddr,
    callers: mpsc::Receiver<Caller>,
    accepting: AbortHandle,
}

/// A connection on which a request has arrived.
pub(crate) struct Caller {
    stream: TcpStream,
    /// The request head as it came.
    pub(crate) head: String,
    /// The request body.
    pub(crate) body: Vec<u8>,
}

impl Stage {
    /// Hands requests over once they are complete.
    pub(crate) async fn open() -> Self {
        Self::open_when(true, false).await
    }

    /// Hands requests over as soon as their head is there; the test reads the body.
    pub(crate) async fn open_at_head() -> Self {
        Self::open_when(false, false).await
    }

    /// Hands over every request as soon as its head is there, `GET` included.
    pub(crate) async fn open_for_all() -> Self {
        Self::open_when(false, true).await
    }

    async fn open_when(complete: bool, all: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, callers) = mpsc::channel(WAITING);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut caller = Caller { stream, head: String::new(), body: Vec::new() };
                    if caller.read_head().await && (!complete || caller.read_body().await) {
                        if all || !caller.head.starts_with("GET ") {
                            return drop(sender.send(caller).await);
                        }
                        // a connection that is kept would be counted by tests that count sockets
                        caller
                            .write(format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 11\r\n\r\n{LOOK}"))
                            .await;
                    }
                });
            }
        })
        .abort_handle();
        Self { addr, callers, accepting }
    }

    /// The next request.
    pub(crate) async fn caller(&mut self) -> Caller {
        soon("a request at the upstream", self.callers.recv()).await.unwrap()
    }

    /// Whether no request is waiting.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.callers.try_recv().is_err()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Caller {
    async fn read_head(&mut self) -> bool {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match self.stream.read_buf(&mut bytes).await {
                Ok(read) if read > 0 => {}
                _ => return false,
            }
        };
        self.body = bytes.split_off(end);
        self.head = String::from_utf8(bytes).unwrap();
        true
    }

    async fn read_body(&mut self) -> bool {
        let length = self.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.body.len() < length {
            if !self.read_some().await {
                return false;
            }
        }
        true
    }

    /// Reads what comes next of the body; false at the end of the connection.
    pub(crate) async fn read_some(&mut self) -> bool {
        self.stream.read_buf(&mut self.body).await.is_ok_and(|read| read > 0)
    }

    /// Reads the next request on the same connection; false when the connection ended before one.
    pub(crate) async fn read_request(&mut self) -> bool {
        self.read_head().await && self.read_body().await
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon("the gateway takes the bytes", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Writes, if the gateway takes it; false when it has left.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// A whole JSON answer; the connection stays open.
    pub(crate) async fn answer(&mut self, body: &str) {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        self.write(head + body).await;
    }

    /// The head of a stream.
    pub(crate) async fn begin_stream(&mut self) {
        self.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
    }

    /// One HTTP chunk.
    pub(crate) async fn chunk(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.write([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()).await;
    }

    /// The proper end of a stream of chunks.
    pub(crate) async fn end_chunks(&mut self) {
        self.write("0\r\n\r\n").await;
    }

    /// One HTTP chunk and the proper end in one write: the gateway may leave as soon as it has seen the chunk.
    pub(crate) async fn chunk_and_end(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.write([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n0\r\n\r\n"].concat()).await;
    }

    /// Both directions, so that two tasks can use them.
    pub(crate) fn split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.stream.into_split()
    }

    /// Leaves with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Waits until the gateway has closed the connection; gives the time since `since`.
    pub(crate) async fn gone(mut self, since: Instant) -> Duration {
        let mut rest = [0; 64];
        let read = soon("the gateway closes the connection", self.stream.read(&mut rest)).await;
        assert!(!read.is_ok_and(|read| read > 0), "the gateway sent more instead of leaving");
        since.elapsed()
    }
}

/// The event of a chunk with content, as an upstream called `upstream` would send it.
pub(crate) fn chunk_of_stream(upstream: &str, content: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{upstream}\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// The event of the last chunk.
pub(crate) fn finish_of_stream(upstream: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{upstream}\",\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n"
    )
}
