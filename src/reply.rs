//! The one place where an error becomes a response.

use std::time::Duration;

use bytes::Bytes;
use dgx_gateway_filter::{Blame, FilterError, Outcome, ResponseHead};
use http::{HeaderMap, HeaderValue, Method, header};
use pingora::Result;
use pingora::proxy::Session;

use crate::proxy::{RequestCtx, final_head};

/// After an early answer: how much of an upload is still read, so that closing does not destroy the answer on its
/// way. 128 MiB is more than the default limit of uploads.
const DRAIN_BYTES: usize = 128 * 1024 * 1024;
/// After an early answer: how long that may take.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Answers with an error, in the dialect of the route. Logs what the client must not see.
///
/// # Errors
/// The client cannot be reached.
///
/// # Cancel safety
/// None needed: it runs inside the request's own task.
pub(crate) async fn error(session: &mut Session, ctx: &mut RequestCtx, error: &FilterError) -> Result<()> {
    let renderer = ctx.renderer();
    let request = ctx.request();
    let status = renderer.status(error);
    log(error, &request.id, &request.route, status);
    let rendered = renderer.render(error, &request.id);
    ctx.answered(error.code);
    let unread = !session.is_body_done();
    if unread && !session.is_http2() {
        session.set_keepalive(None);
    }
    let head_only = session.req_header().method == Method::HEAD;
    let length = Some(rendered.body.len() as u64);
    let mut head = ctx.outgoing(ResponseHead { status: rendered.status, headers: rendered.headers, length });
    if unread && !session.is_http2() {
        head.insert_header(header::CONNECTION, "close")?;
    }
    ctx.complete(&Outcome::Answered { status: rendered.status, code: Some(error.code) }).await;
    session.write_response_header(Box::new(head), head_only).await?;
    // with HEAD only the end is written: HTTP/2 needs it, and not every caller lets the engine finish the stream
    session.write_response_body((!head_only).then_some(rendered.body), true).await?;
    if unread {
        drain(session).await;
    }
    Ok(())
}

/// The event that says an error inside a stream whose head has left; `None` when the protocol has no way to say it.
pub(crate) fn stream_event(session: &Session, ctx: &mut RequestCtx, error: &FilterError) -> Option<Bytes> {
    let renderer = ctx.renderer();
    let request = ctx.request();
    log(error, &request.id, &request.route, renderer.status(error));
    ctx.answered(error.code);
    let head = final_head(session)?;
    let content_type = head.headers.get(header::CONTENT_TYPE)?;
    if !content_type.as_bytes().starts_with(b"text/event-stream") {
        return None;
    }
    renderer.stream_event(error, &request.id)
}

/// The trailers that say an error at the end of a call of gRPC whose head has left; `None` for other protocols, and
/// over HTTP/1.1, where the engine writes none.
pub(crate) fn trailers(session: &Session, error: &FilterError, status: u16) -> Option<HeaderMap> {
    let content_type = final_head(session)?.headers.get(header::CONTENT_TYPE)?;
    if !session.is_http2() || !content_type.as_bytes().starts_with(b"application/grpc") {
        return None;
    }
    let code = match status {
        413 | 429 => "8", // RESOURCE_EXHAUSTED
        500.. => "14",    // UNAVAILABLE
        _ => "2",         // UNKNOWN
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    // percent-encoding is for what is not printable ASCII; `%` itself has to be written so, too
    let plain = error.message.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'%');
    if let Some(message) = plain.then(|| HeaderValue::from_str(&error.message).ok()).flatten() {
        trailers.insert("grpc-message", message);
    }
    Some(trailers)
}

fn log(error: &FilterError, request_id: &str, route: &str, status: http::StatusCode) {
    let code = error.code.as_str();
    let source = error.source.as_deref().map(tracing::field::display);
    if error.blame == Blame::Gateway {
        tracing::error!(
            request.id = request_id,
            route.name = route,
            error.code = code,
            http.status = status.as_u16(),
            cause = source,
            "request failed"
        );
    } else {
        tracing::debug!(
            request.id = request_id,
            route.name = route,
            error.code = code,
            http.status = status.as_u16(),
            cause = source,
            "request refused"
        );
    }
}

/// Reads the rest of an upload, within bounds, so that closing does not destroy the answer on its way.
pub(crate) async fn drain(session: &mut Session) {
    let drained = tokio::time::timeout(DRAIN_TIME, async {
        let mut bytes = 0;
        while let Ok(Some(piece)) = session.read_request_body().await {
            bytes += piece.len();
            if bytes > DRAIN_BYTES {
                break;
            }
        }
    });
    if drained.await.is_err() {
        tracing::debug!("an upload went on after its answer and was cut");
    }
}
