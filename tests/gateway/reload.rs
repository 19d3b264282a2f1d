//! Reload: what brings one, what it changes, and what it leaves alone.

mod load;

use std::net::SocketAddr;

use http::Method;
use serde_json::json;

use crate::harness::{BACKEND_KEY, Client, Gateway, Setup, Stage, chunk_of_stream, finish_of_stream, soon, until};

const UPSTREAM: &str = "upstream-name-of-m";

/// A tokens file with one token, whose id and secret are this name.
fn tokens(name: &str) -> String {
    format!(
        "version: 1
tenants: [{{id: acme}}]
tokens:
  - id: {name}
    role: user
    bound_tenant: acme
    default_user_id: alice
    secrets: [{{value: {name}}}]
"
    )
}

/// A models file with one model of the backend `first`.
fn models(alias: &str) -> String {
    format!("version: 1\nmodels:\n  - alias: {alias}\n    route: [{{backend: first, model: {UPSTREAM}}}]\n")
}

/// A main file with the backend `first`, and more keys.
fn main_file(addr: SocketAddr, more: &str) -> String {
    format!(
        "server: {{threads: 2}}
backends:
  - {{id: first, label: first, kind: openai, domain: local, base_url: 'http://{addr}/v1', api_key: {BACKEND_KEY}}}
{more}"
    )
}

/// Tests ask again and again until a secret is valid.
fn patient(setup: Setup) -> Setup {
    setup.section("limits", json!({"auth_failures": {"per_minute": 1_000_000, "burst": 1_000_000}}))
}

/// A gateway with the token `one` and the model `m`.
async fn started() -> (Gateway, Stage) {
    let stage = Stage::open().await;
    let gateway = patient(Setup::with_upstream(stage.addr)).tokens_yaml(&tokens("one")).start().await;
    (gateway, stage)
}

/// The status of a list of models, asked for with this secret.
async fn status(gateway: &Gateway, secret: &str) -> u16 {
    gateway.client_with(secret).await.get("/v1/models").await.status
}

