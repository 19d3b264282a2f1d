//! Answers that come compressed although plain ones were asked for.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use super::{asked, last_error, rest, started};
use crate::harness::{Caller, Stage, chunk_of_stream, finish_of_stream};

const MIB: usize = 1024 * 1024;

/// Compressed pieces, each of which can be read as soon as it is there.
fn gzip(pieces: &[&str]) -> Vec<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut out: Vec<Vec<u8>> = pieces
        .iter()
        .map(|piece| {
            encoder.write_all(piece.as_bytes()).unwrap();
            encoder.flush().unwrap();
            std::mem::take(encoder.get_mut())
        })
        .collect();
    out.push(encoder.finish().unwrap());
    out
}

async fn begin(caller: &mut Caller, coding: &str) {
    assert_eq!(caller.header("accept-encoding"), Some("identity"));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n";
    caller.write(format!("{head}content-encoding: {coding}\r\n\r\n")).await;
}

#[tokio::test]
async fn a_compressed_stream_arrives_plain_and_no_event_waits() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    let events = [
        chunk_of_stream("up", "né"),
        chunk_of_stream("up", "🦀"),
        finish_of_stream("up"),
        "data: [DONE]\n\n".to_owned(),
    ];
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let zstd = zstd::encode_all(events.concat().as_bytes(), 1).unwrap();
    for (coding, pieces) in [("gzip", gzip(&events)), ("X-GZIP", gzip(&events)), ("zstd", vec![zstd])] {
        let (mut client, mut caller) = asked(&gateway, &mut stage, false).await;
        begin(&mut caller, coding).await;
        let mut seen = String::new();
        for (n, piece) in pieces.iter().enumerate() {
            for byte in piece {
                caller.chunk([*byte]).await;
            }
            if n == 0 {
                let (status, headers) = client.read_head().await;
                assert_eq!((status, headers.get("content-encoding")), (200, None));
            }
            if let Some(event) = events.get(n).filter(|_| coding != "zstd") {
                while !seen.ends_with(&event.replace("\"up\"", "\"m\"")) {
                    seen += &client.piece().await.unwrap();
                }
            }
        }
        caller.end_chunks().await;
        seen += &rest(&mut client).await;
        assert_eq!(super::without_own_events(&seen), events.concat().replace("\"up\"", "\"m\""), "{coding}");
        drop(caller);
    }
}

#[tokio::test]
async fn a_compressed_stream_that_is_damaged_ends_with_an_error_after_what_was_whole() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    let first = chunk_of_stream("up", "first");
    for damage in [&b"\xff\xff\xff\xff\xff\xff\xff\xff"[..], b""] {
        let (mut client, mut caller) = asked(&gateway, &mut stage, false).await;
        begin(&mut caller, "gzip").await;
        caller.chunk(&gzip(&[&first])[0]).await;
        client.read_head().await;
        if damage.is_empty() {
            caller.end_chunks().await;
        } else {
            caller.chunk_and_end(damage).await;
        }
        let text = rest(&mut client).await;
        assert!(text.starts_with(&first.replace("\"up\"", "\"m\"")), "{text}");
        assert_eq!(last_error(&text), json!("upstream_error"));
        drop(caller);
    }
    for coding in ["br", "gzip, gzip", "gzip"] {
        let (mut client, mut caller) = asked(&gateway, &mut stage, false).await;
        begin(&mut caller, coding).await;
        caller.chunk_and_end(&first).await; // plain
        client.answer().await.is_error(502, "upstream_error", "");
        drop(caller);
    }
}

#[tokio::test]
async fn a_compressed_answer_arrives_plain_and_stays_within_its_limit() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    let request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let answer =
        |text: &str| json!({"model": "up", "choices": [{"index": 0, "message": {"content": text}}]}).to_string();
    let large = "né ".repeat(MIB);
    for (status, coding, body, plain) in [
        (200, "gzip", gzip(&[&answer("né")]).concat(), answer("né")),
        (200, "gzip", gzip(&[&answer(&large)]).concat(), answer(&large)),
        (200, "zstd", zstd::encode_all(answer("né").as_bytes(), 1).unwrap(), answer("né")),
        (200, "identity", answer("né").into_bytes(), answer("né")),
        (400, "gzip", gzip(&["{\"error\":{\"message\":\"bad words\",\"code\":400}}"]).concat(), String::new()),
    ] {
        let mut client = gateway.client().await;
        client.send_chat(&request).await;
        let mut caller = stage.caller().await;
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\n");
        caller.write([format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()).await;
        let seen = client.answer().await;
        if status == 200 {
            assert_eq!(seen.is_ok().text(), plain.replace("\"up\"", "\"m\""), "{coding}");
            assert_eq!(
                (seen.header("content-encoding"), seen.header("content-length")),
                (None, Some(&*seen.body.len().to_string()))
            );
        } else {
            seen.is_error(400, "upstream_bad_request", "");
            assert!(seen.text().contains("bad words"), "{}", seen.text());
        }
        drop(caller);
    }
    // 256 MiB of blanks in a few hundred KiB: more than any answer may have
    let bomb = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        (0..256).for_each(|_| encoder.write_all(&vec![b' '; MIB]).unwrap());
        encoder.finish().unwrap()
    };
    gateway.forget_peak();
    let before = gateway.memory("VmRSS");
    let mut client = gateway.client().await;
    client.send_chat(&request).await;
    let mut caller = stage.caller().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n";
    caller.write([format!("{head}content-length: {}\r\n\r\n", bomb.len()).as_bytes(), &bomb].concat()).await;
    client.answer().await.is_error(502, "upstream_error", "");
    let grown = gateway.memory("VmHWM").saturating_sub(before);
    assert!(grown < 220 * MIB, "{} MiB", grown / MIB);
}

#[tokio::test]
async fn a_compressed_count_arrives_plain() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    let request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let mut client = gateway.client().await;
    let headers = [("content-type", "application/json")];
    client.send(&http::Method::POST, "/v1/messages/count_tokens", &headers, request.as_bytes()).await;
    let mut caller = stage.caller().await;
    let body = gzip(&["{\"input_tokens\": 4242}"]).concat();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n";
    caller.write([format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()).await;
    assert_eq!(client.answer().await.is_ok().json()["input_tokens"], 4242);
}
