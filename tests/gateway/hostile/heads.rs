//! Heads that are large, or have very many headers.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{nothing_is_left, outcome};
use crate::harness::{BEARER, Setup, Stage, soon};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// The engine takes so many headers; `Host` and `Authorization` are two of them.
const MOST_HEADERS: usize = 256;

fn head(headers: &str) -> String {
    format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n{headers}\r\n")
}

#[tokio::test]
async fn large_heads_are_taken_up_to_a_bound_and_give_their_memory_back() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).log("info").start().await;
    let sockets = gateway.sockets();
    let value = |bytes: usize| head(&format!("x: {}\r\n", "y".repeat(bytes)));
    let count = |headers: usize| head(&"x: y\r\n".repeat(headers - 2));
    for (what, head, expected) in [
        ("64 KiB in one header", value(64 * KIB), "200"),
        ("64 KiB in a name", head(&format!("{}: y\r\n", "x".repeat(64 * KIB - 1))), "200"),
        ("64 KiB in 64 headers", head(&format!("x: {}\r\n", "y".repeat(KIB - 5)).repeat(64)), "200"),
        ("60 KiB in a path", head("").replace("/v1/models", &"/a".repeat(30 * KIB)), "404 route_not_found"),
        ("64 KiB in a path", head("").replace("/v1/models", &"/a".repeat(32 * KIB)), "400"),
        ("64 KiB in a bearer", head("").replace(BEARER, &"b".repeat(64 * KIB)), "401 invalid_authorization"),
        ("the most headers", count(MOST_HEADERS), "200"),
        ("one header too many", count(MOST_HEADERS + 1), "400"),
        ("5000 headers", count(5000), "400"),
        ("2 MiB in one header", value(2 * MIB), "400"),
    ] {
        gateway.forget_peak();
        let before = gateway.memory("VmRSS");
        let mut client = gateway.client().await;
        drop(client.raw.send(&head).await); // it may hang up before all was sent
        let seen = outcome(&mut client).await;
        let peak = gateway.memory("VmHWM").saturating_sub(before);
        println!("{what}: {seen}, peak +{peak}");
        // a reset may overtake the answer to a head that nobody reads to its end
        assert!(seen == expected || head.len() > MIB && seen == "closed", "{what}: {seen}");
        assert!(peak < 8 * MIB, "{what}: {peak} more");
        gateway.client().await.get("/healthz").await.is_ok();
        assert!(stage.is_quiet(), "{what}");
    }
    nothing_is_left(&gateway, sockets).await;
}

/// Each holds what it may hold before its head is refused; others are served meanwhile.
#[tokio::test]
async fn many_large_heads_at_one_time_are_bounded() {
    const CLIENTS: usize = 100;
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).log("info").start().await;
    let sockets = gateway.sockets();
    let before = gateway.memory("VmRSS");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let begun = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(MIB - 100));
        soon("the gateway takes a head of almost 1 MiB", client.write_all(begun.as_bytes())).await.unwrap();
        clients.push(client);
    }
    gateway.client().await.get("/healthz").await.is_ok();
    let grown = gateway.memory("VmRSS").saturating_sub(before);
    println!("{CLIENTS} heads of almost 1 MiB: RSS +{grown}");
    assert!(grown < CLIENTS * 3 * MIB, "{grown} more");
    drop(clients);
    assert!(stage.is_quiet());
    nothing_is_left(&gateway, sockets).await;
}
