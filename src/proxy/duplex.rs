//! Exchanges with both directions at the same time: those with an upstream of HTTP/2 whose request body streams
//! through, and those that begin a WebSocket, which `tunnel` carries on.
//!
//! The engine does not read the answer while it waits until the upstream takes more of the request. A service that
//! sends much before it reads on (gRPC allows it) waits for room, too, and both would wait until a limit ends the
//! call. So these exchanges run here, on connections of the engine's own connector.

mod upload;

use std::sync::LazyLock;

use bytes::Bytes;
use dgx_gateway_filter::upstream::{AttemptFailure, AttemptResult, HttpVersion};
use dgx_gateway_filter::{BodyNeed, FilterError};
use http::{Method, Version, header, uri};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::proxy::Session;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType, OrErr};
use tokio::time::Instant;

use self::upload::{Failed, Step, Upload};
use super::admit::Stop;
use super::attempt::{Next, Stage, exhausted, failure_of};
use super::context::RequestCtx;
use super::heads::{self, Framing};
use super::{REFUSED, final_head, tunnel, waiting};
use crate::reply;
use crate::route::End;
use crate::upstream::{peer, resolve::Resolver};

/// What runs the exchanges: the connections of HTTP/2 are shared, one of HTTP/1.1 is never used twice.
pub(super) struct Duplex {
    /// Made for the first exchange: it has the certificates of all authorities in memory.
    connector: LazyLock<Connector>,
    resolver: Resolver,
}

impl Default for Duplex {
    fn default() -> Self {
        Self { connector: LazyLock::new(|| Connector::new(None)), resolver: Resolver::default() }
    }
}

impl RequestCtx {
    /// Whether the exchange is one for [`Duplex`]: it is to be switched to WebSocket, or its body was not read and its
    /// upstream speaks HTTP/2.
    pub(super) fn is_duplex(&self) -> bool {
        if self.switching {
            return true;
        }
        let fits = |end: &End| matches!(end, End::Fixed(fixed) if fixed.upstream.version == HttpVersion::Http2);
        self.replay.is_none()
            && self.route.as_ref().is_some_and(|route| route.need != BodyNeed::Whole && fits(&route.end))
    }
}

