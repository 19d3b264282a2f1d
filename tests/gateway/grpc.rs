//! Routes to upstreams of HTTP/2, as gRPC needs them: both bodies at the same time, trailers, cancellation. The upstream
//! is the test's own; `tests/sdk` has real clients and services.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dgx_gateway_testkit::client::{H2Client, H2Response, Reason};
use dgx_gateway_testkit::mock::dead_addr;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::harness::{Answer, BEARER, Exchange2, Gateway, Setup, fill, soon, until};

const MIB: usize = 1024 * 1024;
const LIMIT: usize = 64 * MIB;
/// The contract says 250 ms; the rest is for a busy machine.
const LEFT: Duration = Duration::from_millis(1000);
const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");

/// An upstream of HTTP/2; each call goes to the test.
pub(crate) struct Service {
    pub(crate) addr: SocketAddr,
    calls: mpsc::Receiver<Call>,
    accepting: AbortHandle,
}

pub(crate) struct Call {
    pub(crate) head: http::request::Parts,
    receiving: RecvStream,
    respond: SendResponse<Bytes>,
}

impl Service {
    pub(crate) async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::channel(64);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (head, receiving) = request.into_parts();
                        drop(sender.send(Call { head, receiving, respond }).await);
                    }
                });
            }
        })
        .abort_handle();
        Self { addr, calls, accepting }
    }

    pub(crate) async fn call(&mut self) -> Call {
        soon("a call at the upstream", self.calls.recv()).await.unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Call {
    pub(crate) fn answer(&mut self) -> SendStream<Bytes> {
        let head = Response::builder().header(GRPC.0, GRPC.1).header("x-initial", "1");
        self.respond.send_response(head.body(()).unwrap(), false).unwrap()
    }

    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        let piece = soon("a piece of the request", self.receiving.data()).await?.unwrap();
        self.receiving.flow_control().release_capacity(piece.len()).unwrap();
        Some(piece)
    }

    async fn read_all(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(piece) = self.read().await {
            body.extend_from_slice(&piece);
        }
        body
    }

    /// How the gateway ended the call, and how long after `since`.
    async fn reset(&mut self, since: Instant) -> (Reason, Duration) {
        let reason = soon("the end of the call", poll_fn(|cx| self.respond.poll_reset(cx))).await.unwrap();
        (reason, since.elapsed())
    }
}

pub(crate) async fn send(stream: &mut SendStream<Bytes>, bytes: &[u8]) {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = soon("room at the gateway", poll_fn(|cx| stream.poll_capacity(cx))).await.unwrap().unwrap();
        stream.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
    }
}

pub(crate) fn trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("x-trailing", HeaderValue::from_static("last"));
    trailers
}

async fn started(upstream: SocketAddr) -> Gateway {
    Setup::new()
        .route(json!({
            "path": "/pkg.Service/{*method}", "methods": ["POST", "GET"], "upstream": format!("http://{upstream}"), "http2": true,
            "forward_headers": ["x-wanted"], "max_body_bytes": LIMIT, "filters": ["identity"],
        }))
        .route(json!({
            "path": "/short/{*method}", "methods": ["POST"], "upstream": format!("http://{upstream}"), "http2": true,
            "idle_timeout_seconds": 1, "max_body_bytes": 1000,
        }))
        .start()
        .await
}

async fn call(client: &mut H2Client, gateway: &Gateway, path: &str, more: &[(&str, &str)]) -> Exchange2 {
    let mut head =
        Request::post(format!("http://{}{path}", gateway.addr)).header("authorization", format!("Bearer {BEARER}"));
    for (name, value) in [GRPC, ("te", "trailers")].iter().chain(more) {
        head = head.header(*name, *value);
    }
    client.start(head.body(()).unwrap()).await.unwrap()
}

async fn whole(exchange: &mut Exchange2) -> H2Response {
    soon("the answer", exchange.read_response()).await.unwrap()
}

fn status(response: &H2Response) -> Option<&str> {
    response.trailers.as_ref()?.get("grpc-status")?.to_str().ok()
}

