//! Backends that ask to be left alone, and how often a request is tried at most.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::json;

use crate::harness::{Answer, Gateway, Setup, backend, until};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;

/// A refusal with 429, this header and this body.
fn busy(header: Option<(&'static str, &str)>, body: &str) -> Behaviour {
    let headers = header.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    let body = body.to_owned().into();
    Behaviour::Status { status: StatusCode::TOO_MANY_REQUESTS, headers: headers.into_iter().collect(), body }
}

async fn mock(script: Script) -> MockUpstream {
    MockUpstream::start(script.with_looks_apart()).await.unwrap()
}

async fn attempts(gateway: &Gateway) -> String {
    gateway.chat(CHAT).await.is_ok().header("spass-attempts").unwrap().to_owned()
}

#[tokio::test]
async fn a_backend_rests_from_the_next_request_on_for_as_long_as_it_says_in_whatever_way() {
    let in_body = r#"[{"error":{"code":429,"details":[{"@type":"x"},{"retryDelay":"1.5s"}]}}]"#;
    for refusal in [
        busy(Some(("retry-after", "1")), "{}"),
        busy(Some(("retry-after-ms", "1200")), "{}"),
        busy(None, in_body),
        busy(Some(("retry-after-ms", "1200")), r#"{"error":{"details":[{"retryDelay":"600s"}]}}"#),
    ] {
        let (first, second) = (mock(Script::queue([refusal])).await, mock(Script::default()).await);
        let gateway = Setup::with_fallback(first.addr(), second.addr()).start().await;
        assert_eq!(attempts(&gateway).await, "first;s=429, second;s=200");
        assert_eq!(attempts(&gateway).await, "second;s=200", "it rests");
        until("it is tried again", async || attempts(&gateway).await == "first;s=200").await;
    }
}

#[tokio::test]
async fn the_wait_that_the_last_backend_names_is_passed_on() {
    let last = |answer: &Answer| {
        answer.is_error(429, "model_quota_exhausted", "model");
        ["retry-after", "retry-after-ms"].map(|name| answer.header(name).unwrap().to_owned())
    };
    for (refusal, expected) in [
        (busy(None, r#"{"error":{"details":[{"retryDelay":"34.2s"}]}}"#), ["35", "34200"]),
        (busy(Some(("retry-after-ms", "1")), "{}"), ["1", "1"]),
        (busy(None, "{}"), ["60", "60000"]),
        (busy(Some(("retry-after", "7200")), "{}"), ["3600", "3600000"]),
    ] {
        let mock = mock(Script::always(refusal)).await;
        let gateway = Setup::with_upstream(mock.addr()).start().await;
        assert_eq!(last(&gateway.chat(CHAT).await), expected);
    }
}

#[tokio::test]
async fn a_long_route_is_tried_thirty_two_times_and_no_more() {
    let failing = Behaviour::Status { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new(), body: "{}".into() };
    let mock = mock(Script::always(failing)).await;
    let ids: Vec<String> = (0..40).map(|n| format!("b{n}")).collect();
    let route: Vec<_> = ids.iter().map(|id| json!({"backend": id, "model": "x"})).collect();
    let setup = Setup::new().model(json!({"alias": "m", "route": route}));
    let gateway = ids.iter().fold(setup, |setup, id| setup.backend(backend(id, mock.addr()))).start().await;
    let answer = gateway.chat(CHAT).await;
    answer.is_error(502, "upstream_error", "");
    assert_eq!(answer.header("spass-attempts").unwrap().split(", ").count(), 32);
    assert_eq!(mock.requests().len(), 32);
    assert_eq!(answer.header("x-should-retry"), Some("false"));
}

/// Two backends behind a model, of which one request of five may try the second, and the ten that are there from the start.
async fn bounded(first: &MockUpstream, second: &MockUpstream) -> Gateway {
    let setup = Setup::with_fallback(first.addr(), second.addr());
    setup.section("retries", json!({"percent": 20, "per_second": 0})).start().await
}

fn broken() -> Behaviour {
    Behaviour::Status { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new(), body: "{}".into() }
}

#[tokio::test]
async fn when_all_backends_fail_a_fifth_of_the_requests_is_tried_once_more_and_the_others_are_told_not_to_come_back() {
    const REQUESTS: usize = 100;
    let (first, second) = (mock(Script::always(broken())).await, mock(Script::always(broken())).await);
    let gateway = bounded(&first, &second).await;
    let mut further = 0;
    for _ in 0..REQUESTS {
        let answer = gateway.chat(CHAT).await;
        answer.is_error(502, "upstream_error", "");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        further += answer.header("spass-attempts").unwrap().split(", ").count() - 1;
    }
    // ten, and a fifth of the 99 requests after the first
    assert_eq!(further, 10 + 19);
    assert_eq!(first.requests().len() + second.requests().len(), REQUESTS + further);
    let spent = gateway.metrics().await.value(r#"dgx_gateway_retry_budget_spent_total{model="m"}"#);
    assert_eq!(spent, (REQUESTS - further) as f64);
}

#[tokio::test]
async fn while_one_backend_fails_all_requests_are_answered_and_few_of_them_ask_it() {
    const REQUESTS: usize = 100;
    let (first, second) = (mock(Script::queue(vec![broken(); 30])).await, mock(Script::default()).await);
    let gateway = bounded(&first, &second).await;
    let mut client = gateway.client().await;
    for _ in 0..REQUESTS {
        client.chat(CHAT).await.is_ok();
    }
    // half of what is there from the start, and what came in meanwhile; then one of five, from the eleventh request on
    assert_eq!(first.requests().len(), 7 + 18);
    assert!(!gateway.metrics().await.text().contains("dgx_gateway_retry_budget_spent_total{"), "nobody was refused");
    // it is well again, and found so
    until("it serves", async || attempts(&gateway).await == "first;s=200").await;
    assert_eq!(attempts(&gateway).await, "first;s=200");
}

#[tokio::test]
async fn a_reload_changes_the_budget_and_nothing_in_it_means_no_further_attempt() {
    let (first, second) = (mock(Script::always(broken())).await, mock(Script::default()).await);
    let gateway = bounded(&first, &second).await;
    assert_eq!(attempts(&gateway).await, "first;s=502, second;s=200");
    let text = std::fs::read_to_string(gateway.file("conf/gateway.yaml")).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    file["retries"] = json!({"percent": 0, "per_second": 0});
    gateway.put("conf/gateway.yaml", &file.to_string());
    assert_eq!(gateway.reload().await.0, 200);
    let answer = gateway.chat(CHAT).await;
    answer.is_error(502, "upstream_error", "");
    assert_eq!(
        (answer.header("spass-attempts"), answer.header("x-should-retry")),
        (Some("first;s=502"), Some("false"))
    );
    file["retries"] = json!({"percent": 20, "per_minute": 1});
    gateway.put("conf/gateway.yaml", &file.to_string());
    assert_eq!(gateway.reload().await.0, 422);
}
