//! What requests make of the values.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::Method;
use serde_json::{Value, json};

use super::{ask, asked, put, set, tokens, with_models};
use crate::harness::{Answer, Gateway, Stage, chunk_of_stream, finish_of_stream};

const CHAT: &str = "/v1/chat/completions";
const IMAGES: &str = "/v1/images/generations";
const STT: &str = "/v1/audio/transcriptions";

async fn started(acme: Value) -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    (with_models(mock.addr()).tokens(tokens(&acme)).start().await, mock)
}

async fn post(gateway: &Gateway, token: &str, path: &str, body: &str) -> Answer {
    ask(gateway.addr, token, &Method::POST, path, body).await
}

#[tokio::test]
async fn augmentation_follows_the_switches_of_the_tenant() {
    let (gateway, _mock) = started(json!({"augment_memory": false})).await;
    let chat = r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
    let applied = async |token: &str| {
        let answer = post(&gateway, token, CHAT, chat).await;
        answer.is_ok().header("spass-augment-applied").unwrap().to_owned()
    };
    assert_eq!(applied("acme-user").await, "system-prompt=0, server-tools=0, memory=disabled");
    let config =
        r#"{"config": {"augment_memory": true, "augment_server_tools": false, "augment_system_prompt": false}}"#;
    put(gateway.addr, "acme-admin", "", config).await.is_ok();
    assert_eq!(applied("acme-user").await, "system-prompt=disabled, server-tools=disabled, memory=0");
    assert_eq!(applied("globex-user").await, "system-prompt=0, server-tools=0, memory=0");
}

#[tokio::test]
async fn streams_follow_the_tenant_and_keep_what_they_began_with() {
    let mut stage = Stage::open().await;
    let gateway = with_models(stage.addr).tokens(tokens(&json!({"stream_heartbeat_seconds": 1}))).start().await;
    set(gateway.addr, "stream_cost_event", "true").await;
    let body = r#"{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}"#;
    let stream = async |gateway: &Gateway| {
        let mut client = gateway.client().await;
        let headers =
            [("authorization", "Bearer acme-user"), ("spass-user-id", "alice"), ("content-type", "application/json")];
        client.raw.request(&Method::POST, CHAT, &headers, body.as_bytes()).await.unwrap();
        client
    };
    let mut first = stream(&gateway).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("m", "hi")).await;
    assert_eq!(first.read_head().await.0, 200);
    // values of a request are those of its start
    let config = r#"{"config": {"stream_cost_event": false, "stream_heartbeat_seconds": 0}}"#;
    put(gateway.addr, "acme-admin", "", config).await.is_ok();
    let mut seen = String::new();
    while !seen.contains(": keep-alive") {
        seen.push_str(&first.piece().await.unwrap());
    }
    caller.chunk_and_end(finish_of_stream("m") + "data: [DONE]\n\n").await;
    while let Some(piece) = first.piece().await {
        seen.push_str(&piece);
    }
    assert!(seen.contains("event: spass.cost"), "{seen}");
    drop(caller); // else the next request would come over the same connection
    let mut second = stream(&gateway).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("m", "hi")).await;
    caller.chunk_and_end(finish_of_stream("m") + "data: [DONE]\n\n").await;
    assert_eq!(second.read_head().await.0, 200);
    let mut seen = String::new();
    while let Some(piece) = second.piece().await {
        seen.push_str(&piece);
    }
    assert!(seen.contains("[DONE]") && !seen.contains("spass.cost") && !seen.contains("keep-alive"), "{seen}");
}

#[tokio::test]
async fn the_lists_of_the_operator_hold() {
    let (gateway, _mock) = started(json!({"models_blacklist": ["oth*"]})).await;
    let chat = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    post(&gateway, "acme-user", CHAT, &chat("m")).await.is_ok();
    post(&gateway, "acme-user", CHAT, &chat("other")).await.is_error(400, "model_not_in_allowlist", "model");
    post(&gateway, "globex-user", CHAT, &chat("other")).await.is_ok();
}

