//! What the choices of a chunk carry.

use std::fmt;

use dgx_gateway_filter::facts::FinishReasons;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, Visitor};
use serde_json::value::RawValue;

/// What one chunk adds to the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Whether a client would notice the chunk.
    pub(super) semantic: bool,
    /// Whether the answer, or one of several, has come to its end.
    pub(super) finished: bool,
    /// The choices of the chunk, and those among them that state why they ended.
    pub(super) choices: Choices,
    pub(super) ended: Choices,
    /// Why they ended.
    pub(super) reasons: FinishReasons,
    /// Bytes of text received: content, reasoning and tool-call arguments.
    pub(super) text_bytes: u64,
    /// Images received.
    pub(super) images: u64,
}

/// A set of choices by their index, as bits. Those from 63 on count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices(u64);

impl Choices {
    /// The set with one more.
    #[must_use]
    pub fn with(self, index: u64) -> Self {
        Self(self.0 | 1 << index.min(63))
    }

    /// Those of both sets.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether `others` holds them all.
    #[must_use]
    pub fn within(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }
}

impl Progress {
    /// Adds the text of a member that counts as text.
    pub(super) fn text(&mut self, value: Option<&RawValue>) {
        let length = value.map_or(0, text_len);
        self.semantic |= length > 0;
        self.text_bytes = self.text_bytes.saturating_add(length);
    }
}

/// Some servers write it on every chunk until there is a reason.
const EMPTY: &str = "\"\"";

/// How many choices a chunk has and what they add; `None` when `choices` is no array of objects.
pub(super) fn read_choices(choices: &RawValue) -> Option<(usize, Progress)> {
    let choices: Vec<Choice<'_>> = serde_json::from_str(choices.get()).ok()?;
    let mut progress = Progress::default();
    for choice in &choices {
        let index = choice.index.and_then(|index| index.get().parse().ok()).unwrap_or(0);
        progress.choices = progress.choices.with(index);
        if let Some(reason) = choice.finish_reason.filter(|reason| reason.get() != EMPTY) {
            progress.finished = true;
            progress.ended = progress.ended.with(index);
            progress.reasons = progress.reasons.and(reason_of(reason));
        }
        progress.text(choice.text);
        if let Some(delta) = &choice.delta {
            delta.add_to(&mut progress);
        }
    }
    Some((choices.len(), progress))
}

/// A reason as it is written.
pub(super) fn reason_of(value: &RawValue) -> FinishReasons {
    FinishReasons::of(value.get().trim_matches('"'))
}

#[derive(Deserialize)]
struct Reason<'a> {
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

/// Why the choices of a whole answer ended.
pub(super) fn reasons_of(choices: &RawValue) -> FinishReasons {
    let choices: Vec<Reason<'_>> = serde_json::from_str(choices.get()).unwrap_or_default();
    let reasons = choices.iter().filter_map(|choice| choice.finish_reason).map(reason_of);
    reasons.fold(FinishReasons::default(), FinishReasons::and)
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    delta: Option<Delta<'a>>,
    text: Option<&'a RawValue>,
    finish_reason: Option<&'a RawValue>,
}

/// Members that are `null` read as absent.
#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    reasoning: Option<&'a RawValue>,
    reasoning_content: Option<&'a RawValue>,
    refusal: Option<&'a RawValue>,
    tool_calls: Option<&'a RawValue>,
    function_call: Option<&'a RawValue>,
    images: Option<&'a RawValue>,
    audio: Option<&'a RawValue>,
}

impl Delta<'_> {
    fn add_to(&self, progress: &mut Progress) {
        progress.text(self.content);
        // Some servers send the same reasoning under both names.
        progress.text(longer(self.reasoning, self.reasoning_content));
        let others = [self.refusal, self.tool_calls, self.function_call, self.images, self.audio];
        progress.semantic |= others.into_iter().flatten().any(|value| !is_empty(value));
        progress.images = progress.images.saturating_add(self.images.map_or(0, elements));
        let arguments = self.tool_calls.map_or(0, arguments_len) + self.function_call.map_or(0, function_len);
        progress.text_bytes = progress.text_bytes.saturating_add(arguments);
    }
}

/// How many elements an array has; 0 for anything else.
pub(super) fn elements(value: &RawValue) -> u64 {
    let all: Vec<IgnoredAny> = serde_json::from_str(value.get()).unwrap_or_default();
    u64::try_from(all.len()).unwrap_or(u64::MAX)
}

fn longer<'a>(one: Option<&'a RawValue>, other: Option<&'a RawValue>) -> Option<&'a RawValue> {
    let length = |value: Option<&RawValue>| value.map_or(0, |value| value.get().len());
    if length(one) >= length(other) { one } else { other }
}

