//! What a slug means to the whole process: who may use it, where it goes, which bounds it has, what it is called.

use std::net::SocketAddr;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Named, Script, dead_addr};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, PROMPT, Setup, backend, model, until};

const OPERATOR: &str = "secret-of-the-operator-0123456789abcdef";
const USER: &str = "secret-of-the-user-0123456789abcdef0123";

async fn mock() -> MockUpstream {
    let names = Named::default();
    let script = Script::default().choose_by_name(move |name| names.behaviour(name)).with_looks_apart();
    MockUpstream::start(script).await.unwrap()
}

fn of(id: &str, addr: SocketAddr, more: Value) -> Value {
    let mut backend = backend(id, addr);
    for (name, value) in more.as_object().unwrap() {
        backend[name] = value.clone();
    }
    backend
}

fn tokens() -> Value {
    let token = |id: &str, secret: &str, role: &str| json!({"id": id, "role": role, "bound_tenant": "acme", "default_user_id": "alice", "secrets": [{"value": secret}]});
    let mut limited = token("limited", "secret-of-the-limited-0123456789abcdef", "user");
    limited["constraints"] = json!({"max_tokens": 100});
    json!({"version": 1, "tenants": [{"id": "acme", "name": "Acme"}, {"id": "globex", "name": "Globex"}],
        "tokens": [token("operator", OPERATOR, "operator"), token("user", USER, "user"), limited]})
}

/// Local on `gpu1`, cloud in slot 1; the names of the models choose the behaviour of the mock.
fn setup(local: SocketAddr, cloud: SocketAddr) -> Setup {
    let mut floored = model("flagship", &[("local", "status-500"), ("cloud", "ok")]);
    floored["constraints"] = json!({"min_max_tokens": 200});
    let mut small = model("small", &[("local", "status-503")]);
    small["constraints"] = json!({"min_max_tokens": 16});
    let mut big = model("big", &[("cloud", "ok")]);
    big["constraints"] = json!({"min_max_tokens": 300});
    let mut image = json!({"alias": "image-gen", "type": "image", "route": [{"alias": "small"}, {"alias": "big"}]});
    image["constraints"] = json!({"min_max_tokens": 50});
    Setup::new()
        .backend(of("local", local, json!({"machine": "gpu1", "kind": "vllm"})))
        .backend(of("cloud", cloud, json!({"domain": "cloud", "cloud_slot": 1})))
        .model(floored)
        .model(small)
        .model(big)
        .model(image)
        .model(model("only-local", &[("local", "ok")]))
        .catalog("pins", json!({"flagship-latest": {"target": "flagship"}}))
        .catalog(
            "tenant_aliases",
            json!([{"slug": "acme-flagship", "target": "flagship-cloud-1", "tenants": ["acme"]},
                {"slug": "globex-flagship", "target": "flagship", "tenants": ["globex"]}]),
        )
        .tokens(tokens())
}

