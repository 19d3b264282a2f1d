//! Budgets in a real server: several processes, and everything that may happen to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::budget::{
    Amounts, BudgetLimit, BudgetsOfTenants, HistoryError, TenantBudgets, UsageHistory, UsedBySlug,
};
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_filter::{BuildEnv, ServiceKind};
use dgx_gateway_testkit::redis::RedisServer;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::SharedBudgets;
use crate::budgets::service::{BudgetService, TenantsWithBudgets};
use crate::budgets::tenant::{Granted, Reservation, Tenant};
use crate::budgets::tests::{hard, of};
use crate::budgets::usage::{Answer, Call, Share};
use crate::budgets::window::second_of;
use crate::shared::Unavailable;

const SOON: Duration = Duration::from_secs(20);

/// The ledger of a process: nothing but what the test says of the day.
struct Past(u64);

impl UsageHistory for Past {
    fn used(&self, _: &str, _: SystemTime, _: SystemTime) -> Result<Vec<UsedBySlug>, HistoryError> {
        let used = Amounts { cents: 0, requests: self.0, tokens: self.0 };
        Ok(vec![UsedBySlug { slug: "m".into(), alias: "m".into(), used }])
    }
}

/// A process with a budget of so many requests a day for all models, and one of tokens for `m`.
struct Process {
    calls: Calls,
    tasks: Vec<JoinHandle<()>>,
    env: BuildEnv,
    dir: Arc<TempDir>,
}

/// What makes calls in a process.
#[derive(Clone)]
struct Calls {
    tenants: Arc<TenantsWithBudgets>,
    budgets: Arc<TenantBudgets>,
}

impl std::ops::Deref for Process {
    type Target = Calls;

    fn deref(&self) -> &Calls {
        &self.calls
    }
}

impl Process {
    async fn start(url: &str, budgets: Arc<TenantBudgets>) -> Self {
        Self::on(url, budgets, Arc::new(tempfile::tempdir().unwrap()), 0).await
    }

    async fn on(url: &str, budgets: Arc<TenantBudgets>, dir: Arc<TempDir>, past: u64) -> Self {
        let path = dir.path().to_owned();
        let mut env = BuildEnv::new(Arc::new(SystemClock), Ambient::default(), path, prometheus::Registry::new());
        <dgx_gateway_store::Service as ServiceKind>::build((), &mut env).unwrap();
        let settings = format!(r#"{{"limits": {{"store": "{url}"}}}}"#);
        let checked = crate::Service::check(serde_json::from_str(&settings).unwrap(), &env.ambient).unwrap();
        crate::Service::build(checked, &mut env).unwrap();
        env.provide::<Arc<dyn UsageHistory>>(Arc::new(Arc::new(Past(past))));
        env.provide(Arc::new(BudgetsOfTenants(vec![("acme".into(), Arc::clone(&budgets))])));
        BudgetService::build((), &mut env).unwrap();
        let tasks = env.take_tasks().into_iter().map(|task| tokio::spawn(task.run)).collect();
        let process = Self { calls: Calls { tenants: env.service().unwrap(), budgets }, tasks, env, dir };
        process.until_up(true).await;
        process
    }

    async fn until_up(&self, up: bool) {
        let reached = async {
            while self.env.health.limitations().is_empty() != up {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, reached).await.unwrap();
    }

    fn metric(&self, series: &str) -> Option<f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.env.metrics.gather()).unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// As a killed process: nothing more is told to anybody.
    fn kill(self) -> Arc<TempDir> {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.dir
    }
}

impl Calls {
    fn shared(&self) -> &SharedBudgets {
        self.tenants.shared().unwrap()
    }

    fn tenant(&self) -> &Arc<Tenant> {
        self.tenants.tenant("acme").unwrap()
    }

    async fn reserve(&self, slug: &str, tokens: u64) -> Result<Result<Reservation, Answer>, Unavailable> {
        let slug: Arc<str> = slug.into();
        let granted = self.shared().reserve(self.tenant(), &self.budgets, &call(&slug, tokens)).await;
        granted.map(|granted| granted.map(|Granted { reservation, .. }| reservation))
    }

    async fn admitted(&self, tokens: u64) -> Reservation {
        self.reserve("m", tokens).await.unwrap().unwrap()
    }

    async fn refuses(&self, tokens: u64) -> bool {
        match self.reserve("m", tokens).await.unwrap() {
            Ok(reservation) => {
                drop(reservation);
                false
            }
            Err(answer) => answer.refused_until.is_some(),
        }
    }

