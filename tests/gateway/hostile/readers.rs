//! Clients that read slowly, close half of their connection, or say more than a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::nothing_is_left;
use crate::harness::{BEARER, Gateway, Setup, Stage, chunk_of_stream, soon, until};

const NAME: &str = "upstream-name-of-m";
const SLOW: usize = 200;
/// How long it may take until the buffers of the system are full, some megabytes for each of them.
const FILLING: Duration = Duration::from_secs(90);
const MIB: usize = 1024 * 1024;

fn request(stream: bool) -> String {
    let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A connection with a small receive buffer.
async fn narrow(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(addr).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_slow_their_upstreams_down_and_take_no_memory() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).log("info").start().await;
    let sockets = gateway.sockets();
    let event = chunk_of_stream(NAME, &"x".repeat(1000));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let (taken, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for _ in 0..SLOW {
        let mut client = narrow(gateway.addr).await;
        client.write_all(request(true).as_bytes()).await.unwrap();
        let mut caller = stage.caller().await;
        caller.begin_stream().await;
        let (_reading, mut writing) = caller.split();
        let (chunk, taken, open) = (chunk.clone(), Arc::clone(&taken), Arc::clone(&open));
        open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            while writing.write_all(chunk.as_bytes()).await.is_ok() {
                taken.fetch_add(chunk.len(), Ordering::SeqCst);
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
        clients.push(tokio::spawn(async move {
            let mut some = [0; 1024];
            while client.read(&mut some).await.is_ok_and(|read| read > 0) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }));
    }
    // the buffers of the system fill at first, at the pace of a machine that may stand still for seconds
    let still = tokio::time::timeout(FILLING, async {
        loop {
            let (full, before) = (taken.load(Ordering::SeqCst), gateway.memory("VmRSS"));
            tokio::time::sleep(Duration::from_secs(4)).await;
            let more = taken.load(Ordering::SeqCst) - full;
            println!("{full} bytes taken, then {more} in 4 s");
            if more < SLOW * 4 * 16 * 1024 {
                return (before, gateway.memory("VmRSS"));
            }
        }
    });
    let (before, after) = still.await.expect("the upstreams stand still");
    println!("RSS {} KiB, 4 s later {} KiB", before >> 10, after >> 10);
    assert!(after < before + 4 * MIB && after < 200 * MIB, "{before}, then {after}");
    assert_eq!(open.load(Ordering::SeqCst), SLOW);

    let left = Instant::now();
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    until("all upstreams are left", async || open.load(Ordering::SeqCst) == 0).await;
    println!("all upstreams left after {:?}", left.elapsed());
    assert!(left.elapsed() < Duration::from_secs(3));
    nothing_is_left(&gateway, sockets + 2).await;
}

/// The end of what a client sends is how most clients leave, and nothing tells the two apart. What can be answered at
/// once is answered.
#[tokio::test]
async fn a_client_that_closes_its_sending_side_has_left() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    for stream in [false, true] {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        client.write_all(request(stream).as_bytes()).await.unwrap();
        let caller = stage.caller().await;
        client.shutdown().await.unwrap();
        let after = caller.gone(Instant::now()).await;
        assert!(after < Duration::from_secs(1), "{after:?}");
        let mut answer = Vec::new();
        soon("the end", client.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    nothing_is_left(&gateway, sockets).await;
    for _ in 0..5 {
        let answer = half_closed(&gateway, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = half_closed(&gateway, "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    nothing_is_left(&gateway, sockets).await;
}

async fn half_closed(gateway: &Gateway, request: &str) -> String {
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("the answer", client.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// What is sent up to the empty line, or to the end.
async fn head_of_answer(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match soon("an answer", client.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[tokio::test]
async fn upgrades_and_trailers_of_clients_go_no_further() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let answer = r#"{"id":"c","choices":[{"index":0}]}"#;
    let sized = format!("content-length: {}\r\n\r\n{body}", body.len());
    let chunked = format!(
        "transfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n{:x}\r\n{body}\r\n0\r\nx-late: secret\r\nauthorization: other\r\n\r\n",
        body.len()
    );
    for (what, rest) in [
        ("h2c", format!("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n{sized}")),
        (
            "websocket",
            format!(
                "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{sized}"
            ),
        ),
        ("connection names the bearer", format!("connection: authorization, content-length\r\n{sized}")),
        ("te", format!("te: trailers, deflate\r\n{sized}")),
        ("trailers", chunked),
    ] {
        let mut client = gateway.client().await;
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n");
        client.raw.send(head + &rest).await.unwrap();
        let mut caller = stage.caller().await;
        for name in ["upgrade", "http2-settings", "te", "trailer", "x-late", "connection", "sec-websocket-key"] {
            assert_eq!(caller.header(name), None, "{what}: {}", caller.head);
        }
        assert!(!String::from_utf8_lossy(&caller.body).contains("secret"), "{what}");
        caller.answer(answer).await;
        client.answer().await.is_ok();
        drop(client);
    }
    for (what, head) in [
        ("CONNECT", "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n"),
        ("TRACE", "TRACE /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-secret: a\r\n\r\n"),
        ("absolute", "POST http://169.254.169.254/latest HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"),
    ] {
        // its sending side stays open: who closes it has left, and need not be answered
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        let seen = head_of_answer(&mut client).await;
        assert!(seen.starts_with("HTTP/1.1 4") && !seen.contains("x-secret"), "{what}: {seen}");
        assert!(stage.is_quiet(), "{what}");
    }
    nothing_is_left(&gateway, sockets).await;
}

/// Chunks of one byte, each with a long extension: many times the limit arrives, one byte of it counts.
#[tokio::test]
async fn endless_extensions_and_trailers_of_a_client_are_cut() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    for (what, begin, again) in
        [("one extension", "1;", "x".repeat(64 * 1024)), ("trailers", "1\r\n{\r\n0\r\n", "x: y\r\n".repeat(10_000))]
    {
        gateway.forget_peak();
        let before = gateway.memory("VmRSS");
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        client.write_all((head.clone() + begin).as_bytes()).await.unwrap();
        let sent = soon(what, async {
            let mut sent = 0;
            while sent < 64 * MIB && client.write_all(again.as_bytes()).await.is_ok() {
                sent += again.len();
            }
            sent
        })
        .await;
        assert!(sent < 64 * MIB, "{what}: {sent} bytes were taken");
        assert!(gateway.memory("VmHWM") < before + 8 * MIB, "{what}");
        assert!(stage.is_quiet(), "{what}");
    }
    nothing_is_left(&gateway, sockets).await;
}
