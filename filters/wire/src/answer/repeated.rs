//! The chunks of one stream, most of which differ in nothing but a piece of text.
//!
//! A server writes its events from one pattern: `data: {"id":…,"choices":[{"delta":{"content":"` text `"},…}]}` and a blank
//! line. Once a chunk has been read, another event that has the same bytes before and behind its text says the same, but
//! for the length of the text, and is changed in the same places. So it needs no second look, not even at its lines:
//! 11,000 instructions less per chunk.

use std::str;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;

use super::chunk::{Chunk, ChunkKind, Rewritten, Rules, rewrite_chunk};
use super::delta::Choices;
use crate::sse::Event;

/// How a member with text begins. Inside a string its quotes would be escaped.
const TEXT: [&[u8]; 2] = [b"\"content\":\"", b"\"content\": \""];
/// What a text is made longer by, to see what depends on it.
const PROBE: &[u8] = b"x";
/// Patterns in a row that met no second chunk; then the stream has none.
const MOST_IN_VAIN: u8 = 4;

/// Reads the chunks of one stream, and applies its rules to them: as [`rewrite_chunk`] does to each, only faster.
///
/// Ask [`ChunkReader::repeated`] first, with the event as it came; what it does not know is parsed, and read by
/// [`ChunkReader::rewrite`].
#[derive(Debug, Default)]
pub struct ChunkReader {
    pattern: Option<Pattern>,
    in_vain: u8,
}

/// A chunk that is the one before with another text. It brings content, and nothing of all else that a chunk may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Bytes of the text.
    pub text_bytes: u64,
    /// The choices that it is about.
    pub choices: Choices,
    /// The event to send, as [`Event::in_one_line`] writes it.
    pub event: Bytes,
}

/// What an event is apart from its text.
#[derive(Debug)]
struct Pattern {
    received: Ends,
    /// What is sent; `None`: what was received.
    sent: Option<Ends>,
    choices: Choices,
}

/// What stands before a text and behind it.
#[derive(Debug, PartialEq, Eq)]
struct Ends {
    before: Bytes,
    behind: Bytes,
}

impl ChunkReader {
    /// What an event brings that repeats the pattern of the stream; `raw` is all of it.
    pub fn repeated(&mut self, raw: &Bytes) -> Option<Repeated> {
        let pattern = self.pattern.as_ref()?;
        let text = pattern.received.text_of(raw)?;
        self.in_vain = 0;
        Some(Repeated {
            text_bytes: text.len() as u64,
            choices: pattern.choices,
            event: pattern.sent.as_ref().map_or_else(|| raw.clone(), |sent| sent.with(text)),
        })
    }

    /// Reads the chunk of an event, and looks for a pattern in it. The `rules` of a stream stay the same.
    pub fn rewrite(&mut self, event: &Event, rules: &Rules<'_>) -> Rewritten {
        let rewritten = rewrite_chunk(&event.data, rules);
        if self.in_vain < MOST_IN_VAIN && event.name.is_none() && is_plain_text(&rewritten) {
            self.in_vain += 1;
            self.pattern = Pattern::of(event, &rewritten, rules);
        }
        rewritten
    }
}

/// Whether a chunk brings text and says nothing else that could change from chunk to chunk.
fn is_plain_text(rewritten: &Rewritten) -> bool {
    let plain = Chunk {
        kind: ChunkKind::Content,
        semantic: true,
        text_bytes: rewritten.chunk.text_bytes,
        choices: rewritten.chunk.choices,
        ..Chunk::default()
    };
    rewritten.chunk.text_bytes > 0 && !rewritten.drop && rewritten.chunk == plain
}

impl Pattern {
    /// The pattern of an event that was read, unless it has none: the same event with a longer text has to say the same,
    /// with a longer text, and be changed in the same places.
    fn of(event: &Event, rewritten: &Rewritten, rules: &Rules<'_>) -> Option<Self> {
        let (received, text) = Ends::around_text(&event.raw)?;
        let leaves = event.in_one_line(rewritten.data.clone());
        let sent = if leaves == event.raw { None } else { Some(Ends::around_text(&leaves)?) };
        if rewritten.chunk.text_bytes != text.len() as u64 || sent.as_ref().is_some_and(|(_, sent)| *sent != text) {
            return None;
        }
        let sent = sent.map(|(ends, _)| ends);
        let longer = [text, PROBE].concat();
        let event = Event::parse(received.with(&longer));
        let seen = rewrite_chunk(&event.data, rules);
        let said = Chunk { text_bytes: longer.len() as u64, ..rewritten.chunk.clone() };
        let is_pattern = event.name.is_none()
            && seen.chunk == said
            && !seen.drop
            && event.in_one_line(seen.data) == sent.as_ref().unwrap_or(&received).with(&longer);
        is_pattern.then_some(Self { received, sent, choices: said.choices })
    }
}

impl Ends {
    /// What is around the first text of an event, and the text.
    fn around_text(data: &Bytes) -> Option<(Self, &[u8])> {
        let begin = TEXT.iter().find_map(|name| Some(memmem::find(data, name)? + name.len()))?;
        let length = memchr::memchr(b'"', data.get(begin..)?)?;
        let text = data.get(begin..begin + length)?;
        // copies: a slice would keep the buffer of the connection for as long as the stream lasts
        let copy = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice);
        let ends = Self { before: copy(data.get(..begin))?, behind: copy(data.get(begin + length..))? };
        is_unescaped(text).then_some((ends, text))
    }

    /// The text of an event with these ends: not empty, and as it would be in any other language.
    fn text_of<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        let text = data.strip_prefix(&*self.before)?.strip_suffix(&*self.behind)?;
        (!text.is_empty() && is_unescaped(text)).then_some(text)
    }

    fn with(&self, text: &[u8]) -> Bytes {
        let mut data = BytesMut::with_capacity(self.before.len() + text.len() + self.behind.len());
        data.put_slice(&self.before);
        data.put_slice(text);
        data.put_slice(&self.behind);
        data.freeze()
    }
}

/// Whether it is the inside of a JSON string that stands for itself.
fn is_unescaped(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte >= 0x20 && *byte != b'"' && *byte != b'\\') && str::from_utf8(text).is_ok()
}

#[cfg(test)]
mod tests;
