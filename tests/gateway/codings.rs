//! Compressed request bodies: decoded, limited by what they become, and sent on as if they had come plain.

use std::io::Write;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use flate2::{Compression, write::GzEncoder};
use http::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{Answer, Gateway, Setup, backend, document};

const CHAT: &str = "/v1/chat/completions";
const MIB: usize = 1024 * 1024;
const LIMIT: usize = 4 * MIB;
const UPSTREAM: &str = "echo-of-the-upstream";

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::encode_all(body, 1).unwrap()
}

type Coding = (&'static str, fn(&[u8]) -> Vec<u8>);
const CODINGS: [Coding; 3] = [("gzip", gzip), ("ZSTD", zstd), ("x-gzip", gzip)];

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::always(Behaviour::Echo).with_looks_apart()).await.unwrap();
    let model = json!({"alias": "m", "constraints": {"min_max_tokens": 64}, "route": [{"backend": "first", "model": UPSTREAM}]});
    let setup = Setup::new().backend(backend("first", mock.addr())).model(model).server("max_body_bytes", LIMIT);
    (setup.start().await, mock)
}

async fn send(gateway: &Gateway, coding: &str, body: &[u8]) -> Answer {
    let headers = [("content-type", "application/json"), ("content-encoding", coding)];
    gateway.client().await.request(&Method::POST, CHAT, &headers, body).await
}

/// A chat request of exactly `size` bytes, and what the upstream gets of it.
fn plain(size: usize) -> (Vec<u8>, Vec<u8>) {
    let (body, expected) = document(size, true, UPSTREAM);
    (body.to_vec(), expected.to_vec())
}

#[tokio::test]
async fn a_compressed_body_reaches_the_upstream_decoded() {
    let (gateway, mock) = started().await;
    for (name, encode) in CODINGS {
        for size in [300, 64 * 1024, MIB, LIMIT] {
            let (body, expected) = plain(size);
            let seen = send(&gateway, name, &encode(&body)).await.is_ok().json();
            let digest: String = Sha256::digest(&expected).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((&seen["sha256"], &seen["length"]), (&json!(digest), &json!(expected.len())), "{name} {size}");
            assert_eq!(seen["headers"].get("content-encoding"), None);
        }
    }
    assert_eq!(mock.requests().len(), 12);
}

#[tokio::test]
async fn compressed_bodies_may_be_chunked() {
    let (gateway, _mock) = started().await;
    let (body, expected) = plain(MIB);
    let mut client = gateway.client().await;
    client.chat_head(&[("transfer-encoding", "chunked"), ("content-encoding", "zstd")]).await;
    for piece in zstd(&body).chunks(7) {
        client.raw.send_chunk(piece).await.unwrap();
    }
    client.raw.send_chunk(b"").await.unwrap();
    assert_eq!(client.answer().await.is_ok().json()["length"], expected.len());
    client.chat(plain(300).0).await.is_ok();
}

#[tokio::test]
async fn the_limit_holds_for_the_decoded_body() {
    let (gateway, mock) = started().await;
    for (name, encode) in CODINGS {
        send(&gateway, name, &encode(&plain(LIMIT + 1).0)).await.is_error(413, "body_too_large", "");
        let bomb = encode(&vec![b' '; 64 * MIB]);
        assert!(bomb.len() < 3 * MIB, "{name}: {}", bomb.len());
        send(&gateway, name, &bomb).await.is_error(413, "body_too_large", "");
    }
    assert_eq!(mock.requests().len(), 0);
    send(&gateway, "gzip", &gzip(&plain(LIMIT).0)).await.is_ok();
}

#[tokio::test]
async fn a_body_that_is_not_what_its_coding_says_is_refused() {
    let (gateway, mock) = started().await;
    for (name, encode) in CODINGS {
        let whole = encode(&plain(5000).0);
        let cut = &whole[..whole.len() - 5];
        send(&gateway, name, cut).await.is_error(400, "invalid_json", "");
        send(&gateway, name, &plain(300).0).await.is_error(400, "invalid_json", "");
        send(&gateway, name, b"").await.is_error(400, "invalid_json", "");
        send(&gateway, name, &encode(b"not json")).await.is_error(400, "invalid_json", "");
        send(&gateway, name, &[&whole[..], b"more"].concat()).await.is_error(400, "invalid_json", "");
    }
    assert_eq!(mock.requests().len(), 0);
}

#[tokio::test]
async fn other_codings_are_refused_after_the_length_and_the_type() {
    let (gateway, _mock) = started().await;
    let param = "headers.content-encoding";
    for coding in ["br", "deflate", "gzip, gzip", "identity, gzip", "", "gzip;q=1"] {
        send(&gateway, coding, &gzip(&plain(300).0)).await.is_error(415, "unsupported_media_type", param);
    }
    send(&gateway, "identity", &plain(300).0).await.is_ok();
    let (length, xml, br) = (("content-length", "4194305"), ("content-type", "text/xml"), ("content-encoding", "br"));
    for (headers, status, code, param) in [
        (vec![length, xml, br], 413, "body_too_large", ""),
        (vec![("content-length", "3"), xml, br], 415, "unsupported_media_type", "headers.content-type"),
        (vec![("content-length", "3"), br], 415, "unsupported_media_type", "headers.content-encoding"),
    ] {
        let mut client = gateway.client().await;
        client.head(&Method::POST, CHAT, &headers).await;
        client.answer().await.is_error(status, code, param);
    }
}
