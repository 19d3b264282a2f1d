//! Logs and the core's own metrics: one event per finished request, logged and counted together.

mod json;
mod lines;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::exchange::RequestInfo;
use dgx_gateway_filter::facts::{ClientIp, Principal, Subject};
use dgx_gateway_filter::trace::TraceId;
use dgx_gateway_filter::{Facts, Outcome};
use http::Method;
use pingora::Error;
use pingora::proxy::Session;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use tracing_subscriber::{EnvFilter, reload};

use self::json::JsonLines;
use self::lines::{Lines, MakeLine};
use crate::config::{LogFormat, LogSettings};
use crate::proxy::final_head;
use crate::route::Route;

/// Buckets of request durations in seconds: from a refused request to a long stream.
const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0];

/// Buckets of the gateway's own time in seconds: from a refused request to one that waited in a queue.
const OVERHEAD_BUCKETS: [f64; 14] =
    [0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 30.0];

/// The engine's own messages repeat ours without the request id; its warnings stay. The errors of its proxy are about
/// clients that leave inside a head, and anybody can make as many of them as he likes.
const QUIET: &str = "pingora_core=warn,pingora_proxy=off,pingora_pool=warn,hyper_util=warn,h2=warn";

/// The log of the process. What has gathered of it is written at the latest when this is dropped.
pub struct Log {
    lines: Arc<Lines>,
    /// Changes what is logged; `None` where logging was set up before.
    set: Option<SetFilter>,
}

type SetFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

