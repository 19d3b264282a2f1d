//! `kill -9` at any moment, while calls that cost money are made as fast as they go.

use std::path::Path;

use serde_json::Value;

use super::files;
use super::load::{Clients, DATABASE, account, integrity, number, open, priced};
use crate::harness::{Gateway, until};

const CLIENTS: usize = 8;

/// A number below `below` that follows from a seed.
fn random(seed: u64, below: usize) -> usize {
    let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33;
    usize::try_from(mixed).unwrap() % below
}

/// Every database is sound, every answered call is in the account once, and the audit log can be read.
fn nothing_is_lost(gateway: &Gateway, answered: &[String]) -> usize {
    let data = gateway.file("data");
    let is_database = |path: &Path| path.extension().is_some_and(|extension| extension == "sqlite");
    for path in files(&data).iter().filter(|path| is_database(path)) {
        assert_eq!(integrity(&open(&data.join(path))), "ok", "{}", path.display());
    }
    for path in files(&data).iter().filter(|path| path.starts_with("audit")) {
        let text = std::fs::read_to_string(data.join(path)).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole); // the last line may be half written
        whole.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).unwrap()));
    }
    account(&open(&data.join(DATABASE)), answered).calls
}

/// Kills so often, and until so many calls were answered.
async fn killed_again_and_again(least_kills: u64, least_answers: usize, most_between: usize) {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.start().await;
    let clients = Clients::start(CLIENTS, gateway.addr);
    let mut kills = 0;
    while kills < least_kills || clients.count() < least_answers {
        clients.answered_more(1 + random(kills, most_between)).await;
        gateway.killed();
        kills += 1;
        nothing_is_lost(&gateway, &clients.answered());
        gateway.started_again().await;
        clients.go_to(gateway.addr);
    }
    clients.answered_more(CLIENTS).await;
    let (broken, refused) = (clients.broken(), clients.refused());
    let answered = clients.stopped().await;
    gateway.idle().await;
    let database = open(&gateway.data(DATABASE));
    until("all calls are settled", async || {
        number(&database, "SELECT count(*) FROM usage_calls WHERE state = 'reserved'") == 0
    })
    .await;
    let calls = nothing_is_lost(&gateway, &answered);
    let aborted = number(&database, "SELECT count(*) FROM usage_calls WHERE status = 'aborted'");
    println!(
        "{kills} kills, {} answered, {broken} cut, {} refused; {calls} rows, {aborted} of them aborted, 0 double, 0 lost",
        answered.len(),
        refused.len()
    );
    assert!(refused.is_empty(), "{refused:?}");
    assert!(calls >= answered.len() && calls <= answered.len() + usize::try_from(broken).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_nothing_that_was_answered() {
    killed_again_and_again(20, 0, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: 200 kills"]
async fn two_hundred_kills_lose_nothing_that_was_answered() {
    killed_again_and_again(200, 0, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: 10000 calls are answered"]
async fn kills_during_ten_thousand_answered_calls_lose_none_of_them() {
    killed_again_and_again(20, 10_000, 1000).await;
}
