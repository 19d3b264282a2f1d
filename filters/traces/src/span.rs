//! A request and its attempts: from their beginning to what is exported of them.
//!
//! The span of a request is of the kind SERVER and takes from its head to its last byte. That of an attempt is of the kind
//! CLIENT; of the attempt that serves it takes until the upstream has said everything.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::facts::{Meter, ModelCall, ModelChoice, Principal, Usage};
use dgx_gateway_filter::trace::{RequestSpan, SpanId, TRACESTATE, TraceContext};
use dgx_gateway_filter::upstream::{Address, AttemptFailure, AttemptRequest, Upstream};
use dgx_gateway_filter::{Facts, FinishCx, Outcome};
use http::{Method, StatusCode, Version};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use crate::attributes::Attributes;
use crate::queue::Queue;
use crate::tracer::new_span;

/// Bits of the flags of a span that say whether its parent is in another process.
const KNOWS_REMOTE: u32 = 0x100;
const REMOTE: u32 = 0x200;
/// Longest state that is exported: what W3C Trace Context has everybody pass on.
const MOST_STATE: usize = 512;
/// Why something was not complete where no error says it.
const CLIENT_LEFT: &str = "client_left";
const CUT_AT_THE_END: &str = "shutdown";

/// A request that is followed.
pub(crate) struct Request {
    context: TraceContext,
    /// The place of the client in the trace.
    parent: Option<TraceContext>,
    /// What the client's tracing system says beside it.
    state: String,
    version: &'static str,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    began: Instant,
    began_at: SystemTime,
    attempt: Option<Attempt>,
    attempts: u32,
}

/// An attempt that is not over.
struct Attempt {
    span: SpanId,
    began: Instant,
    complete: Option<Instant>,
    label: Arc<str>,
    /// Host and port, where it is not inside the process.
    server: Option<(Arc<str>, u16)>,
    method: Method,
    status: Option<StatusCode>,
    failure: Option<AttemptFailure>,
    /// How many attempts came before.
    resend: u32,
}

impl Request {
    pub(crate) fn begin(
        context: TraceContext,
        parent: Option<TraceContext>,
        head: &http::request::Parts,
        queue: Arc<Queue>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (began, began_at) = (clock.now(), clock.wall());
        let version = if head.version == Version::HTTP_2 { "2" } else { "1.1" };
        let state = parent.and_then(|_| head.headers.get(TRACESTATE)?.to_str().ok());
        let state = state.filter(|state| state.len() <= MOST_STATE).unwrap_or_default().to_owned();
        Self { context, parent, state, version, queue, clock, began, began_at, attempt: None, attempts: 0 }
    }

    /// Nanoseconds since 1970. All times of a request are counted from its beginning, so that no step of the wall clock
    /// lets a span end before it began.
    fn nanos(&self, at: Instant) -> u64 {
        let since = self.began_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let at = since + at.saturating_duration_since(self.began);
        u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
    }

    fn span(&self, kind: SpanKind, id: SpanId, parent: Option<SpanId>, remote: bool) -> Span {
        let flags = u32::from(self.context.flags()) | KNOWS_REMOTE | if remote { REMOTE } else { 0 };
        Span {
            trace_id: self.context.trace.0.to_be_bytes().to_vec(),
            span_id: id.0.to_be_bytes().to_vec(),
            parent_span_id: parent.map(|parent| parent.0.to_be_bytes().to_vec()).unwrap_or_default(),
            flags,
            trace_state: self.state.clone(),
            kind: kind.into(),
            ..Span::default()
        }
    }

    /// Sends an attempt off. `cut` says why the answer that passed is not complete.
    fn close(&self, attempt: Attempt, facts: &Facts, cut: Option<&'static str>) {
        let mut span = self.span(SpanKind::Client, attempt.span, Some(self.context.span), false);
        span.start_time_unix_nano = self.nanos(attempt.began);
        span.end_time_unix_nano = self.nanos(attempt.complete.unwrap_or_else(|| self.clock.now()));
        let mut told = Attributes::with_room(14);
        told.text("http.request.method", attempt.method.as_str());
        if let Some((host, port)) = &attempt.server {
            told.text("server.address", &**host);
            told.number("server.port", *port);
        }
        if attempt.resend > 0 {
            told.number("http.request.resend_count", attempt.resend);
        }
        if let Some(status) = attempt.status {
            told.number("http.response.status_code", status.as_u16());
        }
        span.name = match facts.get::<ModelChoice>() {
            Some(choice) => {
                let answered = attempt.status.is_some_and(|status| status.is_success());
                tell_of_model(choice, &attempt.label, answered, facts, &mut told);
                format!("{} {}", choice.operation, choice.slug)
            }
            None => {
                told.text("dgx_gateway.upstream.label", &*attempt.label);
                attempt.method.to_string()
            }
        };
        let failed = attempt.failure.map(word).or(cut).map(str::to_owned);
        let refused = || attempt.status.filter(|status| is_error(*status)).map(|status| status.as_u16().to_string());
        if let Some(error) = failed.or_else(refused) {
            span.status = (error != CLIENT_LEFT).then(failure);
            told.text("error.type", error);
        }
        span.attributes = told.into_pairs();
        self.queue.push(span);
    }
}

impl RequestSpan for Request {
    fn attempt(&mut self, upstream: &Upstream, request: &AttemptRequest) -> TraceContext {
        let now = self.clock.now();
        let attempts = &mut self.attempts;
        let attempt = self.attempt.get_or_insert_with(|| {
            let server = match &upstream.address {
                Address::Embedded(_) => None,
                Address::Tcp { host, port, .. } => Some((Arc::clone(host), *port)),
            };
            let resend = *attempts;
            *attempts += 1;
            Attempt {
                span: new_span(),
                began: now,
                complete: None,
                label: Arc::clone(&upstream.label),
                server,
                method: request.method.clone(),
                status: None,
                failure: None,
                resend,
            }
        });
        self.context.at(attempt.span)
    }

