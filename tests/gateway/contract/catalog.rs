//! http.md 10 and 11: every code that can be provoked today, in both dialects, and the list of them all.

use dgx_gateway_testkit::mock::{MockUpstream, Named, Script, dead_addr};
use http::Method;
use serde_json::{Value, json};

use super::{
    Ask, CHAT, COUNT, EMBEDDINGS, Error, Findings, Framing, MESSAGES, error, least, says, speaks_all, status, typed,
};
use crate::harness::{Gateway, Setup};

/// Code, status, type, title and typical `param` (`""`: null), in the order of the contract.
#[rustfmt::skip]
pub(super) const CODES: [(&str, u16, &str, &str, &str); 49] = [
    ("missing_authorization", 401, "authentication_error", "Authorization header is missing", "headers.authorization"),
    ("invalid_authorization", 401, "authentication_error", "Authorization is not valid", "headers.authorization"),
    ("forbidden", 403, "permission_denied", "Permission is missing", ""),
    ("rate_limit_exceeded", 429, "rate_limit_error", "Rate limit reached", ""),
    ("model_quota_exhausted", 429, "rate_limit_error", "Model quota used up", "model"),
    ("openrouter_daily_quota_exhausted", 429, "rate_limit_error", "Daily quota used up", "model"),
    ("body_too_large", 413, "invalid_request_error", "Body too large", ""),
    ("invalid_json", 400, "invalid_request_error", "Body is not valid JSON", ""),
    ("missing_field", 400, "invalid_request_error", "Required field is missing", "messages"),
    ("invalid_field", 400, "invalid_request_error", "Field value is not valid", "max_tokens"),
    ("model_not_in_allowlist", 400, "invalid_request_error", "Model is not available", "model"),
    ("max_tokens_below_minimum", 400, "invalid_request_error", "max_tokens too small", "max_tokens"),
    ("context_length_exceeded", 400, "invalid_request_error", "Context length exceeded", "messages"),
    ("image_url_not_supported", 400, "invalid_request_error", "Image URL not supported", "messages[0].content[1].image_url.url"),
    ("image_decode_error", 400, "invalid_request_error", "Image cannot be decoded", "messages[0].content[1].image_url.url"),
    ("image_base64_invalid", 400, "invalid_request_error", "Base64 of image is not valid", "messages[0].content[1].image_url.url"),
    ("tool_call_arguments_invalid", 400, "invalid_request_error", "Tool call arguments are not JSON", "messages[1].tool_calls[0].function.arguments"),
    ("embedding_input_too_large", 400, "invalid_request_error", "Embedding input too large", "input[3]"),
    ("upstream_bad_request", 400, "invalid_request_error", "Upstream refused the request", ""),
    ("tool_not_allowed", 403, "permission_denied", "Tool is not allowed", "name"),
    ("tool_execution_failed", 422, "invalid_request_error", "Tool failed", "arguments"),
    ("tenant_config_key_readonly", 400, "invalid_request_error", "Key is read-only", "path.key"),
    ("tenant_config_key_unknown", 400, "invalid_request_error", "Key is unknown", "path.key"),
    ("tenant_config_value_invalid", 400, "invalid_request_error", "Value is not valid", "value"),
    ("invalid_range", 400, "invalid_request_error", "Time range is not valid", "query.to"),
    ("caller_depth_exceeded", 400, "invalid_request_error", "Nesting too deep", ""),
    ("storage_limit_exceeded", 400, "invalid_request_error", "Storage limit reached", "text"),
    ("conflict", 409, "invalid_request_error", "Conflict", ""),
    ("method_not_allowed", 405, "invalid_request_error", "Method not allowed", ""),
    ("unsupported_media_type", 415, "invalid_request_error", "Media type not supported", "headers.content-type"),
    ("route_not_found", 404, "not_found", "Route not found", ""),
    ("conversation_not_found", 404, "not_found", "Conversation not found", "conversation_id"),
    ("agent_not_found", 404, "not_found", "Agent not found", "path.name"),
    ("session_not_found", 404, "not_found", "Session not found", "path.sid"),
    ("rag_index_not_found", 404, "not_found", "Index not found", "path.id"),
    ("rag_document_not_found", 404, "not_found", "Document not found", "path.doc_id"),
    ("memory_not_found", 404, "not_found", "Memory entry not found", "path.id"),
    ("system_prompt_not_found", 404, "not_found", "System prompt not found", "path.level"),
    ("image_not_found", 404, "not_found", "Image not found", "path.id"),
    ("tool_not_found", 404, "not_found", "Tool not found", "name"),
    ("model_not_found", 404, "not_found", "Model not found", "path.id"),
    ("upstream_error", 502, "upstream_error", "Upstream failed", ""),
    ("upstream_timeout", 504, "upstream_error", "Upstream timed out", ""),
    ("upstream_unavailable", 503, "upstream_error", "Upstream not reachable", ""),
    ("service_overloaded", 503, "upstream_error", "Service overloaded", ""),
    ("internal_error", 500, "internal_error", "Internal error", ""),
    ("storage_error", 500, "internal_error", "Storage error", ""),
    ("tool_loop_max_iterations", 200, "diagnostic", "Tool iteration cap reached", ""),
    ("tool_loop_anti_loop_synthesised", 200, "diagnostic", "Repeated tool call stopped", ""),
];

