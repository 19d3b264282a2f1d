//! Upstreams that do not take a request as it should be taken, send too much, or speak out of turn.

use std::time::{Duration, Instant};

use http::HeaderValue;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{nothing_is_left, outcome};
use crate::harness::{Setup, Stage, backend, chunk_of_stream, document, finish_of_stream, model, soon, until};

const NAME: &str = "upstream-name-of-m";
const MIB: usize = 1024 * 1024;
/// How soon an upstream must see that the client has left.
const LEFT: Duration = Duration::from_secs(1);

fn request(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

fn whole(id: &str) -> String {
    format!(r#"{{"id":"{id}","choices":[{{"index":0}}]}}"#)
}

#[tokio::test]
async fn a_line_of_100_megabytes_is_an_error_after_a_bounded_part_of_it() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).log("info").start().await;
    let sockets = gateway.sockets();
    for begun in [false, true] {
        gateway.forget_peak();
        let before = gateway.memory("VmRSS");
        let mut client = gateway.client().await;
        client.send_chat(request(true)).await;
        let mut caller = stage.caller().await;
        caller.begin_stream().await;
        if begun {
            caller.chunk(chunk_of_stream(NAME, "hi")).await;
        }
        let (_reading, mut writing) = caller.split();
        let sending = tokio::spawn(async move {
            let piece = format!("10000\r\n{}\r\n", "y".repeat(1 << 16));
            let mut sent = 0;
            while sent < 100 * MIB && writing.write_all(piece.as_bytes()).await.is_ok() {
                sent += piece.len();
            }
            sent
        });
        let expected = if begun { "200 upstream_error" } else { "502 upstream_error" };
        assert_eq!(outcome(&mut client).await, expected);
        let sent = soon("the gateway leaves the upstream", sending).await.unwrap();
        let peak = gateway.memory("VmHWM").saturating_sub(before);
        println!("begun {begun}: {sent} bytes taken, peak +{peak}");
        // 32 MiB of an event, twice while its buffer grows, and what the allocator has not given back yet
        assert!(sent < 64 * MIB && peak < 128 * MIB, "{sent} bytes taken, {peak} more in memory");
    }
    nothing_is_left(&gateway, sockets).await;
}

/// The answer counts although nobody took the whole request, unless the reset behind it overtakes it.
#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_heard_when_the_upstream_closes() {
    answers_early(false).await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_heard_when_the_upstream_stays() {
    answers_early(true).await;
}