impl Log {
    /// Logs by these settings from now on; their form stays that of the start.
    pub fn follow(&self, settings: &LogSettings) {
        if let Some(set) = &self.set {
            set(filter(settings));
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

fn filter(settings: &LogSettings) -> EnvFilter {
    EnvFilter::try_new(format!("{QUIET},{}", settings.level)).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Sets logging up for the process; the engine's own messages go the same way. Does nothing the second time.
#[must_use]
pub fn init(settings: &LogSettings) -> Log {
    let text = match settings.format {
        Some(format) => format == LogFormat::Text,
        None => std::io::stderr().is_terminal(),
    };
    let lines = Lines::start(Box::new(std::io::stderr()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter(settings)).with_writer(MakeLine(Arc::clone(&lines)));
    let (set, installed): (SetFilter, _) = if text {
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        (Box::new(move |filter| said(handle.reload(filter))), builder.try_init())
    } else {
        let builder = builder.event_format(JsonLines).with_filter_reloading();
        let handle = builder.reload_handle();
        (Box::new(move |filter| said(handle.reload(filter))), builder.try_init())
    };
    Log { lines, set: installed.is_ok().then_some(set) }
}

fn said(result: Result<(), reload::Error>) {
    if let Err(error) = result {
        tracing::error!(%error, "what is logged cannot be changed");
    }
}

/// Label of requests that were refused before their tenant was known, and of public pages.
const NO_TENANT: &str = "(none)";
/// Label of what is not known of a request that was cut.
const UNKNOWN: &str = "(none)";
/// First segments of paths that are surfaces of their own; everything else is `other`.
const SURFACES: [&str; 4] = ["v1", "c1", "a1", "other"];

/// Metrics of the core.
pub struct CoreMetrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    errors: IntCounterVec,
    aborted: IntCounterVec,
    overhead: HistogramVec,
    handshakes: IntCounterVec,
    in_flight: [IntGauge; SURFACES.len()],
}

/// Counts a running request until it is dropped.
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl CoreMetrics {
    /// Registers the core's metrics.
    ///
    /// # Errors
    /// A name is taken.
    pub fn register(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let counter = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let in_flight = IntGaugeVec::new(Opts::new("dgx_gateway_http_in_flight", "Running requests."), &["surface"])?;
        let metrics = Self {
            requests: counter(
                "dgx_gateway_http_requests_total",
                "Finished requests.",
                &["route", "method", "status", "tenant"],
            )?,
            durations: HistogramVec::new(
                HistogramOpts::new(
                    "dgx_gateway_http_request_duration_seconds",
                    "Time from the request head to the last byte.",
                )
                .buckets(DURATION_BUCKETS.to_vec()),
                &["route", "status_class"],
            )?,
            errors: counter("dgx_gateway_errors_total", "Error answers by code.", &["code"])?,
            aborted: counter("dgx_gateway_streams_aborted_total", "Answers that broke off.", &["by"])?,
            overhead: HistogramVec::new(
                HistogramOpts::new(
                    "dgx_gateway_overhead_seconds",
                    "Time that the gateway itself took: without upstreams and without reading the body.",
                )
                .buckets(OVERHEAD_BUCKETS.to_vec()),
                &["route"],
            )?,
            handshakes: counter(
                "dgx_gateway_tls_handshake_failures_total",
                "Connections of clients that ended before TLS was spoken.",
                &["reason"],
            )?,
            in_flight: SURFACES.map(|surface| in_flight.with_label_values(&[surface])),
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.durations.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.aborted.clone()))?;
        registry.register(Box::new(metrics.overhead.clone()))?;
        registry.register(Box::new(metrics.handshakes.clone()))?;
        registry.register(Box::new(in_flight))?;
        Ok(Arc::new(metrics))
    }

    /// A request begins.
    #[must_use]
    pub fn enter(&self, path: &str) -> InFlight {
        let first = path.split('/').nth(1).unwrap_or_default();
        let [known @ .., other] = &self.in_flight;
        let gauge =
            SURFACES.iter().zip(known).find(|(surface, _)| **surface == first).map_or(other, |(_, gauge)| gauge);
        gauge.inc();
        InFlight(gauge.clone())
    }

    /// There is no TLS with a client.
    pub(crate) fn handshake_failed(&self, reason: &str) {
        self.handshakes.with_label_values(&[reason]).inc();
    }

    /// Running requests.
    #[must_use]
    pub fn running(&self) -> i64 {
        self.in_flight.iter().map(IntGauge::get).sum()
    }

    /// How much of a request's time was the gateway's own; `away` was not.
    pub(crate) fn took(&self, route: Option<&Route>, request: &RequestInfo, away: Duration) {
        let own = request.started.elapsed().saturating_sub(away).as_secs_f64();
        let series = || self.overhead.with_label_values(&[&request.route]);
        match route {
            Some(route) => route.overhead.get_or_init(series).observe(own),
            None => series().observe(own),
        }
    }

    /// A request has ended.
    pub(crate) fn finished(
        &self,
        session: &Session,
        request: &RequestInfo,
        facts: &Facts,
        trace: Option<TraceId>,
        outcome: &Outcome,
        error: Option<&Error>,
    ) {
        let passed = Passed {
            // a client that left before its answer is counted under 499, as nginx does
            status: final_head(session).map_or(499, |head| head.status.as_u16()),
            bytes_in: session.body_bytes_read(),
            bytes_out: session.body_bytes_sent(),
        };
        let error = error.filter(|_| !matches!(outcome, Outcome::Answered { .. }));
        self.ended(request, facts, trace, outcome, Some(&passed), error.map(|error| error.etype().as_str()));
    }

    /// A request was cut at the end of the process; what became of its answer is not known.
    pub(crate) fn cut(&self, request: &RequestInfo, facts: &Facts, trace: Option<TraceId>) {
        self.ended(request, facts, trace, &Outcome::Dropped, None, None);
    }

    fn ended(
        &self,
        request: &RequestInfo,
        facts: &Facts,
        trace: Option<TraceId>,
        outcome: &Outcome,
        passed: Option<&Passed>,
        cause: Option<&str>,
    ) {
        let tenant = facts.get::<Principal>().map_or(NO_TENANT, |principal| &principal.tenant_id);
        let elapsed = request.started.elapsed();
        let mut digits = itoa::Buffer::new();
        let (status, class) = match passed {
            Some(passed) => (digits.format(passed.status), class(passed.status)),
            None => (UNKNOWN, UNKNOWN),
        };
        self.requests.with_label_values(&[&request.route, method(&request.method), status, tenant]).inc();
        self.durations.with_label_values(&[&request.route, class]).observe(elapsed.as_secs_f64());
        let code = match outcome {
            Outcome::Answered { code, .. } => *code,
            Outcome::Cut(code) => {
                self.aborted.with_label_values(&["upstream"]).inc();
                Some(*code)
            }
            Outcome::ClientLeft => {
                self.aborted.with_label_values(&["client"]).inc();
                None
            }
            Outcome::Dropped => {
                self.aborted.with_label_values(&["timeout"]).inc();
                None
            }
        };
        if let Some(code) = code {
            self.errors.with_label_values(&[code.as_str()]).inc();
        }
        tracing::info!(
            request.id = &*request.id,
            trace_id = trace.map(tracing::field::display),
            route.name = &*request.route,
            client.address = facts.get::<ClientIp>().map(|client| tracing::field::display(client.0)),
            http.method = method(&request.method),
            http.status = passed.map(|passed| passed.status),
            tenant.id = tenant,
            subject = facts.get::<Subject>().map(|subject| &*subject.0),
            error.code = code.map(|code| code.as_str()),
            outcome = outcome_word(outcome),
            duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            bytes_in = passed.map(|passed| passed.bytes_in),
            bytes_out = passed.map(|passed| passed.bytes_out),
            cause,
            "request"
        );
    }
}

/// What went over the connection of a client.
struct Passed {
    status: u16,
    bytes_in: usize,
    bytes_out: usize,
}

fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answered { .. } => "answered",
        Outcome::ClientLeft => "client_left",
        Outcome::Cut(_) => "cut",
        Outcome::Dropped => "dropped",
    }
}

fn class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// A method as a label: what a client invents is `OTHER`.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
