//! Bodies that are held: what arrives at the upstream is the patched document, whatever its size and framing.

use bytes::Bytes;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{Method, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{BEARER, Client, Gateway, Setup, backend, document, post_h2, soon};

const CHAT: &str = "/v1/chat/completions";
/// What the engine itself would keep of a body.
const ENGINE_BUFFER: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;
/// Name of the model at the mock; longer than the slug `m`.
const UPSTREAM: &str = "vendor/echo-with-a-much-longer-name";

fn setup(mock: &MockUpstream) -> Setup {
    Setup::new().backend(backend("first", mock.addr())).model(json!({
        "alias": "m", "constraints": {"min_max_tokens": 64}, "route": [{"backend": "first", "model": UPSTREAM}],
    }))
}

async fn echo() -> MockUpstream {
    MockUpstream::start(Script::always(Behaviour::Echo).with_looks_apart()).await.unwrap()
}

async fn started(limit: usize) -> (Gateway, MockUpstream) {
    let mock = echo().await;
    let gateway = setup(&mock).server("max_body_bytes", limit).start().await;
    (gateway, mock)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a body is sent.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Chunked,
    Http2Sized,
    Http2Unsized,
    Sized,
}

const ALL: [Sent; 4] = [Sent::Chunked, Sent::Http2Sized, Sent::Http2Unsized, Sent::Sized];

async fn send(gateway: &Gateway, how: Sent, body: &Bytes) -> crate::harness::Answer {
    match how {
        Sent::Chunked => gateway.client().await.chat_chunked(body, 100_000).await,
        Sent::Http2Sized => post_h2(&mut gateway.h2().await, gateway.addr, CHAT, body.clone(), true).await,
        Sent::Http2Unsized => post_h2(&mut gateway.h2().await, gateway.addr, CHAT, body.clone(), false).await,
        Sent::Sized => gateway.chat(body).await,
    }
}

async fn arrives_patched(gateway: &Gateway, how: Sent, size: usize, model_first: bool) {
    let (body, expected) = document(size, model_first, UPSTREAM);
    let answer = send(gateway, how, &body).await;
    let seen = answer.is_ok().json();
    assert_eq!(seen["sha256"], sha256(&expected), "{how:?} {size} {model_first}");
    assert_eq!(seen["length"], expected.len());
    assert_eq!(seen["headers"]["content-length"], expected.len().to_string());
    assert_eq!(seen["headers"].get("transfer-encoding"), None);
    assert_eq!(answer.header("spass-applied"), Some("max_tokens_floored=64"));
    assert_eq!(answer.header("spass-attempts"), Some("first;s=200"));
}

#[tokio::test]
async fn bodies_arrive_patched_at_an_upstream_of_http2_too() {
    let mock = echo().await;
    let mut upstream = backend("first", mock.addr());
    upstream["http2"] = true.into();
    let gateway = Setup::new()
        .backend(upstream)
        .model(json!({
            "alias": "m", "constraints": {"min_max_tokens": 64}, "route": [{"backend": "first", "model": UPSTREAM}],
        }))
        .start()
        .await;
    for size in [1000, ENGINE_BUFFER, ENGINE_BUFFER + 1, MIB, 20 * MIB] {
        for how in [Sent::Sized, Sent::Chunked, Sent::Http2Sized] {
            arrives_patched(&gateway, how, size, false).await;
        }
    }
    assert!(mock.requests().iter().all(|request| request.version == http::Version::HTTP_2));
}

#[tokio::test]
async fn a_body_is_replayed_and_a_stream_passes_between_upstreams_of_http2() {
    let failing =
        MockUpstream::start(Script::always(Behaviour::status(StatusCode::INTERNAL_SERVER_ERROR)).with_looks_apart())
            .await
            .unwrap();
    let serving = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let http2 = |id: &str, mock: &MockUpstream| {
        let mut upstream = backend(id, mock.addr());
        upstream["http2"] = true.into();
        upstream
    };
    let route = json!([{"backend": "first", "model": "m"}, {"backend": "second", "model": "m"}]);
    let setup = Setup::new().backend(http2("first", &failing)).backend(http2("second", &serving));
    let gateway = setup.model(json!({"alias": "m", "route": route})).start().await;
    let (body, _) = document(MIB, true, "");
    let answer = gateway.chat(&body).await;
    assert_eq!(answer.is_ok().header("spass-attempts"), Some("first;s=500, second;s=200"));
    assert_eq!(serving.requests()[0].body.len(), body.len());
    let streamed = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    assert!(gateway.chat(streamed).await.is_ok().text().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn small_bodies_arrive_patched_however_they_are_sent() {
    let (gateway, _mock) = started(4 * MIB).await;
    for how in ALL {
        for model_first in [true, false] {
            for size in [300, ENGINE_BUFFER - 1, ENGINE_BUFFER, ENGINE_BUFFER + 1, MIB] {
                arrives_patched(&gateway, how, size, model_first).await;
            }
        }
    }
}

#[tokio::test]
async fn a_sized_body_of_20_mib_arrives_patched() {
    let (gateway, _mock) = started(32 * MIB).await;
    arrives_patched(&gateway, Sent::Sized, 20 * MIB, false).await;
}

#[tokio::test]
async fn a_chunked_body_of_20_mib_arrives_patched() {
    let (gateway, _mock) = started(32 * MIB).await;
    arrives_patched(&gateway, Sent::Chunked, 20 * MIB, true).await;
}

#[tokio::test]
async fn a_body_of_20_mib_over_http2_arrives_patched() {
    let (gateway, _mock) = started(32 * MIB).await;
    arrives_patched(&gateway, Sent::Http2Unsized, 20 * MIB, false).await;
}

#[tokio::test]
async fn a_body_at_the_limit_passes_and_one_byte_more_is_refused() {
    let (gateway, mock) = started(2 * MIB).await;
    for how in ALL {
        arrives_patched(&gateway, how, 2 * MIB, true).await;
        let before = mock.requests().len();
        let answer = send(&gateway, how, &document(2 * MIB + 1, true, UPSTREAM).0).await;
        answer.is_error(413, "body_too_large", "");
        assert_eq!(mock.requests().len(), before, "{how:?}: nothing reaches the upstream");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_leaves_the_connection_usable_or_announces_its_end() {
    let (gateway, _mock) = started(2 * MIB).await;
    for chunked in [true, false] {
        let mut client = gateway.client().await;
        let body = document(2 * MIB + 1, true, UPSTREAM).0;
        let answer = if chunked { client.chat_chunked(&body, 4096).await } else { client.chat(&body).await };
        answer.is_error(413, "body_too_large", "");
        usable_or_closed(&mut client, answer.says_close()).await;
    }
    let mut client = gateway.h2().await;
    let body = document(2 * MIB + 1, true, UPSTREAM).0;
    post_h2(&mut client, gateway.addr, CHAT, body, false).await.is_error(413, "body_too_large", "");
    post_h2(&mut client, gateway.addr, CHAT, document(300, true, UPSTREAM).0, false).await.is_ok();
}

async fn usable_or_closed(client: &mut Client, closes: bool) {
    if closes {
        assert!(client.is_closed().await, "the connection ends as announced");
    } else {
        client.chat(document(300, true, UPSTREAM).0).await.is_ok();
    }
}

#[tokio::test]
async fn a_body_sent_in_tiny_chunks_arrives_patched() {
    let (gateway, _mock) = started(MIB).await;
    let (body, expected) = document(20_000, true, UPSTREAM);
    let answer = gateway.client().await.chat_chunked(&body, 3).await;
    assert_eq!(answer.is_ok().json()["sha256"], sha256(&expected));
}

#[tokio::test]
async fn no_body_is_no_json() {
    let (gateway, _mock) = started(MIB).await;
    for how in ALL {
        for body in ["", "{"] {
            send(&gateway, how, &Bytes::from_static(body.as_bytes())).await.is_error(400, "invalid_json", "");
        }
    }
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_before_its_body_and_keeps_its_connection() {
    let (gateway, _mock) = started(4 * MIB).await;
    let mut client = gateway.client().await;
    for size in [300, ENGINE_BUFFER + 1, MIB] {
        let (body, expected) = document(size, false, UPSTREAM);
        client.chat_head(&[("content-length", &size.to_string()), ("expect", "100-continue")]).await;
        let (interim, _) = soon("the interim answer", client.raw.read_interim()).await.unwrap();
        assert_eq!(interim, StatusCode::CONTINUE);
        client.raw.send(&body).await.unwrap();
        let answer = client.answer().await;
        assert!(!answer.says_close(), "keep-alive survives");
        let seen = answer.is_ok().json();
        assert_eq!(seen["sha256"], sha256(&expected));
        assert_eq!(seen["headers"].get("expect"), None);
    }
}

#[tokio::test]
async fn a_refused_body_gets_no_100() {
    let (gateway, mock) = started(MIB).await;
    for (authorization, length, status, code) in
        [(BEARER, 2 * MIB, 413, "body_too_large"), ("wrong", 300, 401, "invalid_authorization")]
    {
        let mut client = gateway.client().await;
        let authorization = format!("Bearer {authorization}");
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
            ("content-length", &length.to_string()),
            ("expect", "100-continue"),
        ];
        client.raw.send_head(&Method::POST, CHAT, &headers).await.unwrap();
        let (seen, _) = soon("an answer", client.raw.read_interim()).await.unwrap();
        assert_eq!(seen.as_u16(), status, "{code}");
    }
    assert!(mock.requests().is_empty());
}
