//! The numbers that operators see: a format that Prometheus takes, names of the catalog alone, and what they count.

mod busy;
mod dashboard;
mod page;
mod promql;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use crate::harness::{Gateway, PROMPT, Setup, backend, model};

fn chat(model: &str, stream: bool) -> String {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}).to_string()
}

/// A gateway after requests of many kinds.
async fn used() -> (MockUpstream, Gateway) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut first = backend("first", mock.addr());
    first["protocols"] = json!(["chat", "embeddings"]);
    let mut vectors = model("vectors", &[("first", "vectors-name")]);
    vectors["type"] = json!("embedding");
    let setup = Setup::new().backend(first).model(model("m", &[("first", "upstream-name-of-m")])).model(vectors);
    let gateway = setup.start().await;
    gateway.chat(chat("m", false)).await.is_ok();
    gateway.chat(chat("m", true)).await.is_ok();
    let vectors = json!({"model": "vectors", "input": "x"}).to_string();
    let json_type = [("content-type", "application/json")];
    gateway.client().await.request(&http::Method::POST, "/v1/embeddings", &json_type, vectors.as_bytes()).await.is_ok();
    let failed = Behaviour::Status { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new(), body: "{}".into() };
    mock.push(failed);
    gateway.chat(chat("m", false)).await;
    gateway.chat(chat("nothing", false)).await;
    gateway.client().await.get("/nothing").await;
    gateway.client().await.get("/errors").await.is_ok();
    gateway.idle().await;
    (mock, gateway)
}

#[tokio::test]
async fn prometheus_finds_nothing_wrong_with_the_page() {
    let (_mock, gateway) = used().await;
    let page = gateway.metrics().await.text().to_owned();
    let (content, said) = page::promtool(&["check", "metrics"], &page);
    assert!(content && said.is_empty(), "{said}");
}

#[tokio::test]
async fn model_calls_are_measured_under_the_names_of_the_conventions() {
    let (_mock, gateway) = used().await;
    let metrics = gateway.metrics().await;
    let labels = |operation: &str, model: &str| {
        format!(
            r#"gen_ai_operation_name="{operation}",gen_ai_provider_name="first",gen_ai_request_model="{model}",gen_ai_response_model="{model}""#
        )
    };
    let (chat, vectors) = (labels("chat", "m"), labels("embeddings", "vectors"));
    let count = |name: &str, labels: &str| metrics.value(&format!("{name}_count{{{labels}}}"));
    let duration = "gen_ai_client_operation_duration_seconds";
    assert_eq!(count(duration, &format!(r#"error_type="",{chat}"#)), 2.0);
    assert_eq!(count(duration, &format!(r#"error_type="upstream_error",{chat}"#)), 1.0);
    assert_eq!(count(duration, &format!(r#"error_type="",{vectors}"#)), 1.0);
    assert_eq!(count("gen_ai_client_operation_time_to_first_chunk_seconds", &chat), 1.0, "of the stream alone");
    assert_eq!(count("gen_ai_client_token_usage", &format!(r#"{chat},gen_ai_token_type="input""#)), 2.0);
    assert_eq!(count("gen_ai_client_token_usage", &format!(r#"{chat},gen_ai_token_type="output""#)), 2.0);
    assert_eq!(count("gen_ai_client_token_usage", &format!(r#"{vectors},gen_ai_token_type="input""#)), 1.0);
    assert!(!metrics.text().contains("nothing"), "what is not in the catalog is no label");
}

#[tokio::test]
async fn the_gateways_own_time_is_counted_without_that_of_the_upstream() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let pause = std::time::Duration::from_millis(1500);
    mock.push(Behaviour::SlowBody { piece: 1 << 20, pause });
    gateway.chat(chat("m", false)).await.is_ok();
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    let of =
        |name: &str| metrics.value(&format!("dgx_gateway_overhead_seconds_{name}{{route=\"/v1/chat/completions\"}}"));
    assert_eq!(of("count"), 1.0);
    let whole = metrics.sum("dgx_gateway_http_request_duration_seconds_sum");
    assert!(whole >= pause.as_secs_f64());
    assert!(of("sum") > 0.0 && of("sum") <= whole - pause.as_secs_f64(), "{} of {whole}", of("sum"));
}

#[tokio::test]
async fn the_page_is_public_only_where_it_is_wanted() {
    let plain = Setup::new().start().await;
    let hidden = plain.client().await.get("/metrics").await;
    assert_eq!((hidden.status, hidden.text().contains("route_not_found")), (404, true));
    let open = Setup::new().server("metrics_on_public", true).start().await;
    let page = open.client().await.get("/metrics").await;
    page.is_ok();
    assert!(page.text().contains("dgx_gateway_http_in_flight"), "{}", page.text());
}
