//! Streams: what leaves, when, and how failures are said.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::Request;
use serde_json::{Value, json};

use crate::harness::{
    BEARER, Caller, Client, Gateway, Setup, Stage, check_error, chunk_of_stream, finish_of_stream, soon,
};

const CHAT: &str = "/v1/chat/completions";
const UPSTREAM: &str = "upstream-name-of-m";

fn request(usage: Option<bool>) -> String {
    let mut body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    if let Some(usage) = usage {
        body["stream_options"] = json!({"include_usage": usage});
    }
    body.to_string()
}

fn role(upstream: &str) -> String {
    chunk_of_stream(upstream, "").replace("\"content\":\"\"", "\"role\":\"assistant\",\"content\":\"\"")
}

async fn started() -> (Gateway, Stage) {
    let stage = Stage::open().await;
    (Setup::with_upstream(stage.addr).start().await, stage)
}

/// A stream whose first piece has arrived at the client.
async fn running(gateway: &Gateway, stage: &mut Stage) -> (Client, Caller) {
    let mut client = gateway.client().await;
    client.send_chat(request(None)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "first")).await;
    let (status, headers) = client.read_head().await;
    assert_eq!((status, &headers["content-type"]), (200, &"text/event-stream; charset=utf-8".parse().unwrap()));
    assert_eq!(
        (&headers["cache-control"], &headers["x-accel-buffering"]),
        (&"no-cache".parse().unwrap(), &"no".parse().unwrap())
    );
    assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", "first"));
    (client, caller)
}

/// Reads a stream to its end; an error that breaks the connection is none that may happen.
async fn rest(client: &mut Client) -> String {
    let mut text = String::new();
    while let Some(piece) = client.piece().await {
        text.push_str(&piece);
    }
    text
}

/// Asserts that a stream ended with an error event of this code, and with nothing after it.
fn ends_with_error(text: &str, code: &str) {
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    let event: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap_or_else(|| panic!("{text}"))).unwrap();
    check_error(&event["error"]);
    assert_eq!(event["error"]["code"], code, "{text}");
    assert!(event["request_id"].is_string(), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
}

#[tokio::test]
async fn each_event_arrives_before_the_next_one_is_sent() {
    let (gateway, mut stage) = started().await;
    let (mut client, mut caller) = running(&gateway, &mut stage).await;
    for n in 0..50 {
        caller.chunk(chunk_of_stream(UPSTREAM, &format!("number {n}"))).await;
        assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", &format!("number {n}")));
    }
    caller.chunk(finish_of_stream(UPSTREAM)).await;
    assert_eq!(client.piece().await.unwrap(), finish_of_stream("m"));
    caller.chunk("data: [DONE]\n\n").await;
    caller.end_chunks().await;
    assert_eq!(rest(&mut client).await, "data: [DONE]\n\n");
    // the connection survives, on both sides
    client.send_chat(request(None)).await;
    assert!(soon("the second request", caller.read_request()).await);
}

#[tokio::test]
async fn each_event_arrives_before_the_next_one_is_sent_over_http2() {
    let (gateway, mut stage) = started().await;
    let mut client = gateway.h2().await;
    let head =
        Request::post(format!("http://{}{CHAT}", gateway.addr)).header("authorization", format!("Bearer {BEARER}"));
    let mut exchange = client.start(head.body(()).unwrap()).await.unwrap();
    exchange.send(request(None).into()).await.unwrap();
    exchange.end().unwrap();
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "0")).await;
    soon("the head", exchange.read_head()).await.unwrap();
    for n in 0..20 {
        let piece = soon("the event", exchange.read_piece()).await.unwrap().unwrap();
        assert_eq!(piece, chunk_of_stream("m", &n.to_string()));
        caller.chunk(chunk_of_stream(UPSTREAM, &(n + 1).to_string())).await;
    }
}

