//! Limits that several gateways share through a store, and what holds while it is down.

use std::time::{Duration, Instant};

use dgx_gateway_testkit::redis::RedisServer;
use http::Method;
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::{Answer, Gateway, Setup, Stage, until};

/// Of all gateways together.
const BURST: u32 = 60;
const GATEWAYS: u32 = 3;

fn setup(stage: &Stage, store: &str) -> Setup {
    Setup::with_upstream(stage.addr)
        .variable("RATE_LIMIT_PER_SECOND", "0.000001")
        .variable("RATE_LIMIT_BURST", BURST.to_string())
        .section(
            "limits",
            json!({"store": store, "expected_replicas": GATEWAYS,
                "on_store_failure": {"/v1/info": "closed", "/errors": "closed"}}),
        )
}

async fn readiness(gateway: &Gateway) -> Answer {
    gateway.client().await.get("/readyz").await
}

async fn until_shared(gateway: &Gateway, shared: bool) {
    until("the store is noticed", async || {
        readiness(gateway).await.json()["degraded_reasons"].to_string().contains("shared limits limited") != shared
    })
    .await;
}

/// Requests that all gateways together admit of many at the same time.
async fn admitted(gateways: &[Gateway], tries: usize) -> usize {
    let one = async |gateway: &Gateway| {
        let mut client = gateway.client().await;
        let mut admitted = 0;
        for _ in 0..tries {
            let answer = client.get("/v1/models").await;
            match answer.status {
                200 => admitted += 1,
                _ => answer.is_error(429, "rate_limit_exceeded", ""),
            }
            assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("60"));
        }
        admitted
    };
    // two connections to each
    let all = gateways.iter().chain(gateways).map(one);
    futures_util::future::join_all(all).await.into_iter().sum()
}

#[tokio::test]
async fn three_gateways_share_one_limit_and_survive_the_loss_of_the_store() {
    let mut server = RedisServer::start().await.unwrap();
    let stage = Stage::open().await;
    let mut gateways = Vec::new();
    for _ in 0..GATEWAYS {
        gateways.push(setup(&stage, &server.url()).start().await);
    }
    for gateway in &gateways {
        until_shared(gateway, true).await;
    }
    assert_eq!(admitted(&gateways, 20).await, BURST as usize);

    server.kill().await.unwrap();
    for gateway in &gateways {
        until_shared(gateway, false).await;
        let ready = readiness(gateway).await;
        assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    }
    // each goes on with its share of 20, and the paths that are closed are closed
    assert_eq!(admitted(&gateways, 20).await, BURST as usize);
    for path in ["/v1/info", "/errors"] {
        let closed = gateways[0].client().await.get(path).await;
        closed.is_error(503, "service_overloaded", "");
        assert_eq!((closed.header("retry-after"), closed.header("retry-after-ms")), (Some("5"), Some("5000")));
    }
    // so is a failed authentication that cannot be counted there, and only there
    for (path, status) in [("/v1/info", 503), ("/v1/models", 401)] {
        let mut client = gateways[0].client().await;
        client.raw.send_head(&Method::GET, path, &[("authorization", "Bearer guess")]).await.unwrap();
        assert_eq!(client.answer().await.status, status, "{path}");
    }
    let metrics = gateways[0].metrics().await;
    assert_eq!(metrics.value("dgx_gateway_rate_limit_store_up"), 0.0);
    assert!(metrics.value(r#"dgx_gateway_rate_limit_store_failures_total{cause="open"}"#) > 0.0);
    assert_eq!(gateways[0].log().matches("the store of shared limits is down").count(), 1, "said once");

    server.start_again().await.unwrap();
    for gateway in &gateways {
        until_shared(gateway, true).await;
    }
    gateways[0].client().await.get("/v1/info").await.is_ok();
    assert_eq!(admitted(&gateways, 20).await, BURST as usize - 1, "the one of /v1/info counts");
}

#[tokio::test]
async fn tokens_and_failures_are_shared_too() {
    let server = RedisServer::start().await.unwrap();
    let mut stage = Stage::open().await;
    let tokens =
        json!({"version": 1, "tokens": [], "tenants": [{"id": "default", "limits": {"tokens_per_minute": 1000}}]});
    let one = setup(&stage, &server.url()).tokens(tokens.clone()).start().await;
    let two = setup(&stage, &server.url()).tokens(tokens).start().await;
    until_shared(&one, true).await;
    until_shared(&two, true).await;

    let body = json!({"model": "m", "max_tokens": 900, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let mut client = one.client().await;
    client.send_chat(&body).await;
    let mut caller = stage.caller().await;
    two.chat(&body).await.is_error(429, "rate_limit_exceeded", "");
    caller.write("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 502);
    // the settlement reaches the store a moment later
    until("the reservation is given back", async || {
        let mut client = two.client().await;
        client.send_chat(&body).await;
        if tokio::time::timeout(Duration::from_millis(200), async { stage.caller().await.reset() }).await.is_err() {
            client.answer().await.is_error(429, "rate_limit_exceeded", "");
            return false;
        }
        client.answer().await.status == 502
    })
    .await;

    let guess = async |gateway: &Gateway| {
        let mut client = gateway.client().await;
        client.raw.send_head(&Method::GET, "/v1/models", &[("authorization", "Bearer guess")]).await.unwrap();
        client.answer().await.status
    };
    for gateway in [&one, &two].into_iter().cycle().take(10) {
        assert_eq!(guess(gateway).await, 401);
    }
    assert_eq!((guess(&one).await, guess(&two).await), (429, 429));
}

#[tokio::test]
async fn a_gateway_starts_without_its_store_and_shows_no_password() {
    let dead = dgx_gateway_testkit::mock::dead_addr().await.unwrap();
    let stage = Stage::open().await;
    for scheme in ["redis", "rediss"] {
        let gateway = setup(&stage, &format!("{scheme}://someone:hunter2@{dead}/1")).start().await;
        until_shared(&gateway, false).await;
        gateway.client().await.get("/v1/models").await.is_ok();
        gateway.client().await.get("/v1/info").await.is_error(503, "service_overloaded", "");
        until("it is said", async || gateway.log().contains("the store of shared limits is down")).await;
        assert!(!gateway.log().contains("hunter2"), "{}", gateway.log());
    }
}

#[tokio::test]
async fn a_store_that_never_answers_delays_no_request() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::open().await;
    let gateway = setup(&stage, &format!("redis://{}", silent.local_addr().unwrap())).start().await;
    let mut client = gateway.client().await;
    let begun = Instant::now();
    for _ in 0..20 {
        client.get("/v1/models").await.is_ok();
    }
    // one wait of 250 ms for each would be 5 s
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    client.get("/v1/models").await.is_error(429, "rate_limit_exceeded", "");
}

#[test]
fn the_check_asks_no_store_and_shows_no_password() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("conf")).unwrap();
    let check = |store: &str| {
        let limits = json!({"limits": {"store": store}});
        std::fs::write(folder.path().join("conf/gateway.yaml"), limits.to_string()).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dgx-gateway"));
        let output = command.arg("check").env_clear().current_dir(folder.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    // nothing listens on port 1
    assert!(check("redis://someone:hunter2@127.0.0.1:1/0").0);
    for store in ["redis://someone:hunter2@host:notaport", "http://someone:hunter2@host"] {
        let (valid, said) = check(store);
        assert!(!valid && said.contains("limits.store") && !said.contains("hunter2"), "{said}");
    }
}
