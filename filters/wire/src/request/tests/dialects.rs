//! The bodies of responses and messages: images, estimates, members.

use serde_json::{Value, json};

use super::{PNG, problems, scan};
use crate::request::{Finding, Problem, Protocol, Scanner};

/// The one problem of an image in a body of responses, and its place.
fn of_item(part: &Value) -> Option<Problem> {
    let body = json!({"model": "m", "input": ["x", {"role": "user", "content": [{"type": "input_text", "text": "see"}, part]}]});
    one(&scan(Protocol::Responses, &body.to_string()).findings, "input[1].content[1].image_url")
}

/// The same for a body of messages.
fn of_block(block: &Value) -> Option<Problem> {
    let body =
        json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, block]}]});
    one(&scan(Protocol::Messages, &body.to_string()).findings, "messages[0].content[1].source.data")
}

/// Every finding about the image stands at `path`; gives the one that is a problem.
fn one(findings: &[Finding], path: &str) -> Option<Problem> {
    let (notice, bad): (Vec<&Finding>, Vec<&Finding>) =
        findings.iter().partition(|finding| finding.problem == Problem::ImagePart);
    let part = path.strip_suffix(".image_url").or_else(|| path.strip_suffix(".source.data")).unwrap();
    assert!(notice.iter().all(|finding| finding.param() == format!("{part}.type")), "{findings:?}");
    assert!(bad.len() < 2 && bad.iter().all(|finding| finding.param() == path), "{findings:?}");
    assert_eq!(notice.len(), 1, "{findings:?}");
    bad.first().map(|finding| finding.problem)
}

#[test]
fn judges_images_of_responses_by_the_vision_table() {
    use Problem::{ImageBase64, ImageDecode, ImageUrlMissing, ImageUrlNotString, ImageUrlRemote};
    let table = [
        (json!({"type": "input_image"}), Some(ImageUrlMissing)),
        (json!({"type": "input_image", "file_id": "file-1"}), Some(ImageUrlMissing)),
        (json!({"type": "input_image", "image_url": null}), Some(ImageUrlMissing)),
        (json!({"type": "input_image", "image_url": 7}), Some(ImageUrlNotString)),
        (json!({"type": "input_image", "image_url": {"url": "http://x"}}), Some(ImageUrlNotString)),
        (json!({"type": "input_image", "image_url": "HTTPS://example.com/a.png"}), Some(ImageUrlRemote)),
        (json!({"type": "input_image", "image_url": "file:///a.png"}), Some(ImageDecode)),
        (json!({"type": "input_image", "image_url": "data:image/svg+xml;base64,PHN2Zz4="}), Some(ImageDecode)),
        (json!({"type": "input_image", "image_url": "data:image/png,iVBORw0KGgo="}), Some(ImageDecode)),
        (json!({"type": "input_image", "image_url": "data:;base64,@@@"}), Some(ImageDecode)),
        (json!({"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo"}), Some(ImageBase64)),
        (json!({"type": "input_image", "image_url": "data:image/jpeg;base64,iVBORw0KGgo="}), Some(ImageDecode)),
        (json!({"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}), None),
    ];
    for (part, expected) in table {
        assert_eq!(of_item(&part), expected, "{part}");
    }
}

#[test]
fn judges_images_of_messages_by_the_vision_table() {
    use Problem::{ImageBase64, ImageDecode, ImageUrlMissing, ImageUrlNotString, ImageUrlRemote};
    let base64 = |media_type: &str, data: &str| json!({"type": "base64", "media_type": media_type, "data": data});
    let table = [
        (Value::Null, Some(ImageUrlMissing)),
        (json!("data:image/png;base64,iVBORw0KGgo="), Some(ImageUrlMissing)),
        (json!({}), Some(ImageUrlMissing)),
        (json!({"type": "base64", "media_type": "image/png"}), Some(ImageUrlMissing)),
        (json!({"type": "base64", "media_type": "image/png", "data": null}), Some(ImageUrlMissing)),
        (json!({"type": "file", "file_id": "file_1"}), Some(ImageUrlMissing)),
        (json!({"type": "base64", "media_type": "image/png", "data": 7}), Some(ImageUrlNotString)),
        (json!({"type": "url", "url": "https://example.com/a.png"}), Some(ImageUrlRemote)),
        (json!({"type": "url", "url": "file:///a.png"}), Some(ImageUrlRemote)),
        (json!({"type": "url", "url": null}), Some(ImageUrlMissing)),
        (json!({"type": "url"}), Some(ImageUrlMissing)),
        (json!({"type": "url", "url": []}), Some(ImageUrlNotString)),
        (json!({"type": "base64", "data": PNG}), Some(ImageDecode)),
        (json!({"type": "base64", "media_type": 1, "data": PNG}), Some(ImageDecode)),
        (json!({"media_type": "image/png", "data": PNG}), Some(ImageDecode)),
        (json!({"type": "text", "media_type": "image/png", "data": PNG}), Some(ImageDecode)),
        (base64("image/jpg", "/9j/"), Some(ImageDecode)),
        (base64("image/svg+xml", "PHN2Zz4="), Some(ImageDecode)),
        (base64("", "@@@"), Some(ImageDecode)),
        (base64("application/octet-stream;x", "@@@"), Some(ImageDecode)),
        (base64("image/png", ""), Some(ImageBase64)),
        (base64("image/png", "iVBORw0KGgo"), Some(ImageBase64)),
        (base64("image/png", "iVBORw0K\nGgo="), Some(ImageBase64)),
        (base64("image/png", "data:image/png;base64,iVBORw0KGgo="), Some(ImageBase64)),
        (base64("image/jpeg", PNG), Some(ImageDecode)),
        (base64("image/png", "AAAAAAAA"), Some(ImageDecode)),
        (base64("image/jpeg", "/9j/"), None),
        (base64("image/gif", "R0lGODdh"), None),
        (base64("image/webp", "UklGRgAAAABXRUJQ"), None),
        (base64("IMAGE/Png", PNG), None),
    ];
    for (source, expected) in table {
        assert_eq!(of_block(&json!({"type": "image", "source": source})), expected, "{source}");
    }
    assert_eq!(of_block(&json!({"type": "image"})), Some(ImageUrlMissing));
}

#[test]
fn reads_sources_in_any_order_and_every_occurrence_of_a_member() {
    let table = [
        (r#"{"source":{"data":"PNG","media_type":"image/png","type":"base64"},"type":"image"}"#, None),
        (
            r#"{"source":{"d\u0061ta":"iVBOR\u00770KGgo\u003d","media_type":"im\u0061ge/png","type":"base64"},"type":"im\u0061ge"}"#,
            None,
        ),
        (
            r#"{"source":{"data":"@","media_type":"image/png","type":"base64"},"type":"image"}"#,
            Some(Problem::ImageBase64),
        ),
        (
            r#"{"type":"image","source":{"type":"base64","type":"url","url":"http://x","media_type":"image/png","data":"PNG"}}"#,
            Some(Problem::ImageUrlRemote),
        ),
        (
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"@","data":"PNG"}}"#,
            Some(Problem::ImageBase64),
        ),
        (
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"/9j/","data":"PNG"}}"#,
            Some(Problem::ImageDecode),
        ),
        (
            r#"{"type":"image","source":{"type":"base64","media_type":"image/gif","media_type":"image/png","data":"PNG"}}"#,
            Some(Problem::ImageDecode),
        ),
        (
            r#"{"type":"image","source":{"type":"url","url":"x"},"source":{"type":"base64","media_type":"image/png","data":"PNG"}}"#,
            Some(Problem::ImageUrlRemote),
        ),
        (
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"PNG"},"source":7}"#,
            Some(Problem::ImageUrlMissing),
        ),
    ];
    for (block, expected) in table {
        let body = format!(r#"{{"messages":[{{"role":"user","content":["x",{}]}}]}}"#, block.replace("PNG", PNG));
        let scan = scan(Protocol::Messages, &body);
        assert_eq!(one(&scan.findings, "messages[0].content[1].source.data"), expected, "{block}");
        assert_eq!(scan.images, 1, "{block}");
    }
}

