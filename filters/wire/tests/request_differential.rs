//! The request scan against `serde_json`: same verdict on every text, the same facts however it is cut.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use dgx_gateway_filter::body::Rope;
use dgx_gateway_wire::request::{Protocol, Scan, ScanError, Scanner, patch};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Deserialize;
use serde::de::{Error, MapAccess, Visitor};
use serde_json::Value;

const PROTOCOLS: [Protocol; 5] =
    [Protocol::Chat, Protocol::Completions, Protocol::Embeddings, Protocol::Messages, Protocol::Responses];

fn scan<'a>(protocol: Protocol, chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Scan, ScanError> {
    let mut scanner = Scanner::new(protocol);
    for chunk in chunks {
        scanner.push(chunk)?;
    }
    scanner.finish()
}

/// An object with distinct members, read into trees.
struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DistinctVisitor)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Distinct;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with distinct members")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Distinct, A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name) {
                return Err(A::Error::custom("duplicate member"));
            }
            map.next_value::<Value>()?;
        }
        Ok(Distinct)
    }
}

/// Checks a body against the reference and against itself cut in other ways.
fn check(body: &[u8], cuts: &[Index]) -> Result<(), TestCaseError> {
    let accepted = serde_json::from_slice::<Distinct>(body).is_ok();
    for protocol in PROTOCOLS {
        let whole = scan(protocol, [body]);
        prop_assert_eq!(whole.is_ok(), accepted, "{:?} on {}", whole, String::from_utf8_lossy(body));
        if let Err(error) = &whole {
            let (before, _) = body.split_at(error.offset.min(body.len()));
            prop_assert!(Scanner::new(protocol).push(before).is_ok(), "a viable prefix is refused");
        }
        if body.len() < 200 {
            for at in 0..=body.len() {
                let (head, tail) = body.split_at(at);
                prop_assert_eq!(&scan(protocol, [head, tail]), &whole, "split at {}", at);
            }
        }
        prop_assert_eq!(&scan(protocol, body.chunks(1)), &whole);
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        places.sort_unstable();
        let mut rest = body;
        let mut chunks = Vec::new();
        for place in places.into_iter().rev() {
            let (head, tail) = rest.split_at(place);
            chunks.push(tail);
            rest = head;
        }
        chunks.push(rest);
        prop_assert_eq!(&scan(protocol, chunks.into_iter().rev()), &whole);
    }
    Ok(())
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 1 => "[ \t\n\r]{1,3}"]
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,4})",
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
        "(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?[eE]\\+?(28|29|30|31)[0-9]",
        "[1-9][0-9]{280,310}(\\.[0-9]{1,3})?(e-?[0-9]{1,2})?",
        "-?0?\\.?0{0,5}[0-9]{0,3}e-?[0-9]{9,12}",
    ]
}

fn character() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ !#-\\[\\]-~]{1,12}",
        1 => "[ !#-\\[\\]-~]{60,140}",
        2 => any::<char>().prop_filter("escaped in JSON", |c| *c >= ' ' && *c != '"' && *c != '\\').prop_map(String::from),
        1 => "[äöü€😀\u{7f}]{1,4}",
        1 => select(vec![r#"\""#, r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t", r"\u00e4", r"\u0000"]).prop_map(String::from),
        1 => any::<char>().prop_map(|c| {
            c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect()
        }),
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => prop::collection::vec(character(), 0..4).prop_map(|parts| format!("\"{}\"", parts.concat())),
        1 => select(vec![
            "image_url", "image", "input_image", "base64", "url", "image/png", "iVBORw0KGgo=", "text", "user", "http://x", "data:image/png;base64,iVBORw0KGgo=", "data:image/gif;base64,a", "{}",
            r"{\u0022a\u0022:[1,2]}", r"[\n1e400]", "{",
        ])
        .prop_map(|text| format!("\"{text}\"")),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => string(),
        2 => select(vec![
            "model", "m\\u006fdel", "messages", "stream", "stream_options", "include_usage", "tools", "max_tokens", "prompt",
            "input", "role", "content", "type", "text", "image_url", "url", "tool_calls", "function", "name", "arguments",
            "parameters", "user_id", "source", "data", "media_type", "system", "instructions", "output", "input_schema",
        ])
        .prop_map(|name| format!("\"{name}\"")),
    ]
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (name(), space(), space(), value, space())
        .prop_map(|(name, a, b, value, c)| format!("{name}{a}:{b}{value}{c}"));
    (space(), prop::collection::vec(member, 0..6))
        .prop_map(|(space, members)| format!("{{{space}{}}}", members.join(",")))
}