#[tokio::test]
async fn a_role_waits_for_the_first_content() {
    let (gateway, mut stage) = started().await;
    let mut client = gateway.client().await;
    client.send_chat(request(None)).await;
    let mut caller = stage.caller().await;
    assert_eq!(caller.header("accept"), Some("text/event-stream"));
    caller.begin_stream().await;
    caller.chunk(": comment\n\n").await;
    caller.chunk(role(UPSTREAM)).await;
    caller.chunk(chunk_of_stream(UPSTREAM, "now")).await;
    client.read_head().await;
    assert_eq!(client.piece().await.unwrap(), role("m") + &chunk_of_stream("m", "now"));
}

#[tokio::test]
async fn events_are_whole_however_the_upstream_cuts_them() {
    let (gateway, mut stage) = started().await;
    let text = "né 🦀 [DONE] data: \\n";
    let stream =
        [role(UPSTREAM), chunk_of_stream(UPSTREAM, text), finish_of_stream(UPSTREAM), "data: [DONE]\n\n".to_owned()]
            .concat();
    let expected = stream.replace(UPSTREAM, "m");
    for (step, line) in [(1, "\n"), (7, "\n"), (64, "\n"), (100_000, "\n"), (1, "\r\n"), (13, "\r\n"), (1, "\r")] {
        let mut client = gateway.client().await;
        client.send_chat(request(None)).await;
        let mut caller = stage.caller().await;
        caller.begin_stream().await;
        for piece in stream.replace('\n', line).as_bytes().chunks(step) {
            caller.chunk(piece).await;
        }
        caller.end_chunks().await;
        client.read_head().await;
        let events = rest(&mut client).await.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(events, expected, "{step} {line:?}");
        drop(caller); // else the next request comes on this connection
    }
}

