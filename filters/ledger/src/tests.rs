//! The ledger as requests use it: whatever happens, each call ends as exactly one settled row.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_filter::facts::{Meter, ModelCall, ModelChoice, Principal, Report, Scopes, Usage};
use dgx_gateway_filter::money::Terms;
use dgx_gateway_filter::{BuildEnv, ErrorCode, Filter, FilterKind, Outcome, Rope, ServiceKind};
use dgx_gateway_store::Store;
use dgx_gateway_testkit::exchange::{ExchangeDriver, attempt_request};
use http::{Request, StatusCode};
use proptest::prelude::*;
use rust_decimal::Decimal;
use tempfile::TempDir;

use crate::{Book, Durability, LedgerSettings, Service, Settings};

struct AllScopes;

impl Scopes for AllScopes {
    fn allow(&self, _scope: &str) -> bool {
        true
    }
}

fn principal() -> Principal {
    Principal {
        tenant_id: "acme".into(),
        token_id: "app".into(),
        user_id: Some("alice".into()),
        bearer_digest: [1; 32],
        rate_limit: None,
        rate_limit_bypass: false,
        models: None,
        max_tokens: None,
        models_allowlist: None,
        models_blacklist: None,
        cost_markup_factor: Decimal::ONE,
        pseudonymous: false,
        scopes: Arc::new(AllScopes),
    }
}

fn terms() -> Terms {
    let (rate, fx_markup) = (Decimal::new(8546, 4), Decimal::new(5, 2));
    let began = SystemTime::UNIX_EPOCH;
    Terms { began, rate, rate_source: "ecb-2026-05-15".into(), fx_markup, factor: Decimal::ONE }
}

/// A process with its ledger, in a directory that outlives it.
pub(crate) struct Process {
    filter: Arc<dyn Filter>,
    store: Arc<Store>,
}

impl Process {
    pub(crate) fn start(dir: &TempDir, durability: Durability) -> Self {
        let mut env = BuildEnv::new(
            Arc::new(SystemClock),
            Ambient::default(),
            dir.path().to_owned(),
            prometheus::Registry::new(),
        );
        <dgx_gateway_store::Service as ServiceKind>::build((), &mut env).unwrap();
        let ledger = LedgerSettings { durability: Some(durability) };
        let settings = Settings { ledger, ..Settings::default() };
        Service::build(Service::check(settings, &env.ambient).unwrap(), &mut env).unwrap();
        let filter = Book::build((), &env).unwrap();
        Self { filter, store: env.service().unwrap() }
    }

    pub(crate) async fn begin(&self, local: bool) -> ExchangeDriver {
        let mut driver = self.driver(local);
        driver.ready(&mut Rope::new()).await.unwrap();
        driver
    }

    /// A request before its call is opened.
    pub(crate) fn driver(&self, local: bool) -> ExchangeDriver {
        let choice = ModelChoice {
            operation: "chat",
            slug: "m-local".into(),
            alias: "m".into(),
            stream: false,
            prompt_estimate: 12,
            may_cost: !local,
            targets: Arc::default(),
        };
        let driver = ExchangeDriver::new(self.filter.begin(), Request::post("/v1/chat/completions").body(()).unwrap());
        driver.with_fact(principal()).with_fact(terms()).with_fact(choice)
    }

    /// `status source prompt completion upstream_usd` of all settled calls, and whether some are open.
    fn calls(&self) -> (Vec<String>, i64) {
        let reader = self.store.reader().unwrap();
        let mut select = reader
            .prepare("SELECT status || ' ' || source || ' ' || prompt_tokens || ' ' || completion_tokens || ' ' || coalesce(upstream_usd, '-') FROM usage_calls WHERE state = 'settled' ORDER BY call_id")
            .unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let open = reader.query_row("SELECT count(*) FROM usage_calls WHERE state = 'reserved'", [], |row| row.get(0));
        (rows, open.unwrap())
    }

