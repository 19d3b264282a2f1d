//! The chunks of one stream, most of which differ in nothing but a piece of text.
//!
//! A server writes its chunks from one pattern: `{"id":…,"choices":[{"delta":{"content":"` text `"},…}]}`. Once a chunk
//! has been read, another one that has the same bytes before and behind its text says the same, but for the length of
//! the text, and is changed in the same places. So it needs no second look: 10,000 instructions less per chunk.

use std::str;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;

use super::chunk::{Chunk, ChunkKind, Rewritten, Rules, rewrite_chunk};

/// How a member with text begins. Inside a string its quotes would be escaped.
const TEXT: [&[u8]; 2] = [b"\"content\":\"", b"\"content\": \""];
/// What a text is made longer by, to see what depends on it.
const PROBE: &[u8] = b"x";
/// Patterns in a row that met no second chunk; then the stream has none.
const MOST_IN_VAIN: u8 = 4;

/// Reads the chunks of one stream, and applies its rules to them: as [`rewrite_chunk`] does to each, only faster.
#[derive(Debug, Default)]
pub struct ChunkReader {
    pattern: Option<Pattern>,
    in_vain: u8,
}

/// What a chunk is apart from its text.
#[derive(Debug)]
struct Pattern {
    received: Ends,
    /// What is sent; `None`: what was received.
    sent: Option<Ends>,
    /// What it says, with a text of no length.
    chunk: Chunk,
}

/// What stands before a text and behind it.
#[derive(Debug, PartialEq, Eq)]
struct Ends {
    before: Bytes,
    behind: Bytes,
}

