//! Clients of every endpoint that leave in every phase, over both versions of HTTP, one by one and by thousands.

pub(crate) mod endpoint;
mod storm;

use std::time::{Duration, Instant};

use serde_json::json;

use self::endpoint::{ALL, Endpoint, Visitor};
use crate::harness::{Caller, Gateway, Setup, Stage, backend, model, soon};

/// How soon an upstream must see that the client has left: 250 ms is what is promised, the rest is for busy machines.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Where a request stands when its client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Inside its body.
    Upload,
    /// It waits for a whole answer.
    Head,
    /// It waits for a stream.
    HeadOfStream,
    /// The head of a stream has come, nothing else.
    FirstToken,
    /// A stream runs.
    Stream,
    /// Half of a whole answer has come.
    Whole,
    /// The head was sent early, the model is silent.
    Early,
    /// So, and signs of life are sent.
    Heartbeat,
}

const PROMPT_PHASES: [Phase; 6] =
    [Phase::Upload, Phase::Head, Phase::HeadOfStream, Phase::FirstToken, Phase::Stream, Phase::Whole];

impl Phase {
    fn is_streamed(self) -> bool {
        !matches!(self, Self::Head | Self::Upload | Self::Whole)
    }
}

/// A gateway with one backend that serves everything.
fn setup(addr: std::net::SocketAddr) -> Setup {
    let mut first = backend("first", addr);
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

/// Plays the upstream up to the phase.
async fn play(endpoint: &Endpoint, phase: Phase, caller: &mut Caller) {
    match phase {
        Phase::FirstToken => caller.write(endpoint.stream_head()).await,
        Phase::Stream => {
            caller.write(endpoint.stream_head()).await;
            caller.chunk(endpoint.first_event()).await;
        }
        Phase::Whole => {
            caller.write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"").await;
        }
        Phase::Early | Phase::Head | Phase::HeadOfStream | Phase::Heartbeat | Phase::Upload => {}
    }
}

/// One client comes, and leaves in the phase; gives how long it took until everybody knew.
async fn leaves(gateway: &Gateway, stage: &mut Stage, endpoint: &Endpoint, phase: Phase, http2: bool) -> Duration {
    let body = endpoint.body(phase.is_streamed());
    let sent = if phase == Phase::Upload { body.len() - 1 } else { body.len() };
    let mut visitor = Visitor::connect(gateway.addr, http2).await;
    visitor.send(endpoint, &body, sent).await;
    if phase == Phase::Upload && !endpoint.reaches_its_upstream_inside_its_body() {
        let running = async || gateway.metrics().await.sum("dgx_gateway_http_in_flight") == 1.0;
        crate::harness::until("the request runs", running).await;
        let left = Instant::now();
        visitor.leave();
        gateway.idle().await;
        assert!(stage.is_quiet());
        return left.elapsed();
    }
    let mut caller = stage.caller().await;
    play(endpoint, phase, &mut caller).await;
    if matches!(phase, Phase::Early | Phase::Heartbeat | Phase::Stream) {
        visitor.read_head().await;
    }
    if matches!(phase, Phase::Heartbeat | Phase::Stream) {
        visitor.read_piece().await;
    }
    let left = Instant::now();
    visitor.leave();
    soon("the gateway leaves the upstream", async { while caller.read_some().await {} }).await;
    let after = left.elapsed();
    gateway.idle().await;
    after
}

async fn all_leave(endpoints: &[Endpoint], phases: &[Phase], setup: impl Fn(&Stage) -> Setup) {
    let mut longest = (Duration::ZERO, String::new());
    let mut count = 0;
    for endpoint in endpoints {
        let mut stage = Stage::open_at_head().await;
        let gateway = setup(&stage).start().await;
        for phase in phases.iter().filter(|phase| endpoint.has(**phase)) {
            for http2 in [false, true] {
                let after = leaves(&gateway, &mut stage, endpoint, *phase, http2).await;
                let what = format!("{endpoint:?} {phase:?}, HTTP/2: {http2}");
                assert!(after < AT_ONCE, "{what}: {after:?}");
                count += 1;
                longest = longest.max((after, what));
            }
        }
        let gauge = gateway.metrics().await.value("dgx_gateway_backend_in_flight{backend=\"first\"}");
        assert_eq!(gauge, 0.0, "{endpoint:?}");
    }
    println!("{count} cases, the longest took {longest:?}");
}

#[tokio::test]
async fn a_client_that_leaves_in_any_phase_takes_the_upstream_along() {
    all_leave(&ALL, &PROMPT_PHASES, |stage| setup(stage.addr)).await;
}

async fn early(endpoint: Endpoint) {
    let patient = |stage: &Stage| {
        let setup = setup(stage.addr).stream("commit_after_seconds", 1);
        setup.variable("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS", "1")
    };
    all_leave(&[endpoint], &[Phase::Early, Phase::Heartbeat], patient).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_whose_head_was_early_takes_the_upstream_along() {
    use Endpoint::{Chat, Completions, Messages, Responses};
    tokio::join!(early(Chat), early(Completions), early(Messages), early(Responses));
}
