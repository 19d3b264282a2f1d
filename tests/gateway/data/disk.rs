//! Disks that take nothing any more, and data that goes away, while calls that cost money are made: they are refused, and
//! what was answered stays.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use dgx_gateway_testkit::client::RawClient;
use serde_json::Value;

use super::SmallDisk;
use super::load::{Clients, DATABASE, account, open, priced, rows};
use crate::harness::{Client, Gateway, soon, until};

const CLIENTS: usize = 4;

/// Status and body of `/readyz`.
pub(super) async fn readiness(gateway: &Gateway) -> (u16, Value) {
    let mut client = RawClient::connect(gateway.addr).await.unwrap();
    client.request(&http::Method::GET, "/readyz", &[], b"").await.unwrap();
    let response = soon("readiness", client.read_response()).await.unwrap();
    (response.status.as_u16(), serde_json::from_slice(&response.body).unwrap())
}

/// Waits until calls are refused because they cannot be booked, and `/readyz` says so.
async fn until_refused(gateway: &Gateway, clients: &Clients) {
    let before = clients.refused().len();
    until("calls are refused", async || clients.refused().len() > before).await;
    for refused in clients.refused() {
        let refused: Value = serde_json::from_str(&refused).unwrap();
        assert_eq!(refused["error"]["code"], "storage_error", "{refused}");
    }
    until("it is not ready", async || readiness(gateway).await.0 == 503).await;
    let (_, body) = readiness(gateway).await;
    assert_eq!(body["degraded_reasons"], serde_json::json!(["storage unavailable"]), "{body}");
}

/// Waits until calls are answered again; then everything that was ever answered is there once.
async fn all_is_well_again(gateway: &Gateway, clients: Clients, database: &Path) {
    until("it is ready again", async || readiness(gateway).await.0 == 200).await;
    clients.answered_more(20).await;
    let (refused, broken) = (clients.refused().len(), clients.broken());
    let answered = clients.stopped().await;
    gateway.idle().await;
    let open = open(database);
    until("all calls are settled", async || {
        super::load::number(&open, "SELECT count(*) FROM usage_calls WHERE state = 'reserved'") == 0
    })
    .await;
    account(&open, &answered);
    assert_eq!(broken, 0);
    println!("{} answered, {refused} refused, 0 lost", answered.len());
}

fn fill(disk: &Path) -> PathBuf {
    let filler = disk.join("filler");
    let file = std::fs::File::create(&filler).unwrap();
    let mut at = 0;
    while file.write_all_at(&[0; 4096], at).is_ok() {
        at += 4096;
    }
    filler
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_costs_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount("24m") else { return };
    let (_mock, setup) = priced().await;
    let data = disk.path().join("data");
    let gateway = setup.variable("DGX_GATEWAY_DATA_DIR", data.to_str().unwrap()).start().await;
    let clients = Clients::start(CLIENTS, gateway.addr);
    clients.answered_more(20).await;
    let filler = fill(disk.path());
    until_refused(&gateway, &clients).await;
    std::fs::remove_file(filler).unwrap();
    all_is_well_again(&gateway, clients, &data.join(DATABASE)).await;
}

/// A file system of a kernel that stops to write when it meets an error.
struct Stubborn {
    dir: tempfile::TempDir,
    device: String,
}

impl Stubborn {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("at"));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let run = |program: &str, arguments: &[&Path]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        let mounted = run("mkfs.ext4", &["-q".as_ref(), &image])
            && run("mount", &["-o".as_ref(), "loop,errors=remount-ro".as_ref(), &image, &at]);
        if !mounted {
            println!("skipped: no file system of a file can be mounted here");
            return None;
        }
        let device = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&at).output().unwrap();
        let device = String::from_utf8(device.stdout).unwrap().trim().trim_start_matches("/dev/").to_owned();
        Some(Self { dir, device })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("at")
    }

    /// From now on nothing can be written.
    fn fail(&self) -> bool {
        std::fs::write(format!("/sys/fs/ext4/{}/trigger_fs_error", self.device), "a test").is_ok()
    }
}

