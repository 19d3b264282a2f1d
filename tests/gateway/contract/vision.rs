//! models.md 7: every row of both tables, on every dialect that has images.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::{Value, json};

use super::{Ask, CHAT, COUNT, Findings, MESSAGES, RESPONSES, says, speaks_all, typed};
use crate::harness::{Gateway, Setup, model};

const UNSUPPORTED: &str = "image_url_not_supported";
const DECODE: &str = "image_decode_error";
const BASE64: &str = "image_base64_invalid";
const PASSES: &str = "";

/// URLs with the error that each one gets.
fn urls() -> Vec<(String, &'static str)> {
    let data = |mime: &str, payload: &str| format!("data:{mime};base64,{payload}");
    let own = |url: &str, code| (url.to_owned(), code);
    let mut urls = vec![
        // the table of the contract
        own("HTTPS://example.com/a.png", UNSUPPORTED),
        own("file:///a.png", DECODE),
        own("data:image/svg+xml;base64,PHN2Zz4=", DECODE),
        own("data:image/png,iVBORw0KGgo=", DECODE),
        own("data:;base64,@@@", DECODE),
        own("data:image/png;base64,iVBORw0KGgo", BASE64),
        own("data:image/png;base64,iVBORw0KGgo=", PASSES),
        own("data:image/jpeg;base64,iVBORw0KGgo=", DECODE),
        // row 3
        own("http://example.com/a.png", UNSUPPORTED),
        own("hTtP://[::1]/a.png", UNSUPPORTED),
        own("https://", UNSUPPORTED),
        // row 4
        own("", DECODE),
        own("ftp://example.com/a.png", DECODE),
        own("a.png", DECODE),
        own("//example.com/a.png", DECODE),
        own("httpx://example.com/a", DECODE),
        own("data:image/png;base64", DECODE),
        own("data:image/jpg;base64,/9j/", DECODE),
        own("data:image/bmp;base64,Qk0=", DECODE),
        own("data:text/plain;base64,iVBORw0KGgo=", DECODE),
        own("data:base64,iVBORw0KGgo=", DECODE),
        own("data:image/svg+xml;base64,@@@", DECODE),
        // row 5
        own("data:image/png;base64,", BASE64),
        own("data:image/png;base64,iVBORw0KGgo=\n", BASE64),
        own("data:image/png;base64, iVBORw0KGgo=", BASE64),
        own("data:image/png;base64,iVBORw0KGg-_", BASE64),
        own("data:image/png;base64,iVBORw0KGgo===", BASE64),
        own("data:image/png;base64,iVBORw0KGg==GgoA", BASE64),
        own("data:image/png;base64,iVBO=w0KGgo=", BASE64),
        own("data:image/png;base64,iVBORw0KG", BASE64),
        own("data:image/png;base64,====", BASE64),
        own("data:image/png;base64,iVBORw0KGgo%3D", BASE64),
        own("data:image/gif;base64,R0lGODlhé", BASE64),
        // row 6
        own("data:image/png;base64,aGVsbG8=", DECODE),
        own("data:image/png;base64,iVBORw0K", DECODE),
        own("data:image/gif;base64,R0lGODhh", DECODE),
        own("data:image/webp;base64,UklGRgAAAABXQVZF", DECODE),
    ];
    let images = [
        ("image/png", "iVBORw0KGgo="),
        ("image/jpeg", "/9j/"),
        ("image/gif", "R0lGODlh"),
        ("image/webp", "UklGRgAAAABXRUJQ"),
    ];
    for (mime, _) in images {
        for (other, payload) in images {
            urls.push((data(mime, payload), if mime == other { PASSES } else { DECODE }));
        }
    }
    urls.extend([
        (data("image/gif", "R0lGODdh"), PASSES),
        (data("Image/PNG", "iVBORw0KGgo="), PASSES),
        // bits behind the last byte
        (data("image/png", "iVBORw0KGgp="), PASSES),
    ]);
    urls
}

/// A request with an image in the second part of the second message, and the path of its type and of its URL.
fn request(path: &str, model: &str, url: &Value) -> (Value, &'static str, &'static str) {
    let (first, text) = (json!({"role": "user", "content": "hi"}), json!({"type": "text", "text": "hi"}));
    match path {
        CHAT => {
            let image = json!({"type": "image_url", "image_url": {"url": url}});
            let messages = json!([first, {"role": "user", "content": [text, image]}]);
            let body = json!({"model": model, "messages": messages});
            (body, "messages[1].content[1].type", "messages[1].content[1].image_url.url")
        }
        RESPONSES => {
            let image = json!({"type": "input_image", "image_url": url});
            let text = json!({"type": "input_text", "text": "hi"});
            let body = json!({"model": model, "input": [first, {"role": "user", "content": [text, image]}]});
            (body, "input[1].content[1].type", "input[1].content[1].image_url")
        }
        _ => {
            let url = url.as_str().unwrap();
            let source = match url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
                Some((mime, data)) => json!({"type": "base64", "media_type": mime, "data": data}),
                None => json!({"type": "url", "url": url}),
            };
            let messages = json!([first, {"role": "user", "content": [text, {"type": "image", "source": source}]}]);
            let body = json!({"model": model, "max_tokens": 9, "messages": messages});
            (body, "messages[1].content[1].type", "messages[1].content[1].source.data")
        }
    }
}

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut fetches = typed("fetches", "chat", &[("first", "ok")]);
    fetches["constraints"] = json!({"accepts_image_url": true});
    let setup = Setup::new()
        .backend(speaks_all("first", mock.addr()))
        .model(typed("sees", "chat", &[("first", "ok")]))
        .model(model("blind", &[("first", "ok")]))
        .model(fetches);
    (setup.start().await, mock)
}