    fn requests(&self) -> Vec<String> {
        let reader = self.store.reader().unwrap();
        let mut select = reader
            .prepare("SELECT source || ' ' || available || ' ' || billed_eur || ' ' || billed_usd FROM usage_requests ORDER BY request_uid")
            .unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    pub(crate) async fn settled(&self, count: usize) -> Vec<String> {
        for _ in 0..2000 {
            let (rows, open) = self.calls();
            if rows.len() >= count && open == 0 {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not settled: {:?}", self.calls());
    }
}

fn call(local: bool) -> ModelCall {
    ModelCall {
        resolved_model: "m".into(),
        backend_id: "vllm-a".into(),
        backend_label: "local-1".into(),
        upstream_model: "org/m".into(),
        local,
        prompt_estimate: 12,
        recording_bytes: 0,
    }
}

/// The call reaches an upstream.
pub(crate) fn made(driver: &mut ExchangeDriver, local: bool) -> Arc<Meter> {
    let meter = Arc::new(Meter::default());
    driver.facts_mut().insert(call(local));
    driver.facts_mut().insert_shared(Arc::clone(&meter));
    let mut attempt = attempt_request(0, "/", Rope::new());
    driver.attempt(&mut attempt).unwrap();
    meter
}

pub(crate) const ANSWERED: Outcome = Outcome::Answered { status: StatusCode::OK, code: None };
const REFUSED: Outcome = Outcome::Answered { status: StatusCode::BAD_GATEWAY, code: Some(ErrorCode::UpstreamError) };

fn usage(prompt: u64, completion: u64) -> Report {
    let usage = Usage { prompt_tokens: prompt, completion_tokens: completion, ..Usage::default() };
    Report { usage: Some(usage), ..Report::default() }
}

#[tokio::test]
async fn a_complete_answer_is_settled_before_its_end_and_whatever_follows_changes_nothing() {
    for durability in [Durability::Strict, Durability::Auto, Durability::Relaxed] {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(&dir, durability);
        let mut driver = process.begin(false).await;
        made(&mut driver, false).report(usage(12, 3));
        driver.complete(&ANSWERED).await;
        if durability != Durability::Relaxed {
            assert_eq!(process.calls(), (vec!["ok unknown 12 3 -".to_owned()], 0), "{durability:?}");
        }
        driver.finish(&Outcome::ClientLeft);
        assert_eq!(process.settled(1).await, ["ok unknown 12 3 -"], "{durability:?}");
    }
}

#[tokio::test]
async fn a_call_is_reserved_before_it_is_made_and_settled_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&dir, Durability::Strict);
    let mut driver = process.begin(true).await;
    assert_eq!(process.calls(), (vec![], 1), "on the disk before the upstream hears of it");
    made(&mut driver, true).report(usage(3, 9));
    driver.finish(&ANSWERED);
    driver.finish(&ANSWERED);
    assert_eq!(process.settled(1).await, ["ok zero 3 9 0"]);
    assert_eq!(process.requests(), ["zero 1 0.00 0.00"]);
}

#[tokio::test]
async fn each_way_to_end_has_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&dir, Durability::Auto);
    let priced = Report { cost_usd: Some("0.012345".into()), ..usage(5, 7) };
    let mut expected = Vec::new();
    for (local, outcome, report, text, row) in [
        (true, ANSWERED, usage(3, 9), 40, "ok zero 3 9 0"),
        (true, ANSWERED, Report::default(), 41, "ok zero 12 11 0"),
        (false, ANSWERED, priced.clone(), 0, "ok upstream 5 7 0.012345"),
        (false, ANSWERED, usage(5, 7), 0, "ok unknown 5 7 -"),
        (false, Outcome::ClientLeft, usage(5, 7), 0, "aborted unknown 5 7 -"),
        (true, Outcome::ClientLeft, Report::default(), 340, "aborted zero 12 85 0"),
        (true, Outcome::Cut(ErrorCode::UpstreamError), Report::default(), 4, "aborted zero 12 1 0"),
        (false, Outcome::Cut(ErrorCode::UpstreamError), Report::default(), 0, "failed zero 0 0 0"),
        (true, Outcome::Dropped, Report::default(), 0, "aborted zero 12 0 0"),
        (true, REFUSED, Report::default(), 0, "failed zero 0 0 0"),
        (false, REFUSED, priced, 0, "failed upstream 5 7 0.012345"),
        (false, ANSWERED, Report { cost_usd: Some("-1".into()), ..Report::default() }, 0, "ok unknown 12 0 -"),
    ] {
        let mut driver = process.begin(local).await;
        let meter = made(&mut driver, local);
        meter.add_text(text);
        if text > 0 {
            meter.begin();
        }
        meter.report(report);
        driver.finish(&outcome);
        expected.push(row);
    }
    assert_eq!(process.settled(expected.len()).await, expected);
    assert_eq!(process.requests().len(), 10, "all but those that failed and cost nothing");
    assert!(process.requests().contains(&"upstream 1 0.02 0.02".to_owned()));
}

#[tokio::test]
async fn a_call_that_no_upstream_heard_of_is_failed_and_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&dir, Durability::Relaxed);
    for outcome in [Outcome::ClientLeft, Outcome::Dropped, REFUSED] {
        process.begin(false).await.finish(&outcome);
    }
    assert_eq!(process.settled(3).await, ["failed zero 0 0 0"; 3]);
    assert_eq!(process.requests().len(), 0);
}

