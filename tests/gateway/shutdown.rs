//! The end of the process: what runs may finish, once.

use serde_json::json;

use crate::harness::{Caller, Client, Gateway, Setup, Stage, chunk_of_stream, finish_of_stream, until};

const UPSTREAM: &str = "upstream-name-of-m";

async fn streaming(drain_seconds: u64) -> (Gateway, Stage, Client, Caller) {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).server("drain_seconds", drain_seconds).start().await;
    let mut client = gateway.client().await;
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    client.send_chat(body.to_string()).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "first")).await;
    client.read_head().await;
    assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", "first"));
    (gateway, stage, client, caller)
}

/// Waits until the process has begun to drain.
async fn draining(gateway: &Gateway) {
    until("it drains", async || gateway.log().contains("draining")).await;
}

#[tokio::test]
async fn a_running_stream_finishes_before_the_process_ends_with_zero() {
    let (mut gateway, _stage, mut client, mut caller) = streaming(60).await;
    gateway.signal("TERM");
    draining(&gateway).await;
    for n in 0..5 {
        caller.chunk(chunk_of_stream(UPSTREAM, &n.to_string())).await;
        assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", &n.to_string()));
    }
    assert!(gateway.runs());
    caller.chunk(finish_of_stream(UPSTREAM) + "data: [DONE]\n\n").await;
    caller.end_chunks().await;
    assert_eq!(client.piece().await.unwrap(), finish_of_stream("m") + "data: [DONE]\n\n");
    assert_eq!(client.piece().await, None);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_draining_process_is_not_ready() {
    let (mut gateway, _stage, _client, mut caller) = streaming(60).await;
    gateway.client().await.get("/readyz").await.is_ok();
    gateway.signal("TERM");
    draining(&gateway).await;
    let mut client = gateway.client().await;
    client.head(&http::Method::GET, "/readyz", &[]).await;
    let response = crate::harness::soon("readiness", client.raw.read_response()).await.unwrap();
    assert_eq!(response.status, 503);
    assert!(response.text().contains("draining"), "{}", response.text());
    drop(client);
    caller.chunk(finish_of_stream(UPSTREAM)).await;
    caller.end_chunks().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_cuts_what_runs() {
    let (mut gateway, _stage, mut client, _caller) = streaming(60).await;
    gateway.signal("TERM");
    draining(&gateway).await;
    assert!(gateway.runs());
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(1));
    // the connection ended without the end of the body
    assert!(crate::harness::soon("the cut", client.raw.read_piece()).await.is_err());
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_cut_after_the_drain_time() {
    let (mut gateway, _stage, mut client, _caller) = streaming(1).await;
    gateway.signal("INT");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(crate::harness::soon("the cut", client.raw.read_piece()).await.is_err());
}

#[tokio::test]
async fn an_idle_process_ends_at_once_though_clients_stay_connected() {
    let stage = Stage::open().await;
    let mut gateway = Setup::with_upstream(stage.addr).start().await;
    let mut client = gateway.client().await;
    client.get("/healthz").await.is_ok();
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}
