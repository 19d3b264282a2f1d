//! Routes to one upstream without filters: bodies stream through, whatever their size.

use bytes::Bytes;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::Method;
use serde_json::json;

use crate::harness::{Answer, Gateway, Setup, Stage, fill, post_h2, soon};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 20 * MIB;

/// A gateway that may hold far less than what is sent.
async fn started(upstream: std::net::SocketAddr) -> Gateway {
    Setup::new()
        .server("max_body_bytes", MIB)
        .server("max_held_bytes", MIB)
        .route(json!({
            "path": "/files/{*rest}", "methods": ["GET", "POST"], "upstream": format!("http://{upstream}/prefix/"),
            "forward_headers": ["x-wanted"], "max_body_bytes": SIZE,
        }))
        .start()
        .await
}

async fn echo() -> MockUpstream {
    MockUpstream::start(Script::always(Behaviour::Echo).with_looks_apart()).await.unwrap()
}

fn arrived(answer: &Answer, mock: &MockUpstream, expected: &[u8], length: Option<usize>) {
    let seen = answer.is_ok().json();
    let got = mock.requests().last().unwrap().body.clone();
    assert!(got == expected, "{} other bytes arrived", got.len());
    let headers = &seen["headers"];
    assert_eq!(headers["content-length"].as_str(), length.map(|length| length.to_string()).as_deref());
    assert_eq!(headers["transfer-encoding"].as_str(), length.is_none().then_some("chunked"));
}

#[tokio::test]
async fn a_body_over_the_limit_of_the_route_is_refused_with_and_without_a_length() {
    let mock = echo().await;
    let gateway = started(mock.addr()).await;
    let body = fill(SIZE + 1);
    let answer = gateway.client().await.request(&Method::POST, "/files/a", &[], &body).await;
    answer.is_error(413, "body_too_large", "");
    let mut client = gateway.client().await;
    client.head(&Method::POST, "/files/a", &[("transfer-encoding", "chunked")]).await;
    for chunk in body.chunks(1_000_001) {
        client.raw.send_chunk(chunk).await.unwrap();
    }
    client.answer().await.is_error(413, "body_too_large", "");
}

#[tokio::test]
async fn a_sized_body_passes_and_keeps_its_length() {
    let mock = echo().await;
    let gateway = started(mock.addr()).await;
    let body = fill(SIZE);
    let answer = gateway.client().await.request(&Method::POST, "/files/a", &[], &body).await;
    arrived(&answer, &mock, &body, Some(SIZE));
}

#[tokio::test]
async fn a_chunked_body_passes_and_stays_chunked() {
    let mock = echo().await;
    let gateway = started(mock.addr()).await;
    let body = fill(SIZE);
    let mut client = gateway.client().await;
    client.head(&Method::POST, "/files/a", &[("transfer-encoding", "chunked")]).await;
    for chunk in body.chunks(100_001) {
        client.raw.send_chunk(chunk).await.unwrap();
    }
    client.raw.send_chunk(b"").await.unwrap();
    arrived(&client.answer().await, &mock, &body, None);
    // the connection to the upstream is in step: the next request on it is understood
    let answer = client.request(&Method::POST, "/files/b", &[], b"after").await;
    arrived(&answer, &mock, b"after", Some(5));
}

#[tokio::test]
async fn bodies_of_every_size_pass_however_they_are_sent() {
    let mock = echo().await;
    let gateway = started(mock.addr()).await;
    let mut h2 = gateway.h2().await;
    for size in [0, 1, 64 * 1024, 64 * 1024 + 1, MIB] {
        let body = Bytes::from(fill(size));
        let mut client = gateway.client().await;
        let answer = client.request(&Method::POST, "/files/a", &[], &body).await;
        arrived(&answer, &mock, &body, Some(size));
        client.head(&Method::POST, "/files/b", &[("transfer-encoding", "chunked")]).await;
        for chunk in body.chunks(10_007) {
            client.raw.send_chunk(chunk).await.unwrap();
        }
        client.raw.send_chunk(b"").await.unwrap();
        arrived(&client.answer().await, &mock, &body, None);
        let answer = post_h2(&mut h2, gateway.addr, "/files/c", body.clone(), true).await;
        arrived(&answer, &mock, &body, Some(size));
    }
}

