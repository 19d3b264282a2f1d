//! Another certificate: new connections are shown it, open ones live on, and a bad one changes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Keys, chat, ends, goes_on, streaming};
use crate::harness::tls::{Authority, HERE, Issued, files};
use crate::harness::{Client, Gateway, Setup, Stage, backend, model, until};

/// Waits until new connections are shown this certificate.
async fn shown(keys: &Keys, gateway: &Gateway, issued: &Issued) {
    let client = keys.authority.client(&["h2", "http/1.1"]);
    until("the certificate is shown", async || client.shown(gateway.addr).await == issued.der()).await;
}

#[tokio::test]
async fn each_way_to_replace_the_files_is_noticed() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).start().await;
    shown(&keys, &gateway, &keys.issued).await;
    // renamed into place
    let next = keys.authority.issue(&HERE);
    next.write(keys.dir());
    shown(&keys, &gateway, &next).await;
    // written in place
    let next = keys.authority.issue(&HERE);
    fs::write(keys.dir().join("key.pem"), &next.key).unwrap();
    fs::write(keys.dir().join("cert.pem"), &next.chain).unwrap();
    shown(&keys, &gateway, &next).await;
    // links that are put in their place, and turned
    for name in ["one", "two"] {
        let (dir, next) = (keys.dir().join(name), keys.authority.issue(&HERE));
        fs::create_dir(&dir).unwrap();
        next.write(&dir);
        for file in ["cert.pem", "key.pem"] {
            symlink(dir.join(file), keys.dir().join("link")).unwrap();
            fs::rename(keys.dir().join("link"), keys.dir().join(file)).unwrap();
        }
        shown(&keys, &gateway, &next).await;
    }
    // a directory on the way is a link that is turned, so that both change at once
    for name in ["three", "four"] {
        let (dir, next) = (keys.dir().join(name), keys.authority.issue(&HERE));
        fs::create_dir(&dir).unwrap();
        next.write(&dir);
        if name == "three" {
            symlink(&dir, keys.dir().join("current")).unwrap();
            for file in ["cert.pem", "key.pem"] {
                symlink(keys.dir().join("current").join(file), keys.dir().join("link")).unwrap();
                fs::rename(keys.dir().join("link"), keys.dir().join(file)).unwrap();
            }
        } else {
            symlink(&dir, keys.dir().join("link")).unwrap();
            fs::rename(keys.dir().join("link"), keys.dir().join("current")).unwrap();
        }
        shown(&keys, &gateway, &next).await;
    }
    // a request of the admin listener, and a signal
    let next = keys.authority.issue(&HERE);
    next.write(keys.dir());
    let (code, answer) = gateway.reload().await;
    assert_eq!(code, 200, "{answer}");
    shown(&keys, &gateway, &next).await;
    let next = keys.authority.issue(&HERE);
    next.write(keys.dir());
    gateway.signal("HUP");
    shown(&keys, &gateway, &next).await;
    // nothing of this was an error, and each file counts as one of the set
    let metrics = gateway.metrics().await;
    let file = format!("dgx_gateway_config_generation{{file=\"{}\"}}", keys.dir().join("cert.pem").display());
    assert!(metrics.value(&file) >= 9.0, "{}", metrics.text());
}

/// Asks until it is told to stop, on a connection that stays or on new ones; gives how often.
async fn ask(addr: std::net::SocketAddr, stays: bool, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) {
    let mut connection = Client::connect(addr).await;
    while !stop.load(Ordering::Relaxed) {
        connection.chat(chat(false)).await.is_ok();
        answered.fetch_add(1, Ordering::Relaxed);
        if !stays {
            connection = Client::connect(addr).await;
        }
    }
}

#[tokio::test]
async fn swaps_under_load_lose_no_request_and_cut_no_stream() {
    const SWAPS: usize = 10;
    let keys = Keys::new();
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut stage = Stage::open().await;
    let setup = Setup::new()
        .backend(backend("first", mock.addr()))
        .backend(backend("second", stage.addr))
        .model(model("m", &[("first", "x")]))
        .model(model("s", &[("second", super::UPSTREAM)]));
    let gateway = keys.setup(setup).log("info").start().await;
    let client = keys.authority.client(&["http/1.1"]);
    let (staying, coming) = (client.way_to(gateway.addr).await, client.way_to(gateway.addr).await);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for way in [&staying, &coming, &coming] {
        clients.spawn(ask(way.addr, way.addr == staying.addr, Arc::clone(&stop), Arc::clone(&answered)));
    }
    let mut open = Client::connect(staying.addr).await;
    open.send_chat(chat(true).replace("\"m\"", "\"s\"")).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    let first = crate::harness::chunk_of_stream(super::UPSTREAM, "first");
    caller.chunk(first).await;
    open.read_head().await;
    assert_eq!(open.piece().await.unwrap(), crate::harness::chunk_of_stream("s", "first"));
    let mut certificates = vec![keys.issued.clone()];
    for round in 0..SWAPS {
        let next = keys.authority.issue(&HERE);
        next.write(keys.dir());
        assert_eq!(gateway.reload().await.0, 200);
        assert_eq!(client.shown(gateway.addr).await, next.der());
        certificates.push(next);
        let from = answered.load(Ordering::Relaxed);
        until("requests are answered", async || answered.load(Ordering::Relaxed) > from + 6).await;
        caller.chunk(crate::harness::chunk_of_stream(super::UPSTREAM, &round.to_string())).await;
        assert_eq!(open.piece().await.unwrap(), crate::harness::chunk_of_stream("s", &round.to_string()));
    }
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    caller.chunk(crate::harness::finish_of_stream(super::UPSTREAM) + "data: [DONE]\n\n").await;
    caller.end_chunks().await;
    assert!(open.piece().await.unwrap().ends_with("data: [DONE]\n\n"));
    assert_eq!(open.piece().await, None);
    // connections that stay have seen the first alone, the others all of them, in their order
    assert_eq!(staying.shown(), [keys.issued.der(), keys.issued.der()]);
    let mut seen = coming.shown();
    let count = seen.len();
    seen.dedup();
    let places: Vec<usize> =
        seen.iter().map(|one| certificates.iter().position(|issued| issued.der() == *one).unwrap()).collect();
    println!("{count} connections, {} requests", answered.load(Ordering::Relaxed));
    assert!(places.first() == Some(&0) && places.last() == Some(&SWAPS), "{places:?}");
    assert!(!gateway.log().contains("\"level\":\"ERROR\""));
}

