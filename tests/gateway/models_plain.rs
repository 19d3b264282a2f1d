//! Rerank, generated images and speech: what reaches the backend, and what comes back.

use std::time::Duration;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::harness::{Answer, BACKEND_KEY, Gateway, Setup, Stage, backend, model};

const RERANK: &str = "/v1/rerank";
const IMAGES: &str = "/v1/images/generations";
const SPEECH: &str = "/v1/audio/speech";

fn setup(first: std::net::SocketAddr, second: std::net::SocketAddr) -> Setup {
    let all = json!(["chat", "rerank", "images", "speech"]);
    let mut setup = Setup::new();
    for (id, addr) in [("first", first), ("second", second)] {
        let mut backend = backend(id, addr);
        backend["protocols"] = all.clone();
        setup = setup.backend(backend);
    }
    setup = setup.backend(backend("plain", second));
    let typed = |alias: &str, kind: &str, route: &[(&str, &str)]| {
        let mut model = model(alias, route);
        model["type"] = json!(kind);
        model
    };
    let route = [("first", "at-first"), ("second", "at-second")];
    let mut draws = typed("draws", "chat", &route);
    draws["modalities"] = json!({"input": ["text"], "output": ["text", "image"]});
    setup
        .model(typed("ranker", "rerank", &route))
        .model(typed("painter", "image", &route))
        .model(typed("voice", "audio", &route))
        .model(typed("nowhere", "image", &[("plain", "x")]))
        .model(typed("words", "chat", &route))
        .model(draws)
}

async fn started(first: Script) -> (Gateway, MockUpstream, MockUpstream) {
    let first = MockUpstream::start(first.with_looks_apart()).await.unwrap();
    let second = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    (setup(first.addr(), second.addr()).start().await, first, second)
}

async fn post(gateway: &Gateway, path: &str, body: &str) -> Answer {
    let json = [("content-type", "application/json")];
    gateway.client().await.request(&Method::POST, path, &json, body.as_bytes()).await
}

fn sound(content_type: &'static str, body: &'static [u8]) -> Behaviour {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Behaviour::Status { status: StatusCode::OK, headers, body: body.into() }
}

#[tokio::test]
async fn rerank_passes_and_its_results_are_sorted() {
    let results = r#"{"id":"rerank-91","model":"at-first","results":[{"index":0,"relevance_score":0.1,"document":{"text":"Lunch"}},{"index":1,"relevance_score":0.93}],"usage":{"total_tokens":21}}"#;
    let (gateway, mock, _second) = started(Script::queue([Behaviour::json(results)])).await;
    let body = r#"{"model":"ranker", "query":"leave","documents":["Lunch", {"text":"Leave"}],"top_n":2,"max_tokens":0,"stream":true}"#;
    let answer = post(&gateway, RERANK, body).await;
    assert_eq!(
        answer.is_ok().text(),
        r#"{"id":"rerank-91","model":"ranker","results":[{"index":1,"relevance_score":0.93},{"index":0,"relevance_score":0.1,"document":{"text":"Lunch"}}],"usage":{"total_tokens":21}}"#
    );
    assert_eq!(answer.header("spass-resolved-model"), Some("ranker"));
    assert_eq!(answer.header("spass-attempts"), Some("first;s=200"));
    let seen = &mock.requests()[0];
    assert_eq!(seen.path, RERANK);
    assert_eq!(seen.body, body.replace("\"ranker\"", "\"at-first\""), "nothing but the name changes");
    assert_eq!(seen.headers["authorization"], format!("Bearer {BACKEND_KEY}"));
}

