//! Limits of tenants, and the longest wait.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use super::{SECRETS, answer, chat, limited, nothing_is_left, one, send, serve, tokens, two, waits};
use crate::aborts::endpoint::{Endpoint, Visitor};
use crate::harness::{Setup, Stage, model, soon};

const TIMEOUT_MS: u64 = 300;

#[tokio::test]
async fn who_waits_too_long_is_refused_in_the_dialect_of_its_endpoint() {
    let mut stage = Stage::open().await;
    let mut first = limited("first", &stage, 1);
    first["protocols"] = json!(["chat", "completions", "responses", "messages", "embeddings"]);
    let gateway = Setup::new()
        .backend(first)
        .model(model("m", &[("first", "m-there")]))
        .section("limits", json!({"queue_timeout_ms": TIMEOUT_MS}))
        .start()
        .await;
    let mut holds = gateway.client().await;
    holds.send_chat(chat("x", false)).await;
    let caller = stage.caller().await;
    use Endpoint::{Chat, Completions, Messages, Responses};
    for endpoint in [Chat, Completions, Messages, Responses] {
        for stream in [false, true] {
            let began = Instant::now();
            let mut client = gateway.client().await;
            let json = [("content-type", "application/json")];
            let body = endpoint.body(stream);
            let refused = client.request(&Method::POST, endpoint.path(), &json, body.as_bytes()).await;
            assert!(began.elapsed() >= Duration::from_millis(TIMEOUT_MS), "{endpoint:?}");
            assert_eq!(refused.status, 503, "{endpoint:?}");
            let said = refused.json();
            assert_eq!(said["error"]["code"], "service_overloaded", "{said}");
            let kind = if endpoint == Messages { "overloaded_error" } else { "upstream_error" };
            assert_eq!(said["error"]["type"], kind, "{said}");
            assert_eq!(said["error"]["param"], json!(null));
            let names = ["retry-after", "retry-after-ms", "x-should-retry", "spass-attempts"];
            assert_eq!(names.map(|name| refused.header(name)), [Some("5"), Some("5000"), None, None]);
        }
    }
    assert!(stage.is_quiet(), "nothing of it reached the backend");
    serve(caller).await;
    holds.answer().await.is_ok();
    nothing_is_left(&gateway).await;
}

#[tokio::test]
async fn the_limit_of_a_tenant_counts_over_all_its_backends() {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let route = json!([{"backend": "first", "model": "m-there"}]);
    let gateway = two([&first, &second], [0, 0], route)
        .model(model("n", &[("second", "n-there")]))
        .tokens(tokens(json!({"max_in_flight": 2}), json!({})))
        .start()
        .await;
    let mut client = gateway.h2().await;
    let mut light = Vec::new();
    for _ in 0..2 {
        light.push(send(&mut client, &gateway, "light").await);
    }
    let callers = [first.caller().await, first.caller().await];
    let authorization = format!("Bearer {}", SECRETS[0].1);
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let mut other = gateway.client().await;
    let body = chat("x", false).replace("\"m\"", "\"n\"");
    other.raw.request(&Method::POST, "/v1/chat/completions", &headers, body.as_bytes()).await.unwrap();
    waits(&gateway, "second", 1).await;
    assert!(second.is_quiet());
    // another tenant does not wait
    let mut heavy = send(&mut client, &gateway, "heavy").await;
    serve(first.caller().await).await;
    assert_eq!(soon("the answer", heavy.read_response()).await.unwrap().status, 200);
    let [caller, still] = callers;
    serve(caller).await;
    second.caller().await.answer(&answer("n-there")).await;
    other.answer().await.is_ok();
    serve(still).await;
    for mut exchange in light {
        assert_eq!(soon("the answer", exchange.read_response()).await.unwrap().status, 200);
    }
    nothing_is_left(&gateway).await;
}

#[tokio::test]
async fn a_limit_of_nothing_refuses_at_once_and_says_so() {
    let mut stage = Stage::open().await;
    let gateway = one(&stage, 1).tokens(tokens(json!({"max_in_flight": 0}), json!({}))).start().await;
    let mut client = gateway.h2().await;
    let mut refused = send(&mut client, &gateway, "light").await;
    let refused = soon("the refusal", refused.read_response()).await.unwrap();
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (503, &"3600".parse().unwrap()));
    let mut other = send(&mut client, &gateway, "heavy").await;
    serve(stage.caller().await).await;
    assert_eq!(soon("the answer", other.read_response()).await.unwrap().status, 200);
}

#[tokio::test]
async fn the_time_of_the_whole_request_bounds_the_wait() {
    let mut stage = Stage::open().await;
    let gateway = one(&stage, 1).server("total_timeout_seconds", 1).start().await;
    let mut holds = Visitor::connect(gateway.addr, false).await;
    let body = Endpoint::Chat.body(true);
    holds.send(&Endpoint::Chat, &body, body.len()).await;
    let mut caller = stage.caller().await;
    caller.write(Endpoint::Chat.stream_head()).await;
    caller.chunk(Endpoint::Chat.first_event()).await; // it runs on for as long as streams may
    holds.read_head().await;
    let began = Instant::now();
    gateway.chat(chat("x", false)).await.is_error(504, "upstream_timeout", "");
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert!(stage.is_quiet());
}
