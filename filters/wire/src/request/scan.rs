//! The scanner and what it leaves behind.

use std::ops::Range;

use super::embedding::InputSize;
use super::error::ScanError;
use super::finding::Finding;
use super::json::{Kind, Machine};
use super::path::Place;
use super::recorder::Recorder;

/// UTF-8 bytes that make one estimated token (specification of the gateway, token estimate).
const BYTES_PER_TOKEN: u64 = 4;
/// Estimated tokens of the frame of a message (same place).
const TOKENS_PER_MESSAGE: u64 = 4;
/// Estimated tokens of an image (same place).
const TOKENS_PER_IMAGE: u64 = 1024;

/// The dialect of the body: which of its members are looked into. Top-level members are recorded for all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// Chat completions: `messages` and `tools`.
    Chat,
    /// Text completions: `prompt`.
    Completions,
    /// Embeddings: `input`.
    Embeddings,
    /// Generated images: top-level members only.
    Images,
    /// Rerank: `query` and `documents`.
    Rerank,
    /// Speech: top-level members only.
    Speech,
    /// Messages: `messages` with blocks, `system` and `tools`.
    Messages,
    /// Responses: `input`, `instructions` and `tools`.
    Responses,
}

/// A member of an object, as byte ranges of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Kind of the value.
    pub kind: Kind,
    /// The value, quotes and brackets included.
    pub value: Range<usize>,
    /// The name, quotes included.
    pub key: Range<usize>,
}

impl Member {
    /// Whether the value is the literal `true`, which is shorter than the other one.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.kind == Kind::Bool && self.value.len() == "true".len()
    }
}

/// What is known of a body that was read to its end. A member that the body lacks is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields without a text are the top-level members of their name")]
pub struct Scan {
    /// Length of the body in bytes.
    pub len: usize,
    /// Offset of the closing brace of the top-level object.
    pub close: usize,
    /// Whether the top-level object has no member.
    pub is_empty_object: bool,
    pub background: Option<Member>,
    pub conversation: Option<Member>,
    pub dimensions: Option<Member>,
    pub documents: Option<Member>,
    pub encoding_format: Option<Member>,
    pub input: Option<Member>,
    pub max_completion_tokens: Option<Member>,
    pub max_output_tokens: Option<Member>,
    pub max_tokens: Option<Member>,
    pub messages: Option<Member>,
    pub model: Option<Member>,
    pub n: Option<Member>,
    pub previous_response_id: Option<Member>,
    pub prompt: Option<Member>,
    pub quality: Option<Member>,
    pub query: Option<Member>,
    pub response_format: Option<Member>,
    pub size: Option<Member>,
    pub store: Option<Member>,
    pub stream: Option<Member>,
    pub stream_options: Option<Member>,
    pub tools: Option<Member>,
    pub user_id: Option<Member>,
    pub voice: Option<Member>,
    /// The member of `stream_options`; the last one if repeated.
    pub include_usage: Option<Member>,
    /// Offset of the closing brace of `stream_options`, if that is an object.
    pub stream_options_close: Option<usize>,
    /// Whether `stream_options` is an object without member.
    pub stream_options_is_empty: bool,
    /// Elements of `messages`; items of `input` in the dialect of responses, where a text is one.
    pub messages_count: usize,
    /// Inputs of an embeddings request; an array of integers is one input.
    pub input_count: usize,
    /// The longest text among the inputs of an embeddings request, for a model with caps of its own.
    pub longest_input_text: Option<InputSize>,
    /// The longest list of integers among them.
    pub longest_input_tokens: Option<InputSize>,
    /// UTF-8 bytes of the prompt after unescaping: message contents, names and arguments of tool calls, names,
    /// descriptions and schemas of tools, `prompt`, `input`, `instructions`, `system`, `query`, `documents`. A schema, and
    /// an input of a tool that is an object, counts as it is written; an integer of a tokenised prompt counts as four
    /// bytes. Images and other files do not count.
    pub prompt_text_bytes: u64,
    /// Image parts.
    pub images: usize,
    /// Broken content rules in document order: the first of each problem, at most [`MAX_FINDINGS`](super::MAX_FINDINGS).
    pub findings: Vec<Finding>,
}

impl Scan {
    /// Estimates the tokens of the prompt: a quarter of the text bytes, 4 per message, 1024 per image.
    #[must_use]
    pub fn estimated_prompt_tokens(&self) -> u64 {
        self.prompt_text_bytes.div_ceil(BYTES_PER_TOKEN)
            + TOKENS_PER_MESSAGE * self.messages_count as u64
            + TOKENS_PER_IMAGE * self.images as u64
    }

    /// Where the member that stands at a place is recorded.
    pub(super) fn slot(&mut self, place: Place) -> Option<&mut Option<Member>> {
        Some(match place {
            Place::Background => &mut self.background,
            Place::Conversation => &mut self.conversation,
            Place::Dimensions => &mut self.dimensions,
            Place::Documents => &mut self.documents,
            Place::EncodingFormat => &mut self.encoding_format,
            Place::IncludeUsage => &mut self.include_usage,
            Place::Input => &mut self.input,
            Place::MaxCompletionTokens => &mut self.max_completion_tokens,
            Place::MaxOutputTokens => &mut self.max_output_tokens,
            Place::MaxTokens => &mut self.max_tokens,
            Place::Messages => &mut self.messages,
            Place::Model => &mut self.model,
            Place::N => &mut self.n,
            Place::PreviousResponse => &mut self.previous_response_id,
            Place::Prompt => &mut self.prompt,
            Place::Quality => &mut self.quality,
            Place::Query => &mut self.query,
            Place::ResponseFormat => &mut self.response_format,
            Place::Size => &mut self.size,
            Place::Store => &mut self.store,
            Place::Stream => &mut self.stream,
            Place::StreamOptions => &mut self.stream_options,
            Place::Tools => &mut self.tools,
            Place::UserId => &mut self.user_id,
            Place::Voice => &mut self.voice,
            _ => return None,
        })
    }
}

/// Reads one body, chunk by chunk. Where the chunks are cut makes no difference to the result.
///
/// Its memory is bounded by the nesting limit and the number of top-level members, not by the size of the body.
#[derive(Clone, Debug)]
pub struct Scanner {
    machine: Machine,
    recorder: Recorder,
    failed: Option<ScanError>,
}

impl Scanner {
    /// A scanner for one body.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { machine: Machine::new(), recorder: Recorder::new(protocol), failed: None }
    }

    /// Reads the next chunk.
    ///
    /// # Errors
    ///
    /// The body cannot become a JSON object with distinct members, whatever follows. Client to blame. Every later
    /// call gives the same error.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ScanError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.machine.push(chunk, &mut self.recorder).inspect_err(|&error| self.failed = Some(error))
    }

    /// The first finding so far that refuses the body whatever the model accepts.
    ///
    /// What the rest of the body holds may stand before it in the order of checks: a syntax error, say.
    #[must_use]
    pub fn early(&self) -> Option<&Finding> {
        self.findings().iter().find(|finding| !finding.problem.depends_on_model())
    }

    /// All findings so far, in document order.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.recorder.scan.findings
    }

    /// Ends the body.
    ///
    /// # Errors
    ///
    /// The body ends too early, or an earlier chunk was refused. Client to blame.
    pub fn finish(mut self) -> Result<Scan, ScanError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.machine.finish(&mut self.recorder)?;
        self.recorder.scan.len = self.machine.len();
        Ok(self.recorder.scan)
    }
}
