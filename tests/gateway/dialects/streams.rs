//! Streams of named events: cut everywhere, broken off, left, and moved to the next backend.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use super::{MESSAGES, RESPONSES, UPSTREAM, speaking};
use crate::harness::{Client, Gateway, Setup, Stage, check_error, model};

const OF_MESSAGES: &str = include_str!("../../../filters/wire/tests/fixtures/streams/anthropic.sse");
const OF_RESPONSES: &str = include_str!("../../../filters/wire/tests/fixtures/streams/responses.sse");
/// How soon an upstream must see that the client has left.
const AT_ONCE: Duration = Duration::from_millis(1000);

/// One dialect: its path, a stream of an upstream, the event that first means something, and the last one.
#[derive(Clone, Copy)]
struct Dialect {
    path: &'static str,
    stream: &'static str,
    first: &'static str,
    last: &'static str,
    name_upstream: &'static str,
}

const DIALECTS: [Dialect; 2] = [
    Dialect {
        path: MESSAGES,
        stream: OF_MESSAGES,
        first: "event: content_block_delta",
        last: "event: message_stop",
        name_upstream: "claude-opus-4-7",
    },
    Dialect {
        path: RESPONSES,
        stream: OF_RESPONSES,
        first: "event: response.output_text.delta",
        last: "event: response.completed",
        name_upstream: "gpt-x-2026",
    },
];

impl Dialect {
    fn request(self) -> String {
        let prompt = if self.path == MESSAGES {
            json!({"model": "m", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
        } else {
            json!({"model": "m", "stream": true, "input": "hi"})
        };
        prompt.to_string()
    }

    /// What a client reads.
    fn expected(self) -> String {
        self.stream.replace(self.name_upstream, "m")
    }

    /// What comes before the line that begins like this.
    fn until(self, line: &str) -> &'static str {
        self.stream.split_at(self.stream.find(line).unwrap()).0
    }

    /// What comes before anything that means something, and that with the event that does.
    fn begun(self) -> (&'static str, &'static str) {
        let head = self.until(self.first);
        let rest = self.stream.split_at(head.len()).1;
        (head, self.stream.split_at(head.len() + rest.find("\n\n").unwrap() + 2).0)
    }

    async fn send(self, client: &mut Client) {
        let headers = [("content-type", "application/json")];
        client.send(&Method::POST, self.path, &headers, self.request().as_bytes()).await;
    }
}

async fn started(stages: &[&Stage]) -> Gateway {
    let names = ["first", "second"];
    let mut setup = Setup::new();
    let mut route = Vec::new();
    for (name, stage) in names.into_iter().zip(stages) {
        setup = setup.backend(speaking(name, stage.addr, &["messages", "responses"]));
        route.push((name, UPSTREAM));
    }
    setup.model(model("m", &route)).stream("idle_timeout_seconds", 2).start().await
}

async fn rest(client: &mut Client) -> String {
    let mut text = String::new();
    while let Some(piece) = client.piece().await {
        text.push_str(&piece);
    }
    text
}

/// The data of the last event, which has the name `error`.
fn last_error(text: &str) -> Value {
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    serde_json::from_str(last.strip_prefix("event: error\ndata: ").unwrap_or_else(|| panic!("{text}"))).unwrap()
}

/// Asserts that a stream ended with an error in its dialect, as its last event.
fn ends_with_error(dialect: Dialect, text: &str, code: &str) {
    let error = last_error(text);
    assert_eq!(error["type"], "error", "{text}");
    if dialect.path == MESSAGES {
        check_error(&error["error"]);
        assert_eq!((&error["error"]["code"], &error["error"]["type"]), (&json!(code), &json!("api_error")), "{text}");
        assert!(error["request_id"].is_string(), "{text}");
        return;
    }
    let mut members: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "message", "param", "sequence_number", "type"], "{text}");
    assert_eq!(error["code"], code, "{text}");
    let before = text.split_at(text.rfind("event: error").unwrap()).0;
    let sent = before.rsplit("\"sequence_number\":").next().unwrap().split([',', '}']).next().unwrap();
    assert_eq!(error["sequence_number"], sent.parse::<u64>().unwrap() + 1, "{text}");
}

