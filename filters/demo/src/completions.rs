//! `POST /v1/completions`, the older endpoint: plain text in, plain text out.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::answer::{QUOTED_WORDS, start};
use crate::chat::{MAX_CHOICES, check_counts, now, numbered, unique};
use crate::cut::{Finish, Stop, cut};
use crate::embeddings::Input;
use crate::error::{Refusal, read};
use crate::stream::{self, Pace, Step, StreamOptions};
use crate::usage::{Usage, tokens};

#[derive(Deserialize)]
struct Request {
    model: String,
    prompt: Input,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(default)]
    n: Option<usize>,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice],
    /// Absent on chunks unless asked for; then `null` on all but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<()>,
    finish_reason: Option<Finish>,
}

/// What all parts of one answer share.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn answer<'a>(&'a self, choices: &'a [Choice], usage: Option<Option<Usage>>) -> Answer<'a> {
        Answer { id: &self.id, object: "text_completion", created: self.created, model: &self.model, choices, usage }
    }
}

/// Answers, whole or as a stream.
pub(crate) async fn handle(body: Result<Bytes, BytesRejection>) -> Result<Response, Refusal> {
    let request: Request = read(body)?;
    check_counts(request.max_tokens, request.n)?;
    let n = request.n.unwrap_or(1);
    let prompts = request.prompt.elements();
    if prompts.is_empty() || prompts.len().saturating_mul(n) > MAX_CHOICES {
        return Err(Refusal::at("prompt", format!("1 to {MAX_CHOICES} choices can be asked for.")));
    }
    let mut choices = Vec::new();
    for prompt in &prompts {
        let words = prompt.text.split_whitespace().count();
        let text = format!(
            "I am the demo model. The text to go on from has {words} words: \"{}\"",
            start(&prompt.text, QUOTED_WORDS)
        );
        for index in 0..n {
            let (text, finish) = cut(&numbered(&text, index, n), request.stop.as_ref(), request.max_tokens);
            choices.push(Choice { index: choices.len(), text, logprobs: None, finish_reason: Some(finish) });
        }
    }
    let read = prompts.iter().map(|prompt| prompt.tokens).sum();
    let usage = Usage::generated(read, choices.iter().map(|choice| tokens(&choice.text)).sum());
    let head = Head { id: unique("cmpl-"), created: now(), model: request.model };
    if request.stream == Some(true) {
        let wanted = request.stream_options.and_then(|options| options.include_usage) == Some(true);
        Ok(streamed(head, choices, wanted.then_some(usage)))
    } else {
        Ok(Json(head.answer(&choices, Some(Some(usage)))).into_response())
    }
}

fn streamed(head: Head, choices: Vec<Choice>, usage: Option<Usage>) -> Response {
    let mut events = Vec::new();
    for (pace, choice) in stream::rounds(choices.into_iter().map(pieces).collect()) {
        events.push((pace, vec![choice], usage.map(|_| None)));
    }
    if usage.is_some() {
        events.push((Pace::AtOnce, Vec::new(), Some(usage)));
    }
    stream::response(
        events.into_iter().map(move |(pace, choices, usage)| Step::json(pace, &head.answer(&choices, usage))),
    )
}

fn pieces(choice: Choice) -> Vec<Choice> {
    let piece = |text, finish_reason| Choice { index: choice.index, text, logprobs: None, finish_reason };
    let mut out: Vec<Choice> = stream::words(&choice.text).map(|word| piece(word, None)).collect();
    out.push(piece(String::new(), choice.finish_reason));
    out
}
