//! models.md 9: what embeddings take, and what reaches the backend.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::{Value, json};

use super::{Ask, EMBEDDINGS, Findings, says, speaks_all, typed};
use crate::harness::{Answer, Gateway, Setup};

const TOO_LARGE: &str = "embedding_input_too_large";
const INVALID: &str = "invalid_field";

/// The beginning of a body, for a message.
fn short(body: &str) -> &str {
    body.get(..body.floor_char_boundary(60)).unwrap()
}

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut fixed = typed("nomic-embed", "embedding", &[("first", "ok")]);
    fixed["response_model"] = json!("nomic-embed-text-v1.5");
    fixed["constraints"] = json!({"dimensions": 768});
    let mut free = fixed.clone();
    free["alias"] = json!("free");
    free["dimensions_supported"] = json!(true);
    free.as_object_mut().unwrap().remove("response_model");
    let setup = Setup::new().backend(speaks_all("first", mock.addr())).model(fixed).model(free);
    (setup.start().await, mock)
}

async fn asked(gateway: &Gateway, body: &str) -> Answer {
    Ask::post(EMBEDDINGS, body).of(gateway.addr).await
}

#[tokio::test]
async fn inputs_have_forms_and_caps() {
    let (gateway, _mock) = started().await;
    let mut findings = Findings::default();
    let mut edge = vec![json!("a"); 255];
    edge.push(json!("x".repeat(8192)));
    let passes = [
        json!("hi"),
        json!(["hi", "there"]),
        json!([1, 2, 3]),
        json!([[1, 2], [3]]),
        json!(vec!["a"; 256]),
        json!(vec![vec![1]; 256]),
        json!(vec![7; 257]),
        json!(vec![7; 2048]),
        json!([vec![7; 2048]]),
        json!("x".repeat(8192)),
        json!("é".repeat(4096)),
        json!(edge),
        json!(" "),
    ];
    for input in passes {
        let body = json!({"model": "nomic-embed", "input": input}).to_string();
        findings.equal(short(&body), asked(&gateway, &body).await.status, 200);
    }
    // bytes of the text, not of its escapes
    let escaped = format!(r#"{{"model":"nomic-embed","input":"{}"}}"#, "\\u0041".repeat(8192));
    findings.equal("escapes", asked(&gateway, &escaped).await.status, 200);
    let escaped = format!(r#"{{"model":"nomic-embed","input":["a","{}"]}}"#, "\\u00e9".repeat(4097));
    findings.add("escapes", says(&asked(&gateway, &escaped).await, EMBEDDINGS, (400, TOO_LARGE, "input[1]")));

    for (input, code, param) in [
        (json!(vec!["a"; 257]), TOO_LARGE, "input"),
        (json!(vec![vec![1]; 257]), TOO_LARGE, "input"),
        (json!("x".repeat(8193)), TOO_LARGE, "input"),
        (json!("é".repeat(4097)), TOO_LARGE, "input"),
        (json!(["x".repeat(8193)]), TOO_LARGE, "input[0]"),
        (json!(["a", "b", "c", "x".repeat(8193)]), TOO_LARGE, "input[3]"),
        (json!(vec![7; 2049]), TOO_LARGE, "input"),
        (json!([[1], vec![7; 2049]]), TOO_LARGE, "input[1]"),
        (json!([]), INVALID, "input"),
        (json!(""), INVALID, "input"),
        (json!({}), INVALID, "input"),
        (json!(7), INVALID, "input"),
        (json!(true), INVALID, "input"),
        (json!(["a", ""]), INVALID, "input[1]"),
        (json!(["a", null]), INVALID, "input[1]"),
        (json!(["a", {}]), INVALID, "input[1]"),
        (json!(["a", true]), INVALID, "input[1]"),
        (json!([true]), INVALID, "input[0]"),
        (json!([[1], []]), INVALID, "input[1]"),
        (json!([[1], "a"]), INVALID, "input[1]"),
        (json!(["a", [1]]), INVALID, "input[1]"),
        (json!([["a"]]), INVALID, "input[0]"),
        (json!([[1.5]]), INVALID, "input[0]"),
        (json!(null), "missing_field", "input"),
    ] {
        let body = json!({"model": "nomic-embed", "input": input}).to_string();
        let answer = asked(&gateway, &body).await;
        findings.add(short(&body), says(&answer, EMBEDDINGS, (400, code, param)));
    }
    for body in ["[1,\"a\"]", "[1,[2]]", "[1.5]", "[1,1.0]", "[1,null]"] {
        let answer = asked(&gateway, &format!(r#"{{"model":"nomic-embed","input":{body}}}"#)).await;
        let param = answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
        findings.add(body, says(&answer, EMBEDDINGS, (400, INVALID, &param)));
        findings.equal(body, param.starts_with("input"), true);
    }
    findings.none();
}

#[tokio::test]
async fn members_are_patched_and_nothing_else() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    let start = r#"{"model":"M", "x":{"encoding_format":null,"dimensions":768} ,"input":[ "h\u00e9" ,"b"]"#;
    for (model, more, sent) in [
        ("nomic-embed", "}", r#","encoding_format":"float"}"#),
        ("nomic-embed", r#","encoding_format":null}"#, r#","encoding_format":"float"}"#),
        ("nomic-embed", r#", "encoding_format" : null ,"user":"u"}"#, r#", "encoding_format" : "float" ,"user":"u"}"#),
        ("nomic-embed", r#","encoding_format":"float"}"#, r#","encoding_format":"float"}"#),
        ("nomic-embed", r#","encoding_format":"base64"}"#, r#","encoding_format":"base64"}"#),
        ("nomic-embed", r#","encoding_format":"bytes"}"#, r#","encoding_format":"bytes"}"#),
        ("nomic-embed", r#","encoding_format":"bytes_only"}"#, r#","encoding_format":"bytes_only"}"#),
        ("nomic-embed", r#","dimensions":768}"#, r#","encoding_format":"float"}"#),
        ("nomic-embed", r#","dimensions":768,"encoding_format":"float"}"#, r#","encoding_format":"float"}"#),
        (
            "nomic-embed",
            r#","dimensions":null,"encoding_format":"float"}"#,
            r#","dimensions":null,"encoding_format":"float"}"#,
        ),
        ("free", r#","dimensions":256,"encoding_format":"float"}"#, r#","dimensions":256,"encoding_format":"float"}"#),
        ("free", r#","dimensions":768,"encoding_format":"float"}"#, r#","encoding_format":"float"}"#),
    ] {
        let body = format!("{}{more}", start.replace("\"M\"", &format!("\"{model}\"")));
        let answer = asked(&gateway, &body).await;
        findings.equal(&body, answer.status, 200);
        let expected = format!("{}{sent}", start.replace("\"M\"", "\"ok\""));
        findings.equal(&body, mock.requests().last().map(|seen| seen.body.clone()).unwrap_or_default(), expected);
        let name = if model == "free" { "free" } else { "nomic-embed-text-v1.5" };
        findings.equal(&body, &answer.json()["model"], &json!(name));
        findings.equal(&body, answer.header("spass-resolved-model"), Some(model));
    }
    // the first member is removed with its comma
    let answer =
        asked(&gateway, r#"{"dimensions":768, "model":"nomic-embed","input":"a","encoding_format":"float"}"#).await;
    findings.equal("first", answer.status, 200);
    let sent: Value = serde_json::from_slice(&mock.requests().last().unwrap().body).unwrap();
    findings.equal("first", sent, json!({"model": "ok", "input": "a", "encoding_format": "float"}));

    let calls = mock.requests().len();
    for (model, name, value) in [
        ("nomic-embed", "encoding_format", json!("hex")),
        ("nomic-embed", "encoding_format", json!("FLOAT")),
        ("nomic-embed", "encoding_format", json!("")),
        ("nomic-embed", "encoding_format", json!(1)),
        ("nomic-embed", "encoding_format", json!(["float"])),
        ("nomic-embed", "dimensions", json!(256)),
        ("nomic-embed", "dimensions", json!(0)),
        ("nomic-embed", "dimensions", json!("768")),
        ("nomic-embed", "dimensions", json!(767.5)),
        ("nomic-embed", "dimensions", json!(-768)),
    ] {
        let mut body = json!({"model": model, "input": "a"});
        body[name] = value;
        let answer = asked(&gateway, &body.to_string()).await;
        findings.add(&body.to_string(), says(&answer, EMBEDDINGS, (400, INVALID, name)));
    }
    assert_eq!(mock.requests().len(), calls);
    findings.none();
}
