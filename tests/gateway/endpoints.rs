//! The bridge to endpoints of this process, seen through the list of models.

use std::time::Duration;

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use http::{Method, Request};
use serde_json::json;

use crate::harness::{BEARER, Gateway, Setup, model, soon};

/// So many that the list does not fit the buffers of a connection.
const MANY: usize = 40_000;

async fn started(more: usize) -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut setup = Setup::with_upstream(mock.addr()).model(model("vendor/model-1:tag", &[("first", "x")]));
    for n in 0..more {
        setup = setup.model(model(&format!("one-of-very-many-models-with-a-long-name-{n}"), &[("first", "x")]));
    }
    (setup.start().await, mock)
}

#[tokio::test]
async fn lists_models_under_both_paths_and_with_a_trailing_slash() {
    let (gateway, _mock) = started(0).await;
    let mut client = gateway.client().await;
    for path in ["/v1/models", "/v1/models/", "/models", "/models/", "/v1/models?limit=3"] {
        let answer = client.get(path).await;
        let list = answer.is_ok().json();
        assert_eq!(list["object"], "list", "{path}");
        let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["m", "m-local", "vendor/model-1:tag", "vendor/model-1:tag-local"], "{path}");
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn finds_a_model_however_its_id_is_written() {
    let (gateway, _mock) = started(0).await;
    let mut client = gateway.client().await;
    for id in ["vendor/model-1:tag", "vendor%2Fmodel-1%3Atag", "vendor%2fmodel-1:tag", "%76endor/model-1:tag/"] {
        for root in ["/v1/models", "/models"] {
            let item = client.get(&format!("{root}/{id}")).await.is_ok().json();
            assert_eq!(item["id"], "vendor/model-1:tag", "{root}/{id}");
        }
    }
    assert_eq!(
        client.get("/v1/models/m").await.json(),
        json!({"id": "m", "object": "model", "created": 1_735_689_600, "owned_by": "unknown"})
    );
    for id in ["nothing", "vendor", "m%00"] {
        let answer = client.get(&format!("/v1/models/{id}")).await;
        answer.is_error(404, "model_not_found", "path.id");
    }
}

#[tokio::test]
async fn a_model_id_that_is_no_text_is_not_found() {
    let (gateway, _mock) = started(0).await;
    gateway.client().await.get("/v1/models/m%ff").await.is_error(404, "model_not_found", "path.id");
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let (gateway, _mock) = started(0).await;
    let mut client = gateway.client().await;
    for path in ["/v1/models", "/models/m", "/healthz", "/v1/models/nothing", "/nowhere"] {
        let got = client.get(path).await;
        client.head(&Method::HEAD, path, &[]).await;
        let (status, headers) = client.read_head().await;
        assert_eq!(
            (status, headers["content-length"].to_str().unwrap()),
            (got.status, got.body.len().to_string().as_str())
        );
        assert_eq!(client.piece().await, None);
    }
    let mut client = gateway.h2().await;
    for path in ["/v1/models", "/nowhere"] {
        let head =
            Request::head(format!("http://{}{path}", gateway.addr)).header("authorization", format!("Bearer {BEARER}"));
        let response = soon("the head", client.request(head.body(bytes::Bytes::new()).unwrap())).await.unwrap();
        assert!(response.body.is_empty() && response.headers.contains_key("x-request-id"), "{path} {response:?}");
    }
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let (gateway, _mock) = started(0).await;
    let mut client = gateway.client().await;
    for (path, allow) in [("/v1/models", "GET, HEAD"), ("/models/m", "GET, HEAD"), ("/healthz", "GET, HEAD")] {
        for method in [Method::POST, Method::DELETE, Method::OPTIONS, Method::from_bytes(b"BREW").unwrap()] {
            let answer = client.request(&method, path, &[], b"").await;
            answer.is_error(405, "method_not_allowed", "");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        }
    }
    let answer = client.get("/v1/chat/completions").await;
    answer.is_error(405, "method_not_allowed", "");
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test]
async fn an_unknown_path_is_an_error_with_and_without_a_bearer() {
    let (gateway, _mock) = started(0).await;
    let mut client = gateway.client().await;
    for path in
        ["/", "/v1", "/v1/nothing", "//v1/models", "/v1/models/../models", "/v1/models/%2e%2e/m", "/healthz/x", "*"]
    {
        client.get(path).await.is_error(404, "route_not_found", "");
        client.raw.send_head(&Method::GET, path, &[]).await.unwrap();
        client.answer().await.is_error(404, "route_not_found", "");
    }
}

#[tokio::test]
async fn a_body_that_nobody_asked_for_does_not_disturb_the_connection() {
    let (gateway, _mock) = started(0).await;
    for size in [1, 70_000, 1_000_000] {
        let mut client = gateway.client().await;
        let answer = client.request(&Method::GET, "/v1/models", &[], &vec![b'x'; size]).await;
        answer.is_ok();
        if answer.says_close() {
            assert!(client.is_closed().await);
        } else {
            client.get("/v1/models").await.is_ok();
        }
    }
}

#[tokio::test]
async fn a_large_list_arrives_whole_at_a_client_that_reads_slowly() {
    let (gateway, _mock) = started(MANY).await;
    let expected = gateway.client().await.get("/v1/models").await;
    assert_eq!(expected.is_ok().json()["data"].as_array().unwrap().len(), 2 * (MANY + 2));

    let mut slow = gateway.client().await;
    slow.head(&Method::GET, "/v1/models", &[]).await;
    // others are served while the slow client has not begun to read
    for _ in 0..10 {
        gateway.client().await.get("/healthz").await.is_ok();
    }
    assert!(slow.answer().await.body == expected.body);

    let mut h2 = gateway.h2().await;
    let head =
        Request::get(format!("http://{}/v1/models", gateway.addr)).header("authorization", format!("Bearer {BEARER}"));
    let mut exchange = h2.start(head.body(()).unwrap()).await.unwrap();
    exchange.end().unwrap();
    let response = soon("the list over HTTP/2", exchange.read_response()).await.unwrap();
    assert!(response.body == expected.body);
}

#[tokio::test]
async fn a_client_that_leaves_a_large_list_unread_is_let_go() {
    let (gateway, _mock) = started(MANY).await;
    for _ in 0..5 {
        let mut client = gateway.client().await;
        client.head(&Method::GET, "/v1/models", &[]).await;
        client.raw.abort().unwrap();
    }
    gateway.idle().await;
    let pages = tokio::time::timeout(Duration::from_secs(10), async { gateway.client().await.get("/v1/models").await });
    pages.await.unwrap().is_ok();
}

#[tokio::test]
async fn describes_models_and_backends() {
    let (gateway, _mock) = started(0).await;
    let mut client = gateway.client().await;
    for path in ["/v1/info", "/v1/info/"] {
        let info = client.get(path).await.is_ok().json();
        assert_eq!((&info["object"], &info["tenant_id"]), (&json!("info"), &json!("default")), "{path}");
        assert_eq!(info["models"][0]["slugs"], json!(["m", "m-local"]), "{info}");
        assert_eq!(info["backends"], json!([{"label": "first", "domain": "local", "status": "available"}]));
        let members = info["models"][0].as_object().unwrap();
        assert_eq!(members.len(), 18, "all members, known or not: {info}");
    }
    client.raw.request(&Method::GET, "/v1/info", &[], b"").await.unwrap();
    client.answer().await.is_error(401, "missing_authorization", "headers.authorization");
}