#[tokio::test]
async fn usage_is_always_asked_for_and_shown_to_those_who_asked() {
    let (gateway, mut stage) = started().await;
    let usage = format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{UPSTREAM}\",\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4}}}}\n\n"
    );
    for asked in [None, Some(false), Some(true)] {
        let mut client = gateway.client().await;
        client.send_chat(request(asked)).await;
        let mut caller = stage.caller().await;
        let sent: Value = serde_json::from_slice(&caller.body).unwrap();
        assert_eq!(sent["stream_options"], json!({"include_usage": true}), "{asked:?}");
        assert_eq!(sent["model"], UPSTREAM);
        caller.begin_stream().await;
        for event in
            [chunk_of_stream(UPSTREAM, "a"), finish_of_stream(UPSTREAM), usage.clone(), "data: [DONE]\n\n".to_owned()]
        {
            caller.chunk(event).await;
        }
        caller.end_chunks().await;
        client.read_head().await;
        let seen = rest(&mut client).await;
        assert_eq!(seen.contains("prompt_tokens"), asked == Some(true), "{asked:?} {seen}");
        assert!(seen.ends_with("data: [DONE]\n\n") && !seen.contains(UPSTREAM), "{seen}");
        drop(caller);
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_off_inside_a_stream_ends_it_with_an_error() {
    let (gateway, mut stage) = started().await;
    for reset in [true, false] {
        let (mut client, mut caller) = running(&gateway, &mut stage).await;
        caller.chunk(chunk_of_stream(UPSTREAM, "second")).await;
        assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", "second"));
        if reset {
            caller.reset();
        } else {
            drop(caller);
        }
        ends_with_error(&rest(&mut client).await, "upstream_error");
    }
    gateway.idle().await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_over_http2_ends_the_stream_with_an_error() {
    let (gateway, mut stage) = started().await;
    let mut client = gateway.h2().await;
    let head =
        Request::post(format!("http://{}{CHAT}", gateway.addr)).header("authorization", format!("Bearer {BEARER}"));
    let mut exchange = client.start(head.body(()).unwrap()).await.unwrap();
    exchange.send(request(None).into()).await.unwrap();
    exchange.end().unwrap();
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "first")).await;
    soon("the head", exchange.read_head()).await.unwrap();
    soon("the first event", exchange.read_piece()).await.unwrap();
    caller.reset();
    let mut text = String::new();
    while let Some(piece) = soon("the rest", exchange.read_piece()).await.unwrap() {
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    ends_with_error(&text, "upstream_error");
}

#[tokio::test]
async fn a_stream_without_a_finish_ends_with_an_error_and_one_without_the_marker_is_complete() {
    let (gateway, mut stage) = started().await;
    let (mut client, mut caller) = running(&gateway, &mut stage).await;
    caller.end_chunks().await;
    ends_with_error(&rest(&mut client).await, "upstream_error");
    drop(caller);

    let (mut client, mut caller) = running(&gateway, &mut stage).await;
    caller.chunk(finish_of_stream(UPSTREAM)).await;
    caller.end_chunks().await;
    assert_eq!(rest(&mut client).await, finish_of_stream("m"));
}

#[tokio::test]
async fn an_error_event_inside_a_stream_ends_it_though_the_upstream_stays() {
    let (gateway, mut stage) = started().await;
    let (mut client, mut caller) = running(&gateway, &mut stage).await;
    caller.chunk(chunk_of_stream(UPSTREAM, "last words")).await;
    assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", "last words"));
    caller.chunk("data: {\"error\":{\"message\":\"secret detail\",\"code\":500}}\n\n").await;
    let seen = rest(&mut client).await;
    assert!(!seen.contains("secret detail"), "{seen}");
    ends_with_error(&seen, "upstream_error");
    caller.gone(std::time::Instant::now()).await;
    gateway.idle().await;
}

#[tokio::test]
async fn an_error_event_over_http2_ends_the_stream_though_the_upstream_stays() {
    let (gateway, mut stage) = started().await;
    let mut client = gateway.h2().await;
    let head =
        Request::post(format!("http://{}{CHAT}", gateway.addr)).header("authorization", format!("Bearer {BEARER}"));
    let mut exchange = client.start(head.body(()).unwrap()).await.unwrap();
    exchange.send(request(None).into()).await.unwrap();
    exchange.end().unwrap();
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "first")).await;
    soon("the head", exchange.read_head()).await.unwrap();
    soon("the first event", exchange.read_piece()).await.unwrap();
    caller.chunk("data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n").await;
    let mut text = String::new();
    while let Some(piece) = soon("the rest", exchange.read_piece()).await.unwrap() {
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    ends_with_error(&text, "upstream_error");
    caller.gone(std::time::Instant::now()).await;
}

#[tokio::test]
async fn completions_stream_as_chats_do() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let body = json!({"model": "m", "stream": true, "prompt": "hi"}).to_string();
    let mut client = gateway.client().await;
    for path in ["/v1/completions", "/completions", "/v1/completions/"] {
        let answer = client.request(&http::Method::POST, path, &[], body.as_bytes()).await;
        assert!(answer.is_ok().text().ends_with("data: [DONE]\n\n"), "{path}");
        assert!(answer.text().contains("\"model\":\"m\"") && !answer.text().contains(UPSTREAM));
    }
}

#[tokio::test]
async fn an_error_event_loses_no_event_before_it_in_the_same_piece() {
    let (gateway, mut stage) = started().await;
    let (mut client, mut caller) = running(&gateway, &mut stage).await;
    let error = "data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n";
    caller.chunk(chunk_of_stream(UPSTREAM, "last words") + error).await;
    let seen = rest(&mut client).await;
    assert!(seen.starts_with(&chunk_of_stream("m", "last words")), "the event before the error is lost: {seen}");
    ends_with_error(&seen, "upstream_error");
}

#[tokio::test]
async fn an_upstream_that_breaks_off_right_after_an_event_loses_none() {
    let (gateway, mut stage) = started().await;
    for _ in 0..20 {
        let (mut client, mut caller) = running(&gateway, &mut stage).await;
        caller.chunk(chunk_of_stream(UPSTREAM, "last words")).await;
        drop(caller);
        let seen = rest(&mut client).await;
        assert!(seen.starts_with(&chunk_of_stream("m", "last words")), "the last event is lost: {seen}");
        ends_with_error(&seen, "upstream_error");
    }
}

