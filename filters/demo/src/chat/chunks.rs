//! An answer as a stream: role, content or tool call in pieces, finish, usage if asked for.

use axum::response::Response;
use serde::Serialize;

use super::{Choice, Head, Said};
use crate::cut::Finish;
use crate::stream::{self, Pace, Step};
use crate::tools::Call;
use crate::usage::Usage;

/// Pieces that the arguments of a tool call arrive in, at most.
const ARGUMENT_PIECES: usize = 4;

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [ChunkChoice],
    /// Absent unless asked for; then `null` on all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<()>,
    finish_reason: Option<Finish>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolDelta; 1]>,
}

#[derive(Serialize)]
struct ToolDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Serialize)]
#[serde(untagged)]
enum FunctionDelta {
    Start(Call),
    More { arguments: String },
}

/// The stream. `usage` is there when it was asked for.
pub(super) fn response(head: Head, choices: Vec<Choice>, usage: Option<Usage>) -> Response {
    let choices = choices.into_iter().enumerate().map(|(index, choice)| pieces(index, choice)).collect();
    let mut events = Vec::new();
    for (pace, choice) in stream::rounds(choices) {
        events.push((pace, vec![choice], usage.map(|_| None)));
    }
    if usage.is_some() {
        events.push((Pace::AtOnce, Vec::new(), Some(usage)));
    }
    stream::response(events.into_iter().map(move |(pace, choices, usage)| {
        let chunk = Chunk {
            id: &head.id,
            object: "chat.completion.chunk",
            created: head.created,
            model: &head.model,
            choices: &choices,
            usage,
        };
        Step::json(pace, &chunk)
    }))
}

fn pieces(index: usize, choice: Choice) -> Vec<ChunkChoice> {
    let piece = |delta| ChunkChoice { index, delta, logprobs: None, finish_reason: None };
    let mut out = Vec::new();
    match choice.said {
        Said::Text(text) => {
            let role = Delta { role: Some("assistant"), content: Some(String::new()), tool_calls: None };
            out.push(piece(role));
            out.extend(stream::words(&text).map(|word| piece(Delta { content: Some(word), ..Delta::default() })));
        }
        Said::Call { id, call } => {
            out.push(piece(Delta { role: Some("assistant"), ..Delta::default() }));
            out.extend(call_deltas(id, call).into_iter().map(piece));
        }
    }
    out.push(ChunkChoice { finish_reason: Some(choice.finish), ..piece(Delta::default()) });
    out
}

/// Id and name first, with empty arguments; then the arguments in pieces.
fn call_deltas(id: String, call: Call) -> Vec<Delta> {
    let delta = |tool| Delta { tool_calls: Some([tool]), ..Delta::default() };
    let start = FunctionDelta::Start(Call { name: call.name, arguments: String::new() });
    let mut out = vec![delta(ToolDelta { index: 0, id: Some(id), r#type: Some("function"), function: start })];
    let characters: Vec<char> = call.arguments.chars().collect();
    for piece in characters.chunks(characters.len().div_ceil(ARGUMENT_PIECES).max(1)) {
        let function = FunctionDelta::More { arguments: piece.iter().collect() };
        out.push(delta(ToolDelta { index: 0, id: None, r#type: None, function }));
    }
    out
}
