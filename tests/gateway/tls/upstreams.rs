//! Upstreams over TLS: whom the gateway believes, in every protocol that it speaks to them.

use std::fs;
use std::net::SocketAddr;

use dgx_gateway_testkit::client::H2Client;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, Method, StatusCode, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Keys, UPSTREAM, chat, ends, goes_on, streaming};
use crate::harness::tls::{Authority, Front, HERE, Issued};
use crate::harness::{Client, Gateway, Setup, Stage, backend, document, fill, model, post_h2, soon, until};

/// A backend `first` behind a front, whose authority stands in `ca.pem`.
fn secure(front: SocketAddr, keys: &Keys) -> Value {
    secure_at(format!("https://localhost:{}/v1", front.port()), keys)
}

fn secure_at(url: String, keys: &Keys) -> Value {
    let ca = keys.dir().join("ca.pem");
    fs::write(&ca, keys.authority.pem()).unwrap();
    let mut backend = backend("first", SocketAddr::from(([127, 0, 0, 1], 1)));
    backend["base_url"] = json!(url);
    backend["ca_file"] = json!(ca);
    backend
}

fn setup(backend: Value) -> Setup {
    let mut m = model("m", &[("first", UPSTREAM)]);
    m["constraints"] = json!({"min_max_tokens": 64});
    Setup::new().backend(backend).model(m)
}

async fn mock() -> MockUpstream {
    MockUpstream::start(Script::default().with_looks_apart()).await.unwrap()
}

