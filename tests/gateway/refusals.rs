//! What is refused, with exact status, code and `param`; and what the connection is good for afterwards.

use std::net::SocketAddr;

use bytes::Bytes;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Named, Script, dead_addr};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Gateway, PROMPT, Setup, backend, model, post_h2, soon};

const CHAT: &str = "/v1/chat/completions";

/// A mock whose behaviour the upstream name of the model chooses.
async fn named() -> MockUpstream {
    let names = Named::default();
    let raw = Script::default().choose_by_name(move |name| match name {
        "leaky" => Some(Behaviour::Status {
            status: http::StatusCode::BAD_REQUEST,
            headers: http::HeaderMap::new(),
            body: r#"{"error":{"message":"OpenAIException - bad leaky at http://10.0.0.1:8000/v1 with Bearer sk-0123456789abcdef"}}"#
.into(),
        }),
        name => names.behaviour(name),
    });
    MockUpstream::start(raw.with_looks_apart()).await.unwrap()
}

/// Every behaviour of the mock is a model.
fn setup(mock: SocketAddr, dead: SocketAddr) -> Setup {
    let names = [
        "gzip",
        "hang",
        "hang-after-headers",
        "leaky",
        "ok",
        "raw",
        "reset",
        "reset-mid-body",
        "status-302",
        "status-400",
        "status-401",
        "status-404",
        "status-408",
        "status-418",
        "status-429",
        "status-500",
        "status-503",
        "truncated",
        "wrong-length",
    ];
    let mut setup = Setup::new().backend(backend("first", mock)).backend(backend("dead", dead));
    for name in names {
        setup = setup.model(model(name, &[("first", name)]));
    }
    let mut sees = model("sees", &[("first", "ok")]);
    sees["modalities"] = json!({"input": ["text", "image"]});
    setup.model(model("dead", &[("dead", "x")])).model(sees)
}

async fn started() -> (Gateway, MockUpstream) {
    let mock = named().await;
    let dead = dead_addr().await.unwrap();
    (setup(mock.addr(), dead).start().await, mock)
}

fn chat(model: &str) -> String {
    json!({"model": model, "messages": [{"role": "user", "content": PROMPT}]}).to_string()
}

