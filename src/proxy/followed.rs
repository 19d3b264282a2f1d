//! The trace of a request: where it stands in it, what goes on to upstreams, and who is told. Without a tracer there is
//! none, and the client's trace headers go on as they came.

use dgx_gateway_filter::facts::Traced;
use dgx_gateway_filter::trace::{RequestSpan, TRACEPARENT, TRACESTATE, TraceContext, TraceId, Tracer};
use dgx_gateway_filter::upstream::{AttemptRequest, AttemptResult, Upstream};
use dgx_gateway_filter::{Facts, FinishCx, Outcome};
use http::{HeaderMap, HeaderValue};

use super::attempt::Next;

/// A request in its trace.
pub(super) struct Followed {
    /// Its place, or that of its current attempt.
    context: TraceContext,
    joined: bool,
    span: Option<Box<dyn RequestSpan>>,
}

impl Followed {
    /// A request begins.
    pub(super) fn begin(tracer: &dyn Tracer, head: &http::request::Parts, facts: &mut Facts) -> Self {
        let begun = tracer.begin(head);
        if begun.span.is_some() {
            facts.insert(Traced);
        }
        Self { context: begun.context, joined: begun.joined, span: begun.span }
    }

    /// The trace.
    pub(super) fn trace(&self) -> TraceId {
        self.context.trace
    }

    /// An attempt begins, or begins once more on another connection.
    pub(super) fn attempt(&mut self, upstream: &Upstream, request: &AttemptRequest) {
        if let Some(span) = &mut self.span {
            self.context = span.attempt(upstream, request);
        }
    }

    /// What came of the attempt, and what follows from it.
    pub(super) fn judged(&mut self, result: &AttemptResult<'_>, next: &Next, facts: &Facts) {
        let Some(span) = &mut self.span else { return };
        match result {
            AttemptResult::Head(head) => span.answered(head.status),
            AttemptResult::Failed(failure) => span.failed(*failure),
            AttemptResult::Body { .. } => {}
        }
        if matches!(next, Next::Fail | Next::Retry) {
            span.over(facts);
        }
    }

    /// The upstream has said everything.
    pub(super) fn complete(&mut self) {
        if let Some(span) = &mut self.span {
            span.complete();
        }
    }

    /// The request ends.
    pub(super) fn end(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) {
        if let Some(span) = self.span.take() {
            span.end(outcome, cx);
        }
    }
}

/// Puts the trace headers on the head for an upstream.
pub(super) fn pass_on(followed: Option<&Followed>, client: &HeaderMap, headers: &mut HeaderMap) {
    let Some(followed) = followed else {
        for name in [TRACEPARENT, TRACESTATE] {
            if let Some(value) = client.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        return;
    };
    if let Some(value) = followed.context.header() {
        headers.insert(TRACEPARENT, value);
    }
    if followed.joined
        && let Some(state) = state(client)
    {
        headers.insert(TRACESTATE, state);
    }
}

/// The state that a client sends; one in several lines is one list.
fn state(client: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = client.get_all(&TRACESTATE).iter();
    let first = lines.next()?.clone();
    let mut rest = lines.peekable();
    if rest.peek().is_none() {
        return Some(first);
    }
    let all = [&first].into_iter().chain(rest).map(HeaderValue::as_bytes);
    HeaderValue::from_bytes(&all.collect::<Vec<_>>().join(&b',')).ok()
}
