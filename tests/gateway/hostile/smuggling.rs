//! Requests that two parsers could read differently: what stands behind one is never answered as another request, and an
//! upstream sees one framing, which is ours.

use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use serde_json::json;

use super::{POOLED, nothing_is_left, outcome};
use crate::harness::{BEARER, Client, Gateway, Setup, soon};

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const LENGTH: usize = BODY.len();
/// What an attacker hides behind a request.
const HIDDEN: &str = "GET /api/version HTTP/1.1\r\nhost: hidden\r\n\r\n";
/// The engine refuses the head itself: no body, and the end of the connection.
const REFUSED: &str = "400";
/// The gateway refuses it, and ends the connection.
const INVALID: &str = "400 invalid_field";
/// The connection ends inside the body, without an answer: where the body ends is not known.
const CUT: &str = "closed";
const FINE: &str = "200";

/// What was sent, and what comes of it.
type Case = (&'static str, Vec<u8>, &'static str);

fn post(headers: &str, rest: &str) -> Vec<u8> {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n{headers}\r\n{rest}")
        .into_bytes()
}

fn get(line: &str, headers: &str) -> Vec<u8> {
    format!("{line}\r\n{headers}\r\n").into_bytes()
}

/// Whole chunks with the body.
fn chunks() -> String {
    format!("{LENGTH:x}\r\n{BODY}\r\n0\r\n\r\n")
}

/// A request in chunks, whose first size and its end are written so.
fn size(first: &str) -> Vec<u8> {
    post("transfer-encoding: chunked\r\n", &format!("{first}{BODY}\r\n0\r\n\r\n"))
}

/// Whether a second request on the connection is answered.
async fn goes_on(client: &mut Client) -> bool {
    let sent = client.raw.send(HIDDEN).await.is_ok();
    let answered = async { client.raw.read_response().await.is_ok_and(|answer| answer.status == 200) };
    sent && tokio::time::timeout(Duration::from_secs(10), answered).await.unwrap_or(false)
}

/// Every case with the hidden request in the same write, and again with it after the answer.
async fn check(cases: Vec<Case>, kept: bool) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut gateway = Setup::with_upstream(mock.addr()).log("info").start().await;
    let sockets = gateway.sockets();
    for (what, bytes, expected) in cases {
        let seen = mock.requests().len();
        let mut client = gateway.client().await;
        drop(client.raw.send([&bytes, HIDDEN.as_bytes()].concat()).await); // it may hang up before all was sent
        assert_eq!(outcome(&mut client).await, expected, "{what}");
        let rest = soon("the end of the connection", client.raw.read_to_end()).await.unwrap_or_default();
        assert!(rest.is_empty(), "{what}: the hidden request was answered: {}", String::from_utf8_lossy(&rest));

        let mut client = gateway.client().await;
        drop(client.raw.send(&bytes).await);
        assert_eq!(outcome(&mut client).await, expected, "{what}");
        assert_eq!(goes_on(&mut client).await, kept, "{what}: a request after the answer");

        let requests = mock.requests().split_off(seen);
        let chat = bytes.starts_with(b"POST") && expected == FINE;
        assert_eq!(requests.len(), 2 * usize::from(chat), "{what}");
        for request in requests {
            let length = request.headers.get("content-length").unwrap().to_str().unwrap();
            assert_eq!(length, request.body.len().to_string(), "{what}");
            assert!(!request.headers.contains_key("transfer-encoding"), "{what}");
        }
        assert!(gateway.runs(), "{what}");
    }
    nothing_is_left(&gateway, sockets + POOLED).await;
}

