//! The framer must answer alike however the network cuts the stream.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const MAX_EVENT_BYTES: usize = 4 << 20;

const STREAMS: [(&str, &str); 8] = [
    ("anthropic", include_str!("../../tests/fixtures/streams/anthropic.sse")),
    ("azure", include_str!("../../tests/fixtures/streams/azure.sse")),
    ("completions", include_str!("../../tests/fixtures/streams/completions.sse")),
    ("litellm", include_str!("../../tests/fixtures/streams/litellm.sse")),
    ("ollama", include_str!("../../tests/fixtures/streams/ollama.sse")),
    ("openai", include_str!("../../tests/fixtures/streams/openai.sse")),
    ("openrouter", include_str!("../../tests/fixtures/streams/openrouter.sse")),
    ("vllm", include_str!("../../tests/fixtures/streams/vllm.sse")),
];

/// Streams that no server should send, and some do.
const ODD: [&[u8]; 14] = [
    b"\r\r\xEF\xBB\xBF\n\ra\rL\r\nL",
    b"\xEF\xBB\xBFdata: a\n\ndata: b\n\n",
    b"\xEF\xBBdata: a\n\n",
    b"\xEF\xBB\xBF\n\ndata: a\n\n",
    b"data: a\r\rdata: b\r\r",
    b"data: a\r\r\ndata: b\n\r\n\r\r\ndata: c\n\rdata: d\r\n\r\n",
    b"data: a\r\n\rdata: b\n\n",
    b"data\n\ndata:\n\ndata: \n\ndata:  x\n\n",
    b"data: a\ndata:b\ndata\ndata: c\n\n",
    b"event: e\n\nevent:\ndata: x\n\nid: 1\nretry: 5\ndata: y\n\n",
    b": c\n\n:\n\n: c\ndata: x\n\n",
    b"\n\n\r\n\r\r\ndata: x\n\n\n\n",
    b"data: x",
    b"data: \xE6\x97\xA5\xFF\n\ndata: [DONE]",
];

fn events_of<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut framer = Framer::new(MAX_EVENT_BYTES);
    let mut events = Vec::new();
    for chunk in chunks {
        framer.push(Bytes::copy_from_slice(chunk));
        while let Some(event) = framer.next_event() {
            events.push(event.unwrap());
        }
    }
    events.extend(framer.finish());
    events
}

fn corpus() -> Vec<Vec<u8>> {
    let streams = STREAMS.iter().map(|(_, stream)| stream.as_bytes().to_vec());
    let crlf = STREAMS.iter().map(|(_, stream)| stream.replace('\n', "\r\n").into_bytes());
    let cr = STREAMS.iter().map(|(_, stream)| stream.replace('\n', "\r").into_bytes());
    let open = STREAMS.iter().map(|(_, stream)| stream.trim_end().as_bytes().to_vec());
    streams.chain(crlf).chain(cr).chain(open).chain(ODD.iter().map(|odd| odd.to_vec())).collect()
}

fn data_of(stream: &[u8]) -> Vec<Bytes> {
    events_of([stream]).into_iter().map(|event| event.data).collect()
}

#[test]
fn every_split_in_two_gives_the_same_events() {
    for stream in corpus() {
        let whole = events_of([stream.as_slice()]);
        for at in 0..=stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(events_of([head, tail]), whole, "split at {at} of {}", stream.escape_ascii());
        }
    }
}

#[test]
fn a_byte_order_mark_behind_blank_lines_is_text() {
    for before in ["\n", "\r", "\r\n", "\n\n", ": c\n\n"] {
        let stream = [before.as_bytes(), b"\xEF\xBB\xBFdata: a\n\ndata: b\n\n"].concat();
        let data: Vec<Bytes> = data_of(&stream).into_iter().filter(|data| !data.is_empty()).collect();
        assert_eq!(data, ["b"], "{before:?}"); // the mark is part of the name of a field that nobody knows
    }
}

