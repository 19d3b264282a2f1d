//! Connections that are switched to WebSocket. Frames are bytes here; `tests/sdk` has real clients and servers.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{BEARER, Caller, Client, Gateway, Setup, Stage, fill, post_h2, soon, until};

const ASK: [(&str, &str); 4] = [
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\
                     sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: b\r\n\
                     server: x\r\nkeep-alive: timeout=1\r\n\r\n";
/// The contract says 250 ms; the rest is for a busy machine.
const LEFT: Duration = Duration::from_millis(1000);

fn route(path: &str, stage: &Stage, more: &Value) -> Value {
    let mut route = json!({"path": path, "methods": ["GET", "POST"], "upstream": format!("http://{}/up", stage.addr)});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    route
}

async fn started(stage: &Stage) -> Gateway {
    Setup::new()
        .server("max_body_bytes", 1024)
        .server("drain_seconds", 1)
        .route(route("/ws/{*rest}", stage, &json!({"upgrade": ["websocket"], "filters": ["identity"]})))
        .route(route("/plain", stage, &json!({})))
        .start()
        .await
}

async fn ask(client: &mut Client, more: &[(&str, &str)]) {
    client.head(&Method::GET, "/ws/a?b=c", &[&ASK, more].concat()).await;
}

async fn agreed(client: &mut Client) -> http::HeaderMap {
    let (status, headers) = soon("the switch", client.raw.read_head()).await.unwrap();
    assert_eq!(status, 101);
    headers
}

async fn switched() -> (Gateway, Stage, Client, Caller) {
    let mut stage = Stage::open_for_all().await;
    let gateway = started(&stage).await;
    let mut client = gateway.client().await;
    ask(&mut client, &[]).await;
    let mut caller = stage.caller().await;
    caller.write(AGREE).await;
    agreed(&mut client).await;
    (gateway, stage, client, caller)
}

async fn receive(caller: &mut Caller, size: usize) {
    while caller.body.len() < size {
        assert!(soon("bytes at the upstream", caller.read_some()).await, "it ended at {}", caller.body.len());
    }
}

async fn receive_at(client: &mut Client, size: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < size {
        got.extend(soon("bytes at the client", client.raw.read_piece()).await.unwrap().expect("it has not ended"));
    }
    got
}

#[tokio::test]
async fn only_the_handshake_crosses_then_bytes_do() {
    let mut stage = Stage::open_for_all().await;
    let gateway = started(&stage).await;
    let mut client = gateway.client().await;
    let more = [
        ("sec-websocket-protocol", "a, b"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("cookie", "no"),
        ("spass-user-id", "alice"),
        ("http2-settings", "x"),
    ];
    ask(&mut client, &more).await;
    let mut caller = stage.caller().await;
    assert!(caller.head.starts_with("GET /up/ws/a?b=c HTTP/1.1\r\n"), "{}", caller.head);
    let mut names: Vec<String> =
        caller.head.lines().filter_map(|line| Some(line.split_once(": ")?.0.to_ascii_lowercase())).collect();
    names.sort_unstable();
    let handshake = ["extensions", "key", "protocol", "version"].map(|name| format!("sec-websocket-{name}"));
    let mut expected =
        ["accept-encoding", "connection", "host", "upgrade", "user-agent", "x-request-id"].map(String::from).to_vec();
    expected.splice(3..3, handshake);
    assert_eq!(names, expected);
    // what comes together with the answer is not lost
    caller.write([AGREE.as_bytes(), b"early"].concat()).await;
    let headers = agreed(&mut client).await;
    for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "b")] {
        assert_eq!(headers[name], value);
    }
    assert!(headers.contains_key("x-request-id") && !headers.contains_key("keep-alive"));
    assert_eq!(receive_at(&mut client, 5).await, b"early");
    for round in 0..3 {
        client.raw.send(format!("to you {round}")).await.unwrap();
        receive(&mut caller, 8 * (round + 1)).await;
        caller.write(format!("to me {round}")).await;
        assert_eq!(receive_at(&mut client, 7).await, format!("to me {round}").as_bytes());
    }
}

/// More than all buffers between the two sides, and than the largest body.
const MUCH: usize = 48 * 1024 * 1024;

