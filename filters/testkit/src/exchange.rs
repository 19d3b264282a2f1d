//! Runs the hooks of one filter without a server, and shows what it left behind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dgx_gateway_filter::exchange::{Exchange, ExchangeCx, FinishCx, Flow, Outcome, RequestInfo, ResponseHead};
use dgx_gateway_filter::render::ErrorRenderer;
use dgx_gateway_filter::upstream::{
    Address, Admission, AttemptRequest, AttemptResult, AttemptTimeouts, HttpVersion, Target, Upstream, UpstreamPlan,
    Verdict,
};
use dgx_gateway_filter::{Facts, FilterError, Rope};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

/// Time limits of the attempts and upstreams made here: long enough never to matter.
const AMPLE: Duration = Duration::from_secs(60);

/// One request and one filter's part in it. The caller decides which hooks run and in which order.
pub struct ExchangeDriver {
    exchange: Box<dyn Exchange>,
    head: http::request::Parts,
    request: RequestInfo,
    facts: Facts,
    reply_headers: HeaderMap,
    plan: UpstreamPlan,
    renderer: Option<Arc<dyn ErrorRenderer>>,
    ending: Option<usize>,
}

impl ExchangeDriver {
    /// A request with the id `request-1`, on the route that is its path, from no peer, without facts.
    #[must_use]
    pub fn new(exchange: Box<dyn Exchange>, head: Request<()>) -> Self {
        let (head, ()) = head.into_parts();
        let request = RequestInfo {
            id: Arc::from("request-1"),
            method: head.method.clone(),
            route: Arc::from(head.uri.path()),
            protected: false,
            peer: None,
            started: Instant::now(),
            max_body_bytes: 32 << 20,
        };
        Self {
            exchange,
            head,
            request,
            facts: Facts::default(),
            reply_headers: HeaderMap::new(),
            plan: UpstreamPlan::default(),
            renderer: None,
            ending: None,
        }
    }

    /// The same from parts.
    ///
    /// # Errors
    /// The path or a header is not valid.
    pub fn of(
        exchange: Box<dyn Exchange>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, http::Error> {
        let head = headers
            .iter()
            .fold(Request::builder().method(method).uri(path), |head, (name, value)| head.header(*name, *value));
        Ok(Self::new(exchange, head.body(())?))
    }

    /// Adds a header to the request.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.head.headers.append(name, value);
        self
    }

    /// Sets the address of the peer.
    #[must_use]
    pub fn with_peer(mut self, peer: SocketAddr) -> Self {
        self.request.peer = Some(peer);
        self
    }

