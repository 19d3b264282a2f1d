//! `SPASS-Augment`, its place in the order of checks, and what the answer says of it; headers of self-calls from outside.

use dgx_gateway_testkit::client::RawClient;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, Setup, backend, model};

const JSON: (&str, &str) = ("content-type", "application/json");
const APPLIED: &str = "spass-augment-applied";
/// Routes that read the header, each with a body that it takes.
const ROUTES: [(&str, &str); 6] = [
    ("/v1/chat/completions", r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#),
    ("/chat/completions", r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#),
    ("/v1/completions", r#"{"model": "m", "prompt": "hi"}"#),
    ("/completions", r#"{"model": "m", "prompt": "hi"}"#),
    ("/v1/embeddings", r#"{"model": "e", "input": "hi"}"#),
    ("/embeddings", r#"{"model": "e", "input": "hi"}"#),
];

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut embeds = model("e", &[("first", "embeds")]);
    embeds["type"] = json!("embedding");
    let setup = Setup::new().backend(backend("first", mock.addr())).model(model("m", &[("first", "x")])).model(embeds);
    (setup.start().await, mock)
}

#[tokio::test]
async fn only_chat_says_what_was_added() {
    let (gateway, _mock) = started().await;
    let mut client = gateway.client().await;
    let augment = ("SPASS-Augment", "memory=off;reason=\"a, b\"");
    for (path, body) in ROUTES {
        let is_chat = path.ends_with("chat/completions");
        for stream in if path.ends_with("embeddings") { vec![false] } else { vec![false, true] } {
            let mut body: Value = serde_json::from_str(body).unwrap();
            body["stream"] = stream.into();
            let answer = client.request(&Method::POST, path, &[JSON], body.to_string().as_bytes()).await;
            let nothing = is_chat.then_some("system-prompt=0, server-tools=0, memory=0");
            assert_eq!(answer.is_ok().header(APPLIED), nothing, "{path} {stream}");
            let answer = client.request(&Method::POST, path, &[JSON, augment], body.to_string().as_bytes()).await;
            let off = is_chat.then_some("system-prompt=0, server-tools=0, memory=off");
            assert_eq!(answer.is_ok().header(APPLIED), off, "{path} {stream}");
        }
    }
    assert_eq!(client.get("/v1/models").await.is_ok().header(APPLIED), None);
}

#[tokio::test]
async fn several_lines_are_one_dictionary() {
    let (gateway, _mock) = started().await;
    let lines = [JSON, ("SPASS-Augment", "memory=off, system-prompt=default"), ("spass-augment", "server-tools=off")];
    let answer = gateway.client().await.request(&Method::POST, ROUTES[0].0, &lines, ROUTES[0].1.as_bytes()).await;
    assert_eq!(answer.is_ok().header(APPLIED), Some("system-prompt=0, server-tools=off, memory=off"));
}

#[tokio::test]
async fn a_bad_header_is_refused_after_the_user_and_before_the_body() {
    let (gateway, mock) = started().await;
    let bad = ("spass-augment", "memory=maybe");
    let bad_user = ("spass-user-id", "not a user");
    let json = |value| vec![("spass-augment", value), JSON];
    for (path, body) in ROUTES {
        let query = format!("{path}?user_id=bob");
        let refused = "headers.spass-augment";
        for (path, headers, body, param) in [
            (path, json("memory=maybe"), body, refused),
            (path, json("unknown=off"), body, refused),
            (path, json("memory"), body, refused),
            (path, json("memory=off,"), body, refused),
            (path, json("{}"), body, refused),
            (path, vec![bad, ("content-type", "text/plain")], body, refused),
            (path, vec![bad, JSON], "{", refused),
            (path, vec![bad, bad_user, JSON], body, "headers.spass-user-id"),
            (&query, vec![bad, JSON], body, "query.user_id"),
        ] {
            let answer = gateway.client().await.request(&Method::POST, path, &headers, body.as_bytes()).await;
            answer.is_error(400, "invalid_field", param);
            assert_eq!(answer.header(APPLIED), None);
        }
    }
    let answer = gateway.client().await.request(&Method::GET, "/v1/models", &[bad], b"").await;
    answer.is_ok();
    assert!(mock.requests().iter().all(|request| request.method == Method::GET), "{:?}", mock.requests());
}

#[tokio::test]
async fn headers_of_self_calls_and_others_that_mean_nothing_stay_outside() {
    let (gateway, mock) = started().await;
    let headers = [
        JSON,
        ("spass-caller-depth", "99"),
        ("spass-parent-request-id", "canary"),
        ("spass-stt-mode", "canary"),
        ("idempotency-key", ""),
        ("spass-augment", "memory=off"),
        ("spass-unknown", "canary"),
    ];
    let mut client = gateway.client().await;
    for (path, body) in ROUTES {
        client.request(&Method::POST, path, &headers, body.as_bytes()).await.is_ok();
    }
    let seen = mock.requests();
    assert!(seen.len() >= ROUTES.len());
    for request in seen {
        assert!(request.headers.keys().all(|name| !name.as_str().starts_with("spass-")), "{:?}", request.headers);
        assert!(!request.headers.contains_key("idempotency-key"), "{:?}", request.headers);
    }
}

#[tokio::test]
async fn a_plain_route_passes_none_of_them_either() {
    let mock = MockUpstream::start(Script::always(Behaviour::Echo).with_looks_apart()).await.unwrap();
    let route = json!({"path": "/files/{*rest}", "methods": ["GET"], "upstream": format!("http://{}/", mock.addr()),
        "forward_headers": ["x-wanted"]});
    let gateway = Setup::new().route(route).start().await;
    let headers =
        [("x-wanted", "1"), ("spass-caller-depth", "1"), ("spass-parent-request-id", "1"), ("spass-augment", "x")];
    gateway.client().await.request(&Method::GET, "/files/a", &headers, b"").await.is_ok();
    let seen = mock.requests();
    assert_eq!(seen[0].headers["x-wanted"], "1");
    for name in ["authorization", "spass-caller-depth", "spass-parent-request-id", "spass-augment"] {
        assert!(!seen[0].headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn what_the_tenant_switched_off_is_disabled_unless_the_request_says_off() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let tokens = r#"
version: 1
tenants: [{id: acme, defaults: {augment_memory: false, augment_server_tools: false, augment_system_prompt: true}}]
tokens: [{id: t, role: user, bound_tenant: acme, default_user_id: bob, secrets: [{value: of-acme}]}]
"#;
    let gateway = Setup::with_upstream(mock.addr()).tokens_yaml(tokens).start().await;
    let mut raw = RawClient::connect(gateway.addr).await.unwrap();
    let headers = [JSON, ("authorization", "Bearer of-acme"), ("spass-augment", "memory=off, server-tools=default")];
    raw.request(&Method::POST, ROUTES[0].0, &headers, ROUTES[0].1.as_bytes()).await.unwrap();
    let answer: Answer = raw.read_response().await.unwrap().into();
    assert_eq!(answer.is_ok().header(APPLIED), Some("system-prompt=0, server-tools=disabled, memory=off"));
}
