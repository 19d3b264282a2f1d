//! The way to the collector: its faults cost spans and never requests, and what must not be told is not told.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use dgx_gateway_testkit::otlp::{Manner, OtlpCollector, PartialSuccess};
use http::{Method, StatusCode};
use serde_json::json;

use super::{CHAT, PARENT, chat, of_route, trace_of, traced};
use crate::harness::{BACKEND_KEY, BEARER, Gateway, PROMPT, Setup, until};

async fn counted(gateway: &Gateway, result: &str) -> f64 {
    gateway.metrics().await.value(&format!("dgx_gateway_trace_spans_total{{result=\"{result}\"}}"))
}

async fn counts(gateway: &Gateway, result: &str, at_least: f64) {
    until(result, async || counted(gateway, result).await >= at_least).await;
}

/// Waits for the warning, of which there is at most one in a minute.
async fn warned_once(gateway: &Gateway) {
    let warnings = || gateway.log().lines().filter(|line| line.contains("traces cannot be exported")).count();
    until("it is in the log", async || warnings() > 0).await;
    assert_eq!(warnings(), 1);
}

#[tokio::test]
async fn a_collector_that_is_busy_gets_the_spans_later() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    for status in [429, 502, 503, 504] {
        let rest = vec![("retry-after", "0".to_owned())];
        collector.push(Manner::Status(StatusCode::from_u16(status).unwrap(), rest));
    }
    let gateway = traced(Setup::with_upstream(mock.addr()), &collector).start().await;
    gateway.chat(chat(false)).await.is_ok();
    assert_eq!(trace_of(&collector, CHAT).await.len(), 2);
    assert!(collector.calls().iter().filter(|call| !call.taken).count() >= 4);
    let spans = collector.spans();
    let ids: std::collections::HashSet<_> = spans.iter().map(|span| (span.trace(), span.id())).collect();
    assert_eq!(ids.len(), spans.len(), "each is told once");
    warned_once(&gateway).await;
}

#[tokio::test]
async fn spans_leave_again_after_a_time_without_any() {
    let collector = OtlpCollector::start().await.unwrap();
    let gateway = traced(Setup::new(), &collector).start().await;
    trace_of(&collector, "/healthz").await;
    // the exporter finds nothing, several times
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    gateway.client().await.get("/errors").await.is_ok();
    trace_of(&collector, "/errors").await;
}

#[tokio::test]
async fn a_collector_that_refuses_is_not_asked_again() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    collector.always(Some(Manner::Status(StatusCode::BAD_REQUEST, vec![])));
    let gateway = traced(Setup::with_upstream(mock.addr()), &collector).start().await;
    gateway.chat(chat(false)).await.is_ok();
    counts(&gateway, "refused", 2.0).await;
    assert_eq!(counted(&gateway, "exported").await, 0.0);
    warned_once(&gateway).await;
}

#[tokio::test]
async fn spans_that_are_refused_in_part_are_counted() {
    let collector = OtlpCollector::start().await.unwrap();
    collector.always(Some(Manner::Partly(PartialSuccess { rejected_spans: 1, error_message: "too long".into() })));
    let gateway = traced(Setup::new(), &collector).start().await;
    gateway.client().await.get("/errors").await.is_ok();
    trace_of(&collector, "/errors").await;
    counts(&gateway, "refused", 1.0).await;
    let told = collector.spans().len();
    until("all are counted", async || {
        counted(&gateway, "refused").await + counted(&gateway, "exported").await >= told as f64
    })
    .await;
}

#[tokio::test]
async fn requests_do_not_wait_for_a_collector_that_hangs_and_what_does_not_fit_is_dropped() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    collector.always(Some(Manner::Hang));
    let setup = traced(Setup::with_upstream(mock.addr()), &collector)
        .variable("OTEL_BSP_MAX_QUEUE_SIZE", "4")
        .variable("OTEL_EXPORTER_OTLP_TIMEOUT", "86400000")
        .variable("OTEL_BSP_EXPORT_TIMEOUT", "86400000");
    let gateway = setup.start().await;
    until("a batch is on its way", async || !collector.calls().is_empty()).await;
    for _ in 0..8 {
        gateway.chat(chat(false)).await.is_ok();
    }
    counts(&gateway, "queue_full", 8.0).await;
    assert_eq!(counted(&gateway, "exported").await, 0.0);
}

#[tokio::test]
async fn a_collector_that_comes_later_gets_what_waits() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    let setup = traced(Setup::with_upstream(mock.addr()), &collector);
    let addr = collector.addr();
    drop(collector);
    let gateway = setup.start().await;
    gateway.chat(chat(false)).await.is_ok();
    warned_once(&gateway).await;
    let mut collector = None;
    until("the port is free again", async || {
        collector = OtlpCollector::start_at(addr).await.ok();
        collector.is_some()
    })
    .await;
    assert_eq!(trace_of(&collector.unwrap(), CHAT).await.len(), 2);
    assert_eq!(counted(&gateway, "queue_full").await + counted(&gateway, "refused").await, 0.0);
}

