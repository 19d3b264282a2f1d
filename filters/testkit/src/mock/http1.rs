//! The HTTP/1.1 side: requests are read with care, answers are written as told.

use std::future::pending;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Shared;
use super::answer::Asked;
use super::behaviour::Behaviour;
use super::connection::reset;
use super::record::{Ending, Phase, Place};
use super::reply::{Action, End, Reply, Request, action};
use crate::http1::{Body, RequestHead, Wire};

/// Bytes of a next request that are read while an answer is under way.
const MAX_PIPELINED_BYTES: usize = 1024 * 1024;

/// Bytes of a sized answer that are gathered before they are written.
const MAX_SCRATCH_BYTES: usize = 64 * 1024;

/// Why the connection is not used any further.
enum Over {
    Broke(Phase),
    Close,
    Reset,
}

pub(super) async fn serve(stream: TcpStream, shared: &Shared) {
    let mut wire = Wire::new(stream);
    let mut scratch = Vec::new();
    while let Ok(head) = wire.request_head().await {
        let place = shared.open(&head.method, &head.path, Version::HTTP_11, &head.headers);
        let result = exchange(&mut wire, &mut scratch, &head, place, shared).await;
        let at = Instant::now();
        match result {
            Ok(()) => shared.log.end(place, Ending::Complete { at }),
            Err(Over::Broke(during)) => {
                shared.log.end(place, Ending::Cancelled { at, during });
                return;
            }
            Err(Over::Close) => {
                shared.log.end(place, Ending::Misbehaved { at });
                return;
            }
            Err(Over::Reset) => {
                shared.log.end(place, Ending::Misbehaved { at });
                reset(wire.stream);
                return;
            }
        }
    }
}

async fn exchange(
    wire: &mut Wire,
    scratch: &mut Vec<u8>,
    head: &RequestHead,
    place: Place,
    shared: &Shared,
) -> Result<(), Over> {
    let chosen = shared.director.at_head(&head.method, &head.path, &head.headers);
    if matches!(chosen, Some(Behaviour::ResetOnHeaders)) {
        return Err(Over::Reset);
    }
    let limit = match chosen {
        Some(Behaviour::ResetAfterRequestBytes(bytes)) => Some(bytes),
        _ => None,
    };
    let body = read_body(wire, head, place, shared, limit).await?;
    let asked = Asked::read(&body);
    let behaviour = chosen.unwrap_or_else(|| shared.director.at_body(&asked.model));
    let request = Request {
        method: &head.method,
        path: &head.path,
        version: Version::HTTP_11,
        headers: &head.headers,
        body: &body,
    };
    match action(behaviour, &request, &asked) {
        Action::Hang => {
            gone(wire).await;
            Err(Over::Broke(Phase::BeforeHead))
        }
        Action::Raw(bytes) => {
            wire.stream.write_all(&bytes).await.map_err(|_| Over::Broke(Phase::ResponseBody))?;
            Err(Over::Close)
        }
        Action::Reply(reply) => answer(wire, scratch, reply, head).await,
        Action::Reset => Err(Over::Reset),
    }
}

async fn read_body(
    wire: &mut Wire,
    head: &RequestHead,
    place: Place,
    shared: &Shared,
    limit: Option<usize>,
) -> Result<Bytes, Over> {
    if head.headers.get(http::header::EXPECT).is_some_and(|expect| expect == "100-continue") {
        let interim = wire.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        interim.map_err(|_| Over::Broke(Phase::RequestBody))?;
    }
    let (mut body, mut trailers) = (BytesMut::new(), HeaderMap::new());
    let mut framing = Body::framed(&head.headers, Body::Done).map_err(|_| Over::Close)?;
    let result = loop {
        if limit.is_some_and(|limit| body.len() >= limit) {
            break Err(Over::Reset);
        }
        match wire.piece(&mut framing, &mut trailers).await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break Ok(()),
            Err(_) => break Err(Over::Broke(Phase::RequestBody)),
        }
    };
    let body = body.freeze();
    let ending = if result.is_ok() { Ending::Answering } else { Ending::Reading };
    shared.log.body(place, body.clone(), ending);
    result.map(|()| body)
}

async fn answer(wire: &mut Wire, scratch: &mut Vec<u8>, reply: Reply, head: &RequestHead) -> Result<(), Over> {
    pause(wire, reply.wait).await.map_err(|()| Over::Broke(Phase::BeforeHead))?;
    let broke = |()| Over::Broke(Phase::ResponseBody);
    scratch.clear();
    write_head(scratch, &reply);
    let chunked = reply.length.is_none();
    if head.method != Method::HEAD {
        for (wait, piece) in reply.pieces {
            if !wait.is_zero() {
                flush(wire, scratch).await.map_err(broke)?;
                pause(wire, wait).await.map_err(broke)?;
            }
            write_piece(scratch, &piece, chunked);
            if chunked || scratch.len() > MAX_SCRATCH_BYTES {
                flush(wire, scratch).await.map_err(broke)?;
            }
        }
    }
    if reply.end == End::Finish && chunked && head.method != Method::HEAD {
        scratch.extend_from_slice(b"0\r\n\r\n");
    }
    flush(wire, scratch).await.map_err(broke)?;
    match reply.end {
        End::Close => Err(Over::Close),
        End::Finish => Ok(()),
        End::Hang => {
            gone(wire).await;
            Err(Over::Broke(Phase::ResponseBody))
        }
        End::Reset => Err(Over::Reset),
    }
}

fn write_head(out: &mut Vec<u8>, reply: &Reply) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(reply.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reply.status.canonical_reason().unwrap_or("Status").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &reply.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match reply.length {
        Some(length) => out.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes()),
        None => out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
    }
}

fn write_piece(out: &mut Vec<u8>, piece: &Bytes, chunked: bool) {
    if !chunked {
        out.extend_from_slice(piece);
    } else if !piece.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
}

async fn flush(wire: &mut Wire, scratch: &mut Vec<u8>) -> Result<(), ()> {
    let result = wire.stream.write_all(scratch).await.map_err(|_| ());
    scratch.clear();
    result
}

/// Waits, unless the client leaves first.
async fn pause(wire: &mut Wire, wait: Duration) -> Result<(), ()> {
    if wait.is_zero() {
        return Ok(());
    }
    tokio::select! {
        () = tokio::time::sleep(wait) => Ok(()),
        () = gone(wire) => Err(()),
    }
}

/// Returns when the client has left. What it sends meanwhile is kept for the next request.
///
/// # Cancel safety
/// Dropping it loses nothing: bytes are in the inbox or still in the socket.
async fn gone(wire: &mut Wire) {
    loop {
        if wire.inbox.len() > MAX_PIPELINED_BYTES {
            return pending().await;
        }
        match wire.fill().await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
}
