//! Recordings on their way to models: what changes in them, who serves them, and what comes back.

use std::net::SocketAddr;
use std::time::Duration;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script, dead_addr};
use http::StatusCode;
use serde_json::{Value, json};

use super::form::{ALL, MIB, ORDERS, Order, SIZES, Sent, file, form, recording, send, send_with, text};
use crate::harness::{Answer, Gateway, Setup, Stage, backend, model};

const PATH: &str = "/v1/audio/transcriptions";
const FIRST: &str = "name-at-the-first";
const SECOND: &str = "the/second-one";

fn speech(id: &str, addr: SocketAddr) -> Value {
    let mut backend = backend(id, addr);
    backend["protocols"] = json!(["transcription", "translation"]);
    backend
}

fn http2(id: &str, addr: SocketAddr) -> Value {
    let mut backend = speech(id, addr);
    backend["http2"] = true.into();
    backend
}

fn audio(route: &[(&str, &str)]) -> Value {
    let mut model = model("speech", route);
    model["type"] = "audio".into();
    model
}

async fn mock() -> MockUpstream {
    MockUpstream::start(Script::default().with_looks_apart()).await.unwrap()
}

async fn two(first: Value, second: Value) -> Gateway {
    Setup::new().backend(first).backend(second).model(audio(&[("first", FIRST), ("second", SECOND)])).start().await
}

async fn one() -> (Gateway, MockUpstream) {
    let mock = mock().await;
    let setup = Setup::new().backend(speech("first", mock.addr())).model(audio(&[("first", FIRST)]));
    (setup.start().await, mock)
}

#[tokio::test]
async fn the_model_is_renamed_on_the_way_whatever_comes_first() {
    let (gateway, mock) = one().await;
    for how in ALL {
        for order in ORDERS {
            for size in SIZES {
                let answer = send(&gateway, PATH, how, &recording(size, order, "speech")).await;
                let seen = mock.requests().pop().unwrap();
                let expected = recording(size, order, FIRST);
                assert!(seen.body == expected, "{how:?} {order:?} {size}");
                assert_eq!(seen.path, "/v1/audio/transcriptions");
                if matches!(how, Sent::Sized | Sent::Http2Sized) {
                    assert_eq!(seen.headers["content-length"], expected.len().to_string());
                }
                let told = answer.is_ok().json();
                assert_eq!(told["text"], "Hello from the mock.");
                assert_eq!((&told["file"]["length"], &told["fields"]["language"]), (&json!(size), &json!("en")));
                assert_eq!(answer.header("spass-attempts"), Some("first;s=200"));
                assert_eq!(answer.header("spass-resolved-model"), Some("speech"));
            }
        }
    }
    send(&gateway, "/v1/audio/translations", Sent::Sized, &recording(10, Order::FileFirst, "speech")).await.is_ok();
    assert_eq!(mock.requests().pop().unwrap().path, "/v1/audio/translations");
}

#[tokio::test]
async fn only_listed_headers_reach_the_backend() {
    let (gateway, mock) = one().await;
    let headers = [("cookie", "a=b"), ("spass-stt-mode", "continuous"), ("x-other", "1")];
    send_with(&gateway, PATH, Sent::Sized, &recording(10, Order::FileFirst, "speech"), &headers).await.is_ok();
    let seen = mock.requests().pop().unwrap().headers;
    let mut names: Vec<&str> = seen.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-request-id",
    ];
    assert_eq!(names, expected);
    assert_eq!(seen["content-type"], super::form::CONTENT_TYPE);
}

fn served_by_second(answer: &Answer, second: &MockUpstream, order: Order, size: usize, attempts: &str) {
    assert_eq!(answer.is_ok().header("spass-attempts"), Some(attempts));
    let seen = second.requests().pop().unwrap();
    assert!(seen.body == recording(size, order, SECOND), "{attempts} {order:?}: {} bytes", seen.body.len());
}

#[tokio::test]
async fn the_second_backend_gets_every_byte_when_the_first_fails_at_any_point() {
    let (first, second) = (mock().await, mock().await);
    let gateway = two(speech("first", first.addr()), speech("second", second.addr())).await;
    fails_over(&gateway, &first, &second, http::Version::HTTP_11).await;
}