#[tokio::test]
async fn an_error_event_with_more_behind_it_loses_no_event_before_it() {
    let (gateway, mut stage) = started().await;
    for _ in 0..20 {
        let (mut client, mut caller) = running(&gateway, &mut stage).await;
        // separate pieces that arrive together
        let pieces = [
            chunk_of_stream(UPSTREAM, "last words"),
            "data: {\"error\":{\"message\":\"secret detail\",\"code\":500}}\n\n".to_owned(),
            "data: [DONE]\n\n".to_owned(),
        ];
        let mut all: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
        all.push_str("0\r\n\r\n");
        caller.write(all).await;
        let seen = rest(&mut client).await;
        assert!(seen.starts_with(&chunk_of_stream("m", "last words")), "the event before the error is lost: {seen}");
        ends_with_error(&seen, "upstream_error");
        drop(caller);
    }
}

#[tokio::test]
async fn an_error_in_place_of_a_stream_counts_as_the_status_that_it_names() {
    let (gateway, mut stage) = started().await;
    let mut client = gateway.client().await;
    client.send_chat(request(None)).await;
    stage.caller().await.answer("{\"error\":{\"message\":\"bad words\",\"code\":400}}").await;
    client.answer().await.is_error(400, "upstream_bad_request", "");
}

#[tokio::test]
async fn an_upstream_that_switches_protocols_unasked_is_an_error_at_once() {
    let (gateway, mut stage) = started().await;
    for stream in ["true", "false"] {
        let mut client = gateway.client().await;
        client.send_chat(request(None).replace("true", stream)).await;
        let mut caller = stage.caller().await;
        caller.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello").await;
        client.answer().await.is_error(502, "upstream_error", "");
    }
    gateway.idle().await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_after_its_finish_is_complete() {
    let (gateway, mut stage) = started().await;
    for marked in [false, true] {
        let (mut client, mut caller) = running(&gateway, &mut stage).await;
        let end = if marked { finish_of_stream(UPSTREAM) + "data: [DONE]\n\n" } else { finish_of_stream(UPSTREAM) };
        caller.chunk(&end).await;
        assert_eq!(client.piece().await.unwrap(), end.replace(UPSTREAM, "m"));
        caller.reset();
        assert_eq!(rest(&mut client).await, "", "nothing follows, and the body has its end");
    }
    gateway.idle().await;
    assert!(!gateway.log().contains("\"outcome\":\"cut\""), "{}", gateway.log());
}

#[tokio::test]
async fn a_silent_stream_ends_with_an_error_after_the_idle_time() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).stream("idle_timeout_seconds", 1).start().await;
    let (mut client, _caller) = running(&gateway, &mut stage).await;
    ends_with_error(&rest(&mut client).await, "upstream_timeout");
}

#[tokio::test]
async fn a_failure_before_the_first_event_is_a_real_error() {
    let (gateway, mut stage) = started().await;
    type Play = fn(Caller, String) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
    let plays: [(&str, Play); 6] = [
        ("reset before the head", |caller, _| Box::pin(async move { caller.reset() })),
        ("reset after the head", |mut caller, _| {
            Box::pin(async move {
                caller.begin_stream().await;
                caller.reset();
            })
        }),
        ("reset after the role", |mut caller, role| {
            Box::pin(async move {
                caller.begin_stream().await;
                caller.chunk(role).await;
                caller.reset();
            })
        }),
        ("nothing", |mut caller, _| {
            Box::pin(async move {
                caller.begin_stream().await;
                caller.end_chunks().await;
            })
        }),
        ("the marker alone", |mut caller, role| {
            Box::pin(async move {
                caller.begin_stream().await;
                caller.chunk(role + "data: [DONE]\n\n").await;
                caller.end_chunks().await;
            })
        }),
        ("an error event", |mut caller, role| {
            Box::pin(async move {
                caller.begin_stream().await;
                caller.chunk(role + "data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n").await;
            })
        }),
    ];
    for (what, play) in plays {
        let mut client = gateway.client().await;
        client.send_chat(request(None)).await;
        play(stage.caller().await, role(UPSTREAM)).await;
        let answer = client.answer().await;
        println!("{what}: {} {:?}", answer.status, answer.headers);
        answer.is_error(502, "upstream_error", "");
    }
    gateway.idle().await;
}

