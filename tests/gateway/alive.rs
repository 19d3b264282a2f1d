//! Streams of which nothing comes: their head leaves early, comments follow, and other backends are still tried.

use std::time::{Duration, Instant};

use http::Request;
use serde_json::{Value, json};

use crate::harness::{
    BEARER, Caller, Client, Gateway, Setup, Stage, backend, check_error, chunk_of_stream, finish_of_stream, soon,
};

const CHAT: &str = "/v1/chat/completions";
const HEARTBEAT: &str = ": keep-alive\n\n";
const NAMES: [&str; 2] = ["name-at-the-first", "name-at-the-second-one"];

fn request() -> String {
    json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

/// Commits after a second, and says every second that it lives.
async fn started(first: &Stage, second: &Stage) -> Gateway {
    let setup = Setup::with_fallback(first.addr, second.addr).stream("commit_after_seconds", 1);
    setup.variable("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS", "1").start().await
}

/// A client that got its head although the model has said nothing.
async fn committed_early(gateway: &Gateway) -> Client {
    let mut client = gateway.client().await;
    client.send_chat(request()).await;
    let sent = Instant::now();
    let (status, headers) = client.read_head().await;
    assert!(sent.elapsed() >= Duration::from_millis(900), "not before its time: {:?}", sent.elapsed());
    assert_eq!((status, &headers["content-type"]), (200, &"text/event-stream; charset=utf-8".parse().unwrap()));
    for name in ["spass-resolved-model", "spass-resolved-backend", "spass-attempts"] {
        assert_eq!(headers.get(name), None, "nobody knows yet who will serve");
    }
    client
}

async fn rest(client: &mut Client) -> String {
    let mut text = String::new();
    while let Some(piece) = client.piece().await {
        text.push_str(&piece);
    }
    text
}

async fn serve(mut caller: Caller, name: &str) {
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(name, "served")).await;
    caller.chunk(finish_of_stream(name)).await;
    caller.chunk("data: [DONE]\n\n").await;
    caller.end_chunks().await;
}

/// What is left of a stream without its comments, and how many these were.
fn without_heartbeats(text: &str) -> (String, usize) {
    (text.replace(HEARTBEAT, ""), text.matches(HEARTBEAT).count())
}

fn whole_answer() -> String {
    [chunk_of_stream("m", "served"), finish_of_stream("m"), "data: [DONE]\n\n".to_owned()].concat()
}

/// The events of a stream of which the cost is no concern here.
fn without_cost(text: &str) -> String {
    let events = text.split_inclusive("\n\n").filter(|event| !event.starts_with("event: spass.cost"));
    events.collect()
}

#[tokio::test]
async fn a_model_that_thinks_for_long_gets_its_stream_committed_and_kept_alive() {
    let (mut first, second) = (Stage::open().await, Stage::open().await);
    let gateway = started(&first, &second).await;
    let mut client = committed_early(&gateway).await;
    for _ in 0..2 {
        assert_eq!(client.piece().await.unwrap(), HEARTBEAT);
    }
    serve(first.caller().await, NAMES[0]).await;
    let (events, _) = without_heartbeats(&rest(&mut client).await);
    assert_eq!(without_cost(&events), whole_answer());
    // the connection is good for the next request
    client.send_chat(request()).await;
    let caller = first.caller().await;
    serve(caller, NAMES[0]).await;
    let (_, headers) = client.read_head().await;
    assert_eq!(headers["spass-attempts"], "first;s=200", "a stream that is not early tells everything");
    rest(&mut client).await;
    gateway.idle().await;
}

#[tokio::test]
async fn other_backends_are_tried_behind_an_early_head() {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let gateway = started(&first, &second).await;
    for how in ["reset", "500", "role and reset", "clean end"] {
        let mut client = committed_early(&gateway).await;
        let mut caller = first.caller().await;
        match how {
            "500" => caller.write("HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}").await,
            "role and reset" => {
                caller.begin_stream().await;
                caller.chunk(chunk_of_stream(NAMES[0], "").replace("\"content\":\"\"", "\"role\":\"assistant\"")).await;
                assert_eq!(client.piece().await.unwrap(), HEARTBEAT, "the role is held back");
                caller.reset();
            }
            "clean end" => {
                caller.begin_stream().await;
                caller.end_chunks().await;
            }
            _ => caller.reset(),
        }
        serve(second.caller().await, NAMES[1]).await;
        let (events, _) = without_heartbeats(&rest(&mut client).await);
        assert_eq!(without_cost(&events), whole_answer(), "{how}");
    }
    gateway.idle().await;
}

#[tokio::test]
async fn when_no_backend_is_left_the_error_is_said_in_the_stream() {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let gateway = started(&first, &second).await;
    let mut client = committed_early(&gateway).await;
    first.caller().await.reset();
    second.caller().await.reset();
    let (events, _) = without_heartbeats(&rest(&mut client).await);
    let event: Value = serde_json::from_str(events.trim().strip_prefix("data: ").unwrap()).unwrap();
    check_error(&event["error"]);
    assert_eq!(event["error"]["code"], "upstream_error");
    assert!(event["request_id"].is_string() && !events.contains("[DONE]"));
    gateway.idle().await;
}