#[tokio::test]
async fn lengths_and_codings_that_contradict_each_other_end_the_connection() {
    let chunks = chunks();
    let both = |headers: &str| post(headers, &chunks);
    let sized = |headers: &str| post(headers, BODY);
    check(
        vec![
            // RFC 9112, 6.3: the coding counts, and the connection is not used again
            ("length before coding", both("content-length: 4\r\ntransfer-encoding: chunked\r\n"), FINE),
            ("coding before length", both("transfer-encoding: chunked\r\ncontent-length: 4\r\n"), FINE),
            ("length 0 and coding", both("content-length: 0\r\ntransfer-encoding: chunked\r\n"), FINE),
            ("a bare LF hides the coding", both("x: y\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n"), FINE),
            ("a bare CR hides the coding", both("x: y\rtransfer-encoding: chunked\r\ncontent-length: 4\r\n"), REFUSED),
            ("two lengths", sized(&format!("content-length: {LENGTH}\r\ncontent-length: 0\r\n")), REFUSED),
            ("list of lengths", sized(&format!("content-length: {LENGTH}, 0\r\n")), REFUSED),
            ("length with a plus", sized(&format!("content-length: +{LENGTH}\r\n")), REFUSED),
            ("negative length", sized("content-length: -1\r\n"), REFUSED),
            ("length with a blank", sized("content-length: 5 7\r\n"), REFUSED),
            ("length in hexadecimal", sized(&format!("content-length: 0x{LENGTH:x}\r\n")), REFUSED),
            ("empty length", sized("content-length: \r\n"), REFUSED),
            ("length beyond 64 bits", sized("content-length: 18446744073709551674\r\n"), REFUSED),
            ("blank before the colon of a length", sized(&format!("content-length : {LENGTH}\r\n")), REFUSED),
            ("blank before the colon of a coding", both("transfer-encoding : chunked\r\n"), REFUSED),
            ("vertical tab", both("transfer-encoding:\x0bchunked\r\n"), REFUSED),
            ("quotes", both("transfer-encoding: \"chunked\"\r\n"), REFUSED),
            ("unknown coding", both("transfer-encoding: xchunked\r\n"), REFUSED),
            ("identity", both("transfer-encoding: identity\r\n"), REFUSED),
            ("identity with a length", both("transfer-encoding: identity\r\ncontent-length: 4\r\n"), REFUSED),
            ("chunked, identity", both("transfer-encoding: chunked, identity\r\n"), REFUSED),
            ("identity, chunked", both("transfer-encoding: identity, chunked\r\n"), INVALID),
            ("gzip, chunked", both("transfer-encoding: gzip, chunked\r\n"), INVALID),
            ("chunked, chunked", both("transfer-encoding: chunked, chunked\r\n"), INVALID),
            ("two codings", both("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"), REFUSED),
            ("two codings, turned", both("transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n"), INVALID),
            ("empty coding", both("transfer-encoding: \r\n"), REFUSED),
            ("folded coding", both("transfer-encoding:\r\n chunked\r\n"), REFUSED),
            ("folded header", sized(&format!("x: a\r\n b\r\ncontent-length: {LENGTH}\r\n")), REFUSED),
            (
                "HTTP/1.0 with a coding",
                get("POST /v1/chat/completions HTTP/1.0", "connection: keep-alive\r\ntransfer-encoding: chunked\r\n"),
                REFUSED,
            ),
            // a body where none is expected is read with its request, or the connection ends
            (
                "GET with a length",
                [get("GET /api/version HTTP/1.1", "host: x\r\ncontent-length: 5\r\n"), b"12345".into()].concat(),
                FINE,
            ),
            (
                "GET with chunks",
                [get("GET /api/version HTTP/1.1", "host: x\r\ntransfer-encoding: chunked\r\n"), chunks.clone().into()]
                    .concat(),
                FINE,
            ),
        ],
        false,
    )
    .await;
}

#[tokio::test]
async fn chunks_whose_size_is_unclear_end_the_connection() {
    let n = LENGTH;
    check(
        vec![
            ("bare LF behind a size", size(&format!("{n:x}\n")), CUT),
            ("bare CR behind a size", size(&format!("{n:x}\r")), CUT),
            ("blank before a size", size(&format!(" {n:x}\r\n")), CUT),
            ("0x", size(&format!("0x{n:x}\r\n")), CUT),
            ("plus", size(&format!("+{n:x}\r\n")), CUT),
            ("minus", size(&format!("-{n:x}\r\n")), CUT),
            ("underscore", size("3_9\r\n"), CUT),
            ("a size that wraps around", size(&format!("1000000000000000{n:02x}\r\n")), CUT),
            ("the largest size", size("ffffffffffffffff\r\n"), CUT),
            (
                "a chunk without its end",
                post("transfer-encoding: chunked\r\n", &format!("{n:x}\r\n{BODY}0\r\n\r\n")),
                CUT,
            ),
            (
                "a chunk with half an end",
                post("transfer-encoding: chunked\r\n", &format!("{n:x}\r\n{BODY}\n0\r\n\r\n")),
                CUT,
            ),
            // here the chunk goes on: what follows is part of a text that is no JSON
            ("the largest size with a sign", size("7fffffffffffffff\r\n"), "400 invalid_json"),
            ("bare LF in an extension", size(&format!("{n:x};a\n")), "400 invalid_json"),
        ],
        false,
    )
    .await;
}