fn with_image(model: &str, url: &str) -> String {
    let content = json!([{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": url}}]);
    json!({"model": model, "messages": [{"role": "user", "content": content}]}).to_string()
}

/// The next request on the connection works, unless its end was announced.
async fn usable_or_closed(client: &mut Client, answer: &Answer) {
    if answer.says_close() {
        assert!(client.is_closed().await, "the connection ends as announced");
    } else {
        client.chat(chat("ok")).await.is_ok();
    }
}

#[tokio::test]
async fn bodies_are_refused_with_code_and_param_and_nothing_reaches_the_upstream() {
    let (gateway, mock) = started().await;
    let mut h2 = gateway.h2().await;
    let image = "messages[0].content[1].image_url.url";
    let long = "x".repeat(100_000);
    for (body, status, code, param) in [
        (String::new(), 400, "invalid_json", ""),
        ("{".to_owned(), 400, "invalid_json", ""),
        ("[]".to_owned(), 400, "invalid_json", ""),
        ("null".to_owned(), 400, "invalid_json", ""),
        ("{\"model\":\"ok\"} x".to_owned(), 400, "invalid_json", ""),
        (chat("ok").trim_end_matches('}').to_owned(), 400, "invalid_json", ""),
        (format!("{{\"model\":\"ok\",\"x\":\"{long}\""), 400, "invalid_json", ""),
        (
            "{\"model\":\"ok\",\"m\\u006fdel\":\"sees\",\"messages\":[{\"role\":\"user\"}]}".to_owned(),
            400,
            "invalid_json",
            "",
        ),
        ("{\"model\":\"ok\",\"x\":\"\u{1}\"}".to_owned(), 400, "invalid_json", ""),
        ("{}".to_owned(), 400, "missing_field", "model"),
        ("{\"model\":null,\"messages\":[]}".to_owned(), 400, "missing_field", "model"),
        ("{\"model\":5,\"messages\":[]}".to_owned(), 400, "invalid_field", "model"),
        ("{\"model\":\"ok\"}".to_owned(), 400, "missing_field", "messages"),
        ("{\"model\":\"ok\",\"messages\":{}}".to_owned(), 400, "invalid_field", "messages"),
        (
            "{\"model\":\"ok\",\"messages\":[{\"role\":\"user\"}],\"stream\":1}".to_owned(),
            400,
            "invalid_field",
            "stream",
        ),
        (
            "{\"model\":\"ok\",\"messages\":[{\"role\":\"user\"}],\"max_tokens\":0}".to_owned(),
            400,
            "invalid_field",
            "max_tokens",
        ),
        (
            "{\"model\":\"ok\",\"messages\":[{\"role\":\"user\"}],\"user_id\":\"bob\"}".to_owned(),
            400,
            "invalid_field",
            "body.user_id",
        ),
        (chat("unknown"), 400, "model_not_in_allowlist", "model"),
        (chat(&long), 400, "model_not_in_allowlist", "model"),
        (with_image("sees", "https://example.com/a.png"), 400, "image_url_not_supported", image),
        (with_image("sees", "http://169.254.169.254/"), 400, "image_url_not_supported", image),
        (with_image("sees", "file:///etc/passwd"), 400, "image_decode_error", image),
        (with_image("sees", "data:image/png;base64,***"), 400, "image_base64_invalid", image),
        (with_image("sees", "data:image/png;base64,aGVsbG8="), 400, "image_decode_error", image),
        (with_image("ok", "data:image/png;base64,iVBORw0KGgo="), 400, "invalid_field", "messages[0].content[1].type"),
    ] {
        let mut client = gateway.client().await;
        let answer = client.chat(&body).await;
        answer.is_error(status, code, param);
        usable_or_closed(&mut client, &answer).await;
        let answer = client_chunked(&gateway, &body).await;
        answer.is_error(status, code, param);
        let answer = post_h2(&mut h2, gateway.addr, CHAT, Bytes::from(body.clone()), false).await;
        answer.is_error(status, code, param);
    }
    assert!(
        mock.requests().iter().all(|request| request.body == chat("ok")),
        "only the requests between reach the mock"
    );
}

async fn client_chunked(gateway: &Gateway, body: &str) -> Answer {
    gateway.client().await.chat_chunked(body.as_bytes(), 7000).await
}

#[tokio::test]
async fn heads_are_refused_with_code_and_param() {
    let (gateway, mock) = started().await;
    let json = ("content-type", "application/json");
    let bearer = format!("Bearer {}", crate::harness::BEARER);
    let authorization = ("authorization", bearer.as_str());
    type Headers<'a> = Vec<(&'a str, &'a str)>;
    let cases: Vec<(Method, &str, Headers<'_>, u16, &str, &str)> = vec![
        (Method::POST, "/v1/nothing", vec![authorization, json], 404, "route_not_found", ""),
        (Method::PUT, CHAT, vec![authorization, json], 405, "method_not_allowed", ""),
        (Method::POST, CHAT, vec![json], 401, "missing_authorization", "headers.authorization"),
        (
            Method::POST,
            CHAT,
            vec![json, ("authorization", "Bearer wrong")],
            401,
            "invalid_authorization",
            "headers.authorization",
        ),
        (
            Method::POST,
            CHAT,
            vec![json, ("authorization", "Bearer ")],
            401,
            "invalid_authorization",
            "headers.authorization",
        ),
        (
            Method::POST,
            CHAT,
            vec![json, ("authorization", "Basic YTpi")],
            401,
            "invalid_authorization",
            "headers.authorization",
        ),
        (
            Method::POST,
            CHAT,
            vec![authorization, ("content-type", "text/plain")],
            415,
            "unsupported_media_type",
            "headers.content-type",
        ),
        (
            Method::POST,
            CHAT,
            vec![authorization, ("content-type", "multipart/form-data; boundary=x")],
            415,
            "unsupported_media_type",
            "headers.content-type",
        ),
        (
            Method::POST,
            CHAT,
            vec![authorization, json, ("content-encoding", "br")],
            415,
            "unsupported_media_type",
            "headers.content-encoding",
        ),
        (
            Method::POST,
            CHAT,
            vec![authorization, json, ("spass-user-id", "a b")],
            400,
            "invalid_field",
            "headers.spass-user-id",
        ),
        (
            Method::POST,
            CHAT,
            vec![authorization, json, ("spass-user-id", "bob")],
            401,
            "invalid_authorization",
            "headers.spass-user-id",
        ),
        (
            Method::POST,
            CHAT,
            vec![authorization, json, ("spass-tenant-id", "other")],
            401,
            "invalid_authorization",
            "headers.spass-tenant-id",
        ),
    ];
    for size in [10, 100_000] {
        for (method, path, headers, status, code, param) in &cases {
            let mut client = gateway.client().await;
            client.raw.request(method, path, headers, &vec![b' '; size]).await.unwrap();
            let answer = client.answer().await;
            assert_eq!(
                (answer.status, answer.json()["error"]["code"].as_str()),
                (*status, Some(*code)),
                "{method} {path} {headers:?}"
            );
            if code != &"invalid_authorization" {
                answer.is_error(*status, code, param);
            }
            assert_eq!(answer.header("www-authenticate"), (*status == 401).then_some("Bearer"));
            usable_or_closed(&mut client, &answer).await;
        }
    }
    assert!(mock.requests().iter().all(|request| request.body == chat("ok")));
}

#[tokio::test]
async fn an_absent_content_type_and_json_dialects_are_json() {
    let (gateway, _mock) = started().await;
    let mut client = gateway.client().await;
    client.request(&Method::POST, CHAT, &[], chat("ok").as_bytes()).await.is_ok();
    for content_type in ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"] {
        client.request(&Method::POST, CHAT, &[("content-type", content_type)], chat("ok").as_bytes()).await.is_ok();
    }
}

#[tokio::test]
async fn failures_of_the_upstream_have_their_own_codes() {
    let (gateway, _mock) = started().await;
    for (name, status, code, param) in [
        ("dead", 503, "upstream_unavailable", ""),
        ("status-500", 502, "upstream_error", ""),
        ("status-503", 502, "upstream_error", ""),
        ("status-302", 502, "upstream_error", ""),
        ("status-401", 502, "upstream_error", ""),
        ("status-404", 502, "upstream_error", ""),
        ("status-418", 502, "upstream_error", ""),
        ("status-408", 504, "upstream_timeout", ""),
        ("status-400", 400, "upstream_bad_request", ""),
        ("status-429", 429, "model_quota_exhausted", "model"),
        ("reset", 502, "upstream_error", ""),
        ("reset-mid-body", 502, "upstream_error", ""),
        ("raw", 502, "upstream_error", ""),
        ("truncated", 502, "upstream_error", ""),
        ("wrong-length", 502, "upstream_error", ""),
    ] {
        for stream in [false, true] {
            if stream && ["truncated"].contains(&name) {
                continue; // a stream that breaks off is said inside it
            }
            let mut body: Value = serde_json::from_str(&chat(name)).unwrap();
            body["stream"] = stream.into();
            let mut client = gateway.client().await;
            let answer = client.chat(body.to_string()).await;
            println!("{name} {stream} {:?}", answer.headers);
            if stream && name == "reset-mid-body" {
                // some of its bytes are a whole event without content: nothing was answered yet
                answer.is_error(502, "upstream_error", "");
            } else {
                answer.is_error(status, code, param);
            }
            if status >= 502 {
                assert_eq!(answer.header("x-should-retry"), Some("false"), "{name}");
            }
            if status == 429 {
                assert_eq!(answer.header("retry-after"), Some("60"));
            }
            usable_or_closed(&mut client, &answer).await;
        }
    }
}

#[tokio::test]
async fn a_message_of_the_upstream_is_cleaned() {
    let (gateway, _mock) = started().await;
    let answer = gateway.chat(chat("leaky")).await;
    answer.is_error(400, "upstream_bad_request", "");
    assert_eq!(answer.json()["error"]["message"], "bad leaky at [url] with [secret]");
}

#[tokio::test]
async fn an_upstream_that_hangs_before_its_head_ends_with_the_total_time() {
    ends_with_the_total_time("hang", &[false, true]).await;
}

#[tokio::test]
async fn an_upstream_that_hangs_after_the_head_of_a_whole_answer_ends_with_the_total_time() {
    ends_with_the_total_time("hang-after-headers", &[false]).await;
}

#[tokio::test]
async fn an_upstream_that_hangs_after_the_head_of_a_stream_ends_with_the_total_time() {
    ends_with_the_total_time("hang-after-headers", &[true]).await;
}

async fn ends_with_the_total_time(name: &str, streams: &[bool]) {
    let mock = named().await;
    let gateway = setup(mock.addr(), dead_addr().await.unwrap()).server("total_timeout_seconds", 1).start().await;
    for stream in streams.iter().copied() {
        let mut body: Value = serde_json::from_str(&chat(name)).unwrap();
        body["stream"] = stream.into();
        let mut client = gateway.client().await;
        let answer = client.chat(body.to_string()).await;
        answer.is_error(504, "upstream_timeout", "");
        usable_or_closed(&mut client, &answer).await;
    }
    gateway.idle().await;
}

#[tokio::test]
async fn a_bad_byte_at_the_start_is_answered_before_the_rest_is_sent() {
    let (gateway, mock) = started().await;
    for rest in [0, 1, 3 * 1024 * 1024] {
        let mut client = gateway.client().await;
        client.chat_head(&[("transfer-encoding", "chunked")]).await;
        let start = format!("{{\"model\":\"ok\",\"x\":\"{}\" !", "y".repeat(500));
        client.raw.send_chunk(start.as_bytes()).await.unwrap();
        let answer = client.answer().await;
        answer.is_error(400, "invalid_json", "");
        assert!(answer.says_close(), "what follows is of no interest");
        if rest > 0 {
            client.raw.send_chunk(&vec![b'z'; rest]).await.unwrap();
        }
        client.raw.send_chunk(b"").await.unwrap();
        assert!(client.is_closed().await, "the connection ends without a reset");
    }
    assert!(mock.requests().is_empty());
}

#[tokio::test]
async fn a_bad_byte_over_http2_is_answered_before_the_rest_is_sent() {
    let (gateway, mock) = started().await;
    let mut client = gateway.h2().await;
    let head = http::Request::post(format!("http://{}{CHAT}", gateway.addr))
        .header("authorization", format!("Bearer {}", crate::harness::BEARER))
        .body(())
        .unwrap();
    let mut exchange = client.start(head).await.unwrap();
    exchange.send(Bytes::from_static(b"{\"model\": !")).await.unwrap();
    let answer: Answer = soon("the early answer", exchange.read_response()).await.unwrap().into();
    answer.is_error(400, "invalid_json", "");
    drop(exchange);
    post_h2(&mut client, gateway.addr, CHAT, chat("ok").into(), true).await.is_ok();
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn a_client_that_stops_inside_its_body_is_forgotten_when_it_leaves() {
    let (gateway, mock) = started().await;
    for abort in [false, true] {
        let mut client = gateway.client().await;
        client.chat_head(&[("content-length", "100000")]).await;
        client.raw.send(&chat("ok").as_bytes()[..20]).await.unwrap();
        if abort {
            client.raw.abort().unwrap();
        } else {
            drop(client);
        }
        gateway.idle().await;
    }
    assert!(mock.requests().is_empty());
    gateway.chat(chat("ok")).await.is_ok();
}
