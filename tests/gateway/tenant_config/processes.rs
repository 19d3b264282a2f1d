//! Several processes on one data directory, a kill, a database that cannot be written.

use std::time::{Duration, Instant};

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use http::Method;
use rusqlite::Connection;
use serde_json::json;

use super::{ask, get, put, set, tokens, with_models};
use crate::harness::{Gateway, until};

/// Longest time until a change holds everywhere, as the contract says.
const FOLLOWS: Duration = Duration::from_secs(5);

async fn started() -> Gateway {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    with_models(mock.addr()).tokens(tokens(&json!({}))).start().await
}

async fn top_k(gateway: &Gateway) -> i64 {
    get(gateway.addr, "acme-admin", "/rag_top_k").await.is_ok().json()["value"].as_i64().unwrap()
}

/// What `so` asks for holds for every request that begins later than the contract allows after this moment.
async fn follows(what: &str, so: impl AsyncFn() -> bool) {
    let changed = Instant::now();
    loop {
        let asked = changed.elapsed();
        if so().await {
            return;
        }
        assert!(asked < FOLLOWS, "a request that began {asked:?} after the change does not see it: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_change_holds_in_another_process_on_the_same_data_within_five_seconds() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let one = with_models(mock.addr()).tokens(tokens(&json!({}))).start().await;
    set(one.addr, "rag_top_k", "7").await;
    let other = one.beside().await;
    assert_eq!(top_k(&other).await, 7, "it starts with what is stored");
    // what a request is answered, not what the endpoint lists
    let paints = async |gateway: &Gateway| {
        let body = r#"{"model": "painter", "prompt": "a"}"#;
        let answer = ask(gateway.addr, "acme-user", &Method::POST, "/v1/images/generations", body).await;
        assert!([200, 403].contains(&answer.status), "{}", answer.text());
        answer.status == 200
    };
    for (writes, reads) in [(&one, &other), (&other, &one)] {
        assert!(paints(reads).await);
        set(writes.addr, "image_gen_max_per_request", "0").await;
        follows("images are off", async || !paints(reads).await).await;
        assert!(!paints(writes).await, "at once where it was set");
        super::delete(writes.addr, "acme-admin", "/image_gen_max_per_request").await;
        follows("images are on again", async || paints(reads).await).await;
        let all = r#"{"config": {"rag_top_k": 9, "tool_timeout_seconds": 7}}"#;
        put(writes.addr, "acme-admin", "", all).await.is_ok();
        follows("the list shows it", async || top_k(reads).await == 9).await;
        set(writes.addr, "rag_top_k", "7").await;
        follows("the list shows it again", async || top_k(reads).await == 7).await;
    }
}

#[tokio::test]
async fn changes_of_two_processes_at_the_same_time_all_count() {
    let one = started().await;
    let other = one.beside().await;
    let mut running = tokio::task::JoinSet::new();
    for (addr, key) in [(one.addr, "tool_timeout_seconds"), (other.addr, "images_retention_days")] {
        running.spawn(async move {
            for value in 1..=25 {
                set(addr, key, &value.to_string()).await;
            }
        });
    }
    running.join_all().await;
    for gateway in [&one, &other] {
        until("both see the last of both", async || {
            let config = get(gateway.addr, "acme-admin", "").await.json()["config"].clone();
            config["tool_timeout_seconds"]["value"] == 25 && config["images_retention_days"]["value"] == 25
        })
        .await;
    }
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_acknowledged() {
    let mut gateway = started().await;
    for value in [11, 12, 13] {
        set(gateway.addr, "rag_top_k", &value.to_string()).await;
        set(gateway.addr, "compaction_threshold", "0.50").await;
        gateway.killed_and_started_again().await;
        until("it serves again", async || tokio::net::TcpStream::connect(gateway.addr).await.is_ok()).await;
        assert_eq!(top_k(&gateway).await, value);
        let answer = get(gateway.addr, "acme-admin", "/compaction_threshold").await;
        assert_eq!(super::value_in(answer.text()), "0.50");
        assert_eq!(answer.json()["updated_by"], "acme-admin");
    }
}

#[tokio::test]
async fn a_database_that_refuses_is_a_storage_error_and_the_values_stay() {
    let gateway = started().await;
    set(gateway.addr, "rag_top_k", "7").await;
    let other = Connection::open(gateway.data("sqlite/gateway.sqlite")).unwrap();
    other.execute_batch("DROP TABLE tenant_config_changes").unwrap();
    put(gateway.addr, "acme-admin", "/rag_top_k", r#"{"value": 8}"#).await.is_error(500, "storage_error", "");
    super::delete(gateway.addr, "acme-admin", "/rag_top_k").await.is_error(500, "storage_error", "");
    assert_eq!(top_k(&gateway).await, 7);
}
