//! A held body is sent again, byte for byte, when the first backend fails.

use bytes::Bytes;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script, dead_addr};
use http::StatusCode;

use crate::harness::{Answer, Setup, backend, document, post_h2};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 20 * MIB;
const SECOND: &str = "name-at-the-second-one";

fn model() -> serde_json::Value {
    let mut model = crate::harness::model("m", &[("first", "name-at-the-first"), ("second", SECOND)]);
    model["constraints"] = serde_json::json!({"min_max_tokens": 64});
    model
}

async fn mock() -> MockUpstream {
    MockUpstream::start(Script::default().with_looks_apart()).await.unwrap()
}

fn served_by_second(answer: &Answer, second: &MockUpstream, expected: &Bytes, attempts: &str) {
    assert_eq!(answer.is_ok().header("spass-attempts"), Some(attempts));
    assert_eq!(answer.header("spass-resolved-backend"), Some("second"));
    let seen = second.requests();
    let seen = seen.last().unwrap();
    assert!(seen.body == expected, "{attempts}: the second backend got {} other bytes", seen.body.len());
    assert_eq!(seen.headers["content-length"], expected.len().to_string());
}

/// Sends a body of 20 MiB over HTTP/1.1 to a first backend that does this and to a good second one.
async fn second_serves_after(failure: Behaviour, attempts: &str) {
    let (first, second) = (mock().await, mock().await);
    let gateway = Setup::with_fallback(first.addr(), second.addr()).replace_models(model()).start().await;
    let (body, expected) = document(SIZE, false, SECOND);
    first.push(failure);
    served_by_second(&gateway.chat(&body).await, &second, &expected, attempts);
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
}

#[tokio::test]
async fn after_a_refused_connection() {
    let second = mock().await;
    let gateway = Setup::with_fallback(dead_addr().await.unwrap(), second.addr()).replace_models(model()).start().await;
    let (body, expected) = document(SIZE, true, SECOND);
    let answer = gateway.chat(&body).await;
    // what the gateway found when it looked may put the dead backend last
    let attempts = answer.header("spass-attempts").unwrap().to_owned();
    assert!(["first;e=connect, second;s=200", "second;s=200"].contains(&attempts.as_str()), "{attempts}");
    served_by_second(&answer, &second, &expected, &attempts);
}

#[tokio::test]
async fn after_status_500() {
    second_serves_after(Behaviour::status(StatusCode::INTERNAL_SERVER_ERROR), "first;s=500, second;s=200").await;
}

#[tokio::test]
async fn after_status_429() {
    second_serves_after(Behaviour::status(StatusCode::TOO_MANY_REQUESTS), "first;s=429, second;s=200").await;
}

#[tokio::test]
async fn after_a_reset_on_the_headers() {
    second_serves_after(Behaviour::ResetOnHeaders, "first;e=reset, second;s=200").await;
}

#[tokio::test]
async fn after_a_reset_inside_the_upload() {
    second_serves_after(Behaviour::ResetAfterRequestBytes(MIB + 1), "first;e=reset, second;s=200").await;
}

#[tokio::test]
async fn after_a_reset_at_the_end_of_the_upload() {
    second_serves_after(Behaviour::ResetAfterRequestBytes(usize::MAX), "first;e=reset, second;s=200").await;
}

#[tokio::test]
async fn after_an_answer_that_broke_off() {
    second_serves_after(Behaviour::ResetMidResponse(20), "first;s=200, second;s=200").await;
}

#[tokio::test]
async fn over_http2_after_a_reset_inside_the_upload_and_after_status_500() {
    let (first, second) = (mock().await, mock().await);
    let gateway = Setup::with_fallback(first.addr(), second.addr()).replace_models(model()).start().await;
    let (body, expected) = document(4 * MIB, false, SECOND);
    let mut client = gateway.h2().await;
    for (failure, attempts) in [
        (Behaviour::ResetAfterRequestBytes(MIB), "first;e=reset, second;s=200"),
        (Behaviour::status(StatusCode::INTERNAL_SERVER_ERROR), "first;s=500, second;s=200"),
    ] {
        first.push(failure);
        let answer = post_h2(&mut client, gateway.addr, "/v1/chat/completions", body.clone(), false).await;
        served_by_second(&answer, &second, &expected, attempts);
    }
}

#[tokio::test]
async fn a_chain_of_failures_ends_with_the_last_one_and_the_whole_story() {
    let (first, second, third) = (mock().await, mock().await, mock().await);
    let route = [("first", "a"), ("second", "b"), ("third", "c")];
    let gateway = Setup::new()
        .backend(backend("first", first.addr()))
        .backend(backend("second", second.addr()))
        .backend(backend("third", third.addr()))
        .model(crate::harness::model("m", &route))
        .start()
        .await;
    first.push(Behaviour::ResetOnHeaders);
    second.push(Behaviour::status(StatusCode::SERVICE_UNAVAILABLE));
    third.push(Behaviour::status(StatusCode::INTERNAL_SERVER_ERROR));
    let mut client = gateway.client().await;
    let answer = client.chat(document(70_000, true, "c").0).await;
    answer.is_error(502, "upstream_error", "");
    assert_eq!(answer.header("spass-attempts"), Some("first;e=reset, second;s=503, third;s=500"));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    if answer.says_close() {
        assert!(client.is_closed().await);
    } else {
        client.chat(document(70_000, true, "a").0).await.is_ok();
    }
}
