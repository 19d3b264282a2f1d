//! http.md 8 and 14: what a backend receives of a head, on every route that has one.

use std::collections::BTreeSet;

use dgx_gateway_testkit::mock::{MockUpstream, Recorded, Script};
use http::Method;
use serde_json::json;

use super::{Ask, CALLS, COUNT, Findings, MESSAGES, all_types, least, proper, speaks_all};
use crate::harness::{BACKEND_KEY, BEARER, Setup};

/// Stands in every value that must stay here.
const CANARY: &str = "canary";

/// What a caller might send and no backend may see.
const UNWANTED: [(&str, &str); 62] = [
    ("x-api-key", "canary"),
    ("api-key", "canary"),
    ("apikey", "canary"),
    ("x-auth-token", "canary"),
    ("x-access-token", "canary"),
    ("x-goog-api-key", "canary"),
    ("x-amz-security-token", "canary"),
    ("x-azure-api-key", "canary"),
    ("ocp-apim-subscription-key", "canary"),
    ("proxy-authorization", "Basic canary"),
    ("x-forwarded-authorization", "Bearer canary"),
    ("cookie", "session=canary; a=b"),
    ("cookie2", "canary"),
    ("x-csrf-token", "canary"),
    ("connection", "x-canary, keep-alive"),
    ("x-canary", "canary"),
    ("keep-alive", "timeout=7, canary"),
    ("proxy-connection", "canary"),
    ("te", "trailers, canary"),
    ("trailer", "x-canary"),
    ("x-stainless-lang", "canary"),
    ("x-stainless-retry-count", "1"),
    ("x-stainless-os", "canary"),
    ("openai-organization", "canary"),
    ("openai-project", "canary"),
    ("openai-beta", "canary"),
    ("anthropic-dangerous-direct-browser-access", "true"),
    ("anthropic-organization", "canary"),
    ("spass-user-id", "canary"),
    ("spass-scope-id", "canary"),
    ("spass-augment", "memory=off;canary"),
    ("spass-caller-depth", "1"),
    ("spass-parent-request-id", "canary"),
    ("spass-request-id", "canary-taken-over"),
    ("spass-stt-mode", "chunked"),
    ("spass-anything", "canary"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-host", "canary"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "443"),
    ("x-original-url", "/canary"),
    ("x-rewrite-url", "/canary"),
    ("x-http-method-override", "DELETE"),
    ("forwarded", "for=192.0.2.1;host=canary"),
    ("x-real-ip", "192.0.2.1"),
    ("cf-connecting-ip", "192.0.2.1"),
    ("via", "1.1 canary"),
    ("max-forwards", "3"),
    ("referer", "http://canary/"),
    ("origin", "http://canary"),
    ("sec-fetch-mode", "cors"),
    ("accept-language", "de, canary"),
    ("accept-encoding", "gzip, br"),
    ("accept-charset", "canary"),
    ("range", "bytes=0-1"),
    ("if-none-match", "\"canary\""),
    ("cache-control", "no-store"),
    ("pragma", "canary"),
    ("idempotency-key", "canary"),
    ("baggage", "canary=1"),
    ("user-agent", "canary/1"),
    ("b3", "canary"),
];

const TRACE: [(&str, &str); 2] =
    [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "vendor=value")];
const ANTHROPIC: [(&str, &str); 2] = [("anthropic-version", "2023-06-01"), ("anthropic-beta", "some-beta")];

