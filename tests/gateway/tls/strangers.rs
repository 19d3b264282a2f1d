//! Clients that do not speak TLS as expected, or not at all.

use std::time::{Duration, Instant};

use dgx_gateway_testkit::client::RawClient;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Keys;
use crate::harness::{Client, Gateway, Setup, soon, until};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Clients that say nothing.
const SILENT: usize = 20;

async fn failures(gateway: &Gateway, reason: &str) -> f64 {
    let series = format!("dgx_gateway_tls_handshake_failures_total{{reason=\"{reason}\"}}");
    gateway.metrics().await.value(&series)
}

/// The first bytes of a handshake, as a client would send them.
fn half_a_hello() -> Vec<u8> {
    let mut record = vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    record.resize(200, 7);
    record
}

#[tokio::test]
async fn http_without_tls_is_told_so() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).start().await;
    let mut client = RawClient::connect(gateway.addr).await.unwrap();
    client.request(&Method::POST, "/v1/chat/completions", &[], &vec![b' '; 20_000]).await.unwrap();
    let answer = soon("the answer", client.read_response()).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("connection")), (400, Some("close")));
    assert_eq!(answer.text(), "This port speaks HTTPS. Use https:// for it.");
    assert!(soon("the end", client.read_to_end()).await.is_ok());
    // HTTP/2 by prior knowledge is no way around
    let mut client = RawClient::connect(gateway.addr).await.unwrap();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert_eq!(soon("the answer", client.read_response()).await.unwrap().status, 400);
    until("both are counted", async || failures(&gateway, "plain_http").await == 2.0).await;
}

#[tokio::test]
async fn bytes_of_nothing_and_clients_with_nothing_in_common_are_closed() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).start().await;
    let hello_of_nothing = [22, 3, 1, 0, 4, 255, 255, 255, 255];
    let ssl2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15];
    for bytes in [&hello_of_nothing[..], &ssl2, &[0], &[22, 9, 9, 0, 1, 0]] {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // an alert of TLS or nothing, and the end or a reset
        drop(soon("the end", client.read_to_end(&mut answer)).await);
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    // a client that does not know the authority says so and leaves
    let stranger = crate::harness::tls::Authority::new().client(&["h2"]);
    assert!(stranger.connect(gateway.addr).await.is_err());
    until("all are counted", async || failures(&gateway, "failed").await == 5.0).await;
    assert!(!gateway.log().contains("\"level\":\"ERROR\""), "anybody could fill the log");
}

#[tokio::test]
async fn tls_at_a_port_without_it_fails_and_leaves_the_gateway_alone() {
    let keys = Keys::new();
    let mut gateway = Setup::new().start().await;
    let failed = soon("the failure", keys.authority.client(&["h2", "http/1.1"]).connect(gateway.addr)).await;
    assert!(failed.is_err());
    assert!(gateway.runs());
    gateway.client().await.get("/healthz").await.is_ok();
}

#[tokio::test]
async fn handshakes_that_hang_are_ended_hold_nobody_up_and_count_as_connections() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).server("max_connections", SILENT as u64 + 1).start().await;
    let (began, mut silent) = (Instant::now(), JoinSet::new());
    for n in 0..SILENT {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        if n % 2 == 0 {
            client.write_all(&half_a_hello()).await.unwrap();
        }
        silent.spawn(async move {
            let mut rest = Vec::new();
            drop(soon("the end of a handshake", client.read_to_end(&mut rest)).await);
            assert!(rest.is_empty(), "{rest:?}");
            began.elapsed()
        });
    }
    // another one is served meanwhile, and takes the last place
    let way = keys.authority.client(&["http/1.1"]).way_to(gateway.addr).await;
    let mut client = Client::connect(way.addr).await;
    client.get("/healthz").await.is_ok();
    assert!(began.elapsed() < HANDSHAKE);
    // what hangs takes a place each; one that came too late for it was closed at once
    let beyond = keys.authority.client(&["http/1.1"]);
    until("no place is left", async || beyond.connect(gateway.addr).await.is_err()).await;
    let ended = silent.join_all().await;
    let hung = ended.iter().filter(|after| **after >= HANDSHAKE).count();
    assert!(hung > SILENT / 2, "{ended:?}");
    until("all are counted", async || failures(&gateway, "timeout").await == hung as f64).await;
    // the one that spoke in time is still there, and so are the places
    client.get("/healthz").await.is_ok();
    assert!(beyond.connect(gateway.addr).await.is_ok());
}

#[tokio::test]
async fn a_client_that_shakes_hands_and_says_nothing_more_is_closed_as_without_tls() {
    let keys = Keys::new();
    let mut gateway = keys.setup(Setup::new()).start().await;
    for protocol in ["http/1.1", "h2"] {
        let mut stream = keys.authority.client(&[protocol]).connect(gateway.addr).await.unwrap();
        // half a request; the end of the process is the end of it
        stream.write_all(b"GET /hea").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await.is_err() || protocol == "h2");
    }
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}
