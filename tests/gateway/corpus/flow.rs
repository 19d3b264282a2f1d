//! The bytes that arrive, and when.

use std::time::{Duration, Instant};

use super::{CORPUS, asked, rest, started, without_own_events};
use crate::harness::{Stage, chunk_of_stream, finish_of_stream};

/// Less than the 40 ms for which Linux puts an acknowledgement off: with Nagle's algorithm each second write waits for it.
const WITHOUT_DELAY: Duration = Duration::from_millis(30);

#[tokio::test]
async fn the_stream_of_every_provider_arrives_whole_and_byte_by_byte() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    for provider in CORPUS {
        for step in [provider.stream.len(), 1] {
            let mut client = gateway.client().await;
            provider.send(&mut client).await;
            let mut caller = stage.caller().await;
            caller.begin_stream().await;
            for piece in provider.stream.as_bytes().chunks(step) {
                caller.chunk(piece).await;
            }
            caller.end_chunks().await;
            assert_eq!(client.read_head().await.0, 200, "{}", provider.name);
            assert_eq!(rest(&mut client).await, provider.expected(), "{}, pieces of {step}", provider.name);
            drop(caller); // else the next request comes on this connection
        }
    }
    assert!(!gateway.log().contains("\"outcome\":\"cut\""), "{}", gateway.log());
}

#[tokio::test]
async fn no_event_waits_for_the_next_one() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    for provider in CORPUS {
        let mut client = gateway.client().await;
        provider.send(&mut client).await;
        let mut caller = stage.caller().await;
        caller.begin_stream().await;
        let (mut begun, mut expected, mut seen) = (false, String::new(), String::new());
        for event in provider.events() {
            caller.chunk(event).await;
            expected += &provider.shown(event);
            if !begun && ["Gr", "Über"].iter().any(|text| event.contains(text)) {
                begun = true;
                client.read_head().await;
            }
            while begun && without_own_events(&seen).len() < expected.len() {
                seen += &client.piece().await.unwrap_or_else(|| panic!("{}: {event} is missing", provider.name));
            }
            if begun {
                assert_eq!(without_own_events(&seen), expected, "{}", provider.name);
            }
        }
        assert!(begun, "{}", provider.name);
        caller.end_chunks().await;
        assert_eq!(rest(&mut client).await, "");
        drop(caller);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn neither_leg_puts_small_writes_off() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    let (mut client, mut caller) = asked(&gateway, &mut stage, false).await;
    caller.begin_stream().await;
    let mut events = Vec::new();
    for n in 0..60 {
        // two pieces at once: the second must not wait for the acknowledgement of the first
        let begun = Instant::now();
        for half in ["a", "b"] {
            caller.chunk(chunk_of_stream("up", &format!("{n}{half}"))).await;
        }
        if n == 0 {
            client.read_head().await;
        }
        let mut seen = String::new();
        while !seen.contains(&format!("{n}b")) {
            seen += &client.piece().await.unwrap();
        }
        events.push(begun.elapsed());
    }
    caller.chunk(finish_of_stream("up") + "data: [DONE]\n\n").await;
    caller.end_chunks().await;
    rest(&mut client).await;

    // heads and bodies of requests, on connections that both stay open
    let mut requests = Vec::new();
    for _ in 0..30 {
        let begun = Instant::now();
        client.send_chat(super::chat(false)).await;
        assert!(caller.read_request().await);
        requests.push(begun.elapsed());
        caller.begin_stream().await;
        caller.chunk(chunk_of_stream("up", "x") + &finish_of_stream("up") + "data: [DONE]\n\n").await;
        caller.end_chunks().await;
        client.read_head().await;
        rest(&mut client).await;
    }
    let (event, request) = (median(events), median(requests));
    println!("event {event:?}, request {request:?}");
    assert!(event < WITHOUT_DELAY && request < WITHOUT_DELAY, "event {event:?}, request {request:?}");
}

const MIB: usize = 1024 * 1024;
/// What passes in all.
const LONG: usize = 200 * MIB;
/// How much the memory of the process may grow by it.
const FLAT: usize = 16 * MIB;

#[tokio::test]
async fn a_stream_of_hundreds_of_megabytes_leaves_the_memory_flat() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    let (mut client, mut caller) = asked(&gateway, &mut stage, false).await;
    let usage = ",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}";
    // every event is rewritten twice, and none lies within one piece
    let event = chunk_of_stream("up", &"né ".repeat(12_000)).replace("]}\n\n", &format!("]{usage}\n\n"));
    let piece = event.repeat(4);
    let sender = tokio::spawn(async move {
        caller.begin_stream().await;
        let mut sent = 0;
        while sent < LONG {
            caller.chunk(&piece).await;
            sent += piece.len();
        }
        caller.chunk(finish_of_stream("up") + "data: [DONE]\n\n").await;
        caller.end_chunks().await;
        caller
    });
    client.read_head().await;
    let (mut seen, mut before, mut last) = (0, 0, String::new());
    while let Some(piece) = client.piece().await {
        seen += piece.len();
        last = piece;
        if before == 0 && seen > LONG / 20 {
            before = gateway.memory("VmRSS");
            gateway.forget_peak();
        }
    }
    let peak = gateway.memory("VmHWM");
    println!("{} MiB before, {} MiB at the peak", before / MIB, peak / MIB);
    assert!(seen > LONG * 9 / 10 && last.contains("[DONE]"), "{seen}");
    assert!(peak <= before + FLAT, "{} MiB before, {} MiB at the peak", before / MIB, peak / MIB);
    drop(sender.await.unwrap());
}
