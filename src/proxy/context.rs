//! One request inside the core: its chain of exchanges, what they share, and its end, which happens exactly once.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dgx_gateway_filter::exchange::{Exchange, ExchangeCx, FinishCx, RequestInfo, Traffic};
use dgx_gateway_filter::facts::ClientIp;
use dgx_gateway_filter::render::ErrorRenderer;
use dgx_gateway_filter::services::RequestObserver;
use dgx_gateway_filter::trace::{TraceContext, TraceId};
use dgx_gateway_filter::upstream::{Admission, UpstreamPlan};
use dgx_gateway_filter::{ErrorCode, Facts, FilterError, LAST_PIECE_WAIT, Outcome, Pending, Rope};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora::proxy::Session;

use super::attempt::Attempt;
use super::away::Away;
use super::body::Held;
use super::client_ip::client_ip;
use super::cors;
use super::final_head;
use super::followed::Followed;
use super::replay::ReplayHandle;
use super::spool::Spools;
use crate::route::Route;
use crate::telemetry::{CoreMetrics, InFlight};
use crate::world::World;

/// Name of a request that matched no route.
pub(super) const UNMATCHED: &str = "(unmatched)";

/// Response headers that carry the request id.
const REQUEST_ID_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("spass-request-id"), HeaderName::from_static("x-request-id")];

/// What an attempt has to wait for.
pub(super) type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the hooks of one request share.
pub(super) struct Shared {
    pub request: RequestInfo,
    pub facts: Facts,
    pub reply_headers: HeaderMap,
    pub plan: UpstreamPlan,
    pub renderer: Option<Arc<dyn ErrorRenderer>>,
    /// See [`ExchangeCx::ending`].
    pub ending: Option<usize>,
}

impl Shared {
    pub(super) fn cx<'a>(&'a mut self, head: &'a http::request::Parts) -> ExchangeCx<'a> {
        ExchangeCx {
            head,
            request: &self.request,
            facts: &mut self.facts,
            reply_headers: &mut self.reply_headers,
            plan: &mut self.plan,
            renderer: &mut self.renderer,
            ending: &mut self.ending,
        }
    }
}

/// The exchanges of a request. If it is dropped before [`Chain::finish`], they learn that too: that is all this
/// guard does.
pub(super) struct Chain {
    pub exchanges: Vec<Box<dyn Exchange>>,
    pub shared: Shared,
    observer: Option<Arc<dyn RequestObserver>>,
    /// Its trace; `None` where requests are not followed.
    pub followed: Option<Followed>,
    completed: bool,
    finished: bool,
}

impl Chain {
    /// Tells every exchange how the answer will end, before the last of it leaves; gives what that has to wait for.
    /// Only the first call counts.
    pub(super) fn complete(&mut self, outcome: &Outcome) -> Option<Pending> {
        if std::mem::replace(&mut self.completed, true) {
            return None;
        }
        let Shared { request, facts, .. } = &self.shared;
        let cx = FinishCx { request, facts, duration: request.started.elapsed(), traffic: None };
        let waits = self.exchanges.iter_mut().rev().filter_map(|exchange| exchange.complete(outcome, &cx));
        waits.reduce(|first, next| {
            Box::pin(async {
                tokio::join!(first, next);
            })
        })
    }

    /// Whether the exchanges know that nothing of the answer is missing, or how it was cut.
    pub(super) fn is_completed(&self) -> bool {
        self.completed
    }

    /// Tells every exchange how the request ended. Only the first call counts.
    pub(super) fn finish(&mut self, outcome: &Outcome, traffic: Option<Traffic>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let Shared { request, facts, .. } = &self.shared;
        let cx = FinishCx { request, facts, duration: request.started.elapsed(), traffic };
        for exchange in self.exchanges.iter_mut().rev() {
            exchange.finish(outcome, &cx);
        }
        if let Some(observer) = &self.observer {
            observer.ended(outcome, &cx);
        }
        if let Some(followed) = &mut self.followed {
            followed.end(outcome, &cx);
        }
    }
}

impl Chain {
    /// Shows a piece of the request body to every exchange.
    pub(super) fn request_chunk(&mut self, head: &http::request::Parts, piece: &Bytes) -> Result<(), FilterError> {
        let Self { exchanges, shared, .. } = self;
        let mut cx = shared.cx(head);
        exchanges.iter_mut().try_for_each(|exchange| exchange.request_chunk(piece, &mut cx))
    }

