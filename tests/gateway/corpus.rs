//! Streams of ten providers through the running gateway: whole, byte by byte, event by event, and what an upstream does
//! wrong inside one.

mod compressed;
mod faults;
mod flow;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Caller, Client, Gateway, Setup, Stage, backend, model};

/// A stream of a provider.
#[derive(Clone, Copy)]
struct Provider {
    name: &'static str,
    path: &'static str,
    /// The model as the provider calls it.
    upstream: &'static str,
    stream: &'static str,
}

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

macro_rules! provider {
    ($name:literal, $path:expr, $upstream:literal) => {
        Provider {
            name: $name,
            path: $path,
            upstream: $upstream,
            stream: include_str!(concat!("../../filters/models/tests/corpus/", $name, ".sse")),
        }
    };
}

const CORPUS: [Provider; 10] = [
    provider!("anthropic", MESSAGES, "claude-opus-4-7-20260416"),
    provider!("azure", CHAT, "gpt-5.5-2026-03-05"),
    provider!("gemini", CHAT, "gemini-3.5-flash"),
    provider!("litellm", CHAT, "bedrock-claude"),
    provider!("ollama", CHAT, "gpt-oss:20b"),
    provider!("openai", CHAT, "gpt-5.5-2026-03-05"),
    provider!("openrouter", CHAT, "google/gemini-3.5-flash"),
    provider!("responses", RESPONSES, "gpt-5.5-2026-03-05"),
    provider!("sglang", CHAT, "deepseek-ai/DeepSeek-V3.2"),
    provider!("vllm", CHAT, "Qwen/Qwen3-32B"),
];

impl Provider {
    /// A request whose caller wants to see usage.
    fn request(self) -> String {
        let prompt = json!([{"role": "user", "content": "hi"}]);
        let request = match self.path {
            MESSAGES => json!({"model": "m", "stream": true, "max_tokens": 9, "messages": prompt}),
            RESPONSES => json!({"model": "m", "stream": true, "input": "hi"}),
            _ => json!({"model": "m", "stream": true, "messages": prompt, "stream_options": {"include_usage": true}}),
        };
        request.to_string()
    }

    async fn send(self, client: &mut Client) {
        let headers = [("content-type", "application/json")];
        client.send(&Method::POST, self.path, &headers, self.request().as_bytes()).await;
    }

    /// The events as they are sent, comments included.
    fn events(self) -> impl Iterator<Item = &'static str> {
        self.stream.split_inclusive("\n\n")
    }

    /// What the caller sees of one: nothing of a comment.
    fn shown(self, event: &str) -> String {
        if event.starts_with(':') {
            return String::new();
        }
        event
            .replace(&format!("\"{}\"", self.upstream), "\"m\"")
            .replace("\"model\":\"\"", "\"model\":\"m\"")
            .replace("\"provider\":\"Google\",", "")
    }

    /// What the caller sees of all.
    fn expected(self) -> String {
        self.events().map(|event| self.shown(event)).collect()
    }
}

/// A gateway with a model `m` at a stage that speaks all dialects of text.
async fn started(stage: &Stage) -> Gateway {
    let mut backend = backend("first", stage.addr);
    backend["protocols"] = json!(["chat", "completions", "messages", "responses"]);
    Setup::new().backend(backend).model(model("m", &[("first", "up")])).start().await
}

/// A stream without the events that the gateway adds of its own.
fn without_own_events(text: &str) -> String {
    text.split_inclusive("\n\n").filter(|event| !event.starts_with("event: spass.")).collect()
}

/// Reads a stream to its end.
async fn rest(client: &mut Client) -> String {
    let mut text = String::new();
    while let Some(piece) = client.piece().await {
        text.push_str(&piece);
    }
    without_own_events(&text)
}

/// A chat that streams, with or without the wish for usage.
fn chat(usage: bool) -> Vec<u8> {
    let mut body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    if usage {
        body["stream_options"] = json!({"include_usage": true});
    }
    body.to_string().into_bytes()
}

/// Sends a chat; gives both ends of it.
async fn asked(gateway: &Gateway, stage: &mut Stage, usage: bool) -> (Client, Caller) {
    let mut client = gateway.client().await;
    client.send_chat(chat(usage)).await;
    (client, stage.caller().await)
}

/// The code of the error that is the last event of a chat; nothing follows it.
fn last_error(text: &str) -> Value {
    assert!(!text.contains("[DONE]") && text.ends_with("\n\n"), "{text}");
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    let event: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap_or_else(|| panic!("{text}"))).unwrap();
    event["error"]["code"].clone()
}
