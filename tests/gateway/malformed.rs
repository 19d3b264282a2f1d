//! What is no HTTP never crashes the process and never reaches an upstream.

use dgx_gateway_testkit::client::RawClient;

use crate::harness::{BEARER, Setup, Stage, soon};

#[tokio::test]
async fn malformed_requests_are_refused_or_cut_and_reach_nobody() {
    let mut stage = Stage::open().await;
    let mut gateway = Setup::with_upstream(stage.addr).start().await;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let length = body.len();
    let post = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no request line", b"GARBAGE\r\n\r\n".to_vec()),
        ("bytes", (0..=255).collect()),
        ("no version", b"GET /v1/models\r\n\r\n".to_vec()),
        ("unknown version", b"GET /v1/models HTTP/9.9\r\nhost: x\r\n\r\n".to_vec()),
        ("space in the path", b"GET /v1/ models HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("header without colon", format!("{post}no-colon\r\ncontent-length: {length}\r\n\r\n{body}").into()),
        ("space before the colon", format!("{post}content-length : {length}\r\n\r\n{body}").into()),
        ("empty header name", format!("{post}: x\r\ncontent-length: {length}\r\n\r\n{body}").into()),
        ("nul in a header", format!("{post}x: a\0b\r\ncontent-length: {length}\r\n\r\n{body}").into()),
        ("two lengths", format!("{post}content-length: {length}\r\ncontent-length: 5\r\n\r\n{body}").into()),
        ("length list", format!("{post}content-length: {length}, 5\r\n\r\n{body}").into()),
        ("negative length", format!("{post}content-length: -1\r\n\r\n{body}").into()),
        ("signed length", format!("{post}content-length: +{length}\r\n\r\n{body}").into()),
        ("hexadecimal length", format!("{post}content-length: 0x39\r\n\r\n{body}").into()),
        ("huge length", format!("{post}content-length: 99999999999999999999999\r\n\r\n{body}").into()),
        ("unknown coding", format!("{post}transfer-encoding: gzip\r\n\r\n{body}").into()),
        ("bad chunk size", format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n").into()),
        ("huge chunk size", format!("{post}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{body}").into()),
        ("no chunk end", format!("{post}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}XX0\r\n\r\n").into()),
        ("head without end", format!("{post}x: {}", "y".repeat(2 << 20)).into()),
        ("too many headers", format!("{post}{}\r\n", "x: y\r\n".repeat(2000)).into()),
        ("half a preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r".to_vec()),
        ("frames of nothing", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0xff; 200]].concat()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(8)),
    ];
    for (what, bytes) in cases {
        let mut client = RawClient::connect(gateway.addr).await.unwrap();
        // the gateway may hang up before everything was sent
        let sent = client.send(&bytes).await.is_ok();
        let closed = client.half_close().await.is_ok();
        if sent
            && closed
            && let Ok(answer) = soon(what, client.read_to_end()).await
        {
            let text = String::from_utf8_lossy(&answer);
            let fine = !text.starts_with("HTTP") || text.starts_with("HTTP/1.1 4");
            assert!(fine, "{what}: {text}");
        }
        assert!(gateway.runs(), "{what} ended the process");
        assert!(stage.is_quiet(), "{what} reached the upstream");
    }
    gateway.client().await.get("/healthz").await.is_ok();
    gateway.idle().await;
    assert!(stage.is_quiet());
}

#[tokio::test]
async fn length_and_chunks_together_are_never_two_requests() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let post = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n");
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let smuggled = format!("{post}content-length: {}\r\n\r\n{body}", body.len());
    for (first, second) in
        [("content-length: 5", "transfer-encoding: chunked"), ("transfer-encoding: chunked", "content-length: 5")]
    {
        let mut client = RawClient::connect(gateway.addr).await.unwrap();
        client.send(format!("{post}{first}\r\n{second}\r\n\r\n0\r\n\r\n{smuggled}")).await.unwrap();
        client.half_close().await.unwrap();
        let answer = soon("an answer", client.read_to_end()).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(text.matches("HTTP/1.1 ").count(), usize::from(!text.is_empty()), "{text}");
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
        assert!(stage.is_quiet(), "the second request got through");
    }
    gateway.idle().await;
    assert!(stage.is_quiet());
}
