//! Limits of requests, tokens, failed authentications and public pages, as a client meets them.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, BEARER, Client, Gateway, Setup, Stage, chunk_of_stream, finish_of_stream, soon, until};

const UPSTREAM: &str = "upstream-name-of-m";

/// The tenant of the caller, with so many tokens per minute.
fn tokens_file(per_minute: u64) -> Value {
    json!({"version": 1, "tokens": [], "tenants": [{"id": "default", "limits": {"tokens_per_minute": per_minute}}]})
}

/// A request of exactly `bytes` bytes.
fn chat(bytes: usize, max_tokens: u64, stream: bool) -> String {
    let with = |content: &str| {
        let messages = json!([{"role": "user", "content": content}]);
        json!({"model": "m", "max_tokens": max_tokens, "stream": stream, "messages": messages}).to_string()
    };
    let text = with(&"x".repeat(bytes - with("").len()));
    assert_eq!(text.len(), bytes);
    text
}

fn rate_headers(answer: &Answer, kind: &str) -> [Option<String>; 3] {
    ["limit", "remaining", "reset"].map(|part| answer.header(&format!("x-ratelimit-{part}-{kind}")).map(str::to_owned))
}

fn remaining(answer: &Answer, kind: &str) -> u64 {
    answer.header(&format!("x-ratelimit-remaining-{kind}")).unwrap().parse().unwrap()
}

fn answered(prompt: u64, completion: u64) -> String {
    json!({"id": "c", "object": "chat.completion", "created": 1, "model": UPSTREAM,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}})
    .to_string()
}

/// A gateway whose tenant has so many tokens per minute; the rest of a minute is hardly anything at this rate.
async fn started(stage: &Stage, per_minute: u64) -> Gateway {
    Setup::with_upstream(stage.addr).tokens(tokens_file(per_minute)).start().await
}

/// Tokens that are left, seen by a request that the upstream refuses. It reserves 101.
async fn left(gateway: &Gateway, stage: &mut Stage) -> u64 {
    gateway.idle().await;
    let mut client = gateway.client().await;
    client.send_chat(chat(200, 1, false)).await;
    let mut caller = stage.caller().await;
    caller.write("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}").await;
    remaining(&client.answer().await, "tokens") + 101
}

#[tokio::test]
async fn a_call_reserves_its_worst_case_and_settles_its_usage() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage, 6000).await;
    let mut client = gateway.client().await;
    client.send_chat(chat(400, 500, false)).await;
    stage.caller().await.answer(&answered(1500, 500)).await;
    let answer = client.answer().await;
    // 400 bytes are 200 tokens
    assert_eq!(rate_headers(answer.is_ok(), "tokens"), ["6000", "5300", "7s"].map(|text| Some(text.to_owned())));
    // 2000 were used; 100 flow back every second
    let left = left(&gateway, &mut stage).await;
    assert!((4000..5300).contains(&left), "{left}");
}