#[tokio::test]
async fn names_values_and_request_lines_that_are_unclear_end_the_connection() {
    let with = |header: &str| post(&format!("{header}\r\ncontent-length: {LENGTH}\r\n"), BODY);
    let line = |line: &str| get(line, "host: x\r\n");
    check(
        vec![
            ("NUL in a value", with("x: a\0b"), REFUSED),
            ("a control byte in a value", with("x: a\x01b"), REFUSED),
            ("a delete in a value", with("x: a\x7fb"), REFUSED),
            ("NUL in a name", with("x\0y: a"), REFUSED),
            ("a letter above ASCII in a name", with("x\u{e9}: a"), REFUSED),
            ("no colon", with("x"), REFUSED),
            ("an empty name", with(": x"), REFUSED),
            ("a blank before the first name", get("GET /api/version HTTP/1.1", " x: y\r\nhost: x\r\n"), REFUSED),
            ("two hosts", get("GET /api/version HTTP/1.1", "host: x\r\nhost: y\r\n"), REFUSED),
            ("a host with a path", get("GET /api/version HTTP/1.1", "host: x@y/z\r\n"), REFUSED),
            ("another host in the line", line("GET http://other/api/version HTTP/1.1"), REFUSED),
            ("tabs in the line", line("GET\t/api/version\tHTTP/1.1"), REFUSED),
            ("a blank before the line", line(" GET /api/version HTTP/1.1"), REFUSED),
            ("HTTP/1.2", line("GET /api/version HTTP/1.2"), REFUSED),
            ("HTTP/2.0", line("GET /api/version HTTP/2.0"), REFUSED),
        ],
        false,
    )
    .await;
}

#[tokio::test]
async fn what_is_unusual_but_clear_is_taken_and_the_connection_lives() {
    let sized = |length: String| post(&format!("content-length:{length}\r\n"), BODY);
    check(
        vec![
            ("equal lengths", sized(format!(" {LENGTH}\r\ncontent-length: {LENGTH}")), FINE),
            ("list of equal lengths", sized(format!(" {LENGTH}, {LENGTH}")), FINE),
            ("tab before a length", sized(format!("\t{LENGTH}")), FINE),
            ("length with zeros", sized(format!(" 0000{LENGTH}")), FINE),
            ("blanks around a coding", post("transfer-encoding: \tchunked \r\n", &chunks()), FINE),
            ("a coding in other letters", post("transfer-encoding: cHuNkEd\r\n", &chunks()), FINE),
            ("size with zeros", size(&format!("0000000000{LENGTH:x}\r\n")), FINE),
            ("blank behind a size", size(&format!("{LENGTH:x} \r\n")), FINE),
            ("an extension", size(&format!("{LENGTH:x};a=\"b\"\r\n")), FINE),
            ("a long extension", size(&format!("{LENGTH:x};{}\r\n", "a".repeat(20_000))), FINE),
            (
                "a length in trailers",
                post(
                    "transfer-encoding: chunked\r\n",
                    &chunks().replace("0\r\n\r\n", "0\r\ncontent-length: 40\r\n\r\n"),
                ),
                FINE,
            ),
            ("lines that end in LF alone", b"GET /api/version HTTP/1.1\nhost: x\n\n".to_vec(), FINE),
            ("empty lines first", get("\r\n\r\nGET /api/version HTTP/1.1", "host: x\r\n"), FINE),
            ("the same host in the line", get("GET http://x/api/version HTTP/1.1", "host: x\r\n"), FINE),
            ("a NUL in the path", get("GET /api\0/version HTTP/1.1", "host: x\r\n"), "404 route_not_found"),
            ("two blanks in the line", get("GET  /api/version HTTP/1.1", "host: x\r\n"), "404 route_not_found"),
        ],
        true,
    )
    .await;
}

/// Bodies that stream through are framed anew, too.
#[tokio::test]
async fn a_streamed_body_reaches_its_upstream_in_one_framing() {
    let mock = MockUpstream::start(Script::always(Behaviour::Echo).with_looks_apart()).await.unwrap();
    let gateway: Arc<Gateway> = Setup::new()
        .route(json!({"path": "/files/{*rest}", "methods": ["POST"], "upstream": format!("http://{}/", mock.addr())}))
        .start()
        .await
        .into();
    let chunks = chunks();
    for (what, headers, rest, sized) in [
        ("length and coding", "content-length: 4\r\ntransfer-encoding: chunked\r\n".to_owned(), chunks.as_str(), false),
        ("equal lengths", format!("content-length: {LENGTH}\r\ncontent-length: {LENGTH}\r\n"), BODY, true),
        ("list of equal lengths", format!("content-length: {LENGTH}, {LENGTH}\r\n"), BODY, true),
        ("zeros", format!("content-length: 00{LENGTH}\r\n"), BODY, true),
    ] {
        let mut client = gateway.client().await;
        client.raw.send(format!("POST /files/a HTTP/1.1\r\nhost: x\r\n{headers}\r\n{rest}")).await.unwrap();
        assert_eq!(outcome(&mut client).await, FINE, "{what}");
        let request = mock.requests().pop().unwrap();
        assert_eq!(request.body, BODY, "{what}");
        let values = |name: &str| request.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        let expected: &[&str] = if sized { &["57"] } else { &[] };
        assert_eq!(values("content-length"), expected, "{what}");
        assert_eq!(values("transfer-encoding").len(), usize::from(!sized), "{what}");
    }
}