impl ChunkReader {
    /// Reads one chunk. The `rules` of a stream stay the same.
    pub fn rewrite(&mut self, data: &Bytes, rules: &Rules<'_>) -> Rewritten {
        if let Some(pattern) = &self.pattern
            && let Some(text) = pattern.received.text_of(data)
        {
            self.in_vain = 0;
            return pattern.rewritten(text);
        }
        let rewritten = rewrite_chunk(data, rules);
        if self.in_vain < MOST_IN_VAIN && is_plain_text(&rewritten) {
            self.in_vain += 1;
            self.pattern = Pattern::of(data, &rewritten, rules);
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
    /// The pattern of a chunk that was read, unless it has none: the same chunk with a longer text has to say the same,
    /// with a longer text, and be changed in the same places.
    fn of(data: &Bytes, rewritten: &Rewritten, rules: &Rules<'_>) -> Option<Self> {
        let (received, text) = Ends::around_text(data)?;
        let longer = [text, PROBE].concat();
        let sent = match &rewritten.data {
            None => None,
            Some(sent) => Some(Ends::around_text(sent)?.0),
        };
        let expected = Rewritten {
            chunk: Chunk { text_bytes: rewritten.chunk.text_bytes + PROBE.len() as u64, ..rewritten.chunk.clone() },
            data: sent.as_ref().map(|sent| sent.with(&longer)),
            drop: false,
        };
        let is_all_text = rewritten.chunk.text_bytes == text.len() as u64;
        let is_sent = rewritten.data.is_none() || rewritten.data == sent.as_ref().map(|sent| sent.with(text));
        let is_pattern = is_all_text && is_sent && rewrite_chunk(&received.with(&longer), rules) == expected;
        is_pattern.then(|| Self { received, sent, chunk: Chunk { text_bytes: 0, ..rewritten.chunk.clone() } })
    }

    fn rewritten(&self, text: &[u8]) -> Rewritten {
        Rewritten {
            chunk: Chunk { text_bytes: text.len() as u64, ..self.chunk.clone() },
            data: self.sent.as_ref().map(|sent| sent.with(text)),
            drop: false,
        }
    }
}

impl Ends {
    /// What is around the only text of a chunk, and the text.
    fn around_text(data: &Bytes) -> Option<(Self, &[u8])> {
        let begin = TEXT.iter().find_map(|name| Some(memmem::find(data, name)? + name.len()))?;
        let length = memchr::memchr(b'"', data.get(begin..)?)?;
        let text = data.get(begin..begin + length)?;
        // copies: a slice would keep the buffer of the connection for as long as the stream lasts
        let copy = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice);
        let ends = Self { before: copy(data.get(..begin))?, behind: copy(data.get(begin + length..))? };
        is_unescaped(text).then_some((ends, text))
    }

    /// The text of a chunk with these ends: not empty, and as it would be in any other language.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules<'static> = Rules { model: "mine", client_wants_usage: false };

    /// A chunk in one of the shapes that servers write, and in some that nobody should.
    fn chunk(shape: usize, text: &str) -> Bytes {
        let text = serde_json::Value::from(text);
        let chunk = match shape {
            0 => format!(
                r#"{{"id":"c","model":"theirs","choices":[{{"index":0,"delta":{{"content":{text}}},"logprobs":null,"finish_reason":null}}]}}"#
            ),
            1 => format!(r#"{{"id":"c","choices":[{{"index":0,"delta":{{"content": {text}}}}}],"model":"theirs"}}"#),
            2 => format!(
                r#"{{"model":"mine","choices":[{{"index":1,"delta":{{"content":{text},"role":"assistant"}}}}]}}"#
            ),
            3 => format!(r#"{{"choices":[{{"delta":{{"reasoning_content":{text}}}}}],"content":{text}}}"#),
            4 => format!(r#"{{"content":{text},"choices":[{{"delta":{{"reasoning":"abc"}}}}]}}"#),
            5 => format!(r#"{{"choices":[{{"delta":{{"content":{text},"content":"twice"}}}}]}}"#),
            6 => format!(r#"{{"choices":[{{"delta":{{"content":{text}}},"finish_reason":"stop"}}]}}"#),
            7 => format!(r#"{{"choices":[{{"delta":{{"content":{text}}}}}],"usage":{{"prompt_tokens":1}}}}"#),
            8 => format!(r#"{{"model":{text},"choices":[{{"delta":{{"content":{text}}}}}]}}"#),
            9 => format!(r#"{{"x":"a\"content\":\"b","provider":"p","choices":[{{"delta":{{"content":{text}}}}}]}}"#),
            10 => format!(r#"{{"choices":[{{"delta":{{"content":{text}}}}},{{"delta":{{"content":{text}}}}}]}}"#),
            11 => format!(r#"{{"error":{{"content":{text}}},"choices":[{{"delta":{{"content":"abc"}}}}]}}"#),
            12 => format!(r#"{{"delta":{{"type":"text_delta","content":{text}}},"type":"content_block_delta"}}"#),
            _ => format!(r#"{{"choices":[{{"delta":{{"content":{text}}}}}"#),
        };
        chunk.into()
    }

    #[test]
    fn the_second_chunk_of_a_pattern_is_not_read_again() {
        let mut reader = ChunkReader::default();
        for text in ["Hello", " wörld", "!", " again"] {
            let data = chunk(0, text);
            assert_eq!(reader.rewrite(&data, &RULES), rewrite_chunk(&data, &RULES), "{text}");
        }
        let pattern = reader.pattern.as_ref().unwrap();
        assert!(pattern.received.text_of(&chunk(0, "any")).is_some());
        assert!(pattern.received.text_of(&chunk(0, "")).is_none(), "an empty text means something else");
        assert!(pattern.received.text_of(&chunk(0, "a\nb")).is_none(), "an escaped one has another length");
        assert_eq!(reader.in_vain, 0);
    }

    #[test]
    fn what_stands_elsewhere_is_no_text() {
        for shape in [3, 4, 5, 6, 7, 10, 11, 13] {
            let mut reader = ChunkReader::default();
            reader.rewrite(&chunk(shape, "abc"), &RULES);
            assert!(reader.pattern.is_none(), "{shape}");
        }
        for shape in [0, 1, 2, 8, 9] {
            let mut reader = ChunkReader::default();
            reader.rewrite(&chunk(shape, "abc"), &RULES);
            assert!(reader.pattern.is_some(), "{shape}");
        }
    }

    #[test]
    fn a_stream_without_a_pattern_is_not_searched_for_ever() {
        let mut reader = ChunkReader::default();
        for number in 0..20 {
            let data: Bytes = format!(r#"{{"choices":[{{"delta":{{"content":"a"}}}}],"salt":{number}}}"#).into();
            assert_eq!(reader.rewrite(&data, &RULES), rewrite_chunk(&data, &RULES));
        }
        assert_eq!(reader.in_vain, MOST_IN_VAIN);
    }

    #[test]
    fn bytes_that_are_no_text_are_read_like_any_others() {
        let mut reader = ChunkReader::default();
        reader.rewrite(&chunk(0, "abc"), &RULES);
        let ends = &reader.pattern.as_ref().unwrap().received;
        for text in [&b"\xff"[..], b"\xc3", b"a\x01", b"\x7f", b"\"", b"\\", b"a\",\"b\":\"c"] {
            let data = ends.with(text);
            let mut again = ChunkReader::default();
            again.rewrite(&chunk(0, "abc"), &RULES);
            assert_eq!(again.rewrite(&data, &RULES), rewrite_chunk(&data, &RULES), "{text:?}");
        }
    }

    proptest! {
        /// Whatever came before: each chunk is read as if it were the only one.
        #[test]
        fn a_stream_is_read_as_its_chunks_are(
            chunks in prop::collection::vec((0..14_usize, prop_oneof![".{0,8}", "[a-c\"\\\\\n]{0,4}"]), 1..24),
            main in 0..14_usize,
            wants in any::<bool>(),
        ) {
            let rules = Rules { client_wants_usage: wants, ..RULES };
            let mut reader = ChunkReader::default();
            for (index, (shape, text)) in chunks.iter().enumerate() {
                let data = chunk(if index % 3 == 0 { *shape } else { main }, text);
                prop_assert_eq!(reader.rewrite(&data, &rules), rewrite_chunk(&data, &rules));
            }
        }
    }
}
