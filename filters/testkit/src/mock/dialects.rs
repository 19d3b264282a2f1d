//! Correct answers of `/responses`, `/messages` and `/messages/count_tokens`.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Asked, StreamEnd};
use super::behaviour::Answer;

const CREATED: u64 = 1_735_689_600;

/// Whether streams of the path are named events.
pub(super) fn is_streamed(path: &str) -> bool {
    is_responses(path) || is_messages(path)
}

fn is_responses(path: &str) -> bool {
    path.ends_with("/responses")
}

fn is_messages(path: &str) -> bool {
    path.ends_with("/messages")
}

/// The whole body, if the path is one of these.
pub(super) fn whole(answer: &Answer, path: &str, asked: &Asked) -> Option<Value> {
    if is_responses(path) {
        Some(response(answer, asked, "completed"))
    } else if is_messages(path) {
        let stop = json!({"stop_reason": "end_turn", "content": [{"type": "text", "text": answer.pieces.concat()}]});
        Some(message(answer, asked, &stop))
    } else if path.ends_with("/messages/count_tokens") {
        Some(json!({"input_tokens": answer.usage.map_or(0, |(read, _)| read)}))
    } else {
        None
    }
}

/// The events of a stream, each after its pause. Without its end nothing follows the text.
pub(super) fn events(answer: &Answer, path: &str, asked: &Asked, end: StreamEnd) -> Vec<(Duration, Bytes)> {
    let (before, after) = if is_responses(path) { of_response(answer, asked) } else { of_message(answer, asked) };
    let deltas =
        answer.pieces.iter().map(|piece| if is_responses(path) { text_delta(piece) } else { block_delta(piece) });
    let after = if end == StreamEnd::Proper { after } else { Vec::new() };
    let mut number = 0;
    let mut events = Vec::new();
    for (pause, mut event) in before
        .into_iter()
        .map(|event| (Duration::ZERO, event))
        .chain(deltas.map(|event| (answer.between, event)))
        .chain(after.into_iter().map(|event| (Duration::ZERO, event)))
    {
        if let (true, Some(members)) = (is_responses(path), event.as_object_mut()) {
            members.insert("sequence_number".to_owned(), json!(number));
            number += 1;
        }
        let pause = if events.is_empty() { answer.before_body } else { pause };
        let name = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        events.push((pause, format!("event: {name}\ndata: {event}\n\n").into()));
    }
    events
}

fn item(answer: &Answer, status: &str) -> Value {
    let content = match status {
        "completed" => {
            json!([{"type": "output_text", "text": answer.pieces.concat(), "annotations": [], "logprobs": []}])
        }
        _ => json!([]),
    };
    json!({"id": "msg_mock", "type": "message", "status": status, "role": "assistant", "content": content})
}

fn response(answer: &Answer, asked: &Asked, status: &str) -> Value {
    let is_complete = status == "completed";
    let output = if is_complete { json!([item(answer, status)]) } else { json!([]) };
    let usage = answer.usage.filter(|_| is_complete).map(|(read, written)| {
        json!({"input_tokens": read, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read.saturating_add(written)})
    });
    json!({"id": "resp_mock", "object": "response", "created_at": CREATED, "status": status, "background": false,
        "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "model": asked.model,
        "output": output, "parallel_tool_calls": true, "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null}, "store": false, "temperature": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled",
        "usage": usage, "metadata": {}})
}

fn text_delta(piece: &str) -> Value {
    json!({"type": "response.output_text.delta", "item_id": "msg_mock", "output_index": 0, "content_index": 0,
        "delta": piece, "logprobs": []})
}

/// What stands before and behind the text of a response.
fn of_response(answer: &Answer, asked: &Asked) -> (Vec<Value>, Vec<Value>) {
    let begun = response(answer, asked, "in_progress");
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let text = answer.pieces.concat();
    let before = vec![
        json!({"type": "response.created", "response": begun}),
        json!({"type": "response.in_progress", "response": begun}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": item(answer, "in_progress")}),
        json!({"type": "response.content_part.added", "item_id": "msg_mock", "output_index": 0, "content_index": 0,
            "part": part("")}),
    ];
    let after = vec![
        json!({"type": "response.output_text.done", "item_id": "msg_mock", "output_index": 0, "content_index": 0,
            "text": text, "logprobs": []}),
        json!({"type": "response.content_part.done", "item_id": "msg_mock", "output_index": 0, "content_index": 0,
            "part": part(&text)}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item(answer, "completed")}),
        json!({"type": "response.completed", "response": response(answer, asked, "completed")}),
    ];
    (before, after)
}

fn message(answer: &Answer, asked: &Asked, more: &Value) -> Value {
    let (read, written) = answer.usage.unwrap_or_default();
    json!({"id": "msg_mock", "type": "message", "role": "assistant", "model": asked.model, "stop_sequence": null,
        "content": more["content"], "stop_reason": more["stop_reason"],
        "usage": {"input_tokens": read, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": written, "service_tier": "standard"}})
}

fn block_delta(piece: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}})
}

/// What stands before and behind the text of a message.
fn of_message(answer: &Answer, asked: &Asked) -> (Vec<Value>, Vec<Value>) {
    let begun = Answer { usage: answer.usage.map(|(read, _)| (read, 1)), ..answer.clone() };
    let before = vec![
        json!({"type": "message_start", "message": message(&begun, asked, &json!({"content": [], "stop_reason": null}))}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
    ];
    let after = vec![
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"output_tokens": answer.usage.map_or(0, |(_, written)| written)}}),
        json!({"type": "message_stop"}),
    ];
    (before, after)
}
