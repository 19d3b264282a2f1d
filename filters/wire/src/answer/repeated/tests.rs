use proptest::prelude::*;

use super::*;
use crate::sse::encode;

const RULES: Rules<'static> = Rules { model: "mine", client_wants_usage: false };

/// A chunk in one of the shapes that servers write, and in some that nobody should.
fn chunk(shape: usize, text: &str) -> String {
    let text = serde_json::Value::from(text);
    match shape {
        0 => format!(
            r#"{{"id":"c","model":"theirs","choices":[{{"index":0,"delta":{{"content":{text}}},"logprobs":null,"finish_reason":null}}]}}"#
        ),
        1 => format!(r#"{{"id":"c","choices":[{{"index":0,"delta":{{"content": {text}}}}}],"model":"theirs"}}"#),
        2 => {
            format!(r#"{{"model":"mine","choices":[{{"index":1,"delta":{{"content":{text},"role":"assistant"}}}}]}}"#)
        }
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
    }
}

/// Ways to write the lines of an event around its data.
const FORMS: usize = 9;

fn event(form: usize, data: &str) -> Bytes {
    match form {
        0 => return encode(None, data.as_bytes()),
        1 => format!("data:{data}\r\n\r\n"),
        2 => format!("id: 1\ndata: {data}\nretry: 5\n\n"),
        3 => format!("event: message\ndata: {data}\n\n"),
        4 => format!("event: error\ndata: {data}\n\n"),
        5 => format!(": {data}\ndata: {data}\n\n"),
        6 => format!("data: {data}\n: {data}\n\n"),
        7 => format!("data: {}\n\n", data.replace(",\"", ",\ndata: \"")),
        _ => format!("data: {data}\ndata:\n\n"),
    }
    .into()
}

/// What there is to know of an event, and what leaves of it.
type Seen = (Chunk, Bytes, bool);

/// Reads an event by itself.
fn alone(raw: &Bytes, rules: &Rules<'_>) -> Seen {
    let event = Event::parse(raw.clone());
    let Rewritten { chunk, data, drop } = rewrite_chunk(&event.data, rules);
    (chunk, event.in_one_line(data), drop)
}

fn read(reader: &mut ChunkReader, raw: &Bytes, rules: &Rules<'_>) -> Seen {
    if let Some(Repeated { text_bytes, choices, event }) = reader.repeated(raw) {
        return (Chunk { semantic: true, text_bytes, choices, ..Chunk::default() }, event, false);
    }
    let event = Event::parse(raw.clone());
    let Rewritten { chunk, data, drop } = reader.rewrite(&event, rules);
    (chunk, event.in_one_line(data), drop)
}

fn knows(form: usize, shape: usize) -> bool {
    let mut reader = ChunkReader::default();
    read(&mut reader, &event(form, &chunk(shape, "abc")), &RULES);
    reader.pattern.is_some()
}

#[test]
fn the_second_chunk_of_a_pattern_is_not_read_again() {
    let mut reader = ChunkReader::default();
    for text in ["Hello", " wörld", "!", " again"] {
        let raw = event(0, &chunk(0, text));
        assert_eq!(read(&mut reader, &raw, &RULES), alone(&raw, &RULES), "{text}");
    }
    for (text, is_known) in [("any", true), ("", false), ("a\nb", false)] {
        // an empty text means something else, an escaped one has another length
        assert_eq!(reader.repeated(&event(0, &chunk(0, text))).is_some(), is_known, "{text:?}");
    }
    assert_eq!(reader.in_vain, 0);
}

#[test]
fn what_stands_elsewhere_is_no_text() {
    for shape in [3, 4, 5, 6, 7, 10, 11, 13] {
        assert!(!knows(0, shape), "{shape}");
    }
    for shape in [0, 1, 2, 8, 9] {
        assert!(knows(0, shape), "{shape}");
    }
}

#[test]
fn lines_around_the_data_belong_to_the_pattern() {
    for form in [0, 1, 2, 6, 7, 8] {
        assert!(knows(form, 0), "{form}");
    }
    // a name may change what an event is, and what stands in a comment is no text
    for form in [3, 4, 5] {
        assert!(!knows(form, 0), "{form}");
    }
}

#[test]
fn a_stream_without_a_pattern_is_not_searched_for_ever() {
    let mut reader = ChunkReader::default();
    for number in 0..20 {
        let raw = event(0, &format!(r#"{{"choices":[{{"delta":{{"content":"a"}}}}],"salt":{number}}}"#));
        assert_eq!(read(&mut reader, &raw, &RULES), alone(&raw, &RULES));
    }
    assert_eq!(reader.in_vain, MOST_IN_VAIN);
}

#[test]
fn bytes_that_are_no_text_are_read_like_any_others() {
    let learnt = || {
        let mut reader = ChunkReader::default();
        read(&mut reader, &event(0, &chunk(0, "abc")), &RULES);
        reader
    };
    let pattern = learnt().pattern.unwrap();
    let no_text =
        [&b"\xff"[..], b"\xc3", b"a\x01", b"\x7f", b"\"", b"\\", b"a\",\"b\":\"c", b"a\nb", b"a\r", b"a\n\nb"];
    for text in no_text {
        let raw = pattern.received.with(text);
        assert_eq!(read(&mut learnt(), &raw, &RULES), alone(&raw, &RULES), "{text:?}");
    }
}

proptest! {
    /// Whatever came before: each event is read as if it were the only one.
    #[test]
    fn a_stream_is_read_as_its_chunks_are(
        chunks in prop::collection::vec((0..14_usize, 0..FORMS, prop_oneof![".{0,8}", "[a-c\"\\\\\n]{0,4}"]), 1..24),
        main in (0..14_usize, 0..FORMS),
        wants in any::<bool>(),
    ) {
        let rules = Rules { client_wants_usage: wants, ..RULES };
        let mut reader = ChunkReader::default();
        for (index, (shape, form, text)) in chunks.iter().enumerate() {
            let (shape, form) = if index % 3 == 0 { (*shape, *form) } else { main };
            let raw = event(form, &chunk(shape, text));
            prop_assert_eq!(read(&mut reader, &raw, &rules), alone(&raw, &rules));
        }
    }
}
