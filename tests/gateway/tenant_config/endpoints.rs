//! The endpoints, row by row.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use http::Method;
use serde_json::{Value, json};

use super::{CONFIG, KEYS, ask, asked, delete, get, put, tokens, value_in, with_models};
use crate::harness::{Gateway, until};

async fn started() -> Gateway {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let acme = json!({"cost_markup_factor": "1.20", "compaction_threshold": "0.85"});
    with_models(mock.addr()).tokens(tokens(&acme)).start().await
}

#[tokio::test]
async fn all_keys_are_listed_by_group_and_name_as_the_contract_writes_them() {
    let gateway = started().await;
    put(gateway.addr, "acme-admin", "/compaction_threshold", r#"{"value": 0.750}"#).await.is_ok();
    let answer = get(gateway.addr, "acme-reader", "").await;
    let text = answer.is_ok().text();
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(text.starts_with(r#"{"tenant_id":"acme","config":{"ALLOWED_EMBEDDING_MODELS":{"value":["embeds"],"source":"process","group":"A","type":"list","default":["embeds"],"writable":false,"updated_at":null,"updated_by":null},"ALLOWED_MODELS":{"value":["m","other","painter","embeds","hears"],"#), "{text}");
    for entry in [
        r#""MAX_BYTES_PER_BUCKET":{"value":65536,"source":"process","group":"A","type":"integer","default":65536,"writable":false,"updated_at":null,"updated_by":null}"#,
        r#""cost_markup_factor":{"value":1.20,"source":"yaml","group":"B","type":"decimal","default":1.00,"writable":false,"updated_at":null,"updated_by":null}"#,
        r#""models_allowlist":{"value":null,"source":"process","group":"B","type":"list","default":null,"writable":false,"updated_at":null,"updated_by":null}"#,
        r#""compaction_threshold":{"value":0.750,"source":"db","group":"C","type":"decimal","default":0.80,"writable":true,"updated_at":"20"#,
        r#""image_gen_size":{"value":"1024x1024","source":"process","group":"C","type":"string","default":"1024x1024","writable":true,"#,
        r#""web_fetch_deny_domains":{"value":[],"source":"process","group":"C","type":"list","default":[],"writable":true,"#,
    ] {
        assert!(text.contains(entry), "{entry} in {text}");
    }
    let listed = answer.json();
    let names: Vec<(String, String)> = serde_json::from_str::<serde_json::Map<String, Value>>(
        serde_json::to_string(&listed["config"]).unwrap().as_str(),
    )
    .unwrap()
    .iter()
    .map(|(name, entry)| (entry["group"].as_str().unwrap().to_owned(), name.clone()))
    .collect();
    assert_eq!(names.len(), 3 + 5 + KEYS.len());
    let mut sorted = names.clone();
    sorted.sort();
    let written: Vec<usize> = sorted.iter().map(|(_, name)| text.find(&format!("\"{name}\":{{")).unwrap()).collect();
    assert!(written.is_sorted(), "{written:?}");
    for (key, ..) in KEYS {
        assert_eq!(listed["config"][key]["group"], "C", "{key}");
    }
}

#[tokio::test]
async fn every_key_is_set_read_and_reset() {
    let gateway = started().await;
    let (addr, admin) = (gateway.addr, "acme-admin");
    for (key, good, bad) in KEYS {
        let path = format!("/{key}");
        let default = get(addr, admin, &path).await;
        let refused = put(addr, admin, &path, &format!("{{\"value\": {bad}}}")).await;
        refused.is_error(400, "tenant_config_value_invalid", "value");
        let answer = put(addr, admin, &path, &format!(" {{\"ignored\": [], \"value\": {good}}}")).await;
        let (text, entry) = (answer.is_ok().text(), answer.json());
        assert!(
            text.starts_with(&format!("{{\"key\":\"{key}\",\"value\":{good},\"source\":\"db\",\"group\":\"C\",")),
            "{text}"
        );
        assert_eq!((&entry["updated_by"], &entry["writable"]), (&json!(admin), &json!(true)), "{text}");
        assert!(entry["updated_at"].as_str().is_some_and(|at| at.len() == 20 && at.ends_with('Z')), "{text}");
        assert_eq!(entry["default"], default.json()["default"]);
        assert_eq!(get(addr, admin, &path).await.is_ok().text(), text, "the next request sees it");
        let refused = put(addr, admin, "", &format!("{{\"config\": {{\"{key}\": {bad}}}}}")).await;
        refused.is_error(400, "tenant_config_value_invalid", &format!("config.{key}"));
        for _ in 0..2 {
            let answer = delete(addr, admin, &path).await;
            assert_eq!((answer.status, answer.text()), (204, ""));
        }
        assert_eq!(get(addr, admin, &path).await.is_ok().text(), default.text());
    }
}

#[tokio::test]
async fn decimals_keep_their_digits_and_may_be_texts() {
    let gateway = started().await;
    for (sent, shown) in [("0.5", "0.5"), ("\"0.50\"", "0.50"), ("7e-1", "0.7"), ("\"0.8500\"", "0.8500")] {
        delete(gateway.addr, "acme-admin", "/compaction_threshold").await;
        let answer = put(gateway.addr, "acme-admin", "/compaction_threshold", &format!("{{\"value\":{sent}}}")).await;
        assert_eq!(value_in(answer.is_ok().text()), shown);
    }
    for bad in ["\"a lot\"", "true", "[0.5]", "0.95001", "0.2999999999999999999999999999", "1e300", "\"\""] {
        let answer = put(gateway.addr, "acme-admin", "/compaction_threshold", &format!("{{\"value\":{bad}}}")).await;
        answer.is_error(400, "tenant_config_value_invalid", "value");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_written_say_why() {
    let gateway = started().await;
    let (addr, admin) = (gateway.addr, "acme-admin");
    let fixed = ["ALLOWED_MODELS", "ALLOWED_EMBEDDING_MODELS", "MAX_BYTES_PER_BUCKET"];
    let operators = [
        "cost_markup_factor",
        "models_allowlist",
        "models_blacklist",
        "audit_user_id_pseudonymize",
        "c1_require_user_id_binding",
    ];
    let settings = [
        "secrets",
        "extra_scopes",
        "deny_scopes",
        "constraints",
        "constraints.models",
        "constraints.max_tokens",
        "rate_limit",
        "rate_limit_bypass",
        "budgets",
        "limits",
    ];
    for key in fixed.iter().chain(&operators).chain(&settings) {
        let path = format!("/{key}");
        for answer in [put(addr, admin, &path, r#"{"value": 1}"#).await, delete(addr, admin, &path).await] {
            answer.is_error(400, "tenant_config_key_readonly", "path.key");
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            if !fixed.contains(key) {
                assert_eq!(message, format!("Key {key} is set by the operator in tokens.yaml."));
            }
        }
        let answer = put(addr, admin, "", &format!("{{\"config\": {{\"{key}\": 1}}}}")).await;
        answer.is_error(400, "tenant_config_key_readonly", &format!("config.{key}"));
        let status = if settings.contains(key) { 400 } else { 200 };
        assert_eq!(get(addr, admin, &path).await.status, status, "{key}");
    }
    for key in ["nonsense", "Augment_memory", "augment_memory ", "budgets", "%ff", "secrets.0"] {
        let path = format!("/{}", key.replace(' ', "%20"));
        get(addr, admin, &path).await.is_error(400, "tenant_config_key_unknown", "path.key");
        if key != "budgets" {
            put(addr, admin, &path, r#"{"value": 1}"#).await.is_error(400, "tenant_config_key_unknown", "path.key");
            delete(addr, admin, &path).await.is_error(400, "tenant_config_key_unknown", "path.key");
        }
    }
    put(addr, admin, "/%72ag_top_k", r#"{"value": 3}"#).await.is_ok();
}

#[tokio::test]
async fn bodies_are_checked_before_keys_and_values() {
    let gateway = started().await;
    let (addr, admin) = (gateway.addr, "acme-admin");
    for path in ["/rag_top_k", "/nonsense", ""] {
        for body in ["{", "[]", "5", r#"{"value": 1, "value": 2}"#, r#"{"config": {}, "config": {}}"#, " "] {
            put(addr, admin, path, body).await.is_error(400, "invalid_json", "");
        }
        let text = [("authorization", "Bearer acme-admin"), ("content-type", "text/plain")];
        let answer = asked(addr, &Method::PUT, &format!("{CONFIG}{path}"), &text, "{}").await;
        answer.is_error(415, "unsupported_media_type", "headers.content-type");
        let large = format!("{{\"x\": \"{}\"}}", "x".repeat(1 << 20));
        put(addr, admin, path, &large).await.is_error(413, "body_too_large", "");
    }
    put(addr, admin, "/rag_top_k", "{}").await.is_error(400, "missing_field", "value");
    put(addr, admin, "/rag_top_k", r#"{"value": null}"#).await.is_error(400, "tenant_config_value_invalid", "value");
    put(addr, admin, "", r#"{"value": 1}"#).await.is_error(400, "missing_field", "config");
    for config in ["null", "[]", "\"x\"", "5", "true"] {
        put(addr, admin, "", &format!("{{\"config\": {config}}}")).await.is_error(400, "invalid_field", "config");
    }
    let twice = r#"{"config": {"rag_top_k": 1, "rag_top_\u006b": 2}}"#;
    put(addr, admin, "", twice).await.is_error(400, "invalid_json", "");
    put(addr, admin, "", r#"{"config": {}, "user_id": "x"}"#).await.is_ok();
    for (method, path) in [(Method::POST, ""), (Method::DELETE, ""), (Method::POST, "/rag_top_k")] {
        let answer = ask(addr, admin, &method, &format!("{CONFIG}{path}"), "").await;
        answer.is_error(405, "method_not_allowed", "");
    }
    ask(addr, admin, &Method::GET, &format!("{CONFIG}/a/b"), "").await.is_error(404, "route_not_found", "");
    assert_eq!(get(addr, admin, "/rag_top_k/").await.is_ok().json()["value"], 5);
}

#[tokio::test]
async fn many_keys_change_together_or_not_at_all() {
    let gateway = started().await;
    let (addr, admin) = (gateway.addr, "acme-admin");
    let before = get(addr, admin, "").await;
    for (config, code, param) in [
        // what is not known is told first, then what is read-only, then values; each the first in the document
        (r#""rag_top_k": 0, "budgets": 1, "z": 1, "a": 1"#, "key_unknown", "config.z"),
        (r#""rag_top_k": 0, "secrets": 1, "ALLOWED_MODELS": 1, "stt_model": null"#, "key_readonly", "config.secrets"),
        (r#""tool_timeout_seconds": 5, "rag_top_k": 0, "augment_memory": 0"#, "value_invalid", "config.rag_top_k"),
        (r#""stt_model": "m", "rag_top_k": 0"#, "value_invalid", "config.stt_model"),
        (r#""tool_timeout_seconds": 5, "rag_chunk_tokens": 100"#, "value_invalid", "config.rag_chunk_tokens"),
    ] {
        let answer = put(addr, admin, "", &format!("{{\"config\": {{{config}}}}}")).await;
        answer.is_error(400, &format!("tenant_config_{code}"), param);
    }
    assert_eq!(get(addr, admin, "").await.text(), before.text());
    let all: Vec<String> = KEYS.iter().map(|(key, good, _)| format!("\"{key}\": {good}")).collect();
    let answer = put(addr, admin, "", &format!("{{\"config\": {{{}}}}}", all.join(","))).await;
    let listed = answer.is_ok().json();
    for (key, good, _) in KEYS {
        let entry = &listed["config"][key];
        assert_eq!((&entry["value"], &entry["source"]), (&serde_json::from_str(good).unwrap(), &json!("db")), "{key}");
    }
    assert_eq!(get(addr, admin, "").await.text(), answer.text());
}

#[tokio::test]
async fn null_is_a_value_where_a_key_allows_it_and_resets_nothing() {
    let gateway = started().await;
    let (addr, admin) = (gateway.addr, "acme-admin");
    assert_eq!(get(addr, admin, "/rag_embedding_model").await.json()["value"], "nomic-embed");
    let answer = put(addr, admin, "/rag_embedding_model", r#"{"value": null}"#).await.is_ok().json();
    assert_eq!((&answer["value"], &answer["source"]), (&Value::Null, &json!("db")));
    delete(addr, admin, "/rag_embedding_model").await;
    assert_eq!(get(addr, admin, "/rag_embedding_model").await.json()["source"], "process");
}

#[tokio::test]
async fn scopes_and_tenants_are_those_of_the_contract() {
    let gateway = started().await;
    let addr = gateway.addr;
    get(addr, "acme-user", "").await.is_error(403, "forbidden", "");
    get(addr, "acme-user", "/rag_top_k").await.is_error(403, "forbidden", "");
    put(addr, "acme-reader", "/rag_top_k", "{").await.is_error(403, "forbidden", "");
    put(addr, "acme-reader", "", "{").await.is_error(403, "forbidden", "");
    delete(addr, "acme-reader", "/rag_top_k").await.is_error(403, "forbidden", "");
    get(addr, "nobody", "").await.is_error(401, "invalid_authorization", "headers.authorization");
    put(addr, "acme-admin", "/rag_top_k", r#"{"value": 7}"#).await.is_ok();
    let globex = get(addr, "globex-admin", "").await.is_ok().json();
    assert_eq!((&globex["tenant_id"], &globex["config"]["rag_top_k"]["value"]), (&json!("globex"), &json!(5)));
    assert_eq!(globex["config"]["cost_markup_factor"]["source"], "process");
    delete(addr, "globex-admin", "/rag_top_k").await;
    assert_eq!(get(addr, "acme-reader", "/rag_top_k").await.is_ok().json()["value"], 7);
    for (tenant, value) in [("acme", 7), ("globex", 5)] {
        let headers = [("authorization", "Bearer operator"), ("spass-tenant-id", tenant)];
        let answer = asked(addr, &Method::GET, &format!("{CONFIG}/rag_top_k"), &headers, "").await;
        assert_eq!(answer.is_ok().json()["value"], value, "{tenant}");
    }
}

#[tokio::test]
async fn models_are_those_that_the_tenant_may_use() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut tokens = tokens(&json!({"models_allowlist": ["m", "hears"]}));
    // what the token itself may use does not matter
    tokens["tokens"][0]["constraints"] = json!({"models": ["hears"]});
    let gateway = with_models(mock.addr()).tokens(tokens).start().await;
    let set = async |key: &str, value: &str| {
        put(gateway.addr, "acme-admin", &format!("/{key}"), &format!("{{\"value\": \"{value}\"}}")).await
    };
    for (key, good, bad) in [
        ("default_model", "m", ["other", "hears", "unknown"]),
        ("compaction_model", "m-local", ["other", "painter", ""]),
        ("stt_model", "hears", ["m", "painter", "embeds"]),
    ] {
        set(key, good).await.is_ok();
        for bad in bad {
            set(key, bad).await.is_error(400, "tenant_config_value_invalid", "value");
        }
    }
    for (key, slug) in [("image_gen_model", "painter"), ("rag_embedding_model", "embeds")] {
        set(key, slug).await.is_error(400, "tenant_config_value_invalid", "value");
        let answer = put(gateway.addr, "globex-admin", &format!("/{key}"), &format!("{{\"value\": \"{slug}\"}}")).await;
        answer.is_ok();
    }
}

#[tokio::test]
async fn changes_at_the_same_time_all_count() {
    let gateway = started().await;
    let (addr, admin) = (gateway.addr, "acme-admin");
    let changes = KEYS.map(|(key, good, _)| async move {
        put(addr, admin, &format!("/{key}"), &format!("{{\"value\": {good}}}")).await.is_ok();
    });
    let mut running = tokio::task::JoinSet::new();
    changes.into_iter().for_each(|change| drop(running.spawn(change)));
    running.join_all().await;
    let listed = get(addr, admin, "").await.json();
    for (key, good, _) in KEYS {
        assert_eq!(listed["config"][key]["value"], serde_json::from_str::<Value>(good).unwrap(), "{key}");
    }
    // one key, many values: the last one that was acknowledged, or one of those at the same time
    let mut running = tokio::task::JoinSet::new();
    for value in 1..=20 {
        running.spawn(async move {
            let answer = put(addr, admin, "/rag_top_k", &format!("{{\"value\": {value}}}")).await;
            assert_eq!(answer.is_ok().json()["value"], value, "each is told its own");
        });
    }
    running.join_all().await;
    let stored = get(addr, admin, "/rag_top_k").await.json()["value"].clone();
    assert!((1..=20).any(|value| stored == value));
    until("the value stays", async || get(addr, admin, "/rag_top_k").await.json()["value"] == stored).await;
}
