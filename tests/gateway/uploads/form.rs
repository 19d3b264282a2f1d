//! Forms with a recording, and the ways to send them.

use bytes::Bytes;
use http::{Method, Request};

use crate::harness::{Answer, BEARER, Gateway, fill, soon};

/// Content type of the forms made here.
pub(super) const CONTENT_TYPE: &str = "multipart/form-data; boundary=----form-boundary-7MA4YWxk";
const DELIMITER: &str = "------form-boundary-7MA4YWxk";
pub(super) const MIB: usize = 1024 * 1024;
/// Sizes around what is kept in memory, and of the engine's own buffer.
pub(super) const SIZES: [usize; 6] = [1000, 64 * 1024, 64 * 1024 + 1, 256 * 1024, 256 * 1024 + 1, 3 * MIB];

/// Where the file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    FileFirst,
    ModelFirst,
}

pub(super) const ORDERS: [Order; 2] = [Order::FileFirst, Order::ModelFirst];

pub(super) fn text(name: &str, value: &str) -> Vec<u8> {
    format!("{DELIMITER}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into()
}

pub(super) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "{DELIMITER}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    [head.as_bytes(), content, b"\r\n"].concat()
}

pub(super) fn form(parts: &[Vec<u8>]) -> Bytes {
    [parts.concat().as_slice(), DELIMITER.as_bytes(), b"--\r\n"].concat().into()
}

/// A form with a recording of so many bytes, for a model.
pub(super) fn recording(size: usize, order: Order, model: &str) -> Bytes {
    let file = file("speech.wav", &fill(size));
    let (model, language) = (text("model", model), text("language", "en"));
    match order {
        Order::FileFirst => form(&[file, language, model]),
        Order::ModelFirst => form(&[model, language, file]),
    }
}

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Chunked,
    Http2Sized,
    Http2Unsized,
    Sized,
}

pub(super) const ALL: [Sent; 4] = [Sent::Chunked, Sent::Http2Sized, Sent::Http2Unsized, Sent::Sized];

pub(super) async fn send(gateway: &Gateway, path: &str, how: Sent, body: &Bytes) -> Answer {
    send_with(gateway, path, how, body, &[]).await
}

pub(super) async fn send_with(gateway: &Gateway, path: &str, how: Sent, body: &Bytes, more: &[(&str, &str)]) -> Answer {
    let mut headers = vec![("content-type", CONTENT_TYPE)];
    headers.extend_from_slice(more);
    match how {
        Sent::Sized => gateway.client().await.request(&Method::POST, path, &headers, body).await,
        Sent::Chunked => {
            let mut client = gateway.client().await;
            headers.push(("transfer-encoding", "chunked"));
            client.head(&Method::POST, path, &headers).await;
            soon("the chunks are sent", async {
                for chunk in body.chunks(50_000) {
                    if client.raw.send_chunk(chunk).await.is_err() {
                        return; // refused already
                    }
                }
                drop(client.raw.send_chunk(b"").await);
            })
            .await;
            client.answer().await
        }
        Sent::Http2Sized | Sent::Http2Unsized => {
            let mut head = Request::post(format!("http://{}{path}", gateway.addr));
            for (name, value) in headers {
                head = head.header(name, value);
            }
            head = head.header("authorization", format!("Bearer {BEARER}"));
            if how == Sent::Http2Sized {
                head = head.header("content-length", body.len());
            }
            let mut client = gateway.h2().await;
            let mut exchange = client.start(head.body(()).unwrap()).await.unwrap();
            soon("the answer over HTTP/2", async {
                if exchange.send(body.clone()).await.is_ok() {
                    drop(exchange.end());
                }
                exchange.read_response().await
            })
            .await
            .unwrap()
            .into()
        }
    }
}