#[tokio::test]
async fn a_bad_certificate_changes_nothing_until_it_is_a_good_one() {
    let keys = Keys::new();
    let (gateway, mut stage) = keys.started().await;
    let way = keys.authority.client(&["http/1.1"]).way_to(gateway.addr).await;
    let (mut client, mut caller) = streaming(Client::connect(way.addr).await, &mut stage).await;
    let next = keys.authority.issue(&HERE);
    // in the middle of a change: the certificate is there, its key is not
    fs::write(keys.dir().join("cert.pem"), &next.chain).unwrap();
    let (code, answer) = gateway.reload().await;
    let expected = "server.tls.key_file: ";
    let told = answer["errors"][0].as_str().unwrap();
    assert!(code == 422 && told.contains(expected) && told.starts_with("conf/gateway.yaml:1: "), "{answer}");
    assert!(told.ends_with("the private key does not belong to the first certificate of cert_file"), "{answer}");
    shown(&keys, &gateway, &keys.issued).await;
    for (name, content) in [("cert.pem", "nothing"), ("key.pem", "nothing")] {
        next.write(keys.dir());
        fs::write(keys.dir().join(name), content).unwrap();
        assert_eq!(gateway.reload().await.0, 422);
        assert_eq!(keys.authority.client(&["h2"]).shown(gateway.addr).await, keys.issued.der());
    }
    fs::remove_file(keys.dir().join("key.pem")).unwrap();
    assert_eq!(gateway.reload().await.0, 422);
    goes_on(&mut client, &mut caller, "still").await;
    assert!(
        gateway.metrics().await.value("dgx_gateway_config_reload_failures_total{file=\"conf/gateway.yaml\"}") >= 4.0
    );
    // without a word from anybody
    next.write(keys.dir());
    shown(&keys, &gateway, &next).await;
    ends(&mut client, &mut caller).await;
    let log = gateway.log();
    assert!(log.contains(expected) && !log.contains(keys.issued.key.lines().nth(1).unwrap()));
}

#[tokio::test]
async fn the_certificate_is_one_generation_with_the_other_files() {
    let keys = Keys::new();
    let (gateway, _stage) = keys.started().await;
    let next = keys.authority.issue(&HERE);
    next.write(keys.dir());
    gateway.put("conf/models.yaml", "version: 7");
    assert_eq!(gateway.reload().await.0, 422);
    assert_eq!(keys.authority.client(&["h2"]).shown(gateway.addr).await, keys.issued.der());
    gateway.put("conf/models.yaml", "version: 1");
    assert_eq!(gateway.reload().await.0, 200);
    assert_eq!(keys.authority.client(&["h2"]).shown(gateway.addr).await, next.der());
}

#[tokio::test]
async fn other_paths_take_effect_and_to_end_or_begin_with_tls_needs_a_restart() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).start().await;
    let other = Keys::of(Authority::new());
    let conf =
        |tls: serde_json::Value| json!({"server": {"threads": 2, "drain_grace_seconds": 0, "tls": tls}}).to_string();
    gateway.put("conf/gateway.yaml", &conf(files(other.dir())));
    assert_eq!(gateway.reload().await.1.get("restart_needed"), None);
    let client = other.authority.client(&["http/1.1"]);
    assert_eq!(client.shown(gateway.addr).await, other.issued.der());
    gateway.put("conf/gateway.yaml", &conf(json!(null)));
    let (code, answer) = gateway.reload().await;
    assert_eq!((code, &answer["restart_needed"]), (200, &json!(["server.tls"])));
    assert_eq!(client.shown(gateway.addr).await, other.issued.der());
    until("it is in the log", async || gateway.log().contains("only a restart puts it into effect")).await;

    let gateway = Setup::new().start().await;
    gateway.put("conf/gateway.yaml", &conf(files(keys.dir())));
    let (code, answer) = gateway.reload().await;
    assert_eq!((code, &answer["restart_needed"]), (200, &json!(["server.tls"])));
    gateway.client().await.get("/healthz").await.is_ok();
}