#[tokio::test]
async fn images_have_the_model_size_and_number_of_the_tenant() {
    let image = r#"{"created":1,"data":[{"b64_json":"iVBORw0KGgo="}]}"#;
    let mock = MockUpstream::start(Script::always(Behaviour::json(image)).with_looks_apart()).await.unwrap();
    let gateway = with_models(mock.addr()).tokens(tokens(&json!({}))).start().await;
    let post = async |body: &str| post(&gateway, "acme-user", IMAGES, body).await;
    // the product's model is not in this catalog
    post(r#"{"prompt": "a dog"}"#).await.is_error(400, "model_not_in_allowlist", "model");
    set(gateway.addr, "image_gen_model", "\"painter\"").await;
    set(gateway.addr, "image_gen_size", "\"1536x1024\"").await;
    for (sent, received) in [
        (r#"{"prompt": "a dog" }"#, r#"{"prompt": "a dog" ,"model":"painter","size":"1536x1024"}"#),
        (r#"{"model": null, "prompt": "a"}"#, r#"{"model": "painter", "prompt": "a","size":"1536x1024"}"#),
        (r#"{"size":null,"prompt":"a","n":2}"#, r#"{"size":"1536x1024","prompt":"a","n":2,"model":"painter"}"#),
        (
            r#"{"size": "auto", "prompt": "a", "model": "painter"}"#,
            r#"{"size": "auto", "prompt": "a", "model": "painter"}"#,
        ),
    ] {
        let answer = post(sent).await;
        assert_eq!(answer.is_ok().header("spass-resolved-model"), Some("painter"));
        assert_eq!(mock.requests().last().unwrap().body, received);
    }
    let many = |n: u32| format!("{{\"prompt\": \"a\", \"n\": {n}}}");
    post(&many(3)).await.is_error(400, "invalid_field", "n");
    set(gateway.addr, "image_gen_max_per_request", "8").await;
    post(&many(8)).await.is_ok();
    post(&many(9)).await.is_error(400, "invalid_field", "n");
    set(gateway.addr, "image_gen_max_per_request", "0").await;
    let before = mock.requests().len();
    for body in [&*many(1), r#"{"prompt": "a", "model": "painter"}"#, "no json"] {
        post(body).await.is_error(403, "forbidden", "");
    }
    assert_eq!(mock.requests().len(), before);
    // the user comes before the configuration of the tenant in the order of checks
    let without = [("authorization", "Bearer acme-user"), ("content-type", "application/json")];
    let answer = asked(gateway.addr, &Method::POST, IMAGES, &without, "{}").await;
    answer.is_error(400, "missing_field", "headers.spass-user-id");
}

/// A recording with some fields, and a name for the model behind it if there is one.
fn form(model: Option<&str>, preamble: &str) -> String {
    let part =
        |head: &str, content: &str| format!("--b-1\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n");
    let model = model.map(|model| part("name=\"model\"", model)).unwrap_or_default();
    let file = part("name=\"file\"; filename=\"a.wav\"", "RIFF of a recording");
    format!("{preamble}{}{file}{model}--b-1--\r\n", part("name=\"language\"", "de"))
}

async fn recording(gateway: &Gateway, path: &str, mode: Option<&str>, body: &str) -> Answer {
    let mut headers = vec![
        ("authorization", "Bearer acme-user"),
        ("spass-user-id", "alice"),
        ("content-type", "multipart/form-data; boundary=b-1"),
    ];
    headers.extend(mode.map(|mode| ("spass-stt-mode", mode)));
    asked(gateway.addr, &Method::POST, path, &headers, body).await
}

#[tokio::test]
async fn a_recording_without_a_model_goes_to_that_of_the_tenant() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut elsewhere = crate::harness::model("hears", &[("first", "name-at-the-backend")]);
    elsewhere["type"] = "audio".into();
    let setup = with_models(mock.addr()).replace_models(elsewhere);
    let gateway = setup.tokens(tokens(&json!({}))).start().await;
    for path in [STT, "/v1/audio/translations"] {
        super::delete(gateway.addr, "acme-admin", "/stt_model").await;
        recording(&gateway, path, None, &form(None, "")).await.is_error(400, "missing_field", "model");
        set(gateway.addr, "stt_model", "\"hears\"").await;
        for preamble in ["", "\r\n", "a preamble\r\n"] {
            let answer = recording(&gateway, path, None, &form(None, preamble)).await;
            assert_eq!(answer.is_ok().header("spass-resolved-model"), Some("hears"), "{preamble:?}");
            let named = "--b-1\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nname-at-the-backend\r\n";
            let expected = format!("{preamble}{named}{}", form(None, ""));
            assert_eq!(mock.requests().last().unwrap().body, expected, "{preamble:?}");
        }
        // what the form says goes before it
        recording(&gateway, path, None, &form(Some("hears"), "")).await.is_ok();
        assert_eq!(mock.requests().last().unwrap().body, form(Some("name-at-the-backend"), ""));
        recording(&gateway, path, None, &form(Some("m"), "")).await.is_error(400, "model_not_in_allowlist", "model");
    }
}

#[tokio::test]
async fn a_recording_has_the_mode_of_the_tenant_unless_it_says_another() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut windows = crate::harness::backend("windows", mock.addr());
    windows["protocols"] = json!(["transcription"]);
    windows["stt_modes"] = json!(["continuous", "chunked"]);
    let mut hears = crate::harness::model("listens", &[("windows", "listens")]);
    hears["type"] = "audio".into();
    let setup = with_models(mock.addr()).backend(windows).model(hears);
    let gateway = setup.tokens(tokens(&json!({"stt_model": "listens"}))).start().await;
    let mode = || mock.requests().last().unwrap().headers["spass-stt-mode"].to_str().unwrap().to_owned();
    recording(&gateway, STT, None, &form(None, "")).await.is_ok();
    assert_eq!(mode(), "continuous");
    set(gateway.addr, "stt_default_mode", "\"chunked\"").await;
    recording(&gateway, STT, None, &form(None, "")).await.is_ok();
    assert_eq!(mode(), "chunked");
    recording(&gateway, STT, Some("continuous"), &form(None, "")).await.is_ok();
    assert_eq!(mode(), "continuous");
    let no_windows = recording(&gateway, STT, None, &form(Some("hears"), "")).await;
    no_windows.is_error(400, "invalid_field", "headers.spass-stt-mode");
}

#[tokio::test]
async fn a_model_that_the_tenant_lost_is_refused_when_it_is_needed() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut gateway = with_models(mock.addr()).tokens(tokens(&json!({}))).start().await;
    set(gateway.addr, "stt_model", "\"hears\"").await;
    gateway.write("auth/tokens.yaml", &tokens(&json!({"models_allowlist": ["m"]})).to_string());
    gateway.killed_and_started_again().await;
    crate::harness::until("it serves again", async || tokio::net::TcpStream::connect(gateway.addr).await.is_ok()).await;
    recording(&gateway, STT, None, &form(None, "")).await.is_error(400, "model_not_in_allowlist", "model");
    assert_eq!(super::get(gateway.addr, "acme-admin", "/stt_model").await.is_ok().json()["value"], "hears");
}
