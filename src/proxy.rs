//! The proxy: the phases of the engine, in the order in which they run, each handing over to one module.
//!
//! | Phase | Does |
//! |---|---|
//! | `early_request_filter` | request id, clock, keep-alive |
//! | `request_filter` | route, head filters, body, endpoint or plan |
//! | `upstream_peer` .. `upstream_request_filter` | one attempt, repeated while verdicts say so |
//! | `upstream_response_filter`, body filters | judge, rewrite, relay |
//! | `fail_to_connect`, `error_while_proxy` | judge failures |
//! | `fail_to_proxy` | the error answer |
//! | `logging` | the end, exactly once |

mod admit;
mod attempt;
mod away;
mod body;
mod bridge;
mod client_ip;
mod collector;
mod compressed;
mod connections;
mod context;
mod cors;
mod decode;
mod duplex;
mod failure;
mod followed;
mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod heads;
mod judged;
mod replay;
mod spool;
mod tunnel;
mod upgrade;
mod waiting;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use dgx_gateway_filter::upstream::{AttemptFailure, AttemptResult, HttpVersion};
use dgx_gateway_filter::{ErrorCode, FilterError, RequestInfo, Rope, Traffic};
use http::{HeaderMap, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use self::admit::{Admitted, Stop, admit};
use self::attempt::{Next, Stage, failure_of};
use self::compressed::{Compressed, UnknownCoding};
use self::duplex::Duplex;
use self::heads::Framing;
use self::judged::{Holding, Judged};
use self::replay::{Length, ReplayHandle};
use crate::reply;
use crate::shutdown::Draining;
use crate::telemetry::CoreMetrics;
use crate::upstream::pipe::LARGE;
use crate::upstream::{peer, resolve::Resolver};
use crate::world::World;

pub use self::body::{Held, HeldBytes};
pub use self::connections::{Busy, ConnectionGuard, Connections};
pub use self::context::RequestCtx;
pub use self::spool::Spools;

/// How long an idle client connection is kept: 75 s, as nginx does.
const KEEPALIVE_SECONDS: u64 = 75;
/// Longest time for one write to a client; while it blocks, no other limit is watched.
const CLIENT_WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// An error that a filter decided; the answer is in the context.
const REFUSED: ErrorType = ErrorType::new("Refused");

/// The gateway as the engine sees it.
pub struct Gateway {
    world: Arc<ArcSwap<World>>,
    /// Request bodies.
    held: Arc<HeldBytes>,
    /// Answers; a budget of their own, so that a call that was made is not lost to uploads.
    held_answers: Arc<HeldBytes>,
    spools: Arc<Spools>,
    connections: Arc<Connections>,
    metrics: Arc<CoreMetrics>,
    draining: Arc<Draining>,
    resolver: Resolver,
    duplex: Duplex,
}

impl RequestCtx {
    /// What the core knows of the request.
    pub(crate) fn request(&self) -> RequestInfo {
        self.chain.shared.request.clone()
    }

    /// The upstream has said everything.
    fn upstream_done(&mut self) {
        self.away.end();
        if let Some(followed) = &mut self.chain.followed {
            followed.complete();
        }
    }

    /// Notes the code of the error that was answered.
    pub(crate) fn answered(&mut self, code: ErrorCode) {
        self.answered_code = Some(code);
    }
}

impl Gateway {
    /// A gateway for a world that may be swapped. Bodies that stream are kept in `spool_dir`.
    #[must_use]
    pub fn new(
        world: Arc<ArcSwap<World>>,
        spool_dir: PathBuf,
        connections: Arc<Connections>,
        metrics: Arc<CoreMetrics>,
        draining: Arc<Draining>,
    ) -> Self {
        let (held, held_answers) = (HeldBytes::new(), HeldBytes::new());
        let spools = Spools::new(spool_dir, Arc::clone(&held));
        Self {
            world,
            held,
            held_answers,
            spools,
            connections,
            metrics,
            draining,
            resolver: Resolver::default(),
            duplex: Duplex::default(),
        }
    }
}

/// The head of the answer, once it has left. An interim one (`100 Continue`) is none: the answer is still open.
/// After 101 no other can follow.
pub(crate) fn final_head(session: &Session) -> Option<&ResponseHeader> {
    let is_final = |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().filter(|head| is_final(head.status))
}

/// Turns a filter's error into one that stops the engine; the answer waits in the context.
fn refuse(ctx: &mut RequestCtx, error: FilterError) -> Box<Error> {
    ctx.failure.get_or_insert(error);
    let mut stop = Error::new(REFUSED);
    stop.set_retry(false);
    stop
}

fn retry(untouched: bool, next: &Next) -> Box<Error> {
    let mut stop = Error::new(REFUSED);
    stop.set_retry(matches!(next, Next::Retry) && untouched);
    stop.into_up()
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// In a box: the engine's futures hold and move it by value, at several levels.
    type CTX = Box<RequestCtx>;

    fn new_ctx(&self) -> Box<RequestCtx> {
        let world = self.world.load_full();
        let most = world.server.max_held_bytes;
        let (held, held_answers) = (self.held.share(most), self.held_answers.share(most));
        Box::new(RequestCtx::new(world, held, held_answers, Arc::clone(&self.spools)))
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Box<RequestCtx>) -> Result<()> {
        let peer = session.client_addr().and_then(|address| address.as_inet().copied());
        ctx.begin(session.req_header(), peer, &self.metrics);
        ctx.busy = self.connections.busy(peer);
        session.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT));
        session.set_total_drain_timeout(Some(reply::DRAIN_TIME)); // else an unread body is read for ever
        if session.req_header().version == Version::HTTP_10 || self.draining.begun() {
            session.set_keepalive(None); // the end of the connection may be the end of the answer
        } else if session.get_keepalive().is_some() {
            session.set_keepalive(Some(KEEPALIVE_SECONDS)); // without it the engine keeps the connection for ever
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<RequestCtx>) -> Result<bool> {
        let mut admitted = admit(session, ctx).await;
        if matches!(admitted, Ok(Admitted::Proxy)) && ctx.is_duplex() {
            admitted = Box::pin(self.duplex.run(session, ctx)).await.map(|()| Admitted::Answered);
        }
        match admitted {
            Ok(Admitted::Answered) => Ok(true),
            Ok(Admitted::Proxy) => Ok(false),
            Err(Stop::Refused(error)) => {
                reply::error(session, ctx, &error).await.map_err(Error::into_down)?;
                Ok(true)
            }
            Err(Stop::Broken(error)) => Err(error),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Box<RequestCtx>) -> Result<Box<HttpPeer>> {
        loop {
            if let Err(stop) = waiting::before_attempt(session, ctx).await {
                return Err(match stop {
                    Stop::Refused(error) => refuse(ctx, error),
                    Stop::Broken(error) => error,
                });
            }
            let upstream = match ctx.prepare_attempt(session.req_header()) {
                Ok(Some(upstream)) => upstream,
                Ok(None) => {
                    let error = attempt::exhausted(&AttemptResult::Failed(AttemptFailure::Connect));
                    return Err(refuse(ctx, error));
                }
                Err(error) => return Err(refuse(ctx, error)),
            };
            match peer::peer(&upstream, &self.resolver).await {
                Ok(mut peer) => {
                    peer.options.read_timeout = Some(ctx.longest_silence());
                    // an upstream that takes nothing of the body: while it blocks, nothing else is watched
                    peer.options.write_timeout = Some(ctx.longest_silence().min(peer::WRITE_TIMEOUT));
                    ctx.attempt.apart = false;
                    if let Some((flow, LARGE..)) = ctx.replay.as_ref().and_then(|replay| replay.begin_flow(&upstream)) {
                        peer::connect_apart(&mut peer, flow);
                        ctx.attempt.apart = true;
                    }
                    return Ok(Box::new(peer));
                }
                Err(error) => {
                    tracing::warn!(upstream.label = %upstream.label, %error, "name of an upstream cannot be resolved");
                    if !failure::before_sending(session, ctx, AttemptFailure::Connect) {
                        return Err(Error::new(REFUSED));
                    }
                }
            }
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Box<RequestCtx>,
    ) -> Result<()> {
        let (Some(request), Some(upstream)) = (&mut ctx.attempt.request, &ctx.attempt.upstream) else {
            return Error::e_explain(ErrorType::InternalError, "an attempt without a request");
        };
        let client: &http::request::Parts = session.req_header();
        let version = head.version;
        if upstream.version == HttpVersion::Http2 && version != Version::HTTP_2 {
            // without a word about protocols in its handshake the engine takes it for one of HTTP/1.1
            return Error::e_explain(ErrorType::ConnectError, "the upstream does not say that it speaks HTTP/2");
        }
        let framing = match ctx.replay.as_ref().map(ReplayHandle::length) {
            Some(Length::Known(length)) => Framing::Replayed(length),
            Some(Length::Unknown) => Framing::Unsized,
            None => Framing::Streamed,
        };
        *head = heads::to_upstream(request, upstream, client, ctx.chain.marks(), framing)?;
        head.set_version(version);
        if ctx.attempt.apart {
            head.insert_header(header::CONNECTION, "close")?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        piece: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<RequestCtx>,
    ) -> Result<()> {
        if ctx.replay.is_none()
            && let Some(piece) = piece
        {
            // any other source is swallowed when the upstream speaks HTTP/2
            ctx.passing(session.req_header(), piece).map_err(|error| refuse(ctx, error).into_down())?;
        }
        for fresh in ctx.replay.as_ref().map(ReplayHandle::take_fresh).unwrap_or_default() {
            let seen = ctx.chain.request_chunk(session.req_header(), &fresh);
            seen.map_err(|error| refuse(ctx, error).into_down())?;
        }
        let told = ctx.replay.as_ref().is_some_and(ReplayHandle::take_end);
        if (end || told) && piece.as_ref().is_some_and(Bytes::is_empty) {
            *piece = None; // else the engine writes the end of a chunked body twice
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<RequestCtx>,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // nobody asked for it, and the engine would wait for ever for what follows
            let next = ctx.judge(session.req_header(), &AttemptResult::Failed(AttemptFailure::Reset));
            return Err(retry(ctx.untouched(session), &next));
        }
        if response.status.is_informational() {
            return Ok(());
        }
        ctx.attempt.stage = Stage::Relaying;
        let mut seen = heads::from_upstream(response)?;
        if ctx.attempt.request.as_ref().is_some_and(|request| request.decode_answer) {
            match Compressed::of(&mut seen) {
                Ok(compressed) => ctx.attempt.compressed = compressed,
                Err(UnknownCoding) => {
                    let next = ctx.judge(session.req_header(), &AttemptResult::Failed(AttemptFailure::Reset));
                    return Err(retry(ctx.untouched(session), &next));
                }
            }
        }
        match ctx.judge(session.req_header(), &AttemptResult::Head(&seen)) {
            Next::Relay => {
                if let Err(error) = ctx.response_head(session.req_header(), &mut seen) {
                    return Err(refuse(ctx, error));
                }
                (ctx.attempt.status, ctx.attempt.sized) = (seen.status, seen.length.is_some());
                *response = ctx.outgoing(seen);
                Ok(())
            }
            Next::ReadBody(max_bytes) => {
                if let Some(replay) = &ctx.replay {
                    replay.hold();
                }
                ctx.attempt.stage = Stage::Held(Box::new(Judged::new(seen, max_bytes)));
                Ok(())
            }
            next => Err(retry(ctx.untouched(session), &next)),
        }
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        part: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<RequestCtx>,
    ) -> Result<Option<Duration>> {
        if end {
            ctx.upstream_done();
        }
        if !matches!(ctx.attempt.stage, Stage::Held(_)) {
            ctx.attempt.decode(part, end);
            return Ok(None);
        }
        let RequestCtx { attempt, held_answer, .. } = &mut **ctx;
        match attempt.hold(part.take().unwrap_or_default(), end, held_answer) {
            Holding::NoRoom => return Err(refuse(ctx, body::overloaded())),
            Holding::Whole if !end => return Ok(None),
            Holding::Broken | Holding::Whole => {}
        }
        match ctx.judge_held(session.req_header()) {
            Next::Relay => Ok(None),
            next => Err(retry(ctx.untouched(session), &next)),
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _ctx: &mut Box<RequestCtx>,
    ) -> Result<()> {
        if session.req_header().version == Version::HTTP_10 {
            response.remove_header(&header::TRANSFER_ENCODING); // it does not know chunks
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        part: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<RequestCtx>,
    ) -> Result<Option<Duration>> {
        match ctx.attempt.stage {
            Stage::Held(_) | Stage::Released | Stage::Switched => return Ok(None),
            Stage::Broken | Stage::Complete | Stage::Said => {
                *part = None; // the wrapper stops the engine once the error has been written
                return if ctx.replay.is_some() { Ok(None) } else { Err(Error::new(REFUSED)) };
            }
            Stage::Relaying | Stage::Waiting => {}
        }
        let sound = !ctx.attempt.undecodable;
        let passed = ctx.response_chunk(session.req_header(), part, end && sound);
        let passed = passed.and_then(|()| if sound { Ok(()) } else { Err(compressed::damaged()) });
        if let Err(error) = passed {
            return failure::inside_answer(session, part, error, ctx).map(|()| None);
        }
        let ending = ctx.chain.shared.ending.take();
        let length = part.as_ref().map_or(0, Bytes::len);
        if end || ending.is_some() {
            ctx.completing(ending, length);
        }
        ctx.attempt.passed += length;
        if !ctx.untouched(session) && session.is_body_done() {
            ctx.forget_body();
        }
        Ok(None)
    }

    /// Trailers are the end of the body, which the filters learn once, as ever.
    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        _trailers: &mut HeaderMap,
        ctx: &mut Box<RequestCtx>,
    ) -> Result<()> {
        if !matches!(ctx.attempt.stage, Stage::Relaying) {
            return Ok(());
        }
        let mut rest = None;
        if let Err(error) = ctx.response_chunk(session.req_header(), &mut rest, true)
            && !ctx.chain.is_completed()
        {
            ctx.attempt.stage = Stage::Broken;
            return Err(refuse(ctx, error));
        }
        ctx.completing(None, rest.as_ref().map_or(0, Bytes::len));
        ctx.attempt.rest = rest.filter(|rest| !rest.is_empty());
        Ok(())
    }

    /// What filters kept back until the end takes the place of the trailers: the engine writes one or the other.
    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut HeaderMap,
        ctx: &mut Box<RequestCtx>,
    ) -> Result<Option<Bytes>> {
        Ok(ctx.attempt.rest.take())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<RequestCtx>,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let failure = match failure_of(&error) {
            AttemptFailure::Tls => AttemptFailure::Tls,
            _ => AttemptFailure::Connect,
        };
        let again = failure::before_sending(session, ctx, failure);
        error.set_retry(again);
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<RequestCtx>,
        reused: bool,
    ) -> Box<Error> {
        failure::broke_off(session, ctx, error.more_context(format!("peer {peer}")), reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Box<RequestCtx>) -> FailToProxy {
        failure::answer(session, ctx, error).await
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Box<RequestCtx>, _error: &Error) -> bool {
        true // `reply` and `telemetry` say it once, with the request id
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Box<RequestCtx>,
        _error: &Error,
        _log: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<RequestCtx>) {
        if let Some(replay) = ctx.replay.take() {
            ctx.delivered = replay.end_left();
            replay.restore(session).await; // keep-alive needs the genuine session
        }
        let status = final_head(session).map(|head| head.status);
        let outcome = ctx.outcome(status, error);
        let traffic =
            Traffic { status, bytes_in: session.body_bytes_read() as u64, bytes_out: session.body_bytes_sent() as u64 };
        ctx.chain.finish(&outcome, Some(traffic));
        ctx.body = Rope::new();
        ctx.logged();
        let trace = ctx.chain.trace(Some(&session.req_header().headers));
        self.metrics.finished(session, ctx.chain.request(), ctx.chain.facts(), trace, &outcome, error);
        let away = ctx.away.total();
        self.metrics.took(ctx.route.as_deref(), ctx.chain.request(), away);
    }
}
