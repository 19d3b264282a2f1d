//! A route with one URL and no model: what arrives is what was sent.

use std::time::Duration;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use serde_json::{Value, json};

use super::form::{ALL, MIB, ORDERS, Order, SIZES, Sent, file, form, recording, send, send_with, text};
use crate::harness::{Gateway, Setup, until};

const PATH: &str = "/upload";

pub(super) fn route(addr: std::net::SocketAddr) -> Value {
    json!({"path": PATH, "methods": ["POST"], "filters": [{"form": {"protocol": "transcription"}}], "upload": true,
        "upstream": format!("http://{addr}"), "forward_headers": []})
}

async fn started(limit: usize) -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::always(Behaviour::Echo)).await.unwrap();
    (Setup::new().route(route(mock.addr())).server("max_upload_bytes", limit).start().await, mock)
}

#[tokio::test]
async fn forms_arrive_byte_for_byte_however_they_are_sent() {
    let (gateway, mock) = started(8 * MIB).await;
    for how in ALL {
        for order in ORDERS {
            for size in SIZES {
                let body = recording(size, order, "m");
                send(&gateway, PATH, how, &body).await.is_ok();
                let seen = mock.requests().pop().unwrap();
                assert!(seen.body == body, "{how:?} {order:?} {size}: {} of {} bytes", seen.body.len(), body.len());
                let declared = seen.headers.get("content-length").map(|length| length.to_str().unwrap().to_owned());
                if matches!(how, Sent::Sized | Sent::Http2Sized) {
                    assert_eq!(declared, Some(body.len().to_string()), "{how:?}");
                }
                assert_eq!(declared.is_some(), seen.headers.get("transfer-encoding").is_none(), "{how:?}");
            }
        }
    }
    gateway.idle().await;
}

#[tokio::test]
async fn a_connection_is_used_again_after_an_upload() {
    let (gateway, _mock) = started(8 * MIB).await;
    let mut client = gateway.client().await;
    for size in [1000, MIB, 1000] {
        for order in ORDERS {
            let headers = [("content-type", super::form::CONTENT_TYPE)];
            let answer = client.request(&http::Method::POST, PATH, &headers, &recording(size, order, "m")).await;
            assert!(!answer.is_ok().says_close());
        }
    }
}

