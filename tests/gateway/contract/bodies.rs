//! http.md 1 and 14: types and codings of bodies, JSON, members that stand twice.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::json;

use super::{
    Ask, CALLS, CHAT, COUNT, Error, Findings, Framing, IMAGES, MESSAGES, all_types, least, proper, says, speaks_all,
};
use crate::harness::{Gateway, Setup};

const LIMIT: usize = 4096;

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let setup = all_types(Setup::new().backend(speaks_all("first", mock.addr())), "", "first", "ok");
    (setup.variable("MAX_BODY_BYTES", LIMIT.to_string()).start().await, mock)
}

/// All calls that take JSON: the type of their model, and their path.
fn calls() -> impl Iterator<Item = (&'static str, &'static str)> {
    CALLS.into_iter().chain([("chat", COUNT)])
}

#[tokio::test]
async fn json_is_taken_under_its_names_and_nothing_else_is() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for (kind, path) in calls() {
        let ask = Ask::post(path, least(path, kind).to_string());
        for (content_type, taken) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/json;charset=\"UTF-8\"", true),
            ("application/vnd.api+json", true),
            ("application/problem+JSON; a=b", true),
            ("", true),
            ("text/plain", false),
            ("text/json", false),
            ("application/jsonp", false),
            ("application/x-ndjson", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=x", false),
            ("application/octet-stream", false),
            ("text/plain; application/json", false),
            ("image/svg+xml", false),
            ("text/vnd.x+json", false),
        ] {
            let ask = ask.clone();
            let ask = if content_type.is_empty() {
                ask.without("content-type")
            } else {
                ask.header("content-type", content_type)
            };
            if taken {
                mock.push(proper(path));
            }
            let answer = ask.of(gateway.addr).await;
            let what = format!("{path} {content_type}");
            if taken {
                findings.equal(&what, answer.status, 200);
            } else {
                let error = (415, "unsupported_media_type", "headers.content-type");
                findings.add(&what, says(&answer, path, error));
            }
        }
        for coding in ["br", "deflate", "compress", "gzip, br", "bogus"] {
            let answer = ask.clone().header("content-encoding", coding).of(gateway.addr).await;
            let error = (415, "unsupported_media_type", "headers.content-encoding");
            findings.add(&format!("{path} {coding}"), says(&answer, path, error));
        }
    }
    findings.none();
}

#[tokio::test]
async fn what_is_no_json_object_is_told_so() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for (_, path) in calls() {
        for body in [
            "",
            " ",
            "{",
            "[]",
            "null",
            "true",
            "7",
            "\"x\"",
            "{} {}",
            "{},",
            "{'a':1}",
            "{\"a\":01}",
            "{\"a\":.5}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{\"a\":\"\u{1}\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":NaN}",
            "{\"a\":[1,]}",
            "{\"a\":tru}",
            "\u{feff}{}",
            "// x\n{}",
        ] {
            let answer = Ask::post(path, body).of(gateway.addr).await;
            findings.add(&format!("{path} {body:?}"), says(&answer, path, (400, "invalid_json", "")));
        }
        for bytes in [&b"{\"a\":\"\xff\"}"[..], b"{\"a\":\"\xc3\"}", b"{\"\xed\xa0\x80\":1}"] {
            let answer = Ask::post(path, bytes).of(gateway.addr).await;
            findings.add(&format!("{path} {bytes:?}"), says(&answer, path, (400, "invalid_json", "")));
        }
    }
    assert!(mock.requests().is_empty());
    findings.none();
}

#[tokio::test]
async fn a_member_that_stands_twice_is_refused_however_it_is_written() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for (kind, path) in calls() {
        let body = least(path, kind).to_string();
        for twice in [
            r#""model":"x","#,
            r#""\u006dodel":"x","#,
            r#""\u006Dode\u006c":null,"#,
            r#""x":1,"x":1,"#,
            r#""x":1,"\u0078":2,"#,
            r#""\ud83e\udd80":1,"🦀":2,"#,
            r#""a\/b":1,"a/b":2,"#,
            r#""":1,"":2,"#,
            r#""\"":1,"\u0022":2,"#,
        ] {
            let body = body.replacen('{', &format!("{{{twice}"), 1);
            findings.add(&body, says(&Ask::post(path, &*body).of(gateway.addr).await, path, (400, "invalid_json", "")));
        }
    }
    assert!(mock.requests().is_empty());
    // only the names of the object itself, and only when they are the same
    let nested = r#"{"metadata":{"a":1,"a":2,"user_id":"x"},"Model":1,"a":1,"A":2,"user":"u","model":"chat","messages":[{"role":"user","content":"hi","x":1,"x":2}]}"#;
    let answer = Ask::post(CHAT, nested).of(gateway.addr).await;
    findings.equal(nested, answer.status, 200);
    let sent = nested.replace("\"model\":\"chat\"", "\"model\":\"ok\"");
    findings.equal("what stands twice inside", mock.requests()[0].body.clone(), sent);
    findings.none();
}