#[tokio::test]
async fn the_second_backend_gets_every_byte_over_http2_too() {
    let (first, second) = (mock().await, mock().await);
    let gateway = two(http2("first", first.addr()), http2("second", second.addr())).await;
    fails_over(&gateway, &first, &second, http::Version::HTTP_2).await;
}

async fn fails_over(gateway: &Gateway, first: &MockUpstream, second: &MockUpstream, version: http::Version) {
    for size in [1000, 2 * MIB] {
        for (failure, attempts) in [
            (Behaviour::ResetOnHeaders, "first;e=reset, second;s=200"),
            (Behaviour::ResetAfterRequestBytes(size / 2), "first;e=reset, second;s=200"),
            (Behaviour::ResetAfterRequestBytes(usize::MAX), "first;e=reset, second;s=200"),
            (Behaviour::status(StatusCode::INTERNAL_SERVER_ERROR), "first;s=500, second;s=200"),
            (Behaviour::ResetMidResponse(20), "first;s=200, second;s=200"),
        ] {
            for order in ORDERS {
                for how in ALL {
                    first.push(failure.clone());
                    let answer = send(gateway, PATH, how, &recording(size, order, "speech")).await;
                    served_by_second(&answer, second, order, size, attempts);
                }
            }
        }
    }
    assert!(second.requests().iter().all(|request| request.version == version));
    gateway.idle().await;
}

#[tokio::test]
async fn the_second_backend_serves_when_the_first_is_out_of_quota() {
    let (first, second) = (mock().await, mock().await);
    let gateway = two(speech("first", first.addr()), speech("second", second.addr())).await;
    first.push(Behaviour::status(StatusCode::TOO_MANY_REQUESTS));
    let answer = send(&gateway, PATH, Sent::Chunked, &recording(MIB, Order::ModelFirst, "speech")).await;
    served_by_second(&answer, &second, Order::ModelFirst, MIB, "first;s=429, second;s=200");
}

#[tokio::test]
async fn the_second_backend_serves_when_the_first_cannot_be_reached() {
    let second = mock().await;
    let gateway = two(speech("first", dead_addr().await.unwrap()), speech("second", second.addr())).await;
    for order in ORDERS {
        let answer = send(&gateway, PATH, Sent::Sized, &recording(MIB, order, "speech")).await;
        let attempts = answer.header("spass-attempts").unwrap().to_owned();
        assert!(["first;e=connect, second;s=200", "second;s=200"].contains(&attempts.as_str()), "{attempts}");
        served_by_second(&answer, &second, order, MIB, &attempts);
    }
}

#[tokio::test]
async fn backends_that_die_one_after_the_other_while_the_client_still_sends_are_replaced() {
    let (mut first, mut second, third) = (Stage::open_at_head().await, Stage::open_at_head().await, mock().await);
    let route = [("first", FIRST), ("second", "x"), ("third", SECOND)];
    let setup = Setup::new().backend(speech("first", first.addr)).backend(speech("second", second.addr));
    let gateway = setup.backend(speech("third", third.addr())).model(audio(&route)).start().await;
    let body = recording(6 * MIB, Order::ModelFirst, "speech");
    let mut client = gateway.client().await;
    let length = body.len().to_string();
    let headers = [("content-type", super::form::CONTENT_TYPE), ("content-length", &length)];
    client.head(&http::Method::POST, PATH, &headers).await;
    for (stage, piece) in [(&mut first, &body[..2 * MIB]), (&mut second, &body[2 * MIB..4 * MIB])] {
        client.raw.send(piece).await.unwrap();
        let mut caller = stage.caller().await;
        while caller.body.len() < MIB {
            assert!(caller.read_some().await);
        }
        caller.reset();
    }
    client.raw.send(&body[4 * MIB..]).await.unwrap();
    let answer = client.answer().await;
    served_by_second(&answer, &third, Order::ModelFirst, 6 * MIB, "first;e=reset, second;e=reset, third;s=200");
    assert!(!answer.says_close());
}