    /// Asks the exchanges from `from` on whether an attempt may begin; `from` then is the one that was asked last. What
    /// it gives has to be waited for before the next call.
    pub(super) fn before_attempt(
        &mut self,
        head: &http::request::Parts,
        index: usize,
        from: &mut usize,
    ) -> Result<Option<Wait>, FilterError> {
        let Self { exchanges, shared, .. } = self;
        while let Some(exchange) = exchanges.get_mut(*from) {
            match exchange.before_attempt(index, &mut shared.cx(head))? {
                Admission::Granted => *from += 1,
                Admission::Wait(wait) => return Ok(Some(wait)),
            }
        }
        Ok(None)
    }

    pub(super) fn request(&self) -> &RequestInfo {
        &self.shared.request
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    /// The id of the request, and its trace.
    pub(super) fn marks(&self) -> (&str, Option<&Followed>) {
        (&self.shared.request.id, self.followed.as_ref())
    }

    /// The trace that the request is part of: its own, or where requests are not followed, that of the client.
    pub(super) fn trace(&self, client: Option<&HeaderMap>) -> Option<TraceId> {
        match &self.followed {
            Some(followed) => Some(followed.trace()),
            None => client.and_then(TraceContext::of).map(|context| context.trace),
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.finish(&Outcome::Dropped, None);
    }
}

/// Where a request stands.
pub struct RequestCtx {
    pub(super) world: Arc<World>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) path: String,
    pub(super) chain: Chain,
    /// The request body, while it may still have to be sent.
    pub(super) body: Rope,
    pub(super) held: Held,
    pub(super) held_answer: Held,
    pub(super) spools: Arc<Spools>,
    /// Bytes of a body that streams through.
    pub(super) streamed: usize,
    pub(super) attempt: Attempt,
    /// Time that is not the gateway's own.
    pub(super) away: Away,
    pub(super) replay: Option<ReplayHandle>,
    /// The client asks to switch its connection to WebSocket, and the route allows it.
    pub(super) switching: bool,
    /// The error that the client gets, once it is decided.
    pub(super) failure: Option<FilterError>,
    /// The last piece of the answer has been written, whatever the client did then.
    pub(super) delivered: bool,
    /// Code of the error that was answered.
    pub(super) answered_code: Option<ErrorCode>,
    pub(super) in_flight: Option<InFlight>,
    /// Told if the request is dropped before its end was logged.
    unlogged: Option<Arc<CoreMetrics>>,
    pub(super) busy: Option<super::connections::Busy>,
    /// The origin whose page may read the answer, as it is told to its browser.
    pub(super) cors: Option<HeaderValue>,
}

impl RequestCtx {
    pub(super) fn new(world: Arc<World>, held: Held, held_answer: Held, spools: Arc<Spools>) -> Self {
        let request = unmatched(Arc::from(""), Method::GET, None);
        let shared = Shared {
            request,
            facts: Facts::default(),
            reply_headers: HeaderMap::with_capacity(12),
            plan: UpstreamPlan::default(),
            renderer: None,
            ending: None,
        };
        let observer = world.observer.clone();
        Self {
            world,
            route: None,
            path: String::new(),
            chain: Chain { exchanges: Vec::new(), shared, observer, followed: None, completed: false, finished: false },
            body: Rope::new(),
            held,
            held_answer,
            spools,
            streamed: 0,
            attempt: Attempt::default(),
            away: Away::default(),
            replay: None,
            switching: false,
            failure: None,
            delivered: false,
            answered_code: None,
            in_flight: None,
            unlogged: None,
            busy: None,
            cors: None,
        }
    }

    /// The head is here: takes over or makes the request id, states the [`ClientIp`] and starts the clock.
    pub(super) fn begin(&mut self, head: &http::request::Parts, peer: Option<SocketAddr>, metrics: &Arc<CoreMetrics>) {
        let (id, value) = request_id(&head.headers);
        let shared = &mut self.chain.shared;
        shared.request = unmatched(id, head.method.clone(), peer);
        for name in REQUEST_ID_HEADERS {
            shared.reply_headers.insert(name, value.clone());
        }
        if let Some(peer) = peer {
            let client = client_ip(peer.ip(), &head.headers, &self.world.server.trusted_proxies);
            shared.facts.insert(ClientIp(client));
        }
        if let Some(tracer) = &self.world.tracer {
            self.chain.followed = Some(Followed::begin(&**tracer, head, &mut shared.facts));
        }
        self.cors = cors::allowed(&self.world.server.allowed_origins, &head.headers);
        self.in_flight = Some(metrics.enter(head.uri.path()));
        self.unlogged = Some(Arc::clone(metrics));
    }

    /// The end of the request is in the log.
    pub(super) fn logged(&mut self) {
        self.unlogged = None;
    }

