//! Hand-over to another process (SIGUSR2): nothing is refused, lost or cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Caller, Client, Gateway, Setup, Stage, backend, chunk_of_stream, finish_of_stream, model, until};

/// Hand-overs, unless they take too long.
const MOST: usize = 100;
/// Clients that ask all the time, some on connections that stay and some on new ones.
const CLIENTS: usize = 4;

fn chat(model: &str, stream: bool) -> String {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

/// A stream whose first chunk has come.
async fn streaming(gateway: &Gateway, stage: &mut Stage) -> (Client, Caller) {
    let mut client = gateway.client().await;
    client.send_chat(chat("s", true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream("up", "first")).await;
    client.read_head().await;
    assert_eq!(client.piece().await.unwrap(), chunk_of_stream("s", "first"));
    (client, caller)
}

/// Asks until it is told to stop; gives how often. An answer that does not come, or no connection, is a failure.
async fn ask(addr: std::net::SocketAddr, stays: bool, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) {
    let mut connection = Client::connect(addr).await;
    while !stop.load(Ordering::Relaxed) {
        let answer = connection.chat(chat("m", false)).await;
        answer.is_ok();
        answered.fetch_add(1, Ordering::Relaxed);
        if !stays || answer.says_close() {
            connection = Client::connect(addr).await;
        }
    }
}

#[tokio::test]
async fn hand_overs_under_load_lose_no_request_and_cut_no_stream() {
    let done = hand_overs(Duration::from_secs(40)).await;
    assert!(done >= 3, "{done}");
}

#[tokio::test]
#[ignore = "some minutes"]
async fn a_hundred_hand_overs_under_load_lose_no_request_and_cut_no_stream() {
    assert_eq!(hand_overs(Duration::from_secs(1200)).await, MOST);
}

/// Hands over under load, with open streams; gives how often within `longest`.
async fn hand_overs(longest: Duration) -> usize {
    let (mock, mut stage) =
        (MockUpstream::start(Script::default().with_looks_apart()).await.unwrap(), Stage::open().await);
    let setup = Setup::new()
        .backend(backend("first", mock.addr()))
        .backend(backend("second", stage.addr))
        .model(model("m", &[("first", "x")]))
        .model(model("s", &[("second", "up")]));
    let mut gateway = setup.log("info").server("drain_grace_seconds", 1).start().await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(ask(gateway.addr, client % 2 == 0, Arc::clone(&stop), Arc::clone(&answered)));
    }
    let (began, mut streams, mut done) = (Instant::now(), Vec::new(), 0);
    while done < MOST && began.elapsed() < longest {
        if streams.len() < 3 {
            streams.push(streaming(&gateway, &mut stage).await);
        }
        gateway.hand_over().await;
        done += 1;
        let from = answered.load(Ordering::Relaxed);
        until("requests are answered", async || answered.load(Ordering::Relaxed) > from + 5).await;
        for (client, caller) in &mut streams {
            caller.chunk(chunk_of_stream("up", &done.to_string())).await;
            assert_eq!(client.piece().await.unwrap(), chunk_of_stream("s", &done.to_string()));
        }
    }
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    for (client, caller) in &mut streams {
        caller.chunk(finish_of_stream("up") + "data: [DONE]\n\n").await;
        caller.end_chunks().await;
        assert_eq!(client.piece().await.unwrap(), finish_of_stream("s") + "data: [DONE]\n\n");
        assert_eq!(client.piece().await, None);
    }
    println!("{done} hand-overs, {} requests in {:?}", answered.load(Ordering::Relaxed), began.elapsed());
    until("the processes before have ended", async || gateway.successors_run() == 1).await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(!gateway.log().contains("\"outcome\":\"dropped\""));
    gateway.signal("TERM");
    until("the last process has ended", async || gateway.successors_run() == 0).await;
    done
}

#[tokio::test]
async fn a_process_that_does_not_come_up_changes_nothing() {
    let stage = Stage::open().await;
    let mut gateway = Setup::with_upstream(stage.addr).start().await;
    gateway.put("conf/models.yaml", "version: 2");
    let mut client = gateway.client().await;
    client.get("/healthz").await.is_ok();
    gateway.signal("USR2");
    until("it failed", async || gateway.log().contains("the hand-over failed; this process goes on")).await;
    assert!(!client.get("/readyz").await.is_ok().says_close());
    gateway.put("conf/models.yaml", "version: 1");
    gateway.hand_over().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.client().await.get("/healthz").await.is_ok();
}
