//! A clock that is set forward and back by hours while the gateway runs, as an operator or a time server may do. Only the
//! time of day moves; what measures durations goes on, as it does on a real machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::load::{Clients, DATABASE, account, chat, number, open, priced};
use crate::harness::{Gateway, until};

/// Comes between the program and its C library: adds the seconds that stand in a file to the time of day.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) {
        FILE *file = fopen(getenv("CLOCK_OFFSET_FILE"), "r");
        long offset = 0;
        if (file) { if (fscanf(file, "%ld", &offset) != 1) offset = 0; fclose(file); }
        time->tv_sec += offset;
    }
    return result;
}
"#;

const HOUR: i64 = 3600;

/// A clock that can be set.
struct Clock {
    dir: tempfile::TempDir,
}

impl Clock {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("shim.c");
        std::fs::write(&source, SHIM).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(dir.path().join("shim.so"))
            .arg(&source)
            .arg("-ldl")
            .output()
            .is_ok_and(|output| output.status.success());
        if !built {
            println!("skipped: there is no C compiler");
            return None;
        }
        let clock = Self { dir };
        clock.set(0);
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("offset")
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("shim.so")
    }

    /// Hours from now.
    fn set(&self, hours: i64) {
        let beside = self.dir.path().join("new");
        std::fs::write(&beside, (hours * HOUR).to_string()).unwrap();
        std::fs::rename(beside, self.file()).unwrap();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// How many requests the report has for the time around so many hours from now.
async fn reported(gateway: &Gateway, hours: i64) -> u64 {
    let (at, some) = (Timestamp::now() + SignedDuration::from_hours(hours), SignedDuration::from_mins(59));
    let path = format!("/v1/billing/usage?from={}&to={}&granularity=hour", at - some, at + some);
    let usage = gateway.client().await.get(&path).await.is_ok().json();
    let buckets = usage["buckets"].as_array().unwrap();
    buckets.iter().map(|bucket| bucket["by_model"]["m"]["requests"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_and_forth_leaves_account_limits_and_logs_sane() {
    let Some(clock) = Clock::new() else { return };
    let (_mock, setup) = priced().await;
    let setup = setup
        .log("info")
        .variable("LD_PRELOAD", text(&clock.library()))
        .variable("CLOCK_OFFSET_FILE", text(&clock.file()));
    let mut gateway = setup.start().await;
    let clients = Clients::start(4, gateway.addr);
    let mut of_hour = Vec::new();
    for hours in [0, 5, -7, 30, 0, -26, 3] {
        clock.set(hours);
        let before = clients.count();
        clients.answered_more(15).await;
        of_hour.push((hours, clients.count() - before));
    }
    clock.set(0);
    let (refused, broken) = (clients.refused(), clients.broken());
    let answered = clients.stopped().await;
    assert!(refused.is_empty(), "no limit takes a clock that moves for time that passes: {refused:?}");
    assert_eq!(broken, 0);
    gateway.idle().await;
    let database = open(&gateway.data(DATABASE));
    until("all calls are settled", async || {
        number(&database, "SELECT count(*) FROM usage_calls WHERE state = 'reserved'") == 0
    })
    .await;
    account(&database, &answered);
    assert!(number(&database, "SELECT count(DISTINCT hour) FROM usage_hours") >= 5);
    // the log can be read, the audit log too, and each closed file has the lines of its day
    for line in gateway.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        line["timestamp"].as_str().unwrap().parse::<Timestamp>().unwrap();
    }
    for path in super::files(&gateway.file("data/audit")) {
        let text = std::fs::read_to_string(gateway.file("data/audit").join(&path)).unwrap();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            line["ts"].as_str().unwrap().parse::<Timestamp>().unwrap();
        }
    }
    // what was written at another time of day is found there after a restart as well
    gateway.killed_and_started_again().await;
    until("it listens again", async || tokio::net::TcpStream::connect(gateway.addr).await.is_ok()).await;
    for hours in [30, -26, 5] {
        let (_, least) = of_hour.iter().find(|(of, _)| *of == hours).unwrap();
        let found = reported(&gateway, hours).await;
        assert!(found + 8 >= *least as u64 && found > 0, "{hours}: {found} of {least}");
    }
    println!("{} answered at {of_hour:?} hours from now, 0 lost", answered.len());
}

/// A budget of a day counts what its own day used, whichever way the clock goes, and a bucket of requests fills with
/// time that passes.
#[tokio::test]
async fn budgets_follow_the_day_and_buckets_do_not_follow_the_clock() {
    let Some(clock) = Clock::new() else { return };
    let (_mock, setup) = priced().await;
    let budgets = json!([{"id": "day", "models": ["*"], "window": "day", "limit_requests": 5, "mode": "hard"}]);
    let tokens = json!({"version": 1, "tokens": [], "tenants": [{"id": "default", "budgets": budgets}]});
    let setup = setup
        .tokens(tokens)
        .variable("RATE_LIMIT_PER_SECOND", "1")
        .variable("RATE_LIMIT_BURST", "100")
        .variable("LD_PRELOAD", text(&clock.library()))
        .variable("CLOCK_OFFSET_FILE", text(&clock.file()));
    let gateway = setup.start().await;
    let used = async |most: usize| {
        let mut answered = 0;
        for _ in 0..most {
            let answer = gateway.chat(chat()).await;
            answered += usize::from(answer.status == 200);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        answered
    };
    assert_eq!(used(8).await, 5);
    clock.set(24);
    assert_eq!(used(8).await, 5, "another day");
    clock.set(0);
    assert_eq!(used(2).await, 0, "back: that day was used up");
    clock.set(-24);
    let before = used(8).await;
    assert!(before <= 5, "{before}");
    // 100 requests were there, 26 were taken; hours that the clock was set forward by fill nothing
    clock.set(480);
    let mut limited = 0;
    for _ in 0..120 {
        limited += usize::from(gateway.client().await.get("/v1/models").await.status == 429);
    }
    assert!(limited > 20, "{limited}");
}