/// Whether a value is an empty string, array or object.
fn is_empty(value: &RawValue) -> bool {
    let inner = value.get().strip_prefix(['"', '[', '{']).and_then(|text| text.strip_suffix(['"', ']', '}']));
    inner.is_some_and(|inner| inner.trim_ascii().is_empty() && (inner.is_empty() || !value.get().starts_with('"')))
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    function: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

fn arguments_len(calls: &RawValue) -> u64 {
    let calls: Vec<ToolCall<'_>> = serde_json::from_str(calls.get()).unwrap_or_default();
    calls.iter().filter_map(|call| call.function).map(function_len).sum()
}

fn function_len(function: &RawValue) -> u64 {
    let function: Option<Function<'_>> = serde_json::from_str(function.get()).ok();
    function.and_then(|function| function.arguments).map_or(0, text_len)
}

/// Bytes of a JSON string after unescaping. Of other values, such as content in parts, the bytes of the JSON
/// unless it is empty.
fn text_len(value: &RawValue) -> u64 {
    let text = value.get();
    let raw_len = || if is_empty(value) { 0 } else { text.len() as u64 };
    if !text.starts_with('"') {
        return raw_len();
    }
    if !text.contains('\\') {
        return (text.len() as u64).saturating_sub(2);
    }
    // Half of a surrogate pair is no text, but it was received.
    serde_json::from_str::<TextLen>(text).map_or_else(|_| raw_len(), |TextLen(length)| length)
}

/// The length of a string, without a copy of its own.
struct TextLen(u64);

impl<'de> Deserialize<'de> for TextLen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Length;
        impl Visitor<'_> for Length {
            type Value = TextLen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<TextLen, E> {
                Ok(TextLen(text.len() as u64))
            }
        }
        deserializer.deserialize_str(Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(choices: &str) -> (usize, bool, bool, u64) {
        let (count, progress) = read_choices(serde_json::from_str(choices).unwrap()).unwrap();
        (count, progress.semantic, progress.finished, progress.text_bytes)
    }

    #[test]
    fn counts_what_a_client_would_notice() {
        for (choices, expected) in [
            ("[]", (0, false, false, 0)),
            (r#"[{"delta":{"role":"assistant"},"finish_reason":null}]"#, (1, false, false, 0)),
            (r#"[{"delta":{"role":"assistant","content":""}}]"#, (1, false, false, 0)),
            (r#"[{"delta":{"content":null,"tool_calls":[],"images":[ ]}}]"#, (1, false, false, 0)),
            (r#"[{"delta":{"content":" "}}]"#, (1, true, false, 1)),
            (r#"[{"delta":{"content":"a\n\u00e9"}}]"#, (1, true, false, 4)),
            (r#"[{"delta":{"content":"\ud83d"}}]"#, (1, true, false, 8)),
            (r#"[{"delta":{"content":[{"type":"text","text":"a"}]}}]"#, (1, true, false, 28)),
            (r#"[{"delta":{"reasoning":"abc","reasoning_content":"abc"}}]"#, (1, true, false, 3)),
            (r#"[{"delta":{"reasoning_content":"ab","content":"c"}}]"#, (1, true, false, 3)),
            (r#"[{"delta":{"refusal":"no"}}]"#, (1, true, false, 0)),
            (r#"[{"delta":{"images":[{"type":"image_url"}]}}]"#, (1, true, false, 0)),
            (
                r#"[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"a\""}}]}}]"#,
                (1, true, false, 4),
            ),
            (
                r#"[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":null}},{"index":1}]}}]"#,
                (1, true, false, 0),
            ),
            (r#"[{"delta":{},"finish_reason":"stop"}]"#, (1, false, true, 0)),
            (r#"[{"delta":{"content":"a"},"finish_reason":""}]"#, (1, true, false, 1)),
            (
                r#"[{"delta":null,"finish_reason":null},{"delta":{"content":"x"},"finish_reason":"length"}]"#,
                (2, true, true, 1),
            ),
            (r#"[{"text":"abc","finish_reason":null}]"#, (1, true, false, 3)),
            (r#"[{"text":"","finish_reason":"stop"}]"#, (1, false, true, 0)),
        ] {
            assert_eq!(read(choices), expected, "{choices}");
        }
    }

    #[test]
    fn other_shapes_are_not_read() {
        for choices in ["{}", "3", "\"x\"", "[1]"] {
            assert!(read_choices(serde_json::from_str(choices).unwrap()).is_none(), "{choices}");
        }
    }
}
