//! What is spoken: versions, protocols, chains, keys of every form.

use std::time::{Duration, Instant};

use dgx_gateway_testkit::client::H2Client;
use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ALL_VERSIONS, ProtocolVersion};

use super::{Keys, chat, ends, goes_on, streaming};
use crate::harness::tls::Authority;
use crate::harness::{BEARER, Caller, Client, Setup, Stage, document, model, post_h2, soon, until};

/// The contract says 250 ms; the rest is for a busy machine.
const LEFT: Duration = Duration::from_millis(1000);

#[tokio::test]
async fn the_client_chooses_http2_or_http1_among_what_is_offered() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).start().await;
    for (offers, expected) in [
        (vec!["h2", "http/1.1"], Some("h2")),
        (vec!["http/1.1", "h2"], Some("h2")),
        (vec!["http/1.1"], Some("http/1.1")),
        (vec!["h2"], Some("h2")),
        (vec!["http/1.0", "http/1.1"], Some("http/1.1")),
        (vec![], None),
    ] {
        let stream = keys.authority.client(&offers).connect(gateway.addr).await.unwrap();
        let chosen = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap());
        assert_eq!(chosen.as_deref(), expected, "{offers:?}");
    }
    assert!(keys.authority.client(&["spdy/3"]).connect(gateway.addr).await.is_err());
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).start().await;
    for (versions, expected) in [
        (ALL_VERSIONS, ProtocolVersion::TLSv1_3),
        (&[&TLS12][..], ProtocolVersion::TLSv1_2),
        (&[&TLS13][..], ProtocolVersion::TLSv1_3),
    ] {
        let client = keys.authority.client_of(&["http/1.1"], versions);
        let mut stream = client.connect(gateway.addr).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        // an end without a word (close_notify) would be an error here
        soon("the whole answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn chat_and_streams_over_http1() {
    let keys = Keys::new();
    let (gateway, mut stage) = keys.started().await;
    let way = keys.authority.client(&["http/1.1"]).way_to(gateway.addr).await;
    let mut client = Client::connect(way.addr).await;
    for _ in 0..3 {
        client.send_chat(chat(false)).await;
        let mut caller = stage.caller().await;
        caller.answer(r#"{"id":"c","object":"chat.completion","model":"up","choices":[]}"#).await;
        assert_eq!(client.answer().await.is_ok().json()["model"], "m");
    }
    let (mut client, mut caller) = streaming(client, &mut stage).await;
    for n in 0..5 {
        goes_on(&mut client, &mut caller, &n.to_string()).await;
    }
    ends(&mut client, &mut caller).await;
    client.get("/v1/models").await.is_ok();
    assert_eq!(way.shown().len(), 1, "all of it was one connection");
}

#[tokio::test]
async fn large_bodies_arrive_as_sent_over_both_protocols() {
    let keys = Keys::new();
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let mut m = model("m", &[("first", super::UPSTREAM)]);
    m["constraints"] = json!({"min_max_tokens": 64});
    let gateway = keys.setup(Setup::with_upstream(mock.addr()).replace_models(m)).start().await;
    let (sent, expected) = document(8 << 20, false, super::UPSTREAM);
    let way = keys.authority.client(&["http/1.1"]).way_to(gateway.addr).await;
    Client::connect(way.addr).await.chat(&sent).await.is_ok();
    let way = keys.authority.client(&["h2"]).way_to(gateway.addr).await;
    let mut client = H2Client::connect(way.addr).await.unwrap();
    post_h2(&mut client, way.addr, "/v1/chat/completions", sent, true).await.is_ok();
    let bodies: Vec<_> = mock.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies.len(), 2);
    assert!(bodies.iter().all(|body| body == &expected));
}

#[tokio::test]
async fn streams_share_a_connection_over_http2() {
    let keys = Keys::new();
    let (gateway, mut stage) = keys.started().await;
    let way = keys.authority.client(&["h2"]).way_to(gateway.addr).await;
    let mut client = H2Client::connect(way.addr).await.unwrap();
    let mut running = Vec::new();
    for _ in 0..3 {
        let head = http::Request::post("https://localhost/v1/chat/completions")
            .header("authorization", format!("Bearer {BEARER}"))
            .header("content-type", "application/json");
        let mut exchange = client.start(head.body(()).unwrap()).await.unwrap();
        exchange.send(chat(true).into()).await.unwrap();
        exchange.end().unwrap();
        let mut caller = stage.caller().await;
        caller.begin_stream().await;
        running.push((exchange, caller));
    }
    for (mut exchange, mut caller) in running.into_iter().rev() {
        caller.chunk(crate::harness::chunk_of_stream(super::UPSTREAM, "word")).await;
        caller.chunk(crate::harness::finish_of_stream(super::UPSTREAM) + "data: [DONE]\n\n").await;
        caller.end_chunks().await;
        let answer = soon("the stream", exchange.read_response()).await.unwrap();
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(text.contains("word") && text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    assert_eq!(way.shown().len(), 1);
}

#[tokio::test]
async fn the_chain_is_sent_so_that_the_root_alone_must_be_known() {
    let root = Authority::new();
    let keys = Keys::of(root.below());
    let gateway = keys.setup(Setup::new()).start().await;
    let client = root.client(&["http/1.1"]);
    let stream = client.connect(gateway.addr).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap().len(), 2);
    assert_eq!(client.shown(gateway.addr).await, keys.issued.der());
    // nobody else is believed
    assert!(Authority::new().client(&["h2"]).connect(gateway.addr).await.is_err());
}

#[tokio::test]
async fn a_connection_is_switched_to_websocket() {
    let keys = Keys::new();
    let mut stage = Stage::open_for_all().await;
    let route = json!({"path": "/ws", "methods": ["GET"], "upstream": format!("http://{}", stage.addr), "upgrade": ["websocket"]});
    let gateway = keys.setup(Setup::new()).route(route).start().await;
    let mut client = keys.authority.client(&["http/1.1"]).connect(gateway.addr).await.unwrap();
    let ask = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
               sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut caller = stage.caller().await;
    let agree = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    caller.write(agree).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the switch", client.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    for round in 0..3 {
        client.write_all(format!("to you {round}").as_bytes()).await.unwrap();
        while caller.body.len() < 8 * (round + 1) {
            assert!(soon("bytes at the upstream", caller.read_some()).await);
        }
        caller.write(format!("to me {round}")).await;
        let mut got = [0; 7];
        soon("bytes at the client", client.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, *format!("to me {round}").as_bytes());
    }
    drop(caller);
    let mut rest = Vec::new();
    soon("the end", client.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn requests_know_their_client_by_its_address_as_without_tls() {
    let keys = Keys::new();
    let gateway = keys.setup(Setup::new()).start().await;
    let way = keys.authority.client(&["http/1.1"]).way_to(gateway.addr).await;
    Client::connect(way.addr).await.get("/v1/models").await.is_ok();
    let known = "\"route.name\":\"/v1/models\",\"client.address\":\"127.0.0.1\"";
    until("the address is in the log", async || gateway.log().contains(known)).await;
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// With the word for it (`close_notify`).
    Properly,
    /// With a reset.
    Reset,
    /// Its system ends the connection without a word of TLS.
    Silently,
}

#[tokio::test]
async fn a_client_that_leaves_inside_a_stream_is_seen_at_once() {
    let keys = Keys::new();
    let (gateway, mut stage) = keys.started().await;
    for protocol in ["http/1.1", "h2"] {
        for leaves in [Leaves::Properly, Leaves::Reset, Leaves::Silently] {
            let way = keys.authority.client(&[protocol]).connect(gateway.addr).await.unwrap();
            let mut caller = begin(way, protocol, &mut stage, leaves).await;
            let began = Instant::now();
            while soon("the gateway leaves the upstream", caller.read_some()).await {}
            assert!(began.elapsed() < LEFT, "{protocol} {leaves:?}: {:?}", began.elapsed());
            gateway.idle().await;
        }
    }
}

/// Begins a stream, and leaves inside it; gives what the upstream sees.
async fn begin(mut stream: TlsStream<TcpStream>, protocol: &str, stage: &mut Stage, leaves: Leaves) -> Caller {
    let first = crate::harness::chunk_of_stream(super::UPSTREAM, "first");
    let body = chat(true);
    let authorization = format!("Bearer {BEARER}");
    if protocol == "h2" {
        let (sender, connection) = h2::client::handshake(&mut stream).await.unwrap();
        let calling = async {
            let request = http::Request::post("https://localhost/v1/chat/completions")
                .header("authorization", authorization)
                .header("content-type", "application/json");
            let mut sender = sender.ready().await.unwrap();
            let (response, mut sending) = sender.send_request(request.body(()).unwrap(), false).unwrap();
            sending.send_data(body.into(), true).unwrap();
            let mut caller = stage.caller().await;
            caller.begin_stream().await;
            caller.chunk(first).await;
            let mut answer = response.await.unwrap().into_body();
            answer.data().await.unwrap().unwrap();
            caller
        };
        let caller = tokio::select! {
            caller = calling => caller,
            _ = connection => panic!("the connection ended"),
        };
        leave(stream, leaves).await;
        return caller;
    }
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {authorization}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(first).await;
    let mut seen = Vec::new();
    while !seen.windows(5).any(|five| five == b"first") {
        assert!(soon("the first event", stream.read_buf(&mut seen)).await.unwrap() > 0);
    }
    leave(stream, leaves).await;
    caller
}

async fn leave(mut stream: TlsStream<TcpStream>, leaves: Leaves) {
    match leaves {
        Leaves::Properly => stream.shutdown().await.unwrap(),
        Leaves::Reset => stream.get_ref().0.set_zero_linger().unwrap(),
        Leaves::Silently => {}
    }
}
