//! Connections that are switched to WebSocket: the handshake with the upstream, then bytes in both directions.
//!
//! Each direction goes on while the other one waits for room. The engine would stop reading from the upstream while
//! it writes there, and an upstream that does the same would wait for ever.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use dgx_gateway_filter::upstream::AttemptFailure;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::admit::Stop;
use super::attempt::{Stage, failure_of};
use super::context::RequestCtx;
use super::duplex::{answer, failed, response_head};
use super::heads::{self, Framing};
use super::upgrade;

/// Most bytes read from an upstream at once.
const READ: usize = 64 * 1024;

/// Runs one exchange to its end: that of the connection, or of the answer with which the upstream refuses to switch.
///
/// # Cancel safety
/// Dropping it closes the connection to the upstream.
pub(super) async fn run(session: &mut Session, ctx: &mut RequestCtx, mut upstream: HttpSession) -> Result<(), Stop> {
    let head = request_head(session, ctx)?;
    if upstream.write_request_header(Box::new(head)).await.is_err() {
        return Err(failed(session, ctx, AttemptFailure::Reset));
    }
    let limit = ctx.longest_idle();
    loop {
        let task = tokio::select! {
            task = upstream.read_response_task() => task,
            left = session.downstream_session.read_body_or_idle(true) => {
                let early = || Error::explain(ErrorType::ReadError, "the client went on before the switch");
                return Err(left.err().unwrap_or_else(early).into_down().into());
            }
            () = tokio::time::sleep(limit) => return Err(failed(session, ctx, AttemptFailure::Timeout)),
        };
        match task {
            Ok(HttpTask::Header(head, _)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return switch(session, ctx, upstream, *head).await;
            }
            Ok(HttpTask::Header(head, _)) if head.status.is_informational() => {}
            Ok(task) => {
                if answer(session, ctx, task).await? {
                    return Ok(());
                }
            }
            Err(error) => return Err(failed(session, ctx, failure_of(&error))),
        }
    }
}

fn request_head(session: &Session, ctx: &mut RequestCtx) -> Result<RequestHeader, Stop> {
    let (Some(request), Some(upstream)) = (&mut ctx.attempt.request, &ctx.attempt.upstream) else {
        return Err(dgx_gateway_filter::FilterError::internal("an attempt without a request").into());
    };
    Ok(heads::to_upstream(request, upstream, session.req_header(), ctx.chain.marks(), Framing::Switching)?)
}

async fn switch(
    session: &mut Session,
    ctx: &mut RequestCtx,
    mut upstream: HttpSession,
    head: ResponseHeader,
) -> Result<(), Stop> {
    if !upgrade::agreed(&head.headers) {
        return Err(failed(session, ctx, AttemptFailure::Reset));
    }
    let mut head = response_head(session, ctx, head, false)?;
    for (name, value) in upgrade::switch() {
        head.insert_header(name, value)?;
    }
    let tasks = vec![HttpTask::Header(Box::new(head), false)];
    session.downstream_session.response_duplex_vec(tasks).await.map_err(Error::into_down)?;
    ctx.attempt.stage = Stage::Switched;
    // what came together with the head is read without waiting, after it nothing is left in the session
    let first = match futures_util::poll!(pin!(upstream.read_body_bytes())) {
        Poll::Ready(Ok(Some(first))) => first,
        Poll::Ready(_) => return Ok(()), // it has left already
        Poll::Pending => Bytes::new(),
    };
    let (reader, writer) = tokio::io::split(upstream.into_inner());
    let mut tunnel = Tunnel { reader, writer, up: Bytes::new(), unflushed: false, inbox: BytesMut::new() };
    Tunnel::deliver(session, first);
    tunnel.pass(session, ctx).await;
    Ok(())
}

/// A switched connection. Either direction holds at most one piece.
struct Tunnel {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    /// On its way to the upstream.
    up: Bytes,
    unflushed: bool,
    inbox: BytesMut,
}

