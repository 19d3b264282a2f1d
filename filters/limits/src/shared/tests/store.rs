//! The service with a store that answers, hangs, refuses or is away.

use std::time::{Duration, Instant};

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_filter::health::HealthBoard;
use dgx_gateway_filter::{BuildEnv, ServiceKind};
use dgx_gateway_testkit::redis::RedisServer;
use tokio::net::TcpListener;

use super::super::script;
use super::{SOON, connection};
use crate::bucket::Rate;
use crate::buckets::{Answer, Asked, NotTaken};
use crate::config::StoreFailure;
use crate::{Limits, Service};

/// The service with a store, its background tasks running.
struct World {
    env: BuildEnv,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl World {
    fn new(url: &str) -> Self {
        let settings = format!(r#"{{"limits": {{"store": "{url}", "expected_replicas": 2}}}}"#);
        let clock = std::sync::Arc::new(SystemClock);
        let dir = std::path::PathBuf::from("unused");
        let mut env = BuildEnv::new(clock, Ambient::default(), dir, prometheus::Registry::new());
        let checked = Service::check(serde_json::from_str(&settings).unwrap(), &env.ambient).unwrap();
        Service::build(checked, &mut env).unwrap();
        let tasks = env.take_tasks().into_iter().map(|task| tokio::spawn(task.run)).collect();
        Self { env, tasks }
    }

    fn limits(&self) -> std::sync::Arc<Limits> {
        self.env.service().unwrap()
    }

    async fn until_up(&self, up: bool) {
        let board: &HealthBoard = &self.env.health;
        let reached = async {
            while board.limitations().is_empty() != up {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, reached).await.unwrap();
    }

    fn metric(&self, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.env.metrics.gather()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

const FAILURES: &str = "dgx_gateway_rate_limit_store_failures_total";

fn asked(without_store: StoreFailure) -> Asked {
    Asked { key: [1; 32], rate: Rate::new(4, 0.000_001), now: Instant::now(), without_store, replicas: 2 }
}

async fn take(limits: &Limits, asked: Asked) -> Result<u64, NotTaken> {
    let taken = match limits.requests.take(asked) {
        Answer::Now(taken) => taken,
        Answer::Later(taken) => taken.await,
    };
    taken.map(|taken| taken.remaining)
}

#[tokio::test]
async fn two_processes_share_a_bucket_and_each_has_its_share_without_the_store() {
    let mut server = RedisServer::start().await.unwrap();
    let (one, two) = (World::new(&server.url()), World::new(&server.url()));
    one.until_up(true).await;
    two.until_up(true).await;
    assert_eq!(one.metric("dgx_gateway_rate_limit_store_up"), 1.0);
    let share = asked(StoreFailure::LocalShare);
    assert_eq!(take(&one.limits(), share).await, Ok(3));
    assert_eq!(take(&two.limits(), share).await, Ok(2));
    assert_eq!(take(&one.limits(), share).await, Ok(1));
    assert_eq!(take(&two.limits(), share).await, Ok(0));
    assert!(matches!(take(&one.limits(), share).await, Err(NotTaken::Empty(_))));

    server.kill().await.unwrap();
    one.until_up(false).await;
    assert_eq!(one.metric("dgx_gateway_rate_limit_store_up"), 0.0);
    assert_eq!(take(&one.limits(), share).await, Ok(1));
    assert_eq!(take(&one.limits(), share).await, Ok(0));
    assert!(matches!(take(&one.limits(), share).await, Err(NotTaken::Empty(_))));
    assert_eq!(take(&one.limits(), asked(StoreFailure::Closed)).await, Err(NotTaken::StoreDown));
    assert_eq!(one.metric(&format!("{FAILURES}{{cause=\"open\"}}")), 4.0);

    server.start_again().await.unwrap();
    one.until_up(true).await;
    two.until_up(true).await;
    assert_eq!(take(&one.limits(), share).await, Ok(3));
    assert_eq!(take(&two.limits(), share).await, Ok(2));
}

#[tokio::test]
async fn reservations_are_settled_where_they_were_made() {
    let mut server = RedisServer::start().await.unwrap();
    let world = World::new(&server.url());
    world.until_up(true).await;
    let limits = world.limits();
    let reserve = async |units| {
        let asked = Asked { rate: Rate::new(100, 0.000_001), ..asked(StoreFailure::LocalShare) };
        let reserved = match limits.tokens.reserve(units, asked) {
            Answer::Now(reserved) => reserved,
            Answer::Later(reserved) => reserved.await,
        };
        reserved.map(|(taken, reservation)| (taken.remaining, reservation))
    };
    let (left, reservation) = reserve(60).await.unwrap();
    assert_eq!(left, 40);
    limits.tokens.settle(&reservation, 10, Instant::now());
    let settled = async {
        while reserve(0).await.unwrap().0 != 90 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, settled).await.unwrap();
    let (_, of_the_store) = reserve(20).await.unwrap();

    server.kill().await.unwrap();
    world.until_up(false).await;
    // 50 is the share of one of two; more than that reserves all of it
    let (left, here) = reserve(60).await.unwrap();
    assert_eq!((left, here.ticket.units, here.rate.capacity()), (0, 50, 50));
    limits.tokens.settle(&here, 20, Instant::now());
    assert_eq!(reserve(0).await.unwrap().0, 30);
    // a reservation of the store is none of ours
    limits.tokens.settle(&of_the_store, 0, Instant::now());
    assert_eq!(reserve(0).await.unwrap().0, 30);
}

#[tokio::test]
async fn a_store_that_never_answers_is_never_asked() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(&format!("redis://{}", silent.local_addr().unwrap()));
    let (_connection, _) = tokio::time::timeout(SOON, silent.accept()).await.unwrap().unwrap();
    assert!(matches!(world.limits().requests.take(asked(StoreFailure::LocalShare)), Answer::Now(Ok(_))));
    assert!(matches!(world.limits().requests.take(asked(StoreFailure::Closed)), Answer::Now(Err(NotTaken::StoreDown))));
    assert_eq!(world.env.health.limitations()[0].reason, "shared limits limited");
}

#[tokio::test]
async fn a_store_that_begins_to_hang_costs_a_request_one_wait_and_the_next_none() {
    let server = RedisServer::start().await.unwrap();
    let world = World::new(&server.url());
    world.until_up(true).await;
    server.hang().await.unwrap();
    let share = asked(StoreFailure::LocalShare);
    let begun = Instant::now();
    // the probe in the background may be the one that finds it out
    assert_eq!(take(&world.limits(), share).await, Ok(1));
    assert!(begun.elapsed() < script::STEP_TIMEOUT * 8, "{:?}", begun.elapsed());
    assert!(matches!(world.limits().requests.take(share), Answer::Now(Ok(_))));
    assert!(world.metric(&format!("{FAILURES}{{cause=\"timeout\"}}")) >= 1.0);
    server.go_on().await.unwrap();
    world.until_up(true).await;
    // the step that nobody waited for has run meanwhile; the store goes on counting
    assert!(take(&world.limits(), share).await.is_ok());
}

#[tokio::test]
async fn many_steps_at_once_are_bounded() {
    let server = RedisServer::start().await.unwrap();
    let world = World::new(&server.url());
    world.until_up(true).await;
    server.hang().await.unwrap();
    let limits = world.limits();
    let share = asked(StoreFailure::LocalShare);
    let takes: Vec<_> = (0..1100).map(|_| take(&limits, share)).collect();
    let admitted = futures_util::future::join_all(takes).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(admitted, 2, "the share of this process");
    assert_eq!(world.metric(&format!("{FAILURES}{{cause=\"busy\"}}")), 1100.0 - 1024.0);
    server.go_on().await.unwrap();
}

#[tokio::test]
async fn a_store_that_refuses_to_write_does_not_count_as_up() {
    let server = RedisServer::start().await.unwrap();
    let mut connection = connection(&server).await;
    let world = World::new(&server.url());
    world.until_up(true).await;
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec_async(&mut connection).await.unwrap();
    assert_eq!(take(&world.limits(), asked(StoreFailure::Closed)).await, Err(NotTaken::StoreDown));
    world.until_up(false).await;
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut connection).await.unwrap();
    world.until_up(true).await;
}

#[tokio::test]
async fn a_user_with_the_documented_permissions_is_enough() {
    let server = RedisServer::start().await.unwrap();
    let mut connection = connection(&server).await;
    let rules = "on >hunter2 ~dgx-gateway:limits:* -@all +evalsha +eval +script|load +time +get +set +del +ping";
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("gate").arg(rules.split(' ').collect::<Vec<_>>());
    command.exec_async(&mut connection).await.unwrap();
    let world = World::new(&server.url().replace("redis://", "redis://gate:hunter2@"));
    world.until_up(true).await;
    assert_eq!(take(&world.limits(), asked(StoreFailure::Closed)).await, Ok(3));
    assert_eq!(world.metric(&format!("{FAILURES}{{cause=\"refused\"}}")), 0.0);
    let wrong = World::new(&server.url().replace("redis://", "redis://gate:wrong@"));
    wrong.until_up(false).await;
    assert_eq!(take(&wrong.limits(), asked(StoreFailure::Closed)).await, Err(NotTaken::StoreDown));
}