#[tokio::test]
async fn heads_bodies_and_trailers_pass() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    let more = [
        ("grpc-timeout", "1S"),
        ("grpc-encoding", "identity"),
        ("grpc-accept-encoding", "gzip"),
        ("x-wanted", "yes"),
        ("x-other", "no"),
        ("cookie", "no"),
        ("spass-user-id", "alice"),
    ];
    let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &more).await;
    exchange.send(Bytes::from_static(b"question")).await.unwrap();
    exchange.end().unwrap();
    let mut call = service.call().await;
    assert_eq!(call.head.uri.to_string(), format!("http://{}/pkg.Service/Do", service.addr));
    let mut names: Vec<&str> = call.head.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected = [
        "accept-encoding",
        "content-type",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-timeout",
        "te",
        "user-agent",
        "x-request-id",
        "x-wanted",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        (&call.head.headers["te"], &call.head.headers["content-type"]),
        (&"trailers".parse().unwrap(), &GRPC.1.parse().unwrap())
    );
    assert_eq!(call.read_all().await, b"question");
    let mut stream = call.answer();
    send(&mut stream, b"answer").await;
    stream.send_trailers(trailers("0")).unwrap();
    let response = whole(&mut exchange).await;
    assert_eq!((response.status.as_u16(), &response.body[..], status(&response)), (200, &b"answer"[..], Some("0")));
    assert_eq!(response.headers["x-initial"], "1");
    assert_eq!(response.trailers.unwrap()["x-trailing"], "last");
}

#[tokio::test]
async fn an_answer_of_trailers_only_stays_one() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[]).await;
    let mut call = service.call().await;
    let head = Response::builder().header(GRPC.0, GRPC.1).header("grpc-status", "9").body(()).unwrap();
    // before the request is complete, as a service may
    call.respond.send_response(head, true).unwrap();
    let head = soon("the answer", exchange.read_head()).await.unwrap();
    assert_eq!(head.headers()["grpc-status"], "9");
    assert_eq!(soon("its end", exchange.read_piece()).await.unwrap(), None);
    assert_eq!(call.reset(Instant::now()).await.0, Reason::CANCEL, "nobody sends the rest");
}

#[tokio::test]
async fn a_request_without_a_body_gets_trailers_too() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    for body in [&b""[..], b"answer"] {
        // such a request goes through the engine, which holds what it may have to send again
        let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[("content-length", "0")]).await;
        exchange.end().unwrap();
        let mut call = service.call().await;
        assert_eq!(call.head.headers["te"], "trailers");
        let mut stream = call.answer();
        send(&mut stream, body).await;
        stream.send_trailers(trailers("0")).unwrap();
        let response = whole(&mut exchange).await;
        assert_eq!((&response.body[..], status(&response)), (body, Some("0")));
    }
}