#[tokio::test]
async fn the_second_backend_serves_when_the_first_breaks_off_before_its_first_event() {
    second_serves_after(&["head", "role", "json error"]).await;
}

#[tokio::test]
async fn the_second_backend_serves_when_the_first_streams_nothing_or_an_error() {
    second_serves_after(&["nothing", "error event"]).await;
}

async fn second_serves_after(failures: &[&str]) {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let gateway = Setup::with_fallback(first.addr, second.addr).start().await;
    for what in failures.iter().copied() {
        let mut client = gateway.client().await;
        client.send_chat(request(None)).await;
        let mut caller = first.caller().await;
        match what {
            "head" => caller.begin_stream().await,
            "role" => {
                caller.begin_stream().await;
                caller.chunk(role("name-at-the-first")).await;
            }
            "nothing" => {
                caller.begin_stream().await;
                caller.end_chunks().await;
            }
            "error event" => {
                caller.begin_stream().await;
                caller.chunk("data: {\"error\":{\"message\":\"x\",\"code\":503}}\n\n").await;
            }
            _ => caller.answer("{\"error\":{\"message\":\"x\",\"code\":503}}").await,
        }
        caller.reset();
        let mut caller = soon(what, second.caller()).await;
        caller.begin_stream().await;
        let upstream = "name-at-the-second-one";
        caller.chunk(role(upstream) + &chunk_of_stream(upstream, "here")).await;
        caller.chunk(finish_of_stream(upstream)).await;
        caller.chunk("data: [DONE]\n\n").await;
        caller.end_chunks().await;
        let (status, headers) = client.read_head().await;
        assert_eq!((status, &headers["spass-resolved-backend"]), (200, &"second".parse().unwrap()), "{what}");
        println!("{what}: {:?}", headers["spass-attempts"]);
        let expected =
            [role("m"), chunk_of_stream("m", "here"), finish_of_stream("m"), "data: [DONE]\n\n".to_owned()].concat();
        assert_eq!(rest(&mut client).await, expected, "{what}: nothing of the first backend is left");
        drop(caller);
    }
}

#[tokio::test]
async fn a_first_byte_that_does_not_come_is_left_to_the_second_backend() {
    let hanging = MockUpstream::start(Script::always(Behaviour::HangBeforeHeaders).with_looks_apart()).await.unwrap();
    let second = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut slow = crate::harness::backend("first", hanging.addr());
    slow["first_byte_timeout_seconds"] = 1.into();
    let gateway = Setup::new()
        .backend(slow)
        .backend(crate::harness::backend("second", second.addr()))
        .model(crate::harness::model("m", &[("first", "a"), ("second", "b")]))
        .start()
        .await;
    let answer = gateway.chat(request(None)).await;
    assert_eq!(answer.is_ok().header("spass-attempts"), Some("first;e=timeout, second;s=200"));
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn one_attempt_is_told_once() {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let gateway = Setup::with_fallback(first.addr, second.addr).start().await;
    let mut client = gateway.client().await;
    client.send_chat(request(None)).await;
    let mut caller = first.caller().await;
    caller.begin_stream().await;
    caller.reset();
    let mut caller = second.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("x", "here")).await;
    let (_, headers) = client.read_head().await;
    let attempts = headers["spass-attempts"].to_str().unwrap();
    assert!(["first;e=reset, second;s=200", "first;s=200, second;s=200"].contains(&attempts), "{attempts}");
}
