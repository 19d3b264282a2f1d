//! Whole streams of each upstream against golden files, and what must hold for every chunk.

use bytes::Bytes;
use dgx_gateway_filter::facts::Usage;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::sse::{Framer, encode};

macro_rules! golden {
    ($($name:literal)*) => { [$(Golden {
        name: $name,
        received: include_str!(concat!("../../tests/fixtures/streams/", $name, ".sse")),
        sent: include_str!(concat!("../../tests/fixtures/rewritten/", $name, ".sse")),
    }),*] };
}

/// A stream, and what a client reads of it that did not ask for usage.
struct Golden {
    name: &'static str,
    received: &'static str,
    sent: &'static str,
}

const GOLDEN: [Golden; 9] =
    golden!["anthropic" "azure" "completions" "litellm" "ollama" "openai" "openrouter" "responses" "vllm"];

const SILENT: Rules<'_> = Rules { model: "my-model", client_wants_usage: false };
const ASKED: Rules<'_> = Rules { model: "my-model", client_wants_usage: true };

/// The stream as it is sent on, and all that its chunks said.
fn rewritten(stream: &str, rules: &Rules<'_>) -> (String, Vec<Chunk>) {
    let mut framer = Framer::new(1 << 20);
    framer.push(Bytes::copy_from_slice(stream.as_bytes()));
    let (mut sent, mut chunks) = (Vec::new(), Vec::new());
    while let Some(event) = framer.next_event() {
        let event = event.unwrap();
        if event.is_comment {
            continue;
        }
        let Rewritten { chunk, data, drop } = rewrite_chunk(&event.data, rules);
        chunks.push(chunk);
        if !drop {
            sent.extend_from_slice(&encode(event.name.as_deref(), &data.unwrap_or(event.data)));
        }
    }
    (String::from_utf8(sent).unwrap(), chunks)
}

fn usage(prompt_tokens: u64, completion_tokens: u64, cached_tokens: u64) -> Usage {
    Usage { prompt_tokens, completion_tokens, cached_tokens, ..Usage::default() }
}

fn rewrite(data: &str, rules: &Rules<'_>) -> Rewritten {
    rewrite_chunk(&Bytes::copy_from_slice(data.as_bytes()), rules)
}

fn text(data: Option<Bytes>) -> Option<String> {
    data.map(|data| String::from_utf8(data.to_vec()).unwrap())
}

#[test]
fn streams_are_rewritten_as_recorded() {
    for Golden { name, received, sent } in GOLDEN {
        assert_eq!(rewritten(received, &SILENT).0, sent, "{name}");
    }
}

#[test]
fn streams_are_understood() {
    for (name, tokens, text_bytes, cost) in [
        ("anthropic", usage(35, 15, 10), 5, None),
        ("azure", usage(8, 2, 0), 5, None),
        ("completions", usage(3, 1, 0), 4, None),
        ("litellm", usage(9, 2, 0), 5, None),
        ("ollama", usage(11, 1, 0), 2, None),
        ("openai", usage(70, 9, 64), 15, None),
        ("openrouter", usage(16, 14, 0), 23, Some("0.00043")),
        ("responses", usage(11, 5, 0), 5, None),
        ("vllm", usage(12, 8, 4), 27, None),
    ] {
        let stream = GOLDEN.iter().find(|golden| golden.name == name).unwrap().received;
        let (_, chunks) = rewritten(stream, &SILENT);
        let reported = chunks.iter().fold(None, |known, chunk| later_usage(known, chunk.usage));
        assert_eq!(reported, Some(tokens), "{name}");
        assert_eq!(chunks.iter().map(|chunk| chunk.text_bytes).sum::<u64>(), text_bytes, "{name}");
        assert_eq!(chunks.iter().filter(|chunk| chunk.finished).count(), 1, "{name}");
        assert_eq!(chunks.iter().find_map(|chunk| chunk.cost_usd.as_deref()), cost, "{name}");
        let is_done = chunks.last().unwrap().kind == ChunkKind::Done;
        assert_eq!(is_done, !["anthropic", "responses"].contains(&name), "{name}");
    }
}

#[test]
fn whoever_asks_for_usage_gets_it() {
    for Golden { name, received, .. } in GOLDEN {
        let (sent, _) = rewritten(received, &ASKED);
        assert_eq!(sent.matches("\"usage\":{").count(), received.matches("\"usage\":{").count(), "{name}");
    }
}

