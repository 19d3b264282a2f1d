//! models.md 6: every row of the table, on every dialect, and every byte that reaches the backend.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::{Value, json};

use super::{Ask, CHAT, COMPLETIONS, Findings, MESSAGES, RESPONSES, least, says, speaks_all, typed};
use crate::harness::{Answer, Gateway, Setup};

const FREE: &str = "secret-without-a-ceiling-0123456789";
const TO_4096: &str = "secret-with-a-high-ceiling-0123456789";
const TO_100: &str = "secret-with-a-low-ceiling-0123456789";

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let floored = |alias: &str, kind: &str, floor: u32| {
        let mut model = typed(alias, kind, &[("first", "ok")]);
        model["constraints"] = json!({"min_max_tokens": floor});
        model["context_window"] = json!(1_050_000);
        model
    };
    let mut small = typed("small", "chat", &[("first", "ok")]);
    small["max_output_tokens"] = json!(1000);
    let mut windowed = typed("windowed", "chat", &[]);
    windowed["route"] = json!([{"backend": "first", "model": "ok", "max_model_len": 131_072}]);
    let token = |id: &str, secret: &str, ceiling: Value| {
        json!({"id": id, "role": "user", "bound_tenant": "acme", "default_user_id": "alice", "secrets": [{"value": secret}],
            "constraints": if ceiling.is_null() { json!({}) } else { json!({"max_tokens": ceiling}) },
            "rate_limit": {"per_second": 1000, "burst": 100_000}})
    };
    let setup = Setup::new()
        .backend(speaks_all("first", mock.addr()))
        .model(floored("gpt-5.5-pro", "chat", 200))
        .model(floored("flagship", "chat", 200))
        .model(floored("gpt-image", "image", 16))
        .model(typed("llama-4-scout", "chat", &[("first", "ok")]))
        .model(small)
        .model(windowed)
        .tokens(json!({"version": 1, "tenants": [{"id": "acme"}], "tokens":
            [token("free", FREE, json!(null)), token("high", TO_4096, json!(4096)), token("low", TO_100, json!(100))]}));
    (setup.start().await, mock)
}

/// Members of a body, in a form that shows every byte that is touched.
fn document(path: &str, model: &str, member: &str) -> String {
    let content = match path {
        COMPLETIONS => r#""prompt" : "h\u00e9 🦀""#,
        RESPONSES => r#""store" : false ,"input" : "h\u00e9 🦀""#,
        _ => r#""messages" : [ { "role":"user" , "content":"h\u00e9 🦀"} ]"#,
    };
    format!(
        "{{ \"temperature\" : 0.70,\n\t\"x\":{{\"model\":\"m\",\"max_tokens\":1,\"a\":[1,2.50,1e3,null]}}, \"model\" : \"{model}\" ,{member}{content} ,\"big\":12345678901234567890123}}"
    )
}

/// Names of the member on each path.
const FIELDS: [(&str, &str); 5] = [
    (CHAT, "max_tokens"),
    (CHAT, "max_completion_tokens"),
    (COMPLETIONS, "max_tokens"),
    (RESPONSES, "max_output_tokens"),
    (MESSAGES, "max_tokens"),
];

async fn asked(gateway: &Gateway, secret: &str, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    Ask::post(path, body).bearer(secret).of(gateway.addr).await
}

fn applied(findings: &mut Findings, what: &str, answer: &Answer, expected: Option<&str>) {
    for name in ["spass-applied", "x-rust-api-applied"] {
        findings.equal(&format!("{what}: {name}"), answer.header(name), expected);
    }
}

