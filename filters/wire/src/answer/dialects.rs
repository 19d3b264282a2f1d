//! Events of `/v1/messages` and `/v1/responses`, which have no choices.

use dgx_gateway_filter::facts::FinishReasons;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chunk::{Chunk, ChunkKind};
use super::delta::{Progress, reason_of, reasons_of};
use super::members::{Edit, Member, Members};
use super::usage::Reported;

/// Why a response failed, as the client reads it: what the upstream says of itself stays here.
const FAILED: &[u8] = br#"{"code":"server_error","message":"The upstream failed."}"#;

/// Adds what an event without choices says. One without a known `type` adds nothing.
pub(super) fn read(members: &Members<'_>, chunk: &mut Chunk) {
    let kind = kind_of(members);
    let mut progress = Progress::default();
    match kind {
        "error" => chunk.kind = ChunkKind::Error,
        "message_start" => adopt_usage(members.value("message"), chunk),
        "content_block_start" => progress.semantic = starts_a_tool(members.value("content_block")),
        "content_block_delta" => add_block(members.value("delta"), &mut progress),
        "message_delta" => chunk.reasons = stop_reason(members.value("delta")),
        "message_stop" => progress.finished = true,
        "response.completed" | "response.failed" | "response.incomplete" => {
            progress.finished = true;
            chunk.failed = kind == "response.failed";
            chunk.reasons = FinishReasons::of(word_of_response(kind.trim_start_matches("response.")));
            adopt_usage(members.value("response"), chunk);
        }
        "response.output_item.added" => progress.semantic = starts_a_call(members.value("item")),
        "response.output_item.done" => progress.images = u64::from(is_an_image(members.value("item"))),
        "response.image_generation_call.partial_image" => progress.semantic = true,
        kind if kind.starts_with("response.") && kind.ends_with(".delta") => progress.text(members.value("delta")),
        _ => {}
    }
    chunk.sequence_number = members.value("sequence_number").and_then(|number| number.get().parse().ok());
    if chunk.kind == ChunkKind::Content {
        chunk.semantic |= progress.semantic;
        chunk.finished |= progress.finished;
        chunk.images = chunk.images.saturating_add(progress.images);
        chunk.text_bytes = chunk.text_bytes.saturating_add(progress.text_bytes);
    }
}

/// The member of an event that holds a whole answer with the name of its model.
pub(super) fn member_with_model(members: &Members<'_>) -> Option<&'static str> {
    match kind_of(members) {
        "message_start" => Some("message"),
        kind if kind.starts_with("response.") => Some("response"),
        _ => None,
    }
}

/// Hides what an upstream says of its own failure.
pub(super) fn error_edit(member: &Member<'_>) -> Edit {
    if member.value.get() == "null" { Edit::Keep } else { Edit::Replace(FAILED.to_vec()) }
}

/// Whether it is an event of these dialects: chunks with choices have no `type`.
pub(super) fn is_typed(members: &Members<'_>) -> bool {
    !kind_of(members).is_empty()
}

fn kind_of<'a>(members: &Members<'a>) -> &'a str {
    members.value("type").map_or("", |kind| kind.get().trim_matches('"'))
}

#[derive(Deserialize)]
struct Stopped<'a> {
    #[serde(borrow)]
    stop_reason: Option<&'a RawValue>,
}

/// Why a message ended.
fn stop_reason(delta: Option<&RawValue>) -> FinishReasons {
    let delta: Option<Stopped<'_>> = delta.and_then(|delta| serde_json::from_str(delta.get()).ok());
    delta.and_then(|delta| delta.stop_reason).map(reason_of).unwrap_or_default()
}

/// The state of a response in the words of the other dialects.
fn word_of_response(status: &str) -> &str {
    match status {
        "completed" => "stop",
        "failed" => "error",
        "incomplete" => "length",
        other => other,
    }
}

