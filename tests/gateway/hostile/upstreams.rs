//! Upstreams of HTTP/1.1 that lie, flood or stand still.

use std::time::Instant;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{nothing_is_left, outcome};
use crate::harness::{Caller, Gateway, Setup, Stage, chunk_of_stream, finish_of_stream, soon};

const NAME: &str = "upstream-name-of-m";
const WHOLE: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#;

/// What an upstream does after its request.
#[derive(Clone)]
enum Step {
    /// Sends this.
    Send(Vec<u8>),
    /// Sends this again and again, until so many bytes have left or the gateway takes no more.
    Flood(Vec<u8>, usize),
    /// Ends the connection.
    End,
    /// Does nothing more.
    Stay,
}

use Step::{End, Flood, Send, Stay};

fn send(text: impl AsRef<[u8]>) -> Step {
    Send(text.as_ref().to_vec())
}

fn flood(text: impl AsRef<[u8]>, bytes: usize) -> Step {
    Flood(text.as_ref().to_vec(), bytes)
}

/// Plays the steps, and waits until the gateway leaves; gives how many bytes it took.
async fn play(caller: Caller, steps: Vec<Step>) -> usize {
    let (mut reading, mut writing) = caller.split();
    let mut taken = 0;
    for step in steps {
        match step {
            Send(bytes) => taken += usize::from(writing.write_all(&bytes).await.is_ok()) * bytes.len(),
            Flood(bytes, most) => {
                let begun = taken;
                while taken - begun < most && writing.write_all(&bytes).await.is_ok() {
                    taken += bytes.len();
                }
            }
            End => return taken,
            Stay => {}
        }
    }
    let mut rest = Vec::new();
    drop(reading.read_to_end(&mut rest).await); // an end or a reset
    taken
}

const JSON: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const SSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";
const ERROR: &str = "502 upstream_error";
const TIMEOUT: &str = "504 upstream_timeout";
const ERROR_INSIDE: &str = "200 upstream_error";
/// What a flood has to be stopped before.
const MUCH: usize = 20 << 20;
/// What no process may take for one of these answers, on top of the 32 MiB of an event.
const BOUND: usize = 64 << 20;

