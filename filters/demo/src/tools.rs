//! Whether a tool is called, and with which arguments.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Refusal;
use crate::prompt::Prompt;
use crate::schema::{Source, fill};

/// Shortest word of a tool's name that counts as a mention; leaves out `get`, `of` and the like.
const MIN_NAME_WORD: usize = 4;

/// Shortest word of a description that counts as a mention; short words are mostly glue.
const MIN_DESCRIPTION_WORD: usize = 5;

/// Longer words that are glue nevertheless.
const GLUE: [&str; 12] =
    ["about", "after", "before", "from", "given", "return", "returns", "their", "there", "which", "with", "would"];

/// One element of `tools`.
#[derive(Debug, Deserialize)]
pub(crate) struct Tool {
    function: Function,
}

#[derive(Debug, Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
}

/// The `tool_choice` member.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum ToolChoice {
    Mode(Mode),
    Named { function: Named },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    Auto,
    None,
    Required,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    name: String,
}

/// A call, as the answer carries it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// JSON text.
    pub(crate) arguments: String,
}

/// The call to make, if any.
///
/// # Errors
/// The choice names no tool, or requires one where none is offered.
pub(crate) fn call(tools: &[Tool], choice: Option<&ToolChoice>, prompt: &Prompt) -> Result<Option<Call>, Refusal> {
    let user = prompt.user.as_deref().unwrap_or_default();
    let chosen = match choice {
        None | Some(ToolChoice::Mode(Mode::Auto)) if prompt.tool_result.is_some() => None,
        None | Some(ToolChoice::Mode(Mode::Auto)) => mentioned(tools, user),
        Some(ToolChoice::Mode(Mode::None)) => None,
        Some(ToolChoice::Mode(Mode::Required)) => Some(
            mentioned(tools, user)
                .or(tools.first())
                .ok_or_else(|| Refusal::at("tool_choice", "`tool_choice` requires a tool and `tools` has none."))?,
        ),
        Some(ToolChoice::Named { function }) => Some(
            tools
                .iter()
                .find(|tool| tool.function.name == function.name)
                .ok_or_else(|| Refusal::at("tool_choice.function.name", "`tools` has no tool of this name."))?,
        ),
    };
    Ok(chosen.map(|tool| tool.called_with(user)))
}

impl Tool {
    fn called_with(&self, user: &str) -> Call {
        let parameters = self.function.parameters.as_ref().filter(|parameters| !parameters.is_empty());
        let arguments =
            parameters.map_or_else(|| Value::Object(Map::new()), |schema| fill(schema, &mut Source::new(user)));
        Call { name: self.function.name.clone(), arguments: arguments.to_string() }
    }
}

/// The first tool of which the text holds a word: of a name first, then of a description.
fn mentioned<'a>(tools: &'a [Tool], text: &str) -> Option<&'a Tool> {
    let said: Vec<String> = words(text).collect();
    let says = |of: &str, shortest: usize| {
        words(of).any(|word| word.len() >= shortest && !GLUE.contains(&word.as_str()) && said.contains(&word))
    };
    let by_name = tools.iter().find(|tool| says(&tool.function.name, MIN_NAME_WORD));
    by_name.or_else(|| {
        let description = |tool: &'a Tool| tool.function.description.as_deref().unwrap_or_default();
        tools.iter().find(|tool| says(description(tool), MIN_DESCRIPTION_WORD))
    })
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}
