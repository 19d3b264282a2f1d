//! Streams whose request waits: the wait counts into the time after which their head leaves.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{answer, chat, nothing_is_left, one, serve, waits};
use crate::harness::{Client, Gateway, Stage, chunk_of_stream, finish_of_stream, until};

const HEARTBEAT: &str = ": keep-alive\n\n";

async fn patient(stage: &Stage, timeout_ms: u64) -> Gateway {
    one(stage, 1)
        .stream("commit_after_seconds", 1)
        .variable("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS", "1")
        .section("limits", json!({"queue_timeout_ms": timeout_ms}))
        .start()
        .await
}

/// A stream that waits, of which the head and two signs of life have come.
async fn kept_alive(gateway: &Gateway) -> Client {
    let mut client = gateway.client().await;
    let began = Instant::now();
    client.send_chat(chat("waits", true)).await;
    let (status, headers) = client.read_head().await;
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert_eq!((status, &headers["content-type"]), (200, &"text/event-stream; charset=utf-8".parse().unwrap()));
    for _ in 0..2 {
        assert_eq!(client.piece().await.unwrap(), HEARTBEAT);
    }
    client
}

async fn rest(mut client: Client) -> String {
    let mut text = String::new();
    while let Some(piece) = client.piece().await {
        text.push_str(&piece);
    }
    text.replace(HEARTBEAT, "")
}

#[tokio::test]
async fn a_stream_is_kept_alive_while_it_waits_and_served_when_its_turn_comes() {
    let mut stage = Stage::open().await;
    let gateway = patient(&stage, 60_000).await;
    let mut holds = gateway.client().await;
    holds.send_chat(chat("holds", false)).await;
    let held = stage.caller().await;
    let client = kept_alive(&gateway).await;
    serve(held).await;
    holds.answer().await.is_ok();
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("m-there", "served")).await;
    caller.chunk(finish_of_stream("m-there")).await;
    caller.chunk_and_end("data: [DONE]\n\n").await;
    let whole = [chunk_of_stream("m", "served"), finish_of_stream("m"), "data: [DONE]\n\n".to_owned()].concat();
    assert_eq!(rest(client).await, whole);
    nothing_is_left(&gateway).await;
}

#[tokio::test]
async fn a_stream_that_waits_too_long_behind_its_head_is_told_so_inside() {
    let mut stage = Stage::open().await;
    let gateway = patient(&stage, 4000).await;
    let mut holds = gateway.client().await;
    holds.send_chat(chat("holds", false)).await;
    let held = stage.caller().await;
    let text = rest(kept_alive(&gateway).await).await;
    assert!(text.starts_with("data: {\"error\":") && text.contains("service_overloaded"), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    serve(held).await;
    holds.answer().await.is_ok();
    nothing_is_left(&gateway).await;
}

#[tokio::test]
async fn a_stream_holds_its_slot_until_its_end() {
    let mut stage = Stage::open().await;
    let gateway = one(&stage, 1).start().await;
    let mut first = gateway.client().await;
    first.send_chat(chat("first", true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("m-there", "hi")).await;
    assert_eq!(first.read_head().await.0, 200);
    let mut second = gateway.client().await;
    second.send_chat(chat("second", false)).await;
    waits(&gateway, "first", 1).await;
    caller.chunk(finish_of_stream("m-there")).await;
    assert!(stage.is_quiet());
    caller.chunk_and_end("data: [DONE]\n\n").await;
    assert!(caller.read_request().await, "with the slot comes the connection");
    serve(caller).await;
    second.answer().await.is_ok();
    while first.piece().await.is_some() {}
    nothing_is_left(&gateway).await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_keeps_no_slot() {
    let mut stage = Stage::open().await;
    let gateway = one(&stage, 1).start().await;
    let mut lazy = gateway.client().await;
    lazy.send_chat(chat("lazy", false)).await;
    let mut caller = stage.caller().await;
    let mut second = gateway.client().await;
    second.send_chat(chat("second", false)).await;
    waits(&gateway, "first", 1).await;
    // more than the buffers of the system take
    let long = answer("m-there").replace("\"hi\"", &format!("\"{}\"", "x".repeat(32 << 20)));
    caller.answer(&long).await;
    serve(stage.caller().await).await;
    second.answer().await.is_ok();
    let one_runs = async || gateway.metrics().await.sum("dgx_gateway_http_in_flight") == 1.0;
    until("the first alone has not ended", one_runs).await;
    lazy.answer().await.is_ok();
    nothing_is_left(&gateway).await;
}
