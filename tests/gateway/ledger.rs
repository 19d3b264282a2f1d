//! The account of model calls: whatever happens to a request or to the process, exactly one settled row.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, StatusCode};
use rusqlite::Connection;
use serde_json::json;

use crate::harness::{Gateway, Setup, backend, model, until};

/// Requests of the long run, and how many of them there are before the process is killed.
const REQUESTS: u64 = 10_000;
const BEFORE: u64 = 2500;
/// Requests at the same time.
const AT_ONCE: usize = 32;
const DATABASE: &str = "sqlite/gateway.sqlite";

fn database(gateway: &Gateway) -> Connection {
    Connection::open_with_flags(gateway.data(DATABASE), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn count(connection: &Connection, what: &str) -> i64 {
    connection.query_row(&format!("SELECT count(*) FROM usage_calls WHERE {what}"), [], |row| row.get(0)).unwrap()
}

async fn settled(gateway: &Gateway) {
    until("all calls are settled", async || count(&database(gateway), "state = 'reserved'") == 0).await;
}

fn chat(model: &str, stream: bool) -> String {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

#[tokio::test]
async fn each_request_that_is_admitted_has_a_row_and_the_others_have_none() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let setup = Setup::with_upstream(mock.addr()).section("ledger", json!({"durability": "strict"}));
    let gateway = setup.start().await;
    gateway.chat(chat("m", false)).await.is_ok();
    gateway.chat(chat("m", true)).await.is_ok();
    gateway.chat(chat("unknown", false)).await.is_error(400, "model_not_in_allowlist", "model");
    gateway.chat("{}").await.is_error(400, "missing_field", "model");
    settled(&gateway).await;
    let connection = database(&gateway);
    let row = |column: &str| -> String {
        let all = format!("SELECT group_concat({column}, ' ') FROM usage_calls");
        connection.query_row(&all, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(row("status"), "ok ok");
    assert_eq!(
        (row("tenant_id"), row("token_id"), row("user_id")),
        ("default default".into(), "env env".into(), "alice alice".into())
    );
    assert_eq!(
        (row("model"), row("resolved_model"), row("backend_label")),
        ("m m".into(), "m m".into(), "first first".into())
    );
    assert_eq!((row("source"), row("eur_exact")), ("zero zero".into(), "0 0".into()));
    let requests: i64 = connection.query_row("SELECT count(*) FROM usage_requests", [], |row| row.get(0)).unwrap();
    assert_eq!(requests, 2);
}

#[tokio::test]
async fn a_tenant_may_have_its_users_written_under_a_pseudonym() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let defaults = json!({"audit_user_id_pseudonymize": true});
    let tokens = json!({"version": 1, "tokens": [], "tenants": [{"id": "default", "defaults": defaults}]});
    let gateway = Setup::with_upstream(mock.addr()).tokens(tokens).start().await;
    gateway.chat(chat("m", false)).await.is_ok();
    until("the call is booked", async || count(&database(&gateway), "state = 'settled'") == 1).await;
    let connection = database(&gateway);
    let users = "SELECT usage_calls.user_id || ' ' || usage_requests.user_id FROM usage_calls JOIN usage_requests USING (request_uid)";
    let users: String = connection.query_row(users, [], |row| row.get(0)).unwrap();
    let (of_call, of_request) = users.split_once(' ').unwrap();
    assert_eq!(of_call, of_request);
    assert!(of_call.len() == 34 && of_call.starts_with("u_"), "{users}");
}

#[tokio::test]
async fn a_stop_signal_loses_no_row() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let setup = Setup::with_upstream(mock.addr()).section("ledger", json!({"durability": "relaxed"}));
    let mut gateway = setup.start().await;
    for _ in 0..20 {
        gateway.chat(chat("m", false)).await.is_ok();
    }
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(count(&database(&gateway), "state = 'settled' AND status = 'ok'"), 20);
}

#[tokio::test]
async fn without_a_place_to_write_a_call_that_has_to_wait_is_not_made() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let setup = Setup::with_upstream(mock.addr()).section("ledger", json!({"durability": "strict"}));
    let gateway = setup.start().await;
    let other = Connection::open(gateway.data(DATABASE)).unwrap();
    other.execute_batch("DROP TABLE usage_calls").unwrap();
    gateway.chat(chat("m", false)).await.is_error(500, "storage_error", "");
    assert_eq!(mock.requests().len(), 0);
}

/// A number between 0 and `below` that follows from a seed.
fn random(seed: u64, below: u64) -> u64 {
    let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % below
}

/// What an upstream does, by the name of the model.
async fn faulty() -> MockUpstream {
    let usage = |prompt: u64| {
        format!(r#""usage":{{"prompt_tokens":{prompt},"completion_tokens":1,"total_tokens":{}}}"#, prompt + 1)
    };
    let script = Script::default().choose_by_name(move |name| {
        let (kind, tokens) = name.split_once('-')?;
        let tokens: u64 = tokens.parse().ok()?;
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        match kind {
            "ok" => Some(Behaviour::Status {
                status: StatusCode::OK,
                headers,
                body: format!(r#"{{"id":"c","object":"chat.completion","created":1,"model":"x","choices":[{{"index":0,"message":{{"role":"assistant","content":"hi"}},"finish_reason":"stop"}}],{}}}"#, usage(tokens)).into(),
            }),
            "fail" => Some(Behaviour::status(StatusCode::INTERNAL_SERVER_ERROR)),
            "reset" => Some(Behaviour::ResetOnHeaders),
            _ => Some(Behaviour::SlowBody { piece: 40, pause: Duration::from_millis(3) }),
        }
    });
    MockUpstream::start(script.with_looks_apart()).await.unwrap()
}

/// Outcomes as the clients saw them.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    /// Seeds of the requests that were answered.
    seeds: Mutex<Vec<u64>>,
    tokens: AtomicU64,
    failed: AtomicU64,
    left: AtomicU64,
    broken: AtomicU64,
}

/// One request with an end of chance; the id tells its row.
async fn one(addr: std::net::SocketAddr, seed: u64, seen: Arc<Seen>) {
    use crate::harness::BEARER;
    use dgx_gateway_testkit::client::RawClient;
    let Ok(mut client) = RawClient::connect(addr).await else {
        seen.broken.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let (name, leaves) = match random(seed, 8) {
        0..=2 => (format!("ok-{}", random(seed + 1, 8)), false),
        3 => ("fail-0".to_owned(), false),
        4 => ("reset-0".to_owned(), false),
        5 => ("slow-0".to_owned(), false),
        _ => ("slow-1".to_owned(), true),
    };
    let (id, bearer) = (format!("run-{seed}"), format!("Bearer {BEARER}"));
    let headers = [("authorization", &*bearer), ("x-request-id", &*id), ("content-type", "application/json")];
    let body = chat(&name, name.starts_with("slow"));
    if client.request(&http::Method::POST, "/v1/chat/completions", &headers, body.as_bytes()).await.is_err() {
        seen.broken.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if leaves {
        tokio::time::sleep(Duration::from_millis(random(seed + 2, 60))).await;
        seen.left.fetch_add(1, Ordering::Relaxed);
        return;
    }
    match client.read_response().await {
        Ok(answer) if answer.status == 200 => {
            seen.answered.fetch_add(1, Ordering::Relaxed);
            seen.seeds.lock().unwrap().push(seed);
            let tokens = name.strip_prefix("ok-").and_then(|tokens| tokens.parse().ok()).unwrap_or(0);
            seen.tokens.fetch_add(tokens, Ordering::Relaxed);
        }
        Ok(_) => {
            seen.failed.fetch_add(1, Ordering::Relaxed);
        }
        Err(_) => {
            seen.broken.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn run(addr: std::net::SocketAddr, seeds: std::ops::Range<u64>, seen: &Arc<Seen>) {
    let mut running = tokio::task::JoinSet::new();
    for seed in seeds {
        if running.len() == AT_ONCE {
            running.join_next().await;
        }
        running.spawn(one(addr, seed, Arc::clone(seen)));
    }
    while running.join_next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborts_faults_and_a_kill_leave_exactly_one_settled_row_for_each_request() {
    let mock = faulty().await;
    let mut setup =
        Setup::new().backend(backend("first", mock.addr())).section("ledger", json!({"durability": "strict"}));
    let names =
        (0..8).map(|tokens| format!("ok-{tokens}")).chain(["fail-0", "reset-0", "slow-0", "slow-1"].map(str::to_owned));
    for name in names {
        setup = setup.model(model(&name, &[("first", &name)]));
    }
    let mut gateway = setup.log("warn").start().await;
    let seen = Arc::new(Seen::default());
    let (addr, before) = (gateway.addr, Arc::clone(&seen));
    let first = tokio::spawn(async move { run(addr, 0..BEFORE, &before).await });
    until("half of them are booked", async || {
        count(&database(&gateway), "state = 'settled'") >= i64::try_from(BEFORE / 2).unwrap()
    })
    .await;
    gateway.killed_and_started_again().await;
    first.await.unwrap();
    run(gateway.addr, BEFORE..REQUESTS, &seen).await;
    gateway.idle().await; // requests of clients that left may still be on their way
    settled(&gateway).await;

    let connection = database(&gateway);
    let [answered, failed, left, broken] =
        [&seen.answered, &seen.failed, &seen.left, &seen.broken].map(|number| number.load(Ordering::Relaxed));
    assert_eq!(answered + failed + left + broken, REQUESTS);
    let mut select = connection.prepare("SELECT request_id, count(*) FROM usage_calls GROUP BY request_id").unwrap();
    let rows: HashMap<String, i64> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    let doubled: Vec<&String> = rows.iter().filter(|(_, count)| **count != 1).map(|(id, _)| id).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    assert_eq!(count(&connection, "state <> 'settled'"), 0);
    // with `strict` the row of each answer that somebody has seen is on the disk, whenever the process was killed
    let ok = u64::try_from(count(&connection, "status = 'ok'")).unwrap();
    assert!(ok >= answered, "{ok} rows for {answered} answers");
    let known = u64::try_from(rows.len()).unwrap();
    assert!(known >= answered + failed && known <= REQUESTS, "{known} rows, {answered} {failed} {left} {broken}");
    let booked: i64 = connection
        .query_row(
            "SELECT coalesce(sum(prompt_tokens), 0) FROM usage_calls WHERE status = 'ok' AND model LIKE 'ok-%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let said: i64 = connection
        .query_row("SELECT coalesce(sum(CAST(substr(model, 4) AS INTEGER)), 0) FROM usage_calls WHERE status = 'ok' AND model LIKE 'ok-%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(booked, said, "the tokens of each row are those that the upstream said");
    let told = i64::try_from(seen.tokens.load(Ordering::Relaxed)).unwrap();
    assert!(booked >= told, "{booked} tokens are booked, clients were told {told}");
    let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
}

/// A row per request: `request_id status source prompt_tokens`, and how many there are of each.
fn rows(connection: &Connection, sql: &str) -> HashMap<String, Vec<String>> {
    let mut rows: HashMap<String, Vec<String>> = HashMap::new();
    let mut select = connection.prepare(sql).unwrap();
    for row in select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap() {
        let (id, text): (String, String) = row.unwrap();
        rows.entry(id).or_default().push(text);
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_any_moment_lose_no_answered_call_that_has_a_price_and_double_none() {
    const ROUNDS: u64 = 5;
    let mock = faulty().await;
    let prices = tempfile::NamedTempFile::new().unwrap();
    let entry = json!({"backend": "first", "model": "*", "input": "1", "output": "1", "request": "0.01"});
    std::fs::write(prices.path(), json!({"version": 1, "entries": [entry]}).to_string()).unwrap();
    let mut setup = Setup::new().backend(backend("first", mock.addr()));
    setup = setup.section("pricing_file", prices.path().to_str().unwrap());
    let names =
        (0..8).map(|tokens| format!("ok-{tokens}")).chain(["fail-0", "reset-0", "slow-0", "slow-1"].map(str::to_owned));
    for name in names {
        setup = setup.model(model(&name, &[("first", &name)]));
    }
    let mut gateway = setup.log("warn").start().await;
    let seen = Arc::new(Seen::default());
    for round in 0..ROUNDS {
        let each = REQUESTS / ROUNDS;
        let (addr, seeds) = (gateway.addr, round * each..(round + 1) * each);
        let (running, known) = (Arc::clone(&seen), seen.answered.load(Ordering::Relaxed));
        let clients = tokio::spawn(async move { run(addr, seeds, &running).await });
        // somewhere between the first answers and the last ones; half of a round is answered with a call that succeeded
        let kill_at = known + random(round + 77, each * 4 / 10);
        until("the moment of the kill", async || seen.answered.load(Ordering::Relaxed) > kill_at).await;
        gateway.killed_and_started_again().await;
        clients.await.unwrap();
        until("it listens again", async || tokio::net::TcpStream::connect(gateway.addr).await.is_ok()).await;
    }
    gateway.idle().await;
    settled(&gateway).await;

    let connection = database(&gateway);
    let calls =
        rows(&connection, "SELECT request_id, status || ' ' || source || ' ' || prompt_tokens FROM usage_calls");
    let requests = rows(&connection, "SELECT request_id, source FROM usage_requests");
    let doubled: Vec<&String> =
        calls.iter().chain(&requests).filter(|(_, rows)| rows.len() != 1).map(|(id, _)| id).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    let answered = seen.seeds.lock().unwrap().clone();
    assert!(answered.len() > 500, "{} answers", answered.len());
    for seed in answered {
        let id = format!("run-{seed}");
        let call = calls.get(&id).unwrap_or_else(|| panic!("the call of {id} is lost"));
        assert!(call[0].starts_with("ok computed ") || call[0].starts_with("ok estimated "), "{id}: {call:?}");
        if random(seed, 8) <= 2 {
            assert_eq!(call[0], format!("ok computed {}", random(seed + 1, 8)), "{id}");
        }
        assert!(requests.contains_key(&id), "the request of {id} is lost");
    }
    // what a kill left behind is priced, too, and the sums of hours are those of the rows
    let left = count(&connection, "status = 'aborted' AND source = 'unknown'");
    assert_eq!(left, 0);
    let one = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(one("SELECT sum(requests) FROM usage_hours"), one("SELECT count(*) FROM usage_requests"));
    assert_eq!(
        one("SELECT sum(eur_cents) FROM usage_hours"),
        one("SELECT sum(CAST(round(billed_eur * 100) AS INTEGER)) FROM usage_requests")
    );
}