#[tokio::test]
async fn every_row_of_the_table_on_every_dialect() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    let floored = Some("max_tokens_floored=200");
    let clamped = Some("max_tokens_clamped=4096");
    for (secret, model, value, sent, header) in [
        (FREE, "gpt-5.5-pro", Some("50"), Some("200"), floored),
        (FREE, "gpt-5.5-pro", Some("199"), Some("200"), floored),
        (FREE, "gpt-5.5-pro", Some("200"), Some("200"), None),
        (FREE, "gpt-5.5-pro", Some("201"), Some("201"), None),
        (FREE, "gpt-5.5-pro", None, None, None),
        (FREE, "gpt-5.5-pro", Some("null"), Some("null"), None),
        (FREE, "gpt-5.5-pro", Some("2147483647"), Some("2147483647"), None),
        (FREE, "gpt-image", Some("10"), Some("16"), Some("max_tokens_floored=16")),
        (FREE, "llama-4-scout", Some("1"), Some("1"), None),
        (TO_100, "flagship", Some("50"), Some("200"), floored),
        (TO_100, "flagship", Some("200"), Some("200"), None),
        (TO_100, "llama-4-scout", Some("100"), Some("100"), None),
        (TO_100, "llama-4-scout", Some("101"), Some("100"), Some("max_tokens_clamped=100")),
        (TO_4096, "llama-4-scout", Some("9000"), Some("4096"), clamped),
        (TO_4096, "llama-4-scout", Some("4096"), Some("4096"), None),
        (TO_4096, "llama-4-scout", None, Some("4096"), clamped),
        (FREE, "small", Some("1001"), Some("1000"), Some("max_tokens_clamped=1000")),
        (FREE, "small", Some("1000"), Some("1000"), None),
        (FREE, "small", None, None, None),
        (TO_4096, "small", Some("9000"), Some("1000"), Some("max_tokens_clamped=1000")),
        (FREE, "gpt-5.5-pro-local", Some("50"), Some("200"), floored),
    ] {
        for (path, field) in FIELDS {
            if value.is_none_or(|value| value == "null") && path == MESSAGES {
                continue;
            }
            // where the member is absent it is added under this name
            if value.is_none() && field == "max_completion_tokens" {
                continue;
            }
            let member = |value: &str| format!("\"{field}\" : {value} , ");
            let body = document(path, model, &value.map(member).unwrap_or_default());
            let expected = match (value, sent) {
                (None, Some(sent)) => {
                    let body = document(path, "ok", "");
                    format!("{},\"{field}\":{sent}}}", body.strip_suffix('}').unwrap())
                }
                (_, sent) => document(path, "ok", &sent.map(member).unwrap_or_default()),
            };
            let what = format!("{path} {model} {field}: {value:?}");
            let answer = asked(&gateway, secret, path, body).await;
            findings.equal(&what, answer.status, 200);
            findings.equal(&what, mock.requests().last().map(|seen| seen.body.clone()).unwrap_or_default(), expected);
            applied(&mut findings, &what, &answer, header);
        }
    }
    findings.none();
}

#[tokio::test]
async fn what_is_no_integer_in_its_range_is_refused() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for value in [
        "0",
        "-5",
        "1.5",
        "\"100\"",
        "200.0",
        "1e3",
        "1E0",
        "-0",
        "2147483648",
        "99999999999999999999999",
        "true",
        "false",
        "[]",
        "{}",
        "[1]",
        "\"\"",
    ] {
        for (path, field) in FIELDS {
            for (secret, model) in [(FREE, "llama-4-scout"), (FREE, "gpt-5.5-pro"), (TO_100, "llama-4-scout")] {
                let body = document(path, model, &format!("\"{field}\" : {value} , "));
                let answer = asked(&gateway, secret, path, body).await;
                findings.add(&format!("{path} {field}: {value}"), says(&answer, path, (400, "invalid_field", field)));
            }
        }
    }
    for value in ["absent", "null"] {
        let mut body = least(MESSAGES, "llama-4-scout");
        body["max_tokens"] = json!(null);
        if value == "absent" {
            body.as_object_mut().unwrap().remove("max_tokens");
        }
        let answer = asked(&gateway, FREE, MESSAGES, body.to_string()).await;
        findings.add(value, says(&answer, MESSAGES, (400, "missing_field", "max_tokens")));
    }
    assert!(mock.requests().is_empty());
    findings.none();
}

