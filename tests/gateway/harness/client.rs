//! Callers of the gateway, and what they send.

use std::net::SocketAddr;

use bytes::Bytes;
use dgx_gateway_testkit::client::{H2Client, H2Exchange, RawClient};
use http::{Method, Request};

use super::answer::{Answer, check_head};
use super::{BEARER, PROMPT, soon};

/// Path of chat requests.
const CHAT: &str = "/v1/chat/completions";

/// An exchange over HTTP/2.
pub(crate) type Exchange2 = H2Exchange;

/// One HTTP/1.1 connection of an authenticated caller.
pub(crate) struct Client {
    pub(crate) raw: RawClient,
    authorization: String,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::connect_with(addr, BEARER).await
    }

    pub(crate) async fn connect_with(addr: SocketAddr, secret: &str) -> Self {
        Self { raw: RawClient::connect(addr).await.unwrap(), authorization: format!("Bearer {secret}") }
    }

    fn headers<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut headers = vec![("authorization", self.authorization.as_str())];
        headers.extend_from_slice(more);
        headers
    }

    /// Sends a request head with the caller's bearer; the body follows.
    pub(crate) async fn head(&mut self, method: &Method, path: &str, more: &[(&str, &str)]) {
        let authorization = self.authorization.clone();
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend_from_slice(more);
        self.raw.send_head(method, path, &headers).await.unwrap();
    }

    /// Sends the head of a chat request.
    pub(crate) async fn chat_head(&mut self, more: &[(&str, &str)]) {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend_from_slice(more);
        self.head(&Method::POST, CHAT, &headers).await;
    }

    /// Sends a whole request; it may be refused before it is sent in full.
    pub(crate) async fn send(&mut self, method: &Method, path: &str, more: &[(&str, &str)], body: &[u8]) {
        let headers: Vec<(String, String)> =
            self.headers(more).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        soon("the request is sent", self.raw.request(method, path, &headers, body)).await.unwrap();
    }

    pub(crate) async fn request(&mut self, method: &Method, path: &str, more: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(method, path, more, body).await;
        self.answer().await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.head(&Method::GET, path, &[]).await;
        self.answer().await
    }

    /// Sends a sized chat request.
    pub(crate) async fn send_chat(&mut self, body: impl AsRef<[u8]>) {
        self.send(&Method::POST, CHAT, &[("content-type", "application/json")], body.as_ref()).await;
    }

    pub(crate) async fn chat(&mut self, body: impl AsRef<[u8]>) -> Answer {
        self.send_chat(body).await;
        self.answer().await
    }

    /// Sends a chat request in chunks of at most `size` bytes.
    pub(crate) async fn chat_chunked(&mut self, body: &[u8], size: usize) -> Answer {
        self.chat_head(&[("transfer-encoding", "chunked")]).await;
        soon("the chunks are sent", async {
            for chunk in body.chunks(size) {
                self.raw.send_chunk(chunk).await.unwrap();
            }
            self.raw.send_chunk(b"").await.unwrap();
        })
        .await;
        self.answer().await
    }

    /// Reads a whole answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        soon("the answer", self.raw.read_response()).await.unwrap().into()
    }

    /// Reads the head of an answer; gives its status.
    pub(crate) async fn read_head(&mut self) -> (u16, http::HeaderMap) {
        let (status, headers) = soon("the head of the answer", self.raw.read_head()).await.unwrap();
        check_head(status.as_u16(), &headers);
        (status.as_u16(), headers)
    }

    /// The next piece of a stream, as text.
    pub(crate) async fn piece(&mut self) -> Option<String> {
        let piece = soon("the next piece", self.raw.read_piece()).await.unwrap();
        piece.map(|piece| String::from_utf8(piece.to_vec()).unwrap())
    }

    /// Whether the peer has closed without sending anything more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        soon("the end of the connection", self.raw.read_to_end()).await.is_ok_and(|rest| rest.is_empty())
    }
}

/// Posts a chat request over HTTP/2, with or without a declared length.
pub(crate) async fn post_h2(client: &mut H2Client, addr: SocketAddr, path: &str, body: Bytes, sized: bool) -> Answer {
    let mut head = Request::post(format!("http://{addr}{path}"))
        .header("authorization", format!("Bearer {BEARER}"))
        .header("content-type", "application/json");
    if sized {
        head = head.header("content-length", body.len());
    }
    soon("the answer over HTTP/2", client.request(head.body(body).unwrap())).await.unwrap().into()
}

/// A chat request of exactly `size` bytes, and what reaches an upstream that calls the model `upstream` and where
/// `max_tokens` is at least 64. `model` is the first or the last key.
pub(crate) fn document(size: usize, model_first: bool, upstream: &str) -> (Bytes, Bytes) {
    let make = |model: &str, max_tokens: u32, fill: &[u8]| {
        let model = format!("\"model\":\"{model}\"");
        let rest = |fill: &[u8]| {
            let before = format!(
                "\"temperature\": 0.70, \"max_tokens\":{max_tokens},\"messages\":[{{\"role\":\"user\",\"content\":\"{PROMPT} \\u00e9 \u{1f980} "
            );
            [before.as_bytes(), fill, b"\"}], \"x\":{\"a\":[1,2.50,1e3,null]}"].concat()
        };
        if model_first {
            [b"{", model.as_bytes(), b", ", &rest(fill), b"}"].concat()
        } else {
            [b"{", rest(fill).as_slice(), b",\n ", model.as_bytes(), b" }"].concat()
        }
    };
    let bare = make("m", 5, b"").len();
    let fill = fill(size.checked_sub(bare).unwrap());
    let sent = make("m", 5, &fill);
    assert_eq!(sent.len(), size);
    (sent.into(), make(upstream, 64, &fill).into())
}

/// Letters in which no two stretches are alike, so that a lost, doubled or moved piece shows.
pub(crate) fn fill(size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 16);
    let mut n = 0_u64;
    while out.len() < size {
        n += 1;
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        out.extend_from_slice(&[b"abcdefghijklmnop"[usize::from(mixed.to_le_bytes()[0] & 15)]; 4]);
        out.extend_from_slice(format!("{mixed:016x}").as_bytes());
        out.extend_from_slice(&[b'.'; 44]);
    }
    out.truncate(size);
    out
}
