//! What is asked and answered stands in no log, whatever its level, whichever way a call goes wrong.

use std::time::Duration;

use bytes::Bytes;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::harness::{BACKEND_KEY, BEARER, Gateway, PROMPT, Setup, backend, chunk_of_stream, model, soon};

/// Stands in everything that backends say.
const ANSWER: &str = "an-answer-that-stays-private";
const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];
const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=x");

fn setup(mock: &MockUpstream) -> Setup {
    let mut first = backend("first", mock.addr());
    first["protocols"] = json!([
        "chat",
        "completions",
        "messages",
        "responses",
        "embeddings",
        "images",
        "rerank",
        "speech",
        "transcription"
    ]);
    let typed = |alias: &str, kind: &str| {
        let mut model = model(alias, &[("first", "upstream-name")]);
        model["type"] = json!(kind);
        model
    };
    let types = [("vectors", "embedding"), ("voice", "audio"), ("images", "image"), ("ranks", "rerank")];
    let setup = Setup::new().backend(first).model(model("m", &[("first", "upstream-name")]));
    types.into_iter().fold(setup, |setup, (alias, kind)| setup.model(typed(alias, kind)))
}

fn said(status: StatusCode, body: impl Into<Bytes>) -> Behaviour {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("x-own", ANSWER.parse().unwrap());
    headers.insert("set-cookie", ANSWER.parse().unwrap());
    Behaviour::Status { status, headers, body: body.into() }
}

