//! Several backends: groups, and attempts behind the first.

use serde_json::json;

use super::{answer, chat, nothing_is_left, serve, two, waits};
use crate::harness::Stage;

#[tokio::test]
async fn another_attempt_waits_for_the_slot_of_its_backend_and_the_first_one_is_free_meanwhile() {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let route = json!([{"backend": "first", "model": "m-there"}, {"backend": "second", "model": "m-there"}]);
    let gateway = two([&first, &second], [1, 1], route).start().await;
    // the second backend is taken by one whose first attempt failed
    let mut holds = gateway.client().await;
    holds.send_chat(chat("holds", false)).await;
    first.caller().await.reset();
    let held = second.caller().await;
    let mut waiting = gateway.client().await;
    waiting.send_chat(chat("waits", false)).await;
    first.caller().await.reset();
    waits(&gateway, "second", 1).await;
    assert!(second.is_quiet());
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("dgx_gateway_backend_in_flight{backend=\"first\"}"), 0.0);
    // the slot that it left is there for others
    let mut other = gateway.client().await;
    other.send_chat(chat("other", false)).await;
    serve(first.caller().await).await;
    assert_eq!(other.answer().await.is_ok().header("spass-attempts"), Some("first;s=200"));
    serve(held).await;
    holds.answer().await.is_ok();
    serve(second.caller().await).await;
    let answer = waiting.answer().await;
    assert_eq!(answer.is_ok().header("spass-attempts"), Some("first;e=reset, second;s=200"));
    nothing_is_left(&gateway).await;
}

#[tokio::test]
async fn without_a_group_a_request_waits_for_its_backend_although_the_next_one_is_free() {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let route = json!([{"backend": "first", "model": "m-there"}, {"backend": "second", "model": "m-there"}]);
    let setup = two([&first, &second], [1, 1], route).section("limits", json!({"queue_timeout_ms": 300}));
    let gateway = setup.start().await;
    let mut holds = gateway.client().await;
    holds.send_chat(chat("holds", false)).await;
    let held = first.caller().await;
    gateway.chat(chat("waits", false)).await.is_error(503, "service_overloaded", "");
    assert!(second.is_quiet());
    serve(held).await;
    holds.answer().await.is_ok();
}

#[tokio::test]
async fn a_free_member_of_a_group_is_preferred_to_waiting_and_the_first_to_be_free_serves() {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let of_group = |backend: &str, name: &str| json!({"backend": backend, "model": name, "group": 1});
    let route = json!([of_group("first", "name-at-the-first"), of_group("second", "name-at-the-second")]);
    let gateway = two([&first, &second], [1, 1], route).start().await;
    let mut clients = [gateway.client().await, gateway.client().await, gateway.client().await];
    let [one, two, three] = &mut clients;
    one.send_chat(chat("one", false)).await;
    let mut at_first = first.caller().await;
    two.send_chat(chat("two", false)).await;
    let mut at_second = second.caller().await;
    assert!(String::from_utf8_lossy(&at_second.body).contains("name-at-the-second"));
    three.send_chat(chat("three", false)).await;
    waits(&gateway, "first", 1).await;
    waits(&gateway, "second", 1).await;
    at_second.answer(&answer("name-at-the-second")).await;
    assert_eq!(two.answer().await.is_ok().header("spass-attempts"), Some("second;s=200"));
    assert!(at_second.read_request().await, "the waiting one comes on the connection that is free");
    assert!(String::from_utf8_lossy(&at_second.body).contains("name-at-the-second"));
    at_second.answer(&answer("name-at-the-second")).await;
    let answered = three.answer().await;
    assert_eq!(answered.is_ok().header("spass-resolved-backend"), Some("second"));
    at_first.answer(&answer("name-at-the-first")).await;
    one.answer().await.is_ok();
    // members that are left follow, each once
    one.send_chat(chat("again", false)).await;
    assert!(at_first.read_request().await);
    two.send_chat(chat("fails", false)).await;
    assert!(at_second.read_request().await);
    at_second.write("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
    waits(&gateway, "first", 1).await;
    at_first.answer(&answer("name-at-the-first")).await;
    one.answer().await.is_ok();
    assert!(at_first.read_request().await);
    assert!(String::from_utf8_lossy(&at_first.body).contains("name-at-the-first"));
    at_first.answer(&answer("name-at-the-first")).await;
    assert_eq!(two.answer().await.is_ok().header("spass-attempts"), Some("second;s=500, first;s=200"));
    nothing_is_left(&gateway).await;
}
