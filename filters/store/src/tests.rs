//! The store as its users see it, on a real file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::params;
use tempfile::TempDir;

use crate::{Keep, Store, StoreError, Together, Wait, Work};

const TABLE: &str = "CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT";

struct Bench {
    dir: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("sqlite/gateway.sqlite")).unwrap();
        store.migrate("numbers", &[TABLE]).unwrap();
        Self { dir, store }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("sqlite/gateway.sqlite")
    }

    async fn put(&self, n: i64, wait: Wait) -> Result<(), StoreError> {
        self.store.slot().await.unwrap().write(wait, Keep::Never, insert(n)).committed().await
    }

    fn numbers(&self) -> Vec<i64> {
        let reader = self.store.reader().unwrap();
        let mut select = reader.prepare("SELECT n FROM numbers ORDER BY n").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn count(&self) -> i64 {
        self.store.reader().unwrap().query_row("SELECT count(*) FROM numbers", [], |row| row.get(0)).unwrap()
    }
}

fn insert(n: i64) -> Work {
    Box::new(move |connection| {
        connection.prepare_cached("INSERT INTO numbers VALUES (?1)")?.execute(params![n]).map(drop)
    })
}

#[tokio::test]
async fn what_is_told_as_committed_can_be_read() {
    let bench = Bench::new();
    for n in 0..10 {
        bench.put(n, if n % 2 == 0 { Wait::Now } else { Wait::Later }).await.unwrap();
        assert_eq!(bench.count(), n + 1);
    }
}

#[tokio::test]
async fn many_writers_share_transactions() {
    let bench = Arc::new(Bench::new());
    let runs = Arc::new(AtomicUsize::new(0));
    let mut receipts = Vec::new();
    for n in 0..5000 {
        let (slot, runs) = (bench.store.slot().await.unwrap(), Arc::clone(&runs));
        let mut work = insert(n);
        let counted: Work = Box::new(move |connection| {
            runs.fetch_add(1, Ordering::Relaxed);
            work(connection)
        });
        receipts.push(slot.write(Wait::Later, Keep::Always, counted));
    }
    for receipt in receipts {
        receipt.committed().await.unwrap();
    }
    assert_eq!((bench.count(), runs.load(Ordering::Relaxed)), (5000, 5000), "each ran once");
}

#[tokio::test]
async fn one_bad_statement_fails_alone() {
    let bench = Bench::new();
    bench.put(7, Wait::Now).await.unwrap();
    let mut receipts = Vec::new();
    for n in [1, 7, 2, 7, 3] {
        receipts.push((n, bench.store.slot().await.unwrap().write(Wait::Later, Keep::Always, insert(n))));
    }
    for (n, receipt) in receipts {
        assert_eq!(receipt.committed().await.is_err(), n == 7, "{n}");
    }
    assert_eq!(bench.count(), 4);
    assert!(!bench.store.is_failing(), "a statement that is wrong says nothing about the disk");
}

