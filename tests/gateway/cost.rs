//! What a call cost, as the client is told it: in the head of an answer, and in a stream before its end.

mod speech;

use std::time::Duration;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, Setup, Stage, backend, chunk_of_stream, finish_of_stream, until};

const UPSTREAM: &str = "upstream-name-of-m";
const USAGE: &str = r#""usage":{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12"#;

/// One model `m` at a backend of a domain.
fn setup(addr: std::net::SocketAddr, domain: &str) -> Setup {
    let mut first = backend("first", addr);
    first["domain"] = domain.into();
    let route = json!([{"backend": "first", "model": UPSTREAM}]);
    Setup::new()
        .backend(first)
        .model(json!({"alias": "m", "route": route}))
        .variable("DGX_GATEWAY_STREAM_COST_EVENT", "true")
}

fn request(stream: bool, usage: bool) -> String {
    let mut body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
    if usage {
        body["stream_options"] = json!({"include_usage": true});
    }
    body.to_string()
}

/// A whole answer with this usage, and this header of LiteLLM.
fn answered(usage: &str, header: Option<&str>) -> Behaviour {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    if let Some(cost) = header {
        headers.insert("x-litellm-response-cost", cost.parse().unwrap());
    }
    let body = format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"{UPSTREAM}","choices":[{{"index":0,"message":{{"role":"assistant","content":"hi"}},"finish_reason":"stop"}}],{usage}}}"#
    );
    Behaviour::Status { status: StatusCode::OK, headers, body: body.into() }
}

fn told(answer: &Answer) -> [Option<&str>; 6] {
    ["available", "source", "eur", "usd", "exchange-rate", "exchange-rate-source"]
        .map(|part| answer.header(&format!("spass-cost-{part}")))
}

#[tokio::test]
async fn an_answer_tells_its_cost_in_its_head() {
    let rate = (Some("0.8546"), Some("ecb-2026-05-15"));
    for (domain, usage, header, available, source, eur, usd) in [
        ("local", format!("{USAGE}}}"), None, "true", "zero", Some("0.00"), Some("0.00")),
        ("cloud", format!("{USAGE}}}"), None, "false", "unknown", None, None),
        ("cloud", format!("{USAGE},\"cost\":0.981052}}"), None, "true", "upstream", Some("0.89"), Some("1.04")),
        ("cloud", format!("{USAGE}}}"), Some("0.000001"), "true", "upstream", Some("0.01"), Some("0.01")),
        ("cloud", format!("{USAGE},\"cost\":12.5}}"), Some("0.1"), "true", "upstream", Some("11.22"), Some("13.13")),
        ("local", format!("{USAGE},\"cost\":0.25}}"), None, "true", "upstream", Some("0.23"), Some("0.27")),
        ("cloud", format!("{USAGE}}}"), Some("1.95e-05"), "true", "upstream", Some("0.01"), Some("0.01")),
        ("cloud", format!("{USAGE}}}"), Some("much"), "false", "unknown", None, None),
    ] {
        let mock = MockUpstream::start(Script::always(answered(&usage, header)).with_looks_apart()).await.unwrap();
        let gateway = setup(mock.addr(), domain).start().await;
        let answer = gateway.chat(request(false, false)).await;
        let (rate, rate_source) = if eur.is_some() { rate } else { (None, None) };
        let expected = [Some(available), Some(source), eur, usd, rate, rate_source];
        assert_eq!(told(answer.is_ok()), expected, "{domain} {usage} {header:?}");
    }
}

/// A price file beside the gateway.
fn priced(setup: Setup, entries: Value) -> (Setup, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json!({"version": 1, "entries": entries}).to_string()).unwrap();
    (setup.section("pricing_file", file.path().to_str().unwrap()), file)
}

