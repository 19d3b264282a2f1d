//! Thousands of clients that leave at random moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dgx_gateway_testkit::mock::{Answer, Behaviour, MockUpstream, Script};

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::endpoint::{ALL, Visitor};
use super::setup;
use crate::harness::{SOON, document, until};

/// Clients of the storm, unless the variable says another number.
const CLIENTS: usize = 10_000;
const VARIABLE: &str = "DGX_GATEWAY_TEST_ABORTS";
/// Of them, so many at one time.
const AT_ONE_TIME: usize = 64;
/// After so many, memory is what it will be.
const WARM: usize = 2500;
const MIB: usize = 1024 * 1024;
/// How much it may grow from there.
const GROWTH: usize = 24 * MIB;

/// Numbers that look random and follow from a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

/// One client: comes, waits for some time or sends only some of its body, and leaves in one of the ways there are.
/// Whether it stayed to the end.
async fn visit(addr: std::net::SocketAddr, seed: u64) -> bool {
    let mut numbers = Numbers(seed);
    let endpoint = ALL[numbers.below(ALL.len())];
    let body = endpoint.body(numbers.below(3) > 0);
    let mut visitor = Visitor::connect(addr, numbers.below(2) == 0).await;
    let inside_body = numbers.below(6) == 0;
    let sent = if inside_body { numbers.below(body.len()) } else { body.len() };
    visitor.send(&endpoint, &body, sent).await;
    // some that sent all have all the time that a busy machine needs
    let patience = match numbers.below(100_000) {
        short if inside_body || short % 32 > 0 => Duration::from_micros(short as u64),
        _ => SOON,
    };
    let whole = tokio::time::timeout(patience, visitor.read_all()).await.is_ok_and(|fine| fine);
    if numbers.below(2) == 0 {
        visitor.leave();
    } else {
        visitor.abort();
    }
    whole
}

#[expect(clippy::disallowed_methods, reason = "says how long this test runs, and nothing to what it tests")]
fn clients() -> usize {
    std::env::var(VARIABLE).map_or(CLIENTS, |count| count.parse().unwrap())
}

fn sound() -> Behaviour {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("audio/wav"))]);
    Behaviour::Status { status: StatusCode::OK, headers, body: "RIFF".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_clients_that_leave_at_random_moments_leave_nothing_behind() {
    let clients = clients();
    let seed = u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    println!("{clients} clients, seed {seed}");
    let answer = Answer {
        before_head: Duration::from_millis(4),
        before_body: Duration::from_millis(4),
        ..Answer::pieces(["a ", "b ", "c ", "d "]).every(Duration::from_millis(3))
    };
    let script = Script::always(Behaviour::Answer(answer)).choose_by_name(|name| (name == "voice").then(sound));
    let script = script.with_looks_apart().without_recording();
    let mock = MockUpstream::start(script).await.unwrap();
    let setup = setup(mock.addr()).log("info");
    let mut gateway = setup.server("max_body_bytes", 4 * MIB).server("max_held_bytes", 4 * MIB).start().await;
    let sockets = gateway.sockets();
    let began = Instant::now();
    let (next, whole) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut warm = None;
    let mut until_here = WARM.min(clients / 2);
    loop {
        let workers = (0..AT_ONE_TIME).map(|_| {
            let (addr, next, whole) = (gateway.addr, Arc::clone(&next), Arc::clone(&whole));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= until_here {
                        return;
                    }
                    let stayed = visit(addr, seed.wrapping_add(n as u64)).await;
                    whole.fetch_add(usize::from(stayed), Ordering::Relaxed);
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        if warm.is_some() {
            break;
        }
        warm = Some(gateway.memory("VmRSS"));
        next.store(until_here, Ordering::Relaxed);
        until_here = clients;
    }
    let took = began.elapsed();
    gateway.idle().await;
    until("no call of the backend runs", async || {
        gateway.metrics().await.value("dgx_gateway_backend_in_flight{backend=\"first\"}") == 0.0
    })
    .await;
    until("no connection is left but those that wait for more", async || {
        gateway.sockets() <= sockets + mock.open_connections()
    })
    .await;
    until("no upload is kept", async || gateway.open_data_files() == 0).await;
    let (warm, end) = (warm.unwrap(), gateway.memory("VmRSS"));
    let whole = whole.load(Ordering::Relaxed);
    println!("{took:?}; {whole} stayed to the end; RSS {} KiB after {WARM}, {} KiB at the end", warm >> 10, end >> 10);
    assert!(whole > 0 && whole < clients, "{whole} of {clients} stayed to the end");
    assert!(end < warm + GROWTH, "{warm} bytes, then {end}");
    assert!(gateway.runs());
    for endpoint in ALL {
        for http2 in [false, true] {
            let body = endpoint.body(false);
            let mut visitor = Visitor::connect(gateway.addr, http2).await;
            visitor.send(&endpoint, &body, body.len()).await;
            let fine = tokio::time::timeout(SOON, visitor.read_all()).await;
            assert_eq!(fine, Ok(true), "{endpoint:?}, HTTP/2: {http2}");
        }
    }
    // all of the budget of held bytes is there again
    let (largest, _) = document(4 * MIB - 64 * 1024, true, "");
    gateway.chat(largest).await.is_ok();
}
