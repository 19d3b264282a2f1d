//! The request phase: from a head to an answer given here, or to a plan that the engine carries out.

use std::sync::Arc;

use dgx_gateway_filter::upstream::MAX_TARGETS;
use dgx_gateway_filter::{BodyNeed, ErrorCode, FilterError, Flow, Reply};
use http::{HeaderValue, header};
use pingora::Error;
use pingora::proxy::Session;

use super::body::{BodyLimits, ReadError, read_beginning, read_whole, say_continue};
use super::bridge::{self, Served};
use super::context::RequestCtx;
use super::cors;
use super::framing;
use super::replay::{Beginning, ReplayHandle};
use super::upgrade;
use crate::route::{End, Match, Route};

/// What the request phase came to.
pub(super) enum Admitted {
    Answered,
    Proxy,
}

/// Why the request phase ended without either.
pub(super) enum Stop {
    Broken(Box<Error>),
    Refused(FilterError),
}

impl From<FilterError> for Stop {
    fn from(error: FilterError) -> Self {
        Self::Refused(error)
    }
}

impl From<Box<Error>> for Stop {
    fn from(error: Box<Error>) -> Self {
        Self::Broken(error)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Broken(error) => Self::Broken(error),
            ReadError::Refused(error) => Self::Refused(error),
        }
    }
}

/// Runs the request phase.
pub(super) async fn admit(session: &mut Session, ctx: &mut RequestCtx) -> Result<Admitted, Stop> {
    framing::make_clear(session.req_header_mut())?;
    let route = match match_route(session, ctx)? {
        Matched::Route(route) => route,
        Matched::Preflight(reply) => {
            bridge::respond(session, ctx, *reply).await?;
            return Ok(Admitted::Answered);
        }
    };
    ctx.chain.exchanges = route.filters.iter().map(|entry| entry.filter.begin()).collect();
    if let Some(reply) = head_filters(session, ctx).await? {
        bridge::respond(session, ctx, *reply).await?;
        return Ok(Admitted::Answered);
    }
    let head: &http::request::Parts = session.req_header();
    ctx.chain.shared.cx(head).refuse_declared_too_large()?;
    ctx.switching = route.fixed().is_some_and(|fixed| fixed.websocket) && upgrade::asked(session.req_header())?;
    let mut beginning = None;
    ctx.away.begin();
    match route.need {
        BodyNeed::Whole => read_body(session, ctx).await?,
        BodyNeed::Start => beginning = Some(read_start(session, ctx).await?),
        BodyNeed::None | BodyNeed::Chunks => {}
    }
    ctx.away.end();
    if let Some(reply) = ready_filters(session, ctx).await? {
        bridge::respond(session, ctx, *reply).await?;
        return Ok(Admitted::Answered);
    }
    match &route.end {
        End::Endpoint(router) => match bridge::serve(session, ctx, router.clone()).await? {
            Served::Answered => Ok(Admitted::Answered),
            Served::Refused(error) => Err(error.into()),
        },
        End::Fixed(fixed) => {
            ctx.chain.shared.plan.set([Arc::clone(&fixed.upstream)]);
            hand_over(session, ctx, &route, beginning).await
        }
        End::Planned => hand_over(session, ctx, &route, beginning).await,
    }
}

enum Matched {
    Preflight(Box<Reply>),
    Route(Arc<Route>),
}

