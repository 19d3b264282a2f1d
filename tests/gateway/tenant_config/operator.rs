//! Keys that operators alone set, at each of their levels: what real requests make of the cost factor and of pseudonyms.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, Method, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{ask, get, put};
use crate::harness::{BEARER, Gateway, Setup, backend, model, until};

const CHAT: &str = r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
/// 100 dollars are 89.733 euros at a factor of one: 100 × 0.8546 × 1.05.
const ANSWER: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":9,"cost":100}}"#;

/// A tokens file: the settings of three tenants. Secrets are the ids of the tokens.
fn tokens(of_default: &Value, acme: &Value, globex: &Value) -> Value {
    let tenant = |id: &str, defaults: &Value| json!({"id": id, "defaults": defaults});
    let token = |tenant: &str, kind: &str, role: &str| {
        let id = format!("{tenant}-{kind}");
        json!({"id": id, "role": role, "bound_tenant": tenant, "secrets": [{"value": id}]})
    };
    json!({"version": 1,
        "tenants": [tenant("default", of_default), tenant("acme", acme), tenant("globex", globex)],
        "tokens": [token("acme", "user", "user"), token("acme", "admin", "tenant_admin"),
            token("globex", "user", "user"), token("globex", "admin", "tenant_admin")]})
}

async fn started(tokens: Value, variable: (&'static str, &str)) -> (MockUpstream, Gateway) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    let answered = Behaviour::Status { status: StatusCode::OK, headers, body: ANSWER.into() };
    let mock = MockUpstream::start(Script::always(answered).with_looks_apart()).await.unwrap();
    let mut first = backend("first", mock.addr());
    first["domain"] = "cloud".into();
    let setup = Setup::new().backend(first).model(model("m", &[("first", "x")])).tokens(tokens);
    (mock, setup.variable(variable.0, variable.1).start().await)
}

/// What a chat of this token is said to cost, in euros.
async fn cost(gateway: &Gateway, token: &str) -> String {
    let answer = ask(gateway.addr, token, &Method::POST, "/v1/chat/completions", CHAT).await;
    answer.is_ok().header("spass-cost-eur").unwrap().to_owned()
}

/// One text of each row of a query.
fn rows(gateway: &Gateway, query: &str) -> Vec<String> {
    let connection = Connection::open(gateway.data("sqlite/gateway.sqlite")).unwrap();
    let mut select = connection.prepare(query).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

async fn booked(gateway: &Gateway, count: usize) {
    until("the requests are booked", async || rows(gateway, "SELECT tenant_id FROM usage_requests").len() == count)
        .await;
}

#[tokio::test]
async fn the_cost_factor_of_each_level_is_what_requests_are_billed_by() {
    const VARIABLE: &str = "DGX_GATEWAY_COST_MARKUP_FACTOR";
    let file = tokens(&json!({"cost_markup_factor": 3}), &json!({}), &json!({"cost_markup_factor": "0.50"}));
    let (_mock, gateway) = started(file, (VARIABLE, "2")).await;
    // the file of the operator goes before the environment, tenant by tenant
    let of_default = gateway.chat(CHAT).await;
    assert_eq!(of_default.is_ok().header("spass-cost-eur"), Some("269.20"));
    assert_eq!(of_default.header("spass-cost-usd"), Some("315.00"), "billed euros ÷ rate");
    assert_eq!(
        (cost(&gateway, "acme-user").await, cost(&gateway, "globex-user").await),
        ("179.47".into(), "44.87".into())
    );
    booked(&gateway, 3).await;
    let written =
        "SELECT tenant_id || ' ' || cost_markup_factor || ' ' || billed_eur || ' ' || billed_usd || ' ' || upstream_usd
         FROM usage_requests ORDER BY tenant_id";
    let expected = ["acme 2 179.47 210.00 100", "default 3 269.20 315.00 100", "globex 0.5 44.87 52.50 100"];
    assert_eq!(rows(&gateway, written), expected);
    let exact = rows(&gateway, "SELECT eur_exact FROM usage_calls ORDER BY tenant_id");
    assert_eq!(exact, ["179.466", "269.199", "44.8665"], "rounded once per request, not per call");
    let mut billed: Vec<String> = gateway
        .audited("cost", 3)
        .await
        .iter()
        .map(|line| format!("{} {}", line["tenant_id"].as_str().unwrap(), line["billed_eur"].as_str().unwrap()))
        .collect();
    billed.sort_unstable();
    assert_eq!(billed, ["acme 179.47", "default 269.20", "globex 44.87"]);
    for (tenant, value, source) in [("acme", "2", "process"), ("globex", "0.50", "yaml")] {
        let shown = get(gateway.addr, &format!("{tenant}-admin"), "/cost_markup_factor").await;
        assert_eq!((super::value_in(shown.is_ok().text()), &shown.json()["source"]), (value, &json!(source)));
        let refused = put(gateway.addr, &format!("{tenant}-admin"), "/cost_markup_factor", r#"{"value": 0.01}"#).await;
        refused.is_error(400, "tenant_config_key_readonly", "path.key");
    }
}

#[tokio::test]
async fn a_new_cost_factor_counts_from_the_next_request_on_and_without_one_it_is_one() {
    let file = tokens(&json!({}), &json!({"cost_markup_factor": 1.2}), &json!({}));
    let (_mock, gateway) = started(file, ("DGX_GATEWAY_COST_MARKUP_FACTOR", "")).await;
    assert_eq!(gateway.chat(CHAT).await.is_ok().header("spass-cost-eur"), Some("89.74"));
    assert_eq!(
        (cost(&gateway, "acme-user").await, cost(&gateway, "globex-user").await),
        ("107.68".into(), "89.74".into())
    );
    gateway.put("auth/tokens.yaml", &tokens(&json!({}), &json!({}), &json!({"cost_markup_factor": 100})).to_string());
    assert_eq!(gateway.reload().await.0, 200);
    assert_eq!(
        (cost(&gateway, "acme-user").await, cost(&gateway, "globex-user").await),
        ("89.74".into(), "8973.30".into())
    );
    booked(&gateway, 5).await;
    let factors = rows(&gateway, "SELECT cost_markup_factor FROM usage_requests ORDER BY settled_at, request_uid");
    assert_eq!(factors, ["1", "1.2", "1", "1", "100"], "rows that are written keep theirs");
}

#[tokio::test]
async fn pseudonyms_of_each_level_stand_in_the_ledger_and_in_the_audit_log() {
    const VARIABLE: &str = "DGX_GATEWAY_AUDIT_USER_ID_PSEUDONYMIZE";
    let open = json!({"audit_user_id_pseudonymize": false});
    let (_mock, gateway) = started(tokens(&json!({}), &json!({}), &open), (VARIABLE, "true")).await;
    cost(&gateway, "acme-user").await;
    cost(&gateway, "globex-user").await;
    assert!(gateway.client_with(BEARER).await.chat(CHAT).await.is_ok().text().contains("choices"));
    booked(&gateway, 3).await;
    let users =
        |table: &str| rows(&gateway, &format!("SELECT tenant_id || ' ' || user_id FROM {table} ORDER BY tenant_id"));
    let in_ledger = users("usage_requests");
    assert_eq!(users("usage_calls"), in_ledger);
    assert_eq!(in_ledger[2], "globex alice", "the tenant goes before the environment");
    for (of_tenant, tenant) in in_ledger.iter().zip(["acme", "default"]) {
        let name = of_tenant.strip_prefix(tenant).unwrap().trim();
        assert!(name.len() == 34 && name.starts_with("u_"), "{of_tenant}");
    }
    for kind in ["http", "cost"] {
        let lines = gateway.audited(kind, 3).await;
        let mut seen: Vec<String> = lines
            .iter()
            .map(|line| format!("{} {}", line["tenant_id"].as_str().unwrap(), line["user_id"].as_str().unwrap()))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, in_ledger, "both call a user the same");
        if kind == "http" {
            for line in &lines {
                assert_eq!(line["client_ip"].is_null(), line["tenant_id"] != "globex", "{line}");
            }
        }
    }
    let shown = get(gateway.addr, "acme-admin", "/audit_user_id_pseudonymize").await.is_ok().json();
    assert_eq!((&shown["value"], &shown["source"], &shown["group"]), (&json!(true), &json!("process"), &json!("B")));
}
