//! Who waits for the disk.

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
