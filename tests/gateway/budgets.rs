//! Budgets of a tenant: what they refuse, what they say, and that no race and no end of a request or of the process
//! makes them lose count.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dgx_gateway_testkit::mock::{Answer as MockAnswer, Behaviour, MockUpstream, Script};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, Setup, backend, model, until};

/// Requests at the same time.
const AT_ONCE: usize = 200;

fn budget(id: &str, models: &[&str], window: &str, limit: (&str, Value), mode: &str) -> Value {
    json!({"id": id, "models": models, "window": window, limit.0: limit.1, "mode": mode})
}

fn tokens(budgets: &[Value]) -> Value {
    json!({"version": 1, "tokens": [], "tenants": [{"id": "default", "budgets": budgets}]})
}

/// A local backend with the models `m` and `n`.
fn setup(mock: &MockUpstream, budgets: &[Value]) -> Setup {
    Setup::with_upstream(mock.addr()).model(model("n", &[("first", "upstream-name-of-n")])).tokens(tokens(budgets))
}

async fn mock(script: Script) -> MockUpstream {
    MockUpstream::start(script.with_looks_apart()).await.unwrap()
}

fn chat(model: &str, max_tokens: u64) -> String {
    json!({"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

fn used_up(answer: &Answer, window_seconds: u64) {
    answer.is_error(429, "model_quota_exhausted", "model");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=window_seconds).contains(&wait), "{wait}");
    assert!(answer.header("retry-after-ms").is_some());
    assert_eq!(answer.header("x-should-retry"), (wait > 60).then_some("false"));
    let message = answer.json()["error"]["message"].as_str().unwrap().to_lowercase();
    for word in ["http", "eur", "openai", "first", "upstream", "budget"] {
        assert!(!message.contains(word), "{message}");
    }
}

async fn ratio(gateway: &Gateway, budget: &str) -> f64 {
    let series = format!("dgx_gateway_budget_used_ratio{{budget=\"{budget}\",tenant=\"default\"}}");
    gateway.metrics().await.value(&series)
}

/// Statuses of many requests that are sent at the same time, sorted.
async fn at_once(gateway: &Gateway, count: usize, body: &str) -> (usize, Vec<Answer>) {
    let answers = futures_util::future::join_all((0..count).map(|_| gateway.chat(body.to_owned()))).await;
    let admitted = answers.iter().filter(|answer| answer.status == 200).count();
    (admitted, answers.into_iter().filter(|answer| answer.status != 200).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_against_a_budget_for_ten_are_ten() {
    let slow = MockAnswer { before_head: Duration::from_millis(300), ..MockAnswer::default() };
    let mock = mock(Script::always(Behaviour::Answer(slow))).await;
    let day = budget("ten", &["m"], "day", ("limit_requests", json!(10)), "hard");
    let gateway = setup(&mock, &[day]).log("warn").start().await;
    let (admitted, refused) = at_once(&gateway, AT_ONCE, &chat("m", 5)).await;
    assert_eq!((admitted, refused.len()), (10, AT_ONCE - 10));
    refused.iter().for_each(|answer| used_up(answer, 86_400));
    assert_eq!(mock.requests().len(), 10);
    assert_eq!(ratio(&gateway, "ten").await, 1.0);
    let limited = r#"dgx_gateway_rate_limited_total{kind="budget",tenant="default"}"#;
    assert_eq!(gateway.metrics().await.value(limited), (AT_ONCE - 10) as f64);
    gateway.chat(chat("n", 5)).await.is_ok();
}

#[tokio::test]
async fn an_answer_gives_back_what_it_did_not_use_before_its_last_byte() {
    // 12 + 4 tokens are reported; a worst case is half of the body and 500
    let mock = mock(Script::default()).await;
    let hour = budget("hour", &["*"], "hour", ("limit_tokens", json!(1000)), "hard");
    let gateway = setup(&mock, &[hour]).start().await;
    let mut client = gateway.client().await;
    for _ in 0..20 {
        client.chat(chat("m", 500)).await.is_ok();
    }
    assert_eq!(ratio(&gateway, "hour").await, 0.32);
    used_up(&client.chat(chat("m", 1000)).await, 3600);
    let stream =
        json!({"model": "m", "max_tokens": 500, "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    for _ in 0..5 {
        client.chat(stream.to_string()).await.is_ok();
    }
    assert_eq!(ratio(&gateway, "hour").await, 0.4);
}

#[tokio::test]
async fn a_budget_that_warns_lets_run_and_says_which() {
    let mock = mock(Script::default()).await;
    let budgets = [
        budget("none", &["*"], "month", ("limit_requests", json!(0)), "warn"),
        budget("two", &["m"], "day", ("limit_requests", json!(2)), "warn"),
        budget("hard", &["m"], "day", ("limit_requests", json!(3)), "hard"),
    ];
    let gateway = setup(&mock, &budgets).start().await;
    let warning = |answer: &Answer| answer.header("spass-budget-warning").map(str::to_owned);
    for expected in ["none", "none", "none, two"] {
        let answer = gateway.chat(chat("m", 5)).await;
        assert_eq!(warning(answer.is_ok()).as_deref(), Some(expected));
    }
    let refused = gateway.chat(chat("m", 5)).await;
    used_up(&refused, 86_400);
    assert_eq!(warning(&refused), None, "what does not run is not warned of");
}

#[tokio::test]
async fn prices_bound_what_a_budget_in_euros_lets_out() {
    let usage = MockAnswer { usage: Some((100, 100)), ..MockAnswer::default() };
    let mock = mock(Script::always(Behaviour::Answer(usage))).await;
    let mut cloud = backend("cloud", mock.addr());
    cloud["domain"] = json!("cloud");
    // a euro for a thousand tokens written: 200 at most are 0.20, 100 that are used 0.10
    let prices = tempfile::NamedTempFile::new().unwrap();
    let entries = json!([{"backend": "cloud", "model": "*", "currency": "EUR", "input": "0", "output": "1000"}]);
    std::fs::write(prices.path(), json!({"version": 1, "entries": entries}).to_string()).unwrap();
    let day = budget("cloud-day", &["opus"], "day", ("limit_eur", json!("1.00")), "hard");
    let gateway = Setup::new()
        .backend(cloud)
        .backend(backend("first", mock.addr()))
        .model(model("opus", &[("cloud", "org/opus"), ("first", "opus")]))
        .section("pricing_file", prices.path().to_str().unwrap())
        .tokens(tokens(&[day]))
        .start()
        .await;
    let mut client = gateway.client().await;
    for number in 1..=9 {
        client.chat(chat("opus-cloud", 200)).await.is_ok();
        assert_eq!(ratio(&gateway, "cloud-day").await, f64::from(number) / 10.0);
    }
    used_up(&client.chat(chat("opus-cloud", 200)).await, 86_400);
    client.chat(chat("opus-cloud", 100)).await.is_ok();
    used_up(&client.chat(chat("opus", 1)).await, 86_400);
    client.chat(chat("opus-local", 5000)).await.is_ok(); // costs nothing
}

#[tokio::test]
async fn what_was_used_survives_a_kill_and_so_does_what_was_under_way() {
    let slow = MockAnswer { before_head: Duration::from_secs(600), ..MockAnswer::default() };
    let script = Script::default()
        .choose_by_name(move |name| (name == "upstream-name-of-n").then(|| Behaviour::Answer(slow.clone())));
    let mock = mock(script).await;
    let budgets = [
        budget("requests", &["*"], "day", ("limit_requests", json!(10)), "hard"),
        budget("tokens", &["m"], "month", ("limit_tokens", json!(1600)), "hard"),
    ];
    let mut gateway = setup(&mock, &budgets).start().await;
    for _ in 0..5 {
        gateway.chat(chat("m", 5)).await.is_ok();
    }
    let mut waiting = gateway.client().await;
    waiting.send_chat(chat("n", 5)).await;
    until("the upstream has it", async || mock.requests().len() == 6).await;
    assert_eq!((ratio(&gateway, "requests").await, ratio(&gateway, "tokens").await), (0.5, 0.05));
    gateway.killed_and_started_again().await;
    // the call that was under way counts as aborted
    assert_eq!((ratio(&gateway, "requests").await, ratio(&gateway, "tokens").await), (0.6, 0.05));
    let (admitted, refused) = at_once(&gateway, 8, &chat("m", 5)).await;
    assert_eq!((admitted, refused.len()), (4, 4));
}

/// A number between 0 and `below` that follows from a seed.
fn random(seed: u64, below: u64) -> u64 {
    let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % below
}

/// One request that its client may leave, at a moment of chance.
async fn may_leave(gateway: &Gateway, seed: u64) {
    let mut client = gateway.client().await;
    let stream = random(seed, 2) == 0;
    let body =
        json!({"model": "m", "stream": stream, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    client.send_chat(body.to_string()).await;
    if random(seed + 1, 4) > 0 {
        tokio::time::sleep(Duration::from_millis(random(seed + 2, 40))).await;
    } else {
        let _either: Answer = client.answer().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborts_at_every_moment_leave_nothing_reserved_and_count_as_the_ledger_does() {
    let mock = mock(Script::always(Behaviour::SlowBody { piece: 60, pause: Duration::from_millis(4) })).await;
    let limit = 10_000_000_u64;
    let budgets = [
        budget("tokens", &["m"], "month", ("limit_tokens", json!(limit)), "hard"),
        budget("requests", &["*"], "month", ("limit_requests", json!(limit)), "hard"),
    ];
    let gateway = setup(&mock, &budgets).log("warn").start().await;
    for round in 0..40 {
        let seeds = (0..25).map(|number| round * 1000 + number * 10);
        futures_util::future::join_all(seeds.map(|seed| may_leave(&gateway, seed))).await;
    }
    gateway.idle().await;
    let database = rusqlite::Connection::open_with_flags(
        gateway.data("sqlite/gateway.sqlite"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    let number = |sql: &str| -> u64 { database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs() };
    until("all calls are settled", async || number("SELECT count(*) FROM usage_calls WHERE state = 'reserved'") == 0)
        .await;
    let tokens = number("SELECT coalesce(sum(prompt_tokens + completion_tokens), 0) FROM usage_calls");
    let requests = number("SELECT count(*) FROM usage_requests");
    assert!(number("SELECT count(*) FROM usage_calls WHERE status = 'aborted'") > 0);
    let near = |ratio: f64, number: u64| (ratio * limit as f64 - number as f64).abs() < 0.01;
    assert!(near(ratio(&gateway, "tokens").await, tokens) && near(ratio(&gateway, "requests").await, requests));
    // nothing is held: a call that needs exactly what is left passes, one token more does not
    let body = |max_tokens: u64| chat("m", max_tokens);
    let left = limit - tokens;
    let digits = |max_tokens: u64| (body(max_tokens).len() as u64).div_ceil(2);
    let exactly = (0..left).rev().find(|max_tokens| max_tokens + digits(*max_tokens) <= left).unwrap();
    used_up(&gateway.chat(body(exactly + 1)).await, 31 * 86_400);
    gateway.chat(body(exactly)).await.is_ok();
}

#[tokio::test]
async fn uploads_and_all_other_model_routes_count() {
    let mock = mock(Script::default()).await;
    let none = budget("none", &["*"], "hour", ("limit_requests", json!(0)), "hard");
    let mut first = backend("first", mock.addr());
    first["protocols"] = json!([
        "chat",
        "completions",
        "responses",
        "messages",
        "embeddings",
        "rerank",
        "images",
        "speech",
        "transcription",
        "translation"
    ]);
    let typed = |alias: &str, kind: &str| {
        let mut model = model(alias, &[("first", alias)]);
        model["type"] = kind.into();
        model
    };
    let mut setup = Setup::new().backend(first).tokens(tokens(&[none]));
    for (alias, kind) in [("m", "chat"), ("v", "embedding"), ("r", "rerank"), ("i", "image"), ("a", "audio")] {
        setup = setup.model(typed(alias, kind));
    }
    let gateway = setup.start().await;
    let message = json!([{"role": "user", "content": "hi"}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": "m", "messages": message})),
        ("/v1/completions", json!({"model": "m", "prompt": "hi"})),
        ("/v1/responses", json!({"model": "m", "input": "hi"})),
        ("/v1/embeddings", json!({"model": "v", "input": "hi"})),
        ("/v1/rerank", json!({"model": "r", "query": "q", "documents": ["d"]})),
        ("/v1/images/generations", json!({"model": "i", "prompt": "p"})),
        ("/v1/audio/speech", json!({"model": "a", "input": "hi", "voice": "v"})),
        ("/v1/messages", json!({"model": "m", "max_tokens": 5, "messages": message})),
    ] {
        let json = [("content-type", "application/json")];
        let answer =
            gateway.client().await.request(&http::Method::POST, path, &json, body.to_string().as_bytes()).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &json!("model_quota_exhausted")), "{path}");
    }
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\na\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\nID3\r\n--b--\r\n";
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations"] {
        let form_type = [("content-type", "multipart/form-data; boundary=b")];
        let answer = gateway.client().await.request(&http::Method::POST, path, &form_type, form.as_bytes()).await;
        answer.is_error(429, "model_quota_exhausted", "model");
    }
    assert_eq!(mock.requests().len(), 0);
}

#[test]
fn the_check_refuses_a_hard_limit_in_euros_over_a_model_without_a_price() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["conf", "auth"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let mut cloud = backend("cloud", "127.0.0.1:1".parse().unwrap());
    cloud["domain"] = json!("cloud");
    let local = backend("here", "127.0.0.1:1".parse().unwrap());
    std::fs::write(path("conf/gateway.yaml"), json!({"backends": [cloud, local]}).to_string()).unwrap();
    let models = json!({"version": 1, "models": [model("opus", &[("here", "opus"), ("cloud", "org/opus")])]});
    std::fs::write(path("conf/models.yaml"), models.to_string()).unwrap();
    let check = |globs: &[&str], mode: &str, prices: Value| {
        let budget = budget("day", globs, "day", ("limit_eur", json!("5")), mode);
        let text = format!("version: 1\ntenants:\n  - id: acme\n    budgets:\n      - {budget}\n");
        std::fs::write(path("auth/tokens.yaml"), text).unwrap();
        std::fs::write(path("conf/pricing.yaml"), json!({"version": 1, "entries": prices}).to_string()).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dgx-gateway"));
        let output = command.arg("check").env_clear().current_dir(folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = check(&["opus"], "hard", json!([]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("auth/tokens.yaml:5: tenants[0].budgets[0].models: "), "{said}");
    assert!(said.contains("org/opus") && said.contains("cloud"), "{said}");
    let price = json!([{"backend": "cloud", "model": "org/*", "input": "1", "output": "1"}]);
    for (globs, mode, prices) in
        [(&["opus"][..], "hard", price), (&["opus-local"], "hard", json!([])), (&["opus"], "warn", json!([]))]
    {
        let (code, said) = check(globs, mode, prices);
        assert_eq!(code, Some(0), "{globs:?} {mode}: {said}");
    }
}

#[tokio::test]
async fn the_wait_ends_with_the_window() {
    let mock = mock(Script::default()).await;
    let none = |window: &str| budget(window, &["m"], window, ("limit_requests", json!(0)), "hard");
    for (windows, longest) in [(&["hour"][..], 3600_u64), (&["hour", "day"], 86_400)] {
        let budgets: Vec<Value> = windows.iter().map(|window| none(window)).collect();
        let gateway = setup(&mock, &budgets).start().await;
        let left = |now: SystemTime| longest - now.duration_since(UNIX_EPOCH).unwrap().as_secs() % longest;
        let before = left(SystemTime::now());
        let answer = gateway.chat(chat("m", 5)).await;
        used_up(&answer, longest);
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        // the longest of all, and no more than what was left before
        assert!((before + longest - wait) % longest <= 60, "{before} {wait}");
    }
}

#[tokio::test]
async fn a_budget_that_changes_by_a_reload_holds_at_once() {
    let mock = mock(Script::default()).await;
    let day = |limit| budget("day", &["m"], "day", ("limit_requests", json!(limit)), "hard");
    let gateway = setup(&mock, &[day(1)]).start().await;
    let reload = async |budgets: &[Value]| {
        gateway.put("auth/tokens.yaml", &tokens(budgets).to_string());
        assert_eq!(gateway.reload().await.0, 200);
    };
    gateway.chat(chat("m", 5)).await.is_ok();
    used_up(&gateway.chat(chat("m", 5)).await, 86_400);
    reload(&[day(2)]).await;
    gateway.chat(chat("m", 5)).await.is_ok();
    used_up(&gateway.chat(chat("m", 5)).await, 86_400);
    reload(&[day(100)]).await;
    gateway.chat(chat("m", 5)).await.is_ok();
    reload(&[day(2)]).await;
    used_up(&gateway.chat(chat("m", 5)).await, 86_400);
    reload(&[]).await;
    gateway.chat(chat("m", 5)).await.is_ok();
}
