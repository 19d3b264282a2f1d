//! Traces over OTLP: what is told of a request and its attempts, to whom it is passed on, and what is not told.

mod collector;
mod context;
mod spans;

use dgx_gateway_testkit::otlp::{OtlpCollector, SeenSpan};
use serde_json::json;

use crate::harness::{PROMPT, Setup, until};

const CHAT: &str = "/v1/chat/completions";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: i32 = 3;
const SERVER: i32 = 2;

/// A setup that tells a collector.
fn traced(setup: Setup, collector: &OtlpCollector) -> Setup {
    setup.variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()).variable("OTEL_BSP_SCHEDULE_DELAY", "50")
}

fn chat(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}).to_string()
}

fn of_route(span: &SeenSpan, route: &str) -> bool {
    span.get("http.route").is_some_and(|found| found == route)
}

/// Waits for the span of a request of a route; gives all spans of its trace: the request's first, then its attempts in
/// their order.
async fn trace_of(collector: &OtlpCollector, route: &str) -> Vec<SeenSpan> {
    let mut found = Vec::new();
    until("the span of the request is exported", async || {
        let spans = collector.spans();
        let Some(request) = spans.iter().find(|span| of_route(span, route)) else { return false };
        found = spans.iter().filter(|span| span.trace() == request.trace()).cloned().collect();
        true
    })
    .await;
    found.sort_by_key(|span| (span.span.kind, span.span.start_time_unix_nano));
    found
}