#[tokio::test]
async fn what_a_dead_process_left_open_is_settled_at_the_next_start_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let living = Process::start(&dir, Durability::Strict);
    let mut open_there = living.begin(true).await;
    // a process that was killed: its rows stay open, its lock is gone
    let dead = rusqlite_of(&dir);
    dead.execute_batch(
        "INSERT INTO usage_calls (call_id, request_uid, request_id, tenant_id, token_id, model, state, prompt_tokens, started_at, instance)
         VALUES ('c1', 'u1', 'r1', 'acme', 'app', 'm', 'reserved', 77, 1, 'gone'), ('c2', 'u2', 'r2', 'acme', 'app', 'm', 'reserved', 5, 1, 'gone')",
    )
    .unwrap();
    let next = Process::start(&dir, Durability::Strict);
    let (rows, open) = next.calls();
    assert_eq!((rows, open), (vec!["aborted unknown 77 0 -".to_owned(), "aborted unknown 5 0 -".to_owned()], 1));
    drop(Process::start(&dir, Durability::Strict));
    assert_eq!(next.calls().0.len(), 2, "nothing is settled twice");
    made(&mut open_there, true).report(usage(1, 2));
    open_there.finish(&ANSWERED);
    assert_eq!(living.settled(3).await.len(), 3);
}

pub(crate) fn rusqlite_of(dir: &TempDir) -> dgx_gateway_store::rusqlite::Connection {
    dgx_gateway_store::rusqlite::Connection::open(dir.path().join("sqlite/gateway.sqlite")).unwrap()
}

#[tokio::test]
async fn without_a_database_to_write_to_no_call_is_made_where_rows_wait() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&dir, Durability::Strict);
    rusqlite_of(&dir).execute_batch("DROP TABLE usage_calls").unwrap();
    let choice = ModelChoice {
        operation: "chat",
        slug: "m".into(),
        alias: "m".into(),
        stream: false,
        prompt_estimate: 1,
        may_cost: false,
        targets: Arc::default(),
    };
    let driver = ExchangeDriver::new(process.filter.begin(), Request::post("/").body(()).unwrap());
    let mut driver = driver.with_fact(principal()).with_fact(terms()).with_fact(choice);
    let refused = driver.ready(&mut Rope::new()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::StorageError);
    assert!(!refused.message.contains("usage_calls"));
}

#[test]
fn the_settings_are_three_words() {
    for (text, expected) in
        [("auto", Durability::Auto), ("strict", Durability::Strict), ("relaxed", Durability::Relaxed)]
    {
        assert_eq!(serde_json::from_value::<Durability>(text.into()).unwrap(), expected);
    }
    assert!(serde_json::from_value::<Settings>(serde_json::json!({"ledger": {"durability": "fast"}})).is_err());
    assert!(SystemTime::now() > SystemTime::UNIX_EPOCH);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn whatever_happens_in_which_order_each_call_is_settled_once(ends in prop::collection::vec((0..6_u8, 0..500_u64), 1..120)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let process = Arc::new(Process::start(&dir, Durability::Auto));
            let mut tasks = Vec::new();
            let mut sum = 0;
            for (end, tokens) in ends.clone() {
                sum += if matches!(end, 0..=3) { tokens } else { 0 };
                let process = Arc::clone(&process);
                tasks.push(tokio::spawn(async move {
                    let mut driver = process.begin(end % 2 == 0).await;
                    if end == 5 { return drop(driver); }
                    let meter = made(&mut driver, end % 2 == 0);
                    tokio::task::yield_now().await;
                    meter.begin();
                    meter.report(usage(tokens, 1));
                    driver.finish(match end {
                        0 => &ANSWERED,
                        1 => &Outcome::ClientLeft,
                        2 => &Outcome::Dropped,
                        3 => &Outcome::Cut(ErrorCode::UpstreamTimeout),
                        _ => &REFUSED,
                    });
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            // an exchange that is dropped without its end is the core's concern; here it stays open
            let forgotten = ends.iter().filter(|(end, _)| *end == 5).count();
            let reader = process.store.reader().unwrap();
            for _ in 0..2000 {
                let open: i64 = reader.query_row("SELECT count(*) FROM usage_calls WHERE state = 'reserved'", [], |row| row.get(0)).unwrap();
                let all: i64 = reader.query_row("SELECT count(*) FROM usage_calls", [], |row| row.get(0)).unwrap();
                if usize::try_from(open).unwrap() == forgotten && usize::try_from(all).unwrap() == ends.len() { break; }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let (rows, open) = process.calls();
            assert_eq!((rows.len(), usize::try_from(open).unwrap()), (ends.len() - forgotten, forgotten));
            let booked: u64 = reader.query_row("SELECT coalesce(sum(prompt_tokens), 0) FROM usage_calls WHERE state = 'settled'", [], |row| row.get::<_, i64>(0)).unwrap().try_into().unwrap();
            assert_eq!(booked, sum);
        });
    }
}
