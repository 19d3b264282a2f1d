//! The context of a model: counts and estimates of the prompt, and the call that was refused for its length and goes
//! out once more with what the refusal says is left.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Recorded, Script};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, PROMPT, Setup, backend, model, until};

/// As vLLM says it: 1000 tokens fit, the prompt has `prompt`.
fn too_long(prompt: u64) -> Behaviour {
    let message = format!(
        "This model's maximum context length is 1000 tokens. However, you requested 9999 tokens ({prompt} in the messages, 9 in the completion)."
    );
    refusal(&message)
}

fn refusal(message: &str) -> Behaviour {
    let body = json!({"error": {"message": message, "code": 400}}).to_string();
    Behaviour::Status { status: StatusCode::BAD_REQUEST, headers: HeaderMap::new(), body: body.into() }
}

async fn mock(queue: impl IntoIterator<Item = Behaviour>) -> MockUpstream {
    MockUpstream::start(Script::queue(queue).with_looks_apart()).await.unwrap()
}

async fn gateway(first: &MockUpstream, second: &MockUpstream, floor: u32) -> Gateway {
    let mut model = model("m", &[("first", "at-first"), ("second", "at-second")]);
    model["constraints"] = json!({"min_max_tokens": floor});
    Setup::with_fallback(first.addr(), second.addr()).replace_models(model).start().await
}

