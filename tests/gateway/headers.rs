//! Headers cross the gateway by allow-list only, in both directions.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Recorded, Script};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::harness::{BACKEND_KEY, BEARER, Setup};

const CHAT: &str = "/v1/chat/completions";
/// Everything that a caller might send, and that is none of the backend's business.
const UNWANTED: [(&str, &str); 30] = [
    ("x-api-key", "canary"),
    ("api-key", "canary"),
    ("x-goog-api-key", "canary"),
    ("proxy-authorization", "Basic canary"),
    ("cookie", "session=canary"),
    ("x-stainless-lang", "canary"),
    ("x-stainless-retry-count", "1"),
    ("openai-organization", "canary"),
    ("openai-beta", "canary"),
    ("anthropic-version", "2023-06-01"),
    ("anthropic-beta", "canary"),
    ("spass-user-id", "alice"),
    ("spass-tenant-id", "default"),
    ("spass-scope-id", "canary"),
    ("spass-augment", "memory=off"),
    ("spass-caller-depth", "1"),
    ("spass-parent-request-id", "canary"),
    ("x-tenant-id", "default"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-host", "canary"),
    ("forwarded", "for=192.0.2.1"),
    ("x-real-ip", "192.0.2.1"),
    ("via", "1.1 canary"),
    ("referer", "http://canary/"),
    ("origin", "http://canary"),
    ("accept-language", "de"),
    ("te", "trailers"),
    ("idempotency-key", "canary"),
    ("baggage", "canary=1"),
    ("x-random", "canary"),
];

fn request(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

fn names(request: &Recorded) -> Vec<&str> {
    let mut names: Vec<&str> = request.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_backend_receives_exactly_the_listed_headers() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let mut client = gateway.client().await;
    let mut more = UNWANTED.to_vec();
    more.extend([
        ("content-type", "application/json; charset=utf-8"),
        ("accept", "text/x-canary"),
        ("accept-encoding", "gzip, br"),
        ("user-agent", "canary"),
        ("x-request-id", "request-of-the-caller"),
    ]);
    for stream in [false, true] {
        client.request(&Method::POST, CHAT, &more, request(stream).as_bytes()).await.is_ok();
        let seen = mock.requests();
        let seen = seen.last().unwrap();
        let expected = [
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "user-agent",
            "x-request-id",
        ];
        assert_eq!(names(seen), expected);
        let value = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
        assert_eq!(value("accept"), if stream { "text/event-stream" } else { "application/json" });
        assert_eq!(value("accept-encoding"), "identity");
        assert_eq!(value("authorization"), format!("Bearer {BACKEND_KEY}"));
        assert_eq!(value("content-type"), "application/json");
        assert_eq!(value("host"), mock.addr().to_string());
        assert_eq!(value("user-agent"), concat!("dgx-gateway/", env!("CARGO_PKG_VERSION")));
        assert_eq!(value("x-request-id"), "request-of-the-caller");
        assert!(seen.headers.keys().all(|name| seen.headers.get_all(name).iter().count() == 1));
        let everything = format!("{:?} {}", seen.headers, seen.path);
        assert!(!everything.contains("canary") && !everything.contains(BEARER), "{everything}");
    }
}

#[tokio::test]
async fn trace_context_goes_on() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let trace = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", "a=b")];
    gateway.client().await.request(&Method::POST, CHAT, &trace, request(false).as_bytes()).await.is_ok();
    let seen = mock.requests();
    for (name, value) in trace {
        assert_eq!(seen[0].headers[name], value);
    }
}

#[tokio::test]
async fn a_request_id_is_taken_over_or_made() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let mut client = gateway.client().await;
    let long = "x".repeat(129);
    for (headers, taken) in [
        (vec![("x-request-id", "mine")], Some("mine")),
        (vec![("x-request-id", "mine"), ("spass-request-id", "first")], Some("first")),
        (vec![("x-request-id", "not mine")], None),
        (vec![("x-request-id", long.as_str())], None),
        (vec![], None),
    ] {
        for path in [CHAT, "/v1/nothing", "/healthz"] {
            let method = if path == CHAT { Method::POST } else { Method::GET };
            let body = if path == CHAT { request(false) } else { String::new() };
            let answer = client.request(&method, path, &headers, body.as_bytes()).await;
            let id = answer.header("x-request-id").unwrap();
            assert_eq!(taken.unwrap_or(id), id, "{headers:?}");
            assert!(taken.is_some() || id.len() == 36, "{id}");
        }
    }
}

#[tokio::test]
async fn nothing_of_an_upstream_reaches_the_client_besides_its_answer() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = Setup::with_upstream(mock.addr()).start().await;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json; charset=canary"),
        ("server", "canary"),
        ("set-cookie", "canary=1"),
        ("via", "canary"),
        ("x-request-id", "canary"),
        ("spass-request-id", "canary"),
        ("spass-attempts", "canary"),
        ("spass-cost-eur", "99"),
        ("x-ratelimit-limit-requests", "canary"),
        ("x-ratelimit-remaining-tokens", "1"),
        ("retry-after", "77"),
        ("www-authenticate", "canary"),
        ("openai-organization", "canary"),
        ("openai-processing-ms", "5"),
        ("access-control-allow-origin", "*"),
        ("content-encoding", "identity"),
        ("location", "http://canary/"),
        ("x-random", "canary"),
        ("keep-alive", "timeout=canary"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let answers = [
        (StatusCode::OK, r#"{"id":"c","provider":"canary","model":"upstream-name-of-m","choices":[{"index":0}]}"#),
        (StatusCode::BAD_REQUEST, r#"{"error":{"message":"bad"}}"#),
        (StatusCode::UNAUTHORIZED, r#"{"error":{"message":"canary"}}"#),
        (StatusCode::INTERNAL_SERVER_ERROR, r#"{"error":{"message":"canary"}}"#),
    ];
    for (status, body) in answers {
        mock.push(Behaviour::Status { status, headers: headers.clone(), body: body.into() });
        let answer = gateway.chat(request(false)).await; // which headers there may be is checked for every answer
        let everything = format!("{:?} {}", answer.headers, answer.text());
        assert!(!everything.contains("canary"), "{everything}");
        assert!(!everything.contains("upstream-name-of-m"), "{everything}");
        assert_eq!(answer.header("retry-after"), None);
    }
}
