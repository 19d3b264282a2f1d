//! Clients that take all the time they are given. Slow, because it is more than a minute: run them by hand with
//! `cargo test --test gateway hostile::patience -- --ignored`.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::nothing_is_left;
use crate::harness::{BEARER, Setup, Stage};

/// How a slow client begins, and what it adds again and again.
const SLOW: [(&str, &str, &str); 5] = [
    ("nothing", "", ""),
    ("half a preface", "PRI * HTTP/2.0\r\n", ""),
    ("half a head", "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", ""),
    ("a header every second", "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", "x: y\r\n"),
    ("a preface and no more", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0", ""),
];

#[tokio::test]
#[ignore = "takes 100 s"]
async fn slow_heads_and_bodies_give_their_slots_back() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).server("max_connections", SLOW.len() + 2).start().await;
    let sockets = gateway.sockets();
    let began = Instant::now();
    let body = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\ncontent-length: 1000\r\n\r\n{{"
    );
    let mut clients = Vec::new();
    let slow = SLOW.iter().map(|(what, first, again)| (*what, (*first).to_owned(), *again));
    for (what, first, again) in slow.chain([("half a body", body.clone(), ""), ("a body that trickles", body, " ")]) {
        let stream = TcpStream::connect(gateway.addr).await.unwrap();
        clients.push(tokio::spawn(async move {
            let (mut reading, mut writing) = stream.into_split();
            writing.write_all(first.as_bytes()).await.unwrap();
            let adding = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if writing.write_all(again.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(110), reading.read_to_end(&mut rest)).await;
            adding.abort();
            println!(
                "{what}: ended {} after {:?}: {:?}",
                ended.is_ok(),
                began.elapsed(),
                String::from_utf8_lossy(&rest).lines().next()
            );
            (what, ended.is_ok())
        }));
    }
    // every slot is taken: one more is closed at once
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut more = TcpStream::connect(gateway.addr).await.unwrap();
    let mut rest = Vec::new();
    let refused = tokio::time::timeout(Duration::from_secs(5), more.read_to_end(&mut rest)).await;
    assert!(refused.is_ok() && rest.is_empty(), "one connection too many");
    for client in clients {
        let (what, ended) = client.await.unwrap();
        // a body that goes on is bounded by the total time
        assert_eq!(ended, what != "a body that trickles", "{what}");
    }
    assert!(stage.is_quiet());
    gateway.client().await.get("/healthz").await.is_ok();
    nothing_is_left(&gateway, sockets).await;
}