#[tokio::test]
async fn each_message_is_answered_before_the_next_is_sent() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[]).await;
    let mut call = service.call().await;
    let mut stream = call.answer();
    soon("the head", exchange.read_head()).await.unwrap(); // before any message
    for n in 0..20 {
        let message = Bytes::from(format!("message {n}"));
        exchange.send(message.clone()).await.unwrap();
        assert_eq!(call.read().await.unwrap(), message);
        send(&mut stream, &message).await;
        assert_eq!(soon("the echo", exchange.read_piece()).await.unwrap().unwrap(), message);
    }
    exchange.end().unwrap();
    assert_eq!(call.read_all().await, b"");
    stream.send_trailers(trailers("0")).unwrap();
    assert_eq!(soon("the end", exchange.read_piece()).await.unwrap(), None);
    assert_eq!(soon("trailers", exchange.read_trailers()).await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn the_answer_flows_while_the_request_waits_at_a_closed_window() {
    const SIZE: usize = 24 * MIB; // more than all windows
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    let bytes = fill(SIZE);
    let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[]).await;
    let mut call = service.call().await;
    let expected = bytes.clone();
    let upstream = tokio::spawn(async move {
        let mut stream = call.answer();
        send(&mut stream, &expected).await;
        assert!(call.read_all().await == expected);
        stream.send_trailers(trailers("0")).unwrap();
    });
    soon("the head", exchange.read_head()).await.unwrap();
    let mut parts = exchange.split().unwrap();
    let sent = Bytes::from(bytes.clone());
    let sending = tokio::spawn(async move {
        parts.0.send(sent).await.unwrap();
        parts.0.end().unwrap();
        parts.0
    });
    let response = soon("the answer", parts.1.read_rest()).await.unwrap();
    assert!(response.0 == bytes && response.1.unwrap()["grpc-status"] == "0");
    upstream.await.unwrap();
    sending.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut stalled = gateway.h2().await;
    let mut exchanges = Vec::new();
    let mut writing = Vec::new();
    for _ in 0..12 {
        exchanges.push(call(&mut stalled, &gateway, "/pkg.Service/Do", &[]).await);
        let mut call = service.call().await;
        writing.push(tokio::spawn(async move {
            let mut stream = call.answer();
            send(&mut stream, &vec![0; 4 * MIB]).await;
            call
        }));
    }
    for exchange in &mut exchanges {
        soon("the head", exchange.read_head()).await.unwrap();
    }
    let mut client = gateway.h2().await;
    let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[]).await;
    exchange.end().unwrap();
    let mut other = service.call().await;
    let served = tokio::spawn(async move {
        let mut stream = other.answer();
        send(&mut stream, &fill(4 * MIB)).await;
        stream.send_trailers(trailers("0")).unwrap();
    });
    assert_eq!(whole(&mut exchange).await.body.len(), 4 * MIB);
    served.await.unwrap();
    for task in writing {
        assert!(!task.is_finished(), "it wrote everything, so nothing was stalled");
        task.abort();
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_call() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    for (ended, answered) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[]).await;
        exchange.send(Bytes::from_static(b"x")).await.unwrap();
        if ended {
            exchange.end().unwrap();
        }
        let mut call = service.call().await;
        assert_eq!(call.read().await.unwrap(), "x");
        let mut stream = answered.then(|| call.answer());
        if answered {
            soon("the head", exchange.read_head()).await.unwrap();
        }
        let since = Instant::now();
        exchange.reset(Reason::CANCEL);
        let (reason, after) = match &mut stream {
            None => call.reset(since).await,
            Some(stream) => {
                let reason = soon("the end of the call", poll_fn(|cx| stream.poll_reset(cx))).await.unwrap();
                (reason, since.elapsed())
            }
        };
        assert_eq!(reason, Reason::CANCEL);
        assert!(after < LEFT, "{after:?}");
    }
    // the connection to the upstream is used again
    gateway.idle().await;
    assert_eq!(gateway.metrics().await.value("dgx_gateway_streams_aborted_total{by=\"client\"}"), 4.0);
}

#[tokio::test]
async fn a_client_that_leaves_while_its_upload_waits_cancels_the_call() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[]).await;
    exchange.send(fill(500_000).into()).await.unwrap(); // the upstream's window is 65535 bytes
    let mut call = service.call().await;
    let since = Instant::now();
    exchange.reset(Reason::CANCEL);
    let (reason, after) = call.reset(since).await;
    assert!(reason == Reason::CANCEL && after < LEFT, "{reason:?} {after:?}");
}