#[test]
fn nothing_changes_when_nothing_has_to() {
    for data in [
        r#"{"id":"x","model":"my-model","choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}"#,
        r#"{ "choices" : [ ] , "x":1e400, "y":"\u0000\ud800" }"#,
        r#"{"type":"ping"}"#,
        r#"{"choices":[{"delta":{"provider":"p","model":"m","usage":{}}}]}"#,
        "{}",
    ] {
        let rewritten = rewrite(data, &SILENT);
        assert_eq!((rewritten.data, rewritten.drop, rewritten.chunk.kind), (None, false, ChunkKind::Content), "{data}");
    }
}

#[test]
fn only_the_named_members_change() {
    for (data, silent, asked) in [
        (
            r#"{"model" : "up/x", "choices":[{"index":0}], "z":[1.0,2]}"#,
            r#"{"model" : "my-model", "choices":[{"index":0}], "z":[1.0,2]}"#,
            None,
        ),
        (r#"{"provider":"P","choices":[]}"#, r#"{"choices":[]}"#, None),
        (
            r#"{"a":1,"choices":[{}],"usage":{"prompt_tokens":1},"provider":null}"#,
            r#"{"a":1,"choices":[{}]}"#,
            Some(r#"{"a":1,"choices":[{}],"usage":{"prompt_tokens":1}}"#),
        ),
        (r#"{"m\u006fdel":"m","model":"n"}"#, r#"{"m\u006fdel":"my-model","model":"my-model"}"#, None),
    ] {
        assert_eq!(text(rewrite(data, &SILENT).data).as_deref(), Some(silent), "{data}");
        assert_eq!(text(rewrite(data, &ASKED).data).as_deref(), Some(asked.unwrap_or(silent)), "{data}");
    }
}

#[test]
fn the_model_within_an_event_of_another_dialect_changes() {
    for (data, sent) in [
        (
            r#"{"type":"message_start","message":{"id":"m","model":"up","usage":{"input_tokens":1}}}"#,
            Some(r#"{"type":"message_start","message":{"id":"m","model":"my-model","usage":{"input_tokens":1}}}"#),
        ),
        (
            r#"{"type":"response.created","response":{"model": "up"} ,"sequence_number":0}"#,
            Some(r#"{"type":"response.created","response":{"model": "my-model"} ,"sequence_number":0}"#),
        ),
        (r#"{"type":"message_start","message":{"model":"my-model"}}"#, None),
        (r#"{"type":"content_block_delta","message":{"model":"up"}}"#, None),
        (r#"{"choices":[],"message":{"model":"up"}}"#, None),
    ] {
        assert_eq!(text(rewrite(data, &SILENT).data).as_deref(), sent, "{data}");
    }
}

#[test]
fn a_slug_is_written_as_json() {
    let rules = Rules { model: "a\"b\\ü", client_wants_usage: false };
    assert_eq!(text(rewrite(r#"{"model":"m"}"#, &rules).data).as_deref(), Some(r#"{"model":"a\"b\\ü"}"#));
    assert_eq!(rewrite(r#"{"model":"a\"b\\ü"}"#, &rules).data, None);
}

#[test]
fn the_usage_chunk_is_dropped_unless_asked_for() {
    let data = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}"#;
    let silent = rewrite(data, &SILENT);
    assert!(silent.drop);
    assert_eq!((silent.chunk.kind, silent.chunk.usage), (ChunkKind::UsageOnly, Some(usage(5, 6, 0))));
    let asked = rewrite(data, &ASKED);
    assert!(!asked.drop);
    assert!(text(asked.data).unwrap().contains("\"usage\":{\"prompt_tokens\":5"));
}

#[test]
fn failures_within_a_stream_are_seen() {
    for data in [
        r#"{"error":{"message":"x","type":"InternalServerError","code":500}}"#,
        r#"{"error":"x"}"#,
        r#"{"object":"error","message":"x","code":400}"#,
        r#"{"id":"g","error":{"code":502,"message":"x"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#,
        r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#,
        r#"{"type":"error","code":"server_error","message":"x","sequence_number":3}"#,
    ] {
        assert_eq!(rewrite(data, &SILENT).chunk.kind, ChunkKind::Error, "{data}");
    }
    assert_eq!(rewrite(r#"{"error":null,"choices":[]}"#, &SILENT).chunk.kind, ChunkKind::Content);
}

#[test]
fn what_is_not_json_passes() {
    for data in ["", "hello", "[1]", "{\"a\":", "{\"model\":\"m\"", "[DONE] "] {
        let rewritten = rewrite(data, &SILENT);
        let expected = if data.starts_with("[D") { ChunkKind::Done } else { ChunkKind::Other };
        assert_eq!((rewritten.chunk.kind, rewritten.data, rewritten.drop), (expected, None, false), "{data}");
    }
}

#[test]
fn events_of_the_other_dialects_are_read() {
    for (data, semantic, finished, text_bytes) in [
        (r#"{"type":"response.output_text.delta","delta":"abc"}"#, true, false, 3),
        (r#"{"type":"response.function_call_arguments.delta","delta":"{}"}"#, true, false, 2),
        (r#"{"type":"response.created","response":{"status":"in_progress"}}"#, false, false, 0),
        (r#"{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":2}}}"#, false, true, 0),
        (r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"hm"}}"#, true, false, 2),
        (r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":""}}"#, false, false, 0),
        (r#"{"type":"content_block_start","content_block":{"type":"tool_use","name":"f","input":{}}}"#, true, false, 0),
        (r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":1}}"#, false, false, 0),
        (r#"{"type":"message_stop"}"#, false, true, 0),
        (r#"{"type":"response.incomplete","response":{}}"#, false, true, 0),
        (r#"{"type":"response.failed","response":{"error":{"message":"x"}}}"#, false, true, 0),
        (r#"{"type":"response.output_item.added","item":{"type":"message"}}"#, false, false, 0),
        (r#"{"type":"response.output_item.added","item":{"type":"function_call","name":"f"}}"#, true, false, 0),
        (r#"{"type":"response.image_generation_call.partial_image","partial_image_b64":"x"}"#, true, false, 0),
    ] {
        let chunk = rewrite(data, &SILENT).chunk;
        assert_eq!((chunk.semantic, chunk.finished, chunk.text_bytes), (semantic, finished, text_bytes), "{data}");
    }
}

#[test]
fn a_failed_response_is_told_apart_and_does_not_tell_why() {
    let rewritten = rewrite(
        r#"{"type":"response.failed","sequence_number":7,"response":{"model":"up","error":{"code":"x","message":"host"}}}"#,
        &SILENT,
    );
    assert!(rewritten.chunk.failed && rewritten.chunk.finished);
    assert_eq!(rewritten.chunk.sequence_number, Some(7));
    assert_eq!(
        text(rewritten.data).unwrap(),
        r#"{"type":"response.failed","sequence_number":7,"response":{"model":"my-model","error":{"code":"server_error","message":"The upstream failed."}}}"#
    );
    assert!(!rewrite(r#"{"type":"response.completed","response":{"error":null}}"#, &SILENT).chunk.failed);
}

/// The document without what a rewrite may change.
fn untouched(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        for name in ["model", "provider", "usage"] {
            members.remove(name);
        }
    }
    value
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let inner = leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            members(inner).prop_map(Value::from),
        ]
    });
    members(inner).prop_map(Value::from)
}

fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = serde_json::Map<String, Value>> {
    let name = prop_oneof!["[a-z\"\\\\é]{0,3}", "model|provider|usage|choices|error|delta"];
    proptest::collection::vec((name, value), 0..6).prop_map(|members| members.into_iter().collect())
}

proptest! {
    #[test]
    fn any_document_keeps_its_other_members(document in json(), pretty in any::<bool>(), asked in any::<bool>()) {
        let rules = if asked { ASKED } else { SILENT };
        let data = if pretty { format!("{document:#}") } else { document.to_string() };
        let rewritten = rewrite(&data, &rules);
        prop_assert_ne!(rewritten.chunk.kind, ChunkKind::Other);
        if let Some(changed) = text(rewritten.data) {
            let changed: Value = serde_json::from_str(&changed).unwrap();
            prop_assert_eq!(changed.get("model").is_some(), document.get("model").is_some());
            prop_assert!(changed.get("model").is_none_or(|model| model == rules.model));
            prop_assert!(changed.get("provider").is_none());
            prop_assert_eq!(untouched(changed), untouched(document));
        }
    }

    #[test]
    fn any_bytes_are_survived(data in proptest::collection::vec(proptest::sample::select(b"{}[]\",:\\ model12.e-\xFF".to_vec()), 0..40)) {
        let rewritten = rewrite_chunk(&Bytes::from(data.clone()), &SILENT);
        prop_assert!(rewritten.chunk.kind != ChunkKind::Other || rewrite_body(&data, "m").is_err());
    }
}

#[test]
fn usage_without_choices_is_hidden_whatever_stands_in_their_place() {
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":1}"#;
    for (choices, wants, dropped) in [
        (r#""choices":[],"#, false, true),
        (r#""choices":null,"#, false, true),
        ("", false, true),
        (r#""choices":null,"#, true, false),
        (r#""type":"message_delta","#, false, false),
    ] {
        let data = Bytes::from(format!("{{{choices}{usage}}}"));
        let rewritten = rewrite_chunk(&data, &Rules { model: "m", client_wants_usage: wants });
        assert_eq!((rewritten.drop, rewritten.data.is_none()), (dropped, true), "{choices} {wants}");
        assert_eq!(rewritten.chunk.usage.map(|usage| usage.prompt_tokens), Some(3), "{choices}");
    }
}

/// What the reports of a stream come to: they repeat what came before, so they are not added up.
#[test]
fn reports_of_a_stream_are_cumulative_whoever_sends_them() {
    let anthropic = [
        r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":10,"cache_read_input_tokens":100,"cache_creation_input_tokens":7,"output_tokens":1}}}"#,
        r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":5}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}"#,
    ];
    let anthropic_repeated = [
        r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"cache_read_input_tokens":0,"cache_creation_input_tokens":2051,"output_tokens":3}}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":10,"cache_read_input_tokens":0,"cache_creation_input_tokens":2051,"output_tokens":503}}"#,
    ];
    let vllm_continuous = [
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":12,"completion_tokens":1}}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"b"}}],"usage":{"prompt_tokens":12,"completion_tokens":2}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}}"#,
    ];
    let openrouter_twice = [
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4,"cost":0.5}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"cost":0.5}}"#,
    ];
    let responses = [
        r#"{"type":"response.created","response":{"id":"r","usage":null}}"#,
        r#"{"type":"response.completed","response":{"usage":{"input_tokens":75,"input_tokens_details":{"cached_tokens":64},"output_tokens":1186,"output_tokens_details":{"reasoning_tokens":1024}}}}"#,
    ];
    for (stream, expected) in [
        (&anthropic[..], [117, 15, 100, 7]),
        (&anthropic_repeated, [2061, 503, 0, 2051]),
        (&vllm_continuous, [12, 2, 8, 0]),
        (&openrouter_twice, [9, 4, 0, 0]),
        (&responses, [75, 1186, 64, 0]),
    ] {
        let chunks = stream.iter().map(|data| rewrite_chunk(&Bytes::from_static(data.as_bytes()), &SILENT).chunk);
        let usage = chunks.fold(None, |known, chunk| later_usage(known, chunk.usage)).unwrap();
        let found = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.cache_write_tokens];
        assert_eq!(found, expected, "{stream:?}");
    }
}

#[test]
fn images_and_seconds_are_told_where_a_stream_has_them() {
    for (data, images, seconds) in [
        (r#"{"choices":[{"index":0,"delta":{"images":[{"type":"image_url"},{"type":"image_url"}]}}]}"#, 2, None),
        (r#"{"choices":[{"index":0,"delta":{"content":"a","images":[]}}]}"#, 0, None),
        (r#"{"type":"response.output_item.done","item":{"type":"image_generation_call","result":"a"}}"#, 1, None),
        (r#"{"type":"response.output_item.done","item":{"type":"message"}}"#, 0, None),
        (r#"{"type":"transcript.text.done","text":"a","usage":{"type":"duration","seconds":61.5}}"#, 0, Some("61.5")),
    ] {
        let chunk = rewrite_chunk(&Bytes::from_static(data.as_bytes()), &SILENT).chunk;
        assert_eq!((chunk.images, chunk.seconds.as_deref()), (images, seconds), "{data}");
    }
}
