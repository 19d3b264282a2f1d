//! Clients that leave while they wait.

use std::time::{Duration, Instant};

use dgx_gateway_testkit::mock::{Answer, Behaviour, MockUpstream, Script};
use serde_json::{Value, json};

use super::{chat, depth, limited, nothing_is_left, serve, waits};
use crate::aborts::endpoint::{ALL, Endpoint, Visitor};
use crate::harness::{Gateway, SOON, Setup, Stage, model, until};

/// How soon the place in the queue must be free: 250 ms is what is promised, the rest is for busy machines.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A gateway with one backend that serves everything.
fn setup(mut first: Value) -> Setup {
    first["protocols"] =
        json!(["chat", "completions", "responses", "messages", "embeddings", "speech", "transcription"]);
    let typed = |alias: &str, kind: &str| {
        let mut model = model(alias, &[("first", alias)]);
        model["type"] = kind.into();
        model
    };
    Setup::new()
        .backend(first)
        .model(typed("m", "chat"))
        .model(typed("vectors", "embedding"))
        .model(typed("ear", "audio"))
        .model(typed("voice", "audio"))
}

/// One client comes, waits, and leaves; gives how long its place was kept.
async fn leaves(gateway: &Gateway, endpoint: Endpoint, stream: bool, http2: bool, unsent: usize) -> Duration {
    let body = endpoint.body(stream);
    let mut visitor = Visitor::connect(gateway.addr, http2).await;
    visitor.send(&endpoint, &body, body.len() - unsent).await;
    waits(gateway, "first", 1).await;
    let left = Instant::now();
    visitor.leave();
    until("nobody waits", async || depth(gateway, "first").await == 0.0).await;
    left.elapsed()
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_frees_its_place_at_once() {
    let mut stage = Stage::open().await;
    let gateway = setup(limited("first", &stage, 1)).start().await;
    let mut holds = gateway.client().await;
    holds.send_chat(chat("holds", false)).await;
    let caller = stage.caller().await;
    let mut longest = (Duration::ZERO, String::new());
    for endpoint in ALL {
        for http2 in [false, true] {
            for stream in [false, true] {
                // a form waits as soon as its model is known
                let unsent: &[usize] = if endpoint == Endpoint::Transcription { &[0, 1, 10_000] } else { &[0] };
                for unsent in unsent {
                    let after = leaves(&gateway, endpoint, stream, http2, *unsent).await;
                    let what = format!("{endpoint:?}, stream: {stream}, HTTP/2: {http2}, {unsent} bytes to come");
                    assert!(after < AT_ONCE, "{what}: {after:?}");
                    longest = longest.max((after, what));
                }
            }
        }
    }
    println!("the longest took {longest:?}");
    assert!(stage.is_quiet(), "nothing of them reached the backend");
    drop(holds);
    caller.gone(Instant::now()).await;
    nothing_is_left(&gateway).await;
}

#[tokio::test]
async fn a_recording_arrives_while_it_waits_and_is_whole_when_its_turn_comes() {
    let mut stage = Stage::open().await;
    let gateway = setup(limited("first", &stage, 1)).start().await;
    for http2 in [false, true] {
        let mut holds = gateway.client().await;
        holds.send_chat(chat("holds", false)).await;
        let held = stage.caller().await;
        let part = |name: &str, value: &str| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let file = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
        let sound = String::from_utf8(crate::harness::fill(3 << 20)).unwrap();
        let body = [&part("model", "ear"), file, &sound, "\r\n--b--\r\n"].concat();
        let mut visitor = Visitor::connect(gateway.addr, http2).await;
        // all of it is taken although no backend does
        visitor.send(&Endpoint::Transcription, &body, body.len()).await;
        waits(&gateway, "first", 1).await;
        until("the recording is on disk", async || gateway.open_data_files() == 1).await;
        serve(held).await;
        holds.answer().await.is_ok();
        let mut listens = stage.caller().await;
        assert!(listens.body == body.as_bytes(), "the recording came as it was sent");
        listens.answer(r#"{"text":"heard"}"#).await;
        assert!(visitor.read_all().await);
        drop(listens); // nobody reads on its connection any more
        nothing_is_left(&gateway).await;
    }
}

#[tokio::test]
async fn what_is_refused_of_a_recording_ends_its_wait() {
    let mut stage = Stage::open().await;
    let gateway = setup(limited("first", &stage, 1)).start().await;
    let mut holds = gateway.client().await;
    holds.send_chat(chat("holds", false)).await;
    let _held = stage.caller().await;
    let mut client = gateway.client().await;
    let body = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\near\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name=\"temperature\"\r\n\r\nhot\r\n--b--\r\n";
    let (beginning, rest) = body.split_at(body.find("x\r\n").unwrap() + 1);
    let headers = [("content-type", "multipart/form-data; boundary=b"), ("content-length", &body.len().to_string())];
    client.head(&http::Method::POST, "/v1/audio/transcriptions", &headers).await;
    client.raw.send(beginning.as_bytes()).await.unwrap();
    waits(&gateway, "first", 1).await;
    client.raw.send(rest.as_bytes()).await.unwrap();
    client.answer().await.is_error(400, "invalid_field", "temperature");
    until("nobody waits", async || depth(&gateway, "first").await == 0.0).await;
    assert!(stage.is_quiet());
}

/// Numbers that look random and follow from a seed.
fn mixed(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_that_leave_at_random_moments_keep_no_slot() {
    let answer = Answer { before_head: Duration::from_millis(3), ..Answer::pieces(["a ", "b ", "c "]) };
    let answer = answer.every(Duration::from_millis(2));
    let script = Script::always(Behaviour::Answer(answer)).with_looks_apart().without_recording();
    let mock = MockUpstream::start(script).await.unwrap();
    let mut first = crate::harness::backend("first", mock.addr());
    first["max_in_flight"] = 4.into();
    let tenant = json!({"version": 1, "tenants": [{"id": "default", "limits": {"max_in_flight": 3}}], "tokens": []});
    let gateway = setup(first).tokens(tenant).log("info").start().await;
    let seed = u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    println!("seed {seed}");
    let addr = gateway.addr;
    let workers: Vec<_> = (0..50_u64)
        .map(|worker| {
            tokio::spawn(async move {
                let mut whole = 0;
                for n in 0..40 {
                    let luck = mixed(seed.wrapping_add(worker * 40 + n));
                    let endpoint = [Endpoint::Chat, Endpoint::Embeddings, Endpoint::Messages, Endpoint::Transcription]
                        [(luck % 4) as usize];
                    let body = endpoint.body(luck & 8 == 0);
                    let mut visitor = Visitor::connect(addr, luck & 16 == 0).await;
                    let sent = if luck.is_multiple_of(7) && n % 8 != 0 { body.len() / 2 } else { body.len() };
                    visitor.send(&endpoint, &body, sent).await;
                    // some stay, however busy the machine is
                    let patience = if n % 8 == 0 { SOON } else { Duration::from_micros(luck >> 8 & 0xffff) };
                    whole += usize::from(tokio::time::timeout(patience, visitor.read_all()).await == Ok(true));
                    if luck & 32 == 0 { visitor.leave() } else { visitor.abort() }
                }
                whole
            })
        })
        .collect();
    let mut whole = 0;
    for worker in workers {
        whole += worker.await.unwrap();
    }
    println!("{whole} of 2000 stayed to the end");
    assert!(whole > 0 && whole < 2000);
    nothing_is_left(&gateway).await;
    // every slot is there again
    let clients: Vec<_> = (0..12).map(|_| tokio::spawn(async move { stays(addr).await })).collect();
    for client in clients {
        assert!(client.await.unwrap());
    }
}

/// Whether a client that waits for its answer gets it.
async fn stays(addr: std::net::SocketAddr) -> bool {
    let mut visitor = Visitor::connect(addr, false).await;
    let body = Endpoint::Chat.body(false);
    visitor.send(&Endpoint::Chat, &body, body.len()).await;
    tokio::time::timeout(SOON, visitor.read_all()).await == Ok(true)
}
