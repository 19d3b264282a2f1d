//! One stream: a request, then its events as they come.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What was seen of a stream that came to its end.
pub(super) struct Seen {
    /// From the request to the first bytes behind the head.
    pub(super) first: Duration,
    /// The longest time between two pieces.
    pub(super) longest_gap: Duration,
}

/// Runs one stream; an error unless every event and the end of the stream came.
pub(super) async fn run_one(addr: SocketAddr, bearer: &str, events: usize) -> super::Result<Seen> {
    let body = r#"{"model":"bench-stream","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {bearer}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all((head + body).as_bytes()).await?;
    let asked = Instant::now();
    let mut buffer = vec![0; 16 * 1024];
    let (mut first, mut longest_gap, mut last) = (None, Duration::ZERO, asked);
    let (mut found, mut tail) = (0, Vec::new());
    loop {
        let read = stream.read(&mut buffer).await?;
        let now = Instant::now();
        let piece = buffer.get(..read).filter(|piece| !piece.is_empty()).ok_or("cut")?;
        if first.is_none() {
            if !piece.starts_with(b"HTTP/1.1 200") {
                return Err("no stream".into());
            }
            first = Some(now - asked);
        } else {
            longest_gap = longest_gap.max(now - last);
        }
        last = now;
        // a word that is cut by the end of a piece is found with the next one
        tail.extend_from_slice(piece);
        let token = b"\"token \"";
        found += tail.windows(token.len()).filter(|window| window == token).count();
        if tail.windows(6).any(|window| window == b"[DONE]") {
            let complete = found == events;
            return if complete {
                Ok(Seen { first: first.unwrap_or_default(), longest_gap })
            } else {
                Err("events are missing".into())
            };
        }
        let kept = tail.len().min(token.len() - 1);
        tail.drain(..tail.len() - kept);
    }
}
