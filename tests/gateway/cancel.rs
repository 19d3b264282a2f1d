//! Clients that leave: the upstream learns it at once, and nothing stays behind.

use std::time::{Duration, Instant};

use dgx_gateway_testkit::mock::{Answer, Behaviour, MockUpstream, Script};
use http::{Method, Request};
use serde_json::json;

use crate::harness::{
    BEARER, Caller, Client, Exchange2, Gateway, Setup, Stage, chunk_of_stream, document, soon, until,
};

const CHAT: &str = "/v1/chat/completions";
const UPSTREAM: &str = "upstream-name-of-m";
/// How soon an upstream must see that the client has left.
const AT_ONCE: Duration = Duration::from_millis(250);
/// Clients of the storm.
const STORM: usize = 500;
/// Of them, so many at one time.
const AT_ONE_TIME: usize = 50;

fn request(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

/// Where a request stands when its client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeFirstToken,
    BeforeHead,
    BeforeHeadOfWhole,
    InsideStream,
    InsideWhole,
}

const MOMENTS: [Moment; 5] = [
    Moment::BeforeFirstToken,
    Moment::BeforeHead,
    Moment::BeforeHeadOfWhole,
    Moment::InsideStream,
    Moment::InsideWhole,
];

impl Moment {
    fn is_streamed(self) -> bool {
        !matches!(self, Self::BeforeHeadOfWhole | Self::InsideWhole)
    }

    /// Plays the upstream up to the moment.
    async fn play(self, caller: &mut Caller) {
        match self {
            Self::BeforeHead | Self::BeforeHeadOfWhole => {}
            Self::BeforeFirstToken => caller.begin_stream().await,
            Self::InsideStream => {
                caller.begin_stream().await;
                caller.chunk(chunk_of_stream(UPSTREAM, "first")).await;
            }
            Self::InsideWhole => {
                caller.write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"choices\":").await;
            }
        }
    }
}

/// A request of HTTP/1.1 that stands at the moment.
async fn standing(gateway: &Gateway, stage: &mut Stage, moment: Moment) -> (Client, Caller) {
    let mut client = gateway.client().await;
    client.send_chat(request(moment.is_streamed())).await;
    let mut caller = stage.caller().await;
    moment.play(&mut caller).await;
    if moment == Moment::InsideStream {
        client.read_head().await;
        client.piece().await.unwrap();
    }
    (client, caller)
}

async fn seen_at_once(gateway: &Gateway, caller: Caller, since: Instant, what: &str) {
    let after = caller.gone(since).await;
    assert!(after < AT_ONCE, "{what}: the upstream saw it after {after:?}");
    gateway.idle().await;
}

#[tokio::test]
async fn an_orderly_end_of_the_client_reaches_the_upstream_at_once() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    for moment in MOMENTS {
        let (client, caller) = standing(&gateway, &mut stage, moment).await;
        let since = Instant::now();
        drop(client);
        seen_at_once(&gateway, caller, since, &format!("{moment:?}")).await;
    }
}

#[tokio::test]
async fn a_reset_of_the_client_reaches_the_upstream_at_once() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    for moment in MOMENTS {
        let (client, caller) = standing(&gateway, &mut stage, moment).await;
        let since = Instant::now();
        client.raw.abort().unwrap();
        seen_at_once(&gateway, caller, since, &format!("{moment:?}")).await;
    }
}