    /// Longest silence on the route.
    pub(super) fn longest_idle(&self) -> Duration {
        let of_route = self.route.as_ref().and_then(|route| route.fixed()?.idle);
        of_route.unwrap_or(self.world.server.total_timeout)
    }

    /// A piece of a body that is not held: counted, and shown to the filters.
    pub(super) fn passing(&mut self, head: &http::request::Parts, piece: &Bytes) -> Result<(), FilterError> {
        self.streamed += piece.len();
        let limit = self.chain.request().max_body_bytes;
        if self.streamed > limit {
            return Err(FilterError::too_large(limit));
        }
        self.chain.request_chunk(head, piece)
    }

    /// Whether nothing of an answer has left, so that another attempt, or a proper error, can still be it. A head that
    /// left early belongs to no attempt.
    pub(super) fn untouched(&self, session: &Session) -> bool {
        final_head(session).is_none() || self.replay.as_ref().is_some_and(ReplayHandle::head_left_early)
    }

    /// Before the last of an answer that is written here: tells the exchanges how it ends, and waits for them.
    pub(crate) async fn complete(&mut self, outcome: &Outcome) {
        if let Some(pending) = self.chain.complete(outcome) {
            wait_for(pending).await;
        }
    }

    /// The answer has begun, so the request will not be sent again: what was held for that is given back.
    pub(super) fn forget_body(&mut self) {
        if !self.body.is_empty() {
            self.body = Rope::new();
            if let Some(request) = &mut self.attempt.request {
                request.body = Rope::new();
            }
            self.held.give_back();
        }
    }

    /// Errors of this request are said in this dialect, if there is one, and its answers carry the header that it
    /// has for the request id.
    pub(super) fn speak(&mut self, dialect: Option<&Arc<dyn ErrorRenderer>>) {
        let Some(dialect) = dialect else { return };
        let shared = &mut self.chain.shared;
        if let Some(name) = dialect.request_id_header()
            && let Some(id) = REQUEST_ID_HEADERS.iter().find_map(|known| shared.reply_headers.get(known)).cloned()
        {
            shared.reply_headers.insert(name, id);
        }
        shared.renderer = Some(Arc::clone(dialect));
    }

    /// The dialect in which errors of this request are said.
    pub(crate) fn renderer(&self) -> Arc<dyn ErrorRenderer> {
        Arc::clone(self.chain.shared.renderer.as_ref().unwrap_or(&self.world.renderer))
    }
}

/// Waits for what the last piece of an answer has to wait for, within bounds.
pub(super) async fn wait_for(pending: Pending) {
    if tokio::time::timeout(LAST_PIECE_WAIT, pending).await.is_err() {
        tracing::debug!("the end of an answer did not wait any longer for its account");
    }
}

/// A request that is cut at the end of the process never comes to its own end: the exchanges settle, and the log learns
/// of it. That is all this guard does.
impl Drop for RequestCtx {
    fn drop(&mut self) {
        if let Some(metrics) = self.unlogged.take() {
            self.chain.finish(&Outcome::Dropped, None);
            metrics.cut(self.chain.request(), self.chain.facts(), self.chain.trace(None));
        }
    }
}

/// What is known before a route is.
fn unmatched(id: Arc<str>, method: Method, peer: Option<SocketAddr>) -> RequestInfo {
    RequestInfo {
        id,
        method,
        route: Arc::from(UNMATCHED),
        protected: false,
        peer,
        started: Instant::now(),
        max_body_bytes: 0,
    }
}

/// The client's id when it is 1 to 128 visible ASCII characters, else a new UUID v4.
pub(super) fn request_id(headers: &HeaderMap) -> (Arc<str>, HeaderValue) {
    let taken = REQUEST_ID_HEADERS.iter().find_map(|name| {
        let value = headers.get(name)?;
        let text = value.to_str().ok()?;
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| (Arc::from(text), value.clone()))
    });
    taken.unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().to_string();
        let value = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-"));
        (Arc::from(id), value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(pairs: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        request_id(&headers).0.to_string()
    }

    #[test]
    fn takes_over_a_valid_id_and_the_first_name_wins() {
        assert_eq!(id(&[("x-request-id", "b")]), "b");
        assert_eq!(id(&[("x-request-id", "b"), ("spass-request-id", "a")]), "a");
        assert_eq!(id(&[("x-request-id", &"x".repeat(128))]).len(), 128);
    }

    #[test]
    fn makes_an_id_when_the_given_one_is_not_valid() {
        for bad in ["", "with space", &"x".repeat(129)] {
            assert_eq!(id(&[("x-request-id", bad)]).len(), 36, "{bad:?}");
        }
    }
}
