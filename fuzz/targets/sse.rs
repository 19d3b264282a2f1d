//! Framing of event streams: the same events wherever the stream is cut, all bytes accounted for, and the fields that a
//! reader by the letter of the specification (WHATWG HTML, section 9.2) finds.

#![no_main]

use bytes::Bytes;
use dgx_gateway_wire::sse::{Event, Framer, encode};
use fuzzing::Numbers;
use libfuzzer_sys::fuzz_target;

const MARK: &[u8] = b"\xEF\xBB\xBF";
const AMPLE: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let mut numbers = Numbers::of(input);
    for limit in [AMPLE, 24] {
        let whole = events(limit, [input]);
        assert_eq!(events(limit, numbers.pieces(input)), whole, "cut elsewhere, at most {limit} bytes");
    }
    let (events, failed) = events(AMPLE, [input]);
    assert!(!failed);
    nothing_is_lost(input, &events);
    let found: Vec<Fields> = events.iter().map(Fields::of).filter(|fields| !fields.is_empty()).collect();
    assert_eq!(without_an_empty_end(found), without_an_empty_end(by_the_letter(input)));
    if !input.contains(&b'\r') && !input.is_empty() {
        let (again, _) = self::events(AMPLE, [&*encode(Some(b"name"), input)]);
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].name.as_deref(), &*again[0].data), (Some(&b"name"[..]), input));
    }
});

/// All events, and whether one was too large.
fn events<'a>(limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, bool) {
    let mut framer = Framer::new(limit);
    let mut events = Vec::new();
    for piece in pieces {
        framer.push(Bytes::copy_from_slice(piece));
        while let Some(next) = framer.next_event() {
            match next {
                Ok(event) => events.push(event),
                Err(_) => {
                    framer.push(Bytes::from_static(b"data: x\n\n"));
                    assert!(framer.next_event().is_none() && framer.finish().is_none(), "nothing after a failure");
                    return (events, true);
                }
            }
        }
    }
    events.extend(framer.finish());
    (events, false)
}

/// What was received, one event after the other, is the input but for blank lines between events.
fn nothing_is_lost(input: &[u8], events: &[Event]) {
    let mut rest = input.strip_prefix(MARK).unwrap_or(input);
    for event in events {
        assert!(!event.raw.is_empty());
        while !rest.starts_with(&event.raw) {
            let (byte, behind) = rest.split_first().expect("an event that is not in the input");
            assert!(matches!(byte, b'\r' | b'\n'), "a byte was lost");
            rest = behind;
        }
        rest = &rest[event.raw.len()..];
    }
    let left = read(rest); // a byte order mark counts at the very start only
    assert!(left.iter().all(|fields| fields.data.is_empty()), "data was lost: {left:?}");
}

/// Nobody is told of an event without data, so whether one comes out at the end makes no difference: after a line that
/// ended with LF, the framer waits for the LF behind a CR.
fn without_an_empty_end(mut events: Vec<Fields>) -> Vec<Fields> {
    while events.last().is_some_and(|last| last.data.is_empty()) {
        events.pop();
    }
    events
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Fields {
    name: Option<Vec<u8>>,
    data: Vec<u8>,
    is_comment: bool,
}

impl Fields {
    fn of(event: &Event) -> Self {
        Self {
            name: event.name.as_deref().map(<[u8]>::to_vec),
            data: event.data.to_vec(),
            is_comment: event.is_comment,
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Events as the specification describes them: decode lines, gather fields, dispatch at a blank line. An unfinished
/// event at the end counts when it has data.
fn by_the_letter(input: &[u8]) -> Vec<Fields> {
    read(input.strip_prefix(MARK).unwrap_or(input))
}

fn read(text: &[u8]) -> Vec<Fields> {
    let bytes = replace(replace(text.to_vec(), b"\r\n"), b"\r");
    let mut events = Vec::new();
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let last = parts.pop().unwrap_or_default();
    for line in parts {
        if line.is_empty() {
            events.push(gather(&lines));
            lines.clear();
        } else {
            lines.push(line);
        }
    }
    lines.push(last);
    let unfinished = gather(&lines);
    if !unfinished.data.is_empty() {
        events.push(unfinished);
    }
    events.retain(|fields| !fields.is_empty());
    events
}

fn gather(lines: &[&[u8]]) -> Fields {
    let mut fields = Fields::default();
    let mut data: Vec<&[u8]> = Vec::new();
    for line in lines {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (*line, &[][..]),
        };
        match name {
            b"data" => data.push(value),
            b"event" => fields.name = Some(value.to_vec()),
            _ => {}
        }
    }
    fields.name = fields.name.filter(|name| !name.is_empty());
    fields.data = data.join(&b'\n');
    fields.is_comment = !lines.is_empty() && lines.iter().all(|line| line.starts_with(b":"));
    fields
}

/// Every occurrence of a line end becomes a line feed.
fn replace(text: Vec<u8>, end: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = &text[..];
    while let Some(byte) = rest.first() {
        if let Some(behind) = rest.strip_prefix(end) {
            out.push(b'\n');
            rest = behind;
        } else {
            out.push(*byte);
            rest = &rest[1..];
        }
    }
    out
}
