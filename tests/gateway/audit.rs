//! The audit log: each protected request has a line, whatever becomes of it, and no line says what was said.

mod reload;

use dgx_gateway_testkit::client::RawClient;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{BEARER, Gateway, PROMPT, Setup, Stage, backend, chunk_of_stream, model, until};

const CHAT: &str = "/v1/chat/completions";
const TOKENS: &str = r#"
version: 1
tenants:
  - {id: acme}
  - {id: hidden, defaults: {audit_user_id_pseudonymize: true}}
tokens:
  - {id: app, role: user, bound_tenant: acme, secrets: [{value: secret-of-the-app-0123456789}]}
  - {id: bare, bound_tenant: acme, secrets: [{value: secret-without-scopes-0123456789}]}
  - {id: quiet, role: user, bound_tenant: hidden, secrets: [{value: secret-of-the-quiet-one-0123}]}
"#;
const APP: &str = "Bearer secret-of-the-app-0123456789";
const BARE: &str = "Bearer secret-without-scopes-0123456789";
const QUIET: &str = "Bearer secret-of-the-quiet-one-0123";

fn chat(model: &str, stream: bool) -> String {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}).to_string()
}

/// A chat request with these headers.
async fn ask(gateway: &Gateway, headers: &[(&str, &str)], body: &str) -> u16 {
    let mut raw = RawClient::connect(gateway.addr).await.unwrap();
    raw.request(&Method::POST, CHAT, headers, body.as_bytes()).await.unwrap();
    raw.read_response().await.unwrap().status.as_u16()
}

async fn started() -> (MockUpstream, Gateway) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).tokens_yaml(TOKENS).start().await;
    (mock, gateway)
}

#[tokio::test]
async fn each_protected_request_has_a_line_and_public_pages_have_none() {
    let (mock, gateway) = started().await;
    let user = ("spass-user-id", "bob");
    let (app, bare, guess) = (("authorization", APP), ("authorization", BARE), ("authorization", "Bearer guess"));
    // a line is written after its answer, so the next request waits for it
    assert_eq!(ask(&gateway, &[app, user, ("x-request-id", "one")], &chat("m", false)).await, 200);
    gateway.audited("http", 1).await;
    assert_eq!(ask(&gateway, &[app, user], &chat("m", true)).await, 200);
    gateway.audited("http", 2).await;
    assert_eq!(ask(&gateway, &[app, user], &chat("nothing", false)).await, 400);
    gateway.audited("http", 3).await;
    assert_eq!(ask(&gateway, &[bare, user], &chat("m", false)).await, 403);
    gateway.audited("http", 4).await;
    assert_eq!(ask(&gateway, &[guess], &chat("m", false)).await, 401);
    gateway.audited("http", 5).await;
    mock.push(Behaviour::Status { status: StatusCode::FORBIDDEN, headers: HeaderMap::new(), body: "{}".into() });
    assert_eq!(ask(&gateway, &[app, user], &chat("m", false)).await, 502);
    gateway.audited("http", 6).await;
    gateway.client().await.get("/v1/models").await.is_ok();
    for page in ["/healthz", "/readyz", "/errors", "/api/version"] {
        gateway.client().await.get(page).await.is_ok();
    }
    gateway.client().await.get("/nothing").await;
    gateway.idle().await;
    let lines = gateway.audited("http", 7).await;
    let seen: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!([
                line["status"],
                line["error_code"],
                line["token_id"],
                line["user_id"],
                line["model"],
                line["stream"]
            ])
        })
        .collect();
    let expected = [
        json!([200, null, "app", "bob", "m", false]),
        json!([200, null, "app", "bob", "m", true]),
        json!([400, "model_not_in_allowlist", "app", "bob", null, null]),
        json!([403, "forbidden", "bare", null, null, null]),
        json!([401, "invalid_authorization", null, null, null, null]),
        json!([502, "upstream_error", "app", "bob", "m", false]),
        json!([200, null, "env", null, null, null]),
    ];
    assert_eq!(seen, expected);
    let first = &lines[0];
    assert_eq!(
        (&first["request_id"], &first["route"], &first["method"]),
        (&json!("one"), &json!(CHAT), &json!("POST"))
    );
    assert_eq!(
        (&first["client_ip"], &first["aborted"], &first["depth"]),
        (&json!("127.0.0.1"), &json!(false), &json!(0))
    );
    assert_eq!(first["bytes_in"], json!(chat("m", false).len()));
    assert!(first["bytes_out"].as_u64().unwrap() > 50 && first["duration_ms"].is_u64());
    let refused = gateway.audit("auth");
    let reasons: Vec<&Value> = refused.iter().map(|line| &line["reason"]).collect();
    assert_eq!(reasons[0], &json!("scope"), "{refused:?}");
    let told: u64 = refused.iter().map(|line| 1 + line["suppressed"].as_u64().unwrap()).sum();
    assert!(told <= 2, "one address, at most one line a second: {refused:?}");
}