/// Codes that nothing brings about yet, with the reason.
const NOT_YET: [(&str, &[&str]); 8] = [
    (
        "no tools",
        &[
            "tool_not_allowed",
            "tool_execution_failed",
            "tool_not_found",
            "tool_loop_max_iterations",
            "tool_loop_anti_loop_synthesised",
        ],
    ),
    (
        "no tenant configuration",
        &["tenant_config_key_readonly", "tenant_config_key_unknown", "tenant_config_value_invalid"],
    ),
    ("no reports of usage", &["invalid_range"]),
    ("no self-calls, and the depth of others is stripped", &["caller_depth_exceeded"]),
    (
        "no storage",
        &[
            "storage_limit_exceeded",
            "conflict",
            "storage_error",
            "memory_not_found",
            "system_prompt_not_found",
            "image_not_found",
        ],
    ),
    ("no conversations", &["conversation_not_found"]),
    ("no agents", &["agent_not_found", "session_not_found", "rag_index_not_found", "rag_document_not_found"]),
    ("a bug is needed", &["internal_error"]),
];

const LIMIT: usize = 16 * 1024;
const PINNED: &str = "pinned";
const DAY: &str = "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day";
const BARE: &str = "secret-without-scopes-0123456789";
const DRAINED: &str = "secret-that-is-drained-0123456789";
const USER: &str = "secret-of-the-user-0123456789";

async fn mock() -> MockUpstream {
    let named = Named::default();
    let script = Script::default().choose_by_name(move |name| match name {
        "day" => Some(status(429, json!({"error": {"message": DAY, "code": 429}}).to_string())),
        "few" => Some(error(400, "max_tokens must be at least 16")),
        "long" => Some(error(400, "This model's maximum context length is 4096 tokens.")),
        name => named.behaviour(name),
    });
    MockUpstream::start(script.with_looks_apart()).await.unwrap()
}

async fn started(mock: &MockUpstream) -> Gateway {
    let mut cloud = speaks_all("cloud", mock.addr());
    cloud["kind"] = json!("openrouter");
    cloud["domain"] = json!("cloud");
    let mut setup = Setup::new()
        .backend(speaks_all("first", mock.addr()))
        .backend(speaks_all("gone", dead_addr().await.unwrap()))
        .backend(cloud)
        .model(typed("gone", "chat", &[("gone", "x")]))
        .model(typed("day", "chat", &[("cloud", "day")]))
        .model(typed("embeds", "embedding", &[("first", "ok")]))
        .catalog(
            "tenant_aliases",
            json!([{"slug": PINNED, "target": "day", "tenants": ["acme"], "pinned": true, "available_fallbacks": ["ok"]}]),
        )
        .server("max_body_bytes", LIMIT)
        .server("max_held_bytes", LIMIT);
    for name in ["ok", "status-400", "status-408", "status-429", "status-500", "few", "long"] {
        setup = setup.model(typed(name, "chat", &[("first", name)]));
    }
    let token = |id: &str, secret: &str, role: Option<&str>, burst: u32| {
        let mut token = json!({"id": id, "bound_tenant": "acme", "default_user_id": "alice", "secrets": [{"value": secret}],
            "rate_limit": {"per_second": 0.0001, "burst": burst}});
        if let Some(role) = role {
            token["role"] = json!(role);
        }
        token
    };
    setup
        .tokens(json!({"version": 1, "tenants": [{"id": "acme"}],
            "tokens": [token("bare", BARE, None, 100), token("drained", DRAINED, Some("user"), 1), token("user", USER, Some("user"), 1000)]}))
        .start()
        .await
}

