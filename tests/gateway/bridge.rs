//! The endpoint bridge, with an endpoint made for it: both directions stream, at the same time too, and a client that
//! leaves cancels its handler. The gateway runs inside this process, with a registry of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use dgx_gateway::config::Overrides;
use dgx_gateway::plugins::Registry;
use dgx_gateway::server::serve;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind};
use dgx_gateway_testkit::client::RawClient;
use dgx_gateway_wire::errors::envelope::OpenAi;
use http::Method;
use http_body_util::BodyExt;

use crate::harness::soon;

const ROUTES: &str = "
- {path: /echo, methods: [POST], endpoint: probe}
- {path: /count, methods: [POST], endpoint: probe}
- {path: /hang, methods: [GET], endpoint: probe}
- {path: /endless, methods: [GET], endpoint: probe}
- {path: /ignore, methods: [POST], endpoint: probe}
";

/// Handlers and bodies that are alive.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

struct Alive;

impl Alive {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Probe;

impl EndpointKind for Probe {
    const NAME: &'static str = "probe";

    fn build(_env: &BuildEnv) -> Result<Router, BuildError> {
        Ok(Router::new()
            .route("/echo", post(async |body: Body| body))
            .route("/count", post(async |body: Body| body.collect().await.unwrap().to_bytes().len().to_string()))
            .route("/ignore", post(async || "ignored"))
            .route("/hang", get(hang))
            .route("/endless", get(endless)))
    }
}

async fn hang() -> &'static str {
    let _alive = Alive::new();
    std::future::pending().await
}

async fn endless() -> Body {
    let alive = Alive::new();
    let pieces = futures_util::stream::unfold(alive, async |alive| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b"piece")), alive))
    });
    Body::from_stream(pieces)
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One gateway for all tests; it ends with the process.
fn gateway() -> SocketAddr {
    static ADDR: std::sync::OnceLock<SocketAddr> = std::sync::OnceLock::new();
    *ADDR.get_or_init(|| {
        let (listen, admin) = (free(), free());
        let (listens, admin) = (listen.to_string(), admin.to_string());
        let data = format!("{}/bridge-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let variables = [
            ("DGX_GATEWAY_LISTEN", &*listens),
            ("DGX_GATEWAY_ADMIN_LISTEN", &*admin),
            ("DGX_GATEWAY_DATA_DIR", &*data),
            ("DGX_GATEWAY_LOG", "warn"),
        ];
        let ambient = Ambient::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        std::thread::spawn(move || {
            let registry = Registry::new(Arc::new(OpenAi), ROUTES).endpoint::<Probe>();
            serve(&Overrides::default(), &ambient, registry).unwrap();
        });
        listen
    })
}

async fn client() -> RawClient {
    let addr = gateway();
    let connected = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match RawClient::connect(addr).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    connected.await.unwrap()
}

#[tokio::test]
async fn both_directions_stream_at_the_same_time() {
    let mut client = client().await;
    client.send_head(&Method::POST, "/echo", &[("transfer-encoding", "chunked")]).await.unwrap();
    for n in 0..20 {
        let piece = format!("piece {n}");
        client.send_chunk(piece.as_bytes()).await.unwrap();
        if n == 0 {
            assert_eq!(soon("an answer", client.read_head()).await.unwrap().0, 200);
        }
        // it comes back before the next one is sent
        assert_eq!(soon("an answer", client.read_piece()).await.unwrap().unwrap(), piece);
    }
    client.send_chunk(b"").await.unwrap();
    assert!(soon("an answer", client.read_piece()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_large_upload_passes_sized_and_chunked() {
    let body = vec![b'x'; 20 << 20];
    let mut client = client().await;
    client.request(&Method::POST, "/count", &[], &body).await.unwrap();
    assert_eq!(soon("an answer", client.read_response()).await.unwrap().text(), body.len().to_string());
    client.send_head(&Method::POST, "/count", &[("transfer-encoding", "chunked")]).await.unwrap();
    for chunk in body.chunks(1 << 20) {
        client.send_chunk(chunk).await.unwrap();
    }
    client.send_chunk(b"").await.unwrap();
    assert_eq!(soon("an answer", client.read_response()).await.unwrap().text(), body.len().to_string());
}

#[tokio::test]
async fn a_handler_that_ignores_its_upload_answers() {
    let mut client = client().await;
    client.request(&Method::POST, "/ignore", &[], b"some bytes that nobody reads").await.unwrap();
    assert_eq!(soon("an answer", client.read_response()).await.unwrap().text(), "ignored");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_handler_and_the_body_of_its_answer() {
    for (path, reset) in [("/hang", false), ("/hang", true), ("/endless", false), ("/endless", true)] {
        let mut client = client().await;
        client.send_head(&Method::GET, path, &[]).await.unwrap();
        if path == "/endless" {
            soon("an answer", client.read_head()).await.unwrap();
            soon("an answer", client.read_piece()).await.unwrap();
        }
        alive(1).await;
        if reset {
            client.abort().unwrap()
        } else {
            drop(client)
        }
        alive(0).await;
    }
}

async fn alive(wanted: usize) {
    soon("an answer", async {
        while ALIVE.load(Ordering::SeqCst) != wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