#[tokio::test]
async fn what_waits_is_sent_when_the_process_ends() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    let setup = Setup::with_upstream(mock.addr())
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .variable("OTEL_BSP_SCHEDULE_DELAY", "86400000");
    let mut gateway = setup.start().await;
    gateway.chat(chat(false)).await.is_ok();
    gateway.idle().await;
    assert!(collector.calls().is_empty(), "it gathers");
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    assert!(collector.spans().iter().any(|span| of_route(span, CHAT)));
}

#[tokio::test]
async fn an_end_does_not_wait_for_a_collector_that_is_down() {
    let collector = OtlpCollector::start().await.unwrap();
    collector.always(Some(Manner::Hang));
    let mut gateway = traced(Setup::new(), &collector).start().await;
    gateway.client().await.get("/errors").await.is_ok();
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
}

#[tokio::test]
async fn json_and_gzip_say_the_same() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    let setup = traced(Setup::with_upstream(mock.addr()), &collector)
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
        .variable("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .variable("OTEL_SERVICE_NAME", "mine");
    let gateway = setup.start().await;
    let headers = [("traceparent", PARENT)];
    gateway.client().await.request(&Method::POST, CHAT, &headers, chat(false).as_bytes()).await.is_ok();
    let spans = trace_of(&collector, CHAT).await;
    assert_eq!((spans.len(), &*spans[0].parent()), (2, "00f067aa0ba902b7"));
    assert_eq!(spans[0].resource("service.name").as_deref(), Some("mine"));
    assert_eq!(spans[1].get("gen_ai.response.finish_reasons").as_deref(), Some("stop"));
    let call = collector.calls().swap_remove(0);
    assert_eq!((&*call.path, call.headers["content-encoding"].to_str().unwrap()), ("/v1/traces", "gzip"));
    // the form of the specification: numbers of 64 bits are text, ids hexadecimal digits
    let json: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
    let span = &json["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert!(span["startTimeUnixNano"].is_string() && span["traceId"].as_str().unwrap().len() == 32, "{span}");
}

#[tokio::test]
async fn a_variable_that_cannot_be_used_stops_the_start() {
    let collector = OtlpCollector::start().await.unwrap();
    let good = traced(Setup::new(), &collector).variable("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary");
    let gateway = good.start().await;
    let (code, shown) = gateway.said(&["config", "show"], &[]).await;
    assert!(code == Some(0) && !shown.contains("canary") && shown.contains("listen"), "{shown}");
    for (command, expected) in [(&["check"], 2), (&["serve"], 1)] {
        let (code, said) = gateway.said(command, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).await;
        assert_eq!(code, Some(expected), "{said}");
        assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf or http/json"), "{said}");
    }
}

#[tokio::test]
async fn no_content_and_no_secret_is_told() {
    const CANARY: &str = "canary-of-the-collector";
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    collector.push(Manner::Status(StatusCode::SERVICE_UNAVAILABLE, vec![("retry-after", "0".into())]));
    let setup = traced(Setup::with_upstream(mock.addr()), &collector)
        .log("trace")
        .variable("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{CANARY},x-key={CANARY}"));
    let gateway = setup.start().await;
    for stream in [false, true] {
        gateway.chat(chat(stream)).await.is_ok();
    }
    let refused = format!("{{\"error\":{{\"message\":\"{PROMPT} and {BACKEND_KEY}\"}}}}");
    mock.push(Behaviour::Status {
        status: StatusCode::BAD_REQUEST,
        headers: http::HeaderMap::new(),
        body: refused.into(),
    });
    gateway.chat(chat(false)).await;
    let bad = json!({"model": PROMPT, "messages": [{"role": "user", "content": PROMPT}]}).to_string();
    gateway.chat(bad).await;
    let path = format!("{CHAT}?key={PROMPT}");
    gateway.client().await.request(&Method::POST, &path, &[("x-own", PROMPT)], chat(false).as_bytes()).await;
    gateway.client().await.get(&format!("/{PROMPT}")).await;
    gateway.idle().await;
    gateway.client().await.get("/errors").await.is_ok();
    trace_of(&collector, "/errors").await; // the last one
    let calls = collector.calls();
    assert!(calls.iter().all(|call| call.headers["x-key"] == CANARY), "the collector knows it");
    assert!(collector.spans().iter().filter(|span| of_route(span, CHAT)).count() >= 5);
    // what the mock answers with is content, too
    let said = String::from_utf8_lossy(&gateway.chat(chat(false)).await.body).into_owned();
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    let answer = answer["choices"][0]["message"]["content"].as_str().unwrap();
    for secret in [PROMPT, BEARER, BACKEND_KEY, CANARY, answer, "upstream-name-of-m"] {
        for call in &calls {
            let found = call.body.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is told");
        }
    }
    let log = gateway.log();
    assert!(log.contains("\"level\":\"TRACE\"") && log.contains("traces cannot be exported"));
    assert!(!log.contains(CANARY), "{:?}", log.lines().find(|line| line.contains(CANARY)));
    assert!(!gateway.metrics().await.text().contains(CANARY));
}