fn call(path: &str, model: &str, more: Value) -> Ask {
    let mut body = least(path, model);
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Ask::post(path, body.to_string()).bearer(USER)
}

/// Requests of a text endpoint, each with the error that it brings.
fn provocations(path: &str) -> Vec<(Ask, Error)> {
    let ok = |more: Value| call(path, "ok", more);
    let to = |model: &str| call(path, model, json!({}));
    let image = |url: &str| {
        let part = if path == CHAT {
            json!({"type": "image_url", "image_url": {"url": url}})
        } else if let Some(data) = url.strip_prefix("data:image/png;base64,") {
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
        } else {
            json!({"type": "image", "source": {"type": "url", "url": url}})
        };
        ok(json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]}))
    };
    let at = if path == CHAT { "messages[0].content[1].image_url.url" } else { "messages[0].content[1].source.data" };
    let mut patched = ok(json!({}));
    patched.method = Method::PATCH;
    let mut bad = ok(json!({}));
    bad.body = b"[]".to_vec();
    let mut provocations = vec![
        (ok(json!({})).without("authorization"), (401, "missing_authorization", "headers.authorization")),
        (ok(json!({})).bearer("unknown"), (401, "invalid_authorization", "headers.authorization")),
        (ok(json!({})).bearer(BARE), (403, "forbidden", "")),
        (ok(json!({})).bearer(DRAINED), (429, "rate_limit_exceeded", "")),
        (patched, (405, "method_not_allowed", "")),
        (ok(json!({})).framed(Framing::Declared(LIMIT + 1)), (413, "body_too_large", "")),
        (ok(json!({})).header("content-type", "text/plain"), (415, "unsupported_media_type", "headers.content-type")),
        (bad, (400, "invalid_json", "")),
        (ok(json!({"messages": null})), (400, "missing_field", "messages")),
        (ok(json!({"model": 7})), (400, "invalid_field", "model")),
        (to("unknown"), (400, "model_not_in_allowlist", "model")),
        (image("http://192.0.2.1/a.png"), (400, "image_url_not_supported", at)),
        (image("data:image/png;base64,aGVsbG8="), (400, "image_decode_error", at)),
        (image("data:image/png;base64,***"), (400, "image_base64_invalid", at)),
    ];
    if path != COUNT {
        provocations.extend([
            (to("few"), (400, "max_tokens_below_minimum", "max_tokens")),
            (to("long"), (400, "context_length_exceeded", "messages")),
            (to("status-400"), (400, "upstream_bad_request", "")),
            (to("status-408"), (504, "upstream_timeout", "")),
            (to("status-429"), (429, "model_quota_exhausted", "model")),
            (to("status-500"), (502, "upstream_error", "")),
            (to("gone"), (503, "upstream_unavailable", "")),
        ]);
    }
    if path == CHAT {
        let call = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]);
        let arguments = "messages[0].tool_calls[0].function.arguments";
        provocations.extend([
            (
                ok(json!({"messages": [{"role": "assistant", "tool_calls": call}]})),
                (400, "tool_call_arguments_invalid", arguments),
            ),
            (to(PINNED), (429, "openrouter_daily_quota_exhausted", "model")),
            (Ask::get("/v1/models/unknown").bearer(USER), (404, "model_not_found", "path.id")),
            (Ask::get("/nothing").bearer(USER), (404, "route_not_found", "")),
            (
                Ask::post(EMBEDDINGS, json!({"model": "embeds", "input": vec!["a"; 257]}).to_string()).bearer(USER),
                (400, "embedding_input_too_large", "input"),
            ),
        ]);
    }
    provocations
}