#[tokio::test]
async fn a_tenant_that_wants_pseudonyms_leaves_no_user_and_no_address() {
    let (_mock, gateway) = started().await;
    for user in ["the-true-name", "the-true-name", "another-true-name"] {
        let headers = [("authorization", QUIET), ("spass-user-id", user)];
        assert_eq!(ask(&gateway, &headers, &chat("m", false)).await, 200);
    }
    let lines = gateway.audited("http", 3).await;
    let names: Vec<&str> = lines.iter().map(|line| line["user_id"].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| name.len() == 34 && name.starts_with("u_")), "{names:?}");
    assert!(names[0] == names[1] && names[1] != names[2]);
    assert!(lines.iter().all(|line| line["client_ip"].is_null() && line["tenant_id"] == "hidden"));
    assert!(!gateway.audit_text().contains("true-name"));
    assert!(gateway.data("keys/audit-hmac.key").exists());
}

#[tokio::test]
async fn a_client_that_leaves_has_a_line_that_says_so() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let mut client = gateway.client().await;
    client.send_chat(chat("m", true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("upstream-name-of-m", "first")).await;
    client.read_head().await;
    client.piece().await.unwrap();
    drop(client);
    let mut silent = gateway.client().await;
    let lines = gateway.audited("http", 1).await;
    assert_eq!((&lines[0]["aborted"], &lines[0]["status"]), (&json!(true), &json!(200)));
    silent.send_chat(chat("m", false)).await;
    let _caller = stage.caller().await;
    drop(silent);
    let lines = gateway.audited("http", 2).await;
    assert_eq!((&lines[1]["aborted"], &lines[1]["status"]), (&json!(true), &json!(499)));
}

#[tokio::test]
async fn start_and_stop_stand_in_it_and_a_stop_loses_nothing() {
    let (_mock, mut gateway) = started().await;
    let answered = ask(&gateway, &[("authorization", APP), ("spass-user-id", "bob")], &chat("m", false)).await;
    assert_eq!(answered, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let admin = gateway.audit("admin");
    let actions: Vec<Value> = admin.iter().map(|line| json!([line["action"], line["ok"], line["detail"]])).collect();
    assert_eq!(actions, [json!(["start", true, env!("CARGO_PKG_VERSION")]), json!(["stop", true, "drained"])]);
    assert_eq!(gateway.audit("http").len(), 1);
    let last = gateway.audit_text();
    assert!(last.lines().last().unwrap().contains("\"stop\""), "nothing follows the end");
}

#[tokio::test]
async fn requests_that_a_second_signal_cuts_have_their_lines() {
    let mut stage = Stage::open().await;
    let mut gateway = Setup::with_upstream(stage.addr).start().await;
    let mut client = gateway.client().await;
    client.send_chat(chat("m", false)).await;
    let _caller = stage.caller().await;
    gateway.signal("TERM");
    until("it drains", async || gateway.log().contains("draining")).await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(1));
    let lines = gateway.audit("http");
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["aborted"], &lines[0]["status"]), (&json!(true), &Value::Null));
    let admin = gateway.audit("admin");
    assert_eq!((&admin[1]["action"], &admin[1]["ok"]), (&json!("stop"), &json!(false)));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_shows_stops_nothing_and_goes_on() {
    let (_mock, gateway) = started().await;
    let headers = [("authorization", APP), ("spass-user-id", "bob")];
    assert_eq!(ask(&gateway, &headers, &chat("m", false)).await, 200);
    gateway.audited("http", 1).await;
    let folder = gateway.data("audit");
    std::fs::rename(&folder, gateway.data("elsewhere")).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    let ready = async || {
        let mut client = gateway.client().await;
        let answer = client.get("/readyz").await;
        assert_eq!(answer.status, 200, "requests can be served");
        serde_json::from_slice::<Value>(&answer.body).unwrap()
    };
    until("the failure shows", async || ready().await["degraded_reasons"] == json!(["storage unavailable"])).await;
    let body = ready().await;
    assert_eq!((&body["status"], &body["ready"]), (&json!("critical"), &json!(true)));
    assert_eq!(gateway.metrics().await.value("dgx_gateway_audit_failing"), 1.0);
    assert_eq!(ask(&gateway, &headers, &chat("m", false)).await, 200);
    std::fs::remove_file(&folder).unwrap();
    until("it is written again", async || ready().await["status"] == json!("ok")).await;
    gateway.audited("http", 1).await; // what waited meanwhile
    let resumed = gateway.audited("admin", 1).await;
    assert_eq!((&resumed[0]["action"], &resumed[0]["detail"]), (&json!("resume"), &json!("0 records were left out")));
    assert_eq!(gateway.metrics().await.value("dgx_gateway_audit_failing"), 0.0);
}

