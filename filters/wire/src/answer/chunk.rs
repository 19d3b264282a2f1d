//! The chunks of a stream: what they carry, and what is changed in them.

use bytes::Bytes;
use dgx_gateway_filter::facts::{FinishReasons, Usage};

use super::delta::{Choices, Progress, read_choices};
use super::dialects;
use super::members::{Edit, Member, Members};
use super::usage::Reported;

/// The data that ends a stream.
const DONE: &[u8] = b"[DONE]";

/// What a chunk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChunkKind {
    /// Part of the answer, or an event around it.
    #[default]
    Content,
    /// The marker that ends the stream.
    Done,
    /// The upstream reports a failure within the stream.
    Error,
    /// Not a JSON object.
    Other,
    /// The chunk that reports usage and has no choices, be they empty, `null` or left out.
    UsageOnly,
}

/// What one event of a stream says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// What it is.
    pub kind: ChunkKind,
    /// Tokens, if the upstream reports them here. Reports of one stream add up to nothing: take [`later_usage`].
    pub usage: Option<Usage>,
    /// Whether a choice states why it ended.
    pub finished: bool,
    /// Whether the answer ended because the upstream failed, as the upstream itself says.
    pub failed: bool,
    /// The choices that it is about.
    pub choices: Choices,
    /// Those that state why they ended.
    pub ended: Choices,
    /// Why they ended.
    pub reasons: FinishReasons,
    /// Whether it carries content, reasoning, a tool call, an image or a refusal.
    pub semantic: bool,
    /// Bytes of content, reasoning and tool-call arguments, unescaped.
    pub text_bytes: u64,
    /// Images in it.
    pub images: u64,
    /// Seconds of audio, if the upstream reports them here, as plain decimal text.
    pub seconds: Option<String>,
    /// What the call cost, as the upstream reports it, in US dollars as plain decimal text.
    pub cost_usd: Option<String>,
    /// Its place in the stream, where the events are numbered.
    pub sequence_number: Option<u64>,
}

/// What two reports of the same stream say together: of each count the larger one.
///
/// Counts only grow within a stream, and an upstream may report the prompt first and the answer last.
#[must_use]
pub fn later_usage(earlier: Option<Usage>, later: Option<Usage>) -> Option<Usage> {
    let (Some(one), Some(other)) = (earlier, later) else { return later.or(earlier) };
    Some(Usage {
        prompt_tokens: one.prompt_tokens.max(other.prompt_tokens),
        completion_tokens: one.completion_tokens.max(other.completion_tokens),
        cached_tokens: one.cached_tokens.max(other.cached_tokens),
        cache_write_tokens: one.cache_write_tokens.max(other.cache_write_tokens),
    })
}

impl Chunk {
    fn of_kind(kind: ChunkKind) -> Self {
        Self { kind, ..Self::default() }
    }
}

/// What the chunks of a stream must look like for its client.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The name of the model as the client knows it.
    pub model: &'a str,
    /// Whether the client asked for usage.
    pub client_wants_usage: bool,
}

/// A chunk that was read and, where the rules demand it, changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// What it says.
    pub chunk: Chunk,
    /// The data to send instead; `None` when nothing changes.
    pub data: Option<Bytes>,
    /// Whether the client must not see it.
    pub drop: bool,
}

/// Reads one chunk and applies the rules to it.
///
/// The `model` becomes the one of the rules, a top-level `provider` goes away, and so does a `usage` that
/// the client did not ask for. Events of `/v1/messages` and `/v1/responses` that wrap a whole answer are
/// treated alike within it. All other bytes stay.
#[must_use]
pub fn rewrite_chunk(data: &Bytes, rules: &Rules<'_>) -> Rewritten {
    let Some(members) = Members::parse(data) else {
        let kind = if data.trim_ascii() == DONE { ChunkKind::Done } else { ChunkKind::Other };
        return Rewritten { chunk: Chunk::of_kind(kind), data: None, drop: false };
    };
    let (chunk, has_choices) = read(&members);
    if chunk.kind == ChunkKind::UsageOnly && !rules.client_wants_usage {
        return Rewritten { chunk, data: None, drop: true };
    }
    let hide_usage = has_choices && !rules.client_wants_usage;
    let inner = dialects::member_with_model(&members);
    let data = members.edited(|member| match &*member.name {
        "usage" if hide_usage && member.value.get().starts_with('{') => Edit::Remove,
        name if inner == Some(name) => inner_edit(member, rules.model),
        _ => name_edit(member, rules.model),
    });
    let data = data.map(Bytes::from);
    Rewritten { chunk, data, drop: false }
}

/// What the chunk says, and whether it has choices.
fn read(members: &Members<'_>) -> (Chunk, bool) {
    let usage = members.value("usage");
    let Reported { usage: tokens, cost_usd, seconds } = Reported::read(usage);
    let choices = members.value("choices").map(|choices| read_choices(choices).unwrap_or((1, Progress::default())));
    let (count, progress) = choices.unwrap_or_default();
    let kind = if is_error(members) {
        ChunkKind::Error
    } else if count == 0 && usage.is_some() && (choices.is_some() || !dialects::is_typed(members)) {
        ChunkKind::UsageOnly
    } else {
        ChunkKind::Content
    };
    let Progress { semantic, finished, choices: of, ended, reasons, text_bytes, images } = progress;
    let mut chunk = Chunk {
        kind,
        usage: tokens,
        finished,
        failed: false,
        choices: of,
        ended,
        reasons,
        semantic,
        text_bytes,
        images,
        seconds,
        cost_usd,
        sequence_number: None,
    };
    if choices.is_none() {
        dialects::read(members, &mut chunk);
    }
    (chunk, count > 0)
}

/// An `error` member, or the older form of vLLM in which the object itself is one.
fn is_error(members: &Members<'_>) -> bool {
    members.value("error").is_some() || members.value("object").is_some_and(|object| object.get() == r#""error""#)
}

/// Hides what names the upstream.
pub(super) fn name_edit(member: &Member<'_>, model: &str) -> Edit {
    match &*member.name {
        "model" => model_edit(member.value.get(), model),
        "provider" => Edit::Remove,
        _ => Edit::Keep,
    }
}

/// Hides what names the upstream in an object one level down.
fn inner_edit(member: &Member<'_>, model: &str) -> Edit {
    let inner = Members::parse(member.value.get().as_bytes());
    let edited = inner.and_then(|inner| {
        inner.edited(|member| match &*member.name {
            "error" => dialects::error_edit(member),
            _ => name_edit(member, model),
        })
    });
    edited.map_or(Edit::Keep, Edit::Replace)
}

/// Makes `written`, a JSON value, the name of the model.
fn model_edit(written: &str, model: &str) -> Edit {
    let name = serde_json::Value::from(model).to_string();
    if written == name { Edit::Keep } else { Edit::Replace(name.into_bytes()) }
}
