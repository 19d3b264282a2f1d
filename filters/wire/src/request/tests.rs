//! The content rules of requests, row by row.

mod dialects;
mod embedding;
mod rerank;
mod syntax;
mod vision;

use serde_json::{Value, json};

use super::{Problem, Protocol, Scan, Scanner};

/// Payload of the shortest text that passes as a PNG.
const PNG: &str = "iVBORw0KGgo=";

/// Scans in one piece and split at every byte; the results have to agree.
fn scan(protocol: Protocol, body: &str) -> Scan {
    let whole = scan_chunks(protocol, [body.as_bytes()]);
    if body.len() < 4096 {
        for at in 0..=body.len() {
            let (head, tail) = body.as_bytes().split_at(at);
            assert_eq!(scan_chunks(protocol, [head, tail]), whole, "split at {at}");
        }
    }
    assert_eq!(scan_chunks(protocol, body.as_bytes().chunks(1)), whole, "byte by byte");
    whole
}

fn scan_chunks<'a>(protocol: Protocol, chunks: impl IntoIterator<Item = &'a [u8]>) -> Scan {
    let mut scanner = Scanner::new(protocol);
    for chunk in chunks {
        scanner.push(chunk).unwrap();
    }
    scanner.finish().unwrap()
}

/// Problems with their paths, without the notice that there is an image.
fn problems(scan: &Scan) -> Vec<(Problem, String)> {
    let bad = scan.findings.iter().filter(|finding| finding.problem != Problem::ImagePart);
    bad.map(|finding| (finding.problem, finding.param())).collect()
}

#[test]
fn tool_arguments_have_to_be_a_string_that_holds_json() {
    let good = ["{}", " {\"a\": [1, 2.5e3, \"\\u00e4\"]} ", "null", "7", "\"x\"", "-0.5", "{\"ü\":\"\\ud83d\\ude00\"}"];
    let bad = [
        "",
        " ",
        "{",
        "{}}",
        "{a:1}",
        "nul",
        "01",
        "7e",
        "\"\\x\"",
        "\"a\nb\"",
        "{\"a\":1,}",
        "'x'",
        "1e999",
        "\u{feff}{}",
    ];
    let body = |arguments: &Value| {
        json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [
            {"id": "1", "function": {"name": "f", "arguments": "{}"}}, {"id": "2", "function": {"name": "f", "arguments": arguments}},
        ]}]})
        .to_string()
    };
    for arguments in good {
        assert_eq!(problems(&scan(Protocol::Chat, &body(&json!(arguments)))), [], "{arguments}");
    }
    let expected = [(Problem::ToolArguments, "messages[1].tool_calls[1].function.arguments".to_owned())];
    for arguments in bad {
        assert_eq!(problems(&scan(Protocol::Chat, &body(&json!(arguments)))), expected, "{arguments}");
    }
    for arguments in [json!({}), json!([]), json!(1), json!(true)] {
        assert_eq!(problems(&scan(Protocol::Chat, &body(&arguments))), expected, "{arguments}");
    }
    assert_eq!(problems(&scan(Protocol::Chat, &body(&Value::Null))), []);
    let absent = r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f"}},{},7]}]}"#;
    assert_eq!(problems(&scan(Protocol::Chat, absent)), []);
}

#[test]
fn arguments_are_json_under_the_same_nesting_limit() {
    let body = |depth: usize| {
        let arguments = "[".repeat(depth) + &"]".repeat(depth);
        json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": arguments}}]}]}).to_string()
    };
    assert_eq!(problems(&scan(Protocol::Chat, &body(127))), []);
    assert_eq!(problems(&scan(Protocol::Chat, &body(128))).len(), 1);
}

#[test]
fn messages_are_objects_with_a_role() {
    let table = [
        (json!([{"role": "user"}]), None),
        (json!([]), None),
        (json!([{"role": "user"}, "x"]), Some((Problem::MessageNotObject, "messages[1]"))),
        (json!([null]), Some((Problem::MessageNotObject, "messages[0]"))),
        (json!([{"role": "user"}, {"content": "x"}]), Some((Problem::RoleMissing, "messages[1].role"))),
        (json!([{"role": null}]), Some((Problem::RoleMissing, "messages[0].role"))),
        (json!([{"role": {"role": "user"}}]), Some((Problem::RoleNotString, "messages[0].role"))),
        (json!({"role": 1}), None),
    ];
    for (messages, expected) in table {
        let scan = scan(Protocol::Chat, &json!({"messages": messages}).to_string());
        let expected: Vec<_> = expected.into_iter().map(|(problem, param)| (problem, param.to_owned())).collect();
        assert_eq!(problems(&scan), expected, "{messages}");
        assert_eq!(scan.messages_count, messages.as_array().map_or(0, Vec::len));
    }
}

#[test]
fn estimates_the_prompt() {
    let schema = r#"{"type":"object"}"#;
    let body = format!(
        r#"{{"messages":[{{"role":"system","content":"gr\u00fc\u00df"}},
        {{"role":"user","content":[{{"type":"text","text":"12345"}},{{"image_url":{{"url":"data:image/png;base64,{PNG}"}},"type":"image_url"}}]}},
        {{"role":"assistant","tool_calls":[{{"id":"ignored","function":{{"name":"fn","arguments":"{{\"a\":1}}"}}}}]}}],
        "tools":[{{"type":"function","function":{{"name":"fn","description":"abc","parameters":{schema}}}}}]}}"#
    );
    let scan = scan(Protocol::Chat, &body);
    assert_eq!(scan.prompt_text_bytes, 6 + 5 + 2 + 7 + 2 + 3 + schema.len() as u64);
    assert_eq!((scan.messages_count, scan.images), (3, 1));
    assert_eq!(scan.estimated_prompt_tokens(), 42_u64.div_ceil(4) + 12 + 1024);
    assert!(problems(&scan).is_empty());
    let completion = scan_chunks(Protocol::Completions, [br#"{"prompt":["abcd","e"]}"#.as_slice()]);
    assert_eq!(completion.estimated_prompt_tokens(), 2);
}