#[tokio::test]
async fn a_killed_process_leaves_a_log_that_the_next_one_goes_on_with() {
    let (_mock, mut gateway) = started().await;
    let headers = [("authorization", APP), ("spass-user-id", "bob")];
    assert_eq!(ask(&gateway, &headers, &chat("m", false)).await, 200);
    gateway.audited("http", 1).await;
    let half = gateway.audit_text() + "{\"ts\":\"2026-05-16T09:12:03.1";
    std::fs::write(gateway.data("audit/audit.jsonl"), half).unwrap();
    gateway.killed_and_started_again().await;
    until("it listens", async || RawClient::connect(gateway.addr).await.is_ok()).await;
    assert_eq!(ask(&gateway, &headers, &chat("m", false)).await, 200);
    gateway.audited("http", 2).await;
    assert_eq!(gateway.audit("admin").len(), 2);
    assert!(gateway.audit_text().ends_with('\n'));
}

/// Requests to every protected path, with words in all places where clients put them.
fn requests() -> Vec<(&'static str, Value)> {
    let calls = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": format!("{{\"a\":\"{PROMPT}\"}}")}}]);
    vec![
        (
            CHAT,
            json!({"model": "m", "user": PROMPT, "metadata": {"x": PROMPT}, "messages": [
            {"role": "system", "content": PROMPT}, {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c", "content": PROMPT}]}),
        ),
        (CHAT, json!({"model": PROMPT, "messages": [{"role": "user", "content": PROMPT}]})),
        ("/v1/completions", json!({"model": "m", "prompt": PROMPT})),
        ("/v1/responses", json!({"model": "m", "input": PROMPT, "instructions": PROMPT})),
        ("/v1/messages", json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": PROMPT}]})),
        ("/v1/messages/count_tokens", json!({"model": "m", "messages": [{"role": "user", "content": PROMPT}]})),
        ("/v1/embeddings", json!({"model": "m", "input": PROMPT})),
        ("/v1/rerank", json!({"model": "m", "query": PROMPT, "documents": [PROMPT]})),
        ("/v1/images/generations", json!({"model": "m", "prompt": PROMPT})),
        ("/v1/audio/speech", json!({"model": "m", "input": PROMPT, "voice": "v"})),
        ("/v1/audio/transcriptions", json!({"model": "m"})),
        ("/v1/audio/translations", json!({"model": "m"})),
    ]
}

#[tokio::test]
async fn no_word_of_a_request_stands_in_it_on_any_path_however_much_is_logged() {
    for level in ["warn", "trace"] {
        let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
        let mut first = backend("first", mock.addr());
        first["protocols"] = json!(["chat", "completions", "responses", "messages", "embeddings"]);
        let setup = Setup::new().backend(first).model(model("m", &[("first", "upstream-name-of-m")]));
        let gateway = setup.log(level).start().await;
        let bearer = format!("Bearer {BEARER}");
        let paths = requests();
        for (path, body) in &paths {
            let mut raw = RawClient::connect(gateway.addr).await.unwrap();
            let path = format!("{path}?q={PROMPT}");
            let headers = [("authorization", bearer.as_str()), ("cookie", PROMPT), ("x-api-key", PROMPT)];
            raw.request(&Method::POST, &path, &headers, body.to_string().as_bytes()).await.unwrap();
            raw.read_response().await.unwrap();
        }
        for path in ["/v1/models", "/v1/models/m", "/v1/info"] {
            gateway.client().await.get(&format!("{path}?q={PROMPT}")).await;
        }
        gateway.client().await.get(&format!("/v1/models/{PROMPT}")).await;
        let lines = gateway.audited("http", paths.len() + 4).await;
        let routes: std::collections::BTreeSet<&str> =
            lines.iter().map(|line| line["route"].as_str().unwrap()).collect();
        assert_eq!(routes.len(), 14, "{routes:?}");
        for word in [PROMPT, BEARER] {
            assert!(!gateway.audit_text().contains(word), "{word} stands in the audit log");
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_has_the_code_of_its_error() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let mut client = gateway.client().await;
    client.send_chat(chat("m", true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("upstream-name-of-m", "first")).await;
    client.read_head().await;
    client.piece().await.unwrap();
    drop(caller);
    while client.piece().await.is_some() {}
    let lines = gateway.audited("http", 1).await;
    assert_eq!((&lines[0]["aborted"], &lines[0]["error_code"]), (&json!(true), &json!("upstream_error")));
}
