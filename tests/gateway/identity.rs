//! Who may do what: the table of endpoints with its scopes and user ids, through the whole process.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use dgx_gateway_testkit::client::RawClient;
use dgx_gateway_testkit::mock::{MockUpstream, Script};
use http::Method;
use serde_json::json;

use crate::harness::{Answer, Gateway, Setup, backend, model, until};

const TOKENS: &str = r#"
version: 1
tenants: [{id: acme}, {id: default}]
tokens:
  - {id: user, role: user, bound_tenant: acme, secrets: [{value: user}]}
  - {id: admin, role: tenant_admin, bound_tenant: acme, secrets: [{value: admin}]}
  - {id: alice, role: user, bound_tenant: acme, default_user_id: alice, secrets: [{value: alice}]}
  - {id: bare, bound_tenant: acme, secrets: [{value: bare}]}
  - {id: reader, bound_tenant: acme, extra_scopes: ["models:read"], secrets: [{value: reader}]}
  - {id: denied, role: operator, deny_scopes: ["chat:*", "embeddings:create", "models:*"], bound_tenant: acme, secrets: [{value: denied}]}
  - {id: free, role: user, secrets: [{value: free}, {value: free-next}]}
  - {id: far, role: user, bound_tenant: acme, constraints: {cidrs: ["192.0.2.0/24"]}, secrets: [{value: far}]}
  - {id: old, role: user, bound_tenant: acme, secrets: [{value: old, expires_at: "2020-01-01T00:00:00Z"}, {value: early, not_before: "2999-01-01T00:00:00Z"}]}