#[tokio::test]
async fn choices_and_limits_of_the_model_make_the_worst_case() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr)
        .replace_models(json!({"alias": "m", "max_output_tokens": 900,
            "route": [{"backend": "first", "model": UPSTREAM}]}))
        .tokens(tokens_file(1_000_000))
        .start()
        .await;
    let body = |more: &str| {
        let bare = format!(r#"{{"model":"m",{more}"messages":[{{"role":"user","content":""}}]}}"#);
        bare.replace("\"\"", &format!("\"{}\"", "x".repeat(200 - bare.len())))
    };
    for (more, output) in [
        ("", 900),
        (r#""n":3,"#, 2700),
        (r#""n":2,"max_tokens":100,"#, 200),
        (r#""max_tokens":5000,"#, 900),
        (r#""max_completion_tokens":70,"#, 70),
        (r#""n":null,"max_tokens":null,"#, 900),
    ] {
        let mut client = gateway.client().await;
        gateway.idle().await;
        client.send_chat(body(more)).await;
        let mut caller = stage.caller().await;
        caller.write("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(remaining(&client.answer().await, "tokens"), 1_000_000 - 100 - output, "{more}");
    }
}

#[tokio::test]
async fn a_call_that_does_not_fit_is_refused_before_the_upstream_hears_of_it() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage, 600).await;
    let mut first = gateway.client().await;
    first.send_chat(chat(200, 100_000, false)).await; // above the capacity: all of it
    let mut caller = stage.caller().await;
    let refused = gateway.chat(chat(200, 100, false)).await;
    refused.is_error(429, "rate_limit_exceeded", "");
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert_eq!(refused.header("x-ratelimit-limit-tokens"), Some("600"));
    assert!(remaining(&refused, "tokens") < 200);
    let [seconds, millis] =
        ["retry-after", "retry-after-ms"].map(|name| refused.header(name).unwrap().parse().unwrap());
    let _: (u64, u64) = (seconds, millis);
    assert!(seconds <= 20 && millis <= 20_000 && seconds == millis.div_ceil(1000), "{seconds} {millis}");
    assert_eq!(refused.header("x-should-retry"), None);
    assert!(stage.is_quiet());
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(r#"dgx_gateway_rate_limited_total{kind="tokens",tenant="default"}"#), 1.0);
    caller.answer(&answered(1, 1)).await;
    first.answer().await.is_ok();
    drop(caller); // or its connection would be used again, with nobody who reads there
    assert!(left(&gateway, &mut stage).await > 590);
}

#[tokio::test]
async fn failures_give_everything_back() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage, 1_000_000).await;
    let mut client = gateway.client().await;
    // refused behind the reservation by nobody, and before it by the body
    client.chat(r#"{"model":"nobody-knows-it","messages":[]}"#).await;
    client.send_chat(chat(2000, 500_000, false)).await;
    stage.caller().await.reset();
    assert_eq!(client.answer().await.status, 502);
    assert_eq!(left(&gateway, &mut stage).await, 1_000_000);
}

#[tokio::test]
async fn a_stream_settles_its_usage_and_one_that_the_client_leaves_an_estimate() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage, 6000).await;
    let mut client = gateway.client().await;
    client.send_chat(chat(400, 3000, true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "hi")).await;
    let (status, headers) = client.read_head().await;
    assert_eq!((status, &headers["x-ratelimit-remaining-tokens"]), (200, &"2800".parse().unwrap()));
    caller.chunk(finish_of_stream(UPSTREAM)).await;
    caller
        .chunk("data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":4000,\"completion_tokens\":1000,\"total_tokens\":5000}}\n\ndata: [DONE]\n\n")
        .await;
    caller.end_chunks().await;
    while client.piece().await.is_some() {}
    drop(caller);
    let after_usage = left(&gateway, &mut stage).await;
    assert!((1000..2800).contains(&after_usage), "{after_usage}");

    let other = Setup::with_upstream(stage.addr).tokens(tokens_file(1200)).start().await;
    let mut client = other.client().await;
    client.send_chat(chat(800, 600, true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "one")).await;
    client.read_head().await;
    drop(client);
    caller.gone(std::time::Instant::now()).await;
    // 400 for the input and 1 for what came; 20 flow back every second
    let estimated = left(&other, &mut stage).await;
    assert!((799..1190).contains(&estimated), "{estimated}");
}

#[tokio::test]
async fn the_request_limit_follows_the_table_of_the_contract() {
    let stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr)
        .variable("RATE_LIMIT_PER_SECOND", "0.000001")
        .variable("RATE_LIMIT_BURST", "30")
        .start()
        .await;
    let mut client = gateway.client().await;
    for left in (0..30).rev() {
        let answer = client.get("/v1/models").await;
        assert_eq!(remaining(answer.is_ok(), "requests"), left);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("30"));
    }
    let refused = client.get("/v1/models").await;
    refused.is_error(429, "rate_limit_exceeded", "");
    assert_eq!(remaining(&refused, "requests"), 0);
    // a wait of eleven days is none that a client should sit on
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    // the limit is that of the bearer, whatever the address and the route
    client.chat(chat(200, 1, false)).await.is_error(429, "rate_limit_exceeded", "");
    gateway.client().await.get("/v1/info").await.is_error(429, "rate_limit_exceeded", "");
    // without a bearer it is another matter
    let mut client = gateway.client().await;
    client.raw.send_head(&Method::GET, "/v1/models", &[]).await.unwrap();
    client.answer().await.is_error(401, "missing_authorization", "headers.authorization");
}

#[tokio::test]
async fn a_wait_of_a_minute_may_be_retried_and_a_longer_one_not() {
    for (per_second, hint) in [("0.0168", None), ("0.0125", Some("false"))] {
        let stage = Stage::open().await;
        let gateway = Setup::with_upstream(stage.addr)
            .variable("RATE_LIMIT_PER_SECOND", per_second)
            .variable("RATE_LIMIT_BURST", "1")
            .start()
            .await;
        let mut client = gateway.client().await;
        client.get("/v1/models").await.is_ok();
        let refused = client.get("/v1/models").await;
        refused.is_error(429, "rate_limit_exceeded", "");
        assert_eq!(refused.header("x-should-retry"), hint, "{:?}", refused.headers);
    }
}

