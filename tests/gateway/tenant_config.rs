//! What tenants set for themselves: the endpoints by the tables of the contract, and what requests make of it.

mod effects;
mod endpoints;
mod levels;
mod operator;
mod processes;

use std::net::SocketAddr;

use dgx_gateway_testkit::client::RawClient;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Setup, model, soon};

/// Path of the configuration.
const CONFIG: &str = "/v1/tenant/config";

/// Keys of group C, with a value that is not that of the product, and one that no tenant may set.
const KEYS: [(&str, &str, &str); 34] = [
    ("augment_memory", "false", "1"),
    ("augment_server_tools", "false", "\"false\""),
    ("augment_system_prompt", "false", "null"),
    ("c1_max_history_turns", "10000", "10001"),
    ("c1_retention_days", "3650", "3651"),
    ("compaction_enabled", "false", "0"),
    ("compaction_keep_turns", "50", "51"),
    ("compaction_model", "\"m\"", "\"embeds\""),
    ("compaction_summary_max_tokens", "128", "127"),
    ("compaction_threshold", "0.30", "0.29"),
    ("default_model", "\"m\"", "\"unknown\""),
    ("image_gen_inline", "false", "[]"),
    ("image_gen_max_per_request", "8", "9"),
    ("image_gen_model", "\"painter\"", "null"),
    ("image_gen_size", "\"auto\"", "\"1x1\""),
    ("images_max_bytes_per_user", "1099511627776", "1099511627777"),
    ("images_retention_days", "0", "-1"),
    ("memory_inject_max_bytes", "65536", "65537"),
    ("rag_chunk_overlap", "256", "257"),
    ("rag_chunk_tokens", "2000", "63"),
    ("rag_embedding_model", "null", "\"m\""),
    ("rag_top_k", "20", "0"),
    ("server_tools_allowlist", "[\"calculator\"]", "[\"calculator\",\"calculator\"]"),
    ("session_retention_days", "3650", "1.5"),
    ("stream_cost_event", "false", "\"no\""),
    ("stream_heartbeat_seconds", "0", "121"),
    ("stt_default_mode", "\"chunked\"", "\"other\""),
    ("stt_model", "\"hears\"", "\"m\""),
    ("tool_max_iterations", "1", "11"),
    ("tool_result_max_bytes", "262144", "1023"),
    ("tool_timeout_seconds", "300", "301"),
    ("tools_confirm_same_turn", "true", "{}"),
    ("web_fetch_allow_domains", "[\"example.com\"]", "[\"*.example.com\"]"),
    ("web_fetch_deny_domains", "[\"a.example\",\"b.example\"]", "\"a.example\""),
];

/// One model of each type, and further names.
fn with_models(upstream: SocketAddr) -> Setup {
    let mut backend = crate::harness::backend("first", upstream);
    backend["protocols"] = json!(["chat", "images", "embeddings", "transcription", "translation"]);
    let typed = |alias: &str, kind: &str| {
        let mut model = model(alias, &[("first", alias)]);
        model["type"] = kind.into();
        model
    };
    Setup::new()
        .backend(backend)
        .model(typed("m", "chat"))
        .model(typed("other", "chat"))
        .model(typed("painter", "image"))
        .model(typed("embeds", "embedding"))
        .model(typed("hears", "audio"))
}

/// Tenants `acme` and `globex` with tokens `<tenant>-admin`, `<tenant>-user` and `acme-reader`, whose secrets are
/// their ids, and an unbound `operator`.
fn tokens(acme: &Value) -> Value {
    let token = |id: &str, role: &str, tenant: Option<&str>| {
        let mut token = json!({"id": id, "role": role, "secrets": [{"value": id}]});
        if let Some(tenant) = tenant {
            token["bound_tenant"] = tenant.into();
        }
        token
    };
    let mut reader = token("acme-reader", "user", Some("acme"));
    reader["extra_scopes"] = json!(["tenant_config:read"]);
    json!({"version": 1, "tenants": [{"id": "acme", "defaults": acme}, {"id": "globex"}],
        "tokens": [token("acme-admin", "tenant_admin", Some("acme")), token("acme-user", "user", Some("acme")), reader,
            token("globex-admin", "tenant_admin", Some("globex")), token("globex-user", "user", Some("globex")),
            token("operator", "operator", None)]})
}

/// One request of a token, on a connection of its own.
async fn ask(addr: SocketAddr, token: &str, method: &Method, path: &str, body: &str) -> Answer {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![("authorization", authorization.as_str())];
    if !body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    if token.ends_with("-user") {
        headers.push(("spass-user-id", "alice"));
    }
    asked(addr, method, path, &headers, body).await
}

async fn asked(addr: SocketAddr, method: &Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut client = RawClient::connect(addr).await.unwrap();
    soon("the request is sent", client.request(method, path, headers, body.as_bytes())).await.unwrap();
    soon("the answer", client.read_response()).await.unwrap().into()
}

async fn get(addr: SocketAddr, token: &str, path: &str) -> Answer {
    ask(addr, token, &Method::GET, &format!("{CONFIG}{path}"), "").await
}

async fn put(addr: SocketAddr, token: &str, path: &str, body: &str) -> Answer {
    ask(addr, token, &Method::PUT, &format!("{CONFIG}{path}"), body).await
}

async fn delete(addr: SocketAddr, token: &str, path: &str) -> Answer {
    ask(addr, token, &Method::DELETE, &format!("{CONFIG}{path}"), "").await
}

/// Sets one key of `acme`.
async fn set(addr: SocketAddr, key: &str, value: &str) {
    put(addr, "acme-admin", &format!("/{key}"), &format!("{{\"value\": {value}}}")).await.is_ok();
}

/// The value of a key, as it is written.
fn value_in(body: &str) -> &str {
    let rest = body.split_once("\"value\":").unwrap().1;
    rest.split_once(",\"source\":").unwrap().0
}