    fn answered(&mut self, status: StatusCode) {
        if let Some(attempt) = &mut self.attempt {
            attempt.status = Some(status);
        }
    }

    fn failed(&mut self, failure: AttemptFailure) {
        if let Some(attempt) = &mut self.attempt {
            attempt.failure = Some(failure);
        }
    }

    fn over(&mut self, facts: &Facts) {
        if let Some(attempt) = self.attempt.take() {
            self.close(attempt, facts, None);
        }
    }

    fn complete(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.complete.get_or_insert_with(|| self.clock.now());
        }
    }

    fn end(mut self: Box<Self>, outcome: &Outcome, cx: &FinishCx<'_>) {
        let cut = match outcome {
            Outcome::Answered { .. } => None,
            Outcome::ClientLeft => Some(CLIENT_LEFT),
            Outcome::Cut(code) => Some(code.as_str()),
            Outcome::Dropped => Some(CUT_AT_THE_END),
        };
        if let Some(attempt) = self.attempt.take() {
            // what was refused after the upstream had said everything is not the attempt's fault
            let cut = cut.filter(|_| attempt.complete.is_none());
            self.close(attempt, cx.facts, cut);
        }
        let remote = self.parent.is_some();
        let parent = self.parent.map(|parent| parent.span);
        let mut span = self.span(SpanKind::Server, self.context.span, parent, remote);
        span.start_time_unix_nano = self.nanos(self.began);
        span.end_time_unix_nano = self.nanos(self.clock.now());
        span.name = format!("{} {}", method(&cx.request.method), cx.request.route);
        let status = match outcome {
            Outcome::Answered { status, .. } => Some(*status),
            _ => cx.traffic.and_then(|traffic| traffic.status),
        };
        let code = match outcome {
            Outcome::Answered { code, .. } => *code,
            Outcome::Cut(code) => Some(*code),
            Outcome::ClientLeft | Outcome::Dropped => None,
        };
        let mut told = Attributes::with_room(12);
        told.text("http.request.method", method(&cx.request.method));
        told.text("http.route", &*cx.request.route);
        told.text("network.protocol.version", self.version);
        told.text("dgx_gateway.request.id", &*cx.request.id);
        if let Some(status) = status {
            told.number("http.response.status_code", status.as_u16());
        }
        if let Some(traffic) = cx.traffic {
            told.number("http.request.body.size", traffic.bytes_in);
            told.number("http.response.body.size", traffic.bytes_out);
        }
        if let Some(principal) = cx.facts.get::<Principal>() {
            told.text("dgx_gateway.tenant.id", &*principal.tenant_id);
        }
        if let Some(choice) = cx.facts.get::<ModelChoice>() {
            told.text("gen_ai.operation.name", choice.operation);
            told.text("gen_ai.request.model", &*choice.slug);
        }
        if let Some(code) = code {
            told.text("dgx_gateway.error.code", code.as_str());
        }
        // what the client did wrong is no failure of a server
        let own = status.is_some_and(|status| status.is_server_error());
        let own = own.then(|| code.map_or_else(|| "500".to_owned(), |code| code.as_str().to_owned()));
        if let Some(error) = cut.map(str::to_owned).or(own) {
            span.status = (error != CLIENT_LEFT).then(failure);
            told.text("error.type", error);
        }
        span.attributes = told.into_pairs();
        self.queue.push(span);
    }
}

/// What the attempt has to do with a model.
fn tell_of_model(choice: &ModelChoice, label: &str, answered: bool, facts: &Facts, told: &mut Attributes) {
    told.text("gen_ai.operation.name", choice.operation);
    told.text("gen_ai.provider.name", label);
    told.text("gen_ai.request.model", &*choice.slug);
    if choice.stream {
        told.yes("dgx_gateway.request.stream");
    }
    if answered {
        let call = facts.get::<ModelCall>();
        told.text("gen_ai.response.model", call.map_or(&*choice.alias, |call| &*call.resolved_model));
    }
    let meter = facts.get::<Meter>();
    let usage = meter.and_then(|meter| meter.reported().usage).or_else(|| facts.get::<Usage>().copied());
    if let Some(usage) = usage {
        told.number("gen_ai.usage.input_tokens", usage.prompt_tokens);
        told.number("gen_ai.usage.output_tokens", usage.completion_tokens);
        if usage.cached_tokens > 0 {
            told.number("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens);
        }
        if usage.cache_write_tokens > 0 {
            told.number("gen_ai.usage.cache_creation.input_tokens", usage.cache_write_tokens);
        }
    }
    if let Some(meter) = meter {
        told.texts("gen_ai.response.finish_reasons", meter.finish_reasons().words());
    }
}

fn failure() -> Status {
    Status { message: String::new(), code: SpanStatus::Error.into() }
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// A method of the standard; `_OTHER` is the convention's word for what a client invents.
fn method(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS
        | Method::CONNECT
        | Method::TRACE => method.as_str(),
        _ => "_OTHER",
    }
}

fn word(failure: AttemptFailure) -> &'static str {
    match failure {
        AttemptFailure::Connect => "connect",
        AttemptFailure::Reset => "reset",
        AttemptFailure::Timeout | AttemptFailure::Total => "timeout",
        AttemptFailure::Tls => "tls",
    }
}
