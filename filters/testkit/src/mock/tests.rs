//! Each behaviour, seen by the raw clients.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::{Method, Request, StatusCode, Version};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::client::{H2Client, RawClient, RawResponse, WireError};

const SOON: Duration = Duration::from_secs(5);
const CHAT: &str = "/v1/chat/completions";
const HOUR: Duration = Duration::from_secs(3600);

fn body(stream: bool) -> String {
    json!({"model": "m", "messages": [], "stream": stream, "stream_options": {"include_usage": true}}).to_string()
}

async fn ask(mock: &MockUpstream, path: &str, body: &str) -> Result<RawResponse, WireError> {
    let mut client = RawClient::connect(mock.addr()).await?;
    client.post_json(path, &[], body).await?;
    client.read_response().await
}

async fn playing(behaviour: Behaviour) -> MockUpstream {
    MockUpstream::start(Script::always(behaviour)).await.unwrap()
}

fn json_of(response: &RawResponse) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

#[tokio::test]
async fn answers_chat_completions_embeddings_and_models() {
    let mock = playing(Behaviour::default()).await;
    let chat = json_of(&ask(&mock, CHAT, &body(false)).await.unwrap());
    assert_eq!(chat["choices"][0]["message"]["content"], "Hello from the mock.");
    assert_eq!(chat["usage"]["total_tokens"], 16);
    let text = json_of(&ask(&mock, "/v1/completions", r#"{"model":"m","prompt":"x"}"#).await.unwrap());
    assert_eq!(text["choices"][0]["text"], "Hello from the mock.");
    let vectors = json_of(&ask(&mock, "/v1/embeddings", r#"{"model":"m","input":["a","b"]}"#).await.unwrap());
    assert_eq!(vectors["data"].as_array().unwrap().len(), 2);
    let mut client = RawClient::connect(mock.addr()).await.unwrap();
    client.send_head(&Method::GET, "/v1/models", &[]).await.unwrap();
    let models = json_of(&client.read_response().await.unwrap());
    assert!(models["data"].as_array().unwrap().iter().any(|model| model["id"] == "reset-mid-stream"));
}

/// The data of the events of a stream, each under the name that its type is.
fn named_events(response: &RawResponse) -> Vec<Value> {
    let events = response.pieces.iter().map(|piece| {
        let text = std::str::from_utf8(piece).unwrap();
        let (name, data) = text.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    });
    events.collect()
}

#[tokio::test]
async fn answers_responses_messages_and_counts() {
    let mock = playing(Behaviour::default()).await;
    let response = json_of(&ask(&mock, "/v1/responses", r#"{"model":"m","input":"x"}"#).await.unwrap());
    assert_eq!(response["output"][0]["content"][0]["text"], "Hello from the mock.");
    assert_eq!(response["usage"]["total_tokens"], 16);
    let message = json_of(&ask(&mock, "/v1/messages", &body(false)).await.unwrap());
    assert_eq!(
        (&message["content"][0]["text"], &message["usage"]["output_tokens"]),
        (&json!("Hello from the mock."), &json!(4))
    );
    let count = json_of(&ask(&mock, "/v1/messages/count_tokens", &body(true)).await.unwrap());
    assert_eq!(count, json!({"input_tokens": 12}));
}

#[tokio::test]
async fn streams_of_named_events_have_a_last_one_unless_they_are_truncated() {
    for (path, text, last) in [
        ("/v1/responses", "response.output_text.delta", "response.completed"),
        ("/v1/messages", "content_block_delta", "message_stop"),
    ] {
        let whole = named_events(&ask(&playing(Behaviour::default()).await, path, &body(true)).await.unwrap());
        assert_eq!(whole.iter().filter(|event| event["type"] == text).count(), 4);
        assert_eq!(whole.last().unwrap()["type"], last);
        if path == "/v1/responses" {
            assert!(whole.iter().enumerate().all(|(n, event)| event["sequence_number"] == n));
        }
        let cut = named_events(&ask(&playing(Behaviour::TruncatedStream).await, path, &body(true)).await.unwrap());
        assert_eq!(cut.last().unwrap()["type"], text);
    }
}

#[tokio::test]
async fn streams_arrive_in_pieces_with_usage_last() {
    let pause = Duration::from_millis(30);
    let mock = playing(Behaviour::Answer(Answer::pieces(["a", "b"]).every(pause))).await;
    let mut client = RawClient::connect(mock.addr()).await.unwrap();
    client.post_json(CHAT, &[], &body(true)).await.unwrap();
    let (_, headers) = client.read_head().await.unwrap();
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    let (start, mut events) = (Instant::now(), Vec::new());
    while let Some(piece) = client.read_piece().await.unwrap() {
        events.push(piece);
    }
    assert!(start.elapsed() >= pause * 3);
    assert_eq!(events.len(), 6);
    assert_eq!(events[5], "data: [DONE]\n\n");
    let usage: Value = serde_json::from_slice(events[4].strip_prefix(b"data: ").unwrap()).unwrap();
    assert_eq!(usage["usage"]["prompt_tokens"], 12);
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_records_them() {
    let mock = MockUpstream::start(Script::queue([Behaviour::status(StatusCode::TOO_MANY_REQUESTS)])).await.unwrap();
    let mut client = RawClient::connect(mock.addr()).await.unwrap();
    client.post_json(CHAT, &[("x-one", "1")], &body(false)).await.unwrap();
    assert_eq!(client.read_response().await.unwrap().status, StatusCode::TOO_MANY_REQUESTS);
    client.send_head(&Method::POST, CHAT, &[("transfer-encoding", "chunked")]).await.unwrap();
    for chunk in ["{\"model\":", "\"m\"}", ""] {
        client.send_chunk(chunk.as_bytes()).await.unwrap();
    }
    assert_eq!(client.read_response().await.unwrap().status, StatusCode::OK);
    let requests = mock.wait_for_ends(2, SOON).await.unwrap();
    assert_eq!(requests[0].headers["x-one"], "1");
    assert_eq!((&requests[1].body[..], requests[1].version), (&b"{\"model\":\"m\"}"[..], Version::HTTP_11));
    assert!(requests.iter().all(|one| matches!(one.ending, Ending::Complete { .. })));
    assert_eq!((mock.open_connections(), mock.accepted_connections()), (1, 1));
    drop(client);
    mock.wait_for_connections(0, SOON).await.unwrap();
}

#[tokio::test]
async fn resets_at_every_moment() {
    for behaviour in [Behaviour::ResetOnAccept, Behaviour::ResetOnHeaders, Behaviour::ResetAfterRequestBytes(10)] {
        let mock = playing(behaviour.clone()).await;
        let error = ask(&mock, CHAT, &"x".repeat(100_000)).await.unwrap_err();
        let broke = matches!(&error, WireError::Io(io) if io.kind() == io::ErrorKind::BrokenPipe);
        assert!(error.is_reset() || broke, "{behaviour:?}: {error}");
    }
    let mock = playing(Behaviour::ResetMidResponse(100)).await;
    for stream in [false, true] {
        let mut client = RawClient::connect(mock.addr()).await.unwrap();
        client.post_json(CHAT, &[], &body(stream)).await.unwrap();
        assert_eq!(client.read_head().await.unwrap().0, StatusCode::OK);
        let (mut read, error) = (0, loop_until_error(&mut client).await);
        read += error.0;
        assert!(read <= 100 && error.1.is_reset(), "{}", error.1);
    }
}

async fn loop_until_error(client: &mut RawClient) -> (usize, WireError) {
    let mut read = 0;
    loop {
        match client.read_piece().await {
            Ok(Some(piece)) => read += piece.len(),
            Ok(None) => panic!("the body ended"),
            Err(error) => return (read, error),
        }
    }
}

#[tokio::test]
async fn a_closed_port_refuses() {
    assert!(RawClient::connect(dead_addr().await.unwrap()).await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_is_seen_in_each_phase() {
    let slow = Behaviour::Answer(Answer { before_body: HOUR, ..Answer::default() });
    let late = Behaviour::Answer(Answer { before_head: HOUR, ..Answer::default() });
    let cases = [
        (Behaviour::HangBeforeHeaders, Phase::BeforeHead),
        (Behaviour::HangAfterHeaders, Phase::ResponseBody),
        (late, Phase::BeforeHead),
        (slow, Phase::ResponseBody),
        (Behaviour::SlowBody { piece: 1, pause: Duration::from_millis(5) }, Phase::ResponseBody),
    ];
    for (behaviour, during) in cases {
        let mock = playing(behaviour.clone()).await;
        let mut client = RawClient::connect(mock.addr()).await.unwrap();
        client.post_json(CHAT, &[], &body(false)).await.unwrap();
        if during == Phase::ResponseBody {
            client.read_head().await.unwrap();
        } else {
            mock.wait_for_requests(1, SOON).await.unwrap();
        }
        client.abort().unwrap();
        let seen = mock.wait_for_cancel(SOON).await.unwrap();
        assert!(matches!(seen.ending, Ending::Cancelled { during: phase, .. } if phase == during), "{behaviour:?}");
        mock.wait_for_connections(0, SOON).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_leaves_inside_its_body_is_seen() {
    let mock = playing(Behaviour::default()).await;
    let mut client = RawClient::connect(mock.addr()).await.unwrap();
    client.send_head(&Method::POST, CHAT, &[("content-length", "100")]).await.unwrap();
    client.send("half").await.unwrap();
    client.half_close().await.unwrap();
    let seen = mock.wait_for_cancel(SOON).await.unwrap();
    assert!(matches!(seen.ending, Ending::Cancelled { during: Phase::RequestBody, .. }));
    assert_eq!(seen.body, "half");
}

#[tokio::test]
async fn bodies_can_be_slow_truncated_or_of_the_wrong_length() {
    let pause = Duration::from_millis(1);
    let slow = ask(&playing(Behaviour::SlowBody { piece: 50, pause }).await, CHAT, &body(false)).await.unwrap();
    assert!(json_of(&slow).is_object());
    let mock = playing(Behaviour::TruncatedStream).await;
    let text = ask(&mock, CHAT, &body(true)).await.unwrap().text();
    assert!(text.contains("mock.") && !text.contains("[DONE]") && !text.contains("\"stop\""));
    assert!(serde_json::from_slice::<Value>(&ask(&mock, CHAT, &body(false)).await.unwrap().body).is_err());
    let error = ask(&playing(Behaviour::WrongContentLength).await, CHAT, &body(false)).await.unwrap_err();
    assert!(matches!(error, WireError::Cut), "{error}");
}

#[tokio::test]
async fn bytes_go_out_as_they_are() {
    let mock = playing(Behaviour::RawBytes(Bytes::from_static(b"HTTP/1.1 2000 ??\r\n"))).await;
    let mut client = RawClient::connect(mock.addr()).await.unwrap();
    client.post_json(CHAT, &[], &body(false)).await.unwrap();
    assert_eq!(client.read_to_end().await.unwrap(), "HTTP/1.1 2000 ??\r\n");
    let pieces = vec![(Duration::ZERO, Bytes::from_static(b"data: a")), (Duration::ZERO, Bytes::from_static(b"b\n\n"))];
    let response = ask(&playing(Behaviour::SseRaw(pieces)).await, CHAT, &body(true)).await.unwrap();
    assert_eq!(response.pieces, ["data: a", "b\n\n"]);
}

#[tokio::test]
async fn a_chunked_answer_is_read_at_whatever_byte_it_is_cut() {
    let raw = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nx-last: 1\r\n\r\n";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut client = RawClient::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    peer.set_nodelay(true).unwrap();
    let writing = tokio::spawn(async move {
        for byte in raw.as_bytes() {
            peer.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        peer
    });
    let response = client.read_response().await.unwrap();
    assert_eq!(response.pieces, ["abc", "de"]);
    assert_eq!(response.trailers["x-last"], "1");
    drop(writing.await.unwrap());
    assert!(matches!(client.read_head().await, Err(WireError::Closed)));
}

#[tokio::test]
async fn gzip_comes_unasked() {
    let response = ask(&playing(Behaviour::GzipAnyway).await, CHAT, &body(false)).await.unwrap();
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert!(response.body.starts_with(&[0x1f, 0x8b]));
}

#[tokio::test]
async fn large_bodies_are_echoed_as_a_digest() {
    let mock = playing(Behaviour::Echo).await;
    let large = "x".repeat(33 * 1024 * 1024);
    let sized = json_of(&ask(&mock, "/v1/anything?x=1", &large).await.unwrap());
    let mut client = RawClient::connect(mock.addr()).await.unwrap();
    client.send_head(&Method::POST, "/v1/anything?x=1", &[("transfer-encoding", "chunked")]).await.unwrap();
    for chunk in large.as_bytes().chunks(1 << 20) {
        client.send_chunk(chunk).await.unwrap();
    }
    client.send_chunk(b"").await.unwrap();
    let chunked = json_of(&client.read_response().await.unwrap());
    assert_eq!((&sized["length"], &sized["path"]), (&json!(large.len()), &json!("/v1/anything?x=1")));
    assert_eq!(sized["sha256"], chunked["sha256"]);
    assert_eq!(chunked["headers"]["transfer-encoding"], "chunked");
}

#[tokio::test]
async fn a_model_or_a_header_names_the_behaviour() {
    let named = Named::new(3, Duration::ZERO, Duration::ZERO);
    let mock = MockUpstream::start(Script::default().choose_by_name(move |name| named.behaviour(name))).await.unwrap();
    let status = async |model: &str| ask(&mock, CHAT, &json!({"model": model}).to_string()).await.unwrap().status;
    assert_eq!(status("status-503").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status("bench").await, StatusCode::OK);
    assert_eq!(status("of no meaning").await, StatusCode::OK);
    let stream = ask(&mock, CHAT, r#"{"model":"bench-stream","stream":true}"#).await.unwrap();
    assert_eq!(stream.pieces.len(), 3 + 1);
    let error = ask(&mock, CHAT, r#"{"model":"reset-mid-stream","stream":true}"#).await.unwrap_err();
    assert!(error.is_reset());
    let mut client = RawClient::connect(mock.addr()).await.unwrap();
    client.post_json(CHAT, &[(BEHAVIOUR_HEADER, "status-418")], "{}").await.unwrap();
    assert_eq!(client.read_response().await.unwrap().status, StatusCode::IM_A_TEAPOT);
    assert!(names().all(|name| Named::default().behaviour(name).is_some()));
}

fn h2_request(body: &str) -> Request<Bytes> {
    Request::post(format!("http://mock{CHAT}")).body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

#[tokio::test]
async fn speaks_http2_on_the_same_port() {
    let mock = playing(Behaviour::default()).await;
    let mut client = H2Client::connect(mock.addr()).await.unwrap();
    let (one, large) = (h2_request(&body(true)), h2_request(&"x".repeat(33 * 1024 * 1024)));
    let answer = client.request(one).await.unwrap();
    assert!(answer.body.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(client.request(large).await.unwrap().status, StatusCode::OK);
    let requests = mock.wait_for_ends(2, SOON).await.unwrap();
    assert_eq!((requests[0].version, requests[1].body.len()), (Version::HTTP_2, 33 * 1024 * 1024));
    assert_eq!(mock.accepted_connections(), 1);
}

#[tokio::test]
async fn http2_streams_are_reset_and_resets_are_seen() {
    let script = Script::queue([Behaviour::ResetOnHeaders, Behaviour::ResetMidResponse(100)]);
    let mock = MockUpstream::start(script.then(Behaviour::HangAfterHeaders)).await.unwrap();
    let mut client = H2Client::connect(mock.addr()).await.unwrap();
    let error = client.request(h2_request(&body(true))).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    let mut exchange = client.start(h2_request("").map(drop)).await.unwrap();
    exchange.send(body(true).into()).await.unwrap();
    exchange.end().unwrap();
    assert_eq!(exchange.read_head().await.unwrap().status(), StatusCode::OK);
    assert_eq!(exchange.read_piece().await.unwrap().unwrap().len(), 100);
    assert_eq!(exchange.read_piece().await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));

    let mut exchange = client.start(h2_request("").map(drop)).await.unwrap();
    exchange.end().unwrap();
    exchange.read_head().await.unwrap();
    exchange.reset(Reason::CANCEL);
    let seen = mock.wait_for_cancel(SOON).await.unwrap();
    assert!(matches!(seen.ending, Ending::Cancelled { during: Phase::ResponseBody, .. }));
}

#[tokio::test]
async fn an_http2_connection_that_vanishes_is_seen() {
    let mock = playing(Behaviour::HangBeforeHeaders).await;
    let mut client = H2Client::connect(mock.addr()).await.unwrap();
    let mut exchange = client.start(h2_request("").map(drop)).await.unwrap();
    exchange.end().unwrap();
    mock.wait_for_requests(1, SOON).await.unwrap();
    drop((exchange, client));
    mock.wait_for_cancel(SOON).await.unwrap();
    mock.wait_for_connections(0, SOON).await.unwrap();
}

#[tokio::test]
async fn stops_when_dropped() {
    let mock = playing(Behaviour::HangBeforeHeaders).await;
    let addr = mock.addr();
    let mut client = RawClient::connect(addr).await.unwrap();
    client.post_json(CHAT, &[], &body(false)).await.unwrap();
    mock.wait_for_requests(1, SOON).await.unwrap();
    drop(mock);
    assert!(client.read_head().await.is_err());
    assert!(RawClient::connect(addr).await.is_err());
}

#[tokio::test]
async fn waiting_ends() {
    let mock = playing(Behaviour::default()).await;
    assert_eq!(mock.wait_for_cancel(Duration::from_millis(1)).await.unwrap_err(), WaitedTooLong);
}
