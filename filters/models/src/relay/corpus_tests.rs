//! Streams of ten providers, in every form that the protocol of events allows, cut everywhere: what comes out is what
//! came in, apart from the documented changes.

use bytes::Bytes;
use proptest::prelude::*;

use super::Relay;
use super::oracle::{self, Said};
use crate::dialect::StreamForm::{self, Chunks, Events};

const SLUG: &str = "slug of the \"client\"";

/// Name, dialect, the model as the upstream calls it, the stream.
type Provider = (&'static str, StreamForm, &'static str, &'static str);

const CORPUS: [Provider; 10] = [
    ("anthropic", Events, "claude-opus-4-7-20260416", include_str!("../../tests/corpus/anthropic.sse")),
    ("azure", Chunks, "gpt-5.5-2026-03-05", include_str!("../../tests/corpus/azure.sse")),
    ("gemini", Chunks, "gemini-3.5-flash", include_str!("../../tests/corpus/gemini.sse")),
    ("litellm", Chunks, "bedrock-claude", include_str!("../../tests/corpus/litellm.sse")),
    ("ollama", Chunks, "gpt-oss:20b", include_str!("../../tests/corpus/ollama.sse")),
    ("openai", Chunks, "gpt-5.5-2026-03-05", include_str!("../../tests/corpus/openai.sse")),
    ("openrouter", Chunks, "google/gemini-3.5-flash", include_str!("../../tests/corpus/openrouter.sse")),
    ("responses", Events, "gpt-5.5-2026-03-05", include_str!("../../tests/corpus/responses.sse")),
    ("sglang", Chunks, "deepseek-ai/DeepSeek-V3.2", include_str!("../../tests/corpus/sglang.sse")),
    ("vllm", Chunks, "Qwen/Qwen3-32B", include_str!("../../tests/corpus/vllm.sse")),
];

/// What leaves of a stream that arrives in these pieces, without the events that the gateway adds of its own.
fn relayed<'a>(model: &str, usage: bool, form: StreamForm, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut relay = Relay::new(model.into(), usage, form);
    let mut out = Vec::new();
    for piece in pieces {
        let mut part = Some(Bytes::copy_from_slice(piece));
        relay.pass(&mut part, false).unwrap();
        out.extend(part.unwrap_or_default());
    }
    let mut part = None;
    relay.pass(&mut part, true).unwrap();
    out.extend(part.unwrap_or_default());
    oracle::without_own_events(&out)
}

/// The stream with another beginning of its lines.
fn of_lines(stream: &str, from: &str, to: &str) -> String {
    stream
        .split_inclusive('\n')
        .map(|line| line.strip_prefix(from).map_or(line.to_owned(), |rest| to.to_owned() + rest))
        .collect()
}

/// The forms in which the same stream may come.
fn variants(stream: &str) -> Vec<(&'static str, Vec<u8>)> {
    let pretty = stream.replace(",\"id\"", ",\ndata:\"id\"").replace(",\"type\"", ",\ndata: \"type\"");
    let noisy: String = stream
        .split_inclusive("\n\n")
        .map(|event| match event.starts_with(':') {
            true => format!("{event}\n\n"),
            false => {
                format!(": waiting\n: still\n\nid: 7\nretry: 10\n: inside\nunknown\n{event}data:\n\ndata\n\nid:\n\n\n")
            }
        })
        .collect();
    let marked = ["\u{feff}", stream].concat();
    let bytes = |text: String| text.into_bytes();
    vec![
        ("as it is", bytes(stream.to_owned())),
        ("CRLF", bytes(stream.replace('\n', "\r\n"))),
        ("CR", bytes(stream.replace('\n', "\r"))),
        ("mixed line ends", bytes(stream.replace("\n\n", "\r\n\n"))),
        ("no space", bytes(of_lines(stream, "data: ", "data:").replace("event: ", "event:"))),
        ("several lines of data", bytes(pretty.clone())),
        ("several lines of data, CRLF", bytes(pretty.replace('\n', "\r\n"))),
        ("comments, fields and empty events between", bytes(noisy)),
        ("byte order mark", bytes(marked)),
        ("no last blank line", bytes(stream.trim_end().to_owned())),
        ("half of the last blank line", bytes(stream.trim_end().to_owned() + "\r\n")),
        ("spaces around the marker", bytes(of_lines(stream, "data: [DONE]", "data:  [DONE] "))),
        ("the marker twice", bytes(stream.replace("data: [DONE]\n\n", "data: [DONE]\n\ndata: [DONE]\n\n"))),
    ]
}

