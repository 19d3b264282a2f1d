//! The endpoint bridge: runs a tower service for a request of the engine, streaming both ways, and cancels it when
//! the client leaves. Also writes the answers that filters give.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use dgx_gateway_filter::error::CarriedError;
use dgx_gateway_filter::{FilterError, Reply, ResponseHead, Rope};
use http::{Method, StatusCode, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, OrErr};
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::context::RequestCtx;
use crate::reply;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The request body of a service: pieces come from the session while the service asks for them.
struct Upload {
    pieces: mpsc::Receiver<Bytes>,
    /// Bytes still to come, when the client declared a length.
    left: Option<u64>,
    complete: bool,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        match self.pieces.poll_recv(cx) {
            Poll::Ready(Some(piece)) if piece.is_empty() => {
                self.complete = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(piece)) => {
                self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
            }
            Poll::Ready(None) if self.complete => Poll::Ready(None),
            // the sender is gone without the empty piece that marks the end
            Poll::Ready(None) => Poll::Ready(Some(Err("the request body broke off".into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.left.map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
    }
}

/// How an endpoint answered.
pub(super) enum Served {
    /// The answer was written.
    Answered,
    /// The handler gave an error, to be rendered like any other.
    Refused(FilterError),
}

/// Runs `service` and writes its answer.
///
/// # Cancel safety
/// Dropping it drops the service's future and response body, which cancels them. An error means that the client
/// left or the connection failed; the service is dropped then, too.
pub(super) async fn serve<S>(session: &mut Session, ctx: &mut RequestCtx, service: S) -> pingora::Result<Served>
where
    S: tower::Service<http::Request<Body>, Response = Reply, Error = Infallible> + Send,
    S::Future: Send,
{
    let held = std::mem::take(&mut ctx.body);
    let live = held.is_empty() && !session.is_body_done();
    let (sender, pieces) = mpsc::channel(1);
    let body = if live {
        Body::new(Upload { pieces, left: super::body::declared_length(session), complete: false })
    } else {
        rope_body(&held)
    };
    let request = request(session, ctx, body);
    let mut feed = Feed::new(session, live.then_some(sender));
    let response = match drive(session, ctx, service, request, &mut feed).await? {
        Ok(response) => response,
        Err(error) => return Ok(Served::Refused(error)),
    };
    if let Some(error) = response.extensions().get::<CarriedError>().and_then(CarriedError::take) {
        return Ok(Served::Refused(error));
    }
    write(session, ctx, response, feed).await?;
    Ok(Served::Answered)
}

fn rope_body(rope: &Rope) -> Body {
    match rope.parts() {
        [] => Body::empty(),
        [whole] => Body::from(whole.clone()),
        parts => {
            let parts: Vec<Result<Bytes, Infallible>> = parts.iter().cloned().map(Ok).collect();
            Body::from_stream(futures_util::stream::iter(parts))
        }
    }
}

fn request(session: &Session, ctx: &RequestCtx, body: Body) -> http::Request<Body> {
    let head = session.req_header();
    let mut request = http::Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = canonical_uri(head, &ctx.path);
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    request.extensions_mut().insert(ctx.chain.shared.request.clone());
    request.extensions_mut().insert(ctx.chain.shared.facts.clone());
    request
}

fn canonical_uri(head: &http::request::Parts, path: &str) -> http::Uri {
    let canonical = match head.uri.query() {
        Some(query) => format!("{path}?{query}").parse(),
        None => path.parse(),
    };
    canonical.unwrap_or_else(|_| head.uri.clone())
}

/// Carries the request body to the service, while it wants it, and watches the client.
struct Feed {
    sender: Option<mpsc::Sender<Bytes>>,
    permit: Option<mpsc::OwnedPermit<Bytes>>,
    /// The client waits for `100 Continue` before it sends.
    expect: bool,
}

/// What one step of a feed came to.
enum Step {
    Refused(FilterError),
    SayContinue,
    Went,
}

impl Feed {
    fn new(session: &Session, sender: Option<mpsc::Sender<Bytes>>) -> Self {
        let expect = session.req_header().headers.contains_key(header::EXPECT) && !session.is_http2();
        Self { sender, permit: None, expect }
    }

    /// Waits for room, then for a piece; with nothing to carry, for the client to leave. A filter may refuse the body
    /// on its way.
    ///
    /// # Cancel safety
    /// Dropping it between steps or inside one loses nothing.
    async fn step(&mut self, session: &mut Session, ctx: &mut RequestCtx) -> pingora::Result<Step> {
        if session.is_body_done() {
            self.end();
            session.read_body_or_idle(true).await.map_err(Error::into_down)?;
            let more = Error::e_explain(ErrorType::ConnectionClosed, "the client sent more than its request");
            return more.map_err(Error::into_down);
        }
        // the service dropped the body: its bytes, read as idleness, would be taken for a breach of the protocol
        let Some(sender) = &self.sender else { return std::future::pending().await };
        if self.permit.is_none() {
            match sender.clone().reserve_owned().await {
                Ok(permit) => self.permit = Some(permit),
                Err(_) => self.sender = None,
            }
            return Ok(if std::mem::take(&mut self.expect) { Step::SayContinue } else { Step::Went });
        }
        let piece = session.read_body_or_idle(false).await.map_err(Error::into_down)?;
        if let Some(piece) = piece.filter(|piece| !piece.is_empty()) {
            if let Err(error) = ctx.passing(session.req_header(), &piece) {
                return Ok(Step::Refused(error));
            }
            if let Some(permit) = self.permit.take() {
                permit.send(piece);
            }
        }
        Ok(Step::Went)
    }

    /// Whether the service takes nothing more.
    fn is_over(&self) -> bool {
        self.sender.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// The body is complete: an empty piece says so, once.
    fn end(&mut self) {
        let Some(sender) = self.sender.take() else { return };
        match self.permit.take() {
            Some(permit) => drop(permit.send(Bytes::new())),
            // no room yet; the service may have stopped listening
            None => drop(tokio::spawn(async move { drop(sender.send(Bytes::new()).await) })),
        }
    }
}

async fn say_continue(session: &mut Session) -> pingora::Result<()> {
    let keepalive = session.get_keepalive();
    session.write_continue_response().await.map_err(Error::into_down)?;
    session.set_keepalive(keepalive);
    Ok(())
}

/// Runs the service until it answers.
async fn drive<S>(
    session: &mut Session,
    ctx: &mut RequestCtx,
    service: S,
    request: http::Request<Body>,
    feed: &mut Feed,
) -> pingora::Result<Result<Reply, FilterError>>
where
    S: tower::Service<http::Request<Body>, Response = Reply, Error = Infallible> + Send,
    S::Future: Send,
{
    let mut answer = std::pin::pin!(service.oneshot(request));
    loop {
        let step = tokio::select! {
            biased;
            response = &mut answer => return Ok(Ok(response.unwrap_or_else(|never| match never {}))),
            step = feed.step(session, ctx) => step?,
        };
        match step {
            Step::Refused(error) => return Ok(Err(error)),
            Step::SayContinue => say_continue(session).await?,
            Step::Went => {}
        }
    }
}

/// Writes a response that a filter gave.
///
/// # Cancel safety
/// Dropping it drops the response body, which cancels its producer.
pub(super) async fn respond(session: &mut Session, ctx: &mut RequestCtx, reply: Reply) -> pingora::Result<()> {
    let feed = Feed::new(session, None);
    write(session, ctx, reply, feed).await
}

async fn write(session: &mut Session, ctx: &mut RequestCtx, reply: Reply, mut feed: Feed) -> pingora::Result<()> {
    let (parts, mut body) = reply.into_parts();
    let head_only = session.req_header().method == Method::HEAD;
    let no_body = head_only || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let version = session.req_header().version;
    let mut headers = parts.headers;
    let declared = headers.remove(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let length = declared.or_else(|| body.size_hint().exact()).filter(|_| head_only || !no_body);
    let mut head = ctx.outgoing(ResponseHead { status: parts.status, headers, length });
    if length.is_none() && !no_body && version == Version::HTTP_11 {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?; // else the engine delimits by closing
    }
    // an upload that nobody reads: whether its rest is there already is chance, so the connection ends, and says so
    let unread = !session.is_body_done() && feed.is_over();
    if unread && !session.is_http2() {
        session.set_keepalive(None);
        head.insert_header(header::CONNECTION, "close")?;
    }
    session.write_response_header(Box::new(head), no_body).await.map_err(Error::into_down)?;
    if !no_body {
        write_body(session, ctx, &mut body, &mut feed).await?;
    }
    if unread {
        reply::drain(session).await;
    }
    Ok(())
}

async fn write_body(
    session: &mut Session,
    ctx: &mut RequestCtx,
    body: &mut Body,
    feed: &mut Feed,
) -> pingora::Result<()> {
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            // the service may answer while it still reads; a refusal can no longer be said, so the body just ends
            step = feed.step(session, ctx) => {
                if let Step::Refused(error) = step? {
                    tracing::debug!(error.code = error.code.as_str(), "an upload was refused inside its answer");
                    feed.sender = None;
                }
                continue;
            }
        };
        match frame {
            None => break,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    session.write_response_body(Some(data), false).await.map_err(Error::into_down)?;
                }
            }
            Some(Err(error)) => {
                session.set_keepalive(None); // without its end the client can tell that the answer is cut
                return Err(error).or_err(ErrorType::InternalError, "the answer of an endpoint broke off");
            }
        }
    }
    session.write_response_body(None, true).await.map_err(Error::into_down)
}