#[tokio::test]
async fn events_keep_their_names_however_the_upstream_cuts_them() {
    let mut stage = Stage::open().await;
    let gateway = started(&[&stage]).await;
    for dialect in DIALECTS {
        for (step, line) in [(1, "\n"), (7, "\n"), (100_000, "\n"), (1, "\r\n"), (13, "\r")] {
            let mut client = gateway.client().await;
            dialect.send(&mut client).await;
            let mut caller = stage.caller().await;
            assert_eq!(caller.header("accept"), Some("text/event-stream"));
            let sent: Value = serde_json::from_slice(&caller.body).unwrap();
            assert_eq!((&sent["stream"], &sent["stream_options"]), (&json!(true), &Value::Null));
            caller.begin_stream().await;
            for piece in dialect.stream.replace('\n', line).as_bytes().chunks(step) {
                caller.chunk(piece).await;
            }
            caller.end_chunks().await;
            let (status, headers) = client.read_head().await;
            assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "text/event-stream; charset=utf-8"));
            assert_eq!(headers.contains_key("request-id"), dialect.path == MESSAGES);
            let events = rest(&mut client).await.replace("\r\n", "\n").replace('\r', "\n");
            assert_eq!(events, dialect.expected(), "{step} {line:?}");
            drop(caller);
        }
    }
    gateway.idle().await;
}

#[tokio::test]
async fn every_split_in_two_gives_the_same_events() {
    let mut stage = Stage::open().await;
    let gateway = started(&[&stage]).await;
    for dialect in DIALECTS {
        let mut client = gateway.client().await;
        dialect.send(&mut client).await;
        let mut caller = stage.caller().await;
        for at in 1..dialect.stream.len() {
            let (head, tail) = dialect.stream.as_bytes().split_at(at);
            caller.begin_stream().await;
            caller.chunk(head).await;
            caller.chunk(tail).await;
            caller.end_chunks().await;
            client.read_head().await;
            assert_eq!(rest(&mut client).await, dialect.expected(), "split at {at}");
            // on a connection of its own: which one a request takes that follows at once is left to chance
            drop(caller);
            dialect.send(&mut client).await;
            caller = stage.caller().await;
        }
    }
}

#[tokio::test]
async fn each_event_arrives_before_the_next_one_is_sent() {
    let mut stage = Stage::open().await;
    let gateway = started(&[&stage]).await;
    for dialect in DIALECTS {
        let mut client = gateway.client().await;
        dialect.send(&mut client).await;
        let mut caller = stage.caller().await;
        caller.begin_stream().await;
        let (_, begun) = dialect.begun();
        caller.chunk(begun).await;
        client.read_head().await;
        assert_eq!(client.piece().await.unwrap(), begun.replace(dialect.name_upstream, "m"));
        for event in
            dialect.stream.split_at(begun.len()).1.split_inclusive("\n\n").filter(|event| !event.trim().is_empty())
        {
            caller.chunk(event).await;
            assert_eq!(client.piece().await.unwrap(), event.replace(dialect.name_upstream, "m"));
        }
        // the answer is complete, whatever becomes of the connection
        caller.reset();
        assert_eq!(rest(&mut client).await, "");
    }
    gateway.idle().await;
    assert!(!gateway.log().contains("\"outcome\":\"cut\""), "{}", gateway.log());
}