/// Asks for everything in one dialect; gives the codes that were seen.
async fn provoke(gateway: &Gateway, path: &str, findings: &mut Findings) -> Vec<&'static str> {
    // the one request of this token
    let last = call(path, "ok", json!({})).bearer(DRAINED).of(gateway.addr).await;
    assert!(matches!(last.status, 200 | 429));
    let mut seen = vec![];
    for (ask, expected) in provocations(path) {
        let answer = ask.of(gateway.addr).await;
        let what = format!("{} {} {}", ask.method, ask.path, String::from_utf8_lossy(&ask.body));
        findings.add(&what, says(&answer, &ask.path, expected));
        let (code, status) = CODES.iter().find(|entry| entry.0 == expected.1).map(|entry| (entry.0, entry.1)).unwrap();
        findings.equal(&format!("status of {code}"), expected.0, status);
        seen.push(code);
    }
    gateway.idle().await;
    // an upload that has not come yet takes all that may be held
    let mut first = gateway.client().await;
    let length = LIMIT.to_string();
    first.chat_head(&[("content-length", &length), ("expect", "100-continue"), ("spass-user-id", "alice")]).await;
    assert_eq!(first.raw.read_interim().await.unwrap().0, 100);
    let answer = call(path, "ok", json!({})).of(gateway.addr).await;
    findings.add(&format!("{path} beside an upload"), says(&answer, path, (503, "service_overloaded", "")));
    findings.equal("retry-after", answer.header("retry-after").is_some(), true);
    seen.push("service_overloaded");
    drop(first);
    gateway.idle().await;
    seen
}

#[tokio::test]
async fn every_code_that_can_be_provoked_is_said_as_the_catalog_says() {
    let mock = mock().await;
    let gateway = started(&mock).await;
    let mut findings = Findings::default();
    let seen = provoke(&gateway, CHAT, &mut findings).await;
    for (code, ..) in CODES {
        let not_yet = NOT_YET.iter().any(|(_, codes)| codes.contains(&code));
        findings.equal(&format!("{code} is provoked, or cannot be"), seen.contains(&code), !not_yet);
    }
    findings.none();
}

#[tokio::test]
async fn the_other_dialect_says_the_same_in_its_own_words() {
    let mock = mock().await;
    let gateway = started(&mock).await;
    let mut findings = Findings::default();
    for path in [MESSAGES, COUNT] {
        provoke(&gateway, path, &mut findings).await;
    }
    findings.none();
}

#[tokio::test]
async fn the_list_of_errors_is_the_catalog() {
    let mock = mock().await;
    let gateway = started(&mock).await;
    let list = Ask::new(Method::GET, "/errors").of(gateway.addr).await.is_ok().json();
    assert_eq!((&list["version"], &list["count"]), (&json!(1), &json!(49)));
    let mut findings = Findings::default();
    let entries = list["entries"].as_array().unwrap();
    findings.equal("entries", entries.len(), CODES.len());
    for (entry, (code, status, kind, title, param)) in entries.iter().zip(CODES) {
        let aliases = if kind == "rate_limit_error" { json!(["rate_limit_exceeded"]) } else { json!([]) };
        let param = if param.is_empty() { Value::Null } else { json!(param) };
        let mut members: Vec<&String> = entry.as_object().unwrap().keys().collect();
        members.sort();
        let names =
            ["code", "description", "http_status", "remediation", "title", "type", "type_aliases", "typical_param"];
        findings.equal(code, members, names.to_vec());
        for (name, expected) in [
            ("code", json!(code)),
            ("http_status", json!(status)),
            ("type", json!(kind)),
            ("title", json!(title)),
            ("typical_param", param),
            ("type_aliases", aliases),
        ] {
            findings.equal(&format!("{name} of {code}"), &entry[name], &expected);
        }
        for name in ["description", "remediation"] {
            findings.equal(
                &format!("{name} of {code}"),
                entry[name].as_str().is_some_and(|text| !text.is_empty()),
                true,
            );
        }
    }
    findings.none();
}
