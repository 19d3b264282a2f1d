//! Clients of HTTP/2 that abuse its frames: windows of nothing, floods of resets, of headers that go on, of pings.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::nothing_is_left;
use crate::harness::{BEARER, Gateway, Setup, Stage, chunk_of_stream, soon, until};

const NAME: &str = "upstream-name-of-m";
const MIB: usize = 1024 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// A connection on which every frame is written by hand.
struct Frames(TcpStream);

impl Frames {
    /// Shakes hands with an initial window for streams.
    async fn connect(gateway: &Gateway, window: u32) -> Self {
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut frames = Self(stream);
        let setting = [[0, 4].as_slice(), &window.to_be_bytes()].concat();
        assert!(frames.send(&frame(SETTINGS, 0, 0, &setting)).await);
        assert!(frames.send(&frame(SETTINGS, ACK, 0, &[])).await);
        frames
    }

    /// Whether the bytes were taken.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        soon("the gateway takes the frames", self.0.write_all(bytes)).await.is_ok()
    }

    /// Whether the gateway ends the connection soon.
    async fn ends(&mut self) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), self.0.read_to_end(&mut rest)).await.is_ok()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header as a literal that is not indexed.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len();
        let mut out = match u8::try_from(length) {
            Ok(short) if short < 127 => vec![short],
            _ => {
                let mut rest = length - 127;
                let mut out = vec![127];
                while rest >= 128 {
                    out.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                out.push(u8::try_from(rest).unwrap());
                out
            }
        };
        out.extend_from_slice(text.as_bytes());
        out
    };
    [vec![0], text(name), text(value)].concat()
}

/// The headers of a chat request.
fn chat() -> Vec<u8> {
    let bearer = format!("Bearer {BEARER}");
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/v1/chat/completions"),
        ("content-type", "application/json"),
        ("authorization", &bearer),
    ];
    headers.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// A whole chat request on a stream.
fn request(stream: u32) -> Vec<u8> {
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    [frame(HEADERS, END_HEADERS, stream, &chat()), frame(DATA, END_STREAM, stream, body.as_bytes())].concat()
}

async fn is_responsive(gateway: &Gateway) {
    let asked = Instant::now();
    gateway.client().await.get("/healthz").await.is_ok();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_client_without_a_window_holds_nothing_but_its_stream_and_may_leave() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    for leaves in ["reset", "end"] {
        let mut client = Frames::connect(&gateway, 0).await;
        assert!(client.send(&request(1)).await);
        let mut caller = stage.caller().await;
        caller.begin_stream().await;
        let (mut reading, mut writing) = caller.split();
        let event = chunk_of_stream(NAME, &"x".repeat(60_000));
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        let before = gateway.memory("VmRSS");
        // the gateway takes what fits in buffers and no more
        let full = async { while writing.write_all(chunk.as_bytes()).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(1500), full).await.is_err(), "the gateway stops reading");
        let grown = gateway.memory("VmRSS").saturating_sub(before);
        assert!(grown < 8 * MIB, "{grown} bytes");
        is_responsive(&gateway).await;
        if leaves == "reset" {
            assert!(client.send(&frame(RST_STREAM, 0, 1, &CANCEL)).await);
        } else {
            client.0.shutdown().await.unwrap();
        }
        let left = Instant::now();
        let mut rest = Vec::new();
        drop(soon("the gateway leaves the upstream", reading.read_to_end(&mut rest)).await);
        println!("{leaves}: the upstream saw it after {:?}", left.elapsed());
        assert!(left.elapsed() < Duration::from_secs(1), "{leaves}: {:?}", left.elapsed());
        drop(client);
        nothing_is_left(&gateway, sockets).await;
    }
}

