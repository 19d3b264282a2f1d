//! `POST /v1/chat/completions`.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::answer::{ResponseFormat, content};
use crate::cut::{Finish, Stop, cut};
use crate::error::{Refusal, read};
use crate::prompt::{Message, Prompt};
use crate::stream::StreamOptions;
use crate::tools::{Call, Tool, ToolChoice, call};
use crate::usage::{Usage, tokens};

mod chunks;
mod whole;

/// Most choices of one request, as at OpenAI.
pub(crate) const MAX_CHOICES: usize = 128;

#[derive(Deserialize)]
struct Request {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(default)]
    n: Option<usize>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(default)]
    tools: Option<Vec<Tool>>,
    #[serde(default)]
    tool_choice: Option<ToolChoice>,
}

/// What all parts of one answer share.
struct Head {
    id: String,
    created: u64,
    model: String,
}

/// What one choice says.
enum Said {
    Call { id: String, call: Call },
    Text(String),
}

/// One choice, complete; streams take it apart again.
struct Choice {
    said: Said,
    finish: Finish,
}

impl Choice {
    fn tokens(&self) -> usize {
        match &self.said {
            Said::Call { call, .. } => tokens(&call.name) + tokens(&call.arguments),
            Said::Text(text) => tokens(text),
        }
    }
}

/// Answers, whole or as a stream.
pub(crate) async fn handle(body: Result<Bytes, BytesRejection>) -> Result<Response, Refusal> {
    let request: Request = read(body)?;
    let prompt = Prompt::read(&request.messages)?;
    let choices = choices(&request, &prompt)?;
    let usage = Usage::generated(prompt.tokens, choices.iter().map(Choice::tokens).sum());
    let head = Head { id: unique("chatcmpl-"), created: now(), model: request.model };
    if request.stream == Some(true) {
        let wanted = request.stream_options.and_then(|options| options.include_usage) == Some(true);
        Ok(chunks::response(head, choices, wanted.then_some(usage)))
    } else {
        Ok(Json(whole::answer(head, choices, usage)).into_response())
    }
}

fn choices(request: &Request, prompt: &Prompt) -> Result<Vec<Choice>, Refusal> {
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    check_counts(max_tokens, request.n)?;
    let n = request.n.unwrap_or(1);
    let tools = request.tools.as_deref().unwrap_or_default();
    if let Some(call) = call(tools, request.tool_choice.as_ref(), prompt)? {
        let choice =
            |_| Choice { said: Said::Call { id: unique("call_"), call: call.clone() }, finish: Finish::ToolCalls };
        return Ok((0..n).map(choice).collect());
    }
    let format = request.response_format.as_ref();
    let text = content(prompt, format)?;
    let plain = matches!(format, None | Some(ResponseFormat::Text));
    let choice = |index| {
        let text = if plain { numbered(&text, index, n) } else { text.clone() };
        let (text, finish) = cut(&text, request.stop.as_ref(), max_tokens);
        Choice { said: Said::Text(text), finish }
    };
    Ok((0..n).map(choice).collect())
}

/// Refuses numbers that make no sense.
pub(crate) fn check_counts(max_tokens: Option<usize>, n: Option<usize>) -> Result<(), Refusal> {
    if max_tokens == Some(0) {
        return Err(Refusal::at("max_tokens", "`max_tokens` must be at least 1."));
    }
    if n.is_some_and(|n| !(1..=MAX_CHOICES).contains(&n)) {
        return Err(Refusal::at("n", format!("`n` must lie between 1 and {MAX_CHOICES}.")));
    }
    Ok(())
}

/// Tells several choices apart.
pub(crate) fn numbered(text: &str, index: usize, of: usize) -> String {
    if of == 1 { text.to_owned() } else { format!("Choice {} of {of}: {text}", index + 1) }
}

/// A new id.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::new_v4().simple())
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
