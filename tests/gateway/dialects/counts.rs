//! Counting tokens: by a backend where one counts, else by the estimate.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use serde_json::json;

use super::{COUNT, MESSAGES, anthropic, last_sent, message, post, speaking, started};
use crate::harness::{BACKEND_KEY, PROMPT, Setup, model};

/// A quarter of the text, and 4 for the message.
fn estimate() -> u64 {
    (PROMPT.len() as u64).div_ceil(4) + 4
}

#[tokio::test]
async fn a_backend_that_speaks_messages_counts() {
    let (gateway, mock) = started().await;
    let mut body = message("keyed");
    body.as_object_mut().unwrap().remove("max_tokens");
    let answer = post(&gateway, COUNT, &body).await;
    assert_eq!(answer.is_ok().text(), r#"{"input_tokens":12}"#);
    assert_eq!(
        (answer.header("spass-resolved-backend"), answer.header("spass-attempts")),
        (Some("claude"), Some("claude;s=200"))
    );
    assert_eq!(
        (answer.header("request-id"), answer.header("spass-resolved-model")),
        (answer.header("x-request-id"), Some("keyed"))
    );
    let request = mock.requests().pop().unwrap();
    assert_eq!((request.path.as_str(), &request.headers["x-api-key"]), (COUNT, &BACKEND_KEY.parse().unwrap()));
    assert_eq!(last_sent(&mock), json!({"model": "ok", "messages": [{"role": "user", "content": PROMPT}]}));
}

#[tokio::test]
async fn the_estimate_answers_where_no_backend_counts() {
    let (gateway, mock) = started().await;
    for (name, attempts) in [
        ("chat-only", None),
        ("dead", Some("dead;e=connect")),
        ("status-401", Some("both;s=401")),
        ("status-404", Some("both;s=404")),
        ("status-429", Some("both;s=429")),
        ("status-500", Some("both;s=500")),
        ("too-long", Some("both;s=400")),
        ("error-in-200", Some("both;s=200")),
        ("reset", Some("both;e=reset")),
        ("echo", Some("both;s=200")),
    ] {
        let answer = post(&gateway, COUNT, &message(name)).await;
        assert_eq!(answer.is_ok().json(), json!({"input_tokens": estimate()}), "{name}");
        assert_eq!(
            (answer.header("spass-attempts"), answer.header("spass-resolved-backend")),
            (attempts, None),
            "{name}"
        );
    }
    post(&gateway, COUNT, &message("unknown")).await.is_error(400, "model_not_in_allowlist", "model");
    post(&gateway, COUNT, &message("leaky")).await.is_error(400, "upstream_bad_request", "");
    // the connection to the estimate is used again, by whoever counts
    let before = mock.requests().len();
    for _ in 0..20 {
        assert_eq!(post(&gateway, COUNT, &message("chat-only")).await.is_ok().json()["input_tokens"], estimate());
    }
    assert_eq!(mock.requests().len(), before);
    gateway.idle().await;
}

#[tokio::test]
async fn a_count_that_is_none_moves_on_to_the_next_backend() {
    let odd = MockUpstream::start(Script::always(Behaviour::json(r#"{"input_tokens":"12"}"#)).with_looks_apart())
        .await
        .unwrap();
    let good =
        MockUpstream::start(Script::always(Behaviour::json(r#"{"input_tokens":7,"more":"x"}"#)).with_looks_apart())
            .await
            .unwrap();
    let gateway = Setup::new()
        .backend(speaking("odd", odd.addr(), &["messages"]))
        .backend(anthropic("good", good.addr()))
        .model(model("m", &[("odd", "a"), ("good", "b")]))
        .start()
        .await;
    let answer = post(&gateway, COUNT, &message("m")).await;
    assert_eq!(answer.is_ok().text(), r#"{"input_tokens":7}"#);
    assert_eq!(answer.header("spass-attempts"), Some("odd;s=200, good;s=200"));
    // a stream is never counted
    let mut streamed = message("m");
    streamed["stream"] = json!(true);
    assert_eq!(post(&gateway, COUNT, &streamed).await.is_ok().text(), r#"{"input_tokens":7}"#);
    assert_ne!(post(&gateway, MESSAGES, &message("m")).await.text(), r#"{"input_tokens":7}"#);
}
