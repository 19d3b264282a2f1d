//! Uploads in which somebody leaves, or answers, before the end.

use std::time::Instant;

use bytes::Bytes;
use http::Method;

use super::form::{CONTENT_TYPE, MIB, Order, recording};
use crate::harness::{Client, Setup, Stage, soon, until};

async fn begun(stage: &Stage, order: Order, left_out: usize) -> (crate::harness::Gateway, Client, Bytes) {
    let gateway = Setup::new().route(super::plain::route(stage.addr)).start().await;
    let body = recording(4 * MIB, order, "m");
    let mut client = gateway.client().await;
    let length = body.len().to_string();
    client.head(&Method::POST, "/upload", &[("content-type", CONTENT_TYPE), ("content-length", &length)]).await;
    client.raw.send(&body[..body.len() - left_out]).await.unwrap();
    (gateway, client, body.slice(body.len() - left_out..))
}

#[tokio::test]
async fn a_client_that_leaves_inside_its_upload_takes_the_upstream_along() {
    let mut stage = Stage::open_at_head().await;
    let (gateway, client, _) = begun(&stage, Order::ModelFirst, MIB).await;
    let mut caller = stage.caller().await;
    while caller.body.len() < 2 * MIB {
        assert!(caller.read_some().await);
    }
    drop(client);
    soon("the gateway leaves the upstream", async { while caller.read_some().await {} }).await;
    assert!(caller.body.len() <= 3 * MIB + MIB / 2, "nothing was made up");
    gateway.idle().await;
    until("the files are gone", async || gateway.open_data_files() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_its_model_never_reaches_an_upstream() {
    let mut stage = Stage::open_at_head().await;
    let (gateway, client, _) = begun(&stage, Order::FileFirst, 20).await;
    until("the upload is in a file", async || gateway.open_data_files() == 1).await;
    drop(client);
    until("the file is gone", async || gateway.open_data_files() == 0).await;
    gateway.idle().await;
    assert!(stage.is_quiet());
}

#[tokio::test]
async fn a_client_that_leaves_after_its_upload_takes_the_upstream_along() {
    for order in super::form::ORDERS {
        let mut stage = Stage::open_at_head().await;
        let (gateway, client, _) = begun(&stage, order, 0).await;
        let mut caller = stage.caller().await;
        while caller.body.len() < 4 * MIB {
            assert!(caller.read_some().await);
        }
        let at = Instant::now();
        drop(client);
        soon("the gateway leaves the upstream", async { while caller.read_some().await {} }).await;
        caller.gone(at).await;
        gateway.idle().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_after_an_upload_without_a_length_takes_the_upstream_along() {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::new().route(super::plain::route(stage.addr)).start().await;
    let mut client = gateway.client().await;
    client.head(&Method::POST, "/upload", &[("content-type", CONTENT_TYPE), ("transfer-encoding", "chunked")]).await;
    let body = recording(4 * MIB, Order::ModelFirst, "m");
    let (sent, mut caller) = tokio::join!(
        async {
            for chunk in body.chunks(100_000) {
                client.raw.send_chunk(chunk).await.unwrap();
            }
            client.raw.send_chunk(b"").await
        },
        async {
            let mut caller = stage.caller().await;
            while !caller.body.ends_with(b"\r\n0\r\n\r\n") {
                assert!(caller.read_some().await);
            }
            caller
        }
    );
    sent.unwrap();
    assert_eq!(caller.header("transfer-encoding"), Some("chunked"));
    drop(client);
    soon("the gateway leaves the upstream", async { while caller.read_some().await {} }).await;
    gateway.idle().await;
}

#[tokio::test]
async fn an_upload_that_stops_is_refused_when_its_time_is_over() {
    for (order, sent) in [(Order::FileFirst, MIB), (Order::ModelFirst, MIB)] {
        let stage = Stage::open_at_head().await;
        let setup = Setup::new().route(super::plain::route(stage.addr)).server("total_timeout_seconds", 2);
        let gateway = setup.start().await;
        let body = recording(2 * MIB, order, "m");
        let mut client = gateway.client().await;
        let length = body.len().to_string();
        client.head(&Method::POST, "/upload", &[("content-type", CONTENT_TYPE), ("content-length", &length)]).await;
        client.raw.send(&body[..sent]).await.unwrap();
        client.answer().await.is_error(400, "invalid_json", "");
        drop(client);
        gateway.idle().await;
    }
}

#[tokio::test]
async fn an_upstream_that_takes_nothing_does_not_hold_an_upload_for_ever() {
    let stage = Stage::open_at_head().await;
    let setup = Setup::new().route(super::plain::route(stage.addr)).server("total_timeout_seconds", 1);
    let gateway = setup.start().await;
    let mut client = gateway.client().await;
    let body = recording(64 * MIB, Order::ModelFirst, "m");
    let length = body.len().to_string();
    client.head(&Method::POST, "/upload", &[("content-type", CONTENT_TYPE), ("content-length", &length)]).await;
    // more than the system keeps between the three
    let sending = tokio::time::timeout(std::time::Duration::from_secs(1), client.raw.send(&body));
    assert!(sending.await.is_err(), "all of it was taken");
    client.answer().await.is_error(504, "upstream_timeout", "");
    drop(client);
    gateway.idle().await;
}

#[tokio::test]
async fn an_upstream_that_answers_early_is_heard_while_the_client_still_sends() {
    for close in [false, true] {
        let mut stage = Stage::open_at_head().await;
        let (gateway, mut client, rest) = begun(&stage, Order::ModelFirst, MIB).await;
        let mut caller = stage.caller().await;
        let error = "{\"error\":{\"message\":\"too long\"}}";
        caller
            .write(format!(
                "HTTP/1.1 422 Unprocessable Entity\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{error}",
                error.len()
            ))
            .await;
        if close {
            drop(caller);
        } else {
            tokio::spawn(async move { while caller.read_some().await {} });
        }
        let (status, _) = soon("the early answer", client.raw.read_head()).await.unwrap();
        assert_eq!(status, 422);
        let mut said = Vec::new();
        while said.len() < error.len() {
            said.extend_from_slice(&soon("its body", client.raw.read_piece()).await.unwrap().unwrap());
        }
        assert_eq!(said, error.as_bytes());
        drop(client.raw.send(&rest).await); // the gateway may be gone by now
        drop(client);
        gateway.idle().await;
    }
}

/// It reads nothing, and stays.
#[tokio::test]
async fn an_upstream_that_answers_early_is_heard_while_it_takes_nothing() {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::new().route(super::plain::route(stage.addr)).start().await;
    let body = recording(64 * MIB, Order::ModelFirst, "m");
    let mut client = gateway.client().await;
    let length = body.len().to_string();
    client.head(&Method::POST, "/upload", &[("content-type", CONTENT_TYPE), ("content-length", &length)]).await;
    client.raw.send(&body[..MIB]).await.unwrap();
    let mut caller = stage.caller().await;
    let sending = tokio::time::timeout(std::time::Duration::from_secs(1), client.raw.send(&body[MIB..]));
    assert!(sending.await.is_err(), "all of it was taken");
    caller.write("HTTP/1.1 422 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}").await;
    let (status, _) = soon("the early answer", client.raw.read_head()).await.unwrap();
    assert_eq!(status, 422);
    assert_eq!(soon("its body", client.raw.read_piece()).await.unwrap().unwrap(), "{}");
    drop(client);
    gateway.idle().await;
    drop(caller);
}

#[tokio::test]
async fn the_client_is_read_no_faster_than_the_upstream_takes() {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::new().route(super::plain::route(stage.addr)).start().await;
    let body = recording(64 * MIB, Order::ModelFirst, "m");
    let mut client = gateway.client().await;
    let length = body.len().to_string();
    client.head(&Method::POST, "/upload", &[("content-type", CONTENT_TYPE), ("content-length", &length)]).await;
    let mut sent = 0;
    // what the system keeps between the three is far less than the body
    while sent < body.len() {
        let piece = &body[sent..body.len().min(sent + 256 * 1024)];
        match tokio::time::timeout(std::time::Duration::from_secs(2), client.raw.send(piece)).await {
            Ok(written) => written.unwrap(),
            Err(_) => break,
        }
        sent += piece.len();
    }
    assert!(sent < body.len() / 2, "{} MiB were taken while the upstream took nothing", sent / MIB);
    drop(client);
    drop(stage.caller().await);
    gateway.idle().await;
}
