//! No secret of a file, of the environment or of a client leaves by a log, an answer or a metric, however much is logged.

mod content;

use bytes::Bytes;
use dgx_gateway_testkit::client::RawClient;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{Method, Request};
use serde_json::json;

use crate::harness::{Answer, BACKEND_KEY, BEARER, Gateway, PROMPT, Setup, soon};

const CHAT: &str = "/v1/chat/completions";
/// Stands in every secret of this test.
const CANARY: &str = "canary";
const TOKENS: &str = r#"
version: 1
tenants: [{id: acme}]
tokens:
  - {id: plain, role: user, bound_tenant: acme, secrets: [{value: canary-plain-0123456789}]}
  - {id: old, bound_tenant: acme, secrets: [{value: canary-old-0123456789, expires_at: "2020-01-01T00:00:00Z"}]}
  - {id: far, role: user, bound_tenant: acme, secrets: [{value: canary-far-0123456789}], constraints: {cidrs: ["192.0.2.0/24"]}}
  - {id: bare, bound_tenant: acme, secrets: [{value: canary-bare-0123456789}]}
  - id: hashed # the word canary-hashed
    bound_tenant: acme
    secrets: [{sha256: "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9"}]
"#;
const DIGEST: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";

fn chat() -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": PROMPT}]}).to_string()
}

/// Heads with secrets in all places where clients put them, each with the status that it gets.
fn heads() -> Vec<(Vec<(&'static str, &'static str)>, u16)> {
    let plain = ("authorization", "Bearer canary-plain-0123456789");
    let user = ("spass-user-id", "bob");
    vec![
        (vec![plain, user], 200),
        (vec![plain], 400),
        (vec![plain, ("spass-tenant-id", "canary-tenant"), user], 401),
        (vec![plain, ("x-tenant-id", "acme"), ("spass-tenant-id", "canary"), user], 400),
        (vec![plain, ("spass-augment", "memory=canary"), user], 400),
        (vec![("authorization", "Bearer canary-old-0123456789"), user], 401),
        (vec![("authorization", "Bearer canary-far-0123456789"), user], 403),
        (vec![("authorization", "Bearer canary-bare-0123456789"), user], 403),
        (vec![("authorization", "Bearer canary-guess"), user], 401),
        (vec![("authorization", "Basic canary-guess")], 401),
        (vec![("authorization", "canary-guess")], 401),
        (vec![("x-api-key", "canary-guess")], 401),
        (vec![("cookie", "session=canary"), ("proxy-authorization", "Basic canary"), plain, user], 200),
        (vec![("spass-user-id", "canary secret"), plain], 400),
        (vec![("content-type", "text/canary"), plain, user], 415),
    ]
}

fn quiet(answer: &Answer) {
    let everything = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
    for secret in [CANARY, BEARER, BACKEND_KEY, DIGEST] {
        assert!(!everything.contains(secret), "{secret}: {everything}");
    }
}

async fn over_http1(gateway: &Gateway, path: &str, headers: &[(&str, &str)], status: u16) {
    let mut raw = RawClient::connect(gateway.addr).await.unwrap();
    raw.request(&Method::POST, path, headers, chat().as_bytes()).await.unwrap();
    let answer: Answer = raw.read_response().await.unwrap().into();
    assert_eq!(answer.status, status, "{headers:?} {}", answer.text());
    quiet(&answer);
}

async fn over_http2(gateway: &Gateway, path: &str, headers: &[(&str, &str)], status: u16) {
    let request = Request::builder().method(Method::POST).uri(format!("http://{}{path}", gateway.addr));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let mut client = gateway.h2().await;
    let answer: Answer =
        soon("an answer", client.request(request.body(Bytes::from(chat())).unwrap())).await.unwrap().into();
    assert_eq!(answer.status, status, "{headers:?} {}", answer.text());
    quiet(&answer);
}

#[tokio::test]
async fn no_secret_leaves_however_much_is_logged() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).tokens_yaml(TOKENS).log("trace").start().await;
    for (headers, status) in heads() {
        over_http1(&gateway, CHAT, &headers, status).await;
        over_http2(&gateway, CHAT, &headers, status).await;
    }
    let bearer = format!("Bearer {BEARER}");
    let user = ("spass-user-id", "alice");
    // what stands in a query is not for the log either
    let path = format!("{CHAT}?api_key=canary&key=canary");
    over_http1(&gateway, &path, &[("authorization", &bearer), user], 200).await;
    over_http2(&gateway, &path, &[("authorization", &bearer), user], 200).await;
    over_http1(&gateway, "/nothing/canary?key=canary", &[("authorization", &bearer)], 404).await;
    over_http2(&gateway, "/nothing/canary?key=canary", &[("authorization", &bearer)], 404).await;
    // an upstream that says back what it was sent
    for status in [400, 401, 500] {
        let body = format!("{{\"error\":{{\"message\":\"the key {BACKEND_KEY} is wrong\"}}}}");
        let status = http::StatusCode::from_u16(status).unwrap();
        mock.push(Behaviour::Status { status, headers: http::HeaderMap::new(), body: body.into() });
        quiet(&gateway.chat(chat()).await);
    }
    gateway.idle().await;
    let mut raw = RawClient::connect(gateway.admin).await.unwrap();
    raw.request(&Method::GET, "/metrics", &[], b"").await.unwrap();
    let metrics = String::from_utf8(raw.read_response().await.unwrap().body.to_vec()).unwrap();
    let log = gateway.log();
    assert!(log.contains("\"level\":\"TRACE\""), "the log holds everything");
    for secret in [CANARY, BEARER, BACKEND_KEY, DIGEST, PROMPT] {
        assert!(!metrics.contains(secret), "{secret} stands in the metrics");
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} stands in the log: {line:?}");
    }
}