#[test]
fn single_bytes_give_the_same_events() {
    for stream in corpus() {
        assert_eq!(events_of(stream.chunks(1)), events_of([stream.as_slice()]), "{}", stream.escape_ascii());
    }
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_events(
        stream in proptest::sample::select(corpus()),
        cuts in proptest::collection::vec(1_usize..400, 1..40),
    ) {
        let mut chunks = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            chunks.push(head);
            rest = tail;
        }
        prop_assert_eq!(events_of(chunks), events_of([stream.as_slice()]));
    }

    #[test]
    fn any_bytes_give_the_same_events(
        stream in proptest::collection::vec(proptest::sample::select(b"\n\r\n\r:d a\xEF\xBB\xBF".to_vec()), 0..60),
        at in 0_usize..60,
    ) {
        let (head, tail) = stream.split_at(at.min(stream.len()));
        prop_assert_eq!(events_of([head, tail]), events_of([stream.as_slice()]));
        prop_assert_eq!(events_of(stream.chunks(1)), events_of([stream.as_slice()]));
    }

    #[test]
    fn what_is_encoded_is_read_back(data in "[^\r]{0,200}", name in proptest::option::of("[a-z._]{1,20}")) {
        let written = encode(name.as_deref().map(str::as_bytes), data.as_bytes());
        let events = events_of([&*written]);
        prop_assert_eq!(events.len(), 1);
        prop_assert_eq!(&*events[0].data, data.as_bytes());
        prop_assert_eq!(events[0].name.as_deref(), name.as_deref().map(str::as_bytes));
    }
}

#[test]
fn the_raw_bytes_are_the_stream() {
    for (name, stream) in STREAMS {
        for stream in [stream.to_owned(), stream.replace('\n', "\r\n"), stream.replace('\n', "\r")] {
            let raw: Vec<u8> = events_of([stream.as_bytes()]).iter().flat_map(|event| event.raw.to_vec()).collect();
            assert_eq!(raw, stream.as_bytes(), "{name}");
        }
    }
}

#[test]
fn line_ends_do_not_change_the_data() {
    for (name, stream) in STREAMS {
        let data = data_of(stream.as_bytes());
        assert_eq!(data_of(stream.replace('\n', "\r\n").as_bytes()), data, "{name}");
        assert_eq!(data_of(stream.replace('\n', "\r").as_bytes()), data, "{name}");
        assert_eq!(data_of(stream.trim_end().as_bytes()), data, "{name} without its last line ends");
    }
}

#[test]
fn reads_the_fields() {
    let event = |stream: &[u8]| events_of([stream]).remove(0);
    assert_eq!(event(b"data: a\ndata:b\ndata\ndata:  c\n\n").data, "a\nb\n\n c");
    assert_eq!(event(b"event: ping\ndata: {}\n\n").name.unwrap(), "ping");
    assert_eq!(event(b"event: a\nevent:b\n\n").name.unwrap(), "b");
    assert_eq!(event(b"event:\ndata: x\n\n").name, None);
    assert_eq!(event(b"id: 7\nretry: 10\ndatax: y\n\n").data, "");
    assert!(event(b": OPENROUTER PROCESSING\n\n").is_comment);
    assert!(!event(b": c\ndata: x\n\n").is_comment);
    assert!(!event(b"id: 7\n\n").is_comment);
}

#[test]
fn a_byte_order_mark_counts_at_the_start_only() {
    let events = events_of([b"\xEF\xBB\xBFdata: a\n\n\xEF\xBB\xBFdata: b\n\ndata: c\n\n".as_slice()]);
    let data: Vec<&[u8]> = events.iter().map(|event| &*event.data).collect();
    assert_eq!(data, [b"a".as_slice(), b"", b"c"]);
    assert_eq!(events[0].raw, "data: a\n\n");
}

