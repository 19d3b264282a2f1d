//! The audit log over a reload: what is recorded of it, and what changes with it.

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::{Value, json};

use super::{APP, TOKENS, ask, chat, started};
use crate::harness::{Gateway, Setup, Stage, soon, until};

/// Puts a member of the main file in place and waits until it is in use.
async fn set(gateway: &Gateway, key: &str, value: Value) {
    let text = std::fs::read_to_string(gateway.file("conf/gateway.yaml")).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    file[key] = value;
    gateway.put("conf/gateway.yaml", &file.to_string());
    assert_eq!(gateway.reload().await.0, 200);
}

/// Puts a closed file of so many days ago into the folder.
fn closed(gateway: &Gateway, days: i32) -> std::path::PathBuf {
    let day = Timestamp::now().to_zoned(TimeZone::UTC).date().saturating_sub(days.days());
    let path = gateway.data("audit").join(format!("audit-{day}-1.jsonl"));
    std::fs::write(&path, "{}\n").unwrap();
    path
}

fn told(lines: &[Value]) -> Vec<Value> {
    lines.iter().map(|line| json!([line["action"], line["ok"], line["detail"]])).collect()
}

#[tokio::test]
async fn a_reload_has_a_record_whether_it_succeeds_or_not() {
    let (_mock, gateway) = started().await;
    assert_eq!(gateway.reload().await.0, 200);
    gateway.audited("admin", 2).await;
    gateway.put("data/other", ""); // what is not read has no part in it
    gateway.put("auth/tokens.yaml", &format!("{TOKENS}\ncolour: red\n"));
    assert_eq!(gateway.reload().await.0, 422);
    until("the refusal is recorded", async || gateway.audit("admin").iter().any(|line| line["ok"] == false)).await;
    gateway.put("auth/tokens.yaml", &format!("{TOKENS}\n# another text\n"));
    until("the new file is recorded", async || {
        told(&gateway.audit("admin")).contains(&json!(["reload", true, "generation 3; changed: auth/tokens.yaml"]))
    })
    .await;
    let lines = gateway.audit("admin");
    let told = told(&lines);
    assert_eq!(told[0][0], "start");
    assert_eq!(told[1], json!(["reload", true, "generation 2; changed: "]));
    assert_eq!(told[2], json!(["reload", false, "auth/tokens.yaml"]), "{told:?}");
    for line in &lines {
        let whose = ["request_id", "parent_request_id", "tenant_id", "token_id", "user_id"].map(|key| &line[key]);
        assert_eq!(whose, [&Value::Null; 5], "an act of the operator belongs to no request: {line}");
    }
}

#[tokio::test]
async fn what_is_kept_follows_a_reload_and_nothing_that_is_recorded_is_lost() {
    let (_mock, gateway) = started().await;
    let headers = [("authorization", APP), ("spass-user-id", "bob")];
    assert_eq!(ask(&gateway, &headers, &chat("m", false)).await, 200);
    let [old, recent] = [10, 2].map(|days| closed(&gateway, days));
    set(&gateway, "audit", json!({"keep_days": 5})).await;
    until("the old file is removed", async || !old.exists()).await;
    assert!(recent.exists(), "it is kept for five days");
    let ancient = closed(&gateway, 3000);
    set(&gateway, "audit", json!({"keep_days": 0})).await;
    set(&gateway, "audit", json!({"keep_days": 5000})).await;
    assert_eq!(ask(&gateway, &headers, &chat("m", false)).await, 200);
    // start, three reloads, two requests, in one file
    assert_eq!(told(&gateway.audited("admin", 4).await)[1][0], "reload");
    gateway.audited("http", 2).await;
    assert!(ancient.exists() && recent.exists(), "0 keeps everything");
    set(&gateway, "audit", json!({"keep_days": 1})).await;
    until("all old files are removed", async || !ancient.exists() && !recent.exists()).await;
    assert!(gateway.data("audit/audit.jsonl").exists(), "the file in use is not one of them");
}

#[tokio::test]
async fn pseudonyms_begin_with_the_requests_after_the_reload() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).tokens_yaml(TOKENS).start().await;
    let begun = async |user: &str| {
        let mut client = gateway.client_with("secret-of-the-app-0123456789").await;
        client.send(&http::Method::POST, super::CHAT, &[("spass-user-id", user)], chat("m", false).as_bytes()).await;
        client
    };
    let mut before = begun("before").await;
    let mut first = stage.caller().await;
    let hidden = TOKENS.replace("{id: acme}", "{id: acme, defaults: {audit_user_id_pseudonymize: true}}");
    gateway.put("auth/tokens.yaml", &hidden);
    assert_eq!(gateway.reload().await.0, 200);
    let mut after = begun("after").await;
    let mut second = stage.caller().await;
    for caller in [&mut first, &mut second] {
        caller.answer(r#"{"id":"c","object":"chat.completion","created":1,"model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#).await;
    }
    soon("the first answer", before.answer()).await.is_ok();
    soon("the second answer", after.answer()).await.is_ok();
    for kind in ["http", "cost"] {
        let lines = gateway.audited(kind, 2).await;
        let users: Vec<&str> = lines.iter().map(|line| line["user_id"].as_str().unwrap()).collect();
        assert!(users.contains(&"before"), "a request keeps what it began with: {users:?}");
        assert_eq!(users.iter().filter(|user| user.len() == 34 && user.starts_with("u_")).count(), 1, "{users:?}");
    }
    assert!(!gateway.audit_text().contains("\"after\""));
}