/// Models that are listed.
async fn listed(gateway: &Gateway) -> Vec<String> {
    let list = gateway.client().await.get("/v1/models").await.is_ok().json();
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a secret is valid.
async fn valid(gateway: &Gateway, secret: &str) {
    until("the secret is valid", async || status(gateway, secret).await == 200).await;
}

#[tokio::test]
async fn a_request_of_the_admin_listener_reloads_and_says_what_changed() {
    let (gateway, _stage) = started().await;
    assert_eq!(gateway.reload().await, (200, json!({"ok": true, "generation": 2, "changed": []})));
    gateway.put("auth/tokens.yaml", &tokens("two"));
    let answer = json!({"ok": true, "generation": 3, "changed": ["auth/tokens.yaml"]});
    assert_eq!(gateway.reload().await, (200, answer));
    assert_eq!((status(&gateway, "one").await, status(&gateway, "two").await), (401, 200));
    let metrics = gateway.metrics().await;
    for file in ["auth/tokens.yaml", "conf/gateway.yaml", "conf/models.yaml"] {
        assert_eq!(metrics.value(&format!("dgx_gateway_config_generation{{file=\"{file}\"}}")), 3.0, "{file}");
    }
    let mut admin = dgx_gateway_testkit::client::RawClient::connect(gateway.admin).await.unwrap();
    admin.request(&Method::GET, "/reload", &[], b"").await.unwrap();
    assert_eq!(admin.read_response().await.unwrap().status, 405);
    gateway.client().await.request(&Method::POST, "/reload", &[], b"").await.is_error(404, "route_not_found", "");
}

#[tokio::test]
async fn a_hangup_signal_reloads() {
    let (gateway, _stage) = started().await;
    gateway.put("auth/tokens.yaml", &tokens("two"));
    gateway.signal("HUP");
    valid(&gateway, "two").await;
}

#[tokio::test]
async fn each_way_to_change_a_file_is_noticed() {
    let (gateway, _stage) = started().await;
    // replaced by a rename
    gateway.put("auth/tokens.yaml", &tokens("two"));
    valid(&gateway, "two").await;
    // again, so the new file is watched, too; this time in place
    std::fs::write(gateway.file("auth/tokens.yaml"), tokens("three")).unwrap();
    valid(&gateway, "three").await;
    // a link is put in its place, and then turned
    for name in ["four", "five"] {
        gateway.put(&format!("{name}/tokens.yaml"), &tokens(name));
        std::os::unix::fs::symlink(gateway.file(name).join("tokens.yaml"), gateway.file("link")).unwrap();
        std::fs::rename(gateway.file("link"), gateway.file("auth/tokens.yaml")).unwrap();
        valid(&gateway, name).await;
    }
    // a directory on the way is a link that is turned
    std::fs::rename(gateway.file("auth"), gateway.file("first")).unwrap();
    for name in ["six", "seven"] {
        gateway.put(&format!("dir-{name}/tokens.yaml"), &tokens(name));
        std::os::unix::fs::symlink(gateway.file(&format!("dir-{name}")), gateway.file("link")).unwrap();
        std::fs::rename(gateway.file("link"), gateway.file("auth")).unwrap();
        valid(&gateway, name).await;
    }
    // a file that is gone
    std::fs::remove_file(gateway.file("auth/tokens.yaml")).unwrap();
    until("the token is gone", async || status(&gateway, "seven").await == 401).await;
    assert_eq!(gateway.reload().await.1["generation"], 9, "each was noticed once");
}

#[tokio::test]
async fn a_file_that_is_touched_changes_nothing() {
    let (gateway, _stage) = started().await;
    gateway.put("auth/tokens.yaml", &tokens("one"));
    gateway.put("conf/models.yaml", &models("n"));
    until("the models are there", async || listed(&gateway).await == ["n", "n-local"]).await;
    // one reload for both
    assert_eq!(gateway.reload().await, (200, json!({"ok": true, "generation": 3, "changed": []})));
}

#[tokio::test]
async fn every_file_of_the_set_takes_effect() {
    let (gateway, stage) = started().await;
    gateway.put("conf/models.yaml", &models("n"));
    gateway.put("conf/gateway.yaml", &main_file(stage.addr, "stream: {idle_timeout_seconds: 77}"));
    gateway.put("auth/tokens.yaml", &tokens("two"));
    let changed = json!(["auth/tokens.yaml", "conf/gateway.yaml", "conf/models.yaml"]);
    assert_eq!(gateway.reload().await, (200, json!({"ok": true, "generation": 2, "changed": changed})));
    assert_eq!(listed(&gateway).await, ["n", "n-local"]);
    assert_eq!(status(&gateway, "two").await, 200);
    // the main file may name others
    gateway.put("elsewhere.yaml", &models("o"));
    gateway.put("conf/gateway.yaml", &main_file(stage.addr, "models_file: elsewhere.yaml"));
    let changed = json!(["conf/gateway.yaml", "conf/models.yaml", "elsewhere.yaml"]);
    assert_eq!(gateway.reload().await.1["changed"], changed);
    gateway.put("elsewhere.yaml", &models("p"));
    until("the models are there", async || listed(&gateway).await == ["p", "p-local"]).await;
}

#[tokio::test]
async fn routes_and_limits_of_the_core_follow() {
    let (gateway, stage) = started().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(2000)}]}).to_string();
    let route = "routes: [{path: /x, methods: [GET], endpoint: health}]";
    let file = main_file(stage.addr, route).replace("threads: 2", "threads: 2, max_body_bytes: 1024");
    gateway.put("conf/gateway.yaml", &file);
    let mut before = gateway.client().await;
    before.get("/x").await.is_error(404, "route_not_found", "");
    assert_eq!(gateway.reload().await.0, 200);
    before.chat(&body).await.is_error(413, "body_too_large", "");
}

#[tokio::test]
async fn an_error_changes_nothing_and_names_file_line_and_key() {
    let (gateway, stage) = started().await;
    let bad_tokens = tokens("two") + "    colour: red\n";
    let bad_models = models("n") + "    route_to: nowhere\n";
    let bad_main = main_file(stage.addr, "limits: {expected_replicas: 0}\n");
    for (index, (file, bad, expected)) in [
        ("auth/tokens.yaml", bad_tokens, "auth/tokens.yaml:9: tokens[0].colour: "),
        ("conf/models.yaml", bad_models, "conf/models.yaml:5: models[0].route_to: "),
        ("conf/gateway.yaml", bad_main, "conf/gateway.yaml:4: limits.expected_replicas: must be from 1 to 10000"),
        ("conf/gateway.yaml", "log: 1\na: [".to_owned(), "conf/gateway.yaml:3: is not valid YAML"),
    ]
    .into_iter()
    .enumerate()
    {
        let good = std::fs::read_to_string(gateway.file(file)).unwrap();
        gateway.put(file, &bad);
        gateway.put("data/other", ""); // what is not read has no part in it
        let (code, answer) = gateway.reload().await;
        assert_eq!((code, &answer["ok"]), (422, &json!(false)), "{answer}");
        let errors = answer["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{answer}");
        assert!(errors[0].as_str().unwrap().starts_with(expected), "{answer}");
        until("it is in the log", async || gateway.log().contains(expected)).await;
        assert_eq!((status(&gateway, "one").await, listed(&gateway).await.len()), (200, 2));
        let series = format!("dgx_gateway_config_reload_failures_total{{file=\"{file}\"}}");
        assert!(gateway.metrics().await.value(&series) >= 1.0, "{index}");
        gateway.put(file, &good);
        assert_eq!(gateway.reload().await.0, 200);
    }
    // problems of several files are told together
    gateway.put("auth/tokens.yaml", "version: 2\n");
    gateway.put("conf/models.yaml", "version: 3\n");
    let (code, answer) = gateway.reload().await;
    assert_eq!((code, answer["errors"].as_array().unwrap().len()), (422, 2), "{answer}");
}

