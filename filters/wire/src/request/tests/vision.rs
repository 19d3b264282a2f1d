//! Images: the vision table row by row, and where parts are looked for.

use serde_json::json;

use super::{PNG, problems, scan};
use crate::request::{Finding, Problem, Protocol, Scanner};

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
fn that_there_is_an_image_comes_first_wherever_its_type_stands() {
    for part in [
        r#"{"image_url":{"url":"http://x"},"type":"image_url"}"#,
        r#"{"type":"image_url","image_url":{"url":"http://x"}}"#,
    ] {
        let found: Vec<Problem> =
            scan(Protocol::Chat, &chat(part)).findings.iter().map(|finding| finding.problem).collect();
        assert_eq!(found, [Problem::ImagePart, Problem::ImageUrlRemote], "{part}");
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
    let params: Vec<String> = scan.findings.iter().map(Finding::param).collect();
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