fn sized(length: impl std::fmt::Display, body: &str) -> String {
    format!("{JSON}content-length: {length}\r\n\r\n{body}")
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// The head of a stream and its first event.
fn begun() -> String {
    format!("{SSE}{CHUNKED}{}", chunk(&chunk_of_stream(NAME, "hi")))
}

/// All of a stream but the last line break.
fn all_but_its_end() -> String {
    format!("{}{}0\r\n", begun(), chunk(&finish_of_stream(NAME)))
}

fn request(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

async fn started(stage: &Stage) -> Gateway {
    Setup::with_upstream(stage.addr).server("total_timeout_seconds", 1).log("info").start().await
}

/// A fault, its steps, and what a whole answer and a stream come to.
type Case = (&'static str, Vec<Step>, &'static str, &'static str);

async fn check(cases: Vec<Case>) {
    let mut stage = Stage::open().await;
    let mut gateway = started(&stage).await;
    let sockets = gateway.sockets();
    for (what, steps, whole, streamed) in cases {
        for (stream, expected) in [(false, whole), (true, streamed)] {
            let began = Instant::now();
            gateway.forget_peak();
            let before = gateway.memory("VmRSS");
            let mut client = gateway.client().await;
            client.send_chat(request(stream)).await;
            let playing = tokio::spawn(play(stage.caller().await, steps.clone()));
            let seen = outcome(&mut client).await;
            assert_eq!(seen, expected, "{what}, stream: {stream}");
            let took = began.elapsed();
            if expected == "200" {
                playing.abort(); // its connection may be kept for the next request
            } else {
                let taken = soon("the gateway leaves the upstream", playing).await.unwrap();
                println!("{what}, stream {stream}: {seen} after {took:?}, {taken} bytes taken");
            }
            let peak = gateway.memory("VmHWM").saturating_sub(before);
            assert!(peak < BOUND, "{what}, stream {stream}: {peak} bytes more");
            assert!(stage.is_quiet() && gateway.runs(), "{what}");
        }
    }
    nothing_is_left(&gateway, sockets).await;
}

#[tokio::test]
async fn lengths_that_lie_are_errors() {
    let n = WHOLE.len();
    check(vec![
        ("a length that is short", vec![send(sized(n - 5, WHOLE)), Stay], ERROR, ERROR),
        ("a length that is long, and an end", vec![send(sized(n + 5, WHOLE)), End], ERROR, ERROR),
        ("a length that is long, and silence", vec![send(sized(n + 5, WHOLE)), Stay], TIMEOUT, TIMEOUT),
        ("two lengths", vec![send(sized(format!("{n}\r\ncontent-length: 5"), WHOLE)), Stay], ERROR, ERROR),
        ("letters", vec![send(sized("abc", WHOLE)), Stay], ERROR, ERROR),
        ("a negative length", vec![send(sized("-5", WHOLE)), Stay], ERROR, ERROR),
        ("a length without bound", vec![send(sized("99999999999999999999999", WHOLE)), Stay], ERROR, ERROR),
        ("the largest length", vec![send(sized(i64::MAX, WHOLE)), End], ERROR, ERROR),
        ("no length", vec![send(sized("0", "").replace("content-length: 0\r\n", "") + WHOLE), End], "200", ERROR),
        ("204 with a body", vec![send(sized(n, WHOLE).replace("200 OK", "204 No")), Stay], ERROR, ERROR),
        ("304", vec![send("HTTP/1.1 304 Not Modified\r\n\r\n"), Stay], ERROR, ERROR),
    ])
    .await;
}

#[tokio::test]
async fn chunks_that_lie_are_errors() {
    let n = WHOLE.len();
    let chunks = |text: String| vec![send(format!("{JSON}{CHUNKED}{text}")), Stay];
    let ends = |text: String| vec![send(format!("{JSON}{CHUNKED}{text}")), End];
    let goes_on = |text: &str| vec![send(begun()), send(text), Stay];
    check(vec![
        ("a size that is short", chunks(format!("5\r\n{WHOLE}\r\n0\r\n\r\n")), ERROR, ERROR),
        ("a size that is long", ends(format!("fff\r\n{WHOLE}\r\n0\r\n\r\n")), ERROR, ERROR),
        ("a size that is no number", chunks(format!("zz\r\n{WHOLE}\r\n0\r\n\r\n")), ERROR, ERROR),
        ("a size without bound", chunks(format!("ffffffffffffffffff\r\n{WHOLE}")), ERROR, ERROR),
        ("the largest size", ends(format!("7fffffffffffffff\r\n{WHOLE}")), ERROR, ERROR),
        ("no line break", chunks(format!("{n:x}\r\n{WHOLE}XX0\r\n\r\n")), ERROR, ERROR),
        ("a size that is short, later", goes_on("5\r\ndata: too long\r\n"), ERROR, ERROR_INSIDE),
        ("a size that is no number, later", goes_on("zz\r\n"), ERROR, ERROR_INSIDE),
        ("two ends", vec![send(all_but_its_end()), send("\r\n0\r\n\r\n"), Stay], ERROR, "200"),
        (
            "an endless extension",
            vec![send(format!("{JSON}{CHUNKED}5;")), flood("x".repeat(1 << 16), MUCH), Stay],
            ERROR,
            ERROR,
        ),
        (
            "endless trailers",
            vec![send(format!("{JSON}{CHUNKED}{}0\r\n", chunk(WHOLE))), flood("x: y\r\n".repeat(10_000), MUCH), Stay],
            ERROR,
            ERROR,
        ),
        (
            "endless trailers after a finish",
            vec![send(all_but_its_end()), flood("x: y\r\n".repeat(10_000), MUCH), Stay],
            ERROR,
            "200",
        ),
    ])
    .await;
}

#[tokio::test]
async fn heads_that_lie_flood_or_stop_are_errors() {
    let n = WHOLE.len();
    let with = |headers: &str| vec![send(format!("{JSON}{headers}content-length: {n}\r\n\r\n{WHOLE}")), Stay];
    let endless = flood("y".repeat(1 << 16), MUCH);
    check(vec![
        ("half a head, and silence", vec![send("HTTP/1.1 200 O"), Stay], TIMEOUT, TIMEOUT),
        ("half a head, and an end", vec![send("HTTP/1.1 200 O"), End], ERROR, ERROR),
        ("a head, and silence", vec![send(sized(n, "")), Stay], TIMEOUT, TIMEOUT),
        ("the head of a stream, and silence", vec![send(format!("{SSE}{CHUNKED}")), Stay], TIMEOUT, TIMEOUT),
        ("64 KiB in one header", with(&format!("x: {}\r\n", "y".repeat(1 << 16))), "200", ERROR),
        ("1000 headers", with(&"x: y\r\n".repeat(1000)), ERROR, ERROR),
        ("an endless header", vec![send("HTTP/1.1 200 OK\r\nx: "), endless.clone(), Stay], ERROR, ERROR),
        ("an endless status line", vec![endless, Stay], ERROR, ERROR),
        ("another version", vec![send(format!("HTTP/0.9 200 OK\r\n\r\n{WHOLE}")), End], ERROR, ERROR),
        ("what is no HTTP", vec![send("\0\x01\x02\r\n\r\n"), Stay], ERROR, ERROR),
        ("status 99", vec![send(sized(n, WHOLE).replace("200", "099")), Stay], ERROR, ERROR),
        ("status 999", vec![send(sized(n, WHOLE).replace("200", "999")), Stay], ERROR, ERROR),
    ])
    .await;
}

#[tokio::test]
async fn interim_answers_are_dropped_and_never_extend_the_time() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    check(vec![
        ("some", vec![flood(interim, 5000), send(sized(WHOLE.len(), WHOLE)), Stay], "200", ERROR),
        ("without an end", vec![flood(interim.repeat(1000), usize::MAX), Stay], TIMEOUT, TIMEOUT),
        ("one, and silence", vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Stay], TIMEOUT, TIMEOUT),
        ("a switch of protocols", vec![send("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"), Stay], ERROR, ERROR),
    ])
    .await;
}

/// Nothing of them is semantic, so the stream never begins.
#[tokio::test]
async fn a_stream_that_says_nothing_at_length_ends_with_its_time() {
    let comments = chunk(": x\n\n").repeat(1000);
    check(vec![(
        "comments without an end",
        vec![send(format!("{SSE}{CHUNKED}")), flood(comments, usize::MAX), Stay],
        TIMEOUT,
        TIMEOUT,
    )])
    .await;
}