async fn asked(gateway: &Gateway, path: &str, body: &Value) -> crate::harness::Answer {
    Ask::post(path, body.to_string()).of(gateway.addr).await
}

#[tokio::test]
async fn every_url_gets_its_row() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for path in [CHAT, RESPONSES, MESSAGES, COUNT] {
        for (url, code) in urls() {
            let messages = matches!(path, MESSAGES | COUNT);
            // this dialect writes type and data apart, and has no other scheme
            if messages && !url.contains(";base64,") && code != UNSUPPORTED {
                continue;
            }
            let (mut body, _, at) = request(path, "sees", &json!(url));
            let what = format!("{path} {url}");
            let answer = asked(&gateway, path, &body).await;
            if code == PASSES {
                findings.equal(&what, answer.status, 200);
                if path == CHAT {
                    body["model"] = json!("ok");
                    findings.equal(&what, mock.requests().last().unwrap().body.clone(), body.to_string());
                }
                continue;
            }
            findings.add(&what, says(&answer, path, (400, code, at)));
            // row 1 comes before all others
            let (body, kind, _) = request(path, "blind", &json!(url));
            let answer = asked(&gateway, path, &body).await;
            findings.add(&format!("blind {what}"), says(&answer, path, (400, "invalid_field", kind)));
        }
    }
    findings.none();
}

#[tokio::test]
async fn a_url_that_is_missing_or_no_string() {
    let (gateway, _mock) = started().await;
    let mut findings = Findings::default();
    for (path, model) in [(CHAT, "sees"), (CHAT, "fetches"), (RESPONSES, "sees")] {
        for (url, code) in [
            (json!(null), "missing_field"),
            (json!(7), "invalid_field"),
            (json!(["x"]), "invalid_field"),
            (json!(true), "invalid_field"),
        ] {
            let (body, _, at) = request(path, model, &url);
            findings.add(&body.to_string(), says(&asked(&gateway, path, &body).await, path, (400, code, at)));
        }
        let (mut body, _, at) = request(path, model, &json!("x"));
        let part = if path == CHAT {
            &mut body["messages"][1]["content"][1]["image_url"]
        } else {
            &mut body["input"][1]["content"][1]
        };
        part.as_object_mut().unwrap().remove(if path == CHAT { "url" } else { "image_url" });
        findings.add(&body.to_string(), says(&asked(&gateway, path, &body).await, path, (400, "missing_field", at)));
    }
    findings.none();
}

#[tokio::test]
async fn the_first_failure_in_order_of_messages_and_parts_answers() {
    let (gateway, _mock) = started().await;
    let mut findings = Findings::default();
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let (good, bad, http) =
        ("data:image/png;base64,iVBORw0KGgo=", "data:image/png;base64,***", "http://example.com/a.png");
    for (messages, code, at) in [
        (json!([[image(good), image(bad)], [image(http)]]), BASE64, "messages[0].content[1].image_url.url"),
        (json!([[image(good)], [image(http), image(bad)]]), UNSUPPORTED, "messages[1].content[0].image_url.url"),
        (
            json!(["text", [], [image(good), image(good), image(http)]]),
            UNSUPPORTED,
            "messages[2].content[2].image_url.url",
        ),
    ] {
        let messages: Vec<Value> =
            messages.as_array().unwrap().iter().map(|content| json!({"role": "user", "content": content})).collect();
        let answer = asked(&gateway, CHAT, &json!({"model": "sees", "messages": messages})).await;
        findings.add(&json!(messages).to_string(), says(&answer, CHAT, (400, code, at)));
    }
    findings.none();
}

#[tokio::test]
async fn a_model_that_fetches_gets_urls_and_other_parts_are_not_looked_at() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for path in [CHAT, RESPONSES, MESSAGES] {
        for url in ["https://example.com/a.png", "HTTP://example.com/a.png"] {
            let (body, ..) = request(path, "fetches", &json!(url));
            findings.equal(&format!("{path} {url}"), asked(&gateway, path, &body).await.status, 200);
            let sent: Value = serde_json::from_slice(&mock.requests().last().unwrap().body).unwrap();
            findings.equal(path, sent.to_string().contains(url), true);
        }
    }
    for (url, code) in urls() {
        if code == PASSES || code == UNSUPPORTED {
            continue;
        }
        let (body, _, at) = request(CHAT, "fetches", &json!(url));
        findings.add(&format!("fetches {url}"), says(&asked(&gateway, CHAT, &body).await, CHAT, (400, code, at)));
    }
    for part in [
        json!({"type": "file", "file": {"file_data": "http://x", "filename": "a.pdf"}}),
        json!({"type": "input_audio", "input_audio": {"data": "***", "format": "wav"}}),
        json!({"type": "video_url", "video_url": {"url": "http://x"}}),
        json!({"type": "text", "text": "http://x", "image_url": {"url": "http://x"}}),
    ] {
        for model in ["sees", "blind"] {
            let body = json!({"model": model, "messages": [{"role": "user", "content": [part]}]});
            findings.equal(&body.to_string(), asked(&gateway, CHAT, &body).await.status, 200);
        }
    }
    findings.none();
}