/// What must be there, and what may.
fn compare(findings: &mut Findings, what: &str, path: &str, seen: &Recorded, keyed: bool) {
    let credential = if keyed { "x-api-key" } else { "authorization" };
    let mut all = vec![
        "host",
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "user-agent",
        credential,
        "x-request-id",
        "traceparent",
        "tracestate",
    ];
    if path.starts_with(MESSAGES) {
        all.extend(["anthropic-version", "anthropic-beta"]);
    }
    let names: BTreeSet<&str> = seen.headers.keys().map(http::HeaderName::as_str).collect();
    findings.equal(what, names, all.into_iter().collect::<BTreeSet<_>>());
    for name in seen.headers.keys() {
        findings.equal(&format!("{what}: {name}"), seen.headers.get_all(name).iter().count(), 1);
    }
    let value = |name: &str| seen.headers.get(name).map_or("", |value| value.to_str().unwrap());
    let key = if keyed { BACKEND_KEY.to_owned() } else { format!("Bearer {BACKEND_KEY}") };
    let length = seen.body.len().to_string();
    for (name, expected) in [
        (credential, &*key),
        ("accept-encoding", "identity"),
        ("content-length", &*length),
        ("content-type", "application/json"),
        ("user-agent", concat!("dgx-gateway/", env!("CARGO_PKG_VERSION"))),
        ("x-request-id", "canary-taken-over"),
        ("tracestate", TRACE[1].1),
    ] {
        findings.equal(&format!("{what}: {name}"), value(name), expected);
    }
    findings.equal(what, value("traceparent").get(..35), TRACE[0].1.get(..35));
    for (name, found) in &seen.headers {
        let found = found.to_str().unwrap();
        let leaks = name != "x-request-id" && (found.contains(CANARY) || found.contains(BEARER));
        findings.equal(&format!("{what}: {name}: {found}"), leaks, false);
    }
    findings.equal(what, &*seen.path, path);
}

#[tokio::test]
async fn a_backend_sees_the_list_and_nothing_else_on_every_route() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut anthropic = speaks_all("claude", mock.addr());
    anthropic["kind"] = json!("anthropic");
    anthropic["protocols"] = json!(["messages"]);
    let setup = Setup::new().backend(speaks_all("first", mock.addr())).backend(anthropic);
    let setup = all_types(setup, "", "first", "ok").model(super::typed("claude", "chat", &[("claude", "ok")]));
    let mut setup = setup;
    for name in ["RUST_API_BEARER", "DGX_GATEWAY_DEFAULT_USER_ID"] {
        setup = setup.variable(name, "");
    }
    let setup = setup.tokens(json!({"version": 1, "tenants": [{"id": "default"}],
        "tokens": [{"id": "user", "role": "user", "secrets": [{"value": BEARER}]}]}));
    let gateway = setup.start().await;
    let mut findings = Findings::default();
    let aliases = ["/chat/completions", "/completions", "/responses", "/embeddings"];
    let calls = CALLS.into_iter().map(|(kind, path)| (kind, path, path));
    let calls = calls.chain([("chat", COUNT, COUNT), ("claude", MESSAGES, MESSAGES), ("claude", COUNT, COUNT)]);
    let calls = calls.chain(CALLS.into_iter().flat_map(|(kind, path)| {
        aliases.iter().filter(move |alias| path == format!("/v1{alias}")).map(move |alias| (kind, *alias, path))
    }));
    for (kind, asked, path) in calls {
        mock.push(proper(path));
        let mut ask = Ask::post(asked, least(path, kind).to_string());
        ask.path.push_str("?canary=1&api-version=2");
        for (name, value) in UNWANTED.into_iter().chain(TRACE).chain(ANTHROPIC) {
            ask = ask.header(name, value);
        }
        ask = ask.header("x-tenant-id", "default").header("spass-tenant-id", "default");
        let what = format!("{kind} {asked}");
        findings.equal(&what, ask.of(gateway.addr).await.status, 200);
        compare(&mut findings, &what, path, mock.requests().last().unwrap(), kind == "claude");
    }
    findings.none();
}

#[tokio::test]
async fn lists_and_pages_reach_no_backend() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = all_types(Setup::new().backend(speaks_all("first", mock.addr())), "", "first", "ok").start().await;
    for path in ["/v1/models", "/v1/models/chat", "/v1/info", "/errors", "/api/version", "/docs/errors"] {
        let mut ask = Ask::new(Method::GET, path).bearer(BEARER);
        for (name, value) in UNWANTED {
            ask = ask.header(name, value);
        }
        let answer = ask.of(gateway.addr).await;
        assert_eq!(answer.status, 200, "{path}");
        let heads = format!("{:?}", answer.headers).replace("canary-taken-over", "");
        assert!(!heads.contains(CANARY), "{path} {heads}");
    }
    assert!(mock.requests().is_empty());
}