    /// Sets the request id.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.request.id = Arc::from(id);
        self
    }

    /// Sets the route.
    #[must_use]
    pub fn with_route(mut self, route: &str) -> Self {
        self.request.route = Arc::from(route);
        self
    }

    /// Sets when the request arrived.
    #[must_use]
    pub fn with_start(mut self, started: Instant) -> Self {
        self.request.started = started;
        self
    }

    /// States a fact, as an earlier filter would.
    #[must_use]
    pub fn with_fact<T: std::any::Any + Send + Sync>(mut self, fact: T) -> Self {
        self.facts.insert(fact);
        self
    }

    /// Adds a target to the plan, as an earlier filter would.
    #[must_use]
    pub fn with_target(mut self, target: Arc<Upstream>) -> Self {
        let entry = self.plan.targets.len();
        self.plan.targets.push(Target { upstream: target, entry, choice: entry });
        self
    }

    /// Puts another filter's part in place, for the same request: facts, headers and plan stay.
    #[must_use]
    pub fn followed_by(mut self, exchange: Box<dyn Exchange>) -> Self {
        self.exchange = exchange;
        self
    }

    fn parts(&mut self) -> (&mut dyn Exchange, ExchangeCx<'_>) {
        let cx = ExchangeCx {
            head: &self.head,
            request: &self.request,
            facts: &mut self.facts,
            reply_headers: &mut self.reply_headers,
            plan: &mut self.plan,
            renderer: &mut self.renderer,
            ending: &mut self.ending,
        };
        (self.exchange.as_mut(), cx)
    }

    /// Runs `request_head`.
    ///
    /// # Errors
    /// What the filter says.
    pub async fn head(&mut self) -> Result<Flow, FilterError> {
        let (exchange, mut cx) = self.parts();
        exchange.request_head(&mut cx).await
    }

    /// Runs `request_chunk`.
    ///
    /// # Errors
    /// What the filter says.
    pub fn chunk(&mut self, chunk: impl Into<Bytes>) -> Result<(), FilterError> {
        let chunk = chunk.into();
        let (exchange, mut cx) = self.parts();
        exchange.request_chunk(&chunk, &mut cx)
    }

    /// Asks `seen_enough`.
    #[must_use]
    pub fn seen_enough(&self) -> bool {
        self.exchange.seen_enough()
    }

    /// Runs `request_ready`.
    ///
    /// # Errors
    /// What the filter says.
    pub async fn ready(&mut self, body: &mut Rope) -> Result<Flow, FilterError> {
        let (exchange, mut cx) = self.parts();
        exchange.request_ready(body, &mut cx).await
    }

    /// Runs `before_attempt`, once.
    ///
    /// # Errors
    /// What the filter says.
    pub fn before_attempt(&mut self, index: usize) -> Result<Admission, FilterError> {
        let (exchange, mut cx) = self.parts();
        exchange.before_attempt(index, &mut cx)
    }

    /// Runs `attempt`.
    ///
    /// # Errors
    /// What the filter says.
    pub fn attempt(&mut self, attempt: &mut AttemptRequest) -> Result<(), FilterError> {
        let (exchange, mut cx) = self.parts();
        exchange.attempt(attempt, &mut cx)
    }

    /// Runs `judge`.
    pub fn judge(&mut self, result: &AttemptResult<'_>) -> Option<Verdict> {
        let (exchange, mut cx) = self.parts();
        exchange.judge(result, &mut cx)
    }

    /// Runs `response_head`.
    ///
    /// # Errors
    /// What the filter says.
    pub fn response_head(&mut self, head: &mut ResponseHead) -> Result<(), FilterError> {
        let (exchange, mut cx) = self.parts();
        exchange.response_head(head, &mut cx)
    }

    /// Runs `response_chunk`.
    ///
    /// # Errors
    /// What the filter says.
    pub fn response_chunk(&mut self, part: &mut Option<Bytes>, end: bool) -> Result<(), FilterError> {
        let (exchange, mut cx) = self.parts();
        exchange.response_chunk(part, end, &mut cx)
    }

    /// Runs `response_chunk` for every piece and for the end, and gathers what comes out.
    ///
    /// # Errors
    /// What the filter says first.
    pub fn response_body<T: Into<Bytes>>(
        &mut self,
        pieces: impl IntoIterator<Item = T>,
    ) -> Result<Vec<Bytes>, FilterError> {
        let mut out = Vec::new();
        for piece in pieces {
            let mut part = Some(piece.into());
            self.response_chunk(&mut part, false)?;
            out.extend(part.filter(|part| !part.is_empty()));
        }
        let mut part = None;
        self.response_chunk(&mut part, true)?;
        out.extend(part.filter(|part| !part.is_empty()));
        Ok(out)
    }

    /// How many bytes at the end of the last piece end the answer, if a filter said so since this was last asked.
    pub fn take_ending(&mut self) -> Option<usize> {
        self.ending.take()
    }

    /// Runs `complete`, and waits for what it gives back.
    pub async fn complete(&mut self, outcome: &Outcome) {
        let duration = self.request.started.elapsed();
        let cx = FinishCx { request: &self.request, facts: &self.facts, duration, traffic: None };
        if let Some(pending) = self.exchange.complete(outcome, &cx) {
            pending.await;
        }
    }

    /// Runs `finish`.
    pub fn finish(&mut self, outcome: &Outcome) {
        let duration = self.request.started.elapsed();
        let cx = FinishCx { request: &self.request, facts: &self.facts, duration, traffic: None };
        self.exchange.finish(outcome, &cx);
    }

    /// What is known of the request.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The same, to state more between two hooks.
    pub fn facts_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// Headers that would go on the response.
    #[must_use]
    pub fn reply_headers(&self) -> &HeaderMap {
        &self.reply_headers
    }

    /// Where the request would go.
    #[must_use]
    pub fn plan(&self) -> &UpstreamPlan {
        &self.plan
    }

    /// The same, to change it between two hooks.
    pub fn plan_mut(&mut self) -> &mut UpstreamPlan {
        &mut self.plan
    }

    /// The dialect of errors, if a filter chose one.
    #[must_use]
    pub fn renderer(&self) -> Option<&Arc<dyn ErrorRenderer>> {
        self.renderer.as_ref()
    }
}