    async fn until_admits(&self, tokens: u64) {
        let admitted = async {
            loop {
                match self.reserve("m", tokens).await {
                    Ok(Ok(reservation)) => return reservation,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        drop(tokio::time::timeout(SOON, admitted).await.unwrap());
    }
}

fn call(slug: &Arc<str>, tokens: u64) -> Call<'_> {
    let worst = Amounts { cents: 0, requests: 1, tokens };
    Call { slug, alias: slug, worst, priced: true, at: second_of(SystemTime::now()) }
}

fn used(tokens: u64) -> Amounts {
    Amounts { cents: 0, requests: 1, tokens }
}

fn end(mut reservation: Reservation, tokens: u64) {
    reservation.try_now();
    reservation.settle(used(tokens));
}

async fn connection(server: &RedisServer) -> MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// What stands in the store of the budget of tokens: used and reserved of all nodes, and how many there are.
async fn stored(connection: &mut MultiplexedConnection) -> Vec<(u64, u64, usize)> {
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("dgx-gateway:limits:budget:*").query_async(connection).await.unwrap();
    let mut sums = Vec::new();
    for key in keys {
        let text: String = redis::cmd("GET").arg(&key).query_async(connection).await.unwrap();
        let nodes: Vec<Vec<&str>> = text.split_terminator(';').map(|node| node.split(' ').collect()).collect();
        let sum = |at: usize| nodes.iter().map(|node| node[at].parse::<u64>().unwrap()).sum();
        sums.push((sum(2), sum(3), nodes.len()));
    }
    sums.sort_unstable();
    sums
}

async fn until_stored(connection: &mut MultiplexedConnection, expected: &[(u64, u64, usize)]) {
    let reached = async {
        while stored(connection).await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(SOON, reached).await.is_err() {
        panic!("{:?} stands in the store, not {expected:?}", stored(connection).await);
    }
}

fn ten_requests() -> Arc<TenantBudgets> {
    of(vec![hard("ten", &["*"], BudgetLimit::Requests(10)), hard("tokens", &["m"], BudgetLimit::Tokens(1_000_000))])
}

fn tokens(limit: u64) -> Arc<TenantBudgets> {
    of(vec![hard("tokens", &["m"], BudgetLimit::Tokens(limit))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_processes_and_two_hundred_calls_at_once_admit_ten() {
    let server = RedisServer::start().await.unwrap();
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(Process::start(&server.url(), ten_requests()).await);
    }
    let calls = (0..200).map(|number| {
        let process = processes[number % 3].calls.clone();
        tokio::spawn(async move { process.reserve("m", 5).await.unwrap().ok() })
    });
    let answers = futures_util::future::join_all(calls).await;
    let held: Vec<Reservation> = answers.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(held.len(), 10);
    held.into_iter().for_each(|reservation| end(reservation, 3));
    let mut connection = connection(&server).await;
    until_stored(&mut connection, &[(10, 0, 3), (30, 0, 3)]).await;
    for process in &processes {
        assert!(process.refuses(1).await);
    }
}

#[tokio::test]
async fn what_comes_back_and_what_others_use_counts_for_all() {
    let server = RedisServer::start().await.unwrap();
    let (one, two) =
        (Process::start(&server.url(), tokens(100)).await, Process::start(&server.url(), tokens(100)).await);
    let held = one.admitted(70).await;
    assert!(two.refuses(31).await && !two.refuses(30).await);
    end(held, 20);
    two.until_admits(80).await;
    assert!(two.refuses(81).await && one.refuses(81).await);
    let series = r#"dgx_gateway_budget_used_ratio{budget="tokens",tenant="acme"}"#;
    assert_eq!((one.metric(series), two.metric(series)), (Some(0.2), Some(0.2)));
}

#[tokio::test]
async fn a_refusal_by_one_budget_reserves_on_none_of_them_in_the_store_either() {
    let server = RedisServer::start().await.unwrap();
    let budgets =
        of(vec![hard("wide", &["*"], BudgetLimit::Tokens(100)), hard("narrow", &["m"], BudgetLimit::Tokens(10))]);
    let process = Process::start(&server.url(), budgets).await;
    assert!(process.refuses(11).await);
    let mut connection = connection(&server).await;
    until_stored(&mut connection, &[(0, 0, 1), (0, 0, 1)]).await;
    let _all = process.reserve("other", 100).await.unwrap().unwrap();
    assert!(process.refuses(1).await);
}

#[tokio::test]
async fn calls_that_are_left_in_the_middle_of_a_reservation_hold_nothing() {
    let server = RedisServer::start().await.unwrap();
    let process = Process::start(&server.url(), tokens(1_000_000)).await;
    let slug: Arc<str> = "m".into();
    for round in 0..1000_u64 {
        let wanted = call(&slug, 7);
        let mut reservation = Box::pin(process.shared().reserve(process.tenant(), &process.budgets, &wanted));
        for _ in 0..round % 6 {
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(reservation.as_mut().poll(cx))).await;
            if polled.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(reservation); // what was granted meanwhile is dropped, too
    }
    end(process.admitted(5).await, 5);
    let mut connection = connection(&server).await;
    until_stored(&mut connection, &[(5, 0, 1)]).await;
    assert!(process.tenant().state().usage.is_idle());
    assert!(!process.refuses(999_995).await);
}

#[tokio::test]
async fn a_store_that_was_emptied_is_told_everything_again() {
    let server = RedisServer::start().await.unwrap();
    let (one, two) =
        (Process::start(&server.url(), tokens(100)).await, Process::start(&server.url(), tokens(100)).await);
    end(one.admitted(40).await, 40);
    let held = two.admitted(30).await;
    let mut connection = connection(&server).await;
    until_stored(&mut connection, &[(40, 30, 2)]).await;
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    // its own calls count at once, those of others within a round
    assert!(one.refuses(61).await);
    until_stored(&mut connection, &[(40, 30, 2)]).await;
    assert!(one.refuses(31).await && two.refuses(31).await && !one.refuses(30).await);
    end(held, 10);
    until_stored(&mut connection, &[(50, 0, 2)]).await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_store_is_down() {
    let mut server = RedisServer::start().await.unwrap();
    let process = Process::start(&server.url(), tokens(100)).await;
    let before = process.admitted(20).await;
    server.kill().await.unwrap();
    process.until_up(false).await;
    assert!(matches!(process.reserve("m", 1).await, Err(Unavailable)));
    end(before, 15);
    // with the share of one of two processes: 50, of which 15 are used
    let slug: Arc<str> = "m".into();
    let share = |tokens: u64| {
        process.shared().reserve_without_store(process.tenant(), &process.budgets, &call(&slug, tokens), Share(2))
    };
    assert!(share(36).is_err());
    end(share(35).unwrap().reservation, 30);
    let open = share(5).unwrap().reservation;
    server.start_again().await.unwrap();
    process.until_up(true).await;
    let mut connection = connection(&server).await;
    until_stored(&mut connection, &[(45, 5, 1)]).await;
    end(open, 1);
    until_stored(&mut connection, &[(46, 0, 1)]).await;
    assert!(process.refuses(55).await && !process.refuses(54).await);
    let unstated = async {
        while process.metric("dgx_gateway_budgets_unstated") != Some(0.0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, unstated).await.unwrap();
}

#[tokio::test]
async fn a_step_without_an_answer_is_made_good() {
    let server = RedisServer::start().await.unwrap();
    let process = Process::start(&server.url(), tokens(100)).await;
    end(process.admitted(10).await, 10);
    let held = process.admitted(20).await;
    server.hang().await.unwrap();
    assert!(matches!(process.reserve("m", 50).await, Err(Unavailable)));
    end(held, 5);
    server.go_on().await.unwrap();
    process.until_up(true).await;
    let mut connection = connection(&server).await;
    // whether or not the step has taken effect there meanwhile
    until_stored(&mut connection, &[(15, 0, 1)]).await;
    assert!(!process.refuses(85).await && process.refuses(86).await);
}

#[tokio::test]
async fn the_next_process_on_a_data_directory_takes_the_place_of_the_one_before() {
    let server = RedisServer::start().await.unwrap();
    let process = Process::start(&server.url(), tokens(100)).await;
    let other = Process::start(&server.url(), tokens(100)).await;
    end(process.admitted(30).await, 30);
    let _left_open = process.admitted(60).await;
    assert!(other.refuses(11).await);
    let dir = process.kill();
    // the ledger has settled the call that was left open, with 5 tokens
    let next = Process::on(&server.url(), tokens(100), dir, 35).await;
    assert!(!next.refuses(65).await && next.refuses(66).await);
    let mut connection = connection(&server).await;
    until_stored(&mut connection, &[(35, 0, 2)]).await;
    assert!(other.refuses(66).await && !other.refuses(65).await);
}

#[tokio::test]
async fn what_a_process_holds_that_is_not_seen_for_long_is_free() {
    let server = RedisServer::start().await.unwrap();
    let process = Process::start(&server.url(), tokens(100)).await;
    let other = Process::start(&server.url(), tokens(100)).await;
    let _never_settled = process.admitted(90).await;
    drop(process.kill());
    assert!(other.refuses(11).await);
    let mut connection = connection(&server).await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*budget*").query_async(&mut connection).await.unwrap();
    let text: String = redis::cmd("GET").arg(&keys[0]).query_async(&mut connection).await.unwrap();
    // as if it had been seen an hour ago; the other states itself with its next step
    let aged: String = text
        .split_terminator(';')
        .map(|node| {
            let (rest, seen) = node.rsplit_once(' ').unwrap();
            format!("{rest} {};", seen.parse::<u64>().unwrap() - 3600)
        })
        .collect();
    redis::cmd("SET").arg(&keys[0]).arg(aged).exec_async(&mut connection).await.unwrap();
    assert!(!other.refuses(100).await);
}

#[tokio::test]
async fn keys_are_digests_that_vanish_after_their_window_and_need_no_further_permission() {
    let server = RedisServer::start().await.unwrap();
    let mut connection = connection(&server).await;
    let rules = "on >hunter2 ~dgx-gateway:limits:* -@all +evalsha +eval +script|load +time +get +set +del +ping";
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("gate").arg(rules.split(' ').collect::<Vec<_>>());
    command.exec_async(&mut connection).await.unwrap();
    let process = Process::start(&server.url().replace("redis://", "redis://gate:hunter2@"), tokens(100)).await;
    end(process.admitted(30).await, 30);
    until_stored(&mut connection, &[(30, 0, 1)]).await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*budget*").query_async(&mut connection).await.unwrap();
    assert!(keys.iter().all(|key| !key.contains("acme") && !key.contains("tokens")), "{keys:?}");
    let ttl: i64 = redis::cmd("TTL").arg(&keys[0]).query_async(&mut connection).await.unwrap();
    assert!((7200..=86_400 + 7200).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_the_store_ends_with_what_all_processes_know() {
    let mut server = RedisServer::start().await.unwrap();
    let budgets =
        || of(vec![hard("all", &["*"], BudgetLimit::Tokens(100_000)), hard("m", &["m"], BudgetLimit::Tokens(2000))]);
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(Process::start(&server.url(), budgets()).await);
    }
    let workers: Vec<_> = (0..12_u64)
        .map(|worker| {
            let process = processes[usize::try_from(worker % 3).unwrap()].calls.clone();
            tokio::spawn(async move {
                let mut open = Vec::new();
                for step in 0..150_u64 {
                    let seed = (worker << 32 | step).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                    let slug = if seed.is_multiple_of(3) { "n" } else { "m" };
                    let timed =
                        tokio::time::timeout(Duration::from_micros(seed % 900), process.reserve(slug, seed % 20));
                    match timed.await {
                        Ok(Ok(Ok(reservation))) => open.push(reservation),
                        Ok(Err(Unavailable)) => tokio::time::sleep(Duration::from_millis(2)).await,
                        _ => {}
                    }
                    while open.len() > usize::try_from(seed % 5).unwrap() {
                        end(open.swap_remove(0), seed % 11);
                    }
                }
                open.into_iter().for_each(|reservation| end(reservation, 1));
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(30)).await;
    redis::cmd("FLUSHALL").exec_async(&mut connection(&server).await).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    server.kill().await.unwrap();
    server.start_again().await.unwrap();
    futures_util::future::join_all(workers).await.into_iter().for_each(Result::unwrap);
    let totals: Vec<(u64, u64)> = [0, 1]
        .map(|index| {
            let taken = processes.iter().map(|process| {
                let mut state = process.tenant().state();
                state.adopt("acme", &process.budgets);
                assert!(state.usage.is_idle());
                let window = dgx_gateway_filter::budget::Window::Day;
                let start = state.usage.period(window, second_of(SystemTime::now())).start;
                state.usage.taken(index, crate::budgets::limit::Unit::Tokens, window, start)
            });
            taken.fold((0, 0), |sum, taken| (sum.0 + taken.0, sum.1 + taken.1))
        })
        .to_vec();
    let mut expected: Vec<(u64, u64, usize)> = totals.into_iter().map(|(used, held)| (used, held, 3)).collect();
    expected.sort_unstable();
    assert!(expected[0].0 > 0);
    until_stored(&mut connection(&server).await, &expected).await;
}
