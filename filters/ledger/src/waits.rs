//! Who waits for the disk, and what that costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dgx_gateway_filter::facts::{Report, Usage};
use dgx_gateway_filter::{Outcome, Rope};
use futures_util::FutureExt;

use crate::Durability;
use crate::tests::{ANSWERED, Process, made};

fn report() -> Report {
    let usage = Usage { prompt_tokens: 10, completion_tokens: 5, ..Usage::default() };
    Report { usage: Some(usage), ..Report::default() }
}

/// One call from its admission to the last of its answer.
async fn call(process: &Process, local: bool) {
    let mut driver = process.begin(local).await;
    made(&mut driver, local).report(report());
    driver.complete(&ANSWERED).await;
    driver.finish(&ANSWERED);
}

#[tokio::test]
async fn while_nothing_can_be_written_a_free_call_runs_through_and_one_that_may_cost_does_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&dir, Durability::Auto);
    let busy = crate::tests::rusqlite_of(&dir);
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..100 {
        assert!(call(&process, true).now_or_never().is_some(), "a free call waited");
    }
    assert!(process.begin(false).now_or_never().is_none(), "a call that may cost did not wait");
    busy.execute_batch("COMMIT").unwrap();
}

#[tokio::test]
async fn a_request_that_ends_while_its_row_is_written_is_settled_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&dir, Durability::Auto);
    let busy = crate::tests::rusqlite_of(&dir);
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut driver = process.driver(false);
    assert!(driver.ready(&mut Rope::new()).now_or_never().is_none());
    driver.finish(&Outcome::ClientLeft);
    busy.execute_batch("COMMIT").unwrap();
    assert_eq!(process.settled(1).await, ["failed zero 0 0 0"]);
}

/// What a request waits. Run with
/// `cargo test -p dgx-gateway-ledger -- --ignored --nocapture what_waiting_for_the_disk_costs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "tells how long calls take"]
async fn what_waiting_for_the_disk_costs() {
    for (durability, local) in
        [(Durability::Auto, true), (Durability::Relaxed, true), (Durability::Auto, false), (Durability::Strict, true)]
    {
        for at_once in [1_u32, 16, 256] {
            let dir = tempfile::tempdir().unwrap();
            let process = Arc::new(Process::start(&dir, durability));
            let each = 2000 / at_once.min(100);
            let began = Instant::now();
            let tasks: Vec<_> = (0..at_once).map(|_| tokio::spawn(calls(Arc::clone(&process), local, each))).collect();
            let mut times = Vec::new();
            for task in tasks {
                times.extend(task.await.unwrap());
            }
            times.sort_unstable();
            let (count, all) = (times.len(), began.elapsed());
            let per_second = u128::try_from(count).unwrap() * 1_000_000 / all.as_micros().max(1);
            let (p50, p99) = (times[count / 2], times[count * 99 / 100]);
            println!(
                "{durability:?} local={local} in flight {at_once}: p50 {p50:?} p99 {p99:?}, {per_second} per second"
            );
        }
    }
}

async fn calls(process: Arc<Process>, local: bool, count: u32) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        call(&process, local).await;
        times.push(began.elapsed());
        tokio::task::yield_now().await;
    }
    times
}