/// Inserts, unless the disk is full.
fn insert_if_room(n: i64, full: &Arc<AtomicBool>) -> Work {
    let (full, mut work) = (Arc::clone(full), insert(n));
    Box::new(move |connection| {
        if full.load(Ordering::Relaxed) {
            let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            return Err(rusqlite::Error::SqliteFailure(failure, None));
        }
        work(connection)
    })
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_that_must_stay_is_lost() {
    let bench = Bench::new();
    let full = Arc::new(AtomicBool::new(true));
    let forgotten = bench.store.slot().await.unwrap().write(Wait::Now, Keep::Never, insert_if_room(1, &full));
    let kept = bench.store.slot().await.unwrap().write(Wait::Now, Keep::Always, insert_if_room(2, &full));
    assert!(matches!(forgotten.committed().await, Err(StoreError::NotWritten(_))));
    assert!(kept.committed().await.is_err(), "who waits is not left waiting");
    assert!(bench.store.is_failing());
    let later = bench.store.slot().await.unwrap().write(Wait::Now, Keep::Always, insert_if_room(3, &full));
    assert_eq!(bench.count(), 0);
    full.store(false, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(20), later.committed()).await.unwrap().unwrap();
    assert_eq!(bench.count(), 2, "the kept and the later one, not the forgotten one");
    assert!(!bench.store.is_failing());
}

#[tokio::test]
async fn while_kept_work_waits_for_the_disk_other_work_is_refused_and_not_left_waiting() {
    let bench = Bench::new();
    let full = Arc::new(AtomicBool::new(true));
    let kept = bench.store.slot().await.unwrap().write(Wait::Now, Keep::Always, insert_if_room(1, &full));
    assert!(kept.committed().await.is_err());
    for n in 2..5 {
        let later = bench.store.slot().await.unwrap().write(Wait::Now, Keep::Never, insert_if_room(n, &full));
        let told = tokio::time::timeout(Duration::from_secs(20), later.committed()).await.unwrap();
        assert!(matches!(told, Err(StoreError::NotWritten(_))), "{told:?}");
    }
    full.store(false, Ordering::Relaxed);
    until_failing_is(&bench.store, false).await;
    bench.put(9, Wait::Now).await.unwrap();
    assert_eq!(bench.count(), 2, "the kept one and the last");
}

#[tokio::test]
async fn a_database_that_really_has_no_page_left_is_a_full_disk() {
    let bench = Bench::new();
    let limit: Work = Box::new(|connection| {
        connection.query_row("PRAGMA max_page_count = 1", [], |row| row.get::<_, i64>(0)).map(drop)
    });
    bench.store.slot().await.unwrap().write(Wait::Now, Keep::Never, limit).committed().await.unwrap();
    let large: Work =
        Box::new(|connection| connection.execute_batch("CREATE TABLE blobs AS SELECT zeroblob(100000) AS b"));
    let refused = bench.store.slot().await.unwrap().write(Wait::Now, Keep::Never, large);
    assert!(matches!(refused.committed().await, Err(StoreError::NotWritten(_))));
    assert!(bench.store.is_failing());
}

/// Waits for the state of the disk to be noticed, without any work.
async fn until_failing_is(store: &Store, failing: bool) {
    let noticed = tokio::time::timeout(Duration::from_secs(20), async {
        while store.is_failing() != failing {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    noticed.await.unwrap();
}

#[tokio::test]
async fn a_disk_that_is_back_is_noticed_without_work() {
    let bench = Bench::new();
    let full = Arc::new(AtomicBool::new(true));
    let forgotten = bench.store.slot().await.unwrap().write(Wait::Now, Keep::Never, insert_if_room(1, &full));
    assert!(forgotten.committed().await.is_err());
    assert!(bench.store.is_failing());
    until_failing_is(&bench.store, false).await;
    bench.put(1, Wait::Now).await.unwrap();
}

/// A file system of its own that can be filled.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[tokio::test]
async fn a_full_disk_fails_and_room_on_it_ends_that() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a small file system cannot be mounted here");
        return;
    };
    let store = Store::open(&disk.0.path().join("sqlite/gateway.sqlite")).unwrap();
    store.migrate("test", &[TABLE]).unwrap();
    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok() {}
    let mut n = 0;
    // room that the log of the database still has may take some
    while !store.is_failing() {
        n += 1;
        let many: Work = Box::new(move |connection| {
            (0..1000)
                .try_for_each(|m| connection.execute("INSERT INTO numbers (n) VALUES (?1)", [n * 1000 + m]).map(drop))
        });
        drop(store.slot().await.unwrap().write(Wait::Now, Keep::Never, many).committed().await);
        assert!(n < 1000);
    }
    std::fs::remove_file(&filler).unwrap();
    drop(file);
    until_failing_is(&store, false).await;
    let after = store.slot().await.unwrap().write(Wait::Now, Keep::Never, insert(999_999_999));
    after.committed().await.unwrap();
    drop(store);
}

#[tokio::test]
async fn closing_writes_what_is_queued() {
    let bench = Bench::new();
    for n in 0..2000 {
        drop(bench.store.slot().await.unwrap().write(Wait::Later, Keep::Always, insert(n)));
    }
    let Bench { dir, store } = bench;
    let path = dir.path().join("sqlite/gateway.sqlite");
    let slot = store.slot().await.unwrap();
    slot.write(Wait::Later, Keep::Always, insert(9999));
    assert!(store.close(Duration::from_secs(20)));
    assert!(matches!(store.slot().await, Err(StoreError::Closed)));
    let again = Store::open(&path).unwrap();
    let count: i64 = again.reader().unwrap().query_row("SELECT count(*) FROM numbers", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 2001);
}

#[test]
fn files_belong_to_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(bench.path()), 0o600);
    assert_eq!(mode(bench.path().parent().unwrap().to_owned()), 0o700);
    for file in std::fs::read_dir(bench.path().parent().unwrap()).unwrap() {
        assert_eq!(mode(file.unwrap().path()), 0o600);
    }
}

#[test]
fn a_file_that_is_no_database_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.sqlite");
    std::fs::write(&path, [b'x'; 5000]).unwrap();
    assert!(Store::open(&path).is_err());
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    assert!(Store::open(&dir.path().join("folder")).is_err());
}

/// Without them, another process that closes the database removes the log that this one writes to.
#[tokio::test]
async fn the_locks_of_an_open_database_stay_whatever_else_is_opened() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    bench.put(1, Wait::Now).await.unwrap();
    drop((bench.store.maintenance().unwrap(), bench.store.reader().unwrap()));
    bench.store.migrate("others", &["CREATE TABLE others (n INTEGER) STRICT"]).unwrap();
    let inode = format!(":{} ", std::fs::metadata(bench.path()).unwrap().ino());
    let pid = format!(" {} ", std::process::id());
    // the list is read in pieces while others change it: a lock may be missing once
    let held = || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains(&inode) && line.contains(&pid))
    };
    assert!((0..100).any(|_| held()), "no lock is held");
}

/// How much was added in one transaction.
#[derive(Default)]
struct Total(i64);

impl Together for Total {
    fn write(self, connection: &rusqlite::Connection) -> rusqlite::Result<()> {
        connection.execute("INSERT INTO numbers VALUES (?1)", [self.0]).map(drop)
    }
}

fn add(n: i64) -> Work {
    let mut work = insert(n);
    Box::new(move |group| {
        group.add(|total: &mut Total| total.0 += n * 1000);
        work(group)
    })
}

#[tokio::test]
async fn what_a_transaction_adds_up_is_written_once_and_without_what_failed() {
    let bench = Bench::new();
    bench.put(7, Wait::Now).await.unwrap();
    let mut receipts = Vec::new();
    for n in [1, 2, 3] {
        receipts.push(bench.store.slot().await.unwrap().write(Wait::Later, Keep::Always, add(n)));
    }
    for receipt in receipts.drain(..) {
        receipt.committed().await.unwrap();
    }
    assert_eq!(bench.numbers(), [1, 2, 3, 7, 6000]);
    for n in [4, 7, 5] {
        receipts.push(bench.store.slot().await.unwrap().write(Wait::Later, Keep::Always, add(n)));
    }
    for (receipt, fails) in receipts.into_iter().zip([false, true, false]) {
        assert_eq!(receipt.committed().await.is_err(), fails);
    }
    assert_eq!(bench.numbers(), [1, 2, 3, 4, 5, 7, 4000, 5000, 6000], "one by one then, and 7 is not in it");
}