#[tokio::test]
async fn chat_and_streams_over_http1() {
    let keys = Keys::new();
    let mut stage = Stage::open().await;
    let front = Front::before(stage.addr, &keys.issued, &["http/1.1"]).await;
    let gateway = setup(secure(front.addr, &keys)).start().await;
    let mut client = gateway.client().await;
    client.send_chat(chat(false)).await;
    let mut caller = stage.caller().await;
    assert_eq!(caller.header("host"), Some(&*format!("localhost:{}", front.addr.port())));
    caller.answer(r#"{"id":"c","object":"chat.completion","model":"up","choices":[]}"#).await;
    let answer = client.answer().await;
    assert_eq!(answer.is_ok().header("spass-attempts"), Some("first;s=200"));
    // the connection is kept
    client.send_chat(chat(false)).await;
    assert!(soon("the next request", caller.read_request()).await);
    caller.answer(r#"{"id":"c","object":"chat.completion","model":"up","choices":[]}"#).await;
    client.answer().await.is_ok();
    assert_eq!(front.shaken(), [Ok(())]);
    drop(caller);
    let (mut client, mut caller) = streaming(gateway.client().await, &mut stage).await;
    goes_on(&mut client, &mut caller, "word").await;
    ends(&mut client, &mut caller).await;
}

#[tokio::test]
async fn large_requests_of_both_protocols_arrive_as_they_are() {
    let keys = Keys::new();
    for (http2, protocol) in [(false, "http/1.1"), (true, "h2")] {
        let mock = mock().await;
        let front = Front::before(mock.addr(), &keys.issued, &[protocol]).await;
        let mut first = secure(front.addr, &keys);
        first["http2"] = json!(http2);
        let gateway = setup(first).start().await;
        // below and above what has a connection of its own
        for size in [5_000, 8 << 20] {
            let (sent, expected) = document(size, false, UPSTREAM);
            gateway.chat(&sent).await.is_ok();
            let request = mock.requests().pop().unwrap();
            assert!(request.body == expected, "{protocol} {size}");
            assert_eq!(request.version == Version::HTTP_2, http2);
        }
        assert!(front.shaken().iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_http2_is_not_spoken_to_in_http1() {
    let keys = Keys::new();
    let mock = mock().await;
    // one that has no protocol in common, and one that says nothing about protocols
    for (protocols, expected) in [(&["http/1.1"][..], "first;e=tls"), (&[], "first;e=connect")] {
        let front = Front::before(mock.addr(), &keys.issued, protocols).await;
        let mut first = secure(front.addr, &keys);
        first["http2"] = json!(true);
        let gateway = setup(first).route(route("/call", &front, &keys, json!({"http2": true}))).start().await;
        let answer = gateway.chat(chat(false)).await;
        answer.is_error(503, "upstream_unavailable", "");
        assert_eq!(answer.header("spass-attempts"), Some(expected));
        let answer = gateway.client().await.request(&Method::POST, "/call", &[], b"x").await;
        answer.is_error(503, "upstream_unavailable", "");
    }
    assert!(mock.requests().is_empty());
}

/// What a call to a backend comes to.
async fn attempt(gateway: &Gateway) -> (u16, String) {
    let answer = gateway.chat(chat(false)).await;
    (answer.status, answer.header("spass-attempts").unwrap().to_owned())
}

#[tokio::test]
async fn nobody_is_believed_without_a_certificate_that_holds_for_the_host() {
    let keys = Keys::new();
    let mock = mock().await;
    let (other, below) = (Authority::new(), keys.authority.below());
    let mut without_chain = below.issue(&HERE);
    let end = "-----END CERTIFICATE-----\n";
    without_chain.chain = without_chain.chain.split_inclusive(end).next().unwrap().to_owned();
    for (what, issued, url, expected) in [
        ("one for this host", keys.authority.issue(&["localhost"]), "https://localhost", "first;s=200"),
        ("one for this address", keys.authority.issue(&["127.0.0.1"]), "https://127.0.0.1", "first;s=200"),
        ("one with its chain", below.issue(&HERE), "https://localhost", "first;s=200"),
        ("one without its chain", without_chain, "https://localhost", "first;e=tls"),
        ("one for another host", keys.authority.issue(&["other.example"]), "https://localhost", "first;e=tls"),
        ("one for a name, not the address", keys.authority.issue(&["localhost"]), "https://127.0.0.1", "first;e=tls"),
        ("one that has ended", keys.authority.issue_ended(&HERE), "https://localhost", "first;e=tls"),
        ("one that nobody vouches for", Issued::by_itself(&HERE), "https://localhost", "first;e=tls"),
        ("one of another authority", other.issue(&HERE), "https://localhost", "first;e=tls"),
    ] {
        let front = Front::before(mock.addr(), &issued, &["http/1.1"]).await;
        let gateway = setup(secure_at(format!("{url}:{}/v1", front.addr.port()), &keys)).start().await;
        let before = mock.requests().len();
        let (status, attempts) = attempt(&gateway).await;
        assert_eq!(attempts, expected, "{what}");
        assert_eq!((status == 200, status == 503), (expected.ends_with("200"), expected.ends_with("tls")), "{what}");
        assert_eq!(mock.requests().len() - before, usize::from(status == 200), "{what}");
        let metrics = gateway.metrics().await;
        let result = if status == 200 { "ok" } else { "tls" };
        let series =
            format!("dgx_gateway_upstream_attempts_total{{backend=\"first\",model=\"m\",result=\"{result}\"}}");
        assert_eq!(metrics.value(&series), 1.0, "{what}");
    }
}

#[tokio::test]
async fn without_a_file_the_certificates_of_the_system_count() {
    let keys = Keys::new();
    let mock = mock().await;
    let front = Front::before(mock.addr(), &keys.issued, &["http/1.1"]).await;
    let mut first = secure(front.addr, &keys);
    let file = first.as_object_mut().unwrap().remove("ca_file").unwrap();
    let gateway = setup(first.clone()).start().await;
    assert_eq!(attempt(&gateway).await, (503, "first;e=tls".to_owned()));
    // which may be other ones
    let gateway = setup(first).variable("SSL_CERT_FILE", file.as_str().unwrap()).start().await;
    assert_eq!(attempt(&gateway).await, (200, "first;s=200".to_owned()));
}

#[tokio::test]
async fn a_backend_that_cannot_be_believed_gives_way_to_the_next() {
    let keys = Keys::new();
    let (mock, spare) = (mock().await, mock().await);
    let front = Front::before(mock.addr(), &Issued::by_itself(&HERE), &["http/1.1"]).await;
    let gateway = Setup::new()
        .backend(secure(front.addr, &keys))
        .backend(backend("second", spare.addr()))
        .model(model("m", &[("first", "a"), ("second", "b")]))
        .start()
        .await;
    assert_eq!(attempt(&gateway).await, (200, "first;e=tls, second;s=200".to_owned()));
    assert!(mock.requests().is_empty());
}

#[tokio::test]
async fn another_authority_takes_effect_at_a_reload_on_pooled_connections_too() {
    let keys = Keys::new();
    let mock = mock().await;
    let front = Front::before(mock.addr(), &keys.issued, &["http/1.1"]).await;
    let gateway = setup(secure(front.addr, &keys)).start().await;
    assert_eq!(attempt(&gateway).await, (200, "first;s=200".to_owned()));
    // noticed by itself: whom it believed is believed no more
    fs::write(keys.dir().join("ca.pem"), Authority::new().pem()).unwrap();
    until("it is believed no more", async || attempt(&gateway).await == (503, "first;e=tls".to_owned())).await;
    let both = Authority::new().pem() + &keys.authority.pem();
    fs::write(keys.dir().join("ca.pem"), both).unwrap();
    assert_eq!(gateway.reload().await.0, 200);
    until("it is believed again", async || attempt(&gateway).await.0 == 200).await;
    // a bad file changes nothing
    fs::write(keys.dir().join("ca.pem"), "nothing").unwrap();
    let (code, answer) = gateway.reload().await;
    let told = answer["errors"][0].as_str().unwrap();
    assert!(code == 422 && told.starts_with("conf/gateway.yaml:1: backends[0].ca_file: "), "{answer}");
    assert!(told.ends_with("there is no certificate in it (-----BEGIN CERTIFICATE-----)"), "{answer}");
    assert_eq!(attempt(&gateway).await.0, 200);
}

#[tokio::test]
async fn a_handshake_that_hangs_is_given_up() {
    let keys = Keys::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut first = secure(silent.local_addr().unwrap(), &keys);
    first["connect_timeout_ms"] = json!(200);
    let gateway = setup(first).start().await;
    assert_eq!(attempt(&gateway).await, (503, "first;e=connect".to_owned()));
}

#[tokio::test]
async fn an_answer_that_may_have_been_cut_is_no_answer() {
    let keys = Keys::new();
    let mut stage = Stage::open().await;
    let front = Front::before(stage.addr, &keys.issued, &["http/1.1"]).await;
    let gateway = setup(secure(front.addr, &keys)).start().await;
    let answer = r#"{"id":"c","object":"chat.completion","model":"up","choices":[]}"#;
    for cut in [false, true] {
        let mut client = gateway.client().await;
        client.send_chat(chat(false)).await;
        let mut caller = stage.caller().await;
        caller.write(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{answer}")).await;
        if cut {
            // the front passes on what it has, and is gone without a word
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            caller.reset();
            client.answer().await.is_error(502, "upstream_error", "");
        } else {
            drop(caller);
            client.answer().await.is_ok();
        }
    }
}

fn route(path: &str, front: &Front, keys: &Keys, more: Value) -> Value {
    let ca = keys.dir().join("ca.pem");
    fs::write(&ca, keys.authority.pem()).unwrap();
    let url = format!("https://localhost:{}", front.addr.port());
    let mut route = json!({"path": path, "methods": ["GET", "POST"], "upstream": url, "ca_file": ca});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    route
}

#[tokio::test]
async fn routes_with_a_url_check_certificates_too() {
    let keys = Keys::new();
    let mock = MockUpstream::start(Script::always(Behaviour::Echo).with_looks_apart()).await.unwrap();
    let good = Front::before(mock.addr(), &keys.issued, &["http/1.1"]).await;
    let bad = Front::before(mock.addr(), &Issued::by_itself(&HERE), &["http/1.1"]).await;
    let setup =
        Setup::new().route(route("/good", &good, &keys, json!({}))).route(route("/bad", &bad, &keys, json!({})));
    let gateway = setup.start().await;
    let body = fill(3 << 20);
    gateway.client().await.request(&Method::POST, "/good", &[], &body).await.is_ok();
    assert!(mock.requests().pop().unwrap().body == body);
    let answer = gateway.client().await.request(&Method::POST, "/bad", &[], b"x").await;
    answer.is_error(503, "upstream_unavailable", "");
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn grpc_passes_both_ways_at_the_same_time_over_tls() {
    let keys = Keys::new();
    let mut service = crate::grpc::Service::open().await;
    let front = Front::before(service.addr, &keys.issued, &["h2"]).await;
    let bad = Front::before(service.addr, &Issued::by_itself(&HERE), &["h2"]).await;
    let gateway = Setup::new()
        .route(route("/pkg.Service/{*method}", &front, &keys, json!({"http2": true})))
        .route(route("/bad", &bad, &keys, json!({"http2": true})))
        .start()
        .await;
    let mut client = gateway.h2().await;
    let head = http::Request::post(format!("http://{}/pkg.Service/Call", gateway.addr)).header("te", "trailers");
    let head = head.header("content-type", "application/grpc").body(()).unwrap();
    let mut exchange = client.start(head).await.unwrap();
    let mut call = service.call().await;
    assert_eq!(call.head.uri.scheme_str(), Some("https"));
    let mut answer = call.answer();
    for n in 0..3 {
        exchange.send(format!("question {n}").into()).await.unwrap();
        assert_eq!(call.read().await.unwrap(), format!("question {n}"));
        crate::grpc::send(&mut answer, format!("answer {n}").as_bytes()).await;
    }
    exchange.end().unwrap();
    answer.send_trailers(crate::grpc::trailers("0")).unwrap();
    let got = soon("the answer", exchange.read_response()).await.unwrap();
    assert_eq!(got.body, "answer 0answer 1answer 2");
    assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
    let mut client = H2Client::connect(gateway.addr).await.unwrap();
    post_h2(&mut client, gateway.addr, "/bad", "x".into(), true).await.is_error(503, "upstream_unavailable", "");
}

#[tokio::test]
async fn a_connection_is_switched_to_websocket() {
    let keys = Keys::new();
    let mut stage = Stage::open_for_all().await;
    let front = Front::before(stage.addr, &keys.issued, &["http/1.1"]).await;
    let gateway = Setup::new().route(route("/ws", &front, &keys, json!({"upgrade": ["websocket"]}))).start().await;
    let mut client = Client::connect(gateway.addr).await;
    let ask = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    client.head(&Method::GET, "/ws", &ask).await;
    let mut caller = stage.caller().await;
    let agree = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    caller.write(agree).await;
    let (status, _) = soon("the switch", client.raw.read_head()).await.unwrap();
    assert_eq!(status, 101);
    for round in 0..3 {
        client.raw.send(format!("to you {round}")).await.unwrap();
        while caller.body.len() < 8 * (round + 1) {
            assert!(soon("bytes at the upstream", caller.read_some()).await);
        }
        caller.write(format!("to me {round}")).await;
        assert_eq!(client.piece().await.unwrap(), format!("to me {round}"));
    }
    drop(client);
    until("it is left", async || !caller.read_some().await).await;
}

#[tokio::test]
async fn exact_counts_are_asked_for_over_tls() {
    let keys = Keys::new();
    let mut stage = Stage::open().await;
    let front = Front::before(stage.addr, &keys.issued, &["http/1.1"]).await;
    let mut first = secure(front.addr, &keys);
    first["exact_tokens"] = json!(true);
    first["protocols"] = json!(["chat", "tokenize"]);
    let m = json!({"alias": "m", "route": [{"backend": "first", "model": UPSTREAM, "max_model_len": 1000}]});
    let gateway = Setup::new().backend(first).model(m).start().await;
    let mut client = gateway.client().await;
    client.send_chat(chat(false)).await;
    let mut caller = stage.caller().await;
    assert!(caller.head.starts_with("POST /tokenize "), "{}", caller.head);
    caller.answer(r#"{"count":3,"max_model_len":1000,"tokens":[1,2,3]}"#).await;
    let mut caller = stage.caller().await;
    assert!(caller.head.starts_with("POST /v1/chat/completions "), "{}", caller.head);
    caller.answer(r#"{"id":"c","object":"chat.completion","model":"up","choices":[]}"#).await;
    client.answer().await.is_ok();
}

#[tokio::test]
async fn the_exchange_rate_is_fetched_over_tls() {
    let keys = Keys::new();
    let document = "<?xml version=\"1.0\"?><gesmes:Envelope xmlns:gesmes=\"http://www.gesmes.org/xml/2002-08-01\" \
                    xmlns=\"http://www.ecb.int/vocabulary/2002-08-01/eurofxref\"><Cube><Cube time='2026-05-18'>\
                    <Cube currency='USD' rate='1.25'/></Cube></Cube></gesmes:Envelope>";
    let answer = Behaviour::Status { status: StatusCode::OK, headers: HeaderMap::new(), body: document.into() };
    let mock = MockUpstream::start(Script::always(answer)).await.unwrap();
    let front = Front::before(mock.addr(), &keys.issued, &["http/1.1"]).await;
    let ca = keys.dir().join("ca.pem");
    fs::write(&ca, keys.authority.pem()).unwrap();
    let url = format!("https://localhost:{}/daily.xml", front.addr.port());
    let rate = async |gateway: &Gateway| gateway.metrics().await.value("dgx_gateway_fx_rate_eur_per_usd");
    // not from somebody whom nobody vouches for
    let gateway = Setup::new().section("fx", json!({"url": url})).start().await;
    until("it is refused", async || gateway.log().contains("no new exchange rate could be had")).await;
    assert!(mock.requests().is_empty() && rate(&gateway).await != 0.8);
    let gateway = Setup::new().section("fx", json!({"url": url, "ca_file": ca})).start().await;
    until("the rate is in use", async || rate(&gateway).await == 0.8).await;
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn much_passes_both_ways_at_the_same_time_with_tls_on_both_sides() {
    const MUCH: usize = 8 << 20;
    let keys = Keys::new();
    let mut stage = Stage::open_for_all().await;
    let front = Front::before(stage.addr, &keys.issued, &["http/1.1"]).await;
    let setup = keys.setup(Setup::new());
    let gateway = setup.route(route("/ws", &front, &keys, json!({"upgrade": ["websocket"]}))).start().await;
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
    let (mut from_gateway, mut to_gateway) = tokio::io::split(client);
    let (mut from_upstream_side, mut to_upstream_side) = caller.split();
    let (up, down) = (fill(MUCH), fill(MUCH + 1));
    let (mut got_up, mut got_down) = (vec![0; MUCH], vec![0; MUCH + 1]);
    let all = async {
        tokio::try_join!(
            async {
                to_gateway.write_all(&up).await?;
                to_gateway.flush().await // what has no room in the socket stays in the TLS session otherwise
            },
            to_upstream_side.write_all(&down),
            async { from_upstream_side.read_exact(&mut got_up).await.map(|_| ()) },
            async { from_gateway.read_exact(&mut got_down).await.map(|_| ()) },
        )
    };
    soon("all of it", all).await.unwrap();
    assert!(got_up == up && got_down == down);
}