#[tokio::test]
async fn a_bad_file_is_told_once_and_a_good_one_after_it_is_noticed() {
    let (gateway, _stage) = started().await;
    gateway.put("auth/tokens.yaml", "version: 2\n");
    let failures = "dgx_gateway_config_reload_failures_total{file=\"auth/tokens.yaml\"}";
    until("it is noticed", async || gateway.metrics().await.value(failures) == 1.0).await;
    // a reload of something else that works would be noticed by the count
    gateway.put("auth/tokens.yaml", &tokens("two"));
    valid(&gateway, "two").await;
    assert_eq!(gateway.metrics().await.value(failures), 1.0);
    assert!(gateway.log().matches("the configuration was not reloaded").count() <= 1);
}

#[tokio::test]
async fn what_needs_a_restart_is_kept_and_told() {
    let (gateway, stage) = started().await;
    let file = main_file(stage.addr, "data_dir: x\nlog: {format: text}\nlimits: {store: 'redis://127.0.0.1:1'}\n");
    gateway.put("conf/gateway.yaml", &file.replace("threads: 2", "threads: 3, admin_listen: '127.0.0.1:1'"));
    let (code, answer) = gateway.reload().await;
    // addresses and the data directory of the environment take precedence, so they have not changed
    assert_eq!((code, &answer["restart_needed"]), (200, &json!(["limits.store", "log.format", "server.threads"])));
    until("it is in the log", async || gateway.log().contains("only a restart puts it into effect")).await;
    gateway.put("conf/gateway.yaml", &main_file(stage.addr, ""));
    assert_eq!(gateway.reload().await.1.get("restart_needed"), None);
}

#[tokio::test]
async fn the_level_of_the_log_follows() {
    let stage = Stage::open().await;
    let setup = Setup::with_upstream(stage.addr).variable("DGX_GATEWAY_LOG", "");
    let gateway = setup.section("log", json!({"level": "warn"})).start().await;
    gateway.client().await.get("/healthz").await.is_ok();
    assert!(!gateway.log().contains("/healthz"));
    gateway.put("conf/gateway.yaml", &main_file(stage.addr, "log: {level: info}"));
    assert_eq!(gateway.reload().await.0, 200);
    gateway.client().await.get("/healthz").await.is_ok();
    until("it is logged", async || gateway.log().contains("/healthz")).await;
}

#[tokio::test]
async fn a_token_that_is_removed_is_refused_at_once_on_open_connections() {
    let (gateway, _stage) = started().await;
    let mut client = gateway.client_with("one").await;
    client.get("/v1/models").await.is_ok();
    gateway.put("auth/tokens.yaml", &tokens("two"));
    assert_eq!(gateway.reload().await.0, 200);
    client.get("/v1/models").await.is_error(401, "invalid_authorization", "headers.authorization");
}

#[tokio::test]
async fn the_bearer_of_the_environment_stays() {
    let (gateway, _stage) = started().await;
    std::fs::remove_file(gateway.file("auth/tokens.yaml")).unwrap();
    assert_eq!(gateway.reload().await.0, 200);
    gateway.client().await.get("/v1/models").await.is_ok();
}