/// A switched connection whose client is a bare socket.
async fn switched_bare() -> (Gateway, Stage, TcpStream, Caller) {
    let mut stage = Stage::open_for_all().await;
    let gateway = started(&stage).await;
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    let lines: Vec<String> = ASK.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("GET /ws/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n{}\r\n", lines.concat());
    client.write_all(head.as_bytes()).await.unwrap();
    let mut caller = stage.caller().await;
    caller.write(AGREE).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the switch", client.read_u8()).await.unwrap());
    }
    (gateway, stage, client, caller)
}

#[tokio::test]
async fn much_passes_in_both_directions_though_the_upstream_writes_before_it_reads() {
    let (_gateway, _stage, client, mut caller) = switched_bare().await;
    let bytes = fill(MUCH);
    let (mut reader, mut writer) = client.into_split();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let expected = bytes.clone();
    let upstream = tokio::spawn(async move {
        caller.write(&expected).await;
        receive(&mut caller, MUCH).await;
        assert!(caller.body == expected);
        caller
    });
    let mut got = vec![0; MUCH];
    soon("all of it", reader.read_exact(&mut got)).await.unwrap();
    assert!(got == bytes);
    soon("all of it at the upstream", upstream).await.unwrap();
    sending.await.unwrap();
}

#[tokio::test]
async fn much_passes_though_the_client_writes_before_it_reads() {
    let (_gateway, _stage, mut client, caller) = switched_bare().await;
    let bytes = fill(MUCH);
    let (mut reader, mut writer) = caller.split();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let expected = bytes.clone();
    let receiving = tokio::spawn(async move {
        let mut got = vec![0; MUCH];
        reader.read_exact(&mut got).await.unwrap();
        assert!(got == expected);
        reader
    });
    soon("all of it is taken", client.write_all(&bytes)).await.unwrap();
    let mut got = vec![0; MUCH];
    soon("all of it", client.read_exact(&mut got)).await.unwrap();
    assert!(got == bytes);
    soon("the upstream", async { (sending.await.unwrap(), receiving.await.unwrap()) }).await;
}

#[tokio::test]
async fn either_side_that_leaves_takes_the_other_along() {
    let (gateway, stage, client, caller) = switched().await;
    let since = Instant::now();
    drop(client);
    assert!(caller.gone(since).await < LEFT);
    drop((gateway, stage));

    let (_gateway, _stage, client, caller) = switched().await;
    let since = Instant::now();
    client.raw.abort().unwrap();
    assert!(caller.gone(since).await < LEFT);

    for reset in [false, true] {
        let (_gateway, _stage, mut client, mut caller) = switched().await;
        caller.write("last words").await;
        assert_eq!(receive_at(&mut client, 10).await, b"last words");
        let since = Instant::now();
        if reset {
            caller.reset();
        } else {
            drop(caller);
        }
        assert!(client.is_closed().await && since.elapsed() < LEFT);
    }
}

#[tokio::test]
async fn it_is_one_request_that_ends_with_the_connection() {
    let (gateway, _stage, client, _caller) = switched().await;
    let series =
        "dgx_gateway_http_requests_total{method=\"GET\",route=\"/ws/{*rest}\",status=\"101\",tenant=\"default\"}";
    // the look at its health, with which the gateway was started, may be about to end
    let running = async || gateway.metrics().await.sum("dgx_gateway_http_in_flight");
    until("it alone runs", async || running().await == 1.0).await;
    assert_eq!(gateway.metrics().await.value(series), 0.0);
    drop(client);
    gateway.idle().await;
    assert_eq!(gateway.metrics().await.value(series), 1.0);
    assert_eq!(gateway.metrics().await.value("dgx_gateway_streams_aborted_total{by=\"client\"}"), 0.0);
}

#[tokio::test]
async fn silence_of_both_sides_ends_it() {
    let mut stage = Stage::open_for_all().await;
    let ws = json!({"upgrade": ["websocket"], "idle_timeout_seconds": 1});
    let gateway = Setup::new().route(route("/ws/{*rest}", &stage, &ws)).start().await;
    let mut client = gateway.client().await;
    ask(&mut client, &[]).await;
    let mut caller = stage.caller().await;
    caller.write(AGREE).await;
    agreed(&mut client).await;
    let since = Instant::now();
    for n in 1..=4 {
        tokio::time::sleep(Duration::from_millis(500)).await; // half of the limit
        client.raw.send("x").await.unwrap();
        receive(&mut caller, n).await;
    }
    assert!(client.is_closed().await && since.elapsed() >= Duration::from_secs(3));
    // an upstream that does not answer the question
    let mut client = gateway.client().await;
    ask(&mut client, &[]).await;
    client.answer().await.is_error(504, "upstream_timeout", "");
}