#[test]
fn whatever_form_it_comes_in_the_client_reads_what_the_upstream_wrote() {
    for (name, form, upstream, stream) in CORPUS {
        let chat = form == Chunks;
        for usage in [false, true] {
            let expected = oracle::expected(&oracle::parse(stream.as_bytes()), SLUG, usage, chat);
            assert!(expected.len() > 5 && stream.contains(upstream), "{name}");
            let plain = relayed(SLUG, usage, form, [stream.as_bytes()]);
            assert!(!plain.windows(upstream.len()).any(|bytes| bytes == upstream.as_bytes()), "{name}");
            for (variant, bytes) in variants(stream) {
                let out = relayed(SLUG, usage, form, [bytes.as_slice()]);
                assert_eq!(oracle::parse(&out), expected, "{name}, {variant}, usage {usage}");
                oracle::assert_form(&out);
                if !variant.starts_with("several lines") {
                    assert_eq!(out.escape_ascii().to_string(), plain.escape_ascii().to_string(), "{name}, {variant}");
                }
                let one_by_one = relayed(SLUG, usage, form, bytes.chunks(1));
                assert_eq!(one_by_one, out, "{name}, {variant}, byte by byte");
            }
        }
    }
}

#[test]
fn every_cut_in_two_gives_the_same_bytes() {
    for (name, form, _, stream) in CORPUS {
        for (variant, bytes) in variants(stream) {
            let whole = relayed(SLUG, true, form, [bytes.as_slice()]);
            let line_ends = |at: usize| {
                let around = bytes.get(at.saturating_sub(3)..(at + 3).min(bytes.len())).unwrap_or_default();
                at < 4 || around.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
            };
            // everywhere in the short streams; in the long ones, and in all other forms, around the ends of lines
            let step = match variant {
                "as it is" if bytes.len() < 3_100 => 1,
                "as it is" => 7,
                _ => usize::MAX,
            };
            for at in (0..=bytes.len()).filter(|at| at % step == 0 || line_ends(*at)) {
                let (head, tail) = bytes.split_at(at);
                assert_eq!(relayed(SLUG, true, form, [head, tail]), whole, "{name}, {variant}, cut at {at}");
            }
        }
    }
}

#[test]
fn what_needs_no_change_keeps_every_byte() {
    for (name, form, upstream, stream) in CORPUS {
        if name == "openrouter" || name == "azure" {
            continue; // they name a provider, or no model at all, in each event
        }
        let sent: String = stream.split_inclusive("\n\n").filter(|event| !event.starts_with(':')).collect();
        for (variant, bytes) in variants(stream) {
            if variant.starts_with("several lines") {
                continue;
            }
            let out = relayed(upstream, true, form, [bytes.as_slice()]);
            assert_eq!(String::from_utf8(out).unwrap(), sent, "{name}, {variant}");
        }
    }
}

#[test]
fn a_stream_without_its_marker_is_complete_and_gets_none() {
    for (name, form, _, stream) in CORPUS.into_iter().filter(|(_, form, ..)| *form == Chunks) {
        let unmarked = stream.strip_suffix("data: [DONE]\n\n").unwrap();
        let whole = relayed(SLUG, true, form, [stream.as_bytes()]);
        let out = relayed(SLUG, true, form, [unmarked.as_bytes()]);
        assert_eq!(whole.strip_suffix(b"data: [DONE]\n\n").unwrap(), out, "{name}");
    }
}

#[test]
fn an_event_of_a_megabyte_passes_however_it_is_cut() {
    let text = "語[DONE]\\n🦀 ".repeat(1024 * 1024 / 16);
    for (name, form, _, stream) in
        CORPUS.into_iter().filter(|(name, ..)| ["anthropic", "responses", "vllm"].contains(name))
    {
        let at = stream.find("日本").unwrap();
        let large = stream.replacen("日本", &text, 1);
        assert!(large.len() > 1024 * 1024, "{name} {}", large.len());
        let expected = oracle::expected(&oracle::parse(large.as_bytes()), SLUG, true, form == Chunks);
        let bytes = large.as_bytes();
        let whole = relayed(SLUG, true, form, [bytes]);
        assert_eq!(oracle::parse(&whole), expected, "{name}");
        assert!(relayed(SLUG, true, form, bytes.chunks(1_400)) == whole, "{name}");
        let numbers = (1..8_usize).map(|n| at + n.wrapping_mul(0x9e37_79b9) % text.len());
        for cut in [at + 1, at + text.len() + 1, bytes.len() - 1].into_iter().chain(numbers) {
            let (head, tail) = bytes.split_at(cut);
            assert!(relayed(SLUG, true, form, [head, tail]) == whole, "{name}, cut at {cut}");
        }
    }
}