enum Step {
    /// The upstream sent so many bytes.
    Received(std::io::Result<usize>),
    /// The client sent this; `None` at its end.
    Read(pingora::Result<Option<Bytes>>),
    /// The upstream took something.
    Sent(std::io::Result<()>),
    /// The client took something.
    Written(pingora::Result<bool>),
}

impl Tunnel {
    /// Puts a piece on its way to the client.
    fn deliver(session: &mut Session, piece: Bytes) {
        if !piece.is_empty() {
            session.downstream_session.send_downstream_proxy_task(HttpTask::UpgradedBody(Some(piece), false));
        }
    }

    fn is_sending(&self) -> bool {
        self.unflushed || !self.up.is_empty()
    }

    /// Passes bytes until one side leaves, or both are silent for too long. What one side sent before it left still
    /// goes to the other one.
    async fn pass(&mut self, session: &mut Session, ctx: &RequestCtx) {
        let idle = ctx.longest_idle();
        let mut silence = pin!(tokio::time::sleep(idle));
        let (mut client_left, mut upstream_left) = (false, false);
        loop {
            let writing = session.downstream_session.has_pending_downstream_proxy_tasks();
            if (client_left && !self.is_sending()) || (upstream_left && !writing) {
                return;
            }
            let reads_client = !client_left && !self.is_sending();
            let Self { reader, writer, up, unflushed, inbox } = self;
            let step = tokio::select! {
                step = client(session, reads_client, writing) => step,
                sent = send(writer, up, unflushed), if !up.is_empty() || *unflushed => Step::Sent(sent),
                got = reader.read_buf(inbox), if !writing && !upstream_left => Step::Received(got),
                () = &mut silence => {
                    tracing::debug!(request.id = &*ctx.chain.shared.request.id, "a switched connection was silent");
                    return;
                }
            };
            silence.as_mut().reset(Instant::now() + idle);
            match step {
                Step::Read(Ok(Some(piece))) => self.up = piece,
                Step::Read(Ok(None)) => client_left = true,
                Step::Received(Ok(0)) => upstream_left = true,
                Step::Received(Ok(_)) => {
                    let piece = self.inbox.split().freeze();
                    self.inbox.reserve(READ);
                    Self::deliver(session, piece);
                }
                Step::Sent(Ok(())) | Step::Written(Ok(_)) => {}
                Step::Sent(Err(_)) | Step::Received(Err(_)) => upstream_left = true,
                Step::Read(Err(_)) | Step::Written(Err(_)) => return,
            }
            if upstream_left {
                (self.up, self.unflushed) = (Bytes::new(), false);
            }
        }
    }
}

/// Writes what waits for the client, and reads what it sends: both, whichever can go on.
///
/// # Cancel safety
/// Dropping it loses nothing, because the engine's writer of tasks and its reader of bodies do not; they are begun
/// anew whenever this is polled.
async fn client(session: &mut Session, reads: bool, writes: bool) -> Step {
    let session = &mut session.downstream_session;
    poll_fn(|cx| {
        if writes && let Poll::Ready(written) = pin!(session.write_downstream_proxy_tasks()).poll(cx) {
            return Poll::Ready(Step::Written(written));
        }
        if reads && let Poll::Ready(read) = pin!(session.read_body_or_idle(false)).poll(cx) {
            return Poll::Ready(Step::Read(read));
        }
        Poll::Pending
    })
    .await
}

/// Sends a part of a piece, or flushes.
///
/// # Cancel safety
/// Dropping it loses nothing.
async fn send(writer: &mut WriteHalf<Stream>, piece: &mut Bytes, unflushed: &mut bool) -> std::io::Result<()> {
    if piece.is_empty() {
        writer.flush().await?;
        *unflushed = false;
        return Ok(());
    }
    let sent = writer.write(piece).await?;
    piece.advance(sent);
    *unflushed = true;
    Ok(())
}
