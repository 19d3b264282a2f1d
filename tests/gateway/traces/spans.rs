//! What spans tell: names, parents, attributes, and when they end.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use dgx_gateway_testkit::otlp::OtlpCollector;
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use super::{CHAT, CLIENT, PARENT, SERVER, TRACE, chat, of_route, trace_of, traced};
use crate::harness::{Setup, Stage, backend, chunk_of_stream, finish_of_stream, model};

fn failing() -> Behaviour {
    Behaviour::Status { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new(), body: "{}".into() }
}

#[tokio::test]
async fn a_request_is_a_span_and_each_of_its_attempts_another() {
    let collector = OtlpCollector::start().await.unwrap();
    let (first, second) = (
        MockUpstream::start(Script::default().with_looks_apart()).await.unwrap(),
        MockUpstream::start(Script::default().with_looks_apart()).await.unwrap(),
    );
    let gateway = traced(Setup::with_fallback(first.addr(), second.addr()), &collector).start().await;
    first.push(failing());
    let headers = [("traceparent", PARENT), ("tracestate", "a=b"), ("x-request-id", "mine")];
    gateway.client().await.request(&Method::POST, CHAT, &headers, chat(false).as_bytes()).await.is_ok();
    let spans = trace_of(&collector, CHAT).await;
    let [request, failed, served] = &spans[..] else { panic!("{spans:?}") };

    assert_eq!((request.span.kind, &*request.span.name), (SERVER, "POST /v1/chat/completions"));
    assert_eq!((&*request.trace(), &*request.parent(), &*request.span.trace_state), (TRACE, "00f067aa0ba902b7", "a=b"));
    assert!(!request.is_error());
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", CHAT),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("dgx_gateway.request.id", "mine"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "m"),
    ] {
        assert_eq!(request.get(key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(request.get("error.type"), None);

    for (span, label, port) in [(failed, "first", first.addr().port()), (served, "second", second.addr().port())] {
        assert_eq!((span.span.kind, &*span.span.name), (CLIENT, "chat m"));
        assert_eq!(span.parent(), request.id());
        for (key, value) in [
            ("http.request.method", "POST"),
            ("server.address", "127.0.0.1"),
            ("server.port", &port.to_string()),
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", label),
            ("gen_ai.request.model", "m"),
        ] {
            assert_eq!(span.get(key).as_deref(), Some(value), "{label} {key}");
        }
        let (at, until) = (span.span.start_time_unix_nano, span.span.end_time_unix_nano);
        assert!(request.span.start_time_unix_nano <= at && at <= until && until <= request.span.end_time_unix_nano);
    }
    assert!(failed.span.end_time_unix_nano <= served.span.start_time_unix_nano, "one after the other");
    assert!(failed.is_error() && !served.is_error());
    let told = |key: &str| (failed.get(key), served.get(key));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(told("http.response.status_code"), (some("502"), some("200")));
    assert_eq!(told("error.type"), (some("502"), None));
    assert_eq!(told("http.request.resend_count"), (None, some("1")));
    assert_eq!(told("gen_ai.response.model"), (None, some("m")));
    assert_eq!(told("gen_ai.response.finish_reasons"), (None, some("stop")));
    assert!(served.get("gen_ai.usage.input_tokens").is_some() && served.get("gen_ai.usage.output_tokens").is_some());

    for (mock, span) in [(&first, failed), (&second, served)] {
        let seen = &mock.requests()[0].headers;
        assert_eq!(
            seen["traceparent"],
            *format!("00-{TRACE}-{}-01", span.id()),
            "the attempt is the upstream's parent"
        );
        assert_eq!(seen["tracestate"], "a=b");
    }
    assert_eq!(request.resource("service.name").as_deref(), Some("dgx-gateway"));
}

#[tokio::test]
async fn an_attempt_without_an_answer_says_why() {
    let collector = OtlpCollector::start().await.unwrap();
    let (first, second) = (
        MockUpstream::start(Script::default().with_looks_apart()).await.unwrap(),
        MockUpstream::start(Script::default().with_looks_apart()).await.unwrap(),
    );
    let gateway = traced(Setup::with_fallback(first.addr(), second.addr()), &collector).start().await;
    first.push(Behaviour::ResetOnHeaders);
    gateway.chat(chat(false)).await.is_ok();
    let spans = trace_of(&collector, CHAT).await;
    assert_eq!(spans.len(), 3, "{spans:?}");
    assert_eq!(spans[0].parent(), "", "nobody asked for this trace");
    assert_eq!((spans[1].get("error.type").as_deref(), spans[1].is_error()), (Some("reset"), true));
    assert_eq!(spans[1].get("http.response.status_code"), None);
    assert_eq!(spans[2].get("gen_ai.provider.name").as_deref(), Some("second"));
}

#[tokio::test]
async fn what_was_refused_before_any_attempt_is_one_span() {
    let collector = OtlpCollector::start().await.unwrap();
    let gateway = traced(Setup::new(), &collector).start().await;
    assert_eq!(gateway.chat(chat(false)).await.status, 400); // there is no such model
    let spans = trace_of(&collector, CHAT).await;
    assert_eq!(spans.len(), 1, "{spans:?}");
    let code = spans[0].get("dgx_gateway.error.code").unwrap();
    assert!(
        !code.is_empty() && spans[0].get("error.type").is_none() && !spans[0].is_error(),
        "it is the client's fault"
    );
    gateway.client().await.get("/nothing/secret-path?secret=query").await;
    let spans = trace_of(&collector, "(unmatched)").await;
    assert_eq!(&*spans[0].span.name, "GET (unmatched)");
    assert!(!format!("{spans:?}").contains("secret"), "what a client invents is not told");
}

#[tokio::test]
async fn a_failure_of_all_attempts_is_a_failure_of_the_request() {
    let collector = OtlpCollector::start().await.unwrap();
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = traced(Setup::with_upstream(mock.addr()), &collector).start().await;
    mock.push(failing());
    assert_eq!(gateway.chat(chat(false)).await.status, 502);
    let spans = trace_of(&collector, CHAT).await;
    assert_eq!((spans.len(), spans[0].is_error(), spans[1].is_error()), (2, true, true));
    assert_eq!(spans[0].get("error.type").as_deref(), Some("upstream_error"));
}

#[tokio::test]
async fn spans_of_a_stream_end_when_it_ends() {
    let collector = OtlpCollector::start().await.unwrap();
    let mut stage = Stage::open().await;
    let gateway = traced(Setup::with_upstream(stage.addr), &collector).start().await;
    let mut client = gateway.client().await;
    client.send_chat(chat(true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("upstream-name-of-m", "one")).await;
    client.read_head().await;
    client.piece().await;
    // spans leave in their order, so that of a later request shows that none of the stream has left
    gateway.client().await.get("/errors").await.is_ok();
    trace_of(&collector, "/errors").await;
    assert!(collector.spans().iter().all(|span| !of_route(span, CHAT) && span.span.kind != CLIENT));
    let usage = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"upstream-name-of-m\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\n";
    let end = finish_of_stream("upstream-name-of-m").replace("\"stop\"", "\"tool_calls\"") + usage + "data: [DONE]\n\n";
    caller.chunk_and_end(end).await;
    while client.piece().await.is_some() {}
    let spans = trace_of(&collector, CHAT).await;
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(spans.iter().all(|span| !span.is_error() && span.get("error.type").is_none()));
    for (key, value) in [
        ("gen_ai.usage.input_tokens", "7"),
        ("gen_ai.usage.output_tokens", "3"),
        ("gen_ai.response.finish_reasons", "tool_calls"),
        ("dgx_gateway.request.stream", "true"),
    ] {
        assert_eq!(spans[1].get(key).as_deref(), Some(value), "{key}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_spans() {
    let collector = OtlpCollector::start().await.unwrap();
    let mut stage = Stage::open().await;
    let gateway = traced(Setup::with_upstream(stage.addr), &collector).start().await;
    let mut client = gateway.client().await;
    client.send_chat(chat(true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("upstream-name-of-m", "one")).await;
    client.read_head().await;
    client.piece().await;
    drop(client);
    let spans = trace_of(&collector, CHAT).await;
    assert_eq!(spans.len(), 2, "{spans:?}");
    for span in &spans {
        assert_eq!((span.get("error.type").as_deref(), span.is_error()), (Some("client_left"), false), "nobody failed");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_of_both() {
    let collector = OtlpCollector::start().await.unwrap();
    let mut stage = Stage::open().await;
    let gateway = traced(Setup::with_upstream(stage.addr), &collector).start().await;
    let mut client = gateway.client().await;
    client.send_chat(chat(true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("upstream-name-of-m", "one")).await;
    client.read_head().await;
    client.piece().await;
    caller.reset();
    while client.piece().await.is_some() {}
    let spans = trace_of(&collector, CHAT).await;
    assert_eq!(spans.len(), 2, "{spans:?}");
    for span in &spans {
        assert_eq!((span.get("error.type").as_deref(), span.is_error()), (Some("upstream_error"), true));
    }
    assert_eq!(spans[0].get("http.response.status_code").as_deref(), Some("200"), "its head had left");
}

#[tokio::test]
async fn every_kind_of_call_has_its_name() {
    let collector = OtlpCollector::start().await.unwrap();
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut first = backend("first", mock.addr());
    first["protocols"] = json!(["chat", "completions", "messages", "responses", "embeddings"]);
    let mut vectors = model("vectors", &[("first", "vectors-name")]);
    vectors["type"] = json!("embedding");
    let setup = Setup::new().backend(first).model(model("m", &[("first", "n")])).model(vectors);
    let gateway = traced(setup, &collector).start().await;
    let json_type = [("content-type", "application/json")];
    for (path, body, name, reasons) in [
        ("/v1/completions", json!({"model": "m", "prompt": "x"}), "text_completion m", true),
        (
            "/v1/messages",
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
            "chat m",
            true,
        ),
        ("/v1/responses", json!({"model": "m", "input": "x"}), "chat m", true),
        ("/v1/embeddings", json!({"model": "vectors", "input": "x"}), "embeddings vectors", false),
    ] {
        let body = body.to_string();
        gateway.client().await.request(&Method::POST, path, &json_type, body.as_bytes()).await.is_ok();
        let spans = trace_of(&collector, path).await;
        assert_eq!((spans.len(), &*spans[1].span.name), (2, name), "{path}");
        assert!(spans[1].get("gen_ai.usage.input_tokens").is_some(), "{path}");
        assert_eq!(spans[1].get("gen_ai.response.finish_reasons").is_some(), reasons, "{path}: {:?}", spans[1]);
    }
}

#[tokio::test]
async fn a_plain_route_has_spans_without_words_of_models() {
    let collector = OtlpCollector::start().await.unwrap();
    let mock = MockUpstream::start(Script::default()).await.unwrap();
    let route = json!({"path": "/plain/{*rest}", "methods": ["GET"], "upstream": format!("http://{}", mock.addr())});
    let nobody = json!({"path": "/nobody/{*rest}", "methods": ["GET"], "upstream": "http://127.0.0.1:1"});
    let gateway = traced(Setup::new().route(route).route(nobody), &collector).start().await;
    gateway.client().await.get("/nobody/x").await;
    let spans = trace_of(&collector, "/nobody/{*rest}").await;
    let told = |at: usize| (spans[at].get("error.type"), spans[at].is_error());
    assert_eq!(told(1), (Some("connect".to_owned()), true), "{spans:?}");
    assert_eq!(told(0), (Some("upstream_unavailable".to_owned()), true));
    gateway.client().await.get("/plain/v1/models").await;
    let spans = trace_of(&collector, "/plain/{*rest}").await;
    let [_, attempt] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(&*attempt.span.name, "GET");
    assert!(attempt.keys().iter().all(|key| !key.starts_with("gen_ai.")), "{attempt:?}");
    assert!(attempt.get("dgx_gateway.upstream.label").is_some());
}