/// Why a whole answer ended, in each dialect. Reads the choices, so only for who wants to know.
#[must_use]
pub fn finish_reasons(body: &[u8]) -> FinishReasons {
    let Some(members) = Members::parse(body) else { return FinishReasons::default() };
    if let Some(choices) = members.value("choices") {
        return reasons_of(choices);
    }
    if let Some(reason) = members.value("stop_reason") {
        return reason_of(reason);
    }
    let of_response = members.value("object").is_some_and(|object| object.get() == r#""response""#);
    let status = members.value("status").filter(|_| of_response).map(|status| status.get().trim_matches('"'));
    status.map(|status| FinishReasons::of(word_of_response(status))).unwrap_or_default()
}

#[derive(Deserialize)]
struct WithUsage<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

fn adopt_usage(value: Option<&RawValue>, chunk: &mut Chunk) {
    let inner: Option<WithUsage<'_>> = value.and_then(|value| serde_json::from_str(value.get()).ok());
    let Reported { usage, cost_usd, seconds: _ } = Reported::read(inner.and_then(|inner| inner.usage));
    chunk.usage = chunk.usage.or(usage);
    chunk.cost_usd = chunk.cost_usd.take().or(cost_usd);
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
}

fn starts_a_tool(block: Option<&RawValue>) -> bool {
    let block: Option<Block<'_>> = block.and_then(|block| serde_json::from_str(block.get()).ok());
    block.and_then(|block| block.kind).is_some_and(|kind| kind.get().contains("tool_use"))
}

fn starts_a_call(item: Option<&RawValue>) -> bool {
    let item: Option<Block<'_>> = item.and_then(|item| serde_json::from_str(item.get()).ok());
    item.and_then(|item| item.kind).is_some_and(|kind| kind.get().ends_with("_call\""))
}

/// Whether an item of a response is an image that was drawn.
pub(super) fn is_an_image(item: Option<&RawValue>) -> bool {
    let item: Option<Block<'_>> = item.and_then(|item| serde_json::from_str(item.get()).ok());
    item.and_then(|item| item.kind).is_some_and(|kind| kind.get() == "\"image_generation_call\"")
}

#[derive(Deserialize)]
struct BlockDelta<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    thinking: Option<&'a RawValue>,
    partial_json: Option<&'a RawValue>,
}

fn add_block(delta: Option<&RawValue>, progress: &mut Progress) {
    let delta: Option<BlockDelta<'_>> = delta.and_then(|delta| serde_json::from_str(delta.get()).ok());
    if let Some(delta) = delta {
        for text in [delta.text, delta.thinking, delta.partial_json] {
            progress.text(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::{Rules, rewrite_chunk};
    use super::*;

    fn words(reasons: FinishReasons) -> Vec<&'static str> {
        reasons.words().collect()
    }

    #[test]
    fn each_dialect_says_in_its_stream_why_an_answer_ended() {
        for (data, expected) in [
            (r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#, vec!["tool_calls"]),
            (
                r#"{"choices":[{"index":0,"finish_reason":"stop"},{"index":1,"finish_reason":"what"}]}"#,
                vec!["stop", "other"],
            ),
            (r#"{"choices":[{"index":0,"delta":{"content":"stop"},"finish_reason":null}]}"#, vec![]),
            (
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}"#,
                vec!["end_turn"],
            ),
            (r#"{"type":"message_delta","delta":{"stop_reason":null}}"#, vec![]),
            (r#"{"type":"response.completed","response":{}}"#, vec!["stop"]),
            (r#"{"type":"response.incomplete","response":{}}"#, vec!["length"]),
            (r#"{"type":"response.failed","response":{}}"#, vec!["error"]),
            (r#"{"type":"response.output_text.delta","delta":"stop"}"#, vec![]),
        ] {
            let rules = Rules { model: "m", client_wants_usage: true };
            let rewritten = rewrite_chunk(&bytes::Bytes::from_static(data.as_bytes()), &rules);
            assert_eq!(words(rewritten.chunk.reasons), expected, "{data}");
        }
    }

    #[test]
    fn a_whole_answer_says_why_it_ended() {
        for (body, expected) in [
            (r#"{"choices":[{"message":{"content":"x"},"finish_reason":"length"}]}"#, vec!["length"]),
            (r#"{"type":"message","content":[],"stop_reason":"max_tokens"}"#, vec!["max_tokens"]),
            (r#"{"object":"response","status":"completed"}"#, vec!["stop"]),
            (r#"{"object":"list","status":"completed"}"#, vec![]),
            (r#"{"choices":7}"#, vec![]),
            ("no json", vec![]),
        ] {
            assert_eq!(words(finish_reasons(body.as_bytes())), expected, "{body}");
        }
    }
}
