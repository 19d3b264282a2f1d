//! A database in which something does not fit together: a start says which file and what can be done, and nothing more is
//! written once it shows.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use super::backup::backup;
use super::disk::readiness;
use super::load::{Clients, DATABASE, account, open, priced};
use crate::harness::{Client, Setup, until};

const PAGE: u64 = 4096;

fn overwrite(file: &Path, from: u64, length: u64) {
    let bytes = vec![0xa5; usize::try_from(length).unwrap()];
    OpenOptions::new().write(true).open(file).unwrap().write_all_at(&bytes, from).unwrap();
}

fn length(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().len()
}

fn cut(file: &Path, length: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(length).unwrap();
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// What a start on this data says.
async fn refused(setup: &Setup, data: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup.clone().variable("DGX_GATEWAY_DATA_DIR", data.to_str().unwrap());
    let ran = setup.run_in(dir.path(), &["serve"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    ran.said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_damaged_database_names_the_file_and_what_to_do() {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.clone().start().await;
    let clients = Clients::start(4, gateway.addr);
    clients.answered_more(150).await;
    clients.stopped().await;
    gateway.signal("TERM");
    gateway.ended().await; // the log is in the file now
    {
        // a page that is not used may hold anything
        let all = Connection::open(gateway.data(DATABASE)).unwrap();
        all.execute_batch("VACUUM").unwrap();
    }
    let whole = length(&gateway.data(DATABASE));
    let pages = whole / PAGE;
    assert!(pages > 20, "{pages}");
    let out = tempfile::tempdir().unwrap();
    let places = (0..10).map(|part| part * (pages - 1) / 9 * PAGE);
    let garbage = places.map(|at| (format!("garbage at {at}"), at, PAGE));
    let further = [
        ("all but the first page", PAGE, whole - PAGE),
        ("the head", 0, 100),
        ("the kind of the first page", 100, 8),
        ("the middle", whole / 2 / PAGE * PAGE, 5 * PAGE),
    ];
    let further = further.map(|(name, from, length)| (name.to_owned(), from, length));
    for (name, from, length) in garbage.chain(further) {
        let data = out.path().join("data");
        copy(&gateway.file("data"), &data);
        overwrite(&data.join(DATABASE), from, length);
        let said = refused(&setup, &data).await;
        let expected = format!("the database {} is damaged", data.join(DATABASE).display());
        assert!(said.contains(&expected) && said.contains("restore the last backup"), "{name}: {said}");
        std::fs::remove_dir_all(data).unwrap();
    }
    for left in [whole - PAGE, whole - 100, whole / 2, PAGE, 1000, 10] {
        let data = out.path().join("data");
        copy(&gateway.file("data"), &data);
        println!("cut off after {left} of {whole}");
        cut(&data.join(DATABASE), left);
        let said = refused(&setup, &data).await;
        assert!(said.contains(DATABASE) && said.contains("is damaged"), "{left}: {said}");
        assert_eq!(length(&data.join(DATABASE)), left, "nothing was written to it");
        std::fs::remove_dir_all(data).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_damaged_log_does_not_lose_what_stands_behind_the_damage() {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.clone().start().await;
    let clients = Clients::start(4, gateway.addr);
    clients.answered_more(60).await;
    gateway.killed();
    let answered = clients.answered();
    drop(clients);
    let log = gateway.data("sqlite/gateway.sqlite-wal");
    let whole = length(&log);
    assert!(whole > 40 * PAGE, "{whole}");
    let out = tempfile::tempdir().unwrap();
    for (name, from, length) in
        [("the head", 0, 32), ("a frame", whole / 3, 3 * PAGE), ("a bit in the middle", whole / 2, 1)]
    {
        let data = out.path().join("data");
        copy(&gateway.file("data"), &data);
        overwrite(&data.join("sqlite/gateway.sqlite-wal"), from, length);
        let said = refused(&setup, &data).await;
        assert!(said.contains("gateway.sqlite-wal is damaged") && said.contains("would be lost"), "{name}: {said}");
        std::fs::remove_dir_all(data).unwrap();
    }
    // one that a process left that died while it wrote is none
    cut(&log, whole - 1000);
    gateway.started_again().await;
    drop(answered); // the last commit may be cut off now; that none is lost by a kill has its own test
    Client::connect(gateway.addr).await.get("/readyz").await.is_ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_shows_while_it_runs_ends_all_writing() {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.clone().log("info").start().await;
    let mut clients = Clients::start(4, gateway.addr);
    clients.answered_more(60).await;
    let out = tempfile::tempdir().unwrap();
    let made = out.path().join("made");
    clients.end().await;
    let before = clients.answered();
    backup(&gateway, &made).await;
    let database = gateway.data(DATABASE);
    let other = Connection::open(&database).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    overwrite(&database, PAGE, length(&database) - PAGE);
    other.execute_batch("PRAGMA user_version = 1").unwrap(); // so that nobody goes on with the pages in its memory
    let clients = Clients::named("late", 4, gateway.addr);
    until("calls are refused", async || clients.refused().len() > 10).await;
    assert!(clients.refused().iter().all(|refused| refused.contains("storage_error")), "{:?}", clients.refused());
    let (status, body) = readiness(&gateway).await;
    assert!(status == 503 && body.to_string().contains("storage unavailable"), "{body}");
    assert!(gateway.log().contains("the database is damaged, nothing more is written"), "{}", gateway.log());
    assert_eq!(clients.count(), 0);
    assert_eq!(clients.broken(), 0);
    drop(clients);
    let ran = gateway.ran(&["backup", out.path().join("next").to_str().unwrap()]).await;
    assert!(ran.code == Some(1) && (ran.said.contains("damaged") || ran.said.contains("malformed")), "{}", ran.said);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(refused(&setup, &gateway.file("data")).await.contains("is damaged"));
    // the way out
    std::fs::rename(gateway.file("data"), gateway.file("damaged")).unwrap();
    let ran = gateway.ran(&["restore", made.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    gateway.started_again().await;
    account(&open(&database), &before);
}