async fn answers_early(stays: bool) {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    let (body, _) = document(20 * MIB, true, "");
    for _ in 0..5 {
        let mut client = gateway.client().await;
        client.send_chat(&body).await;
        let mut caller = stage.caller().await;
        caller
                .write("HTTP/1.1 429 Too Many\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                .await;
        let kept = stays.then_some(caller);
        let seen = outcome(&mut client).await;
        // a reset may overtake the answer
        let fine = seen.starts_with("429 ") || !stays && seen.starts_with("502 ");
        assert!(fine, "stays {stays}: {seen}");
        drop(kept);
    }
    nothing_is_left(&gateway, sockets).await;
}

#[tokio::test]
async fn an_interim_answer_does_not_hide_that_the_client_left() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    for stream in [false, true] {
        let mut client = gateway.client().await;
        client.send_chat(request(stream)).await;
        let mut caller = stage.caller().await;
        for _ in 0..3 {
            caller.write("HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        gateway.client().await.get("/healthz").await.is_ok(); // time for them to be read
        drop(client);
        let after = caller.gone(Instant::now()).await;
        assert!(after < LEFT, "stream {stream}: {after:?}");
    }
    nothing_is_left(&gateway, sockets).await;
}

#[tokio::test]
async fn an_upstream_that_ignores_that_it_was_left_is_rid_of() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    let mut client = gateway.client().await;
    client.send_chat(request(true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(NAME, "first")).await;
    client.read_head().await;
    client.piece().await.unwrap();
    let (_reading, mut writing) = caller.split();
    let goes_on = tokio::spawn(async move {
        let event = chunk_of_stream(NAME, "more");
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        loop {
            drop(writing.write_all(chunk.as_bytes()).await); // whatever comes back
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    drop(client);
    nothing_is_left(&gateway, sockets).await;
    goes_on.abort();
}

/// Bytes that nobody asked for must never be the answer to somebody else.
#[tokio::test]
async fn an_upstream_that_speaks_out_of_turn_loses_its_connection() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    for together in [true, false] {
        let mut client = gateway.client().await;
        client.send_chat(request(false)).await;
        let mut caller = stage.caller().await;
        let answer = |id: &str| {
            let body = whole(id);
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        if together {
            caller.write(answer("mine") + &answer("stolen")).await;
            assert!(client.answer().await.is_ok().text().contains("mine"));
        } else {
            caller.write(answer("mine")).await;
            assert!(client.answer().await.is_ok().text().contains("mine"));
            caller.write(answer("stolen")).await;
        }
        let mut other = gateway.client().await;
        other.send_chat(request(false)).await;
        let mut fresh = stage.caller().await;
        fresh.write(answer("other")).await;
        assert!(other.answer().await.is_ok().text().contains("other"), "together {together}");
    }
}

/// Between two requests a connection may die at any moment, the one at which it is used again included.
#[tokio::test]
async fn pooled_connections_that_end_at_any_moment_cost_no_request() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let serving = tokio::spawn(async move {
        for n in 0_u64.. {
            let mut caller = stage.caller().await;
            tokio::spawn(async move {
                caller.answer(&whole("c")).await;
                tokio::time::sleep(Duration::from_micros(n * 37 % 3000)).await;
                if n % 2 == 0 {
                    caller.reset();
                }
            });
        }
    });
    let mut client = gateway.client().await;
    for n in 0..300_u64 {
        let seen = client.chat(request(false)).await;
        assert_eq!(seen.is_ok().header("spass-attempts"), Some("first;s=200"), "{n}");
        tokio::time::sleep(Duration::from_micros(n * 53 % 2000)).await;
    }
    serving.abort();
}

#[tokio::test]
async fn an_upstream_that_never_reads_is_given_up_after_the_total_time() {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::with_upstream(stage.addr).server("total_timeout_seconds", 1).start().await;
    let sockets = gateway.sockets();
    let (body, _) = document(30 * MIB, true, "");
    let mut client = gateway.client().await;
    client.send_chat(&body).await;
    let caller = stage.caller().await;
    let began = Instant::now();
    assert_eq!(outcome(&mut client).await, "504 upstream_timeout");
    println!("answered after {:?}", began.elapsed());
    drop((caller, client));
    nothing_is_left(&gateway, sockets).await;
}

#[tokio::test]
async fn an_upstream_that_never_reads_makes_room_for_the_next_when_its_first_byte_is_due() {
    let (mut stage, mut spare) = (Stage::open_at_head().await, Stage::open().await);
    let mut first = backend("first", stage.addr);
    first["first_byte_timeout_seconds"] = 1.into();
    let gateway = Setup::new()
        .backend(first)
        .backend(backend("second", spare.addr))
        .model(model("m", &[("first", "up"), ("second", "up")]))
        .start()
        .await;
    let (body, _) = document(20 * MIB, true, "");
    let body = [&body[..body.len() - 1], b",\"stream\":true}"].concat();
    let mut client = gateway.client().await;
    client.send_chat(&body).await;
    let stuck = stage.caller().await;
    let mut caller = spare.caller().await;
    assert!(caller.body.len() >= body.len(), "the second one gets all of it");
    caller.begin_stream().await;
    caller.chunk_and_end(chunk_of_stream("up", "a") + &finish_of_stream("up") + "data: [DONE]\n\n").await;
    let (status, headers) = client.read_head().await;
    assert_eq!((status, &headers["spass-attempts"]), (200, &HeaderValue::from_static("first;e=timeout, second;s=200")));
    drop(stuck);
}

/// What is left of the request is not sent any more.
#[tokio::test]
async fn a_whole_answer_before_the_end_of_the_request_is_the_answer() {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::with_upstream(stage.addr).section("ledger", json!({"durability": "strict"})).start().await;
    let sockets = gateway.sockets();
    let (body, _) = document(20 * MIB, true, "");
    let stream = [&body[..body.len() - 1], b",\"stream\":true}"].concat();
    for body in [&body[..], &stream] {
        let mut client = gateway.client().await;
        client.send_chat(body).await;
        let mut caller = stage.caller().await;
        assert_eq!(caller.header("connection"), Some("close"));
        if body.len() == stream.len() {
            caller.begin_stream().await;
            let end = finish_of_stream(NAME) + "data: [DONE]\n\n";
            caller.chunk_and_end(chunk_of_stream(NAME, "a") + &end).await;
        } else {
            caller.answer(&whole("c")).await;
        }
        assert_eq!(outcome(&mut client).await, "200");
        drop(client);
        nothing_is_left(&gateway, sockets).await;
        drop(caller);
    }
    let answered = |line: &&str| line.contains("\"POST\"") && line.contains("\"outcome\":\"answered\"");
    until("both stand in the log", async || gateway.log().lines().filter(answered).count() == 2).await;
}

/// Its connection is its own, so nothing of it can meet another request.
#[tokio::test]
async fn many_large_requests_arrive_whole_at_the_same_time() {
    let mut stage = Stage::open().await;
    let least =
        json!({"alias": "m", "constraints": {"min_max_tokens": 64}, "route": [{"backend": "first", "model": NAME}]});
    let gateway = Setup::with_upstream(stage.addr).replace_models(least).start().await;
    let (body, expected) = document(3 * MIB, false, NAME);
    for _ in 0..2 {
        let mut asking = JoinSet::new();
        for _ in 0..8 {
            let (mut client, body) = (gateway.client().await, body.clone());
            asking.spawn(async move { client.chat(&body).await.is_ok().status });
        }
        for _ in 0..8 {
            let mut caller = stage.caller().await;
            assert!(caller.body == expected);
            caller.answer(&whole("c")).await;
        }
        while let Some(asked) = asking.join_next().await {
            assert_eq!(asked.unwrap(), 200);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_an_upstream_that_never_reads_is_seen() {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let sockets = gateway.sockets();
    let (body, _) = document(30 * MIB, true, "");
    let mut client = gateway.client().await;
    client.send_chat(&body).await;
    let caller = stage.caller().await;
    // the buffers of the system are full
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(client);
    let left = Instant::now();
    until("no request runs", async || gateway.metrics().await.sum("dgx_gateway_http_in_flight") == 0.0).await;
    println!("the gateway saw it after {:?}", left.elapsed());
    assert!(left.elapsed() < LEFT, "{:?}", left.elapsed());
    let (mut reading, _writing) = caller.split();
    let mut rest = Vec::new();
    drop(soon("the rest", reading.read_to_end(&mut rest)).await);
    nothing_is_left(&gateway, sockets).await;
}