#[tokio::test]
async fn the_end_of_the_process_ends_it_at_the_deadline() {
    let (mut gateway, _stage, mut client, _caller) = switched().await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_upstream_that_does_not_agree_is_heard() {
    let mut stage = Stage::open_for_all().await;
    let gateway = started(&stage).await;
    let mut client = gateway.client().await;
    for _ in 0..2 {
        ask(&mut client, &[]).await;
        stage.caller().await.write("HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno").await;
        let answer = soon("the answer", client.raw.read_response()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (403, "no"));
    }
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_or_that_is_none_is_an_error() {
    let mut stage = Stage::open_for_all().await;
    let gateway = started(&stage).await;
    let without = |line: &str| AGREE.replace(line, "");
    for (path, more, answer) in [
        ("/plain", &ASK[..], AGREE.to_owned()),
        ("/plain", &[], AGREE.to_owned()),
        ("/ws/a", &[], AGREE.to_owned()),
        ("/ws/a", &[ASK[0], ("upgrade", "h2c")], AGREE.to_owned()),
        ("/ws/a", &ASK, without("upgrade: WebSocket\r\n")),
        ("/ws/a", &ASK, without("connection: upgrade\r\n")),
        ("/ws/a", &ASK, without("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
    ] {
        let mut client = gateway.client().await;
        client.head(&Method::GET, path, more).await;
        let mut caller = stage.caller().await;
        let asks = caller.header("upgrade").is_some() && caller.header("sec-websocket-key").is_some();
        assert_eq!(asks, path != "/plain" && more == ASK, "{path} {more:?}: {}", caller.head);
        caller.write(answer).await;
        client.answer().await.is_error(502, "upstream_error", "");
    }
}

#[tokio::test]
async fn a_question_that_is_not_valid_never_reaches_the_upstream() {
    let mut stage = Stage::open_for_all().await;
    let gateway = started(&stage).await;
    let key = "headers.sec-websocket-key";
    for (method, more, param) in [
        (Method::GET, &ASK[..3], key),
        (Method::GET, &[&ASK[..], &ASK[3..]].concat(), key),
        (Method::POST, &ASK, "headers.upgrade"),
        (Method::GET, &[&ASK[..], &[("content-length", "3")]].concat(), "headers.upgrade"),
        (Method::GET, &[&ASK[..], &[("transfer-encoding", "chunked")]].concat(), "headers.upgrade"),
    ] {
        let mut client = gateway.client().await;
        client.head(&method, "/ws/a", more).await;
        client.raw.half_close().await.unwrap();
        client.answer().await.is_error(400, "invalid_field", param);
    }
    // the filters come first
    let mut client = gateway.client().await;
    client.raw.send_head(&Method::GET, "/ws/a", &[&ASK[..], &[("authorization", "Bearer no")]].concat()).await.unwrap();
    assert_eq!(client.answer().await.status, 401);
    assert!(stage.is_quiet());
}

#[tokio::test]
async fn http2_does_not_switch() {
    let stage = Stage::open_for_all().await;
    let gateway = started(&stage).await;
    let mut client = gateway.h2().await;
    let request = http::Request::builder()
        .method("CONNECT")
        .uri(format!("http://{}/ws/a", gateway.addr))
        .extension(h2::ext::Protocol::from_static("websocket"))
        .header("authorization", format!("Bearer {BEARER}"));
    let refused = match client.start(request.body(()).unwrap()).await {
        Ok(mut exchange) => soon("the refusal", exchange.read_head()).await.map(|head| head.status().as_u16()),
        Err(error) => Err(error),
    };
    assert!(refused.as_ref().is_err() || refused.as_ref().is_ok_and(|status| *status >= 400), "{refused:?}");
    // the connection goes on
    let mut client = gateway.h2().await;
    post_h2(&mut client, gateway.addr, "/nothing", bytes::Bytes::new(), true).await.is_error(
        404,
        "route_not_found",
        "",
    );
    until("nothing runs", async || gateway.metrics().await.sum("dgx_gateway_http_in_flight") == 0.0).await;
}
