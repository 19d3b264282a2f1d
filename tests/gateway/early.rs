//! Long bodies are refused at the first thing that no model takes: the rest is not read, and the answer arrives
//! although the client is still sending.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dgx_gateway_testkit::mock::{MockUpstream, Script};
use http::Method;
use serde_json::json;

use crate::harness::{Client, Gateway, Setup, backend, model, soon};

const CHAT: &str = "/v1/chat/completions";
const MIB: usize = 1024 * 1024;
const SIZE: usize = 30 * MIB;

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut sees = model("m", &[("first", "x")]);
    sees["modalities"] = json!({"input": ["text", "image"]});
    (Setup::new().backend(backend("first", mock.addr())).model(sees).start().await, mock)
}

/// The first kilobyte of a request of 30 MiB.
fn beginning(part: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part},{{"type":"text","text":""#)
}

fn image(url: &str) -> String {
    format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#)
}

const PLACE: &str = "messages[0].content[0].image_url.url";

#[tokio::test]
async fn a_bad_image_at_the_beginning_is_refused_before_the_rest_is_sent() {
    let (gateway, mock) = started().await;
    for (url, code) in [
        ("data:image/png;base64,aGVsbG8=", "image_decode_error"),
        ("data:image/png;base64,%%%", "image_base64_invalid"),
        ("ftp://example.com/a.png", "image_decode_error"),
    ] {
        let mut client = gateway.client().await;
        client.chat_head(&[("content-length", &SIZE.to_string())]).await;
        client.raw.send(beginning(&image(url))).await.unwrap();
        let answer = client.answer().await;
        answer.is_error(400, code, PLACE);
        assert!(answer.says_close(), "the rest of the upload is not waited for");
    }
    assert_eq!(mock.requests().len(), 0);
}

/// Sends on, whatever comes back, until the connection breaks or all is sent.
async fn flood(client: &mut Client) -> usize {
    let filler = vec![b'x'; 64 * 1024];
    for sent in 0..SIZE / filler.len() {
        if client.raw.send(&filler).await.is_err() {
            return sent * filler.len();
        }
    }
    SIZE
}

#[tokio::test]
async fn the_answer_reaches_a_client_that_goes_on_sending() {
    let (gateway, _mock) = started().await;
    let mut client = gateway.client().await;
    client.chat_head(&[("content-length", &SIZE.to_string())]).await;
    client.raw.send(beginning(&image("data:image/png;base64,aGVsbG8="))).await.unwrap();
    flood(&mut client).await; // reads nothing meanwhile
    client.answer().await.is_error(400, "image_decode_error", PLACE);
}

#[tokio::test]
async fn without_a_declared_length_a_body_is_long_once_a_mebibyte_has_come() {
    let (gateway, mock) = started().await;
    let mut client = gateway.client().await;
    client.chat_head(&[("transfer-encoding", "chunked")]).await;
    client.raw.send_chunk(beginning(&image("data:image/png;base64,aGVsbG8=")).as_bytes()).await.unwrap();
    let filler = vec![b'x'; MIB];
    client.raw.send_chunk(&filler).await.unwrap();
    client.answer().await.is_error(400, "image_decode_error", PLACE);
    assert_eq!(mock.requests().len(), 0);
}

#[tokio::test]
async fn over_http2_the_stream_ends_early_and_the_connection_lives() {
    let (gateway, _mock) = started().await;
    let mut h2 = gateway.h2().await;
    for _ in 0..3 {
        let request = http::Request::post(format!("http://{}{CHAT}", gateway.addr))
            .header("authorization", format!("Bearer {}", crate::harness::BEARER))
            .header("content-length", SIZE)
            .body(())
            .unwrap();
        let mut exchange = h2.start(request).await.unwrap();
        let first = beginning(&image("data:image/png;base64,aGVsbG8="));
        exchange.send(Bytes::from(first)).await.unwrap();
        let answer: crate::harness::Answer = soon("the refusal", exchange.read_response()).await.unwrap().into();
        answer.is_error(400, "image_decode_error", PLACE);
    }
}

#[tokio::test]
async fn short_bodies_are_judged_in_the_order_of_the_checks() {
    let (gateway, _mock) = started().await;
    let part = image("data:image/png;base64,aGVsbG8=");
    let unknown = format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}],"model":"unknown"}}"#);
    gateway.chat(unknown).await.is_error(400, "model_not_in_allowlist", "model");
    let cut = format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}],"model":"m""#);
    gateway.chat(cut).await.is_error(400, "invalid_json", "");
}

#[tokio::test]
async fn a_good_long_body_with_images_passes() {
    let (gateway, mock) = started().await;
    let started = Instant::now();
    let part = image("data:image/png;base64,iVBORw0KGgo=");
    let body = format!("{}{}\"}}]}}]}}", beginning(&part), "x".repeat(2 * MIB));
    gateway.client().await.request(&Method::POST, CHAT, &[], body.as_bytes()).await.is_ok();
    assert_eq!(mock.requests()[0].body.len(), body.len());
    assert!(started.elapsed() < Duration::from_secs(20));
}
