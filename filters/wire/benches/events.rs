//! Speed of cutting a stream into events, and of patching a held body.
//!
//! `cargo bench -p dgx-gateway-wire --bench events`

use bytes::Bytes;
use dgx_gateway_filter::Rope;
use dgx_gateway_wire::request::{Protocol, Scan, Scanner, patch};
use dgx_gateway_wire::sse::Framer;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

const MAX_EVENT: usize = 1 << 20;
const EVENTS: usize = 64;

fn main() {
    divan::main();
}

fn event(words: usize) -> String {
    let content = "token ".repeat(words);
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

fn frame(bencher: Bencher<'_, '_>, stream: &str, events: usize, piece: usize) {
    let pieces: Vec<Bytes> = stream.as_bytes().chunks(piece).map(Bytes::copy_from_slice).collect();
    let run = || {
        let mut framer = Framer::new(MAX_EVENT);
        let mut seen = 0;
        for piece in &pieces {
            framer.push(piece.clone());
            while let Some(Ok(event)) = framer.next_event() {
                seen += usize::from(!event.data.is_empty());
            }
        }
        seen
    };
    assert_eq!(run(), events, "all events come out");
    bencher.counter(ItemsCount::new(events)).counter(BytesCount::of_str(stream)).bench_local(run);
}

/// Each event in a piece of its own, as model servers send them.
#[divan::bench]
fn one_event_a_piece(bencher: Bencher<'_, '_>) {
    let event = event(1);
    frame(bencher, &event.repeat(EVENTS), EVENTS, event.len());
}

/// Events that the network has cut anywhere.
#[divan::bench(args = [16, 100, 4096])]
fn pieces_of(bencher: Bencher<'_, '_>, piece: usize) {
    frame(bencher, &event(1).repeat(EVENTS), EVENTS, piece);
}

/// A long event in many pieces: what was seen is not looked through again.
#[divan::bench(args = [1 << 10, 64 << 10, 512 << 10])]
fn long_event_in_pieces_of_1_kb(bencher: Bencher<'_, '_>, size: usize) {
    frame(bencher, &event(size / 6), 1, 1024);
}

fn scanned(body: &str) -> Option<Scan> {
    let mut scanner = Scanner::new(Protocol::Chat);
    scanner.push(body.as_bytes()).ok()?;
    scanner.finish().ok()
}

/// The patches of a chat: another model, another limit. The body is held in pieces of 64 KiB, and none of its bytes is copied.
#[divan::bench(args = [1 << 10, 64 << 10, 8 << 20])]
fn patch_a_body(bencher: Bencher<'_, '_>, size: usize) {
    let text = "lorem ipsum ".repeat(size / 12);
    let body = format!(r#"{{"model": "m", "max_tokens": 5, "messages": [{{"role": "user", "content": "{text}"}}]}}"#);
    let scan = scanned(&body);
    let members = scan.as_ref().and_then(|scan| Some((scan.model.as_ref()?, scan.max_tokens.as_ref()?)));
    let mut rope = Rope::new();
    body.as_bytes().chunks(64 << 10).for_each(|piece| rope.push(Bytes::copy_from_slice(piece)));
    let run = || {
        let patches = members.map(|(model, max_tokens)| {
            [
                patch::replace(model, Bytes::from_static(b"\"name-at-the-backend\"")),
                patch::replace(max_tokens, Bytes::from_static(b"16")),
            ]
        });
        rope.patched(patches.as_ref().map_or(&[], |patches| patches))
    };
    assert_eq!(run().len(), body.len() + 21 - 3 + 1, "both are in it");
    bencher.bench_local(run);
}