#[tokio::test]
async fn a_tokens_file_that_appears_ends_the_bootstrap_token() {
    let gateway = patient(Setup::new()).variable("RUST_API_BEARER", "").start().await;
    let secret = std::fs::read_to_string(gateway.data("keys/bootstrap-token")).unwrap();
    assert_eq!(status(&gateway, secret.trim()).await, 200);
    gateway.put("auth/tokens.yaml", &tokens("one"));
    valid(&gateway, "one").await;
    assert_eq!(status(&gateway, secret.trim()).await, 401);
    std::fs::remove_file(gateway.file("auth/tokens.yaml")).unwrap();
    assert_eq!(gateway.reload().await.0, 200);
    assert_eq!((status(&gateway, secret.trim()).await, status(&gateway, "one").await), (200, 401));
    assert!(!gateway.log().contains(secret.trim()));
}

/// A stream whose first chunk has come.
async fn streaming(gateway: &Gateway, stage: &mut Stage) -> (Client, crate::harness::Caller) {
    let mut client = gateway.client().await;
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    client.send_chat(body.to_string()).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "first")).await;
    client.read_head().await;
    assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", "first"));
    (client, caller)
}

#[tokio::test]
async fn a_stream_goes_on_with_what_it_began_with() {
    let (gateway, mut stage) = started().await;
    let (mut client, mut caller) = streaming(&gateway, &mut stage).await;
    gateway.put("conf/models.yaml", &models("n"));
    gateway.put("auth/tokens.yaml", &tokens("two"));
    for _ in 0..3 {
        assert_eq!(gateway.reload().await.0, 200);
        // the request still runs on the same backend
        assert_eq!(gateway.metrics().await.value("dgx_gateway_backend_in_flight{backend=\"first\"}"), 1.0);
    }
    caller.chunk(chunk_of_stream(UPSTREAM, "second")).await;
    assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", "second"));
    caller.chunk(finish_of_stream(UPSTREAM) + "data: [DONE]\n\n").await;
    caller.end_chunks().await;
    assert_eq!(client.piece().await.unwrap(), finish_of_stream("m") + "data: [DONE]\n\n");
    assert_eq!(client.piece().await, None);
    gateway.idle().await;
    assert_eq!(gateway.metrics().await.value("dgx_gateway_backend_in_flight{backend=\"first\"}"), 0.0);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    gateway.chat(body).await.is_error(400, "model_not_in_allowlist", "model");
}

#[tokio::test]
async fn buckets_keep_their_levels_and_take_the_new_limit() {
    let (gateway, _stage) = started().await;
    let with_burst = |burst: u32| tokens("one") + &format!("    rate_limit: {{per_second: 0.001, burst: {burst}}}\n");
    gateway.put("auth/tokens.yaml", &with_burst(3));
    assert_eq!(gateway.reload().await.0, 200);
    assert_eq!([status(&gateway, "one").await, status(&gateway, "one").await], [200, 200]);
    assert_eq!(gateway.reload().await.0, 200);
    assert_eq!([status(&gateway, "one").await, status(&gateway, "one").await], [200, 429]);
    gateway.put("auth/tokens.yaml", &with_burst(4));
    assert_eq!(gateway.reload().await.0, 200);
    // another capacity is no new bucket
    assert_eq!(status(&gateway, "one").await, 429);
}

#[tokio::test]
async fn readiness_is_that_of_the_backends_in_use() {
    let (gateway, stage) = started().await;
    let ready = async || {
        let mut admin = dgx_gateway_testkit::client::RawClient::connect(gateway.admin).await.unwrap();
        admin.request(&Method::GET, "/readyz", &[], b"").await.unwrap();
        soon("readiness", admin.read_response()).await.unwrap().status
    };
    assert_eq!(ready().await, 200);
    // nobody listens at the discard port
    gateway.put("conf/gateway.yaml", &main_file(SocketAddr::from(([127, 0, 0, 1], 9)), ""));
    assert_eq!(gateway.reload().await.0, 200);
    until("it is not ready", async || ready().await == 503).await;
    assert_eq!(gateway.metrics().await.value("dgx_gateway_backend_up{backend=\"first\",domain=\"local\"}"), 0.0);
    gateway.put("conf/gateway.yaml", &main_file(stage.addr, ""));
    assert_eq!(gateway.reload().await.0, 200);
    assert_eq!(ready().await, 200);
    gateway.put("conf/gateway.yaml", &main_file(stage.addr, "").replace("label: first", "label: other"));
    assert_eq!(gateway.reload().await.0, 200);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("dgx_gateway_backend_up{backend=\"other\",domain=\"local\"}"), 1.0);
    assert_eq!(metrics.sum("dgx_gateway_backend_up"), 1.0, "a backend that has gone has no series");
}
