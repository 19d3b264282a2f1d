//! Clients that pay, and what the account has to say of their calls.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dgx_gateway_testkit::client::RawClient;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{BEARER, PROMPT, Setup, until};

/// The database in a data directory.
pub(super) const DATABASE: &str = "sqlite/gateway.sqlite";
/// What a call must come to: status, source, tokens.
const BOOKED: &str = "ok computed 3 5";

/// An upstream whose calls cost money, and a gateway in front of it.
pub(super) async fn priced() -> (MockUpstream, Setup) {
    let answer = r#"{"id":"c","object":"chat.completion","created":1,"model":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}"#;
    let script = Script::always(Behaviour::json(answer)).with_looks_apart().without_recording();
    let mock = MockUpstream::start(script).await.unwrap();
    let entry = json!({"backend": "first", "model": "*", "input": "1", "output": "1", "request": "0.01"});
    let setup = Setup::with_upstream(mock.addr()).prices(json!({"version": 1, "entries": [entry]})).log("warn");
    (mock, setup)
}

/// Clients that ask one thing after the other. The request ids of client 2 are `2-0`, `2-1` and so on, behind the name
/// of all of them if they have one.
pub(super) struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    addr: Mutex<SocketAddr>,
    stop: AtomicBool,
    answered: Mutex<Vec<String>>,
    refused: Mutex<Vec<String>>,
    broken: AtomicU64,
}

impl Clients {
    pub(super) fn start(count: usize, addr: SocketAddr) -> Self {
        Self::named("", count, addr)
    }

    pub(super) fn named(name: &str, count: usize, addr: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            addr: Mutex::new(addr),
            stop: AtomicBool::new(false),
            answered: Mutex::default(),
            refused: Mutex::default(),
            broken: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for client in 0..count {
            tasks.spawn(ask(format!("{name}{client}"), Arc::clone(&shared)));
        }
        Self { shared, tasks }
    }

    /// Ids of the calls that were answered in full so far.
    pub(super) fn answered(&self) -> Vec<String> {
        self.shared.answered.lock().unwrap().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.shared.answered.lock().unwrap().len()
    }

    /// Waits for so many more answers.
    pub(super) async fn answered_more(&self, more: usize) {
        let from = self.count();
        until("calls are answered", async || self.count() >= from + more).await;
    }

    /// Bodies of the other answers.
    pub(super) fn refused(&self) -> Vec<String> {
        self.shared.refused.lock().unwrap().clone()
    }

    /// Calls of which no answer came.
    pub(super) fn broken(&self) -> u64 {
        self.shared.broken.load(Ordering::Relaxed)
    }

    /// Where to ask from now on.
    pub(super) fn go_to(&self, addr: SocketAddr) {
        *self.shared.addr.lock().unwrap() = addr;
    }

    /// Lets the calls that run end; no more are made.
    pub(super) async fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    /// The same, and gives all that were answered.
    pub(super) async fn stopped(mut self) -> Vec<String> {
        self.end().await;
        self.answered()
    }
}

/// The body of a call.
pub(super) fn chat() -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": PROMPT}]}).to_string()
}

async fn ask(client: String, shared: Arc<Shared>) {
    let (bearer, body) = (format!("Bearer {BEARER}"), chat());
    let mut connection = None;
    let mut number = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let addr = *shared.addr.lock().unwrap();
        let open = match connection.take() {
            Some((at, open)) if at == addr => Ok(open),
            _ => RawClient::connect(addr).await,
        };
        let Ok(mut open) = open else {
            tokio::time::sleep(Duration::from_millis(5)).await; // nobody listens at the moment
            continue;
        };
        let id = format!("{client}-{number}");
        let headers = [("authorization", &*bearer), ("x-request-id", &*id), ("content-type", "application/json")];
        let sent = open.request(&Method::POST, "/v1/chat/completions", &headers, body.as_bytes()).await;
        number += 1;
        let answer = match sent {
            Ok(()) => {
                tokio::time::timeout(Duration::from_secs(30), open.read_response()).await.ok().and_then(Result::ok)
            }
            Err(_) => None,
        };
        match answer {
            Some(answer) if answer.status == 200 => {
                let stays = answer.headers.get("connection").is_none_or(|value| value != "close");
                shared.answered.lock().unwrap().push(id);
                connection = stays.then_some((addr, open));
            }
            Some(answer) => {
                shared.refused.lock().unwrap().push(answer.text());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            None => drop(shared.broken.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// A database, for reading.
pub(super) fn open(path: &Path) -> Connection {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

pub(super) fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// What `PRAGMA integrity_check` says.
pub(super) fn integrity(connection: &Connection) -> String {
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

/// Rows by request id.
pub(super) fn rows(connection: &Connection, sql: &str) -> HashMap<String, Vec<String>> {
    let mut rows: HashMap<String, Vec<String>> = HashMap::new();
    let mut select = connection.prepare(sql).unwrap();
    for row in select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap() {
        let (id, text): (String, String) = row.unwrap();
        rows.entry(id).or_default().push(text);
    }
    rows
}

/// What an account comes to.
#[derive(Debug)]
pub(super) struct Account {
    /// Ids of requests with a row.
    pub(super) requests: Vec<String>,
    pub(super) calls: usize,
}

/// The database is sound, has each of these calls once as it was answered, no call twice, and its sums are those of its
/// rows.
pub(super) fn account(connection: &Connection, answered: &[String]) -> Account {
    assert_eq!(integrity(connection), "ok");
    let one_snapshot = connection.unchecked_transaction().unwrap();
    let calls = rows(
        connection,
        "SELECT request_id, coalesce(status, state) || ' ' || coalesce(source, '-') || ' ' || prompt_tokens || ' ' ||
            completion_tokens FROM usage_calls",
    );
    let requests = rows(connection, "SELECT request_id, source FROM usage_requests");
    let doubled: Vec<&String> =
        calls.iter().chain(&requests).filter(|(_, rows)| rows.len() != 1).map(|(id, _)| id).collect();
    assert!(doubled.is_empty(), "double: {doubled:?}");
    let is_booked = |id: &String| calls.get(id).is_some_and(|call| call[0] == BOOKED) && requests.contains_key(id);
    let lost: Vec<_> = answered.iter().filter(|id| !is_booked(id)).map(|id| (id, calls.get(id))).collect();
    assert!(lost.is_empty(), "lost {} of {}: {:?}", lost.len(), answered.len(), &lost[..lost.len().min(20)]);
    let [in_hours, in_rows] =
        ["SELECT coalesce(sum(requests), 0) FROM usage_hours", "SELECT count(*) FROM usage_requests"]
            .map(|sql| number(connection, sql));
    assert_eq!(in_hours, in_rows, "the sums of hours are those of the rows");
    let cents = [
        "SELECT coalesce(sum(eur_cents), 0) FROM usage_hours",
        "SELECT coalesce(sum(CAST(round(billed_eur * 100) AS INTEGER)), 0) FROM usage_requests",
    ];
    let [in_hours, in_rows] = cents.map(|sql| number(connection, sql));
    assert_eq!(in_hours, in_rows, "so are those of amounts");
    drop(one_snapshot);
    Account { requests: requests.into_keys().collect(), calls: calls.len() }
}
