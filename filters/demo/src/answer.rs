//! What is answered, apart from tool calls: sentences about the prompt, or JSON about it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Refusal;
use crate::prompt::Prompt;
use crate::schema::{Source, fill};

/// Words of the user's message that are quoted.
pub(crate) const QUOTED_WORDS: usize = 60;

/// Words of the system prompt that are quoted.
const REMARKED_WORDS: usize = 8;

/// Characters that are quoted at most, of whatever text: a prompt of megabytes gets a short answer.
const QUOTED_CHARACTERS: usize = 4000;

/// The `response_format` member.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ResponseFormat {
    JsonObject,
    JsonSchema { json_schema: JsonSchema },
    Text,
}

#[derive(Debug, Deserialize)]
pub(crate) struct JsonSchema {
    #[serde(default)]
    schema: Option<Map<String, Value>>,
}

#[derive(Serialize)]
struct About<'a> {
    answer: String,
    messages: usize,
    words: usize,
    images: &'a [String],
}

/// The content of an answer, uncut.
///
/// # Errors
/// A schema is asked for and not sent.
pub(crate) fn content(prompt: &Prompt, format: Option<&ResponseFormat>) -> Result<String, Refusal> {
    match format {
        None | Some(ResponseFormat::Text) => Ok(sentences(prompt)),
        Some(ResponseFormat::JsonObject) => {
            let about = About {
                answer: sentences(prompt),
                messages: prompt.messages,
                words: prompt.words,
                images: &prompt.images,
            };
            serde_json::to_string(&about).map_err(|error| Refusal::bad_request(error.to_string()))
        }
        Some(ResponseFormat::JsonSchema { json_schema }) => {
            let Some(schema) = &json_schema.schema else {
                return Err(Refusal::at("response_format.json_schema.schema", "The schema is missing."));
            };
            Ok(fill(schema, &mut Source::new(prompt.user.as_deref().unwrap_or_default())).to_string())
        }
    }
}

fn sentences(prompt: &Prompt) -> String {
    if let Some(result) = &prompt.tool_result {
        return format!("The tool answered: {}", start(result, usize::MAX));
    }
    let mut text = format!(
        "I am the demo model and answer without a GPU, from your prompt alone. I read {} with {}.",
        count(prompt.messages, "message"),
        count(prompt.words, "word"),
    );
    if let Some(system) = &prompt.system {
        text.push_str(&format!(" My system prompt begins with \"{}\".", start(system, REMARKED_WORDS)));
    }
    if !prompt.images.is_empty() {
        text.push_str(&format!(" I was shown {}.", prompt.images.join(", ")));
    }
    match prompt.user.as_deref().map(str::trim) {
        None | Some("") => text.push_str(" You asked nothing in words."),
        Some(user) => text.push_str(&format!(" You wrote: \"{}\"", start(user, QUOTED_WORDS))),
    }
    text
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The first words of a text, with white space as it stands, and an ellipsis when there are more.
pub(crate) fn start(text: &str, words: usize) -> String {
    let text = text.trim();
    let shown = text.split_inclusive(char::is_whitespace).take(words).flat_map(str::chars);
    let shown: String = shown.take(QUOTED_CHARACTERS).collect();
    let shown = shown.trim_end();
    if shown.len() < text.len() { format!("{shown}…") } else { shown.to_owned() }
}
