//! The usage report as a caller meets it: own tenant only, exact amounts, every wrong query.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, Setup, backend};

const TOKENS: &str = r#"
version: 1
tenants: [{id: acme, defaults: {cost_markup_factor: "1.20"}}, {id: other}]
tokens:
  - {id: app, bound_tenant: acme, role: user, extra_scopes: ["billing:read"], secrets: [{value: secret-of-acme}]}
  - {id: chat-only, bound_tenant: acme, role: user, secrets: [{value: secret-without-billing}]}
  - {id: there, bound_tenant: other, role: user, extra_scopes: ["billing:read"], secrets: [{value: secret-of-other}]}
"#;

async fn ask(gateway: &Gateway, secret: &str, method: Method, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {secret}");
    let mut more = vec![("authorization", &*bearer), ("spass-user-id", "alice")];
    if !body.is_empty() {
        more.push(("content-type", "application/json"));
    }
    let mut client = gateway.client().await;
    client.raw.request(&method, path, &more, body.as_bytes()).await.unwrap();
    client.answer().await
}

async fn usage(gateway: &Gateway, secret: &str, query: &str) -> Answer {
    ask(gateway, secret, Method::GET, &format!("/v1/billing/usage?{query}"), "").await
}

/// From an hour ago to an hour from now.
fn around_now() -> String {
    let (now, hour) = (Timestamp::now(), SignedDuration::from_hours(1));
    format!("from={}&to={}&granularity=day", now - hour, now + hour)
}

async fn setup() -> (MockUpstream, Gateway) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    let body = r#"{"id":"c","object":"chat.completion","created":1,"model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":9,"cost":0.0114}}"#;
    let answered = Behaviour::Status { status: StatusCode::OK, headers, body: body.into() };
    let mock = MockUpstream::start(Script::always(answered).with_looks_apart()).await.unwrap();
    let mut first = backend("first", mock.addr());
    first["domain"] = "cloud".into();
    let model = json!({"alias": "m", "route": [{"backend": "first", "model": "upstream-name"}]});
    let gateway = Setup::new().backend(first).model(model).tokens_yaml(TOKENS).start().await;
    (mock, gateway)
}

#[tokio::test]
async fn a_tenant_sees_what_it_was_billed_and_nothing_of_others() {
    let (_mock, gateway) = setup().await;
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    for secret in ["secret-of-acme", "secret-without-billing", "secret-of-other"] {
        ask(&gateway, secret, Method::POST, "/v1/chat/completions", &chat).await.is_ok();
    }
    // 0.0114 × 0.8546 × 1.05 × 1.20 = 0.012275..., twice; without the factor 0.010229...
    let acme = usage(&gateway, "secret-of-acme", &around_now()).await;
    let report = acme.is_ok().json();
    assert_eq!((&report["tenant_id"], &report["granularity"]), (&json!("acme"), &json!("day")));
    let total = r#""total":{"requests":2,"cost_eur":0.04,"cost_usd":0.04,"upstream_cost_usd":0.0228}}"#;
    assert!(acme.text().ends_with(total), "{}", acme.text());
    let model = r#""by_model":{"m":{"requests":2,"cost_eur":0.04,"cost_usd":0.04,"upstream_usd":0.0228}},"by_cost_source":{"upstream":2}"#;
    assert!(acme.text().contains(model), "{}", acme.text());
    let other = usage(&gateway, "secret-of-other", &around_now()).await;
    assert_eq!((&other.json()["tenant_id"], &other.json()["total"]["requests"]), (&json!("other"), &json!(1)));
    let before = "from=2026-05-16&to=2026-05-17";
    assert_eq!(usage(&gateway, "secret-of-acme", before).await.is_ok().json()["buckets"], json!([]));
}

#[tokio::test]
async fn wrong_queries_and_missing_rights_are_refused() {
    let (_mock, gateway) = setup().await;
    for (query, code, param) in [
        ("", "missing_field", "query.from"),
        ("from=2026-05-16", "missing_field", "query.to"),
        ("from=now&to=2026-05-17", "invalid_field", "query.from"),
        ("from=2026-05-16&to=later", "invalid_field", "query.to"),
        ("from=2026-05-16&to=2026-05-17&granularity=week", "invalid_field", "query.granularity"),
        ("from=2026-05-16&to=2026-05-15", "invalid_range", "query.to"),
        ("from=2026-05-01&to=2026-06-01T00:00:01Z", "invalid_range", "query.to"),
    ] {
        usage(&gateway, "secret-of-acme", query).await.is_error(400, code, param);
    }
    let query = "from=2026-05-16T02:00:00+02:00&to=2026-05-17T02:00:00+02:00";
    let report = usage(&gateway, "secret-of-acme", query).await.is_ok().json();
    let empty = json!({"requests": 0, "cost_eur": 0.0, "cost_usd": 0.0, "upstream_cost_usd": 0});
    assert_eq!((&report["from"], &report["total"]), (&Value::from("2026-05-16T00:00:00+00:00"), &empty));
    let path = "/v1/billing/usage?from=2026-05-16&to=2026-05-17";
    let mut client = gateway.client().await;
    client.raw.request(&Method::HEAD, path, &[("authorization", "Bearer secret-of-acme")], b"").await.unwrap();
    let (status, headers) = client.read_head().await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "application/json"));
    assert_eq!(usage(&gateway, "secret-without-billing", "from=2026-05-16&to=2026-05-17").await.status, 403);
    assert_eq!(usage(&gateway, "nobody", "from=2026-05-16&to=2026-05-17").await.status, 401);
    assert_eq!(ask(&gateway, "secret-of-acme", Method::POST, path, "{}").await.status, 405);
}