#[tokio::test]
async fn both_names_are_adjusted_and_the_newer_one_is_reported() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for (secret, model, values, sent, header) in [
        (FREE, "gpt-5.5-pro", ("50", "60"), ("200", "200"), Some("max_tokens_floored=200")),
        (FREE, "gpt-5.5-pro", ("50", "300"), ("200", "300"), Some("max_tokens_floored=200")),
        (FREE, "gpt-5.5-pro", ("300", "50"), ("300", "200"), Some("max_tokens_floored=200")),
        (TO_4096, "llama-4-scout", ("9000", "5000"), ("4096", "4096"), Some("max_tokens_clamped=4096")),
        (TO_4096, "llama-4-scout", ("9000", "5"), ("4096", "5"), Some("max_tokens_clamped=4096")),
        (TO_4096, "llama-4-scout", ("null", "5"), ("null", "5"), None),
        (FREE, "small", ("null", "5000"), ("null", "1000"), Some("max_tokens_clamped=1000")),
        // the header has the value of the newer name
        (TO_4096, "gpt-5.5-pro", ("9000", "5"), ("4096", "200"), Some("max_tokens_floored=200")),
    ] {
        for swapped in [false, true] {
            let members = |(old, new): (&str, &str)| {
                let (old, new) = (format!("\"max_tokens\":{old},"), format!("\"max_completion_tokens\": {new} ,"));
                if swapped { new + &old } else { old + &new }
            };
            let what = format!("{model} {values:?}");
            let answer = asked(&gateway, secret, CHAT, document(CHAT, model, &members(values))).await;
            findings.equal(&what, answer.status, 200);
            let seen = mock.requests().last().map(|seen| seen.body.clone()).unwrap_or_default();
            findings.equal(&what, seen, document(CHAT, "ok", &members(sent)));
            applied(&mut findings, &what, &answer, header);
        }
    }
    for (field, other) in [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")] {
        let body = document(CHAT, "gpt-5.5-pro", &format!("\"{field}\":0,\"{other}\":7,"));
        findings.add(field, says(&asked(&gateway, FREE, CHAT, body).await, CHAT, (400, "invalid_field", field)));
    }
    findings.none();
}

/// 131072 - 130000 = 1072; the estimate is a quarter of the bytes and 4 for the message.
#[tokio::test]
async fn what_is_left_of_the_context_bounds_the_value() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for (bytes, value, sent, header) in [
        (4 * (130_000 - 4), json!(4096), json!(1072), Some("max_tokens_clamped=1072")),
        (4 * (130_000 - 4) - 3, json!(4096), json!(1072), Some("max_tokens_clamped=1072")),
        (4 * (130_000 - 4) + 1, json!(4096), json!(1071), Some("max_tokens_clamped=1071")),
        (4 * (130_000 - 4), json!(1072), json!(1072), None),
        (4 * (130_000 - 4), json!(null), json!(null), None),
        // an estimate refuses nothing
        (4 * 140_000, json!(4096), json!(4096), None),
    ] {
        let mut body = json!({"model": "windowed", "messages": [{"role": "user", "content": "x".repeat(bytes)}], "max_tokens": value});
        let answer = asked(&gateway, FREE, CHAT, body.to_string()).await;
        let what = format!("{bytes} bytes, {value}");
        findings.equal(&what, answer.status, 200);
        body["model"] = json!("ok");
        body["max_tokens"] = sent;
        let seen = mock.requests().last().map(|seen| seen.body.clone()).unwrap_or_default();
        findings.equal(&what, seen == body.to_string(), true);
        applied(&mut findings, &what, &answer, header);
    }
    findings.none();
}

/// v1.md 3: nothing is kept at an upstream.
#[tokio::test]
async fn responses_are_never_stored() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for (member, sent) in [
        (r#","store":false"#, r#","store":false"#),
        (r#","store":true"#, r#","store":false"#),
        (r#","store":null"#, r#","store":false"#),
        ("", r#","store":false"#),
    ] {
        let body = |model: &str, member: &str| format!(r#"{{"input":"hi", "model":"{model}"{member}}}"#);
        let answer = asked(&gateway, FREE, RESPONSES, body("llama-4-scout", member)).await;
        findings.equal(member, answer.status, 200);
        findings.equal(member, mock.requests().last().unwrap().body.clone(), body("ok", sent));
    }
    for (name, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("conv_1")),
        ("conversation", json!({"id": "c"})),
        ("background", json!(true)),
    ] {
        let mut body = least(RESPONSES, "llama-4-scout");
        body[name] = value;
        let answer = asked(&gateway, FREE, RESPONSES, body.to_string()).await;
        findings.add(name, says(&answer, RESPONSES, (400, "invalid_field", name)));
    }
    findings.none();
}
