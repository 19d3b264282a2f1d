//! models.md 8: arguments of tool calls are JSON in a string.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::{Value, json};

use super::{Ask, CHAT, Findings, MESSAGES, says, speaks_all, typed};
use crate::harness::Setup;

#[tokio::test]
async fn arguments_parse_or_are_named() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let setup = Setup::new().backend(speaks_all("first", mock.addr())).model(typed("m", "chat", &[("first", "ok")]));
    let gateway = setup.start().await;
    let mut findings = Findings::default();
    let call =
        |arguments: &Value| json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}});
    let asked = async |calls: Value| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": null, "tool_calls": calls}, {"role": "tool", "tool_call_id": "c", "content": "x"}]});
        Ask::post(CHAT, body.to_string()).of(gateway.addr).await
    };
    for arguments in ["{}", "{\"a\":1}", " [1] ", "null", "7", "\"x\"", "true", "{\"a\":{\"b\":[1e3,\"\\u00e9\"]}}"] {
        findings.equal(arguments, asked(json!([call(&json!(arguments))])).await.status, 200);
    }
    // null counts as absent, and there is nothing to parse then
    findings.equal("null", asked(json!([call(&json!(null))])).await.status, 200);
    let absent = json!([{"id": "c", "type": "function", "function": {"name": "f"}}]);
    findings.equal("absent", asked(absent).await.status, 200);
    let code = "tool_call_arguments_invalid";
    for arguments in [
        json!(""),
        json!(" "),
        json!("{"),
        json!("{a:1}"),
        json!("x"),
        json!("{}{}"),
        json!("{\"a\":01}"),
        json!("{\"a\":\"\n\"}"),
        json!("\u{feff}{}"),
        json!({}),
        json!({"a": 1}),
        json!([]),
        json!(7),
        json!(true),
    ] {
        for (calls, at) in [
            (json!([call(&arguments)]), "messages[1].tool_calls[0].function.arguments"),
            (
                json!([call(&json!("{}")), call(&arguments), call(&json!("{"))]),
                "messages[1].tool_calls[1].function.arguments",
            ),
        ] {
            let answer = asked(calls.clone()).await;
            findings.add(&calls.to_string(), says(&answer, CHAT, (400, code, at)));
        }
    }
    // an object in the other dialect is none of this
    for input in [json!({}), json!({"a": "{"})] {
        let body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": input}]}]});
        findings.equal(MESSAGES, Ask::post(MESSAGES, body.to_string()).of(gateway.addr).await.status, 200);
    }
    findings.none();
}
