//! Who is followed, and what context goes on.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use dgx_gateway_testkit::otlp::OtlpCollector;
use http::Method;
use serde_json::Value;

use super::{CHAT, PARENT, TRACE, chat, of_route, trace_of, traced};
use crate::harness::{Gateway, Setup, until};

/// The value of `trace_id` of the log line of the request with this id.
async fn logged(gateway: &Gateway, id: &str) -> Option<String> {
    let mut found = None;
    until("the request is logged", async || {
        let log = gateway.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        found = lines.find(|line| line["message"] == "request" && line["request.id"] == id);
        found.is_some()
    })
    .await;
    found.and_then(|line| Some(line["trace_id"].as_str()?.to_owned()))
}

async fn ask(gateway: &Gateway, id: &str, headers: &[(&str, &str)]) {
    let headers = [headers, &[("x-request-id", id)]].concat();
    gateway.client().await.request(&Method::POST, CHAT, &headers, chat(false).as_bytes()).await.is_ok();
}

#[tokio::test]
async fn a_new_trace_goes_to_the_upstream_and_into_the_log() {
    let collector = OtlpCollector::start().await.unwrap();
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = traced(Setup::with_upstream(mock.addr()), &collector).start().await;
    // what is no context is not joined, and what belongs to it goes no further
    ask(&gateway, "one", &[("traceparent", "00-nonsense"), ("tracestate", "a=b")]).await;
    let spans = trace_of(&collector, CHAT).await;
    let seen = &mock.requests()[0].headers;
    assert_eq!(seen["traceparent"], *format!("00-{}-{}-01", spans[1].trace(), spans[1].id()));
    assert!(!seen.contains_key("tracestate") && spans[0].parent().is_empty());
    assert_eq!(logged(&gateway, "one").await, Some(spans[0].trace()));
}

#[tokio::test]
async fn a_client_that_is_not_followed_is_not_followed_here() {
    let collector = OtlpCollector::start().await.unwrap();
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = traced(Setup::with_upstream(mock.addr()), &collector).start().await;
    let quiet = PARENT.replace("-01", "-00");
    ask(&gateway, "quiet", &[("traceparent", &quiet), ("tracestate", "a=b")]).await;
    let seen = &mock.requests()[0].headers;
    assert_eq!((seen["traceparent"].to_str().unwrap(), &seen["tracestate"]), (&*quiet, &"a=b".parse().unwrap()));
    assert_eq!(logged(&gateway, "quiet").await.as_deref(), Some(TRACE));
    gateway.idle().await;
    gateway.client().await.get("/errors").await.is_ok();
    trace_of(&collector, "/errors").await; // spans leave in their order
    assert!(!collector.spans().iter().any(|span| of_route(span, CHAT) || span.trace() == TRACE));
}

#[tokio::test]
async fn the_sampler_decides_and_tells_the_upstream() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    for (sampler, argument, alone, with_parent) in [
        ("always_off", "", "00", "00"),
        ("traceidratio", "0", "00", "00"),
        ("parentbased_traceidratio", "0", "00", "01"),
        ("always_on", "", "01", "01"),
    ] {
        let collector = OtlpCollector::start().await.unwrap();
        let setup = traced(Setup::with_upstream(mock.addr()), &collector).variable("OTEL_TRACES_SAMPLER", sampler);
        let gateway = setup.variable("OTEL_TRACES_SAMPLER_ARG", argument).start().await;
        let before = mock.requests().len();
        ask(&gateway, "alone", &[]).await;
        ask(&gateway, "joined", &[("traceparent", PARENT)]).await;
        let seen = mock.requests().split_off(before);
        let flags: Vec<String> = seen
            .iter()
            .map(|request| request.headers["traceparent"].to_str().unwrap().rsplit('-').next().unwrap().to_owned())
            .collect();
        assert_eq!(flags, [alone, with_parent], "{sampler}");
        let joined = seen[1].headers["traceparent"].to_str().unwrap();
        assert!(joined.contains(TRACE), "{sampler}: {joined}");
        let expected = [alone, with_parent].iter().filter(|flags| **flags == "01").count();
        if expected > 0 {
            until("followed requests are told of", async || {
                collector.spans().iter().filter(|span| of_route(span, CHAT)).count() == expected
            })
            .await;
        } else {
            assert!(collector.calls().is_empty(), "{sampler}");
        }
    }
}

#[tokio::test]
async fn without_a_collector_the_clients_context_goes_on_as_it_came() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    let off = [
        Setup::with_upstream(mock.addr()),
        traced(Setup::with_upstream(mock.addr()), &collector).variable("OTEL_SDK_DISABLED", "true"),
    ];
    for setup in off {
        let gateway = setup.start().await;
        let before = mock.requests().len();
        ask(&gateway, "with", &[("traceparent", PARENT), ("tracestate", "a=b")]).await;
        ask(&gateway, "without", &[]).await;
        let seen = mock.requests().split_off(before);
        assert_eq!(
            (&seen[0].headers["traceparent"], &seen[0].headers["tracestate"]),
            (&PARENT.parse().unwrap(), &"a=b".parse().unwrap())
        );
        assert!(!seen[1].headers.contains_key("traceparent"));
        assert_eq!(logged(&gateway, "with").await.as_deref(), Some(TRACE));
        assert_eq!(logged(&gateway, "without").await, None);
        assert!(!gateway.metrics().await.text().contains("dgx_gateway_trace_spans_total"));
    }
    assert!(collector.calls().is_empty());
}