async fn send(gateway: &Gateway, secret: &str, method: &Method, path: &str, body: &str) -> Answer {
    let authorization = format!("Bearer {secret}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let mut client = gateway.client().await;
    client.raw.request(method, path, &headers, body.as_bytes()).await.unwrap();
    client.answer().await
}

async fn chat(gateway: &Gateway, secret: &str, model: &str, more: Value) -> Answer {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": PROMPT}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    send(gateway, secret, &Method::POST, "/v1/chat/completions", &body.to_string()).await
}

fn sent(mock: &MockUpstream, name: &str) -> Vec<Value> {
    let member = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()[name].clone();
    mock.requests().iter().map(|request| member(&request.body)).collect()
}

#[tokio::test]
async fn a_machine_is_unknown_without_its_scope_and_a_tenant_alias_elsewhere() {
    let (local, cloud) = (mock().await, mock().await);
    let gateway = setup(local.addr(), cloud.addr()).start().await;
    for (slug, secret, known) in [
        ("only-local-gpu1", OPERATOR, true),
        ("only-local-gpu1", USER, false),
        ("acme-flagship", USER, true),
        ("globex-flagship", OPERATOR, false),
        ("Only-local", OPERATOR, false),
    ] {
        let answer = chat(&gateway, secret, slug, json!({})).await;
        let one = send(&gateway, secret, &Method::GET, &format!("/v1/models/{slug}"), "").await;
        let list = send(&gateway, secret, &Method::GET, "/v1/models", "").await.is_ok().json();
        let info = send(&gateway, secret, &Method::GET, "/v1/info", "").await.is_ok().text().to_owned();
        let is_listed = list["data"].as_array().unwrap().iter().any(|item| item["id"] == slug);
        assert_eq!((is_listed, info.contains(&format!("\"{slug}\""))), (known, known), "{slug}");
        if known {
            assert_eq!(answer.is_ok().json()["model"], slug);
            one.is_ok();
        } else {
            answer.is_error(400, "model_not_in_allowlist", "model");
            one.is_error(404, "model_not_found", "path.id");
        }
        if secret == USER {
            assert!(!info.contains("gpu1"), "no machine is told: {info}");
        }
    }
}

#[tokio::test]
async fn a_domain_that_is_down_fails_and_nothing_leaves_it() {
    let cloud = mock().await;
    let gateway = setup(dead_addr().await.unwrap(), cloud.addr()).start().await;
    let answer = chat(&gateway, USER, "flagship-local", json!({})).await;
    answer.is_error(503, "upstream_unavailable", "");
    assert_eq!(answer.header("spass-attempts"), Some("local;e=connect"));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(cloud.requests().len(), 0);
    // a failed look or the failed attempt puts the local entry last
    chat(&gateway, USER, "flagship", json!({})).await.is_ok();
    drop(gateway);
    let local = mock().await;
    let gateway = setup(local.addr(), dead_addr().await.unwrap()).start().await;
    chat(&gateway, USER, "flagship-cloud", json!({})).await.is_error(503, "upstream_unavailable", "");
    chat(&gateway, USER, "flagship-cloud-1", json!({})).await.is_error(503, "upstream_unavailable", "");
    assert_eq!(local.requests().len(), 0);
    chat(&gateway, USER, "flagship-local", json!({})).await.is_error(502, "upstream_error", "");
    assert_eq!(local.requests().len(), 1);
}

#[tokio::test]
async fn a_domain_that_is_silent_is_waited_for_and_nothing_leaves_it() {
    let (local, cloud) = (mock().await, mock().await);
    let gateway = Setup::new()
        .backend(of("local", local.addr(), json!({"first_byte_timeout_seconds": 1})))
        .backend(of("cloud", cloud.addr(), json!({"domain": "cloud"})))
        .model(model("m", &[("local", "hang"), ("cloud", "ok")]))
        .tokens(tokens())
        .start()
        .await;
    let answer = chat(&gateway, USER, "m-local", json!({"stream": true})).await;
    answer.is_error(504, "upstream_timeout", "");
    assert_eq!((answer.header("spass-attempts"), cloud.requests().len()), (Some("local;e=timeout"), 0));
    let answer = chat(&gateway, USER, "m", json!({"stream": true})).await;
    assert_eq!(answer.is_ok().header("spass-attempts"), Some("local;e=timeout, cloud;s=200"));
}

#[tokio::test]
async fn every_name_of_a_model_has_its_floor_and_answers_under_its_own() {
    let (local, cloud) = (mock().await, mock().await);
    let gateway = setup(local.addr(), cloud.addr()).start().await;
    for (at, slug) in ["flagship-cloud", "flagship-cloud-1", "flagship-ollama", "acme-flagship"].iter().enumerate() {
        let answer = chat(&gateway, USER, slug, json!({"max_tokens": 50})).await;
        assert_eq!(answer.is_ok().json()["model"], *slug);
        assert_eq!(answer.header("spass-resolved-model"), Some("flagship"), "{slug}");
        assert_eq!(answer.header("spass-applied"), Some("max_tokens_floored=200"), "{slug}");
        assert_eq!(answer.header("x-rust-api-applied"), Some("max_tokens_floored=200"), "{slug}");
        assert_eq!(sent(&cloud, "max_tokens")[at], 200, "{slug}");
    }
    let answer = chat(&gateway, USER, "flagship-latest", json!({"max_tokens": 200})).await;
    assert_eq!(answer.is_ok().json()["model"], "flagship-latest");
    assert_eq!((answer.header("spass-applied"), sent(&local, "max_tokens")), (None, vec![json!(200)]));
    assert_eq!(answer.header("spass-attempts"), Some("local;s=500, cloud;s=200"));
}

#[tokio::test]
async fn a_composite_has_its_own_floor_and_that_of_the_member_if_it_is_higher() {
    let (local, cloud) = (mock().await, mock().await);
    let gateway = setup(local.addr(), cloud.addr()).start().await;
    let answer = chat(&gateway, USER, "image-gen", json!({"max_tokens": 10})).await;
    assert_eq!(answer.is_ok().json()["model"], "image-gen");
    assert_eq!(answer.header("spass-resolved-model"), Some("big"), "the member that served");
    assert_eq!(answer.header("spass-resolved-backend"), Some("cloud"));
    assert_eq!((sent(&local, "max_tokens"), sent(&cloud, "max_tokens")), (vec![json!(50)], vec![json!(300)]));
    assert_eq!(answer.header("spass-applied"), Some("max_tokens_floored=300"));
    // between the two floors: untouched at the first member, raised at the second
    let answer = chat(&gateway, USER, "image-gen", json!({"max_tokens": 60})).await;
    assert_eq!(answer.header("spass-applied"), Some("max_tokens_floored=300"));
    assert_eq!((sent(&local, "max_tokens")[1].clone(), sent(&cloud, "max_tokens")[1].clone()), (json!(60), json!(300)));
}

#[tokio::test]
async fn the_ceiling_of_a_token_gives_way_to_the_floor_of_a_model() {
    const LIMITED: &str = "secret-of-the-limited-0123456789abcdef";
    let (local, cloud) = (mock().await, mock().await);
    let gateway = setup(local.addr(), cloud.addr()).start().await;
    for (slug, more, upstream, applied) in [
        ("only-local", json!({"max_tokens": 9000}), json!(100), Some("max_tokens_clamped=100")),
        ("only-local", json!({}), json!(100), Some("max_tokens_clamped=100")),
        ("only-local", json!({"max_tokens": 100}), json!(100), None),
        ("flagship-cloud", json!({"max_tokens": 50}), json!(200), Some("max_tokens_floored=200")),
    ] {
        let answer = chat(&gateway, LIMITED, slug, more.clone()).await;
        answer.is_ok();
        let mock = if slug == "only-local" { &local } else { &cloud };
        assert_eq!(sent(mock, "max_tokens").last(), Some(&upstream), "{slug} {more}");
        assert_eq!(answer.header("spass-applied"), applied, "{slug} {more}");
    }
}

#[tokio::test]
async fn embeddings_follow_their_catalog() {
    let mock = mock().await;
    let mut nomic = model("nomic-embed", &[("first", "ok")]);
    nomic["type"] = json!("embedding");
    nomic["response_model"] = json!("nomic-embed-text-v1.5");
    nomic["constraints"] = json!({"dimensions": 768});
    let gateway = Setup::with_upstream(mock.addr()).replace_models(nomic).start().await;
    let ask = async |body: &str| {
        let json = [("content-type", "application/json")];
        gateway.client().await.request(&Method::POST, "/v1/embeddings", &json, body.as_bytes()).await
    };
    let answer = ask(r#"{"model":"nomic-embed-local","input":["hello","world"],"dimensions":768}"#).await;
    assert_eq!(answer.is_ok().json()["model"], "nomic-embed-text-v1.5");
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 2);
    assert_eq!(answer.header("spass-resolved-model"), Some("nomic-embed"));
    assert_eq!(mock.requests()[0].body, r#"{"model":"ok","input":["hello","world"],"encoding_format":"float"}"#);
    for (body, code, param) in [
        (json!({"input": vec!["a"; 257]}), "embedding_input_too_large", "input"),
        (json!({"input": ["a", "x".repeat(8193)]}), "embedding_input_too_large", "input[1]"),
        (json!({"input": "x".repeat(8193)}), "embedding_input_too_large", "input"),
        (json!({"input": [[1], vec![1; 2049]]}), "embedding_input_too_large", "input[1]"),
        (json!({"input": []}), "invalid_field", "input"),
        (json!({"input": ""}), "invalid_field", "input"),
        (json!({"input": ["a", ""]}), "invalid_field", "input[1]"),
        (json!({"input": {"a": 1}}), "invalid_field", "input"),
        (json!({"input": "a", "encoding_format": "hex"}), "invalid_field", "encoding_format"),
        (json!({"input": "a", "dimensions": 256}), "invalid_field", "dimensions"),
        (json!({}), "missing_field", "input"),
    ] {
        let mut body = body;
        body["model"] = json!("nomic-embed");
        ask(&body.to_string()).await.is_error(400, code, param);
    }
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn looking_at_backends_never_calls_a_model() {
    let mock = MockUpstream::start(Script::default()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    until("a look", async || !mock.requests().is_empty()).await;
    let mut client = gateway.client().await;
    for path in ["/readyz", "/v1/models", "/v1/info", "/v1/models/m"] {
        client.get(path).await.is_ok();
    }
    for request in mock.requests() {
        assert_eq!((request.method, request.path.as_str()), (Method::GET, "/v1/models"));
        assert!(request.body.is_empty());
    }
}

#[tokio::test]
async fn a_backend_that_only_shows_that_it_lives_is_looked_at_without_calling_a_model() {
    let missing = Behaviour::status(StatusCode::UNAUTHORIZED);
    let mock = MockUpstream::start(Script::queue([missing])).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    until("the gateway is ready", async || gateway.client().await.get("/readyz").await.status == 200).await;
    assert!(mock.requests().iter().all(|request| request.method == Method::GET));
}
