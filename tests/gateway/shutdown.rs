//! The end of the process: what runs may finish, once.

use dgx_gateway_testkit::client::RawClient;
use http::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Caller, Client, Gateway, Setup, Stage, chunk_of_stream, finish_of_stream, soon, until};

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
async fn a_second_signal_cuts_what_runs() {
    let (mut gateway, _stage, mut client, _caller) = streaming(60).await;
    gateway.signal("TERM");
    draining(&gateway).await;
    assert!(gateway.runs());
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(1));
    // the connection ended without the end of the body
    assert!(soon("the cut", client.raw.read_piece()).await.is_err());
    was_cut_and_settled(&gateway);
}

/// The call has its row, and the request its line.
fn was_cut_and_settled(gateway: &Gateway) {
    let database = Connection::open(gateway.data("sqlite/gateway.sqlite")).unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
    let settled = database.query_row("SELECT state, status FROM usage_calls", [], row).unwrap();
    assert_eq!(settled, ("settled".to_owned(), Some("aborted".to_owned())));
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("\"outcome\":\"dropped\"")).unwrap_or_else(|| panic!("{log}"));
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["route.name"], &line["http.method"]), (&json!("/v1/chat/completions"), &json!("POST")), "{line}");
    assert_eq!((&line["tenant.id"], line.get("http.status")), (&json!("default"), None), "{line}");
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_cut_after_the_drain_time() {
    let (mut gateway, _stage, mut client, _caller) = streaming(1).await;
    gateway.signal("INT");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(soon("the cut", client.raw.read_piece()).await.is_err());
    was_cut_and_settled(&gateway);
}

#[tokio::test]
async fn an_idle_process_ends_at_once_though_clients_stay_connected() {
    let stage = Stage::open().await;
    let mut gateway = Setup::with_upstream(stage.addr).start().await;
    let mut client = gateway.client().await;
    client.get("/healthz").await.is_ok();
    gateway.signal("TERM");
    assert!(client.is_closed().await);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// Waits until the listener is closed.
async fn closed(gateway: &Gateway) {
    until("the listener is closed", async || gateway.log().contains("the listener is closed")).await;
}

#[tokio::test]
async fn new_connections_are_served_until_the_grace_time_is_over() {
    let stage = Stage::open().await;
    let setup = Setup::with_upstream(stage.addr).server("drain_grace_seconds", 2);
    let mut gateway = setup.start().await;
    gateway.signal("TERM");
    draining(&gateway).await;
    let mut served = 0;
    while !gateway.log().contains("the listener is closed") {
        let Ok(mut client) = RawClient::connect(gateway.addr).await else { break };
        client.request(&Method::GET, "/readyz", &[], b"").await.unwrap();
        // a connection that comes with the end of the grace time may find the listener closed
        let Ok(answer) = soon("readiness", client.read_response()).await else { break };
        assert_eq!((answer.status.as_u16(), answer.header("connection")), (503, Some("close")));
        served += 1;
    }
    assert!(served > 10, "{served}");
    closed(&gateway).await;
    assert!(RawClient::connect(gateway.addr).await.is_err());
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn idle_connections_end_and_busy_ones_end_after_their_answer() {
    let (mut gateway, _stage, mut client, mut caller) = streaming(60).await;
    let mut idle = gateway.client().await;
    idle.get("/healthz").await.is_ok();
    gateway.signal("TERM");
    closed(&gateway).await;
    assert!(idle.is_closed().await);
    assert!(RawClient::connect(gateway.addr).await.is_err());
    caller.chunk(finish_of_stream(UPSTREAM) + "data: [DONE]\n\n").await;
    caller.end_chunks().await;
    assert_eq!(client.piece().await.unwrap(), finish_of_stream("m") + "data: [DONE]\n\n");
    assert_eq!(client.piece().await, None);
    assert!(client.is_closed().await);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn http2_connections_are_told_to_go_away() {
    let (mut gateway, _stage, _client, mut caller) = streaming(60).await;
    let mut connection = TcpStream::connect(gateway.addr).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    connection.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings.as_slice()].concat()).await.unwrap();
    let mut frame = async || {
        let mut head = [0; 9];
        soon("a frame", connection.read_exact(&mut head)).await.unwrap();
        let mut rest = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        soon("the frame", connection.read_exact(&mut rest)).await.unwrap();
        head[3]
    };
    assert_eq!(frame().await, 4, "settings come first");
    gateway.signal("TERM");
    while frame().await != 7 {} // GOAWAY
    caller.chunk(finish_of_stream(UPSTREAM)).await;
    caller.end_chunks().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_health_check_tells_the_three_states() {
    let (mut gateway, _stage, _client, mut caller) = streaming(60).await;
    assert_eq!([gateway.run(&["health"]).await, gateway.run(&["health", "--ready"]).await], [Some(0), Some(0)]);
    gateway.signal("TERM");
    draining(&gateway).await;
    assert_eq!([gateway.run(&["health"]).await, gateway.run(&["health", "--ready"]).await], [Some(0), Some(1)]);
    caller.chunk(finish_of_stream(UPSTREAM)).await;
    caller.end_chunks().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!([gateway.run(&["health"]).await, gateway.run(&["health", "--ready"]).await], [Some(1), Some(1)]);
}

#[tokio::test]
async fn readiness_says_draining_during_the_grace_time_while_requests_are_served() {
    let mut stage = Stage::open().await;
    let mut gateway = Setup::with_upstream(stage.addr).server("drain_grace_seconds", 600).start().await;
    let ready = async |path: &str| {
        // a client of its own: the page is no error, though its status is 503
        let mut client = RawClient::connect(gateway.addr).await.unwrap();
        client.request(&Method::GET, path, &[], b"").await.unwrap();
        let answer = soon("the page", client.read_response()).await.unwrap();
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status.as_u16(), body["status"].clone(), body["ready"].clone(), body["degraded_reasons"].clone())
    };
    assert_eq!(ready("/readyz").await, (200, json!("ok"), json!(true), json!([])));
    gateway.signal("TERM");
    let draining = (503, json!("critical"), json!(false), json!(["draining"]));
    until("it is not ready", async || ready("/readyz").await.0 == 503).await;
    for path in ["/readyz", "/health/readiness"] {
        assert_eq!(ready(path).await, draining, "{path}");
    }
    // it lives, and a request of somebody who has not looked yet is answered
    assert_eq!(gateway.client().await.get("/healthz").await.status, 200);
    let mut client = gateway.client().await;
    client.send_chat(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string()).await;
    stage.caller().await.answer(r#"{"id":"c","object":"chat.completion","created":1,"model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#).await;
    assert!(client.answer().await.is_ok().says_close(), "and is told to go elsewhere");
    assert_eq!(ready("/readyz").await, draining);
    assert!(gateway.runs());
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(1));
}