#[test]
fn an_event_comes_out_with_the_byte_that_ends_it() {
    for stream in ["data: x\n\n", "data: x\r\r", "data: x\r\n\r\n", "data: x\r\n\n", "data: x\n\r\n"] {
        let (head, last) = stream.split_at(stream.len() - 1);
        let mut framer = Framer::new(MAX_EVENT_BYTES);
        framer.push(Bytes::from(head));
        assert_eq!(framer.next_event(), None, "{stream:?}");
        framer.push(Bytes::from(last));
        assert_eq!(framer.next_event().unwrap().unwrap().data, "x", "{stream:?}");
    }
}

#[test]
fn an_event_within_one_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"data: one\n\nevent: e\ndata: two\n\n");
    let range = chunk.as_ptr_range();
    let mut framer = Framer::new(MAX_EVENT_BYTES);
    framer.push(chunk);
    while let Some(event) = framer.next_event() {
        let event = event.unwrap();
        for part in [Some(event.raw), Some(event.data), event.name].into_iter().flatten() {
            assert!(range.contains(&part.as_ptr()));
        }
    }
}

#[test]
fn a_large_event_survives_small_chunks() {
    let text = "é日".repeat(200_000);
    let stream = format!("data: {text}\n\ndata: [DONE]\n\n");
    let events = events_of(stream.as_bytes().chunks(1448));
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].data, text);
}

#[test]
fn refuses_an_event_above_the_limit_in_every_cutting() {
    let stream = b"data: 1234\n\ndata: 12345\n\ndata: 1\n\n";
    for size in 1..=stream.len() {
        let mut framer = Framer::new(12);
        let mut seen = Vec::new();
        for chunk in stream.chunks(size) {
            framer.push(Bytes::from_static(chunk));
            seen.extend(std::iter::from_fn(|| framer.next_event()));
        }
        assert_eq!(seen.len(), 2, "chunks of {size}");
        assert_eq!(seen[0].as_ref().unwrap().data, "1234");
        assert_eq!(seen[1], Err(TooLarge { max_event_bytes: 12 }));
        assert_eq!(framer.finish(), None);
    }
}

#[test]
fn endless_blank_lines_need_no_memory() {
    let mut framer = Framer::new(16);
    for _ in 0..1000 {
        framer.push(Bytes::from_static(b"\n\r\n\n"));
        assert_eq!(framer.next_event(), None);
    }
    framer.push(Bytes::from_static(b"data: x\n\n"));
    assert_eq!(framer.next_event().unwrap().unwrap().data, "x");
}

#[test]
fn the_last_event_needs_no_blank_line() {
    for stream in
        ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r\n", "data: [DONE]\r\n\r", "data: x\n\ndata: [DONE]"]
    {
        assert_eq!(events_of([stream.as_bytes()]).last().unwrap().data, "[DONE]", "{stream:?}");
    }
    for stream in ["", ": comment", "event: ping\n", "\n", "\r\n\r"] {
        assert_eq!(events_of([stream.as_bytes()]), [], "{stream:?}");
    }
}

#[test]
fn an_event_is_plain_when_it_would_be_written_the_same() {
    for stream in corpus() {
        for event in events_of([stream.as_slice()]) {
            let written = encode(event.name.as_deref(), &event.data);
            let one_line = !event.data.contains(&b'\n');
            assert_eq!(event.is_plain(), event.raw == written && one_line, "{}", event.raw.escape_ascii());
        }
    }
    for (raw, plain) in [
        ("data: x\n\n", true),
        ("event: e\ndata: x\n\n", true),
        ("data: x\nevent: e\n\n", false),
        ("data:x\n\n", false),
        ("data: x\r\n\r\n", false),
        ("data: x\ndata: y\n\n", false),
        ("id: 1\ndata: x\n\n", false),
        ("data: x\n:\n\n", false),
        ("event:\ndata: x\n\n", false),
    ] {
        assert_eq!(events_of([raw.as_bytes()])[0].is_plain(), plain, "{raw:?}");
    }
}
