//! The content rules of requests, row by row.

use dgx_gateway_wire::request::{Problem, Protocol, Scan, ScanErrorKind, Scanner};
use serde_json::{Value, json};

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

fn chat(parts: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"see"}},{parts}]}}]}}"#)
}

fn url_problem(url: &str) -> Option<Problem> {
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let scan = scan(Protocol::Chat, &chat(&part.to_string()));
    assert_eq!(scan.images, 1);
    let found = problems(&scan);
    assert!(found.iter().all(|(_, param)| param == "messages[0].content[1].image_url.url"));
    assert!(found.len() < 2, "{found:?}");
    found.first().map(|(problem, _)| *problem)
}

const PNG: &str = "iVBORw0KGgo=";

#[test]
fn judges_image_urls_by_the_vision_table() {
    use Problem::{ImageBase64, ImageDecode, ImageUrlRemote};
    let table = [
        // the examples of the specification
        ("HTTPS://example.com/a.png", Some(ImageUrlRemote)),
        ("file:///a.png", Some(ImageDecode)),
        ("data:image/svg+xml;base64,PHN2Zz4=", Some(ImageDecode)),
        ("data:image/png,iVBORw0KGgo=", Some(ImageDecode)),
        ("data:;base64,@@@", Some(ImageDecode)),
        ("data:image/png;base64,iVBORw0KGgo", Some(ImageBase64)),
        ("data:image/png;base64,iVBORw0KGgo=", None),
        ("data:image/jpeg;base64,iVBORw0KGgo=", Some(ImageDecode)),
        // schemes
        ("http://example.com", Some(ImageUrlRemote)),
        ("hTTp:x", Some(ImageUrlRemote)),
        ("httpss://example.com", Some(ImageDecode)),
        (" https://example.com", Some(ImageDecode)),
        ("https", Some(ImageDecode)),
        ("", Some(ImageDecode)),
        ("a-scheme-longer-than-any-known-one:x", Some(ImageDecode)),
        // headers
        ("data:image/png;base64", Some(ImageDecode)),
        ("data:base64,iVBORw0KGgo=", Some(ImageDecode)),
        ("data:image/jpg;base64,/9j/", Some(ImageDecode)),
        ("data:image/png;base64;x=y,iVBORw0KGgo=", Some(ImageDecode)),
        ("data:image/png;name=a;base64,iVBORw0KGgo=", None),
        ("data:image/pngimage/pngimage/png;base64,iVBORw0KGgo=", Some(ImageDecode)),
        ("data:IMAGE/Png;base64,iVBORw0KGgo=", None),
        // payloads
        ("data:image/png;base64,", Some(ImageBase64)),
        ("data:image/png;base64,==", Some(ImageBase64)),
        ("data:image/png;base64,iVBORw0KGg==", Some(ImageDecode)),
        ("data:image/png;base64,iVBORw0KG===", Some(ImageBase64)),
        ("data:image/png;base64,iVBOR=0KGgo=", Some(ImageBase64)),
        ("data:image/png;base64,iVBORw0KGgo=AAAA", Some(ImageBase64)),
        ("data:image/png;base64,iVBORw0KGgo-", Some(ImageBase64)),
        ("data:image/png;base64,iVBORw0K\nGgo=", Some(ImageBase64)),
        ("data:image/png;base64,iVBORw0KGgü=", Some(ImageBase64)),
        ("data:image/png;base64,iVBORw0KGgp=", None),
        // signatures
        ("data:image/jpeg;base64,/9j/", None),
        ("data:image/jpeg;base64,/9g=", Some(ImageDecode)),
        ("data:image/gif;base64,R0lGODdh", None),
        ("data:image/gif;base64,R0lGODlh", None),
        ("data:image/gif;base64,R0lGODhh", Some(ImageDecode)),
        ("data:image/webp;base64,UklGRgAAAABXRUJQ", None),
        ("data:image/webp;base64,UklGRgAAAABXRUI=", Some(ImageDecode)),
        ("data:image/png;base64,R0lGODlh", Some(ImageDecode)),
        ("data:image/png;base64,AAAAAAAA", Some(ImageDecode)),
    ];
    for (url, expected) in table {
        assert_eq!(url_problem(url), expected, "{url}");
    }
}