fn request(more: Value) -> String {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": PROMPT}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

fn sent(requests: &[Recorded], name: &str) -> Vec<Value> {
    let member = |request: &Recorded| serde_json::from_slice::<Value>(&request.body).unwrap()[name].clone();
    requests.iter().map(member).collect()
}

async fn ask(first: &MockUpstream, floor: u32, more: Value) -> (Answer, Vec<Recorded>) {
    let second = mock([]).await;
    let answer = gateway(first, &second, floor).await.chat(request(more)).await;
    assert_eq!(second.requests().len(), 0, "a refusal for length is no reason for another backend");
    (answer, first.requests())
}

#[tokio::test]
async fn a_value_that_can_be_lowered_is_and_both_calls_are_attempts() {
    for (more, field, applied) in [
        (json!({"max_tokens": 400}), "max_tokens", 300),
        (json!({"max_tokens": 400, "stream": true}), "max_tokens", 300),
        (json!({"max_completion_tokens": 301}), "max_completion_tokens", 300),
    ] {
        let first = mock([too_long(700)]).await;
        let (answer, requests) = ask(&first, 0, more.clone()).await;
        answer.is_ok();
        assert_eq!(sent(&requests, field), [more[field].clone(), json!(applied)], "{more}");
        assert_eq!(sent(&requests, "model"), ["at-first", "at-first"]);
        assert_eq!(answer.header("spass-attempts"), Some("first;s=400, first;s=200"));
        assert_eq!(answer.header("spass-applied"), Some("max_tokens_clamped=300"));
        assert!(answer.text().contains("Hello"), "{}", answer.text());
    }
}

#[tokio::test]
async fn what_cannot_be_lowered_is_refused_after_one_call() {
    for (behaviour, floor, more, why) in [
        (too_long(700), 0, json!({}), "nothing was asked for"),
        (too_long(700), 0, json!({"max_tokens": null}), "null is nothing"),
        (too_long(700), 0, json!({"max_tokens": 300}), "the value fits already"),
        (too_long(1000), 0, json!({"max_tokens": 300}), "nothing is left"),
        (too_long(2000), 0, json!({"max_tokens": 300}), "the prompt is too long"),
        (too_long(700), 301, json!({"max_tokens": 400}), "the floor does not fit"),
        (refusal("prompt is too long"), 0, json!({"max_tokens": 400}), "the prompt was not counted"),
    ] {
        let first = mock([behaviour]).await;
        let (answer, requests) = ask(&first, floor, more).await;
        answer.is_error(400, "context_length_exceeded", "messages");
        assert_eq!((requests.len(), answer.header("spass-attempts")), (1, Some("first;s=400")), "{why}");
    }
}

#[tokio::test]
async fn it_is_repeated_once_however_the_second_call_ends() {
    let first = mock([too_long(700), too_long(800)]).await;
    let (answer, requests) = ask(&first, 0, json!({"max_tokens": 400})).await;
    answer.is_error(400, "context_length_exceeded", "messages");
    assert_eq!(sent(&requests, "max_tokens"), [400, 300]);
    assert_eq!(answer.header("spass-attempts"), Some("first;s=400, first;s=400"));
}

#[tokio::test]
async fn the_next_backend_gets_the_value_of_the_client_and_its_own_second_call() {
    let first = mock([too_long(700), Behaviour::status(StatusCode::SERVICE_UNAVAILABLE)]).await;
    let second = mock([too_long(900)]).await;
    let gateway = gateway(&first, &second, 0).await;
    let answer = gateway.chat(request(json!({"max_tokens": 400}))).await;
    answer.is_ok();
    assert_eq!(sent(&first.requests(), "max_tokens"), [400, 300]);
    assert_eq!(sent(&second.requests(), "max_tokens"), [400, 100]);
    let attempts = "first;s=400, first;s=503, second;s=400, second;s=200";
    assert_eq!(answer.header("spass-attempts"), Some(attempts));
    assert_eq!(answer.header("spass-applied"), Some("max_tokens_clamped=100"));
}

#[tokio::test]
async fn the_last_backend_that_fails_after_a_repeated_call_ends_the_route() {
    let first = mock([too_long(700), Behaviour::status(StatusCode::SERVICE_UNAVAILABLE)]).await;
    let gateway = Setup::with_upstream(first.addr()).start().await;
    let answer = gateway.chat(request(json!({"max_tokens": 400}))).await;
    answer.is_error(502, "upstream_error", "");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(answer.header("spass-attempts"), Some("first;s=400, first;s=503"));
}

/// A backend that counts exactly; the window of the model there, as configured.
async fn counting(mock: &MockUpstream, window: u64, floor: u32) -> Gateway {
    let mut first = backend("first", mock.addr());
    first["exact_tokens"] = json!(true);
    first["protocols"] = json!(["chat", "tokenize"]);
    let mut model = json!({"alias": "m", "route": [{"backend": "first", "model": "up", "max_model_len": window}]});
    model["constraints"] = json!({"min_max_tokens": floor});
    Setup::new().backend(first).model(model).start().await
}

#[tokio::test]
async fn an_exact_count_lowers_the_value_or_refuses_the_prompt() {
    for (window, count, floor, value, expected) in [
        (131_072, 130_000, 1, 4096, Some((1072, Some("max_tokens_clamped=1072")))),
        (1_050_000, 1000, 200, 50, Some((200, Some("max_tokens_floored=200")))),
        (1_050_000, 1000, 200, 200, Some((200, None))),
        (1000, 850, 200, 50, None),
        (1000, 1000, 1, 50, None),
        (1000, 999, 1, 50, Some((1, Some("max_tokens_clamped=1")))),
    ] {
        let mock = mock([Behaviour::json(json!({"count": count}).to_string())]).await;
        let gateway = counting(&mock, window, floor).await;
        let answer = gateway.chat(request(json!({"max_tokens": value}))).await;
        let paths: Vec<String> = mock.requests().iter().map(|request| request.path.clone()).collect();
        assert_eq!(paths[0], "/tokenize");
        match expected {
            Some((sent_on, applied)) => {
                answer.is_ok();
                assert_eq!(sent(&mock.requests()[1..], "max_tokens"), [sent_on], "{window} {count} {floor} {value}");
                assert_eq!(answer.header("spass-applied"), applied, "{window} {count} {floor} {value}");
            }
            None => {
                answer.is_error(400, "context_length_exceeded", "messages");
                assert_eq!(paths.len(), 1, "the model is not called");
            }
        }
    }
}

#[tokio::test]
async fn without_a_count_the_estimate_serves_and_the_upstream_decides() {
    // the estimate of this prompt: 4 for the message, and its text of 28 bytes in fours
    let estimate = 4 + PROMPT.len().div_ceil(4) as u64;
    for (window, value, expected) in [(100 + estimate, 4096, 100), (estimate, 50, 50), (10, 50, 50)] {
        let mock = mock([Behaviour::status(StatusCode::NOT_FOUND)]).await;
        let gateway = counting(&mock, window, 1).await;
        gateway.chat(request(json!({"max_tokens": value}))).await.is_ok();
        assert_eq!(sent(&mock.requests()[1..], "max_tokens"), [expected], "{window} {value}");
    }
}

#[tokio::test]
async fn a_window_that_the_backend_publishes_counts_like_a_configured_one() {
    let published = json!({"object": "list", "data": [{"id": "upstream-name-of-m", "max_model_len": 1000}]});
    let mock = MockUpstream::start(Script::queue([Behaviour::json(published.to_string())])).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    until("its models are looked at", async || !mock.requests().is_empty()).await; // and not the answer of a chat
    let estimate = 4 + PROMPT.len().div_ceil(4) as u64;
    until("the published window is used", async || {
        let answer = gateway.chat(request(json!({"max_tokens": 4096}))).await;
        let applied = answer.is_ok().header("spass-applied");
        applied.is_some_and(|applied| applied == format!("max_tokens_clamped={}", 1000 - estimate))
    })
    .await;
}
