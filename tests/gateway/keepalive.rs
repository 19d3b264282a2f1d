//! Connections are used again, on both sides.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::json;

use crate::harness::{Setup, Stage, post_h2, soon};

/// One for the looks at the models, one for requests, and some more when the client is faster with its next request
/// than the gateway with putting the connection back.
const FEW: usize = 12;

fn request(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

#[tokio::test]
async fn a_hundred_requests_use_one_client_connection_and_few_upstream_connections() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let mut client = gateway.client().await;
    for n in 0..100 {
        let answer = client.chat(request(n % 2 == 0)).await;
        assert!(!answer.is_ok().says_close());
    }
    assert_eq!(mock.requests().len(), 100);
    assert!(mock.accepted_connections() <= FEW, "{} connections", mock.accepted_connections());
}

#[tokio::test]
async fn a_hundred_requests_over_one_http2_connection_use_few_upstream_connections() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let mut client = gateway.h2().await;
    for n in 0..100 {
        post_h2(&mut client, gateway.addr, "/v1/chat/completions", request(n % 2 == 0).into(), false).await.is_ok();
    }
    assert!(mock.accepted_connections() <= FEW, "{} connections", mock.accepted_connections());
}

#[tokio::test]
async fn different_kinds_of_requests_share_a_connection() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let mut client = gateway.client().await;
    for _ in 0..5 {
        client.get("/healthz").await.is_ok();
        client.chat(request(true)).await.is_ok();
        client.get("/v1/models").await.is_ok();
        client.get("/v1/nothing").await.is_error(404, "route_not_found", "");
        client.chat(request(false)).await.is_ok();
        let body = request(false);
        client.chat_chunked(body.as_bytes(), 10).await.is_ok();
        client.chat("{").await.is_error(400, "invalid_json", "");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_the_end_of_its_connection() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    for stream in [false, true] {
        let body = request(stream);
        let mut client = gateway.client().await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
            crate::harness::BEARER,
            body.len()
        );
        client.raw.send(head).await.unwrap();
        let (status, headers) = client.read_head().await;
        assert_eq!((status, headers.get("transfer-encoding")), (200, None), "{stream}");
        let mut text = String::new();
        while let Some(piece) = client.piece().await {
            text.push_str(&piece);
        }
        assert_eq!(text.ends_with("data: [DONE]\n\n"), stream, "{text}");
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn a_pooled_connection_that_died_is_replaced_without_the_client_noticing() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let answer = r#"{"id":"c","choices":[{"index":0}]}"#;
    for stream in [false, true] {
        let mut client = gateway.client().await;
        client.send_chat(request(false)).await;
        let mut pooled = stage.caller().await;
        pooled.answer(answer).await;
        client.answer().await.is_ok();
        // the second request comes on the same connection, which ends instead of answering
        client.send_chat(request(stream)).await;
        assert!(soon("the second request", pooled.read_request()).await);
        pooled.reset();
        let mut fresh = stage.caller().await;
        if stream {
            fresh.begin_stream().await;
            fresh.chunk(crate::harness::chunk_of_stream("x", "a") + &crate::harness::finish_of_stream("x")).await;
            fresh.end_chunks().await;
        } else {
            fresh.answer(answer).await;
        }
        let seen = client.answer().await;
        assert_eq!(seen.is_ok().header("spass-attempts"), Some("first;s=200"));
        drop(fresh);
    }
}

#[tokio::test]
async fn a_target_whose_fresh_connection_dies_too_is_not_tried_again() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let mut client = gateway.client().await;
    client.send_chat(request(false)).await;
    let mut pooled = stage.caller().await;
    pooled.answer(r#"{"id":"c","choices":[{"index":0}]}"#).await;
    client.answer().await.is_ok();
    client.send_chat(request(false)).await;
    assert!(soon("the second request", pooled.read_request()).await);
    pooled.reset();
    stage.caller().await.reset();
    client.answer().await.is_error(502, "upstream_error", "");
    assert!(stage.is_quiet());
}