/// CVE-2023-44487: each stream is opened and taken back at once.
#[tokio::test]
async fn rapid_resets_are_bounded_and_harm_nobody_else() {
    const STREAMS: u32 = 5000;
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).log("info").start().await;
    let sockets = gateway.sockets();
    let before = gateway.memory("VmRSS");
    let mut connections = 0;
    let mut opened = 0;
    let began = Instant::now();
    while opened < STREAMS {
        connections += 1;
        let mut client = Frames::connect(&gateway, 65_535).await;
        for n in 0..STREAMS {
            let id = 2 * n + 1;
            if !client.send(&[request(id), frame(RST_STREAM, 0, id, &CANCEL)].concat()).await {
                break;
            }
            opened += 1;
            if opened % 500 == 0 {
                is_responsive(&gateway).await;
            }
            if opened == STREAMS {
                break;
            }
        }
    }
    let mut upstream = 0;
    gateway.idle().await;
    while !stage.is_quiet() {
        upstream += 1;
    }
    let grown = gateway.memory("VmRSS").saturating_sub(before);
    println!(
        "{opened} resets over {connections} connections in {:?}, {upstream} reached the upstream, RSS +{grown}",
        began.elapsed()
    );
    assert!(grown < 20 * MIB, "{grown} bytes more");
    nothing_is_left(&gateway, sockets).await;
}

#[tokio::test]
async fn floods_of_frames_end_their_connection_or_are_answered_and_take_no_memory() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).log("info").start().await;
    let sockets = gateway.sockets();
    let filler = literal("x-filler", &"y".repeat(8000));
    for (what, first, again, ends) in [
        ("continuations", frame(HEADERS, 0, 1, &chat()), frame(CONTINUATION, 0, 1, &filler), true),
        ("empty continuations", frame(HEADERS, 0, 1, &chat()), frame(CONTINUATION, 0, 1, &[]), true),
        ("empty data", frame(HEADERS, END_HEADERS, 1, &chat()), frame(DATA, 0, 1, &[]), true),
        ("pings", vec![], frame(PING, 0, 0, &[7; 8]), false),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0]), false),
        ("windows", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), false),
        ("a window that overflows", vec![], frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), true),
        ("resets of one stream", frame(HEADERS, END_HEADERS, 1, &chat()), frame(RST_STREAM, 0, 1, &CANCEL), false),
        ("resets of nothing", vec![], frame(RST_STREAM, 0, 7, &CANCEL), true),
        ("an unknown kind", vec![], frame(0xee, 0, 0, &[0; 100]), false),
    ] {
        gateway.forget_peak();
        let before = gateway.memory("VmRSS");
        let mut client = Frames::connect(&gateway, 65_535).await;
        client.send(&first).await;
        let burst = again.repeat(1 + 64 * 1024 / again.len());
        let mut sent = 0;
        // nothing of what it sends back is read meanwhile
        let flood = async {
            while sent < 4 * MIB && client.0.write_all(&burst).await.is_ok() {
                sent += burst.len();
            }
        };
        let stuck = tokio::time::timeout(Duration::from_secs(3), flood).await.is_err();
        is_responsive(&gateway).await;
        let peak = gateway.memory("VmHWM").saturating_sub(before);
        let ended = if ends { client.ends().await } else { false };
        println!("{what}: {sent} bytes taken, stuck {stuck}, ended {ended}, peak +{peak}");
        assert!(peak < 16 * MIB, "{what}: {peak} bytes");
        assert_eq!(ended, ends, "{what}");
        assert!(stage.is_quiet(), "{what} reached the upstream");
        drop(client);
        nothing_is_left(&gateway, sockets).await;
    }
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_the_others_live() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    let mut client = Frames::connect(&gateway, 65_535).await;
    for n in 0..150 {
        assert!(client.send(&request(2 * n + 1)).await);
    }
    let mut callers = Vec::new();
    for _ in 0..100 {
        callers.push(stage.caller().await);
    }
    // the look at its health, with which the gateway was started, may be about to end
    let running = async || gateway.metrics().await.sum("dgx_gateway_http_in_flight");
    until("a hundred run", async || running().await == 100.0).await;
    assert!(stage.is_quiet(), "the others were refused");
    drop(client);
    let left = Instant::now();
    for caller in callers {
        caller.gone(left).await;
    }
    println!("100 upstreams left after {:?}", left.elapsed());
    until("nothing runs", async || running().await == 0.0).await;
    nothing_is_left(&gateway, sockets).await;
}