impl Duplex {
    /// Runs one exchange to its end.
    ///
    /// # Cancel safety
    /// Dropping it cancels the call at the upstream.
    pub(super) async fn run(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<(), Stop> {
        let (upstream, peer) = self.connect(session, ctx).await?;
        match upstream {
            HttpSession::H1(upstream) if ctx.switching => tunnel::run(session, ctx, upstream).await,
            HttpSession::H2(mut upstream) if !ctx.switching => {
                let result = exchange(session, ctx, &mut upstream, &peer).await;
                let timeout = peer.idle_timeout();
                self.connector.release_http_session(HttpSession::H2(upstream), &peer, timeout).await;
                result
            }
            _ => Err(failed(session, ctx, AttemptFailure::Connect)), // it speaks another version
        }
    }

    async fn connect(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<(HttpSession, HttpPeer), Stop> {
        waiting::before_attempt(session, ctx).await?;
        let Some(upstream) = ctx.prepare_attempt(session.req_header())? else {
            return Err(failed(session, ctx, AttemptFailure::Connect));
        };
        let peer = match peer::peer(&upstream, &self.resolver).await {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(upstream.label = %upstream.label, %error, "name of an upstream cannot be resolved");
                return Err(failed(session, ctx, AttemptFailure::Connect));
            }
        };
        match self.connector.get_http_session(&peer).await {
            Ok((upstream, _)) => Ok((upstream, peer)),
            Err(error) => {
                tracing::debug!(upstream.label = %upstream.label, %error, "no connection to an upstream");
                let failure = match failure_of(&error) {
                    AttemptFailure::Tls => AttemptFailure::Tls,
                    _ => AttemptFailure::Connect,
                };
                Err(failed(session, ctx, failure))
            }
        }
    }
}

/// The exchange cannot go on: an error answer, or the end of one that has begun.
fn refuse(session: &Session, ctx: &mut RequestCtx, error: FilterError) -> Stop {
    if final_head(session).is_none() {
        return Stop::Refused(error);
    }
    ctx.failure = Some(error);
    Stop::Broken(Error::new(REFUSED))
}

pub(super) fn failed(session: &Session, ctx: &mut RequestCtx, failure: AttemptFailure) -> Stop {
    let result = AttemptResult::Failed(failure);
    if final_head(session).is_none() {
        ctx.judge(session.req_header(), &result); // there is one target, so this can only say which error it is
    }
    let error = ctx.failure.take().unwrap_or_else(|| exhausted(&result));
    refuse(session, ctx, error)
}

async fn exchange(
    session: &mut Session,
    ctx: &mut RequestCtx,
    upstream: &mut Http2Session,
    peer: &HttpPeer,
) -> Result<(), Stop> {
    let head = request_head(session, ctx, peer.is_tls())?;
    let sent = upstream.write_request_header(Box::new(head), false);
    let writer = sent.ok().and_then(|()| upstream.take_request_body_writer());
    let Some(writer) = writer else { return Err(failed(session, ctx, AttemptFailure::Reset)) };
    let mut upload = Upload::new(writer);
    let result = pass(session, ctx, upstream, &mut upload).await;
    upload.finish(result.is_ok());
    result?;
    if !session.is_body_done() {
        session.set_keepalive(None);
        reply::drain(session).await;
    }
    Ok(())
}

fn request_head(session: &Session, ctx: &mut RequestCtx, tls: bool) -> Result<RequestHeader, Stop> {
    let (Some(request), Some(upstream)) = (&mut ctx.attempt.request, &ctx.attempt.upstream) else {
        return Err(FilterError::internal("an attempt without a request").into());
    };
    let client: &http::request::Parts = session.req_header();
    let mut head = heads::to_upstream(request, upstream, client, ctx.chain.marks(), Framing::Streamed)?;
    let host = head.remove_header(&header::HOST);
    let path = head.uri.path_and_query().cloned();
    let uri = uri::Builder::new()
        .scheme(if tls { "https" } else { "http" })
        .authority(host.as_ref().map_or(&b""[..], |host| host.as_bytes()))
        .path_and_query(path.unwrap_or(uri::PathAndQuery::from_static("/")))
        .build();
    head.set_uri(uri.or_err(ErrorType::InternalError, "address of an attempt")?);
    Ok(head)
}

/// Passes both bodies until the answer is complete.
async fn pass(
    session: &mut Session,
    ctx: &mut RequestCtx,
    upstream: &mut Http2Session,
    upload: &mut Upload,
) -> Result<(), Stop> {
    let idle = ctx.longest_idle();
    let mut silence = std::pin::pin!(tokio::time::sleep(idle));
    let mut part = Part::Head;
    loop {
        let step = tokio::select! {
            step = upload.step(session) => step,
            task = from_upstream(upstream, &mut part) => match task {
                Ok(task) => Ok(Step::Answer(task)),
                Err(error) => Err(Failed::Upstream(error)),
            },
            () = &mut silence => return Err(failed(session, ctx, AttemptFailure::Timeout)),
        };
        silence.as_mut().reset(Instant::now() + idle);
        match step {
            Ok(Step::Answer(task)) => {
                if answer(session, ctx, task).await? {
                    return Ok(());
                }
            }
            Ok(Step::Read(piece)) => read(session, ctx, upload, piece)?,
            Ok(Step::Sent) => {}
            Err(Failed::Client(error)) => return Err(error.into_down().into()),
            Err(Failed::Sending(error)) => {
                tracing::debug!(%error, "an upstream takes no more of a request");
                upload.give_up(); // it may have answered before; if not, reading the answer says so
            }
            Err(Failed::Upstream(error)) => return Err(failed(session, ctx, failure_of(&error))),
        }
    }
}

fn read(session: &mut Session, ctx: &mut RequestCtx, upload: &mut Upload, piece: Option<Bytes>) -> Result<(), Stop> {
    let end = piece.is_none() || session.is_body_done();
    let piece = piece.unwrap_or_default();
    if !piece.is_empty()
        && let Err(error) = ctx.passing(session.req_header(), &piece)
    {
        return Err(refuse(session, ctx, error));
    }
    upload.put(piece, end);
    Ok(())
}

/// What of the answer comes next.
enum Part {
    Head,
    Body,
    Trailers,
}

/// # Cancel safety
/// Dropping it loses nothing.
async fn from_upstream(upstream: &mut Http2Session, part: &mut Part) -> pingora::Result<HttpTask> {
    if matches!(part, Part::Head) {
        upstream.read_response_header().await?;
        *part = Part::Body;
        let end = upstream.check_response_end_or_error()?;
        let Some(head) = upstream.response_header() else {
            return Error::e_explain(ErrorType::InternalError, "an answer without a head");
        };
        return Ok(HttpTask::Header(Box::new(head.clone()), end));
    }
    if matches!(part, Part::Body) {
        if let Some(data) = upstream.read_response_body().await? {
            let end = upstream.check_response_end_or_error()?;
            return Ok(HttpTask::Body(Some(data), end));
        }
        *part = Part::Trailers;
    }
    let trailers = upstream.read_trailers().await?;
    Ok(HttpTask::Trailer(trailers.map(Box::new)))
}

/// Shows a part of the answer to the filters and passes it on. True at the end.
pub(super) async fn answer(session: &mut Session, ctx: &mut RequestCtx, task: HttpTask) -> Result<bool, Stop> {
    let tasks = match task {
        HttpTask::Header(head, end) => {
            let head = response_head(session, ctx, *head, end)?;
            vec![HttpTask::Header(Box::new(head), end)]
        }
        HttpTask::Body(mut part, end) => {
            chunk(session, ctx, &mut part, end)?;
            vec![HttpTask::Body(part, end)]
        }
        HttpTask::Trailer(trailers) => {
            let mut rest = None;
            chunk(session, ctx, &mut rest, true)?;
            vec![HttpTask::Body(rest, false), HttpTask::Trailer(trailers)]
        }
        other => vec![other],
    };
    Ok(session.downstream_session.response_duplex_vec(tasks).await.map_err(Error::into_down)?)
}

fn chunk(session: &Session, ctx: &mut RequestCtx, part: &mut Option<Bytes>, end: bool) -> Result<(), Stop> {
    if end {
        ctx.upstream_done();
    }
    let shown = ctx.response_chunk(session.req_header(), part, end);
    shown.map_err(|error| {
        ctx.attempt.stage = Stage::Relaying;
        refuse(session, ctx, error)
    })
}

pub(super) fn response_head(
    session: &mut Session,
    ctx: &mut RequestCtx,
    mut head: ResponseHeader,
    end: bool,
) -> Result<ResponseHeader, Stop> {
    ctx.attempt.stage = Stage::Relaying;
    let mut seen = heads::from_upstream(&mut head)?;
    let client: &http::request::Parts = session.req_header();
    let (version, head_only) = (client.version, client.method == Method::HEAD);
    let no_body = head_only || matches!(seen.status.as_u16(), 101 | 204 | 304);
    if end && !no_body && seen.length.is_some_and(|length| length > 0) {
        return Err(failed(session, ctx, AttemptFailure::Reset)); // it promised a body
    }
    if !matches!(ctx.judge(client, &AttemptResult::Head(&seen)), Next::Relay | Next::ReadBody(_)) {
        return Err(failed(session, ctx, AttemptFailure::Reset));
    }
    if let Err(error) = ctx.response_head(client, &mut seen) {
        return Err(refuse(session, ctx, error));
    }
    let chunked = seen.length.is_none() && !no_body && !end && version == Version::HTTP_11;
    let mut head = ctx.outgoing(seen);
    if chunked {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(head)
}