#[test]
fn finds_images_in_the_results_of_tools() {
    let image =
        |data: &str| json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    let body = json!({"messages": [{"role": "user", "content": [
        image(PNG),
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}, image(PNG), image("x")]},
        {"type": "tool_result", "tool_use_id": "b", "content": "text"},
        image("data"),
    ]}]});
    let found = scan(Protocol::Messages, &body.to_string());
    assert_eq!(found.images, 4);
    let of_result = "messages[0].content[1].content[2].source.data";
    assert_eq!(
        problems(&found),
        [
            (Problem::ImageBase64, of_result.to_owned()),
            (Problem::ImageDecode, "messages[0].content[3].source.data".to_owned()),
        ]
    );
    let output = json!({"input": [
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image", "image_url": "http://x"}]},
    ]});
    let expected = [(Problem::ImageUrlRemote, "input[0].output[0].image_url".to_owned())];
    assert_eq!(problems(&scan(Protocol::Responses, &output.to_string())), expected);
}

#[test]
fn other_parts_are_no_images() {
    for block in [
        json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "@"}}),
        json!({"type": "document", "source": {"type": "url", "url": "http://x"}}),
        json!({"type": "image_url", "image_url": {"url": "http://x"}}),
        json!({"source": {"type": "url", "url": "http://x"}}),
        json!("image"),
    ] {
        let body = json!({"messages": [{"role": "user", "content": [block]}]});
        let scan = scan(Protocol::Messages, &body.to_string());
        assert_eq!((scan.images, scan.findings.as_slice()), (0, [].as_slice()), "{body}");
    }
    for part in [
        json!({"type": "input_file", "image_url": "http://x"}),
        json!({"type": "image_url", "image_url": "http://x"}),
        json!({"image_url": "http://x"}),
    ] {
        let body = json!({"input": [{"role": "user", "content": [part]}]});
        let scan = scan(Protocol::Responses, &body.to_string());
        assert_eq!((scan.images, scan.findings.as_slice()), (0, [].as_slice()), "{body}");
    }
}