#[tokio::test]
async fn a_reset_of_one_http2_stream_reaches_the_upstream_at_once_and_leaves_the_others_alone() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let mut client = gateway.h2().await;
    let (mut other, mut other_caller) = start_h2(&mut client, &gateway, &mut stage, Moment::InsideStream).await;
    for moment in MOMENTS {
        let (mut exchange, caller) = start_h2(&mut client, &gateway, &mut stage, moment).await;
        let since = Instant::now();
        exchange.reset(dgx_gateway_testkit::client::Reason::CANCEL);
        let after = caller.gone(since).await;
        assert!(after < AT_ONCE, "{moment:?}: the upstream saw it after {after:?}");
    }
    other_caller.chunk(chunk_of_stream(UPSTREAM, "second")).await;
    let piece = soon("the other stream goes on", other.read_piece()).await.unwrap().unwrap();
    assert_eq!(piece, chunk_of_stream("m", "second"));
    let since = Instant::now();
    drop((client, other));
    seen_at_once(&gateway, other_caller, since, "the whole connection").await;
}

async fn start_h2(
    client: &mut dgx_gateway_testkit::client::H2Client,
    gateway: &Gateway,
    stage: &mut Stage,
    moment: Moment,
) -> (Exchange2, Caller) {
    let head =
        Request::post(format!("http://{}{CHAT}", gateway.addr)).header("authorization", format!("Bearer {BEARER}"));
    let mut exchange = client.start(head.body(()).unwrap()).await.unwrap();
    exchange.send(request(moment.is_streamed()).into()).await.unwrap();
    exchange.end().unwrap();
    let mut caller = stage.caller().await;
    moment.play(&mut caller).await;
    if moment == Moment::InsideStream {
        soon("the head", exchange.read_head()).await.unwrap();
        soon("the first event", exchange.read_piece()).await.unwrap().unwrap();
    }
    (exchange, caller)
}

#[tokio::test]
async fn a_client_that_leaves_during_a_generic_upload_is_seen_by_the_upstream() {
    let mut stage = Stage::open_at_head().await;
    let gateway = Setup::new()
        .route(json!({"path": "/up", "methods": ["POST"], "upstream": format!("http://{}", stage.addr)}))
        .start()
        .await;
    let mut client = gateway.client().await;
    client.head(&Method::POST, "/up", &[("content-length", "100000")]).await;
    client.raw.send(b"some").await.unwrap();
    let mut caller = stage.caller().await;
    while caller.body.is_empty() {
        assert!(soon("the first bytes", caller.read_some()).await);
    }
    let since = Instant::now();
    drop(client);
    seen_at_once(&gateway, caller, since, "upload").await;
}

#[tokio::test]
async fn a_client_of_completions_that_leaves_is_seen_at_once() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    for stream in [false, true] {
        let body = json!({"model": "m", "prompt": "hi", "stream": stream});
        leaves(&gateway, &mut stage, "/v1/completions", body.to_string().as_bytes()).await;
    }
}

#[tokio::test]
async fn a_client_of_embeddings_that_leaves_is_seen_at_once() {
    let mut stage = Stage::open().await;
    let mut vectors = crate::harness::model("vectors", &[("first", "x")]);
    vectors["type"] = "embedding".into();
    let gateway = Setup::with_upstream(stage.addr).model(vectors).start().await;
    // patched, this body has four pieces, which is what the engine's pipe to the upstream holds
    leaves(&gateway, &mut stage, "/v1/embeddings", br#"{"input":"hi","model":"vectors"}"#).await;
}

#[tokio::test]
async fn a_client_that_leaves_after_a_large_upload_is_seen_at_once() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    for size in [64, 100, 256, 300, 512, 700, 1024, 4096, 20 * 1024] {
        let (body, _) = document(size * 1024, true, "");
        leaves(&gateway, &mut stage, CHAT, &body).await;
    }
}