#[tokio::test]
async fn an_upload_at_the_limit_passes_and_one_byte_more_is_refused() {
    let limit = 2 * MIB;
    let (gateway, mock) = started(limit).await;
    let frame = recording(0, Order::FileFirst, "m").len();
    for how in ALL {
        for order in ORDERS {
            send(&gateway, PATH, how, &recording(limit - frame, order, "m")).await.is_ok();
            let answer = send(&gateway, PATH, how, &recording(limit - frame + 1, order, "m")).await;
            answer.is_error(413, "body_too_large", "");
        }
    }
    let lengths: Vec<usize> = mock.requests().into_iter().map(|request| request.body.len()).collect();
    assert!(lengths.iter().all(|length| *length <= limit), "no upstream has seen all of a body that is too large");
    assert!(lengths.iter().filter(|length| **length == limit).count() >= ALL.len() * ORDERS.len(), "{lengths:?}");
    gateway.idle().await;
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_before_a_byte_is_read() {
    let (gateway, mock) = started(MIB).await;
    let mut client = gateway.client().await;
    let length = (MIB + 1).to_string();
    let headers =
        [("content-type", super::form::CONTENT_TYPE), ("content-length", &length), ("expect", "100-continue")];
    client.head(&http::Method::POST, PATH, &headers).await;
    let (status, _) = crate::harness::soon("an answer", client.raw.read_interim()).await.unwrap();
    assert_eq!(status, 413);
    assert!(mock.requests().is_empty());
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_once() {
    let (gateway, _mock) = started(8 * MIB).await;
    let mut client = gateway.client().await;
    for order in ORDERS {
        let body = recording(MIB, order, "m");
        let length = body.len().to_string();
        let headers =
            [("content-type", super::form::CONTENT_TYPE), ("content-length", &length), ("expect", "100-continue")];
        client.head(&http::Method::POST, PATH, &headers).await;
        let (interim, _) = crate::harness::soon("the interim answer", client.raw.read_interim()).await.unwrap();
        assert_eq!(interim, 100);
        client.raw.send(&body).await.unwrap();
        let (status, _) = crate::harness::soon("the answer", client.raw.read_interim()).await.unwrap();
        assert_eq!(status, 200, "there is no second interim answer");
        client = gateway.client().await;
    }
}

#[tokio::test]
async fn what_stands_behind_the_file_ends_the_upload_before_it_reaches_the_upstream() {
    let (gateway, mock) = started(8 * MIB).await;
    let begin = || vec![text("model", "m"), file("a.mp3", &crate::harness::fill(MIB))];
    for (late, param) in [("user_id", "body.user_id"), ("model", "model"), ("response_format", "response_format")] {
        let body = form(&[begin(), vec![text(late, "mallory")]].concat());
        for how in ALL {
            send(&gateway, PATH, how, &body).await.is_error(400, "invalid_field", param);
        }
    }
    gateway.idle().await;
    let seen = mock.requests();
    assert!(seen.iter().all(|request| !request.body.windows(7).any(|window| window == b"mallory")));
}

#[tokio::test]
async fn what_is_wrong_at_the_start_never_reaches_the_upstream() {
    let (gateway, mock) = started(8 * MIB).await;
    let wav = file("a.wav", b"x");
    for (body, status, code, param) in [
        (form(&[text("model", "m")]), 400, "missing_field", "file"),
        (form(std::slice::from_ref(&wav)), 400, "missing_field", "model"),
        (form(&[file("a.txt", b"x"), text("model", "m")]), 400, "invalid_field", "file"),
        (form(&[text("user_id", "x"), text("model", "m"), wav.clone()]), 400, "invalid_field", "body.user_id"),
        ("no form".into(), 400, "invalid_field", "body"),
        (bytes::Bytes::new(), 400, "invalid_field", "body"),
    ] {
        for how in ALL {
            send(&gateway, PATH, how, &body).await.is_error(status, code, param);
        }
    }
    let good = recording(10, Order::ModelFirst, "m");
    let mode = [("spass-stt-mode", "live")];
    send_with(&gateway, PATH, Sent::Sized, &good, &mode).await.is_error(400, "invalid_field", "headers.spass-stt-mode");
    let encoded = [("content-encoding", "br")];
    send_with(&gateway, PATH, Sent::Sized, &good, &encoded).await.is_error(
        415,
        "unsupported_media_type",
        "headers.content-encoding",
    );
    let mut client = gateway.client().await;
    let json = [("content-type", "application/json")];
    client.request(&http::Method::POST, PATH, &json, b"{}").await.is_error(
        415,
        "unsupported_media_type",
        "headers.content-type",
    );
    assert!(mock.requests().is_empty());
}

#[tokio::test]
async fn many_uploads_at_once_share_one_budget_and_give_it_back() {
    let mock = MockUpstream::start(Script::always(Behaviour::Echo)).await.unwrap();
    let setup = Setup::new().route(route(mock.addr())).server("max_upload_bytes", 2 * MIB);
    let gateway = setup.server("max_spooled_bytes", 2 * MIB).start().await;
    let body = recording(MIB, Order::FileFirst, "m");
    let mut first = gateway.client().await;
    let length = body.len().to_string();
    first
        .head(&http::Method::POST, PATH, &[("content-type", super::form::CONTENT_TYPE), ("content-length", &length)])
        .await;
    let (begun, rest) = body.split_at(body.len() - 10);
    first.raw.send(begun).await.unwrap();
    // all of it: an upload that comes in between could take what the first one still needs
    let mut kept = 0;
    until("the first upload is kept", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = std::mem::replace(&mut kept, gateway.spooled_bytes());
        kept == before && kept > MIB as u64 / 2
    })
    .await;
    until("there is no room for a second one", async || {
        send(&gateway, PATH, Sent::Sized, &recording(MIB + MIB / 2, Order::FileFirst, "m")).await.status == 503
    })
    .await;
    let refused = send(&gateway, PATH, Sent::Sized, &recording(MIB + MIB / 2, Order::FileFirst, "m")).await;
    refused.is_error(503, "service_overloaded", "");
    assert_eq!(refused.header("retry-after"), Some("1"));
    first.raw.send(rest).await.unwrap();
    first.answer().await.is_ok();
    gateway.idle().await;
    send(&gateway, PATH, Sent::Sized, &recording(MIB + MIB / 2, Order::FileFirst, "m")).await.is_ok();
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_ends_the_upload_and_not_the_process() {
    let (mut gateway, mock) = started(8 * MIB).await;
    gateway.lose_data_dir();
    for order in ORDERS {
        for how in ALL {
            send(&gateway, PATH, how, &recording(2 * MIB, order, "m")).await.is_error(500, "storage_error", "");
        }
    }
    send(&gateway, PATH, Sent::Sized, &recording(1000, Order::FileFirst, "m")).await.is_ok();
    assert!(gateway.runs() && mock.requests().iter().all(|request| request.body.len() < 2 * MIB));
    gateway.idle().await;
}
