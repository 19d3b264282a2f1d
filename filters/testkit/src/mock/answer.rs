//! Correct answers in the form of the OpenAI endpoints.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::audio::FormData;
use super::behaviour::Answer;
use super::dialects;

/// What of a request body decides the form of the answer.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    pub(super) model: String,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    input: Value,
    /// A form instead of JSON.
    #[serde(skip)]
    pub(super) form: Option<FormData>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

impl Asked {
    /// Reads a body; one that is neither such JSON nor a form asks for nothing.
    pub(super) fn read(body: &[u8]) -> Self {
        if let Some(form) = FormData::read(body) {
            let (model, stream) = (form.field("model").to_owned(), Some(form.field("stream") == "true"));
            return Self { model, stream, form: Some(form), ..Self::default() };
        }
        serde_json::from_slice(body).unwrap_or_default()
    }

    fn wants_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true))
    }
}

/// The forms of text answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Chat,
    Completion,
}

/// The end of a stream, and how it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// Finish chunk, usage if asked for, `[DONE]`.
    Proper,
    /// Nothing.
    Missing,
}

const ID: &str = "chatcmpl-mock";
const CREATED: u64 = 1_735_689_600;

/// The whole body, not streamed.
pub(super) fn whole(answer: &Answer, path: &str, asked: &Asked) -> Bytes {
    if let Some(value) = dialects::whole(answer, path, asked) {
        return value.to_string().into();
    }
    let usage = answer.usage.map(usage);
    let text = answer.pieces.concat();
    let value = if path.ends_with("/chat/completions") {
        json!({"id": ID, "object": "chat.completion", "created": CREATED, "model": asked.model, "usage": usage,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})
    } else if path.ends_with("/completions") {
        json!({"id": ID, "object": "text_completion", "created": CREATED, "model": asked.model, "usage": usage,
            "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": "stop"}]})
    } else if path.ends_with("/embeddings") {
        embeddings(answer, asked)
    } else if path.ends_with("/models") {
        let model = |id| json!({"id": id, "object": "model", "created": CREATED, "owned_by": "mock"});
        json!({"object": "list", "data": super::names().map(model).collect::<Vec<_>>()})
    } else {
        json!({"object": "mock", "path": path, "model": asked.model, "text": text, "usage": usage})
    };
    value.to_string().into()
}

fn usage((read, written): (u64, u64)) -> Value {
    json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": read.saturating_add(written)})
}

fn embeddings(answer: &Answer, asked: &Asked) -> Value {
    let count = match &asked.input {
        Value::Array(inputs) if !inputs.first().is_some_and(Value::is_number) => inputs.len(),
        _ => 1,
    };
    let vector = |index: usize| -> Vec<f64> {
        (0..answer.dimensions).map(|place| if place == index % answer.dimensions { 1.0 } else { 0.0 }).collect()
    };
    let data: Vec<_> =
        (0..count).map(|index| json!({"object": "embedding", "index": index, "embedding": vector(index)})).collect();
    let usage = answer.usage.map(|(read, _)| json!({"prompt_tokens": read, "total_tokens": read}));
    json!({"object": "list", "model": asked.model, "data": data, "usage": usage})
}

/// Whether the request gets a stream.
pub(super) fn is_streamed(path: &str, asked: &Asked) -> bool {
    asked.stream == Some(true) && (path.ends_with("/completions") || dialects::is_streamed(path))
}

/// The events of a stream, each after its pause.
pub(super) fn events(answer: &Answer, path: &str, asked: &Asked, end: StreamEnd) -> Vec<(Duration, Bytes)> {
    if dialects::is_streamed(path) {
        return dialects::events(answer, path, asked, end);
    }
    let form = if path.ends_with("/chat/completions") { Form::Chat } else { Form::Completion };
    let mut events = Vec::new();
    if form == Form::Chat {
        let delta = json!({"role": "assistant", "content": ""});
        events.push((answer.before_body, chunk(form, asked, json!([choice(form, delta, Value::Null)]), Value::Null)));
    }
    for piece in &answer.pieces {
        let pause = if events.is_empty() { answer.before_body } else { answer.between };
        let delta = if form == Form::Chat { json!({"content": piece}) } else { json!(piece) };
        events.push((pause, chunk(form, asked, json!([choice(form, delta, Value::Null)]), Value::Null)));
    }
    if end == StreamEnd::Proper {
        let delta = if form == Form::Chat { json!({}) } else { json!("") };
        events.push((answer.between, chunk(form, asked, json!([choice(form, delta, json!("stop"))]), Value::Null)));
        if let (Some(tokens), true) = (answer.usage, asked.wants_usage()) {
            events.push((Duration::ZERO, chunk(form, asked, json!([]), usage(tokens))));
        }
        events.push((Duration::ZERO, Bytes::from_static(b"data: [DONE]\n\n")));
    }
    events
}

fn choice(form: Form, delta: Value, finish: Value) -> Value {
    match form {
        Form::Chat => json!({"index": 0, "delta": delta, "finish_reason": finish}),
        Form::Completion => json!({"index": 0, "text": delta, "logprobs": null, "finish_reason": finish}),
    }
}

fn chunk(form: Form, asked: &Asked, choices: Value, usage: Value) -> Bytes {
    let object = if form == Form::Chat { "chat.completion.chunk" } else { "text_completion" };
    let mut value = json!({"id": ID, "object": object, "created": CREATED, "model": asked.model, "choices": choices});
    if let (true, Some(members)) = (asked.wants_usage(), value.as_object_mut()) {
        members.insert("usage".to_owned(), usage);
    }
    format!("data: {value}\n\n").into()
}
