//! Several processes on one database: two gateways while one hands over to the other, backups that read, and each of them
//! coming and going. SQLite tells them apart by locks of POSIX, which a process loses when it closes any handle of the
//! file; then the next one that leaves removes the log that the others write to.

use std::os::unix::fs::MetadataExt;

use rusqlite::Connection;

use super::backup::backup;
use super::load::{Clients, DATABASE, account, number, open, priced};
use crate::harness::{Gateway, until};

const CLIENTS: usize = 4;

/// The gateway holds its lock, by which others see that it uses the database. SQLite looks at more than this one since
/// 3.51 before it removes a log, but that is to mend what others break.
///
/// The list is read in pieces while others change it, so a lock may be missing once; one that is lost does not come back.
async fn holds_its_lock(gateway: &Gateway) {
    let inode = format!(":{} ", std::fs::metadata(gateway.data(DATABASE)).unwrap().ino());
    let process = format!(" {} ", gateway.process());
    let held = async || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("POSIX") && line.contains(&inode) && line.contains(&process))
    };
    until(&format!("process{process}has a lock of inode{inode}"), held).await;
}

/// An operator looks at the database with a tool that could write, and leaves.
fn visit(gateway: &Gateway) {
    let visitor = Connection::open(gateway.data(DATABASE)).unwrap();
    assert!(number(&visitor, "SELECT count(*) FROM usage_calls") > 0);
}

/// Nothing was refused or cut, and everything that was answered is there once.
async fn all_is_there(gateway: &Gateway, all: Vec<Clients>) -> usize {
    let mut answered = Vec::new();
    for clients in all {
        let (refused, broken) = (clients.refused(), clients.broken());
        answered.extend(clients.stopped().await);
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(broken, 0);
    }
    gateway.idle().await;
    account(&open(&gateway.data(DATABASE)), &answered);
    for word in ["malformed", "corrupt", "cannot be written", "is damaged"] {
        assert!(!gateway.log().contains(word), "{word}: {}", gateway.log());
    }
    answered.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_overs_and_backups_under_load_lose_no_row() {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.log("info").server("drain_grace_seconds", 1).start().await;
    let out = tempfile::tempdir().unwrap();
    let clients = Clients::start(CLIENTS, gateway.addr);
    for round in 0..5 {
        clients.answered_more(10).await;
        gateway.hand_over().await;
        // both write now: the one before has connections that learn with their next answer that they end
        let (to, before) = (out.path().join(round.to_string()), clients.answered());
        backup(&gateway, &to).await;
        account(&open(&to.join("data").join(DATABASE)), &before);
        until("the process before has ended", async || gateway.successors_run() == 1).await;
        visit(&gateway);
        holds_its_lock(&gateway).await;
        clients.answered_more(10).await;
        account(&open(&gateway.data(DATABASE)), &clients.answered());
    }
    let answered = all_is_there(&gateway, vec![clients]).await;
    println!("5 hand-overs with a backup each, {answered} answered, 0 lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_and_backups_come_and_go_beside_one_that_writes() {
    let (_mock, setup) = priced().await;
    let gateway = setup.start().await;
    let out = tempfile::tempdir().unwrap();
    let clients = Clients::start(CLIENTS, gateway.addr);
    let mut others = Vec::new();
    for round in 0..4 {
        let mut other = gateway.beside().await;
        let mut at_other = Clients::named(&format!("other{round}"), CLIENTS, other.addr);
        at_other.answered_more(10).await;
        visit(&gateway);
        holds_its_lock(&gateway).await;
        holds_its_lock(&other).await;
        let (to, before) = (out.path().join(round.to_string()), [clients.answered(), at_other.answered()].concat());
        backup(&gateway, &to).await;
        account(&open(&to.join("data").join(DATABASE)), &before);
        at_other.end().await;
        other.signal("TERM");
        assert_eq!(other.ended().await.code(), Some(0));
        visit(&gateway);
        clients.answered_more(10).await;
        account(&open(&gateway.data(DATABASE)), &[clients.answered(), at_other.answered()].concat());
        others.push(at_other);
    }
    others.push(clients);
    let answered = all_is_there(&gateway, others).await;
    println!("4 processes beside one that writes, a backup each, {answered} answered, 0 lost");
}