#[test]
fn arguments_are_checked_for_chat_alone() {
    let call = json!([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]);
    assert_eq!(problems(&scan(Protocol::Messages, &json!({"messages": call}).to_string())), []);
    let item = json!({"input": [{"type": "function_call", "name": "f", "arguments": "{"}]});
    assert_eq!(problems(&scan(Protocol::Responses, &item.to_string())), []);
}

#[test]
fn messages_of_both_dialects_have_a_role_and_items_need_none() {
    let body = json!({"messages": [{"role": "user", "content": "x"}, {"content": "x"}]}).to_string();
    assert_eq!(problems(&scan(Protocol::Messages, &body)), [(Problem::RoleMissing, "messages[1].role".to_owned())]);
    let body = json!({"input": [{"type": "reasoning"}, "x", null], "messages": [7]}).to_string();
    assert_eq!(problems(&scan(Protocol::Responses, &body)), []);
}

#[test]
fn estimates_the_prompt_of_responses() {
    let schema = r#"{"type":"object"}"#;
    let body = format!(
        r#"{{"instructions":"gr\u00fc\u00df","input":[{{"role":"user","content":"12345"}},
        {{"type":"message","role":"user","content":[{{"type":"input_text","text":"678"}},{{"type":"input_image","image_url":"data:image/png;base64,{PNG}"}}]}},
        {{"type":"function_call","call_id":"ignored","name":"fn","arguments":"{{\"a\":1}}"}},
        {{"type":"function_call_output","call_id":"ignored","output":"ab"}},
        {{"type":"reasoning","summary":[{{"type":"summary_text","text":"why"}}],"encrypted_content":"ignored"}}],
        "tools":[{{"type":"function","name":"fn","description":"abc","parameters":{schema}}}],"metadata":{{"text":"ignored"}}}}"#
    );
    let scan = scan(Protocol::Responses, &body);
    assert_eq!(scan.prompt_text_bytes, 6 + 5 + 3 + 2 + 7 + 2 + 3 + 2 + 3 + schema.len() as u64);
    assert_eq!((scan.messages_count, scan.images), (5, 1));
    let short = super::scan(Protocol::Responses, r#"{"input":"four","system":"ignored"}"#);
    assert_eq!((short.prompt_text_bytes, short.messages_count, short.estimated_prompt_tokens()), (4, 1, 5));
}

#[test]
fn estimates_the_prompt_of_messages() {
    let schema = r#"{"type":"object"}"#;
    let body = format!(
        r#"{{"system":[{{"type":"text","text":"gr\u00fc\u00df"}}],"messages":[{{"role":"user","content":"12345"}},
        {{"role":"assistant","content":[{{"type":"thinking","thinking":"hm","signature":"ignored"}},{{"type":"tool_use","id":"ignored","name":"fn","input":{{"a":1}}}}]}},
        {{"role":"user","content":[{{"type":"tool_result","tool_use_id":"ignored","content":[{{"type":"text","text":"678"}}]}},
        {{"type":"tool_result","tool_use_id":"ignored","content":"ab"}},
        {{"type":"document","source":{{"type":"text","media_type":"text/plain","data":"a plain text"}}}},
        {{"type":"document","source":{{"type":"base64","media_type":"application/pdf","data":"ignored"}}}},
        {{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{PNG}"}}}}]}}],
        "tools":[{{"name":"fn","description":"abc","input_schema":{schema}}}],"max_tokens":5}}"#
    );
    let scan = scan(Protocol::Messages, &body);
    assert_eq!(scan.prompt_text_bytes, 6 + 5 + 2 + 2 + 7 + 3 + 2 + 12 + 2 + 3 + schema.len() as u64);
    assert_eq!((scan.messages_count, scan.images), (3, 1));
    let short = super::scan(Protocol::Messages, r#"{"system":"four","messages":[],"instructions":"ignored"}"#);
    assert_eq!(short.prompt_text_bytes, 4);
}

#[test]
fn records_the_members_of_both_dialects() {
    let body =
        r#"{"background":true,"conversation":"c","previous_response_id":"r","store":true,"max_output_tokens":7}"#;
    let scan = scan(Protocol::Responses, body);
    let text = |member: &Option<crate::request::Member>| body.get(member.clone().unwrap().value).unwrap().to_owned();
    assert_eq!(
        [&scan.background, &scan.conversation, &scan.previous_response_id, &scan.store, &scan.max_output_tokens]
            .map(text),
        ["true", "\"c\"", "\"r\"", "true", "7"]
    );
}

#[test]
fn tells_a_remote_source_with_its_last_byte() {
    let body =
        r#"{"messages":[{"content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"@"}"#;
    let mut scanner = Scanner::new(Protocol::Messages);
    scanner.push(body.as_bytes()).unwrap();
    assert_eq!(scanner.early().unwrap().problem, Problem::ImageBase64);
}