impl Drop for Stubborn {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_becomes_read_only_refuses_what_costs_and_stops_the_next_start() {
    let Some(disk) = Stubborn::mount() else { return };
    let (_mock, setup) = priced().await;
    let data = disk.path().join("data");
    let setup = setup.variable("DGX_GATEWAY_DATA_DIR", data.to_str().unwrap());
    let mut gateway = setup.clone().start().await;
    let clients = Clients::start(CLIENTS, gateway.addr);
    clients.answered_more(20).await;
    let before = clients.answered();
    if !disk.fail() {
        println!("skipped: this kernel makes no errors on demand");
        return;
    }
    until_refused(&gateway, &clients).await;
    let (refused, answered) = (clients.refused().len(), clients.count());
    until("more is refused", async || clients.refused().len() >= refused + 20).await;
    assert!(clients.count() <= answered + CLIENTS, "a call that cannot be booked is not made");
    let answered = clients.stopped().await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let dir = tempfile::tempdir().unwrap();
    let ran = setup.run_in(dir.path(), &["serve"]).await;
    assert_eq!(ran.code, Some(1));
    let expected = format!("the data directory {} cannot be used: Read-only file system", data.display());
    assert!(ran.said.contains(&expected), "{}", ran.said);
    // what was answered was on the disk before; a copy can be read where something can be written
    let copy = dir.path().join("copy");
    assert!(Command::new("cp").arg("-r").args([&data, &copy]).status().unwrap().success());
    let copy = open(&copy.join(DATABASE));
    account(&copy, &before);
    // a call that had been made when the disk failed was answered after 2 s; its row says that it was made
    let made = rows(&copy, "SELECT request_id, state FROM usage_calls");
    assert!(answered.iter().all(|id| made.contains_key(id)), "{answered:?} {made:?}");
    assert!(answered.len() <= before.len() + 2 * CLIENTS);
    println!("{} answered before, {} at that moment, 0 lost", before.len(), answered.len() - before.len());
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_written_stops_the_start() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let (_mock, setup) = priced().await;
    let data = disk.path().join("data");
    let setup = setup.variable("DGX_GATEWAY_DATA_DIR", data.to_str().unwrap());
    let mut gateway = setup.clone().start().await;
    gateway.signal("TERM");
    gateway.ended().await;
    let remount = |how: &str| Command::new("mount").args(["-o", how]).arg(disk.path()).status().unwrap().success();
    assert!(remount("remount,ro"));
    let dir = tempfile::tempdir().unwrap();
    let ran = setup.run_in(dir.path(), &["serve"]).await;
    assert_eq!(ran.code, Some(1));
    let expected = format!("the data directory {} cannot be used: Read-only file system", data.display());
    assert!(ran.said.contains(&expected), "{}", ran.said);
    // nor can one be made
    let other = disk.path().join("other");
    let elsewhere = setup.clone().variable("DGX_GATEWAY_DATA_DIR", other.to_str().unwrap());
    let ran = elsewhere.run_in(dir.path(), &["serve"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains(other.to_str().unwrap()) && ran.said.contains("Read-only file system"), "{}", ran.said);
    assert!(remount("remount,rw"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_moved_away_and_back_loses_nothing() {
    let (_mock, setup) = priced().await;
    let gateway = setup.start().await;
    let clients = Clients::start(CLIENTS, gateway.addr);
    clients.answered_more(20).await;
    std::fs::rename(gateway.file("data"), gateway.file("away")).unwrap();
    until_refused(&gateway, &clients).await;
    let (refused, answered) = (clients.refused().len(), clients.count());
    until("more is refused", async || clients.refused().len() >= refused + 20).await;
    assert!(clients.count() <= answered + CLIENTS, "what nobody could find again is not answered");
    assert!(!gateway.file("data").exists(), "no other data takes its place");
    assert!(gateway.log().contains("was removed or replaced while it was open: put it back"), "{}", gateway.log());
    std::fs::rename(gateway.file("away"), gateway.file("data")).unwrap();
    all_is_well_again(&gateway, clients, &gateway.data(DATABASE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_deleted_is_not_written_to_and_the_next_start_begins_anew() {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.start().await;
    let clients = Clients::start(CLIENTS, gateway.addr);
    clients.answered_more(20).await;
    std::fs::remove_dir_all(gateway.file("data")).unwrap();
    until_refused(&gateway, &clients).await;
    let (refused, answered) = (clients.refused().len(), clients.count());
    until("more is refused", async || clients.refused().len() >= refused + 20).await;
    assert!(clients.count() <= answered + CLIENTS, "what nobody could find again is not answered");
    assert_eq!(Client::connect(gateway.addr).await.get("/healthz").await.status, 200);
    clients.stopped().await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(!gateway.file("data").exists(), "nothing was made again");
    gateway.started_again().await;
    let clients = Clients::named("next", CLIENTS, gateway.addr);
    clients.answered_more(5).await;
    account(&open(&gateway.data(DATABASE)), &clients.stopped().await);
}