#[tokio::test]
async fn a_stream_without_its_last_event_ends_with_an_error() {
    let mut stage = Stage::open().await;
    let gateway = started(&[&stage]).await;
    for dialect in DIALECTS {
        for (how, code) in [
            ("end", "upstream_error"),
            ("marker", "upstream_error"),
            ("reset", "upstream_error"),
            ("error", "upstream_error"),
            ("silence", "upstream_timeout"),
        ] {
            let mut client = gateway.client().await;
            dialect.send(&mut client).await;
            let mut caller = stage.caller().await;
            caller.begin_stream().await;
            let (_, begun) = dialect.begun();
            caller.chunk(begun).await;
            client.read_head().await;
            let mut text = client.piece().await.unwrap();
            let left = dialect.until(dialect.last).split_at(begun.len()).1;
            caller.chunk(left).await;
            while text.len() < dialect.until(dialect.last).replace(dialect.name_upstream, "m").len() {
                text.push_str(&client.piece().await.unwrap());
            }
            let _silent = match how {
                "end" => {
                    caller.end_chunks().await;
                    None
                }
                "marker" => {
                    caller.chunk("data: [DONE]\n\n").await;
                    caller.end_chunks().await;
                    None
                }
                "reset" => {
                    caller.reset();
                    None
                }
                "error" => {
                    caller.chunk("event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"gpu-a.internal\"},\"message\":\"gpu-a.internal\",\"sequence_number\":90}\n\n").await;
                    Some(caller)
                }
                _ => Some(caller),
            };
            text.push_str(&rest(&mut client).await);
            ends_with_error(dialect, &text, code);
            assert!(!text.contains("gpu-a") && !text.contains("[DONE]"), "{text}");
        }
    }
    gateway.idle().await;
}

#[tokio::test]
async fn the_second_backend_serves_when_the_first_says_nothing_of_meaning() {
    let (mut one, mut two) = (Stage::open().await, Stage::open().await);
    let gateway = started(&[&one, &two]).await;
    for dialect in DIALECTS {
        for how in ["reset", "end", "error", "failed", "whole", "status"] {
            if how == "failed" && dialect.path == MESSAGES {
                continue;
            }
            let mut client = gateway.client().await;
            dialect.send(&mut client).await;
            let mut caller = one.caller().await;
            let (head, _) = dialect.begun();
            if !matches!(how, "whole" | "status") {
                caller.begin_stream().await;
                caller.chunk(head).await;
            }
            match how {
                "reset" => caller.reset(),
                "end" => caller.end_chunks().await,
                "error" => caller.chunk("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n").await,
                "failed" => caller.chunk("event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"message\":\"x\"}}}\n\n").await,
                "whole" => caller.answer("{\"type\":\"message\",\"content\":[{}]}").await,
                _ => caller.write("HTTP/1.1 529 Overloaded\r\ncontent-length: 2\r\n\r\n{}").await,
            }
            let mut caller = two.caller().await;
            caller.begin_stream().await;
            caller.chunk(dialect.stream).await;
            caller.end_chunks().await;
            let (status, headers) = client.read_head().await;
            assert_eq!(status, 200);
            assert_eq!(headers["spass-resolved-backend"], "second", "{how}");
            assert_eq!(rest(&mut client).await, dialect.expected(), "{how}: nothing of the first attempt is left");
        }
    }
    gateway.idle().await;
}

#[tokio::test]
async fn a_response_that_fails_inside_says_so_in_words_of_the_gateway() {
    let mut stage = Stage::open().await;
    let gateway = started(&[&stage]).await;
    let dialect = DIALECTS[1];
    let mut client = gateway.client().await;
    dialect.send(&mut client).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    let failed = dialect.stream.replace("response.completed", "response.failed");
    let (head, tail) = failed.split_at(failed.find("event: response.failed").unwrap());
    caller
        .chunk(head.to_owned() + &tail.replace("\"error\":null", r#""error":{"code":"x","message":"gpu-a.internal"}"#))
        .await;
    caller.end_chunks().await;
    client.read_head().await;
    let text = rest(&mut client).await;
    assert!(text.contains("event: response.failed") && !text.contains("gpu-a"), "{text}");
    assert!(text.contains(r#""error":{"code":"server_error","message":"The upstream failed."}"#), "{text}");
    gateway.idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_stream_upstream() {
    let mut stage = Stage::open().await;
    let gateway = started(&[&stage]).await;
    for dialect in DIALECTS {
        for is_begun in [false, true] {
            let mut client = gateway.client().await;
            dialect.send(&mut client).await;
            let mut caller = stage.caller().await;
            caller.begin_stream().await;
            let (head, begun) = dialect.begun();
            caller.chunk(if is_begun { begun } else { head }).await;
            if is_begun {
                client.read_head().await;
                client.piece().await.unwrap();
            }
            let left = Instant::now();
            drop(client);
            let after = caller.gone(left).await;
            assert!(after < AT_ONCE, "{} {is_begun}: {after:?}", dialect.path);
        }
    }
    gateway.idle().await;
}