#[tokio::test]
async fn a_refusal_is_passed_on_and_tried_nowhere_else() {
    let (first, second) = (mock().await, mock().await);
    let gateway = two(speech("first", first.addr()), speech("second", second.addr())).await;
    first.push(Behaviour::status(StatusCode::BAD_REQUEST));
    let answer = send(&gateway, PATH, Sent::Sized, &recording(MIB, Order::FileFirst, "speech")).await;
    answer.is_error(400, "upstream_bad_request", "");
    assert!(second.requests().is_empty());
}

#[tokio::test]
async fn an_answer_that_comes_early_is_given_while_the_upload_goes_on() {
    let mut stage = Stage::open_at_head().await;
    let setup = Setup::new().backend(speech("first", stage.addr)).model(audio(&[("first", FIRST)]));
    let gateway = setup.start().await;
    let body = recording(8 * MIB, Order::ModelFirst, "speech");
    let mut client = gateway.client().await;
    let length = body.len().to_string();
    let headers = [("content-type", super::form::CONTENT_TYPE), ("content-length", &length)];
    client.head(&http::Method::POST, PATH, &headers).await;
    client.raw.send(&body[..MIB]).await.unwrap();
    let mut caller = stage.caller().await;
    let error = "{\"error\":{\"message\":\"This format is not supported.\"}}";
    let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length:";
    caller.write(format!("{head} {}\r\n\r\n{error}", error.len())).await;
    drop(caller);
    let answer = client.answer().await;
    answer.is_error(400, "upstream_bad_request", "");
    assert!(answer.says_close());
}