fn array(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (space(), prop::collection::vec((value, space()).prop_map(|(value, space)| value + &space), 0..5))
        .prop_map(|(space, values)| format!("[{space}{}]", values.join(",")))
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![select(vec!["null", "true", "false"]).prop_map(String::from), number(), string()];
    leaf.prop_recursive(4, 40, 5, |inner| prop_oneof![array(inner.clone()), object(inner)])
}

/// A request whose members stand where the scan looks for them.
fn request() -> impl Strategy<Value = String> {
    let url = prop_oneof![string(), object(string())];
    let part = prop_oneof![
        3 => (string(), url, string()).prop_map(|(kind, url, text)| format!(r#"{{"image_url":{url},"type":{kind},"text":{text}}}"#)),
        1 => (string(), select(vec!["image_url", "text"])).prop_map(|(url, kind)| format!(r#"{{"type":"{kind}","image_url":{{"url":{url}}}}}"#)),
        1 => value(),
    ];
    let call = prop_oneof![
        3 => string().prop_map(|arguments| format!(r#"{{"function":{{"name":"f","arguments":{arguments}}}}}"#)),
        1 => value(),
    ];
    let message = prop_oneof![
        5 => (array(part), array(call), string()).prop_map(|(content, calls, role)| format!(r#"{{"content":{content},"tool_calls":{calls},"role":{role}}}"#)),
        1 => value(),
    ];
    (array(message), prop_oneof![array(number()), array(string()), array(array(number())), value()], object(value()))
        .prop_map(|(messages, input, options)| {
            format!(r#"{{"messages":{messages},"prompt":{input},"input":{input},"stream_options":{options},"tools":[{options}]}}"#)
        })
}

/// Bodies of messages and responses whose members stand where the scan looks for them.
fn dialect_request() -> impl Strategy<Value = String> {
    let source = prop_oneof![
        3 => (string(), string(), string()).prop_map(|(kind, media, data)| format!(r#"{{"type":{kind},"media_type":{media},"data":{data}}}"#)),
        1 => object(string()),
        1 => value(),
    ];
    let block = prop_oneof![
        3 => (string(), source, string()).prop_map(|(kind, source, text)| format!(r#"{{"source":{source},"image_url":{text},"type":{kind},"text":{text}}}"#)),
        1 => value(),
    ];
    let holder = prop_oneof![
        1 => (string(), array(block.clone()), value()).prop_map(|(kind, content, input)| format!(r#"{{"type":{kind},"content":{content},"input":{input}}}"#)),
        2 => block,
    ];
    let message = prop_oneof![
        5 => (array(holder), string(), string()).prop_map(|(content, role, text)| {
            format!(r#"{{"content":{content},"output":{content},"role":{role},"arguments":{text}}}"#)
        }),
        1 => value(),
    ];
    (array(message), prop_oneof![string(), value()], value()).prop_map(|(messages, system, tool)| {
        format!(r#"{{"system":{system},"messages":{messages},"input":{messages},"instructions":{system},"tools":[{{"input_schema":{tool}}}]}}"#)
    })
}

/// What the scan has to count in a body: bytes of text and images.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    text: u64,
    images: usize,
}

/// A part or a text, as a tree, with what stands in it.
fn content() -> impl Strategy<Value = (Value, u64, usize)> {
    let text = "[a-zä\\\\\"\\n]{0,8}";
    let len = |text: &str| text.len() as u64;
    prop_oneof![
        text.prop_map(move |text| (serde_json::json!({"type": "text", "text": text}), len(&text), 0)),
        text.prop_map(move |text| (serde_json::json!(text), len(&text), 0)),
        text.prop_map(|data| (serde_json::json!({"type": "image", "source": {"data": data, "type": "base64"}}), 0, 1)),
        text.prop_map(|url| (serde_json::json!({"type": "input_image", "image_url": url}), 0, 1)),
        (text, text).prop_map(move |(name, input)| {
            let input = serde_json::json!({"q": input, "n": [1, 2]});
            let written = input.to_string().len() as u64;
            (serde_json::json!({"type": "tool_use", "id": "x", "name": name, "input": input}), len(&name) + written, 0)
        }),
        any::<i32>().prop_map(|other| (serde_json::json!({"type": "other", "number": other, "list": [null]}), 0, 0)),
    ]
}

#[derive(Clone, Debug)]
enum Mutation {
    Insert(Index, u8),
    Remove(Index),
    Repeat(Index, Index),
    Replace(Index, u8),
    Truncate(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let byte = || {
        prop_oneof![
            any::<u8>(),
            select(b"{}[]:,\"\\/ue0123456789-+.tfn \n\t\0\x1f\x7f\x80\xbf\xc3\xe2\xed\xf0".to_vec())
        ]
    };
    let at = any::<Index>;
    prop_oneof![
        (at(), byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        at().prop_map(Mutation::Remove),
        (at(), at()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
        (at(), byte()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        at().prop_map(Mutation::Truncate),
    ]
}

fn mutate(body: &mut Vec<u8>, mutation: &Mutation) {
    if body.is_empty() {
        return;
    }
    let len = body.len();
    match mutation {
        Mutation::Insert(at, byte) => body.insert(at.index(len), *byte),
        Mutation::Remove(at) => drop(body.remove(at.index(len))),
        Mutation::Repeat(from, to) => {
            let (from, to) = (from.index(len), to.index(len));
            body.extend_from_within(from.min(to)..from.max(to));
        }
        Mutation::Replace(at, byte) => body.splice(at.index(len)..=at.index(len), [*byte]).for_each(drop),
        Mutation::Truncate(at) => body.truncate(at.index(len)),
    }
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn judges_any_value_alike(space in space(), body in value(), behind in space(), cuts in cuts()) {
        check(format!("{space}{body}{behind}").as_bytes(), &cuts)?;
    }

    #[test]
    fn judges_any_object_alike(body in object(value()), cuts in cuts()) {
        check(body.as_bytes(), &cuts)?;
    }

    #[test]
    fn judges_any_number_alike(number in number(), cuts in cuts()) {
        check(format!(r#"{{"a":{number}}}"#).as_bytes(), &cuts)?;
    }

    #[test]
    fn judges_requests_alike(body in request(), cuts in cuts()) {
        check(body.as_bytes(), &cuts)?;
    }

    #[test]
    fn judges_requests_of_other_dialects_alike(body in dialect_request(), cuts in cuts()) {
        check(body.as_bytes(), &cuts)?;
    }

    #[test]
    fn counts_messages_as_a_tree_says(parts in prop::collection::vec(content(), 0..5), results in prop::collection::vec(content(), 0..4), system in "[a-zü]{0,9}") {
        let is_block = |(part, ..): &&(Value, u64, usize)| part["type"] != "input_image";
        let is_inner = |(part, ..): &&(Value, u64, usize)| part["type"] != "tool_use" && part["type"] != "input_image";
        let (parts, results): (Vec<_>, Vec<_>) = (parts.iter().filter(is_block).collect(), results.iter().filter(is_inner).collect());
        let tree = |parts: &[&(Value, u64, usize)]| parts.iter().map(|(part, ..)| part.clone()).collect::<Vec<Value>>();
        let mut content = tree(&parts);
        content.push(serde_json::json!({"type": "tool_result", "content": tree(&results)}));
        let body = serde_json::json!({"system": system, "messages": [{"role": "user", "content": content}]}).to_string();
        let all = || parts.iter().chain(&results);
        let expected = Counted {
            text: all().map(|(_, text, _)| text).sum::<u64>() + system.len() as u64,
            images: all().map(|(_, _, images)| images).sum(),
        };
        let scan = scan(Protocol::Messages, body.as_bytes().chunks(7)).unwrap();
        prop_assert_eq!(Counted { text: scan.prompt_text_bytes, images: scan.images }, expected, "{}", body);
        prop_assert_eq!(scan.messages_count, 1);
    }

    #[test]
    fn counts_items_as_a_tree_says(parts in prop::collection::vec(content(), 0..5), output in "[a-zü\"]{0,9}") {
        let parts: Vec<_> = parts.iter().filter(|(part, ..)| part["type"] != "image" && part["type"] != "tool_use").collect();
        let content: Vec<Value> = parts.iter().map(|(part, ..)| part.clone()).collect();
        let body = serde_json::json!({"instructions": output, "input": [{"role": "user", "content": content}, {"output": output}]}).to_string();
        let expected = Counted {
            text: parts.iter().map(|(_, text, _)| text).sum::<u64>() + 2 * output.len() as u64,
            images: parts.iter().map(|(_, _, images)| images).sum(),
        };
        let scan = scan(Protocol::Responses, body.as_bytes().chunks(7)).unwrap();
        prop_assert_eq!(Counted { text: scan.prompt_text_bytes, images: scan.images }, expected, "{}", body);
        prop_assert_eq!(scan.messages_count, 2);
    }

    #[test]
    fn judges_mutated_bodies_alike(
        body in prop_oneof![object(value()), request(), dialect_request()],
        mutations in prop::collection::vec(mutation(), 1..4),
        cuts in cuts(),
    ) {
        let mut body = body.into_bytes();
        for mutation in &mutations {
            mutate(&mut body, mutation);
        }
        check(&body, &cuts)?;
    }

    #[test]
    fn judges_any_string_bytes_alike(content in prop::collection::vec(any::<u8>(), 0..12), cuts in cuts()) {
        check(&[b"{\"a\":\"", content.as_slice(), b"\"}"].concat(), &cuts)?;
    }

    #[test]
    fn judges_tool_arguments_as_the_reference_does(arguments in prop_oneof![value(), "\\PC{0,12}"], broken in any::<bool>(), at in any::<Index>()) {
        let mut arguments = arguments;
        if broken && let Some((index, _)) = arguments.char_indices().nth(at.index(arguments.chars().count().max(1))) {
            arguments.remove(index);
        }
        let body = serde_json::json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": arguments}}]}]});
        let scan = scan(Protocol::Chat, [body.to_string().as_bytes()]).unwrap();
        prop_assert_eq!(scan.findings.is_empty(), serde_json::from_str::<Value>(&arguments).is_ok(), "{}", arguments);
    }

    #[test]
    fn patches_what_it_names_and_nothing_else(body in object(value()), cuts in cuts()) {
        let Ok(scan) = scan(Protocol::Chat, [body.as_bytes()]) else { return Ok(()) };
        let mut tree: Value = serde_json::from_str(&body).unwrap();
        let mut patches = Vec::new();
        if let Some(model) = &scan.model {
            patches.push(patch::replace(model, Bytes::from_static(b"\"other\"")));
            tree["model"] = "other".into();
        }
        if let Some(option) = patch::append_stream_option(&scan, r#""added":1"#) {
            patches.push(option);
            tree["stream_options"]["added"] = 1.into();
        }
        patches.push(patch::append_member(&scan, r#""added":[true],"again":"ü""#));
        tree["added"] = serde_json::json!([true]);
        tree["again"] = "ü".into();
        patches.sort_by_key(|patch| patch.range.start);
        let patched = rope(body.as_bytes(), &cuts).patched(&patches).parts().concat();
        prop_assert_eq!(serde_json::from_slice::<Value>(&patched).unwrap(), tree);
        let mut expected = body.into_bytes();
        for patch in patches.iter().rev() {
            expected.splice(patch.range.clone(), patch.with.iter().copied());
        }
        prop_assert_eq!(patched, expected);
    }

    #[test]
    fn reads_values_as_the_reference_does(string in string(), number in number(), cuts in cuts()) {
        let body = format!(r#"{{"max_tokens" : {number} , "model":{string}}}"#);
        let Ok(scan) = scan(Protocol::Chat, [body.as_bytes()]) else { return Ok(()) };
        let rope = rope(body.as_bytes(), &cuts);
        let (model, max_tokens) = (scan.model.unwrap(), scan.max_tokens.unwrap());
        prop_assert_eq!(patch::read_string(&rope, &model), serde_json::from_str(&string).ok());
        prop_assert_eq!(patch::read_string(&rope, &max_tokens), None);
        let integer = number.parse().ok().filter(|_| number != "-0");
        prop_assert_eq!(patch::read_integer(&rope, &max_tokens).ok(), integer);
        prop_assert!(patch::read_integer(&rope, &model).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn judges_large_bodies_alike(parts in prop::collection::vec(prop_oneof![request(), value()], 20..40), flaw in prop::option::of(mutation()), cuts in cuts()) {
        let mut body = format!(r#"{{"messages":[{}]}}"#, vec![parts.join(" ,\n"); 8].join(",")).into_bytes();
        if let Some(mutation) = &flaw {
            mutate(&mut body, mutation);
        }
        check(&body, &cuts)?;
    }
}

fn rope(body: &[u8], cuts: &[Index]) -> Rope {
    let mut rope = Rope::new();
    let mut rest = body;
    for cut in cuts {
        let (head, tail) = rest.split_at(cut.index(rest.len() + 1));
        rope.push(Bytes::copy_from_slice(head));
        rest = tail;
    }
    rope.push(Bytes::copy_from_slice(rest));
    rope
}

#[test]
fn has_the_same_nesting_limit() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in 125..130 {
            let inner = if open == "[" { "" } else { "1" };
            let body = format!("{{\"a\":{}{inner}{}}}", open.repeat(depth), close.repeat(depth));
            let accepted = serde_json::from_str::<Value>(&body).is_ok();
            assert_eq!(scan(Protocol::Chat, [body.as_bytes()]).is_ok(), accepted, "{depth}");
        }
    }
}

#[test]
fn has_the_same_range_of_numbers() {
    for significand in
        ["1", "1.7976931348623157", "1.7976931348623159", "17.976931348623158", "0.17", "179769313486231580000000"]
    {
        for exponent in 280..320 {
            let body = format!("{{\"a\":{significand}e{exponent}}}");
            let accepted = serde_json::from_str::<Value>(&body).is_ok();
            assert_eq!(scan(Protocol::Chat, [body.as_bytes()]).is_ok(), accepted, "{body}");
        }
    }
}

#[test]
fn reads_integers_alone() {
    let table = [
        ("1", Some(1)),
        ("0", Some(0)),
        ("-5", Some(-5)),
        ("9223372036854775807", Some(i64::MAX)),
        ("9223372036854775808", None),
        ("-0", None),
        ("1.5", None),
        ("200.0", None),
        ("1e3", None),
        ("\"100\"", None),
        ("true", None),
        ("null", None),
        ("[1]", None),
    ];
    for (text, expected) in table {
        let body = format!("{{\"max_tokens\":{text}}}");
        let scan = scan(Protocol::Chat, [body.as_bytes()]).unwrap();
        let read = patch::read_integer(&Rope::from(Bytes::from(body)), &scan.max_tokens.unwrap());
        assert_eq!(read.ok(), expected, "{text}");
    }
}

#[test]
fn appends_to_empty_objects_without_comma() {
    for (body, expected) in [
        ("{}", r#"{"n":1}"#),
        (" { \n } ", " { \n \"n\":1} "),
        (r#"{"a":{}}"#, r#"{"a":{},"n":1}"#),
        (r#"{"stream_options":{ }}"#, r#"{"stream_options":{ "n":1},"n":1}"#),
        (r#"{"stream_options":{"a":[]}}"#, r#"{"stream_options":{"a":[],"n":1},"n":1}"#),
        (r#"{"stream_options":null}"#, r#"{"stream_options":null,"n":1}"#),
        (r#"{"stream_options":[]}"#, r#"{"stream_options":[],"n":1}"#),
    ] {
        let scan = scan(Protocol::Chat, [body.as_bytes()]).unwrap();
        let mut patches: Vec<_> = patch::append_stream_option(&scan, r#""n":1"#).into_iter().collect();
        patches.push(patch::append_member(&scan, r#""n":1"#));
        let patched = Rope::from(Bytes::from(body)).patched(&patches).parts().concat();
        assert_eq!(String::from_utf8(patched).unwrap(), expected);
    }
}
