//! Backends whose host name nobody knows.

use std::time::{Duration, Instant};

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::{Value, json};

use super::{POOLED, nothing_is_left};
use crate::harness::{Setup, backend, model};

fn unknown(id: &str) -> Value {
    json!({"id": id, "label": id, "kind": "openai", "domain": "local", "base_url": "http://no-such-host.invalid:8000/v1"})
}

fn request(model: &str) -> String {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_an_attempt_that_failed_and_the_next_one_serves() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::new()
        .backend(unknown("nowhere"))
        .backend(backend("first", mock.addr()))
        .model(model("both", &[("nowhere", "a"), ("first", "b")]))
        .model(model("lost", &[("nowhere", "a")]))
        .start()
        .await;
    let sockets = gateway.sockets();
    let answer = gateway.chat(request("both")).await;
    let attempts = answer.is_ok().header("spass-attempts").unwrap().to_owned();
    assert!(attempts == "nowhere;e=connect, first;s=200" || attempts == "first;s=200", "{attempts}");
    let answer = gateway.chat(request("lost")).await;
    answer.is_error(503, "upstream_unavailable", "");
    assert!(!answer.text().contains("invalid:"), "the name of the host is shown: {}", answer.text());
    nothing_is_left(&gateway, sockets + POOLED).await;
}

#[tokio::test]
async fn many_requests_for_an_unknown_name_hold_nobody_else_up() {
    const MANY: usize = 300;
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::new()
        .backend(unknown("nowhere"))
        .backend(backend("first", mock.addr()))
        .model(model("m", &[("first", "b")]))
        .model(model("lost", &[("nowhere", "a")]))
        .log("error")
        .start()
        .await;
    let mut waiting = Vec::new();
    for _ in 0..MANY {
        let mut client = gateway.client().await;
        client.send_chat(request("lost")).await;
        waiting.push(client);
    }
    let asked = Instant::now();
    gateway.chat(request("m")).await.is_ok();
    println!("beside {MANY} requests for an unknown name: {:?}", asked.elapsed());
    for mut client in waiting {
        client.answer().await.is_error(503, "upstream_unavailable", "");
    }
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    gateway.idle().await;
}
