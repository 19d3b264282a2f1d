//! The members that the bodies of each dialect need, row by row.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::PathBuf;
use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_filter::{BuildEnv, FilterKind, Rope};
use dgx_gateway_guard::{Body, BodyConfig, Protocol};
use dgx_gateway_testkit::exchange::ExchangeDriver;
use http::Method;

/// Code and param of the refusal; empty when the body passes.
async fn refusal(protocol: Protocol, body: &str) -> String {
    let nothing = Ambient::new(std::iter::empty::<(String, String)>());
    let env = BuildEnv::new(Arc::new(SystemClock), nothing, PathBuf::new(), prometheus::Registry::new());
    let filter = Body::build(Body::check(BodyConfig { protocol }).unwrap(), &env).unwrap();
    let mut driver = ExchangeDriver::of(filter.begin(), Method::POST, "/x", &[]).unwrap();
    driver.head().await.unwrap();
    driver.chunk(body.to_owned()).unwrap();
    match driver.ready(&mut Rope::new()).await {
        Ok(_) => String::new(),
        Err(error) => format!("{} {}", error.code, error.param.unwrap_or_default()),
    }
}

async fn follows(protocol: Protocol, table: &[(&str, &str)]) {
    for (body, expected) in table {
        assert_eq!(refusal(protocol, body).await, *expected, "{protocol:?} {body}");
    }
}

#[tokio::test]
async fn of_responses() {
    follows(
        Protocol::Responses,
        &[
            (r#"{"model":"m","input":"x"}"#, ""),
            (r#"{"model":"m","input":[]}"#, ""),
            (r#"{"model":"m","input":"x","store":true,"background":false,"stream":null,"tools":[]}"#, ""),
            (r#"{"model":"m","input":"x","previous_response_id":null,"conversation":null,"background":null}"#, ""),
            (r#"{"input":"x"}"#, "missing_field model"),
            (r#"{"model":"m"}"#, "missing_field input"),
            (r#"{"model":"m","input":null}"#, "missing_field input"),
            (r#"{"model":"m","input":7}"#, "invalid_field input"),
            (r#"{"model":"m","input":{}}"#, "invalid_field input"),
            (r#"{"model":"m","input":"x","previous_response_id":"resp_1"}"#, "invalid_field previous_response_id"),
            (r#"{"model":"m","input":"x","previous_response_id":""}"#, "invalid_field previous_response_id"),
            (r#"{"model":"m","input":"x","conversation":"conv_1"}"#, "invalid_field conversation"),
            (r#"{"model":"m","input":"x","conversation":{"id":"conv_1"}}"#, "invalid_field conversation"),
            (r#"{"model":"m","input":"x","b\u0061ckground":true}"#, "invalid_field background"),
            (r#"{"model":"m","input":"x","background":"true"}"#, "invalid_field background"),
            (r#"{"model":"m","input":"x","store":"no"}"#, "invalid_field store"),
            (r#"{"model":"m","input":"x","stream":1}"#, "invalid_field stream"),
            (r#"{"model":"m","input":"x","tools":{}}"#, "invalid_field tools"),
            (r#"{"model":"m","input":"x","user_id":"a"}"#, "invalid_field body.user_id"),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_messages() {
    let user = r#""messages":[{"role":"user","content":"x"}]"#;
    for (body, expected) in [
        (r#"{"model":"m","max_tokens":5,USER}"#, ""),
        (r#"{"model":"m","max_tokens":5,"stream":true,"tools":[],"store":7,"previous_response_id":"x",USER}"#, ""),
        (r#"{"max_tokens":5,USER}"#, "missing_field model"),
        (r#"{"model":"m","max_tokens":5}"#, "missing_field messages"),
        (r#"{"model":"m","max_tokens":5,"messages":null}"#, "missing_field messages"),
        (r#"{"model":"m","max_tokens":5,"messages":{}}"#, "invalid_field messages"),
        (r#"{"model":"m","max_tokens":5,"messages":[]}"#, "invalid_field messages"),
        (r#"{"model":"m","max_tokens":5,"messages":[{"role":"user"},{}]}"#, "missing_field messages[1].role"),
        (r#"{"model":"m","max_tokens":5,"messages":["x"]}"#, "invalid_field messages[0]"),
        (r#"{"model":"m",USER}"#, "missing_field max_tokens"),
        (r#"{"model":"m","max_tokens":null,USER}"#, "missing_field max_tokens"),
        (r#"{"model":"m","max_tokens":5,"stream":"x",USER}"#, "invalid_field stream"),
        (r#"{"model":"m","max_tokens":5,"tools":"x",USER}"#, "invalid_field tools"),
        (r#"{"model":"m","max_tokens":5,"user_id":"a",USER}"#, "invalid_field body.user_id"),
    ] {
        follows(Protocol::Messages, &[(&body.replace("USER", user), expected)]).await;
    }
}

#[tokio::test]
async fn of_counts() {
    follows(
        Protocol::CountTokens,
        &[
            (r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#, ""),
            (r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":null}"#, ""),
            (r#"{"model":"m"}"#, "missing_field messages"),
            (r#"{"messages":[{"role":"user","content":"x"}]}"#, "missing_field model"),
        ],
    )
    .await;
}