#[test]
fn checks_a_long_payload_at_every_alignment() {
    for len in [4000, 70_000] {
        let good = format!("data:image/png;base64,iVBORw0KGgoA{}", "A+/z".repeat(len));
        assert_eq!(url_problem(&good), None);
        for at in [40, 41, 1000, len * 3] {
            let mut bad = good.clone();
            bad.replace_range(at..=at, "%");
            assert_eq!(url_problem(&bad), Some(Problem::ImageBase64), "{at}");
        }
    }
}

#[test]
fn unescapes_urls() {
    let body = |url: &str| chat(&format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#));
    let good = [r"data:image\/png;base64,iVBORw0KGgo=", r"\u0064ata:image/png;base64,iVBOR\u00770KGgo\u003d"];
    for url in good {
        assert_eq!(problems(&scan(Protocol::Chat, &body(url))), [], "{url}");
    }
    let bad = [
        (r"\u0068ttps:\/\/example.com", Problem::ImageUrlRemote),
        (r"data:image\/png;base64,iVBORw0KGgo\n=", Problem::ImageBase64),
        (r"data:image\/png;base64,iVBO\ud83d\ude00==", Problem::ImageBase64),
    ];
    for (url, expected) in bad {
        let found = problems(&scan(Protocol::Chat, &body(url)));
        assert_eq!(found, [(expected, "messages[0].content[1].image_url.url".to_owned())], "{url}");
    }
}

#[test]
fn finds_image_parts_whatever_the_order_of_their_members() {
    let cases = [
        (r#"{"type":"image_url"}"#, Some(Problem::ImageUrlMissing)),
        (r#"{"type":"image_url","image_url":{}}"#, Some(Problem::ImageUrlMissing)),
        (r#"{"type":"image_url","image_url":null}"#, Some(Problem::ImageUrlMissing)),
        (r#"{"type":"image_url","image_url":"http://x"}"#, Some(Problem::ImageUrlMissing)),
        (r#"{"type":"image_url","image_url":{"url":null}}"#, Some(Problem::ImageUrlMissing)),
        (r#"{"type":"image_url","image_url":{"url":7}}"#, Some(Problem::ImageUrlNotString)),
        (r#"{"type":"image_url","image_url":{"url":{"url":"http://x"}}}"#, Some(Problem::ImageUrlNotString)),
        (r#"{"image_url":{"url":"http://x"},"type":"image_url"}"#, Some(Problem::ImageUrlRemote)),
        (r#"{"image_url":{"url":"@","detail":"low"},"typ\u0065":"im\u0061ge_url"}"#, Some(Problem::ImageDecode)),
        (r#"{"type":"image_url","image_url":{"url":"http://x","url":"PNG"}}"#, Some(Problem::ImageUrlRemote)),
        (r#"{"type":"image_url","image_url":{"url":"PNG","url":"http://x"}}"#, Some(Problem::ImageUrlRemote)),
        (r#"{"type":"image_url","image_url":{"url":"PNG"},"image_url":{"url":"x"}}"#, Some(Problem::ImageDecode)),
        (r#"{"type":"image_url","image_url":{"url":"PNG"},"image_url":{}}"#, Some(Problem::ImageUrlMissing)),
        (r#"{"type":"image_url","image_url":{"url":"x"},"type":"text"}"#, Some(Problem::ImageDecode)),
        (r#"{"type":"image_url","image_url":{"url":"PNG"}}"#, None),
    ];
    for (part, expected) in cases {
        let part = part.replace("PNG", &format!("data:image/png;base64,{PNG}"));
        let scan = scan(Protocol::Chat, &chat(&part));
        let found = problems(&scan);
        assert_eq!(found.first().map(|(problem, _)| *problem), expected, "{part}");
        assert!(found.iter().all(|(_, param)| param == "messages[0].content[1].image_url.url"));
        let image = scan.findings.iter().find(|finding| finding.problem == Problem::ImagePart).unwrap();
        assert_eq!(image.param(), "messages[0].content[1].type");
        assert_eq!(scan.images, 1, "{part}");
    }
    let others = [
        r#"{"type":"file","image_url":{"url":"http://x"}}"#,
        r#"{"type":"image_url_","image_url":{"url":"http://x"}}"#,
        r#"{"type":["image_url"],"image_url":{"url":"http://x"}}"#,
        r#"{"image_url":{"url":"http://x"}}"#,
        r#""image_url""#,
        r#"[{"type":"image_url"}]"#,
    ];
    for part in others {
        let scan = scan(Protocol::Chat, &chat(part));
        assert!(scan.findings.is_empty(), "{part}");
        assert_eq!(scan.images, 0);
    }
}

#[test]
fn keeps_the_first_finding_of_each_problem_in_document_order() {
    let part = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let image = format!("data:image/png;base64,{PNG}");
    let body = json!({"messages": [
        {"role": "user", "content": [part(&image), part("https://a")]},
        {"role": "user", "content": [part("https://b"), part("data:image/png;base64,x"), part("file:x")]},
        {"role": "user", "content": [part("file:y")], "tool_calls": [{}, {"function": {"arguments": ""}}]},
    ]});
    let scan = scan(Protocol::Chat, &body.to_string());
    let params: Vec<String> = scan.findings.iter().map(dgx_gateway_wire::request::Finding::param).collect();
    // serde_json writes `content` before `role` and `image_url` before `type`
    assert_eq!(
        params,
        [
            "messages[0].content[0].type",
            "messages[0].content[1].image_url.url",
            "messages[1].content[1].image_url.url",
            "messages[1].content[2].image_url.url",
            "messages[2].tool_calls[1].function.arguments",
        ]
    );
    assert_eq!(scan.images, 6);
}

#[test]
fn tells_a_bad_image_before_the_rest_arrives() {
    let body = chat(r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo=AAAA"}}"#);
    let (head, _) = body.split_at(body.find("=AAAA").unwrap() + 2);
    let mut scanner = Scanner::new(Protocol::Chat);
    scanner.push(head.as_bytes()).unwrap();
    assert_eq!(scanner.early().unwrap().problem, Problem::ImageBase64);
    let mut scanner = Scanner::new(Protocol::Chat);
    let remote = chat(r#"{"type":"image_url","image_url":{"url":"https://example.com"}}"#);
    scanner.push(remote.as_bytes()).unwrap();
    assert_eq!(scanner.early(), None, "some models take it");
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
fn judges_embedding_inputs() {
    use Problem::{EmbeddingInputEmpty as Empty, EmbeddingInputTooLarge as Large, EmbeddingInputType as Type};
    let tokens = |count: u64| Problem::EmbeddingTooManyTokens { count };
    let many = Problem::EmbeddingTooManyInputs;
    let table: Vec<(Value, Option<(Problem, &str)>)> = vec![
        (json!("x"), None),
        (json!(["x", "y"]), None),
        (json!([1, 2, -3]), None),
        (json!([[1], [2, 3]]), None),
        (json!(""), Some((Empty, "input"))),
        (json!([]), Some((Empty, "input"))),
        (json!(["x", ""]), Some((Empty, "input[1]"))),
        (json!([[1], []]), Some((Empty, "input[1]"))),
        (json!("ä".repeat(4096)), None),
        (json!("ä".repeat(4096) + "x"), Some((Large, "input"))),
        (json!(["x", "x".repeat(8193)]), Some((Large, "input[1]"))),
        (json!(vec!["x"; 256]), None),
        (json!(vec!["x"; 257]), Some((many, "input"))),
        (json!(vec![vec![1]; 257]), Some((many, "input"))),
        (json!(vec![7; 2048]), None),
        (json!(vec![7; 2049]), Some((tokens(2049), "input"))),
        (json!([[1], vec![7; 3000]]), Some((tokens(3000), "input[1]"))),
        (json!(7), Some((Type, "input"))),
        (json!({}), Some((Type, "input"))),
        (json!(true), Some((Type, "input"))),
        (json!(null), None),
        (json!([1.5]), Some((Type, "input[0]"))),
        (json!([1, "x"]), Some((Type, "input[1]"))),
        (json!(["x", 1]), Some((Type, "input[1]"))),
        (json!(["x", [1]]), Some((Type, "input[1]"))),
        (json!([{"text": "x"}]), Some((Type, "input[0]"))),
        (json!(["x", null]), Some((Type, "input[1]"))),
        (json!([[1, "x"]]), Some((Type, "input[0]"))),
        (json!([[1], [[2]]]), Some((Type, "input[1]"))),
    ];
    for (input, expected) in table {
        let scan = scan(Protocol::Embeddings, &json!({"input": input}).to_string());
        let expected = expected.map(|(problem, param)| (problem, param.to_owned()));
        assert_eq!(problems(&scan).first().cloned(), expected, "{input}");
        if expected.is_none() {
            assert!(scan.findings.is_empty());
        }
    }
}

#[test]
fn too_many_inputs_come_before_the_problems_of_their_elements() {
    let scan = scan(Protocol::Embeddings, &json!({"input": vec![""; 300]}).to_string());
    let expected = [(Problem::EmbeddingTooManyInputs, "input"), (Problem::EmbeddingInputEmpty, "input[0]")];
    assert_eq!(problems(&scan), expected.map(|(problem, param)| (problem, param.to_owned())));
    assert_eq!(scan.input_count, 300);
}

#[test]
fn looks_into_the_members_of_its_protocol_alone() {
    let body = r#"{"input":7,"messages":[7],"prompt":[1,2,[3]],"tools":[{"name":"tool"}]}"#;
    assert_eq!(problems(&scan(Protocol::Completions, body)), []);
    assert_eq!(scan(Protocol::Completions, body).prompt_text_bytes, 12);
    assert_eq!(problems(&scan(Protocol::Embeddings, body)), [(Problem::EmbeddingInputType, "input".to_owned())]);
    assert_eq!(problems(&scan(Protocol::Chat, body)), [(Problem::MessageNotObject, "messages[0]".to_owned())]);
    assert_eq!(scan(Protocol::Chat, body).prompt_text_bytes, 4);
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

#[test]
fn records_members_after_unescaping_their_names() {
    let body = r#" { "m\u006fdel" : "x" ,"stream":true,"stream_options":{"include_usage":false , "a":[]},"n":2.5,"max_tokens" :-7,
        "messages":[{"role":"user","model":"no"}],"user_id":null,"other":{"tools":[]},"a-name-that-is-longer-than-any-known-one":1 } "#;
    let scan = scan(Protocol::Chat, body);
    let text = |member: &Option<dgx_gateway_wire::request::Member>| {
        member.as_ref().map(|member| (&body[member.key.clone()], &body[member.value.clone()]))
    };
    assert_eq!(text(&scan.model), Some((r#""m\u006fdel""#, r#""x""#)));
    assert_eq!(text(&scan.stream), Some((r#""stream""#, "true")));
    assert_eq!(text(&scan.n), Some((r#""n""#, "2.5")));
    assert_eq!(text(&scan.max_tokens), Some((r#""max_tokens""#, "-7")));
    assert_eq!(text(&scan.user_id), Some((r#""user_id""#, "null")));
    assert_eq!(text(&scan.messages), Some((r#""messages""#, r#"[{"role":"user","model":"no"}]"#)));
    assert_eq!(text(&scan.include_usage), Some((r#""include_usage""#, "false")));
    assert_eq!(scan.tools, None);
    assert_eq!(&body[scan.close..], "} ");
    assert_eq!(&body[scan.stream_options_close.unwrap()..][..4], "},\"n");
    assert!(!scan.is_empty_object && !scan.stream_options_is_empty);
    assert_eq!(scan.len, body.len());
}

#[test]
fn refuses_at_the_bad_byte() {
    use ScanErrorKind::{
        ControlCharacter, DuplicateMember, Escape, NotAnObject, NumberOutOfRange, Syntax, TooDeep, Truncated, Utf8,
    };
    let deep = format!(r#"{{"a":{}"#, "[".repeat(127));
    let table: Vec<(&[u8], usize, ScanErrorKind)> = vec![
        (b"", 0, Truncated),
        (b"  ", 2, Truncated),
        (b"{\"a\":1", 6, Truncated),
        (b" [1]", 1, NotAnObject),
        (b"\"x\"", 0, NotAnObject),
        (b"\xEF\xBB\xBF{}", 0, Syntax),
        (b"{} x", 3, Syntax),
        (b"{}{}", 2, Syntax),
        (b"{\"a\":01}", 6, Syntax),
        (b"{\"a\":1.}", 7, Syntax),
        (b"{\"a\":tru }", 8, Syntax),
        (b"{\"a\":1,}", 7, Syntax),
        (b"{,}", 1, Syntax),
        (b"{\"a\":[1}", 7, Syntax),
        (b"{\"a\":\"\t\"}", 6, ControlCharacter),
        (b"{\"a\":\"\\x\"}", 7, Escape),
        (b"{\"a\":\"\\ud800x\"}", 12, Escape),
        (b"{\"a\":\"\\ud800\\u0041\"}", 17, Escape),
        (b"{\"a\":\"\\udc00\"}", 11, Escape),
        (b"{\"a\":\"x\xC3\"}", 7, Utf8),
        (b"{\"a\":\"\xE0\x80\x80\"}", 6, Utf8),
        (b"{\"a\":\"\xC3\\n\"}", 6, Utf8),
        (b"{\"a\":1e999}", 5, NumberOutOfRange),
        (b"{\"a\":1,\"\\u0061\":2}", 7, DuplicateMember),
        (deep.as_bytes(), 131, TooDeep),
    ];
    for (body, offset, kind) in table {
        for size in [1, 2, 3, 5, 1000] {
            let mut scanner = Scanner::new(Protocol::Chat);
            let pushed = body.chunks(size).try_for_each(|chunk| scanner.push(chunk));
            let error = pushed.and_then(|()| scanner.finish().map(drop)).unwrap_err();
            assert_eq!((error.offset, error.kind), (offset, kind), "{:?}", String::from_utf8_lossy(body));
        }
    }
}

#[test]
fn stays_refused() {
    let mut scanner = Scanner::new(Protocol::Chat);
    let error = scanner.push(b"}").unwrap_err();
    assert_eq!(scanner.push(b"{}"), Err(error));
    assert_eq!(scanner.finish().unwrap_err(), error);
}

#[test]
fn accepts_many_members_and_finds_the_late_duplicate() {
    let members: Vec<String> = (0..5000).map(|index| format!("\"member {index}\":0")).collect();
    scan(Protocol::Chat, &format!("{{{}}}", members.join(",")));
    let body = format!("{{{},\"member 40\":0}}", members.join(","));
    let error = Scanner::new(Protocol::Chat).push(body.as_bytes()).unwrap_err();
    assert_eq!((error.offset, error.kind), (body.len() - 14, ScanErrorKind::DuplicateMember));
}
