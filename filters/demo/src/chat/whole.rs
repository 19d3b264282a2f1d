//! An answer in one piece.

use serde::Serialize;

use super::{Choice, Head, Said};
use crate::cut::Finish;
use crate::tools::Call;
use crate::usage::Usage;

#[derive(Serialize)]
pub(super) struct Answer {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<WholeChoice>,
    usage: Usage,
}

#[derive(Serialize)]
struct WholeChoice {
    index: usize,
    message: Message,
    logprobs: Option<()>,
    finish_reason: Finish,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall; 1]>,
}

#[derive(Serialize)]
struct ToolCall {
    id: String,
    r#type: &'static str,
    function: Call,
}

/// Puts the choices into the form of the protocol.
pub(super) fn answer(head: Head, choices: Vec<Choice>, usage: Usage) -> Answer {
    let choices = choices.into_iter().enumerate().map(|(index, choice)| {
        let (content, tool_calls) = match choice.said {
            Said::Text(text) => (Some(text), None),
            Said::Call { id, call } => (None, Some([ToolCall { id, r#type: "function", function: call }])),
        };
        let message = Message { role: "assistant", content, refusal: None, tool_calls };
        WholeChoice { index, message, logprobs: None, finish_reason: choice.finish }
    });
    Answer {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices: choices.collect(),
        usage,
    }
}