#[tokio::test]
async fn the_total_time_holds_after_an_upload_of_any_size() {
    let mut stage = Stage::open().await;
    let mut vectors = crate::harness::model("vectors", &[("first", "x")]);
    vectors["type"] = "embedding".into();
    let setup = Setup::with_upstream(stage.addr).model(vectors).server("total_timeout_seconds", 1);
    let gateway = setup.start().await;
    let (large, _) = document(4 << 20, true, "");
    for (path, body) in [("/v1/embeddings", br#"{"input":"hi","model":"vectors"}"#.as_slice()), (CHAT, &large)] {
        let mut client = gateway.client().await;
        client.send(&Method::POST, path, &[], body).await;
        let _silent = stage.caller().await;
        client.answer().await.is_error(504, "upstream_timeout", "");
    }
}

async fn leaves(gateway: &Gateway, stage: &mut Stage, path: &str, body: &[u8]) {
    let mut client = gateway.client().await;
    client.send(&Method::POST, path, &[], body).await;
    let caller = stage.caller().await;
    let since = Instant::now();
    drop(client);
    seen_at_once(gateway, caller, since, &format!("{path} with {} bytes", body.len())).await;
}

#[tokio::test]
async fn an_attempt_that_was_given_up_is_not_tried_elsewhere() {
    let (mut first, mut second) = (Stage::open().await, Stage::open().await);
    let gateway = Setup::with_fallback(first.addr, second.addr).start().await;
    for stream in [true, false] {
        let mut client = gateway.client().await;
        client.send_chat(request(stream)).await;
        let caller = first.caller().await;
        drop(client);
        caller.gone(Instant::now()).await;
        gateway.idle().await;
        assert!(second.is_quiet());
    }
}

#[tokio::test]
async fn the_gauge_of_a_backend_returns_to_zero() {
    let mut stage = Stage::open().await;
    let gateway = Setup::with_upstream(stage.addr).start().await;
    let gauge = async || gateway.metrics().await.value("dgx_gateway_backend_in_flight{backend=\"first\"}");
    let (client, caller) = standing(&gateway, &mut stage, Moment::InsideStream).await;
    until("the gauge shows the request", async || gauge().await == 1.0).await;
    drop(client);
    caller.gone(Instant::now()).await;
    until("the gauge is zero", async || gauge().await == 0.0).await;
}

/// A number that looks random and is the same in every run.
fn scattered(n: usize, below: u64) -> u64 {
    ((n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % below
}

#[tokio::test]
async fn a_storm_of_clients_that_leave_at_any_moment_leaves_nothing_behind() {
    let answer = Answer {
        before_head: Duration::from_millis(3),
        before_body: Duration::from_millis(3),
        ..Answer::pieces(["a ", "b ", "c ", "d ", "e "]).every(Duration::from_millis(3))
    };
    let mock = MockUpstream::start(Script::always(Behaviour::Answer(answer)).with_looks_apart()).await.unwrap();
    let mut gateway = Setup::with_upstream(mock.addr()).start().await;
    for round in 0..STORM / AT_ONE_TIME {
        let clients = (0..AT_ONE_TIME).map(|n| {
            let n = round * AT_ONE_TIME + n;
            let addr = gateway.addr;
            tokio::spawn(async move {
                let mut client = Client::connect(addr).await;
                let body = request(!n.is_multiple_of(3));
                // each leaves at another moment: inside the upload, or so long after it
                if n.is_multiple_of(10) {
                    client.chat_head(&[("content-length", &body.len().to_string())]).await;
                    client.raw.send(&body.as_bytes()[..body.len() / 2]).await.unwrap();
                } else {
                    client.send_chat(&body).await;
                    let patience = Duration::from_millis(scattered(n, 40));
                    drop(tokio::time::timeout(patience, client.raw.read_response()).await);
                }
                if n.is_multiple_of(2) {
                    client.raw.abort().unwrap();
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    }
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("dgx_gateway_http_in_flight"), 0.0);
    assert!(gateway.runs());
    // the mock learns of the last ends a moment after the gateway made them
    until("every request at the mock has ended", async || {
        mock.requests().iter().all(|request| request.ending.is_final())
    })
    .await;
    gateway.chat(request(true)).await.is_ok();
    until("the gauge of the backend is zero", async || {
        gateway.metrics().await.value("dgx_gateway_backend_in_flight{backend=\"first\"}") == 0.0
    })
    .await;
}