fn match_route(session: &Session, ctx: &mut RequestCtx) -> Result<Matched, FilterError> {
    let head = session.req_header();
    let world = Arc::clone(&ctx.world);
    match world.routes.find(&head.method, head.uri.path()) {
        Match::Route(route, path) => {
            ctx.speak(route.dialect.as_ref());
            ctx.path = path.as_str().to_owned();
            let request = &mut ctx.chain.shared.request;
            request.route = Arc::clone(&route.name);
            request.protected = route.protected;
            request.max_body_bytes = route.max_body_bytes.unwrap_or(world.server.max_body_bytes);
            ctx.route = Some(Arc::clone(route));
            Ok(Matched::Route(Arc::clone(route)))
        }
        Match::NotFound => {
            ctx.speak(world.routes.dialect_above(head.uri.path()));
            Err(FilterError::client(ErrorCode::RouteNotFound, "There is nothing at this path."))
        }
        Match::MethodNotAllowed(route, allow) => {
            ctx.speak(route.dialect.as_ref());
            ctx.chain.shared.request.route = Arc::clone(&route.name);
            if ctx.cors.is_some() && cors::is_preflight(&head.method, &head.headers) {
                return Ok(Matched::Preflight(Box::new(cors::preflight(&allow, &head.headers))));
            }
            let message = format!("This path does not accept {}.", head.method);
            let error = FilterError::client(ErrorCode::MethodNotAllowed, message);
            Err(match HeaderValue::from_str(&allow) {
                Ok(allow) => error.header(header::ALLOW, allow),
                Err(_) => error,
            })
        }
    }
}

async fn head_filters(session: &Session, ctx: &mut RequestCtx) -> Result<Option<Box<Reply>>, FilterError> {
    let head: &http::request::Parts = session.req_header();
    for exchange in &mut ctx.chain.exchanges {
        if let Flow::Reply(reply) = exchange.request_head(&mut ctx.chain.shared.cx(head)).await? {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

async fn read_body(session: &mut Session, ctx: &mut RequestCtx) -> Result<(), ReadError> {
    let started = ctx.chain.shared.request.started;
    let limits = BodyLimits {
        max_bytes: ctx.chain.request().max_body_bytes,
        coding: ctx.chain.facts().get().copied(),
        until: started + ctx.world.server.total_timeout,
    };
    let RequestCtx { held, chain, .. } = ctx;
    let look = |session: &Session, piece: &_| chain.request_chunk(session.req_header(), piece);
    ctx.body = read_whole(session, limits, held, look).await?;
    Ok(())
}

async fn read_start(session: &mut Session, ctx: &mut RequestCtx) -> Result<Beginning, ReadError> {
    let started = ctx.chain.shared.request.started;
    let limits = BodyLimits {
        max_bytes: ctx.chain.request().max_body_bytes,
        coding: None, // a body that streams passes as it comes
        until: started + ctx.world.server.total_timeout,
    };
    let spool = ctx.spools.open(ctx.world.server.max_spooled_bytes, ctx.world.server.max_held_bytes);
    let chain = &mut ctx.chain;
    let look = |session: &Session, piece: Option<&_>| {
        if let Some(piece) = piece {
            chain.request_chunk(session.req_header(), piece)?;
        }
        Ok(chain.exchanges.iter().all(|exchange| exchange.seen_enough()))
    };
    read_beginning(session, limits, spool, look).await
}

async fn ready_filters(session: &Session, ctx: &mut RequestCtx) -> Result<Option<Box<Reply>>, FilterError> {
    let head: &http::request::Parts = session.req_header();
    let mut body = std::mem::take(&mut ctx.body);
    for exchange in &mut ctx.chain.exchanges {
        if let Flow::Reply(reply) = exchange.request_ready(&mut body, &mut ctx.chain.shared.cx(head)).await? {
            return Ok(Some(reply));
        }
    }
    ctx.body = body;
    Ok(None)
}

/// The engine takes over. A body that was read is replayed, one that was begun goes on behind its beginning, and one
/// that was not looked at streams through.
async fn hand_over(
    session: &mut Session,
    ctx: &mut RequestCtx,
    route: &Route,
    beginning: Option<Beginning>,
) -> Result<Admitted, Stop> {
    ctx.chain.shared.plan.targets.truncate(MAX_TARGETS);
    let started = ctx.chain.shared.request.started;
    if let Some(beginning) = beginning {
        ctx.replay = Some(ReplayHandle::install_streaming(session, started, beginning));
        return Ok(Admitted::Proxy);
    }
    say_continue(session).await?;
    if !ctx.switching && (route.need == BodyNeed::Whole || session.is_body_done()) {
        ctx.replay = Some(ReplayHandle::install(session, started));
    }
    Ok(Admitted::Proxy)
}