/// A string as JSON, with or without escapes.
fn json_string() -> impl Strategy<Value = String> {
    (".{0,12}", any::<bool>()).prop_map(|(text, escape)| {
        let json = serde_json::to_string(&text).unwrap();
        match escape {
            false => json,
            true => json.chars().fold(String::new(), |mut out, letter| {
                let mut units = [0; 2];
                match letter.is_ascii() {
                    true => out.push(letter),
                    false => letter.encode_utf16(&mut units).iter().for_each(|unit| out += &format!("\\u{unit:04x}")),
                }
                out
            }),
        }
    })
}

/// A delta with what servers put into one.
fn delta() -> impl Strategy<Value = String> {
    let call = (0..3_u8, json_string()).prop_map(|(index, arguments)| {
        format!(r#""tool_calls":[{{"index":{index},"id":null,"function":{{"arguments":{arguments}}}}}]"#)
    });
    let member = prop_oneof![
        json_string().prop_map(|text| format!(r#""content":{text}"#)),
        json_string().prop_map(|text| format!(r#""reasoning_content":{text}"#)),
        call,
        Just(r#""role":"assistant""#.to_owned()),
        Just(r#""x":[1,2.50,-0,1E+2,{"model":"m","usage":{}}]"#.to_owned()),
        Just(String::new()),
    ];
    member.prop_map(|member| format!("{{{member}}}"))
}

/// The JSON of a chunk before the finish.
fn chunk() -> impl Strategy<Value = String> {
    let tail = prop_oneof![
        Just(""),
        Just(r#","usage":null"#),
        Just(r#","usage":{"prompt_tokens":3,"completion_tokens":1}"#),
        Just(r#", "provider" : "P""#),
        Just(r#","x_unknown":{"a":" \u0041 ","b":1.0e3}"#),
    ];
    let head = prop_oneof![Just(r#""model":"up","#), Just(r#" "id" : "c" , "model" : "" ,"#), Just("")];
    (head, delta(), tail).prop_map(|(head, delta, tail)| {
        format!(r#"{{{head}"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]{tail}}}"#)
    })
}

/// A stream of such chunks, with line ends, spaces and comments as they come.
fn stream() -> impl Strategy<Value = String> {
    let line = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
    let prefix = prop_oneof![Just("data: "), Just("data:"), Just("event: message\ndata: ")];
    let between = prop_oneof![Just(""), Just(": c\n\n"), Just("\n"), Just("id: 1\n\n"), Just("data:\n\n")];
    (proptest::collection::vec((chunk(), prefix, between), 1..12), line).prop_map(|(chunks, line)| {
        let finish = r#"{"model":"up","choices":[{"index":0,"delta":{"content":"."},"finish_reason":"stop"}]}"#;
        let mut out: String =
            chunks.iter().map(|(chunk, prefix, between)| format!("{prefix}{chunk}\n\n{between}")).collect();
        out += &format!("data: {finish}\n\n");
        out += "data: {\"model\":\"up\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}\n\n";
        (out + "data: [DONE]\n\n").replace('\n', line)
    })
}

proptest! {
    #[test]
    fn any_stream_of_valid_chunks_passes_unchanged_in_any_pieces(
        stream in stream(),
        usage in any::<bool>(),
        cuts in proptest::collection::vec(1_usize..200, 1..30),
    ) {
        let mut pieces = Vec::new();
        let mut rest = stream.as_bytes();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            pieces.push(head);
            rest = tail;
        }
        let expected = oracle::expected(&oracle::parse(stream.as_bytes()), SLUG, usage, true);
        let out = relayed(SLUG, usage, Chunks, pieces);
        oracle::assert_form(&out);
        prop_assert_eq!(oracle::parse(&out), expected);
    }
}

#[test]
fn the_reader_of_these_tests_knows_the_protocol() {
    let read = |stream: &str| {
        oracle::parse(stream.as_bytes())
            .into_iter()
            .map(|Said { name, data }| format!("{name}|{data}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        read("\u{feff}data:1\r\rdata: 2\r\n\r\n: c\n\nevent: e\ndata: [\ndata: 3]\n\ndata\n\ndata: 4"),
        ["|1", "|2", "e|[3]", "|4"]
    );
}