#[tokio::test]
async fn an_upstream_that_resets_the_call_is_an_error_in_the_form_that_still_fits() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[]).await;
    service.call().await.respond.send_reset(Reason::INTERNAL_ERROR);
    exchange.end().unwrap_or_default();
    Answer::from(whole(&mut exchange).await).is_error(502, "upstream_error", "");

    let mut exchange = call(&mut client, &gateway, "/pkg.Service/Do", &[]).await;
    let mut call = service.call().await;
    let mut stream = call.answer();
    send(&mut stream, b"begun").await;
    soon("the head", exchange.read_head()).await.unwrap();
    assert_eq!(soon("the piece", exchange.read_piece()).await.unwrap().unwrap(), "begun");
    let since = Instant::now();
    stream.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(soon("the end", exchange.read_piece()).await.unwrap(), None);
    let end = soon("trailers", exchange.read_trailers()).await.unwrap().unwrap();
    assert!(since.elapsed() < LEFT);
    assert_eq!(
        (&end["grpc-status"], &end["grpc-message"]),
        (&"14".parse().unwrap(), &"The upstream failed.".parse().unwrap())
    );
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_in_the_form_that_still_fits() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    let mut exchange = call(&mut client, &gateway, "/short/Do", &[]).await;
    exchange.send(fill(1001).into()).await.unwrap();
    exchange.end().unwrap_or_default();
    Answer::from(whole(&mut exchange).await).is_error(413, "body_too_large", "");
    assert_eq!(service.call().await.reset(Instant::now()).await.0, Reason::CANCEL);

    let mut exchange = call(&mut client, &gateway, "/short/Do", &[]).await;
    let mut call = service.call().await;
    let _stream = call.answer();
    soon("the head", exchange.read_head()).await.unwrap();
    exchange.send(fill(1001).into()).await.unwrap();
    assert_eq!(soon("the end", exchange.read_piece()).await.unwrap(), None);
    assert_eq!(soon("trailers", exchange.read_trailers()).await.unwrap().unwrap()["grpc-status"], "8");
}

#[tokio::test]
async fn silence_of_both_sides_ends_the_call() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    let mut client = gateway.h2().await;
    let mut exchange = call(&mut client, &gateway, "/short/Do", &[]).await;
    let mut call = service.call().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await; // half of the limit
        exchange.send(Bytes::from_static(b"x")).await.unwrap();
        call.read().await.unwrap();
    }
    exchange.end().unwrap();
    Answer::from(whole(&mut exchange).await).is_error(504, "upstream_timeout", "");
    assert_eq!(call.reset(Instant::now()).await.0, Reason::CANCEL);
}

#[tokio::test]
async fn an_upstream_that_is_down_or_speaks_http1_is_unavailable() {
    let http1 = crate::harness::Stage::open_for_all().await;
    for addr in [dead_addr().await.unwrap(), http1.addr] {
        let gateway = started(addr).await;
        let mut client = gateway.h2().await;
        let mut exchange = call(&mut client, &gateway, "/short/Do", &[]).await;
        exchange.end().unwrap_or_default();
        let answer = Answer::from(whole(&mut exchange).await);
        assert!([502, 503, 504].contains(&answer.status), "{}", answer.status);
    }
}

#[tokio::test]
async fn a_client_of_http1_reaches_it_too_without_trailers() {
    let mut service = Service::open().await;
    let gateway = started(service.addr).await;
    for _ in 0..2 {
        let mut client = gateway.client().await; // an answer before the end of the request ends the connection
        client.head(&Method::POST, "/pkg.Service/Do", &[("transfer-encoding", "chunked"), ("te", "trailers")]).await;
        let mut call = service.call().await;
        assert!(!call.head.headers.contains_key("te") && !call.head.headers.contains_key("transfer-encoding"));
        client.raw.send_chunk(b"question").await.unwrap();
        assert_eq!(call.read().await.unwrap(), "question");
        let mut stream = call.answer();
        send(&mut stream, b"early").await;
        let (status, headers) = soon("the head", client.raw.read_head()).await.unwrap();
        assert_eq!((status.as_u16(), &headers["transfer-encoding"]), (200, &"chunked".parse().unwrap()));
        assert_eq!(client.piece().await.unwrap(), "early");
        client.raw.send_chunk(b"").await.unwrap();
        assert_eq!(call.read_all().await, b"");
        stream.send_trailers(trailers("0")).unwrap();
        assert_eq!(client.piece().await, None);
    }
    until("both are counted", async || {
        let series = "dgx_gateway_http_requests_total{method=\"POST\",route=\"/pkg.Service/{*method}\",status=\"200\",tenant=\"default\"}";
        gateway.metrics().await.value(series) == 2.0
    })
    .await;
}
