//! Pages of other origins: preflights, and answers that a page may read.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, Method};
use serde_json::json;

use crate::harness::{Gateway, Setup};

const CHAT: &str = "/v1/chat/completions";
const ORIGIN: &str = "https://app.example";

async fn started(origins: &[&str]) -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let setup = Setup::with_upstream(mock.addr()).server("cors", json!({"allowed_origins": origins}));
    (setup.start().await, mock)
}

/// Sends without a bearer and gives status and headers.
async fn preflight(gateway: &Gateway, path: &str, origin: &str) -> (u16, HeaderMap) {
    let mut client = gateway.client().await;
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,spass-user-id"),
    ];
    client.raw.send_head(&Method::OPTIONS, path, &headers).await.unwrap();
    let answer = client.answer().await;
    (answer.status, answer.headers)
}

#[tokio::test]
async fn a_preflight_is_answered_without_authentication() {
    let (gateway, mock) = started(&[ORIGIN, "http://localhost:5173"]).await;
    for path in [CHAT, "/chat/completions", "/v1/chat/completions/"] {
        let (status, headers) = preflight(&gateway, path, ORIGIN).await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (204, &ORIGIN.parse().unwrap()), "{path}");
        assert_eq!(headers["access-control-allow-methods"], "POST");
        assert_eq!(headers["access-control-allow-headers"], "authorization,content-type,spass-user-id");
        assert_eq!(
            (&headers["access-control-max-age"], &headers["vary"]),
            (&"600".parse().unwrap(), &"Origin".parse().unwrap())
        );
        assert_eq!(headers.get("access-control-allow-credentials"), None);
        assert_eq!((headers.get("content-length"), headers.get("transfer-encoding")), (None, None));
    }
    assert_eq!(preflight(&gateway, "/v1/nothing", ORIGIN).await.0, 404);
    assert_eq!(mock.requests().len(), 0);
}

#[tokio::test]
async fn another_origin_gets_no_header_and_no_preflight() {
    for origins in [&[ORIGIN][..], &[]] {
        let (gateway, _mock) = started(origins).await;
        let (status, headers) = preflight(&gateway, CHAT, "https://evil.example").await;
        assert_eq!((status, &headers["allow"]), (405, &"POST".parse().unwrap()));
        assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control")));
        let mut client = gateway.client().await;
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
        let headers = [("origin", "https://evil.example"), ("content-type", "application/json")];
        let answer = client.request(&Method::POST, CHAT, &headers, body.as_bytes()).await;
        assert_eq!(answer.is_ok().header("access-control-allow-origin"), None);
    }
}

#[tokio::test]
async fn answers_errors_and_streams_may_be_read_with_all_their_headers() {
    let (gateway, _mock) = started(&["*"]).await;
    let headers = [("origin", ORIGIN), ("content-type", "application/json")];
    for (body, status) in [
        (json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}), 200),
        (json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}), 200),
        (json!({"model": "unknown", "messages": [{"role": "user", "content": "hi"}]}), 400),
        (json!({}), 400),
    ] {
        let answer = gateway.client().await.request(&Method::POST, CHAT, &headers, body.to_string().as_bytes()).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, Some("*")), "{body}");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        let hidden: Vec<&str> = answer
            .headers
            .keys()
            .map(http::HeaderName::as_str)
            .filter(|name| name.starts_with("spass-") || name.starts_with("x-"))
            .filter(|name| !exposed.split(", ").any(|shown| shown == *name))
            .collect();
        assert!(hidden.is_empty() && exposed.contains("x-request-id"), "{hidden:?} of {exposed}");
    }
    let mut client = gateway.client().await;
    client.raw.send_head(&Method::GET, "/v1/models", &[("origin", ORIGIN)]).await.unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some("*")));
    client.raw.send_head(&Method::GET, "/healthz", &[("origin", ORIGIN)]).await.unwrap();
    assert_eq!(client.answer().await.is_ok().header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn what_an_upstream_says_about_origins_does_not_pass() {
    let mut headers = HeaderMap::new();
    headers.insert("access-control-allow-origin", "https://evil.example".parse().unwrap());
    headers.insert("access-control-allow-credentials", "true".parse().unwrap());
    let behaviour = Behaviour::Status {
        status: http::StatusCode::OK,
        headers,
        body: r#"{"id":"1","object":"chat.completion","model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#.into(),
    };
    let mock = MockUpstream::start(Script::always(behaviour).with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let answer = gateway.chat(body).await;
    assert_eq!(answer.is_ok().header("access-control-allow-origin"), None);
}