#[tokio::test]
async fn every_answer_behind_the_limiter_tells_the_limit_and_no_other() {
    let stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let mut client = gateway.client().await;
    let json = ("content-type", "application/json");
    let behind = [
        (Method::GET, "/v1/models", 200, ""),
        (Method::GET, "/v1/models/nobody", 404, ""),
        (Method::POST, "/v1/chat/completions", 400, "{"),
        (Method::POST, "/v1/chat/completions", 400, r#"{"model":"nobody","messages":[{"role":"user","content":"x"}]}"#),
    ];
    for (method, path, status, body) in behind {
        let answer = client.request(&method, path, &[json], body.as_bytes()).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(rate_headers(&answer, "requests").iter().all(Option::is_some), "{path} {:?}", answer.headers);
        // this tenant has no limit of tokens
        assert_eq!(rate_headers(&answer, "tokens"), [None, None, None]);
        if status == 400 && body == "{" {
            client = gateway.client().await; // an upload that was refused may end its connection
        }
    }
    for path in ["/healthz", "/errors", "/nowhere"] {
        let answer = gateway.client().await.get(path).await;
        assert_eq!(rate_headers(&answer, "requests"), [None, None, None], "{path}");
    }
}

#[tokio::test]
async fn a_token_that_bypasses_the_limit_sees_no_headers() {
    let stage = Stage::open().await;
    let secret = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
    let gateway = Setup::with_upstream(stage.addr)
        .variable("RATE_LIMIT_PER_SECOND", "0.000001")
        .variable("RATE_LIMIT_BURST", "1")
        .tokens(json!({"version": 1, "tenants": [{"id": "acme"}], "tokens": [{"id": "inside", "role": "user",
            "bound_tenant": "acme", "rate_limit_bypass": true, "secrets": [{"value": secret}]}]}))
        .start()
        .await;
    let authorization = format!("Bearer {secret}");
    let mut client = gateway.client().await;
    for _ in 0..5 {
        client.raw.send_head(&Method::GET, "/v1/models", &[("authorization", &authorization)]).await.unwrap();
        let answer = client.answer().await;
        assert_eq!(rate_headers(answer.is_ok(), "requests"), [None, None, None]);
    }
}

#[tokio::test]
async fn public_pages_are_limited_by_address_and_health_is_not() {
    let stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).server("trusted_proxies", json!(["127.0.0.1/32"])).start().await;
    let mut client = gateway.client().await;
    let mut get = async |path: &str, from: &str| {
        client.raw.send_head(&Method::GET, path, &[("x-forwarded-for", from)]).await.unwrap();
        client.answer().await
    };
    let begun = std::time::Instant::now();
    let mut passed = 0;
    let refused = loop {
        // another address of the same network every time
        let answer = get("/errors", &format!("2001:db8:1:2::{passed:x}")).await;
        if answer.status == 429 {
            break answer;
        }
        passed += 1;
    };
    assert!(passed >= 50 && passed as f64 <= 51.0 + 10.0 * begun.elapsed().as_secs_f64(), "{passed}");
    refused.is_error(429, "rate_limit_exceeded", "");
    assert_eq!(refused.header("retry-after"), Some("1"));
    get("/errors", "2001:db8:1:3::1").await.is_ok();
    for _ in 0..60 {
        get("/healthz", "2001:db8:1:2::1").await.is_ok();
        assert_eq!(get("/readyz", "2001:db8:1:2::1").await.header("retry-after"), None);
    }
}

async fn with_secret(client: &mut Client, secret: &str, from: &str, more: &[(&str, &str)]) -> Answer {
    let authorization = format!("Bearer {secret}");
    let mut headers = vec![("authorization", authorization.as_str()), ("x-forwarded-for", from)];
    headers.extend_from_slice(more);
    soon("the request is sent", client.raw.send_head(&Method::GET, "/v1/models", &headers)).await.unwrap();
    client.answer().await
}

#[tokio::test]
async fn who_guesses_secrets_is_slowed_down_and_nobody_else() {
    let stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr)
        .server("trusted_proxies", json!(["127.0.0.1/32"]))
        .section("limits", json!({"auth_failures": {"per_minute": 1, "burst": 10}}))
        .start()
        .await;
    let mut client = gateway.client().await;
    // a valid secret with a foreign tenant is no guess
    for _ in 0..12 {
        let foreign = with_secret(&mut client, BEARER, "2001:db8::1", &[("spass-tenant-id", "globex")]).await;
        foreign.is_error(401, "invalid_authorization", "headers.authorization");
    }
    for guess in 0..10 {
        let from = format!("2001:db8::{guess:x}");
        let refused = with_secret(&mut client, &format!("guess-{guess}"), &from, &[]).await;
        refused.is_error(401, "invalid_authorization", "headers.authorization");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    let slowed = with_secret(&mut client, "guess-11", "2001:db8::ffff", &[]).await;
    slowed.is_error(429, "rate_limit_exceeded", "");
    assert_eq!(slowed.header("www-authenticate"), None);
    assert!((1..=60).contains(&slowed.header("retry-after").unwrap().parse::<u64>().unwrap()));
    with_secret(&mut client, BEARER, "2001:db8::ffff", &[]).await.is_ok();
    let elsewhere = with_secret(&mut client, "guess-12", "2001:db8:0:1::1", &[]).await;
    elsewhere.is_error(401, "invalid_authorization", "headers.authorization");
    until("the refusal is counted", async || {
        let metrics = gateway.metrics().await;
        metrics.value(r#"dgx_gateway_rate_limited_total{kind="auth",tenant="(none)"}"#) == 1.0
    })
    .await;
}