#[tokio::test]
async fn lengths_are_looked_at_in_their_place() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    let long = format!("{}{}", least(CHAT, "chat"), " ".repeat(LIMIT));
    let large: Error = (413, "body_too_large", "");
    for (what, ask) in [
        ("by its length", Ask::post(CHAT, &*long)),
        ("in chunks", Ask::post(CHAT, &*long).framed(Framing::Chunked)),
        ("by far", Ask::post(CHAT, "").framed(Framing::Declared(usize::MAX >> 1))),
        ("and the type is wrong", Ask::post(CHAT, &*long).header("content-type", "text/plain")),
        ("and no JSON", Ask::post(CHAT, "x".repeat(LIMIT + 1))),
        ("and no JSON, said by its length", Ask::post(CHAT, "").framed(Framing::Declared(LIMIT + 1))),
    ] {
        findings.add(what, says(&ask.of(gateway.addr).await, CHAT, large));
    }
    let exact = format!("{:LIMIT$}", least(CHAT, "chat").to_string());
    for framing in [Framing::Sized, Framing::Chunked] {
        findings.equal("at the limit", Ask::post(CHAT, &*exact).framed(framing).of(gateway.addr).await.status, 200);
    }
    assert_eq!(mock.requests().len(), 2);
    findings.none();
}

/// The members that are checked, as v1.md 1 and 3 and http.md 4 list them.
#[tokio::test]
async fn members_have_their_types() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for (kind, path) in calls() {
        let asked = async |name: &str, value: serde_json::Value| {
            let mut body = least(path, kind);
            if value == "absent" {
                body.as_object_mut().unwrap().remove(name);
            } else {
                body[name] = value;
            }
            (format!("{path} {body}"), Ask::post(path, body.to_string()).of(gateway.addr).await)
        };
        for value in [json!("absent"), json!(null)] {
            let (what, answer) = asked("model", value).await;
            // images have a model of the tenant, which the catalog of these tests lacks
            let code = if path == IMAGES { "model_not_in_allowlist" } else { "missing_field" };
            findings.add(&what, says(&answer, path, (400, code, "model")));
        }
        for value in [json!(1), json!([]), json!({}), json!(true)] {
            let (what, answer) = asked("model", value).await;
            findings.add(&what, says(&answer, path, (400, "invalid_field", "model")));
        }
        let (what, answer) = asked("user_id", json!("alice")).await;
        findings.add(&what, says(&answer, path, (400, "invalid_field", "body.user_id")));
        if matches!(path, CHAT | MESSAGES | COUNT) {
            for value in [json!("absent"), json!(null)] {
                let (what, answer) = asked("messages", value).await;
                findings.add(&what, says(&answer, path, (400, "missing_field", "messages")));
            }
            for value in [json!("hi"), json!({}), json!([]), json!(1)] {
                let (what, answer) = asked("messages", value).await;
                findings.add(&what, says(&answer, path, (400, "invalid_field", "messages")));
            }
            let user = json!({"role": "user", "content": "hi"});
            for (message, code, param) in [
                (json!("hi"), "invalid_field", "messages[1]"),
                (json!(null), "invalid_field", "messages[1]"),
                (json!({"content": "hi"}), "missing_field", "messages[1].role"),
                (json!({"role": null, "content": "hi"}), "missing_field", "messages[1].role"),
                (json!({"role": 7, "content": "hi"}), "invalid_field", "messages[1].role"),
            ] {
                let (what, answer) = asked("messages", json!([user, message])).await;
                findings.add(&what, says(&answer, path, (400, code, param)));
            }
        }
    }
    for (name, values) in [
        ("stream", vec![json!("true"), json!(1), json!([])]),
        ("stream_options", vec![json!("x"), json!([]), json!(true)]),
        ("tools", vec![json!("x"), json!({}), json!(1)]),
    ] {
        for value in values {
            let mut body = least(CHAT, "chat");
            body[name] = value;
            let answer = Ask::post(CHAT, body.to_string()).of(gateway.addr).await;
            findings.add(&body.to_string(), says(&answer, CHAT, (400, "invalid_field", name)));
        }
    }
    assert!(mock.requests().is_empty());
    findings.none();
}