/// An attempt as the core would begin it: POST to `path`, without headers, with ample time.
#[must_use]
pub fn attempt_request(index: usize, path: &str, body: Rope) -> AttemptRequest {
    AttemptRequest {
        index,
        entry: index,
        method: Method::POST,
        path: path.to_owned(),
        headers: HeaderMap::new(),
        body,
        patches: Vec::new(),
        timeouts: AttemptTimeouts { first_byte: None, idle: None, total: AMPLE, total_once_begun: AMPLE },
        keep_alive: None,
        decode_answer: false,
    }
}

/// An upstream over TCP without TLS.
#[must_use]
pub fn upstream(label: &str, addr: SocketAddr, version: HttpVersion) -> Arc<Upstream> {
    Arc::new(Upstream {
        label: Arc::from(label),
        address: Address::Tcp { host: addr.ip().to_string().into(), port: addr.port(), tls: false },
        version,
        authorities: None,
        connect_timeout: AMPLE,
        slots: None,
    })
}

#[cfg(test)]
mod tests {
    use dgx_gateway_filter::facts::Usage;
    use http::StatusCode;

    use super::*;

    /// Leaves a trace in every hook.
    #[derive(Default)]
    struct Tracer {
        chunks: usize,
    }

    #[dgx_gateway_filter::async_trait]
    impl Exchange for Tracer {
        async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
            let value = cx.head.headers.get("x-in").cloned().ok_or_else(|| FilterError::internal("no header"))?;
            cx.reply_headers.insert("x-out", value);
            Ok(Flow::Continue)
        }

        fn request_chunk(&mut self, _: &Bytes, _: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
            self.chunks += 1;
            Ok(())
        }

        async fn request_ready(&mut self, body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
            body.push(Bytes::from_static(b"!"));
            cx.plan.targets.clear();
            cx.facts.insert(Usage { prompt_tokens: self.chunks as u64, ..Usage::default() });
            Ok(Flow::Continue)
        }

        fn attempt(&mut self, attempt: &mut AttemptRequest, _: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
            attempt.path.push_str("?seen");
            Ok(())
        }

        fn judge(&mut self, _: &AttemptResult<'_>, _: &mut ExchangeCx<'_>) -> Option<Verdict> {
            Some(Verdict::Next)
        }

        fn response_head(&mut self, head: &mut ResponseHead, _: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
            head.status = StatusCode::ACCEPTED;
            Ok(())
        }

        fn response_chunk(
            &mut self,
            part: &mut Option<Bytes>,
            end: bool,
            _: &mut ExchangeCx<'_>,
        ) -> Result<(), FilterError> {
            if end {
                *part = Some(Bytes::from_static(b"end"));
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn runs_every_hook_and_shows_what_it_left() {
        let dead = upstream("dead", SocketAddr::from(([127, 0, 0, 1], 9)), HttpVersion::Http1);
        let mut driver = ExchangeDriver::of(Box::<Tracer>::default(), Method::POST, "/v1/x?y=1", &[("x-in", "1")])
            .unwrap()
            .with_target(dead);
        assert!(matches!(driver.head().await, Ok(Flow::Continue)));
        assert_eq!(driver.reply_headers()["x-out"], "1");
        driver.chunk("one").unwrap();
        driver.chunk("two").unwrap();
        let mut body = Rope::from(Bytes::from_static(b"body"));
        assert!(matches!(driver.ready(&mut body).await, Ok(Flow::Continue)));
        assert_eq!(body.parts().concat(), b"body!");
        assert!(driver.plan().targets.is_empty());
        assert_eq!(driver.facts().get::<Usage>().unwrap().prompt_tokens, 2);
        let mut attempt = attempt_request(0, "/v1/x", body);
        driver.attempt(&mut attempt).unwrap();
        assert_eq!(attempt.path, "/v1/x?seen");
        let mut head = ResponseHead { status: StatusCode::OK, headers: HeaderMap::new(), length: None };
        assert!(matches!(driver.judge(&AttemptResult::Head(&head)), Some(Verdict::Next)));
        driver.response_head(&mut head).unwrap();
        assert_eq!(head.status, StatusCode::ACCEPTED);
        assert_eq!(driver.response_body(["a", "b"]).unwrap(), ["a", "b", "end"]);
        driver.finish(&Outcome::ClientLeft);
        assert!(driver.renderer().is_none());
    }
}