"#;
/// Endpoints that need a user: path and body.
const CALLS: [(&str, &str); 6] = [
    ("/v1/chat/completions", r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#),
    ("/chat/completions", r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#),
    ("/v1/completions", r#"{"model": "m", "prompt": "hi"}"#),
    ("/completions", r#"{"model": "m", "prompt": "hi"}"#),
    ("/v1/embeddings", r#"{"model": "e", "input": "hi"}"#),
    ("/embeddings", r#"{"model": "e", "input": "hi"}"#),
];
/// Endpoints that use no user.
const LISTS: [&str; 5] = ["/v1/models", "/models", "/v1/models/m", "/models/m", "/v1/info"];

#[tokio::test]
async fn a_tokens_file_for_all_eyes_is_in_the_log_of_a_start_and_of_a_reload() {
    let mut gateway = Setup::new().tokens_yaml(TOKENS).start().await;
    let warnings =
        |gateway: &Gateway| gateway.log().matches("everyone on this machine can read the tokens file").count();
    let mode = |mode| std::fs::set_permissions(gateway.file("auth/tokens.yaml"), Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    assert_eq!(gateway.reload().await.0, 200);
    let before = warnings(&gateway);
    mode(0o644);
    assert_eq!(gateway.reload().await.0, 200);
    until("it is in the log", async || warnings(&gateway) > before).await;
    let before = warnings(&gateway);
    gateway.killed_and_started_again().await;
    until("it is in the log of the start", async || warnings(&gateway) > before).await;
}

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut embeds = model("e", &[("first", "embeds")]);
    embeds["type"] = json!("embedding");
    let setup = Setup::new().backend(backend("first", mock.addr())).model(model("m", &[("first", "x")])).model(embeds);
    // failed logins are counted by address: every path gets one of its own
    (setup.server("trusted_proxies", json!(["127.0.0.1/32"])).tokens_yaml(TOKENS).start().await, mock)
}

async fn ask(gateway: &Gateway, method: Method, path: &str, secret: &str, more: &[(&str, &str)], body: &str) -> Answer {
    let bearer = format!("bEaReR {secret}");
    let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
    headers.extend_from_slice(more);
    let mut raw = RawClient::connect(gateway.addr).await.unwrap();
    raw.request(&method, path, &headers, body.as_bytes()).await.unwrap();
    raw.read_response().await.unwrap().into()
}

#[tokio::test]
async fn calls_need_their_scope_and_a_user() {
    let (gateway, _mock) = started().await;
    let bob = ("spass-user-id", "bob");
    let (user_id, authorization) = ("headers.spass-user-id", "headers.authorization");
    for (index, (path, body)) in CALLS.into_iter().enumerate() {
        let client = format!("198.51.100.{index}");
        for (secret, mut more, status, code, param) in [
            ("user", vec![bob], 200, "", ""),
            ("admin", vec![bob], 200, "", ""),
            ("alice", vec![], 200, "", ""),
            ("alice", vec![("spass-user-id", "alice")], 200, "", ""),
            ("alice", vec![bob], 401, "invalid_authorization", authorization),
            ("user", vec![], 400, "missing_field", user_id),
            ("user", vec![("spass-user-id", "")], 400, "missing_field", user_id),
            ("admin", vec![], 400, "missing_field", user_id), // reading a tenant is for GET
            ("user", vec![("spass-user-id", "a b")], 400, "invalid_field", user_id),
            ("user", vec![bob, ("spass-scope-id", "a b")], 400, "invalid_field", "headers.spass-scope-id"),
            ("user", vec![bob, ("spass-scope-id", "p:1")], 200, "", ""),
            ("bare", vec![bob], 403, "forbidden", ""),
            ("reader", vec![bob], 403, "forbidden", ""),
            ("denied", vec![bob], 403, "forbidden", ""),
            ("denied", vec![], 403, "forbidden", ""), // the scope comes before the user
            ("far", vec![bob], 403, "forbidden", ""),
            ("old", vec![bob], 401, "invalid_authorization", authorization),
            ("early", vec![bob], 401, "invalid_authorization", authorization),
            ("nobody", vec![bob], 401, "invalid_authorization", authorization),
            ("user", vec![bob, ("spass-tenant-id", "acme"), ("x-tenant-id", "acme")], 200, "", ""),
            ("user", vec![bob, ("x-tenant-id", "default")], 401, "invalid_authorization", authorization),
            ("free", vec![bob], 200, "", ""), // there is a tenant default
            ("free-next", vec![bob, ("x-tenant-id", "acme")], 200, "", ""),
            ("free", vec![bob, ("x-tenant-id", "nobody")], 401, "invalid_authorization", authorization),
            (
                "free",
                vec![bob, ("x-tenant-id", "acme"), ("spass-tenant-id", "default")],
                400,
                "invalid_field",
                "headers.spass-tenant-id",
            ),
        ] {
            more.push(("x-forwarded-for", client.as_str()));
            let answer = ask(&gateway, Method::POST, path, secret, &more, body).await;
            if status == 200 {
                answer.is_ok();
            } else {
                answer.is_error(status, code, param);
                assert_eq!(answer.header("www-authenticate"), (status == 401).then_some("Bearer"));
                assert!(!answer.text().contains("create"), "the scope is for the log only: {}", answer.text());
            }
        }
    }
    let says = |scope: &str| gateway.log().contains(&format!(r#""scope.missing":"{scope}""#));
    until("the log names the scopes", async || says("chat:create") && says("embeddings:create")).await;
}

#[tokio::test]
async fn lists_need_their_scope_and_no_user() {
    let (gateway, _mock) = started().await;
    for path in LISTS {
        for (secret, more, status) in [
            ("user", vec![], 200),
            ("reader", vec![], 200),
            ("alice", vec![("spass-user-id", "bob")], 200), // not used, so not compared
            ("user", vec![("spass-user-id", "not a user")], 200),
            ("bare", vec![], 403),
            ("denied", vec![], 403),
        ] {
            let answer = ask(&gateway, Method::GET, path, secret, &more, "").await;
            assert_eq!(answer.status, status, "{path} {secret} {}", answer.text());
        }
        let path = format!("{path}?user_id=bob");
        ask(&gateway, Method::GET, &path, "user", &[], "").await.is_ok();
        let bad_scope = [("spass-scope-id", "a b")];
        let answer = ask(&gateway, Method::GET, &path, "user", &bad_scope, "").await;
        answer.is_error(400, "invalid_field", "headers.spass-scope-id");
    }
}

#[tokio::test]
async fn the_user_stands_in_the_header_only() {
    let (gateway, mock) = started().await;
    for (path, body) in CALLS {
        for query in ["user_id=alice", "a=1&user%5fid=alice", "user_id"] {
            let path = format!("{path}?{query}");
            let answer = ask(&gateway, Method::POST, &path, "alice", &[], body).await;
            answer.is_error(400, "invalid_field", "query.user_id");
        }
        let with = |member: &str| body.replacen('{', &format!("{{{member}, "), 1);
        for member in [r#""user_id": "alice""#, r#""user\u005fid": null"#, r#""user_id": {}"#] {
            let answer = ask(&gateway, Method::POST, path, "alice", &[], &with(member)).await;
            answer.is_error(400, "invalid_field", "body.user_id");
        }
        for member in [r#""metadata": {"user_id": "x"}"#, r#""user": "someone""#, r#""x": [{"user_id": 1}]"#] {
            let before = mock.requests().len();
            ask(&gateway, Method::POST, path, "alice", &[], &with(member)).await.is_ok();
            let seen = mock.requests().split_off(before);
            assert!(
                seen.iter().any(|request| String::from_utf8_lossy(&request.body).contains(member)),
                "{member} is untouched"
            );
        }
    }
}

#[tokio::test]
async fn public_pages_need_nobody_and_look_at_no_credential() {
    let gateway = Setup::new().tokens_yaml(TOKENS).start().await;
    for path in ["/healthz", "/livez", "/health", "/api/version", "/errors", "/docs/errors"] {
        for secret in ["nobody", "old", "bare"] {
            ask(&gateway, Method::GET, path, secret, &[("spass-user-id", "a b"), ("x-tenant-id", "x")], "")
                .await
                .is_ok();
        }
    }
}