#[tokio::test]
async fn members_and_models_are_checked_before_anything_is_called() {
    let (gateway, first, second) = started(Script::default()).await;
    let rerank = |documents: Value| json!({"model": "ranker", "query": "q", "documents": documents}).to_string();
    let image = |name: &str, value: Value| {
        let mut body = json!({"model": "painter", "prompt": "a dog"});
        body[name] = value;
        body.to_string()
    };
    let speech = |input: &str| json!({"model": "voice", "input": input, "voice": "alloy"}).to_string();
    for (path, body, code, param) in [
        (RERANK, rerank(json!([])), "invalid_field", "documents"),
        (RERANK, rerank(json!(vec!["x"; 1001])), "invalid_field", "documents"),
        (RERANK, rerank(json!(["a", 7])), "invalid_field", "documents[1]"),
        (RERANK, rerank(json!(["x".repeat(32_769)])), "invalid_field", "documents[0]"),
        (RERANK, r#"{"model":"ranker","documents":["a"]}"#.to_owned(), "missing_field", "query"),
        (RERANK, r#"{"query":"q","documents":["a"]}"#.to_owned(), "missing_field", "model"),
        (RERANK, rerank(json!(["a"])).replace("ranker", "words"), "model_not_in_allowlist", "model"),
        (IMAGES, image("prompt", json!("")), "invalid_field", "prompt"),
        (IMAGES, image("n", json!(3)), "invalid_field", "n"),
        (IMAGES, image("size", json!("1x1")), "invalid_field", "size"),
        (IMAGES, image("quality", json!("hd")), "invalid_field", "quality"),
        (IMAGES, image("response_format", json!("png")), "invalid_field", "response_format"),
        (IMAGES, image("model", json!("words")), "model_not_in_allowlist", "model"),
        (IMAGES, image("model", json!("ranker")), "model_not_in_allowlist", "model"),
        (IMAGES, image("model", json!("nowhere")), "invalid_field", "model"),
        (IMAGES, image("user_id", json!("bob")), "invalid_field", "body.user_id"),
        (SPEECH, speech(""), "invalid_field", "input"),
        (SPEECH, speech(&"x".repeat(4097)), "invalid_field", "input"),
        (SPEECH, r#"{"model":"voice","input":"a"}"#.to_owned(), "missing_field", "voice"),
        (SPEECH, r#"{"model":"painter","input":"a","voice":"v"}"#.to_owned(), "model_not_in_allowlist", "model"),
    ] {
        post(&gateway, path, &body).await.is_error(400, code, param);
    }
    assert_eq!(first.requests().len() + second.requests().len(), 0);
    for path in ["/rerank", "/images/generations", "/audio/speech"] {
        post(&gateway, path, "{}").await.is_error(404, "route_not_found", "");
    }
}

#[tokio::test]
async fn images_pass_for_models_that_draw() {
    let image = r#"{"created":1777411833,"data":[{"b64_json":"iVBORw0KGgo="}]}"#;
    let (gateway, mock, _second) = started(Script::always(Behaviour::json(image))).await;
    for model in ["painter", "draws"] {
        let body =
            json!({"model": model, "prompt": "a dog", "n": 2, "size": "1024x1536", "quality": "low"}).to_string();
        assert_eq!(post(&gateway, IMAGES, &body).await.is_ok().text(), image);
    }
    let seen: Vec<String> = mock.requests().iter().map(|request| request.path.clone()).collect();
    assert_eq!(seen, [IMAGES, IMAGES]);
}

#[tokio::test]
async fn an_image_that_lies_at_the_provider_is_no_answer() {
    let elsewhere = r#"{"created":1,"data":[{"url":"https://images.provider.example/1.png"}]}"#;
    let (gateway, _mock, second) = started(Script::always(Behaviour::json(elsewhere))).await;
    let body = r#"{"model":"painter","prompt":"a dog"}"#;
    second.push(Behaviour::json(r#"{"created":1,"data":[{"b64_json":"iVBORw0KGgo="}]}"#));
    let answer = post(&gateway, IMAGES, body).await;
    assert_eq!(answer.is_ok().header("spass-attempts"), Some("first;s=200, second;s=200"));
    second.push(Behaviour::json(elsewhere));
    let answer = post(&gateway, IMAGES, body).await;
    answer.is_error(502, "upstream_error", "");
    assert!(!answer.text().contains("provider.example"));
    post(&gateway, IMAGES, r#"{"model":"painter","prompt":"a","response_format":"url"}"#).await.is_error(
        400,
        "invalid_field",
        "response_format",
    );
}

#[tokio::test]
async fn sound_passes_as_it_is() {
    let bytes: &[u8] = b"\xff\xf3\x00 not text \xfe";
    let (gateway, mock, _second) = started(Script::queue([sound("audio/mpeg", bytes)])).await;
    let body = r#"{"model":"voice","input":"Hello","voice":"alloy","speed":1.50}"#;
    let answer = post(&gateway, SPEECH, body).await;
    assert_eq!(answer.is_ok().body, bytes);
    assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
    assert_eq!(answer.header("spass-attempts"), Some("first;s=200"));
    assert_eq!(mock.requests()[0].body, body.replace("\"model\":\"voice\"", "\"model\":\"at-first\""));
}

#[tokio::test]
async fn sound_is_streamed_while_the_backend_still_speaks() {
    let mut stage = Stage::open().await;
    let gateway = setup(stage.addr, stage.addr).start().await;
    let mut client = gateway.client().await;
    let body = r#"{"model":"voice","input":"Hello","voice":"alloy"}"#;
    client.send(&Method::POST, SPEECH, &[("content-type", "application/json")], body.as_bytes()).await;
    let mut caller = stage.caller().await;
    caller.write("HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n").await;
    caller.chunk("first piece").await;
    assert_eq!(client.read_head().await.0, 200);
    assert_eq!(client.piece().await.as_deref(), Some("first piece"));
    caller.chunk("second").await;
    assert_eq!(client.piece().await.as_deref(), Some("second"));
    caller.end_chunks().await;
    assert_eq!(client.piece().await, None);
}

#[tokio::test]
async fn sound_that_breaks_off_ends_without_its_end_and_brings_no_other_attempt() {
    let mut stage = Stage::open().await;
    let gateway = setup(stage.addr, stage.addr).start().await;
    let mut client = gateway.client().await;
    let body = r#"{"model":"voice","input":"Hello","voice":"alloy"}"#;
    client.send(&Method::POST, SPEECH, &[("content-type", "application/json")], body.as_bytes()).await;
    let mut caller = stage.caller().await;
    caller.write("HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n").await;
    caller.chunk("first piece").await;
    assert_eq!(client.read_head().await.0, 200);
    assert_eq!(client.piece().await.as_deref(), Some("first piece"));
    caller.reset();
    let rest = tokio::time::timeout(Duration::from_secs(20), client.raw.read_piece()).await.unwrap();
    assert!(!matches!(rest, Ok(None)), "the end must not look proper: {rest:?}");
    assert!(stage.is_quiet());
}

#[tokio::test]
async fn what_is_no_sound_brings_the_next_backend() {
    for first in [
        sound("application/json", br#"{"error":{"message":"no voice","code":503}}"#),
        sound("text/html", b"<html>"),
        Behaviour::json(r#"{"text":"not spoken"}"#),
        Behaviour::status(StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let (gateway, _first, second) = started(Script::queue([first.clone()])).await;
        second.push(sound("audio/wav", b"RIFF"));
        let answer = post(&gateway, SPEECH, r#"{"model":"voice","input":"Hello","voice":"alloy"}"#).await;
        assert_eq!(answer.is_ok().body, "RIFF", "{first:?}");
        assert_eq!(answer.header("spass-resolved-backend"), Some("second"));
    }
}

#[tokio::test]
async fn scopes_are_those_of_the_contract() {
    let (first, second) = (Script::default(), Script::default());
    let first = MockUpstream::start(first).await.unwrap();
    let second = MockUpstream::start(second).await.unwrap();
    let secrets = ["rerank", "images", "audio"].map(|name| (name, format!("secret-of-{name}-0123456789abcdef")));
    let token = |(name, secret): &(&str, String)| json!({"id": name, "bound_tenant": "acme", "extra_scopes": [format!("{name}:create")], "secrets": [{"value": secret}]});
    let tokens = json!({"version": 1, "tenants": [{"id": "acme", "name": "Acme"}],
        "tokens": secrets.iter().map(token).collect::<Vec<_>>()});
    let gateway = setup(first.addr(), second.addr()).tokens(tokens).start().await;
    for (name, secret) in &secrets {
        for (path, scope) in [(RERANK, "rerank"), (IMAGES, "images"), (SPEECH, "audio")] {
            let authorization = format!("Bearer {secret}");
            let client = async |user: &[(&str, &str)]| {
                let mut headers = vec![("authorization", authorization.as_str()), ("content-type", "application/json")];
                headers.extend_from_slice(user);
                let mut client = gateway.client().await;
                client.raw.request(&Method::POST, path, &headers, b"{}").await.unwrap();
                client.answer().await
            };
            if *name == scope {
                client(&[]).await.is_error(400, "missing_field", "headers.spass-user-id");
                // images have a model of the tenant
                let first = if path == IMAGES { "prompt" } else { "model" };
                client(&[("spass-user-id", "alice")]).await.is_error(400, "missing_field", first);
            } else {
                client(&[("spass-user-id", "alice")]).await.is_error(403, "forbidden", "");
            }
        }
    }
}