#[tokio::test]
async fn every_form_of_answer_passes_with_its_type() {
    let (gateway, _mock) = one().await;
    for (format, content_type, begins) in [
        ("json", "application/json", "{\"fields\""),
        ("verbose_json", "application/json", "{\"fields\""),
        ("text", "text/plain; charset=utf-8", "Hello from the mock.\n"),
        ("srt", "application/x-subrip; charset=utf-8", "1\n00:00"),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n"),
    ] {
        for late in [false, true] {
            let fields = [text("response_format", format), text("model", "speech")];
            let wav = [file("a.wav", b"RIFF")];
            let parts = if late { [&wav[..], &fields].concat() } else { [&fields[..], &wav].concat() };
            let answer = send(&gateway, PATH, Sent::Sized, &form(&parts)).await;
            assert_eq!(answer.is_ok().header("content-type"), Some(content_type));
            assert!(answer.text().starts_with(begins), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn events_pass_wherever_they_were_asked_for() {
    let (gateway, _mock) = one().await;
    let begin = [text("model", "speech"), file("a.ogg", &crate::harness::fill(MIB))];
    let stream = [text("stream", "true")];
    for parts in [[&stream[..], &begin].concat(), [&begin[..], &stream].concat()] {
        for how in ALL {
            let answer = send(&gateway, PATH, how, &form(&parts)).await;
            assert_eq!(answer.is_ok().header("content-type"), Some("text/event-stream; charset=utf-8"));
            assert_eq!(answer.text().matches("transcript.text.delta").count(), 4, "{}", answer.text());
            assert_eq!(answer.text().matches("transcript.text.done").count(), 1);
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so_and_one_that_streams_nothing_is_replaced() {
    let (first, second) = (mock().await, mock().await);
    let gateway = two(speech("first", first.addr()), speech("second", second.addr())).await;
    let body = form(&[text("stream", "true"), text("model", "speech"), file("a.ogg", b"x")]);
    let delta = "data: {\"type\":\"transcript.text.delta\",\"delta\":\"x\"}\n\n";
    let pause = Duration::from_millis(300); // else both arrive at once, and nothing has left before the end
    first.push(Behaviour::SseRaw(vec![(Duration::ZERO, delta.into()), (pause, ": nothing\n\n".into())]));
    let answer = send(&gateway, PATH, Sent::Sized, &body).await;
    assert!(answer.is_ok().text().starts_with(delta) && answer.text().contains("upstream_error"), "{}", answer.text());
    first.push(Behaviour::SseRaw(vec![]));
    let answer = send(&gateway, PATH, Sent::Sized, &body).await;
    assert_eq!(answer.is_ok().header("spass-attempts"), Some("first;s=200, second;s=200"));
    assert!(answer.text().contains("transcript.text.done"));
}

#[tokio::test]
async fn the_file_is_gone_as_soon_as_the_answer_has_begun() {
    let mut stage = Stage::open_at_head().await;
    let setup = Setup::new().backend(speech("first", stage.addr)).model(audio(&[("first", FIRST)]));
    let gateway = setup.start().await;
    let body = form(&[text("stream", "true"), file("a.ogg", &crate::harness::fill(2 * MIB)), text("model", "speech")]);
    let mut client = gateway.client().await;
    client.send(&http::Method::POST, PATH, &[("content-type", super::form::CONTENT_TYPE)], &body).await;
    let mut caller = stage.caller().await;
    let length: usize = caller.header("content-length").unwrap().parse().unwrap();
    while caller.body.len() < length {
        assert!(caller.read_some().await);
    }
    assert_eq!(gateway.open_data_files(), 1);
    caller.begin_stream().await;
    caller.chunk("data: {\"type\":\"transcript.text.delta\",\"delta\":\"x\"}\n\n").await;
    assert_eq!(client.read_head().await.0, 200);
    crate::harness::until("the file is gone", async || gateway.open_data_files() == 0).await;
    caller.chunk("data: {\"type\":\"transcript.text.done\",\"text\":\"x\"}\n\n").await;
    caller.end_chunks().await;
    while client.piece().await.is_some() {}
}

#[tokio::test]
async fn windows_are_for_backends_that_cut_them() {
    let (first, second) = (mock().await, mock().await);
    let mut cutting = speech("second", second.addr());
    cutting["stt_modes"] = json!(["chunked"]);
    let gateway = two(speech("first", first.addr()), cutting).await;
    let body = recording(1000, Order::FileFirst, "speech");
    let chunked = [("spass-stt-mode", "chunked")];
    let answer = send_with(&gateway, PATH, Sent::Sized, &body, &chunked).await;
    assert_eq!(answer.is_ok().header("spass-attempts"), Some("second;s=200"));
    assert_eq!(second.requests().pop().unwrap().headers["spass-stt-mode"], "chunked");
    send(&gateway, PATH, Sent::Sized, &body).await.is_ok();
    assert!(first.requests().pop().unwrap().headers.get("spass-stt-mode").is_none());

    let (gateway, mock) = one().await;
    let answer = send_with(&gateway, PATH, Sent::Sized, &body, &chunked).await;
    answer.is_error(400, "invalid_field", "headers.spass-stt-mode");
    assert!(mock.requests().is_empty());
}

#[tokio::test]
async fn a_model_is_refused_before_an_upstream_sees_the_form() {
    let mock = mock().await;
    let setup = Setup::new().backend(speech("first", mock.addr())).backend(backend("chat", mock.addr()));
    let mut mute = model("mute", &[("chat", "x")]);
    mute["type"] = "audio".into();
    let gateway = setup.model(audio(&[("first", FIRST)])).model(model("m", &[("chat", "x")])).model(mute).start().await;
    for order in ORDERS {
        for (name, code) in
            [("nothing", "model_not_in_allowlist"), ("m", "model_not_in_allowlist"), ("mute", "invalid_field")]
        {
            for how in ALL {
                send(&gateway, PATH, how, &recording(MIB, order, name)).await.is_error(400, code, "model");
            }
        }
    }
    let mut client = gateway.client().await;
    let body = recording(10, Order::FileFirst, "speech");
    let headers = [("content-type", super::form::CONTENT_TYPE), ("authorization", "Bearer wrong")];
    let head: Vec<(&str, &str)> = headers.to_vec();
    client.raw.request(&http::Method::POST, PATH, &head, &body).await.unwrap();
    client.answer().await.is_error(401, "invalid_authorization", "headers.authorization");
    assert!(mock.requests().is_empty());
}