#[tokio::test]
async fn heartbeats_come_between_events_and_stop_with_the_stream() {
    let (mut first, second) = (Stage::open().await, Stage::open().await);
    let gateway = started(&first, &second).await;
    let mut client = gateway.client().await;
    client.send_chat(request()).await;
    let mut caller = first.caller().await;
    caller.begin_stream().await;
    for n in 0..2 {
        caller.chunk(chunk_of_stream(NAMES[0], &format!("{n}"))).await;
        if n == 0 {
            let (_, headers) = client.read_head().await;
            assert_eq!(headers["spass-resolved-backend"], "first", "not early");
        }
        assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", &format!("{n}")));
        let silent = Instant::now();
        assert_eq!(client.piece().await.unwrap(), HEARTBEAT);
        assert!(silent.elapsed() >= Duration::from_millis(900), "{:?}", silent.elapsed());
        assert_eq!(client.piece().await.unwrap(), HEARTBEAT);
    }
    caller.chunk(finish_of_stream(NAMES[0])).await;
    caller.chunk("data: [DONE]\n\n").await;
    caller.end_chunks().await;
    let (events, _) = without_heartbeats(&rest(&mut client).await);
    assert_eq!(without_cost(&events), finish_of_stream("m") + "data: [DONE]\n\n");
    assert!(tokio::time::timeout(Duration::from_millis(1300), client.is_closed()).await.is_err(), "nothing follows");
}

#[tokio::test]
async fn over_http2_a_stream_is_kept_alive_too() {
    let (mut first, second) = (Stage::open().await, Stage::open().await);
    let gateway = started(&first, &second).await;
    let mut client = gateway.h2().await;
    let head =
        Request::post(format!("http://{}{CHAT}", gateway.addr)).header("authorization", format!("Bearer {BEARER}"));
    let mut exchange = client.start(head.body(()).unwrap()).await.unwrap();
    exchange.send(request().into()).await.unwrap();
    exchange.end().unwrap();
    let caller = first.caller().await;
    let head = soon("the early head", exchange.read_head()).await.unwrap();
    assert_eq!(head.status(), 200);
    for _ in 0..2 {
        let piece = soon("a heartbeat", exchange.read_piece()).await.unwrap().unwrap();
        assert_eq!(piece, HEARTBEAT);
    }
    serve(caller, NAMES[0]).await;
    let mut text = String::new();
    while let Some(piece) = soon("the rest", exchange.read_piece()).await.unwrap() {
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert_eq!(without_cost(&without_heartbeats(&text).0), whole_answer());
}

#[tokio::test]
async fn a_client_that_leaves_an_early_committed_stream_cancels_it() {
    let (mut first, second) = (Stage::open().await, Stage::open().await);
    let gateway = started(&first, &second).await;
    let client = committed_early(&gateway).await;
    let caller = first.caller().await;
    let left = Instant::now();
    drop(client);
    assert!(caller.gone(left).await < Duration::from_millis(250) * 4);
    gateway.idle().await;
}

/// Reads nothing for a while, so that a heartbeat meets a full socket and is finished later, in one piece.
#[tokio::test]
async fn a_client_that_reads_slowly_gets_every_byte_in_order() {
    let (mut first, second) = (Stage::open().await, Stage::open().await);
    let gateway = started(&first, &second).await;
    let mut client = gateway.client().await;
    client.send_chat(request()).await;
    let mut caller = first.caller().await;
    caller.begin_stream().await;
    let long = "x".repeat(60_000);
    let mut expected = String::new();
    let writing = tokio::spawn(async move {
        for n in 0..200 {
            caller.chunk(chunk_of_stream(NAMES[0], &format!("{n} {long}"))).await;
            if n % 50 == 49 {
                tokio::time::sleep(Duration::from_millis(2200)).await;
            }
        }
        caller.chunk(finish_of_stream(NAMES[0])).await;
        caller.chunk("data: [DONE]\n\n").await;
        caller.end_chunks().await;
    });
    for n in 0..200 {
        expected.push_str(&chunk_of_stream("m", &format!("{n} {}", "x".repeat(60_000))));
    }
    expected.push_str(&finish_of_stream("m"));
    expected.push_str("data: [DONE]\n\n");
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.read_head().await;
    let (events, _) = without_heartbeats(&rest(&mut client).await);
    assert!(without_cost(&events) == expected, "{} bytes of {}", events.len(), expected.len());
    writing.await.unwrap();
}

#[tokio::test]
async fn without_a_time_a_stream_is_never_committed_early() {
    let stage = Stage::open().await;
    let setup = Setup::new().backend(backend("first", stage.addr)).model(crate::harness::model("m", &[("first", "x")]));
    let setup = setup.stream("commit_after_seconds", 0);
    let gateway = setup.variable("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS", "1").start().await;
    let mut client = gateway.client().await;
    client.send_chat(request()).await;
    assert!(tokio::time::timeout(Duration::from_millis(2500), client.raw.read_head()).await.is_err());
}
