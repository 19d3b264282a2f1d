//! Reloads while requests run all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{main_file, models, patient, tokens};
use crate::harness::{Client, Gateway, Setup};

/// Clients that ask all the time.
const CLIENTS: usize = 6;

fn chat(content: &str) -> String {
    json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}).to_string()
}

async fn started(tokens_file: &str) -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let setup = patient(Setup::with_upstream(mock.addr())).tokens_yaml(tokens_file);
    (setup.log("warn").start().await, mock)
}

/// Clients that ask with these secrets in turn until they are told to stop; gives what each of them was answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<Vec<(&'static str, u16)>>,
}

impl Load {
    fn begin(gateway: &Gateway, secrets: &'static [&'static str]) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (addr, stop, answered) = (gateway.addr, Arc::clone(&stop), Arc::clone(&answered));
            clients.spawn(async move {
                let secret = secrets[client % secrets.len()];
                let mut connection = Client::connect_with(addr, secret).await;
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.chat(chat(secret)).await;
                    seen.push((secret, answer.status));
                    if answer.says_close() {
                        connection = Client::connect_with(addr, secret).await;
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                seen
            });
        }
        Self { stop, answered, clients }
    }

    /// Waits until so many more requests have been answered.
    async fn goes_on(&self, more: u64) {
        let from = self.answered.load(Ordering::Relaxed);
        crate::harness::until("requests are answered", async || self.answered.load(Ordering::Relaxed) >= from + more)
            .await;
    }

    async fn end(self) -> Vec<(&'static str, u16)> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await.into_iter().flatten().collect()
    }
}

/// A configuration: its token, the name of the model at the upstream, and its floor go together.
fn put(gateway: &Gateway, mock: &MockUpstream, name: &str, floor: u32) {
    gateway.put("auth/tokens.yaml", &tokens(name));
    let models = models("m").replace("upstream-name-of-m", &format!("upstream-{name}"));
    gateway.put("conf/models.yaml", &format!("{models}    constraints: {{min_max_tokens: {floor}}}\n"));
    let limits = "limits: {auth_failures: {per_minute: 1000000, burst: 1000000}}";
    gateway.put("conf/gateway.yaml", &main_file(mock.addr(), limits));
}

#[tokio::test]
async fn a_request_sees_all_of_the_old_or_all_of_the_new() {
    let (gateway, mock) = started(&tokens("one")).await;
    put(&gateway, &mock, "one", 100);
    assert_eq!(gateway.reload().await.0, 200);
    let load = Load::begin(&gateway, &["one", "two"]);
    for round in 0..20 {
        let (name, floor) = [("two", 200), ("one", 100)][round % 2];
        put(&gateway, &mock, name, floor);
        assert_eq!(gateway.reload().await.0, 200);
        load.goes_on(20).await;
    }
    let seen = load.end().await;
    let count = |secret, status| seen.iter().filter(|one| **one == (secret, status)).count();
    let served = count("one", 200) + count("two", 200);
    assert_eq!(seen.len(), served + count("one", 401) + count("two", 401), "{seen:?}");
    assert!(count("one", 200) > 10 && count("two", 200) > 10 && count("one", 401) > 10, "both were in use");
    let mut calls = 0;
    for call in mock.requests() {
        let Ok(body) = serde_json::from_slice::<Value>(&call.body) else { continue };
        let secret = body["messages"][0]["content"].as_str().unwrap();
        let floor = if secret == "one" { 100 } else { 200 };
        assert_eq!((&body["model"], &body["max_tokens"]), (&json!(format!("upstream-{secret}")), &json!(floor)));
        calls += 1;
    }
    assert_eq!(calls, served);
}

#[tokio::test]
async fn a_hundred_reloads_lose_no_request_and_leave_nothing_behind() {
    let (gateway, mock) = started(&tokens("one")).await;
    let load = Load::begin(&gateway, &["one"]);
    let mut after_some = (0, 0, 0);
    for round in 0..120 {
        put(&gateway, &mock, "one", round + 1);
        let (code, answer) = gateway.reload().await;
        assert_eq!((code, &answer["generation"]), (200, &json!(round + 2)), "{answer}");
        load.goes_on(2).await;
        if round == 19 {
            after_some = (gateway.memory("VmRSS"), gateway.threads(), gateway.sockets());
        }
    }
    let after_all = (gateway.memory("VmRSS"), gateway.threads(), gateway.sockets());
    let seen = load.end().await;
    assert!(seen.len() > 200 && seen.iter().all(|(_, status)| *status == 200), "{seen:?}");
    println!("memory, threads, sockets after 20 reloads {after_some:?}, after 120 {after_all:?}");
    assert!(after_all.0 < after_some.0 + (8 << 20), "memory grew from {} to {}", after_some.0, after_all.0);
    // threads for blocking work come and go
    assert!(after_all.1 <= after_some.1 + 4, "threads grew from {} to {}", after_some.1, after_all.1);
    assert!(after_all.2 <= after_some.2 + 4, "sockets grew from {} to {}", after_some.2, after_all.2);
    gateway.idle().await;
    assert_eq!(gateway.metrics().await.sum("dgx_gateway_backend_in_flight"), 0.0);
}
