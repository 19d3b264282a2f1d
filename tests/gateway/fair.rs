//! Backends that run only so many calls at the same time: whose turn it is, who waits, and for how long.

mod leaving;
mod limits;
mod places;
mod streams;

use std::collections::VecDeque;

use dgx_gateway_testkit::client::{H2Client, H2Exchange};
use http::Request;
use serde_json::{Value, json};

use crate::harness::{Caller, Gateway, Setup, Stage, backend, model, soon, until};

const SECRETS: [(&str, &str); 2] = [
    ("light", "c0ffee01c0ffee01c0ffee01c0ffee01c0ffee01c0ffee01c0ffee01c0ffee01"),
    ("heavy", "c0ffee03c0ffee03c0ffee03c0ffee03c0ffee03c0ffee03c0ffee03c0ffee03"),
];
/// Most streams of one connection.
const STREAMS: usize = 100;

/// Two tenants with these limits.
fn tokens(light: Value, heavy: Value) -> Value {
    let tokens = SECRETS.map(|(tenant, secret)| {
        json!({"id": tenant, "role": "user", "bound_tenant": tenant, "default_user_id": "u", "rate_limit_bypass": true,
            "secrets": [{"value": secret}]})
    });
    json!({"version": 1, "tenants": [{"id": "light", "limits": light}, {"id": "heavy", "limits": heavy}],
        "tokens": tokens})
}

/// A backend with so many slots.
fn limited(id: &str, stage: &Stage, slots: u32) -> Value {
    let mut backend = backend(id, stage.addr);
    backend["max_in_flight"] = slots.into();
    backend
}

/// One backend `first` with so many slots behind the model `m`.
fn one(stage: &Stage, slots: u32) -> Setup {
    Setup::new().backend(limited("first", stage, slots)).model(model("m", &[("first", "m-there")]))
}

/// Two of them.
fn two(stages: [&Stage; 2], slots: [u32; 2], route: Value) -> Setup {
    let [first, second] = stages;
    let setup = Setup::new().backend(limited("first", first, slots[0])).backend(limited("second", second, slots[1]));
    setup.model(json!({"alias": "m", "route": route}))
}

fn chat(content: &str, stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": content}]}).to_string()
}

/// Sends a chat of a tenant.
async fn send(client: &mut H2Client, gateway: &Gateway, tenant: &str) -> H2Exchange {
    let (_, secret) = SECRETS.iter().find(|(id, _)| *id == tenant).unwrap();
    let head = Request::post(format!("http://{}/v1/chat/completions", gateway.addr))
        .header("authorization", format!("Bearer {secret}"))
        .header("content-type", "application/json")
        .body(())
        .unwrap();
    let mut exchange = soon("a stream is opened", client.start(head)).await.unwrap();
    exchange.send(chat(tenant, false).into()).await.unwrap();
    exchange.end().unwrap();
    exchange
}

async fn depth(gateway: &Gateway, backend: &str) -> f64 {
    gateway.metrics().await.value(&format!("dgx_gateway_queue_depth{{backend=\"{backend}\"}}"))
}

/// Waits until so many calls wait.
async fn waits(gateway: &Gateway, backend: &str, calls: usize) {
    until(&format!("{calls} wait for {backend}"), async || depth(gateway, backend).await == calls as f64).await;
}

/// Waits until nothing runs and nothing waits.
async fn nothing_is_left(gateway: &Gateway) {
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    for gauge in ["dgx_gateway_backend_in_flight", "dgx_gateway_queue_depth"] {
        assert_eq!(metrics.sum(gauge), 0.0, "{gauge}");
    }
}

/// Answers a call and ends its connection; whose it was.
async fn serve(mut caller: Caller) -> &'static str {
    let body = answer("m-there");
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    caller.write(head + &body).await;
    tenant(&caller)
}

/// Whose call it is: its message says so.
fn tenant(caller: &Caller) -> &'static str {
    let body = String::from_utf8_lossy(&caller.body);
    SECRETS.map(|(tenant, _)| tenant).into_iter().find(|tenant| body.contains(&format!("\"{tenant}\""))).unwrap_or("")
}

fn answer(upstream: &str) -> String {
    json!({"id": "c", "object": "chat.completion", "created": 1, "model": upstream,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    .to_string()
}

#[tokio::test]
async fn two_tenants_share_a_full_backend_by_their_weights() {
    let mut stage = Stage::open().await;
    let gateway = one(&stage, 2).tokens(tokens(json!({}), json!({"weight": 3}))).start().await;
    let mut clients = [gateway.h2().await, gateway.h2().await];
    let mut exchanges = Vec::new();
    for _ in 0..80 {
        for (client, (tenant, _)) in clients.iter_mut().zip(SECRETS) {
            exchanges.push(send(client, &gateway, tenant).await);
        }
    }
    waits(&gateway, "first", 158).await;
    let mut served = Vec::new();
    for _ in 0..80 {
        served.push(serve(stage.caller().await).await);
    }
    // the two that came first are none that were chosen
    let heavy = served[2..].iter().filter(|tenant| **tenant == "heavy").count();
    assert!((53..=64).contains(&heavy), "{heavy} of 78: {served:?}");
    for rest in 0..80 {
        let tenant = serve(stage.caller().await).await;
        assert!(rest < 40 || tenant == "light", "the heavier tenant has nothing left to do");
    }
    for mut exchange in exchanges {
        assert_eq!(soon("an answer", exchange.read_response()).await.unwrap().status, 200);
    }
    nothing_is_left(&gateway).await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("dgx_gateway_queue_wait_seconds_count{backend=\"first\"}"), 160.0);
}

#[tokio::test]
async fn a_flood_of_one_tenant_delays_another_by_its_share_and_no_more() {
    let mut stage = Stage::open().await;
    let gateway = one(&stage, 2).tokens(tokens(json!({}), json!({}))).start().await;
    let mut exchanges = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = gateway.h2().await;
        for _ in 0..STREAMS {
            exchanges.push(send(&mut client, &gateway, "heavy").await);
        }
        clients.push(client);
    }
    waits(&gateway, "first", 498).await;
    let mut quiet = gateway.h2().await;
    let mut running = VecDeque::from([stage.caller().await, stage.caller().await]);
    for _ in 0..5 {
        let mut exchange = send(&mut quiet, &gateway, "light").await;
        waits(&gateway, "first", 499).await;
        // one slot becomes free at a time, so that the order of arrival is the order of the queue
        let mut granted = 0;
        while tenant(running.back().unwrap()) != "light" {
            serve(running.pop_front().unwrap()).await;
            running.push_back(stage.caller().await);
            granted += 1;
            // the flood goes on
            exchanges.push(send(&mut quiet, &gateway, "heavy").await);
        }
        assert!(granted <= 2, "{granted} were granted until it had its turn");
        while running.iter().any(|caller| tenant(caller) == "light") {
            let served = serve(running.pop_front().unwrap()).await;
            running.push_back(stage.caller().await);
            if served == "heavy" {
                exchanges.push(send(&mut quiet, &gateway, "heavy").await);
            }
        }
        assert_eq!(soon("its answer", exchange.read_response()).await.unwrap().status, 200);
        waits(&gateway, "first", 498).await;
    }
    drop((exchanges, clients, quiet));
    until("nobody waits", async || depth(&gateway, "first").await == 0.0).await;
}
