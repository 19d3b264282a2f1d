//! The router, asked as a client would.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::stream::WORD_PAUSE;
use crate::usage::tokens;

async fn send(path: &str, body: &Value) -> axum::response::Response {
    let request = Request::post(path).header("content-type", "application/json").body(Body::from(body.to_string()));
    crate::router().oneshot(request.unwrap()).await.unwrap()
}

async fn ask(path: &str, body: Value) -> (StatusCode, Value) {
    let response = send(path, &body).await;
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

async fn chat(body: Value) -> Value {
    let (status, answer) = ask("/v1/chat/completions", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// The events of a stream, each with the moment it arrived at.
async fn events(path: &str, body: Value) -> Vec<(Duration, Value)> {
    let mut body = send(path, &body).await.into_body();
    let (start, mut out) = (Instant::now(), Vec::new());
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        let text = std::str::from_utf8(&data).unwrap();
        let json = text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
        let json = if json == "[DONE]" { json!("[DONE]") } else { serde_json::from_str(json).unwrap() };
        out.push((start.elapsed(), json));
    }
    out
}

fn user(text: &str) -> Value {
    json!({"model": "demo", "messages": [{"role": "user", "content": text}]})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn weather() -> Value {
    json!({"tools": [{"type": "function", "function": {"name": "get_weather", "description": "Current conditions",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}, "required": ["city", "unit"]}}}]})
}

#[tokio::test]
async fn reflects_the_prompt() {
    let answer = chat(json!({"model": "any", "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}
    ]}))
    .await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    for part in ["2 messages with 5 words", "\"Be brief.\"", "an image/png of 8 bytes", "\"What is this?\""] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(answer["model"], "any");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let (read, written) = (1 + 2 + 1 + 1 + 2 + 85, tokens(text));
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written})
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_arrives_word_by_word_and_says_what_the_whole_answer_says() {
    let whole = chat(user("Say hello.")).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = events("/v1/chat/completions", with(user("Say hello."), options)).await;
    let text = |event: &Value| event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    let streamed: String = events.iter().map(|(_, event)| text(event)).collect();
    assert_eq!(streamed, whole["choices"][0]["message"]["content"]);
    assert_eq!(events[0].1["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[0].0, Duration::ZERO);
    for pair in events[..events.len() - 2].windows(2) {
        assert!(pair[1].0 - pair[0].0 >= WORD_PAUSE);
        assert_eq!(pair[1].1["id"], events[0].1["id"]);
        assert!(pair[1].1["usage"].is_null());
    }
    let [.., (_, finish), (_, usage), (_, done)] = events.as_slice() else { panic!("too few events") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    assert_eq!(done, "[DONE]");
}

#[tokio::test(start_paused = true)]
async fn usage_is_left_out_of_a_stream_unless_asked_for() {
    let events = events("/v1/chat/completions", with(user("hi"), json!({"stream": true}))).await;
    assert!(events.iter().all(|(_, event)| event.get("usage").is_none()));
}

#[tokio::test]
async fn max_tokens_and_stop_end_an_answer() {
    let answer = chat(with(user("hi"), json!({"max_tokens": 3}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "I am the");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    let answer = chat(with(user("hi"), json!({"max_completion_tokens": 90, "stop": ["demo"]}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "I am the ");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn n_gives_as_many_choices() {
    let answer = chat(with(user("hi"), json!({"n": 3}))).await;
    let indexes: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert_ne!(answer["choices"][0]["message"], answer["choices"][1]["message"]);
}

#[tokio::test]
async fn json_formats_answer_json() {
    let content = |answer: &Value| -> Value {
        serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap()
    };
    let answer = chat(with(user("hi there"), json!({"response_format": {"type": "json_object"}}))).await;
    assert_eq!(content(&answer)["words"], 2);
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    assert_eq!(content(&chat(with(user("Fly to Paris"), format)).await), json!({"city": "Paris"}));
}

#[tokio::test]
async fn a_mentioned_tool_is_called_with_arguments_of_the_prompt() {
    let asked = with(user("How is the weather in Paris? In fahrenheit."), weather());
    let answer = chat(asked.clone()).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_weather")));
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Paris", "unit": "fahrenheit"}));
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert!(answer["choices"][0]["message"]["content"].is_null());
    for quiet in [with(user("Say hello."), weather()), with(asked, json!({"tool_choice": "none"}))] {
        assert!(chat(quiet).await["choices"][0]["message"].get("tool_calls").is_none());
    }
}

#[tokio::test]
async fn a_required_or_named_tool_is_called_unmentioned() {
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    for choice in [json!("required"), named] {
        let answer = chat(with(with(user("hello"), weather()), json!({"tool_choice": choice}))).await;
        assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "get_weather");
    }
}

#[tokio::test]
async fn a_tool_result_is_answered_with() {
    let body = json!({"model": "demo", "messages": [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
            "function": {"name": "get_weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 degrees"}]});
    let answer = chat(with(body, weather())).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "The tool answered: sunny, 21 degrees");
}

#[tokio::test(start_paused = true)]
async fn a_streamed_tool_call_comes_in_pieces() {
    let events =
        events("/v1/chat/completions", with(with(user("weather in Rome"), weather()), json!({"stream": true})));
    let events = events.await;
    let deltas: Vec<&Value> = events.iter().map(|(_, event)| &event["choices"][0]["delta"]["tool_calls"][0]).collect();
    let deltas: Vec<&Value> = deltas.into_iter().filter(|delta| !delta.is_null()).collect();
    assert!(deltas.len() > 3 && deltas.iter().all(|delta| delta["index"] == 0));
    assert_eq!(deltas[0]["function"], json!({"name": "get_weather", "arguments": ""}));
    assert!(deltas[0]["id"].is_string() && deltas[1].get("id").is_none());
    let arguments: String = deltas.iter().map(|delta| delta["function"]["arguments"].as_str().unwrap()).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap()["city"], "Rome");
    assert_eq!(events[events.len() - 2].1["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test(start_paused = true)]
async fn completions_answer_whole_and_streamed() {
    let body = json!({"model": "demo", "prompt": ["Once upon a time", "The end"]});
    let (status, whole) = ask("/v1/completions", body.clone()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(whole["object"], "text_completion");
    let events = events("/v1/completions", with(body, json!({"stream": true}))).await;
    for index in 0..2 {
        let of = |event: &Value| event["choices"][0]["index"] == index;
        let text = |event: &Value| event["choices"][0]["text"].as_str().unwrap_or_default().to_owned();
        let streamed: String = events.iter().filter(|(_, event)| of(event)).map(|(_, event)| text(event)).collect();
        assert_eq!(streamed, whole["choices"][index]["text"]);
    }
    assert!(events.last().unwrap().0 >= WORD_PAUSE * 10);
}

#[tokio::test]
async fn embeddings_come_as_numbers_and_as_base64() {
    let body = json!({"model": "demo-embed", "input": ["hello", "world"]});
    let (_, plain) = ask("/v1/embeddings", body.clone()).await;
    let numbers: Vec<f32> = serde_json::from_value(plain["data"][1]["embedding"].clone()).unwrap();
    assert_eq!((numbers.len(), &plain["usage"]), (768, &json!({"prompt_tokens": 4, "total_tokens": 4})));
    let (_, packed) = ask("/v1/embeddings", with(body, json!({"encoding_format": "base64"}))).await;
    let bytes = base64_simd::STANDARD.decode_to_vec(packed["data"][1]["embedding"].as_str().unwrap()).unwrap();
    assert_eq!(bytes, numbers.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_huge_prompt_gets_a_short_answer() {
    let huge = "x".repeat(8 * 1024 * 1024);
    let answer = chat(user(&huge)).await;
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().len() < 5000);
    let (_, answer) = ask("/v1/completions", json!({"model": "demo", "prompt": huge})).await;
    assert!(answer["choices"][0]["text"].as_str().unwrap().len() < 5000);
}

#[tokio::test]
async fn equal_requests_get_equal_answers() {
    let [one, two] = [chat(user("hi")).await, chat(user("hi")).await];
    assert_eq!((&one["choices"], &one["usage"]), (&two["choices"], &two["usage"]));
    assert_ne!(one["id"], two["id"]);
}

#[tokio::test]
async fn lists_its_models() {
    let request = Request::get("/v1/models").body(Body::empty()).unwrap();
    let body = crate::router().oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&list["data"][0]["id"], &list["data"][1]["id"]), (&json!("demo"), &json!("demo-embed")));
}

#[tokio::test]
async fn bad_requests_are_refused_in_the_openai_form() {
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}});
    let cases = [
        ("/v1/chat/completions", json!({"model": "demo"}), None),
        ("/v1/chat/completions", json!([]), None),
        ("/v1/chat/completions", json!({"model": "demo", "messages": []}), Some("messages")),
        ("/v1/chat/completions", with(user("hi"), json!({"n": 0})), Some("n")),
        ("/v1/chat/completions", with(user("hi"), json!({"max_tokens": 0})), Some("max_tokens")),
        ("/v1/chat/completions", with(user("hi"), json!({"max_tokens": -1})), None),
        ("/v1/chat/completions", with(user("hi"), json!({"tool_choice": "required"})), Some("tool_choice")),
        (
            "/v1/chat/completions",
            json!({"model": "demo", "messages": [{"role": "user", "content": [image]}]}),
            Some("messages[0].content[0].image_url.url"),
        ),
        ("/v1/completions", json!({"model": "demo", "prompt": []}), Some("prompt")),
        ("/v1/embeddings", json!({"model": "demo", "input": ["a", ""]}), Some("input[1]")),
    ];
    for (path, body, param) in cases {
        let (status, answer) = ask(path, body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        assert_eq!(answer["error"]["param"].as_str(), param, "{body}");
    }
    assert_eq!(ask("/v1/nothing", json!({})).await.0, StatusCode::NOT_FOUND);
}
