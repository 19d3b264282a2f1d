//! Budgets that three gateways share through a store: together they admit what one would, whatever happens to the store
//! or to one of them.

use std::time::Duration;

use dgx_gateway_testkit::mock::{Answer as MockAnswer, Behaviour, MockUpstream, Script};
use dgx_gateway_testkit::redis::RedisServer;
use serde_json::{Value, json};

use crate::harness::{Gateway, Setup, model, until};

const GATEWAYS: usize = 3;
/// Requests at the same time, over all gateways.
const AT_ONCE: usize = 200;

fn setup(mock: &MockUpstream, store: &str, budgets: &Value) -> Setup {
    Setup::with_upstream(mock.addr())
        .model(model("n", &[("first", "upstream-name-of-n")]))
        .log("warn")
        .tokens(json!({"version": 1, "tokens": [], "tenants": [{"id": "default", "budgets": budgets}]}))
        .section(
            "limits",
            json!({"store": store, "expected_replicas": GATEWAYS,
                "on_store_failure": {"/v1/completions": "closed"}}),
        )
}

async fn until_shared(gateway: &Gateway, shared: bool) {
    until("the store is noticed", async || {
        let ready = gateway.client().await.get("/readyz").await;
        ready.json()["degraded_reasons"].to_string().contains("shared limits limited") != shared
    })
    .await;
}

async fn gateways(mock: &MockUpstream, store: &str, budgets: &Value) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..GATEWAYS {
        let gateway = setup(mock, store, budgets).start().await;
        until_shared(&gateway, true).await;
        gateways.push(gateway);
    }
    gateways
}

fn chat(model: &str, max_tokens: u64) -> String {
    json!({"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

/// How many of so many requests at the same time, over all gateways, are admitted; the others have to be refused by a
/// budget.
async fn admitted(gateways: &[Gateway], count: usize, body: &str) -> usize {
    let requests = (0..count).map(|number| gateways[number % gateways.len()].chat(body.to_owned()));
    let answers = futures_util::future::join_all(requests).await;
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.is_error(429, "model_quota_exhausted", "model");
    }
    answers.iter().filter(|answer| answer.status == 200).count()
}

fn day(limit: (&str, u64)) -> Value {
    json!([
        {"id": "day", "models": ["m"], "window": "day", limit.0: limit.1, "mode": "hard"},
        {"id": "month", "models": ["*"], "window": "month", "limit_tokens": 1_000_000, "mode": "hard"},
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_over_three_gateways_against_a_budget_for_ten_are_ten() {
    let server = RedisServer::start().await.unwrap();
    let slow = MockAnswer { before_head: Duration::from_millis(300), ..MockAnswer::default() };
    let mock = MockUpstream::start(Script::always(Behaviour::Answer(slow)).with_looks_apart()).await.unwrap();
    let gateways = gateways(&mock, &server.url(), &day(("limit_requests", 10))).await;
    assert_eq!(admitted(&gateways, AT_ONCE, &chat("m", 5)).await, 10);
    assert_eq!(mock.requests().len(), 10);
    assert_eq!(admitted(&gateways, GATEWAYS, &chat("n", 5)).await, GATEWAYS);
    let ratio = r#"dgx_gateway_budget_used_ratio{budget="day",tenant="default"}"#;
    until("each knows what all have used", async || {
        let mut all = true;
        for gateway in &gateways {
            all &= gateway.metrics().await.value(ratio) == 1.0;
        }
        all
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_outlives_the_store_and_a_gateway() {
    let mut server = RedisServer::start().await.unwrap();
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut gateways = gateways(&mock, &server.url(), &day(("limit_requests", 30))).await;
    assert_eq!(admitted(&gateways, 12, &chat("m", 5)).await, 12); // four each

    server.kill().await.unwrap();
    for gateway in &gateways {
        until_shared(gateway, false).await;
    }
    // each goes on with its share of ten, of which it has used four
    assert_eq!(admitted(&gateways, 21, &chat("m", 5)).await, 18);
    let prompt = json!({"model": "m", "prompt": "hi"}).to_string();
    let json = [("content-type", "application/json")];
    let mut client = gateways[0].client().await;
    let closed = client.request(&http::Method::POST, "/v1/completions", &json, prompt.as_bytes()).await;
    closed.is_error(503, "service_overloaded", "");

    // the store comes back empty, and one gateway was killed meanwhile
    gateways[0].killed_and_started_again().await;
    server.start_again().await.unwrap();
    for gateway in &gateways {
        until_shared(gateway, true).await;
    }
    until("all is stated again", async || {
        let mut behind = 0.0;
        for gateway in &gateways {
            let metrics = gateway.metrics().await;
            behind += metrics.value("dgx_gateway_budgets_unstated");
            behind += f64::from(metrics.value(r#"dgx_gateway_budget_used_ratio{budget="day",tenant="default"}"#) < 1.0);
        }
        behind == 0.0
    })
    .await;
    assert_eq!(admitted(&gateways, GATEWAYS, &chat("m", 5)).await, 0, "thirty were admitted in all");
}
