//! The life of a process that speaks TLS: sockets that are handed over, hand-over, drain, health.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use command_fds::{CommandFdExt, FdMapping};
use dgx_gateway_testkit::client::H2Client;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{Keys, ends, goes_on, streaming};
use crate::harness::tls::{HERE, files};
use crate::harness::{Client, Setup, soon, until};

#[tokio::test]
async fn the_health_command_finds_a_gateway_that_speaks_tls() {
    let keys = Keys::new();
    let mut gateway = keys.setup(Setup::new()).start().await;
    assert_eq!([gateway.run(&["health"]).await, gateway.run(&["health", "--ready"]).await], [Some(0), Some(0)]);
    // whoever asks need not be able to read the key
    std::fs::remove_file(keys.dir().join("key.pem")).unwrap();
    assert_eq!(gateway.run(&["health"]).await, Some(0));
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(gateway.run(&["health"]).await, Some(1));
}

#[tokio::test]
async fn the_greeting_has_the_scheme_that_is_spoken() {
    let keys = Keys::new();
    std::fs::create_dir(keys.dir().join("conf")).unwrap();
    let server = json!({"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "tls": files(keys.dir())});
    std::fs::write(keys.dir().join("conf/gateway.yaml"), json!({"server": server}).to_string()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"))
        .current_dir(keys.dir())
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = child.stdout.take().unwrap();
    let lines = tokio::task::spawn_blocking(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(said));
        lines.map(Result::unwrap).take(4).collect::<Vec<_>>()
    });
    let lines = soon("the greeting", lines).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lines[0].contains("listens on https://127.0.0.1:"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("curl -N https://127.0.0.1:")), "{lines:?}");
}

#[tokio::test]
async fn sockets_that_are_handed_over_speak_tls() {
    let keys = Keys::new();
    std::fs::create_dir(keys.dir().join("conf")).unwrap();
    std::fs::write(keys.dir().join("conf/gateway.yaml"), json!({"server": {"tls": files(keys.dir())}}).to_string())
        .unwrap();
    let sockets = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let addr = sockets[0].local_addr().unwrap();
    let mappings = sockets.map(OwnedFd::from).into_iter().zip(3..);
    let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"));
    command.current_dir(keys.dir()).env_clear().env("LISTEN_FDS", "2").stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.fd_mappings(mappings).unwrap().spawn().unwrap();
    drop(command);
    let shown = keys.authority.client(&["h2"]).shown(addr).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(shown, keys.issued.der());
}

#[tokio::test]
async fn a_hand_over_loses_no_request_cuts_no_stream_and_may_bring_another_certificate() {
    let keys = Keys::new();
    let (mut gateway, mut stage) = {
        let stage = crate::harness::Stage::open().await;
        let setup = Setup::with_upstream(stage.addr).server("drain_grace_seconds", 1).log("info");
        (keys.setup(setup).start().await, stage)
    };
    let client = keys.authority.client(&["http/1.1"]);
    let way = client.way_to(gateway.addr).await;
    let (mut open, mut caller) = streaming(Client::connect(way.addr).await, &mut stage).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for stays in [true, false] {
        let (addr, stop, answered) = (way.addr, Arc::clone(&stop), Arc::clone(&answered));
        clients.spawn(async move {
            let mut connection = Client::connect(addr).await;
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.get("/v1/models").await;
                answer.is_ok();
                answered.fetch_add(1, Ordering::Relaxed);
                if !stays || answer.says_close() {
                    connection = Client::connect(addr).await;
                }
            }
        });
    }
    for round in 0..3 {
        let next = keys.authority.issue(&HERE);
        next.write(keys.dir());
        gateway.hand_over().await;
        let from = answered.load(Ordering::Relaxed);
        until("requests are answered", async || answered.load(Ordering::Relaxed) > from + 5).await;
        goes_on(&mut open, &mut caller, &round.to_string()).await;
        until("the new process shows its certificate", async || client.shown(gateway.addr).await == next.der()).await;
    }
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    ends(&mut open, &mut caller).await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    until("the processes before have ended", async || gateway.successors_run() == 1).await;
    gateway.signal("TERM");
    until("the last process has ended", async || gateway.successors_run() == 0).await;
}

#[tokio::test]
async fn a_drain_closes_idle_connections_properly_and_lets_busy_ones_finish() {
    let keys = Keys::new();
    let (mut gateway, mut stage) = keys.started().await;
    let client = keys.authority.client(&["http/1.1"]);
    let way = client.way_to(gateway.addr).await;
    let (mut busy, mut caller) = streaming(Client::connect(way.addr).await, &mut stage).await;
    let mut idle = client.connect(gateway.addr).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 1024];
    let length = soon("the answer", idle.read(&mut answer)).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "));
    gateway.signal("TERM");
    until("the listener is closed", async || gateway.log().contains("the listener is closed")).await;
    // the rest of that answer, if any, and then the end
    let mut rest = Vec::new();
    drop(soon("the end", idle.read_to_end(&mut rest)).await);
    assert!(client.connect(gateway.addr).await.is_err());
    goes_on(&mut busy, &mut caller, "still").await;
    ends(&mut busy, &mut caller).await;
    assert!(busy.is_closed().await);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn answers_of_a_drain_say_close_and_http2_is_told_to_go_away() {
    let keys = Keys::new();
    let setup = keys.setup(Setup::new()).server("drain_grace_seconds", 2);
    let mut gateway = setup.start().await;
    let way = keys.authority.client(&["http/1.1"]).way_to(gateway.addr).await;
    let mut http1 = Client::connect(way.addr).await;
    http1.get("/healthz").await.is_ok();
    let mut http2 = keys.authority.client(&["h2"]).connect(gateway.addr).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    http2.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings.as_slice()].concat()).await.unwrap();
    let mut frame = async || {
        let mut head = [0; 9];
        soon("a frame", http2.read_exact(&mut head)).await.unwrap();
        let mut rest = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        soon("the frame", http2.read_exact(&mut rest)).await.unwrap();
        head[3]
    };
    assert_eq!(frame().await, 4, "settings come first");
    gateway.signal("TERM");
    until("it drains", async || gateway.log().contains("draining")).await;
    http1.raw.request(&http::Method::GET, "/readyz", &[], b"").await.unwrap();
    let answer = soon("readiness", http1.raw.read_response()).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("connection")), (503, Some("close")));
    assert!(http1.is_closed().await);
    while frame().await != 7 {} // GOAWAY
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_http2_connection_serves_many_requests() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).start().await;
    let way = keys.authority.client(&["h2"]).way_to(gateway.addr).await;
    let mut client = H2Client::connect(way.addr).await.unwrap();
    for _ in 0..20 {
        let request = http::Request::get("https://localhost/healthz").body(bytes::Bytes::new()).unwrap();
        assert_eq!(soon("the answer", client.request(request)).await.unwrap().status, 200);
    }
    assert_eq!(way.shown().len(), 1);
}
