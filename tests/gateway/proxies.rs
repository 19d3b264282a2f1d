//! Whose request it is behind a trusted proxy.

use http::Method;
use serde_json::json;

use crate::harness::{Answer, Gateway, Setup, until};

/// Failed attempts of one address until its bucket is empty: the default burst.
const FAILURES: usize = 10;

async fn failed_login(gateway: &Gateway, forwarded_for: &str) -> Answer {
    let mut client = gateway.client().await;
    let headers = [("authorization", "Bearer wrong"), ("x-forwarded-for", forwarded_for)];
    client.raw.request(&Method::GET, "/v1/models", &headers, b"").await.unwrap();
    client.answer().await
}

#[tokio::test]
async fn failed_logins_behind_a_trusted_proxy_count_for_the_client_it_names() {
    let gateway = Setup::new().server("trusted_proxies", json!(["127.0.0.0/8"])).start().await;
    for _ in 0..FAILURES {
        failed_login(&gateway, "203.0.113.9, 198.51.100.7").await.is_error(
            401,
            "invalid_authorization",
            "headers.authorization",
        );
    }
    assert_eq!(failed_login(&gateway, "198.51.100.7:4711").await.status, 429);
    assert_eq!(failed_login(&gateway, "198.51.100.7, 203.0.113.9").await.status, 401, "another client");
    gateway.idle().await;
    until("the log names the client", async || gateway.log().contains("198.51.100.7")).await;
}

#[tokio::test]
async fn a_peer_that_is_no_trusted_proxy_names_nobody() {
    let gateway = Setup::new().server("trusted_proxies", json!(["192.0.2.0/24"])).start().await;
    for n in 0..FAILURES {
        assert_eq!(failed_login(&gateway, &format!("198.51.100.{n}")).await.status, 401);
    }
    assert_eq!(failed_login(&gateway, "198.51.100.77").await.status, 429);
    gateway.idle().await;
    assert!(!gateway.log().contains("198.51.100."), "a claim of a client stands in the log");
}