#[tokio::test]
async fn bodies_over_http2_pass_with_and_without_a_length() {
    let mock = echo().await;
    let gateway = started(mock.addr()).await;
    let body = Bytes::from(fill(SIZE));
    let mut client = gateway.h2().await;
    for sized in [true, false] {
        let answer = post_h2(&mut client, gateway.addr, "/files/a", body.clone(), sized).await;
        arrived(&answer, &mock, &body, sized.then_some(SIZE));
    }
    // an empty last frame must not end the chunked body twice
    for _ in 0..3 {
        let answer = post_h2(&mut client, gateway.addr, "/files/b", Bytes::from_static(b"small"), false).await;
        arrived(&answer, &mock, b"small", None);
    }
}

#[tokio::test]
async fn the_upstream_gets_each_piece_before_the_next_is_sent() {
    let mut stage = Stage::open_at_head().await;
    let gateway = started(stage.addr).await;
    let mut client = gateway.client().await;
    let pieces: Vec<Vec<u8>> = (b'a'..=b'e').map(|letter| vec![letter; 1000]).collect();
    client.head(&Method::POST, "/files/a", &[("content-length", "5000")]).await;
    client.raw.send(&pieces[0]).await.unwrap();
    let mut caller = stage.caller().await;
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            client.raw.send(piece).await.unwrap();
        }
        while caller.body.len() < 1000 * (index + 1) {
            assert!(soon("the piece", caller.read_some()).await);
        }
        assert!(caller.body.ends_with(piece));
    }
    caller.answer("{}").await;
    assert_eq!(client.answer().await.is_ok().text(), "{}");
}

#[tokio::test]
async fn path_query_and_listed_headers_pass_and_others_do_not() {
    let mock = echo().await;
    let gateway = started(mock.addr()).await;
    let more = [
        ("x-wanted", "yes"),
        ("x-other", "no"),
        ("cookie", "no"),
        ("spass-user-id", "alice"),
        ("te", "trailers"),
        ("accept", "text/plain"),
        ("content-type", "application/x-thing"),
        ("accept-encoding", "gzip"),
    ];
    let mut client = gateway.client().await;
    for method in [Method::POST, Method::GET] {
        let answer = client.request(&method, "/files/a%20b/c?d=e%2Ff", &more, b"").await;
        let seen = answer.is_ok().json();
        assert_eq!(
            (seen["method"].as_str(), seen["path"].as_str()),
            (Some(method.as_str()), Some("/prefix/files/a%20b/c?d=e%2Ff"))
        );
        let mut names: Vec<&str> = seen["headers"].as_object().unwrap().keys().map(String::as_str).collect();
        names.retain(|name| *name != "content-length");
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "accept-encoding", "content-type", "host", "user-agent", "x-request-id", "x-wanted"]
        );
        assert_eq!(seen["headers"]["accept-encoding"], "identity");
        assert_eq!(seen["headers"]["content-type"], "application/x-thing");
    }
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it() {
    let mock = echo().await;
    let gateway = started(mock.addr()).await;
    let mut client = gateway.client().await;
    for _ in 0..2 {
        client.head(&Method::POST, "/files/a", &[("content-length", "5"), ("expect", "100-continue")]).await;
        let (interim, _) = soon("the interim answer", client.raw.read_interim()).await.unwrap();
        assert_eq!(interim.as_u16(), 100);
        client.raw.send(b"hello").await.unwrap();
        arrived(&client.answer().await, &mock, b"hello", Some(5));
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_is_a_real_error() {
    let gateway = started(dgx_gateway_testkit::mock::dead_addr().await.unwrap()).await;
    let mut client = gateway.client().await;
    let answer = client.request(&Method::POST, "/files/a", &[], &fill(3 * MIB)).await;
    answer.is_error(503, "upstream_unavailable", "");
    let mut client = gateway.h2().await;
    let answer = post_h2(&mut client, gateway.addr, "/files/a", fill(3 * MIB).into(), false).await;
    answer.is_error(503, "upstream_unavailable", "");
}