/// An answer that every dialect takes.
fn whole() -> Behaviour {
    let message = json!({"role": "assistant", "content": ANSWER});
    let body = json!({"id": ANSWER, "object": "chat.completion", "model": "upstream-name",
        "choices": [{"index": 0, "message": message, "text": ANSWER, "finish_reason": ANSWER}],
        "content": [{"type": "text", "text": ANSWER}], "output": [{"type": "message", "content": ANSWER}],
        "data": [{"index": 0, "embedding": [0.5], "b64_json": ANSWER}], "results": [{"index": 0, "relevance_score": 0.5, "document": ANSWER}], "text": ANSWER,
        "stop_reason": ANSWER, "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
    said(StatusCode::OK, body.to_string())
}

fn events(texts: &[String]) -> Behaviour {
    Behaviour::SseRaw(texts.iter().map(|text| (Duration::ZERO, Bytes::from(text.clone()))).collect())
}

/// What a backend may do to a chat call: refuse and repeat it, say nonsense, break off.
fn faults() -> Vec<Behaviour> {
    let echo = json!({"error": {"message": format!("{PROMPT} {ANSWER} {BACKEND_KEY}"), "type": ANSWER, "code": ANSWER, "param": PROMPT}}).to_string();
    let statuses = [400, 401, 403, 404, 413, 422, 429, 500, 503];
    let refusals = statuses.map(|status| said(StatusCode::from_u16(status).unwrap(), echo.clone()));
    let piece = chunk_of_stream("upstream-name", ANSWER);
    let mut all = Vec::from(refusals);
    all.extend([
        said(StatusCode::OK, echo.clone()),
        said(StatusCode::OK, format!("<html>{ANSWER}</html>")),
        said(StatusCode::OK, format!("{{\"choices\":[{{\"{ANSWER}\"")),
        events(&[piece.clone(), format!("data: {echo}\n\n")]),
        events(&[piece.clone(), format!("data: {{\"{ANSWER}\n\n")]),
        events(&[format!("event: {ANSWER}\ndata: {ANSWER}\n\n")]),
        events(&[piece]),
        Behaviour::ResetMidResponse(40),
        Behaviour::RawBytes(format!("HTTP/1.1 200 OK\r\n{ANSWER}\r\n\r\n").into()),
        Behaviour::RawBytes(ANSWER.into()),
        Behaviour::WrongContentLength,
    ]);
    all
}

/// Calls of every dialect.
fn calls() -> Vec<(&'static str, (&'static str, &'static str), String)> {
    let messages = json!([{"role": "system", "content": PROMPT}, {"role": "user", "content": PROMPT}]);
    let tool =
        json!({"type": "function", "function": {"name": "f", "description": PROMPT, "parameters": {"type": "object"}}});
    let chat = |stream: bool| json!({"model": "m", "stream": stream, "messages": messages, "tools": [tool], "user": PROMPT, "stop": [PROMPT]});
    let json_calls: [(&str, Value); 10] = [
        (CHAT, chat(false)),
        (CHAT, chat(true)),
        ("/v1/completions", json!({"model": "m", "prompt": PROMPT, "suffix": PROMPT})),
        ("/v1/responses", json!({"model": "m", "input": PROMPT, "instructions": PROMPT})),
        (
            "/v1/messages",
            json!({"model": "m", "max_tokens": 9, "system": PROMPT, "messages": [{"role": "user", "content": PROMPT}]}),
        ),
        ("/v1/messages/count_tokens", json!({"model": "m", "messages": [{"role": "user", "content": PROMPT}]})),
        ("/v1/embeddings", json!({"model": "vectors", "input": [PROMPT, PROMPT]})),
        ("/v1/rerank", json!({"model": "ranks", "query": PROMPT, "documents": [PROMPT]})),
        ("/v1/images/generations", json!({"model": "images", "prompt": PROMPT})),
        ("/v1/audio/speech", json!({"model": "voice", "input": PROMPT, "voice": "v"})),
    ];
    let mut all: Vec<_> = json_calls.into_iter().map(|(path, body)| (path, JSON, body.to_string())).collect();
    let field =
        |name: &str, value: &str| format!("--x\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let file = format!(
        "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{PROMPT}.wav\"\r\n\r\n{PROMPT}\r\n--x--\r\n"
    );
    all.push(("/v1/audio/transcriptions", FORM, field("model", "voice") + &field("prompt", PROMPT) + &file));
    all.push(("/v1/audio/transcriptions", FORM, field("model", "voice") + &field("temperature", PROMPT) + &file));
    all.push(("/v1/audio/transcriptions", FORM, field("model", PROMPT) + &file));
    all
}

/// Calls that the gateway itself refuses, with the content in the place that it refuses.
fn refused() -> Vec<String> {
    let message = |content: Value| json!({"model": "m", "messages": [content]}).to_string();
    vec![
        format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{PROMPT}"),
        format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":{PROMPT}}}]}}"),
        format!("[\"{PROMPT}\"]"),
        json!({"model": PROMPT, "messages": [{"role": "user", "content": "x"}]}).to_string(),
        json!({"model": "m", "messages": PROMPT}).to_string(),
        json!({"model": "m", "max_tokens": PROMPT, "messages": [{"role": "user", "content": "x"}]}).to_string(),
        message(
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{PROMPT}")}}]}),
        ),
        message(
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": format!("https://h/{PROMPT}")}}]}),
        ),
        message(
            json!({"role": "assistant", "tool_calls": [{"id": PROMPT, "type": "function", "function": {"name": PROMPT, "arguments": format!("{{{PROMPT}")}}]}),
        ),
    ]
}

async fn send(gateway: &Gateway, path: &str, content_type: (&str, &str), body: &str) {
    let mut client = gateway.client().await;
    client.send(&Method::POST, path, &[content_type, ("x-own", PROMPT)], body.as_bytes()).await;
    // some answers break off, which is theirs to do
    drop(soon("the answer, or its end", client.raw.read_response()).await);
}

async fn send_h2(gateway: &Gateway, path: &str, content_type: (&str, &str), body: &str) {
    let request = Request::post(format!("http://{}{path}", gateway.addr))
        .header(content_type.0, content_type.1)
        .header("authorization", format!("Bearer {BEARER}"))
        .header("x-own", PROMPT)
        .body(Bytes::from(body.to_owned()));
    drop(soon("the answer, or its end", gateway.h2().await.request(request.unwrap())).await);
}

#[tokio::test]
async fn what_is_asked_and_answered_is_logged_at_no_level() {
    for level in LEVELS {
        let mock = MockUpstream::start(Script::always(whole()).with_looks_apart()).await.unwrap();
        let gateway = setup(&mock).log(level).start().await;
        for (path, content_type, body) in calls() {
            send(&gateway, path, content_type, &body).await;
            send_h2(&gateway, path, content_type, &body).await;
            send(&gateway, &format!("{path}?key={PROMPT}"), content_type, &body).await;
        }
        assert!(mock.requests().len() >= 20, "the calls reach the backend");
        for fault in faults() {
            for (path, content_type, body) in calls().into_iter().take(2) {
                mock.push(fault.clone());
                send(&gateway, path, content_type, &body).await;
            }
        }
        for body in refused() {
            send(&gateway, CHAT, JSON, &body).await;
            send_h2(&gateway, CHAT, JSON, &body).await;
        }
        gateway.idle().await;
        let (log, metrics) = (gateway.log(), gateway.metrics().await);
        let asked = log.lines().filter(|line| line.contains("\"message\":\"request\"")).count();
        assert_eq!(asked > 80, ["trace", "debug", "info"].contains(&level), "{asked} at {level}");
        for secret in [PROMPT, ANSWER, BEARER, BACKEND_KEY] {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} stands in the log at {level}: {line:?}");
            assert!(!metrics.text().contains(secret), "{secret} stands in the metrics");
        }
    }
}
