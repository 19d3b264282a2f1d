//! More connections than the process may have, or than do anything.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{POOLED, nothing_is_left, outcome};
use crate::harness::{BEARER, Gateway, Setup, Stage, soon, until};

fn request() -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

const ANSWER: &str = r#"{"id":"c","choices":[{"index":0}]}"#;

/// A request on a new connection is answered while all of the others stand still.
async fn serves(gateway: &Gateway, stage: &mut Stage) -> Duration {
    let asked = Instant::now();
    let mut client = gateway.client().await;
    client.send_chat(request()).await;
    stage.caller().await.answer(ANSWER).await;
    client.answer().await.is_ok();
    asked.elapsed()
}

#[tokio::test]
async fn a_thousand_connections_that_say_half_of_something_hold_nobody_up() {
    const CLIENTS: usize = 1000;
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).log("info").start().await;
    let sockets = gateway.sockets();
    let before = gateway.memory("VmRSS");
    let begun = [
        String::new(),
        "POST /v1/chat/compl".to_owned(),
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n".to_owned(),
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\ncontent-length: 500\r\n\r\n{{"
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ];
    let mut clients = Vec::new();
    for text in begun.iter().cycle().take(CLIENTS) {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        clients.push(client);
    }
    // the first ones that were counted may have ended meanwhile
    until("the gateway holds them", async || gateway.sockets() + 10 >= sockets + CLIENTS).await;
    for _ in 0..10 {
        let took = serves(&gateway, &mut stage).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    let grown = gateway.memory("VmRSS").saturating_sub(before);
    println!("{CLIENTS} connections: RSS +{grown}, {} for each", grown / CLIENTS);
    assert!(grown < CLIENTS * 64 * 1024, "{grown} more");
    drop(clients);
    nothing_is_left(&gateway, sockets + POOLED).await;
    assert!(!gateway.log().contains("Fail to proxy"), "who leaves inside a head leaves a line of an error");
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once_and_room_is_used_again() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).server("max_connections", 20).log("info").start().await;
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        if client.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.is_err() {
            refused += 1;
            continue;
        }
        let mut some = [0; 12];
        match soon("an answer or the end", client.read(&mut some)).await {
            Ok(read) if read > 0 => held.push(client),
            _ => refused += 1,
        }
    }
    assert!(held.len() <= 20 && refused >= 180, "{} held, {refused} refused", held.len());
    drop(held);
    until("there is room again", async || {
        let mut client = gateway.client().await;
        client.raw.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() && outcome(&mut client).await == "200"
    })
    .await;
    serves(&gateway, &mut stage).await;
}

/// Neither an end of the process nor a busy loop, and no other connection is hurt.
#[tokio::test]
async fn without_file_descriptors_open_connections_go_on_and_new_ones_wait() {
    let mut stage = Stage::open().await;
    let mut gateway = Setup::with_upstream(stage.addr).log("info").start().await;
    // an open connection with a connection to the upstream behind it
    let mut open = gateway.client().await;
    open.send_chat(request()).await;
    let mut upstream = stage.caller().await;
    upstream.answer(ANSWER).await;
    open.answer().await.is_ok();
    let mut second = gateway.client().await;
    second.get("/healthz").await.is_ok(); // accepted: the crowd could be before it
    let mut files = 0;
    until("all its services run", async || {
        tokio::time::sleep(Duration::from_millis(200)).await; // each makes descriptors for its runtime
        std::mem::replace(&mut files, gateway.open_files()) == files
    })
    .await;
    gateway.limit_files(files + 10);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(gateway.client().await);
    }
    until("it has no descriptor left", async || gateway.open_files() >= files + 10).await;
    let before = gateway.ticks();
    for _ in 0..5 {
        // both connections are there already
        open.send_chat(request()).await;
        assert!(soon("the request", upstream.read_request()).await);
        upstream.answer(ANSWER).await;
        open.answer().await.is_ok();
    }
    // a second upstream connection would be needed: the one there is busy
    open.send_chat(request()).await;
    assert!(soon("the request", upstream.read_request()).await);
    second.send_chat(request()).await;
    assert_eq!(
        outcome(&mut second).await,
        "503 upstream_unavailable",
        "no descriptor for a connection to the upstream"
    );
    upstream.answer(ANSWER).await;
    open.answer().await.is_ok();
    tokio::time::sleep(Duration::from_secs(2)).await; // accepting fails meanwhile, once a second for each listener
    let spent = gateway.ticks() - before;
    println!("without descriptors for 2 s and some requests: {spent} ticks of 10 ms");
    assert!(spent < 100, "{spent} ticks: it is a busy loop");
    assert!(gateway.runs());
    let lines = gateway.log().lines().count();
    assert!(lines < 100, "{lines} lines in the log");
    drop((crowd, upstream)); // the next request gets a new connection
    gateway.limit_files(1000);
    until("new connections are served again", async || {
        let mut client = gateway.client().await;
        let asked = tokio::time::timeout(Duration::from_secs(3), client.get("/healthz"));
        asked.await.is_ok_and(|answer| answer.is_ok().text().contains("ok"))
    })
    .await;
    serves(&gateway, &mut stage).await;
}