#[tokio::test]
async fn a_price_makes_a_cost_of_usage_or_of_an_estimate() {
    let opus = json!({"backend": "first", "model": "upstream-*", "input": "5.00", "cached_input": "0.50", "cache_write": "6.25", "output": "25.00"});
    let euros = json!({"backend": "first", "model": UPSTREAM, "currency": "EUR", "input": "0.10", "output": "0.40"});
    let long =
        r#""usage":{"prompt_tokens":12000,"completion_tokens":950,"prompt_tokens_details":{"cached_tokens":8000}}"#;
    let large = r#""usage":{"prompt_tokens":30000000,"completion_tokens":2000000}"#;
    for (domain, entry, usage, markup, source, eur, usd) in [
        ("cloud", &opus, long, "", "computed", "0.05", "0.06"),
        ("cloud", &opus, long, "1", "computed", "0.09", "0.11"),
        ("local", &opus, long, "0", "computed", "0.05", "0.06"),
        ("local", &euros, large, "", "computed", "3.80", "4.45"),
        ("cloud", &opus, r#""usage":null"#, "", "estimated", "0.01", "0.01"),
        ("cloud", &opus, r#""usage":{"prompt_tokens":1,"cost":0.25}"#, "", "upstream", "0.23", "0.27"),
    ] {
        let mock = MockUpstream::start(Script::always(answered(usage, None)).with_looks_apart()).await.unwrap();
        let (setup, _file) = priced(setup(mock.addr(), domain), json!([entry]));
        let gateway = setup.variable("FX_MARKUP", markup).start().await;
        let answer = gateway.chat(request(false, false)).await;
        let rate = [Some("0.8546"), Some("ecb-2026-05-15")];
        let expected = [Some("true"), Some(source), Some(eur), Some(usd), rate[0], rate[1]];
        assert_eq!(told(answer.is_ok()), expected, "{domain} {usage} {markup}");
    }
}

/// The reference rates of a day.
fn rates(day: &str, usd: &str) -> Behaviour {
    let document = format!("<E><Cube><Cube time='{day}'><Cube currency='USD' rate='{usd}'/></Cube></Cube></E>");
    Behaviour::Status { status: StatusCode::OK, headers: HeaderMap::new(), body: document.into() }
}

#[tokio::test]
async fn the_rate_of_the_day_is_fetched_used_told_and_kept() {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let bank = MockUpstream::start(Script::always(rates(&today.to_string(), "1.25"))).await.unwrap();
    let priced = answered(&format!("{USAGE},\"cost\":1}}"), None);
    let mock = MockUpstream::start(Script::always(priced).with_looks_apart()).await.unwrap();
    let fx = json!({"url": format!("http://{}/daily.xml", bank.addr()), "markup": "0"});
    let mut gateway = setup(mock.addr(), "cloud").section("fx", fx).start().await;
    until("the rate is known", async || gateway.metrics().await.value("dgx_gateway_fx_rate_eur_per_usd") == 0.8).await;
    assert_eq!(gateway.metrics().await.value("dgx_gateway_fx_stale"), 0.0);
    let expected = format!("ecb-{today}");
    let expected = [Some("true"), Some("upstream"), Some("0.80"), Some("1.00"), Some("0.8000"), Some(&*expected)];
    assert_eq!(told(&gateway.chat(request(false, false)).await), expected);
    drop(bank);
    gateway.killed_and_started_again().await;
    until("it listens", async || tokio::net::TcpStream::connect(gateway.addr).await.is_ok()).await;
    assert_eq!(told(&gateway.chat(request(false, false)).await), expected, "kept, though the bank is gone");
}

#[tokio::test]
async fn a_bank_that_says_nothing_delays_no_start_and_an_old_rate_shows() {
    let silent = Behaviour::SseRaw(vec![(Duration::from_secs(3600), "x".into())]);
    let bank = MockUpstream::start(Script::always(silent)).await.unwrap();
    let priced = answered(&format!("{USAGE},\"cost\":1}}"), None);
    let mock = MockUpstream::start(Script::always(priced).with_looks_apart()).await.unwrap();
    let fx = json!({"url": format!("http://{}/daily.xml", bank.addr()), "max_age_days": 1});
    let gateway = setup(mock.addr(), "cloud").section("fx", fx).start().await;
    let answer = gateway.chat(request(false, false)).await;
    assert_eq!(told(&answer)[4..], [Some("0.8546"), Some("ecb-2026-05-15")]);
    until("the bank was asked", async || bank.requests().len() == 1).await;
    assert_eq!(gateway.metrics().await.value("dgx_gateway_fx_stale"), 1.0);
}

#[tokio::test]
async fn costs_are_counted_by_tenant_model_and_source() {
    let priced = answered(&format!("{USAGE},\"cost\":0.981052}}"), None);
    let mock = MockUpstream::start(Script::always(priced).with_looks_apart()).await.unwrap();
    let gateway = setup(mock.addr(), "cloud").start().await;
    for _ in 0..2 {
        gateway.chat(request(false, false)).await.is_ok();
    }
    let labels = r#"{model="m",source="upstream",tenant="default"}"#;
    let count = r#"dgx_gateway_request_cost_eur_count{model="m"}"#;
    until("both are counted", async || gateway.metrics().await.value(count) == 2.0).await;
    let metrics = gateway.metrics().await;
    for (name, amount) in [("cost_eur", 1.78), ("cost_usd", 2.08), ("upstream_cost_usd", 1.962_104)] {
        let found = metrics.value(&format!("dgx_gateway_{name}_total{labels}"));
        assert!((found - amount).abs() < 1e-9, "{name} {found}");
    }
    assert!((metrics.value(r#"dgx_gateway_request_cost_usd_sum{model="m"}"#) - 2.08).abs() < 1e-9);
    assert_eq!(metrics.value(r#"dgx_gateway_request_cost_eur_bucket{model="m",le="0.5"}"#), 0.0);
    assert_eq!(metrics.value(r#"dgx_gateway_request_cost_eur_bucket{model="m",le="1"}"#), 2.0);
}

#[tokio::test]
async fn images_of_a_chat_answer_are_priced_and_written_down() {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    let body = r#"{"id":"c","object":"chat.completion","created":1,"model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"","images":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":40,"completion_tokens":1290}}"#;
    let drawn = Behaviour::Status { status: StatusCode::OK, headers, body: body.into() };
    let mock = MockUpstream::start(Script::always(drawn).with_looks_apart()).await.unwrap();
    let entry = json!({"backend": "*", "model": "*", "input": "0.30", "output": "2.50", "image": "0.039"});
    let (setup, _file) = priced(setup(mock.addr(), "cloud"), json!([entry]));
    let gateway = setup.start().await;
    let answer = gateway.chat(request(false, false)).await;
    assert_eq!(told(answer.is_ok())[1..4], [Some("computed"), Some("0.08"), Some("0.09")]);
    // 0.081237 dollars of two images and their tokens
    let line = || {
        let log = std::fs::read_to_string(gateway.data("audit/audit.jsonl")).unwrap_or_default();
        log.lines().find(|line| line.contains("\"type\":\"cost\"")).map(str::to_owned)
    };
    until("the cost is written down", async || line().is_some()).await;
    let record: Value = serde_json::from_str(&line().unwrap()).unwrap();
    for (member, value) in [
        ("model", json!("m")),
        ("resolved_model", json!("m")),
        ("calls", json!(1)),
        ("prompt_tokens", json!(40)),
        ("completion_tokens", json!(1290)),
        ("source", json!("computed")),
        ("available", json!(true)),
        ("billed_eur", json!("0.08")),
        ("billed_usd", json!("0.09")),
        ("upstream_usd", json!("0.081237")),
        ("exchange_rate", json!("0.8546")),
        ("exchange_rate_source", json!("ecb-2026-05-15")),
        ("status", json!("ok")),
    ] {
        assert_eq!(record[member], value, "{member}: {record}");
    }
}

#[tokio::test]
async fn an_error_tells_no_cost() {
    let mock = MockUpstream::start(Script::always(Behaviour::status(StatusCode::BAD_REQUEST)).with_looks_apart()).await;
    let mock = mock.unwrap();
    let gateway = setup(mock.addr(), "local").start().await;
    let answer = gateway.chat(request(false, false)).await;
    assert_eq!((answer.status, told(&answer)), (400, [None; 6]));
}

/// What a client sees of a stream with these events.
async fn streamed(gateway: &Gateway, stage: &mut Stage, events: &[String], usage: bool) -> Vec<String> {
    let mut client = gateway.client().await;
    client.send_chat(request(true, usage)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    for event in events {
        caller.chunk(event).await;
    }
    caller.end_chunks().await;
    let (_, headers) = client.read_head().await;
    assert!(headers.keys().all(|name| !name.as_str().starts_with("spass-cost")), "{headers:?}");
    let mut text = String::new();
    while let Some(piece) = client.piece().await {
        text.push_str(&piece);
    }
    text.split_terminator("\n\n").map(str::to_owned).collect()
}

fn usage_chunk(cost: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{UPSTREAM}\",\"choices\":[],{USAGE}{cost}}}}}\n\n"
    )
}

fn kinds(events: &[String]) -> Vec<&'static str> {
    events
        .iter()
        .map(|event| match event.as_str() {
            event if event.starts_with("event: spass.cost\n") => "cost",
            event if event.ends_with("[DONE]") => "done",
            event if event.contains("\"choices\":[]") => "usage",
            event if event.contains("\"finish_reason\":\"stop\"") => "finish",
            _ => "content",
        })
        .collect()
}

fn cost_of(events: &[String]) -> Value {
    let event = events.iter().find(|event| event.starts_with("event: spass.cost\n")).unwrap();
    let chunk: Value = serde_json::from_str(event.split_once("data: ").unwrap().1).unwrap();
    assert_eq!((&chunk["id"], &chunk["created"], &chunk["model"]), (&json!("c"), &json!(1), &json!("m")));
    chunk["cost"].clone()
}

#[tokio::test]
async fn a_stream_tells_its_cost_before_usage_and_marker() {
    let mut stage = Stage::open().await;
    let gateway = setup(stage.addr, "cloud").start().await;
    let (content, finish) = (chunk_of_stream(UPSTREAM, "a"), finish_of_stream(UPSTREAM));
    let done = "data: [DONE]\n\n".to_owned();
    let priced = usage_chunk(",\"cost\":0.012345");
    for (events, asked, expected) in [
        (vec![&content, &finish, &priced, &done], true, vec!["content", "finish", "cost", "usage", "done"]),
        (vec![&content, &finish, &priced, &done], false, vec!["content", "finish", "cost", "done"]),
        (vec![&content, &finish, &priced], false, vec!["content", "finish", "cost"]),
    ] {
        let events: Vec<String> = events.into_iter().cloned().collect();
        let seen = streamed(&gateway, &mut stage, &events, asked).await;
        assert_eq!(kinds(&seen), expected, "{seen:?}");
        let amounts = json!({"eur": 0.02, "usd": 0.02, "source": "upstream", "available": true,
            "exchange_rate": 0.8546, "exchange_rate_source": "ecb-2026-05-15"});
        assert_eq!(cost_of(&seen), amounts);
    }
    let unpriced: Vec<String> = [&content, &finish, &done].into_iter().cloned().collect();
    let seen = streamed(&gateway, &mut stage, &unpriced, true).await;
    assert_eq!(kinds(&seen), ["content", "finish", "cost", "done"]);
    let unknown = json!({"eur": null, "usd": null, "source": "unknown", "available": false,
        "exchange_rate": null, "exchange_rate_source": null});
    assert_eq!(cost_of(&seen), unknown);
}

#[tokio::test]
async fn a_stream_that_fails_tells_no_cost_and_a_tenant_may_want_none() {
    let mut stage = Stage::open().await;
    let gateway = setup(stage.addr, "cloud").start().await;
    let broken = [chunk_of_stream(UPSTREAM, "a")];
    let seen = streamed(&gateway, &mut stage, &broken, false).await;
    assert!(!kinds(&seen).contains(&"cost"), "{seen:?}");
    let tokens = json!({"version": 1, "tenants": [{"id": "default", "defaults": {"stream_cost_event": false}}]});
    let quiet = setup(stage.addr, "cloud").tokens(tokens).start().await;
    let events = [chunk_of_stream(UPSTREAM, "a"), finish_of_stream(UPSTREAM), "data: [DONE]\n\n".to_owned()];
    assert_eq!(kinds(&streamed(&quiet, &mut stage, &events, false).await), ["content", "finish", "done"]);
}
