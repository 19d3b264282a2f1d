//! A pinned tenant alias whose provider has reached its limit of a day.

use std::time::{SystemTime, UNIX_EPOCH};

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, PROMPT, Setup, backend, model};

const DAY: &str = "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day";

async fn upstream(status: u16, message: &str) -> MockUpstream {
    let code = if status == 200 { 429 } else { status };
    let body = json!({"error": {"message": message, "code": code}}).to_string();
    let status = StatusCode::from_u16(status).unwrap();
    let behaviour = Behaviour::Status { status, headers: HeaderMap::new(), body: body.into() };
    MockUpstream::start(Script::always(behaviour).with_looks_apart()).await.unwrap()
}

fn cloud(id: &str, kind: &str, mock: &MockUpstream) -> Value {
    let mut backend = backend(id, mock.addr());
    backend["kind"] = json!(kind);
    backend["domain"] = json!("cloud");
    backend
}

/// `pinned` and `plain` are names of a model whose route ends at `last`; `other` is one of a model elsewhere.
async fn gateway(mock: &MockUpstream, kinds: &[&str]) -> Gateway {
    let mut setup = Setup::new();
    let mut route = Vec::new();
    for (at, kind) in kinds.iter().enumerate() {
        setup = setup.backend(cloud(&format!("b{at}"), kind, mock));
        route.push(json!({"backend": format!("b{at}"), "model": "upstream-name"}));
    }
    let mut gpt = json!({"alias": "gpt", "family": "GPT", "route": route});
    gpt["constraints"] = json!({});
    let alias = |slug: &str, tenants: Value, pinned: bool, fallbacks: Value| json!({"slug": slug, "target": "gpt", "tenants": tenants, "pinned": pinned, "available_fallbacks": fallbacks});
    setup
        .model(gpt)
        .model(model("claude", &[("b0", "c")]))
        .catalog(
            "tenant_aliases",
            json!([
                alias("pinned", json!(["default"]), true, json!(["claude", "secret-of-globex", "gemini-text"])),
                alias("alone", json!(["default"]), true, json!([])),
                alias("plain", json!(["default"]), false, json!([])),
                alias("secret-of-globex", json!(["globex"]), true, json!([])),
            ]),
        )
        .start()
        .await
}

async fn ask(gateway: &Gateway, model: &str, language: &str) -> Answer {
    let body = json!({"model": model, "messages": [{"role": "user", "content": PROMPT}]}).to_string();
    let headers = [("accept-language", language)];
    gateway.client().await.request(&http::Method::POST, "/v1/chat/completions", &headers, body.as_bytes()).await
}

fn until_midnight() -> u64 {
    86_400 - SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 86_400
}

#[tokio::test]
async fn a_pinned_alias_is_told_of_the_day_and_of_its_fallbacks() {
    for status in [429, 402, 200] {
        let mock = upstream(status, DAY).await;
        let gateway = gateway(&mock, &["openai", "openrouter"]).await;
        let before = until_midnight();
        let answer = ask(&gateway, "pinned", "en").await;
        answer.is_error(429, "openrouter_daily_quota_exhausted", "model");
        let body = answer.json();
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(
            body["error"]["message"],
            "The daily GPT limit at OpenRouter is used up. It resets at 00:00 UTC. Available fallback models: claude, gemini-text."
        );
        assert_eq!(body["dgx_code"], "openrouter_daily_quota_exhausted");
        assert_eq!(body["available_fallbacks"], json!(["claude", "gemini-text"]), "none of another tenant");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        let passed = (before + 86_400 - wait) % 86_400;
        assert!(passed <= 60, "{before} {wait}");
        assert!((1..=86_400).contains(&wait));
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
}

#[tokio::test]
async fn german_is_spoken_to_those_who_name_it_first() {
    let mock = upstream(429, DAY).await;
    let gateway = gateway(&mock, &["openrouter"]).await;
    let message = async |language: &str| ask(&gateway, "alone", language).await.json()["error"]["message"].clone();
    let german = "Das Tageslimit für GPT bei OpenRouter ist aufgebraucht. Es wird um 00:00 UTC zurückgesetzt.";
    assert_eq!(message("de-DE, en;q=0.8").await, german);
    let english = "The daily GPT limit at OpenRouter is used up. It resets at 00:00 UTC.";
    assert_eq!(message("en, de").await, english);
    assert_eq!(ask(&gateway, "alone", "de").await.json()["available_fallbacks"], json!([]));
}

#[tokio::test]
async fn without_one_of_the_conditions_it_is_the_quota_of_the_model() {
    for (kinds, model, status, message, why) in [
        (["openrouter", "openai"], "pinned", 429, DAY, "another kind is last"),
        (["openai", "openrouter"], "plain", 429, DAY, "the alias is not pinned"),
        (["openai", "openrouter"], "gpt", 429, DAY, "no alias at all"),
        (["openai", "openrouter"], "pinned", 429, "Rate limit exceeded: free-models-per-min.", "a limit of a minute"),
    ] {
        let mock = upstream(status, message).await;
        let answer = ask(&gateway(&mock, &kinds).await, model, "de").await;
        answer.is_error(429, "model_quota_exhausted", "model");
        assert_eq!(answer.header("retry-after"), Some("60"), "{why}");
        assert_eq!(mock.requests().len(), 2, "{why}");
    }
}
