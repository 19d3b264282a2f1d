//! The HTTP/2 side, by prior knowledge: one task per stream, so that each can be told to misbehave.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Response, Version, header};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Shared;
use super::answer::Asked;
use super::behaviour::Behaviour;
use super::record::{Ending, Phase, Place};
use super::reply::{Action, End, Reply, Request, action};

/// Windows for large request bodies: 1 MiB per stream, 8 MiB per connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Between the last byte and a reset of the stream: long for loopback, short for a test.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// Why a stream ended early.
enum Over {
    Cancelled(Phase),
    Misbehaved,
}

pub(super) async fn serve(stream: TcpStream, shared: &Arc<Shared>) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake::<_, Bytes>(stream);
    let Ok(mut connection) = handshake.await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        while streams.try_join_next().is_some() {}
        let shared = Arc::clone(shared);
        streams.spawn(async move { handle(request, respond, &shared).await });
    }
    // The streams learn that the connection is gone, and record it.
    drop(connection);
    while streams.join_next().await.is_some() {}
}

async fn handle(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>, shared: &Shared) {
    let (head, mut receiving) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let place = shared.open(&head.method, &path, Version::HTTP_2, &head.headers);
    let chosen = shared.director.at_head(&head.method, &path, &head.headers);
    let result = match read_body(&mut receiving, chosen.as_ref(), place, shared).await {
        Err(over) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            Err(over)
        }
        Ok(body) => {
            let asked = Asked::read(&body);
            let behaviour = chosen.unwrap_or_else(|| shared.director.at_body(&asked.model));
            let request = Request {
                method: &head.method,
                path: &path,
                version: Version::HTTP_2,
                headers: &head.headers,
                body: &body,
            };
            perform(&mut respond, action(behaviour, &request, &asked)).await
        }
    };
    let at = Instant::now();
    let ending = match result {
        Ok(()) => Ending::Complete { at },
        Err(Over::Cancelled(during)) => Ending::Cancelled { at, during },
        Err(Over::Misbehaved) => Ending::Misbehaved { at },
    };
    shared.log.end(place, ending);
}

async fn read_body(
    receiving: &mut RecvStream,
    chosen: Option<&Behaviour>,
    place: Place,
    shared: &Shared,
) -> Result<Bytes, Over> {
    let limit = match chosen {
        Some(Behaviour::ResetOnHeaders) => Some(0),
        Some(Behaviour::ResetAfterRequestBytes(bytes)) => Some(*bytes),
        _ => None,
    };
    let mut body = BytesMut::new();
    let result = loop {
        if limit.is_some_and(|limit| body.len() >= limit) {
            break Err(Over::Misbehaved);
        }
        match receiving.data().await {
            Some(Ok(piece)) => {
                body.extend_from_slice(&piece);
                if receiving.flow_control().release_capacity(piece.len()).is_err() {
                    break Err(Over::Cancelled(Phase::RequestBody));
                }
            }
            Some(Err(_)) => break Err(Over::Cancelled(Phase::RequestBody)),
            None => break Ok(()),
        }
    };
    let body = body.freeze();
    let ending = if result.is_ok() { Ending::Answering } else { Ending::Reading };
    shared.log.body(place, body.clone(), ending);
    result.map(|()| body)
}

async fn perform(respond: &mut SendResponse<Bytes>, action: Action) -> Result<(), Over> {
    match action {
        Action::Hang => {
            reset_of_response(respond).await;
            Err(Over::Cancelled(Phase::BeforeHead))
        }
        Action::Raw(_) | Action::Reset => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            Err(Over::Misbehaved)
        }
        Action::Reply(reply) => answer(respond, reply).await,
    }
}

async fn answer(respond: &mut SendResponse<Bytes>, reply: Reply) -> Result<(), Over> {
    tokio::select! {
        () = tokio::time::sleep(reply.wait) => {}
        () = reset_of_response(respond) => return Err(Over::Cancelled(Phase::BeforeHead)),
    }
    let gone = |_| Over::Cancelled(Phase::ResponseBody);
    let mut head = Response::new(());
    *head.status_mut() = reply.status;
    *head.headers_mut() = reply.headers;
    head.headers_mut().remove(header::CONNECTION);
    if let Some(length) = reply.length {
        head.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    let mut sending = respond.send_response(head, false).map_err(gone)?;
    for (wait, piece) in reply.pieces {
        pause(&mut sending, wait).await?;
        send_paced(&mut sending, piece).await.map_err(gone)?;
    }
    match reply.end {
        End::Close | End::Finish => {
            sending.send_data(Bytes::new(), true).map_err(gone)?;
            if reply.end == End::Close { Err(Over::Misbehaved) } else { Ok(()) }
        }
        End::Hang => {
            reset_of_body(&mut sending).await;
            Err(Over::Cancelled(Phase::ResponseBody))
        }
        End::Reset => {
            // A reset overtakes what is still queued; give the pieces time to leave.
            tokio::time::sleep(BEFORE_RESET).await;
            sending.send_reset(Reason::INTERNAL_ERROR);
            Err(Over::Misbehaved)
        }
    }
}

async fn pause(sending: &mut SendStream<Bytes>, wait: Duration) -> Result<(), Over> {
    if wait.is_zero() {
        return Ok(());
    }
    tokio::select! {
        () = tokio::time::sleep(wait) => Ok(()),
        () = reset_of_body(sending) => Err(Over::Cancelled(Phase::ResponseBody)),
    }
}

/// Returns when the client has reset the stream or is gone.
async fn reset_of_response(respond: &mut SendResponse<Bytes>) {
    drop(poll_fn(|cx| respond.poll_reset(cx)).await);
}

/// The same once the head has left.
async fn reset_of_body(sending: &mut SendStream<Bytes>) {
    drop(poll_fn(|cx| sending.poll_reset(cx)).await);
}

/// Sends bytes as the windows of the peer allow.
///
/// # Errors
/// The peer reset the stream or is gone.
pub(crate) async fn send_paced(sending: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        sending.reserve_capacity(bytes.len());
        let Some(room) = poll_fn(|cx| sending.poll_capacity(cx)).await else {
            return Err(Reason::CANCEL.into());
        };
        let piece = bytes.split_to(room?.min(bytes.len()));
        sending.send_data(piece, false)?;
    }
    Ok(())
}
