//! `backup DIR` beside a gateway that works as fast as it can.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::load::{Clients, DATABASE, account, chat, open, priced};
use super::{SmallDisk, files};
use crate::harness::{Gateway, until};

const BACKUPS: usize = 5;
const CLIENTS: usize = 6;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub(super) fn digest(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn manifest(backup: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(backup.join("manifest.json")).unwrap()).unwrap()
}

/// Makes a backup beside a gateway.
pub(super) async fn backup(gateway: &Gateway, to: &Path) {
    let ran = gateway.ran(&["backup", to.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
}

/// The manifest describes each file, and nothing else is there.
fn is_described(backup: &Path) {
    let manifest = manifest(backup);
    let listed = manifest["files"].as_array().unwrap();
    let mut names: Vec<&str> = listed.iter().map(|file| file["path"].as_str().unwrap()).collect();
    for file in listed {
        let path = backup.join(file["path"].as_str().unwrap());
        assert_eq!(file["size"].as_u64().unwrap(), std::fs::metadata(&path).unwrap().len(), "{file}");
        assert_eq!(file["sha256"].as_str().unwrap(), digest(&path), "{file}");
        assert_eq!(mode(&path), 0o600, "{file}");
    }
    names.push("manifest.json");
    names.sort_unstable();
    let there: Vec<String> = files(backup).iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    assert_eq!(there, names);
    assert_eq!(mode(backup), 0o700);
}

/// Of each client, which asks one thing after the other, the copy has the first calls without a gap: the next one was
/// made only after the row of the one before was on the disk.
fn is_of_one_instant(requests: &[String]) {
    let mut of_client: HashMap<&str, Vec<u64>> = HashMap::new();
    for id in requests {
        let (client, number) = id.split_once('-').unwrap();
        of_client.entry(client).or_default().push(number.parse().unwrap());
    }
    for (client, mut numbers) in of_client {
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "client {client}: {numbers:?}");
    }
}

async fn usage(gateway: &Gateway) -> Value {
    let (now, hours) = (Timestamp::now(), SignedDuration::from_hours(2));
    let path = format!("/v1/billing/usage?from={}&to={}&granularity=day", now - hours, now + hours);
    let mut usage = gateway.client().await.get(&path).await.is_ok().json().clone();
    for moving in ["from", "to"] {
        usage.as_object_mut().unwrap().remove(moving);
    }
    usage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_the_gateway_at_one_instant_and_goes_on_elsewhere() {
    let (_mock, setup) = priced().await;
    let gateway = setup.clone().start().await;
    let out = tempfile::tempdir().unwrap();
    let clients = Clients::start(CLIENTS, gateway.addr);
    for number in 0..BACKUPS {
        clients.answered_more(50).await;
        let before = clients.answered();
        let to = out.path().join(number.to_string());
        backup(&gateway, &to).await;
        let during = clients.count() - before.len();
        is_described(&to);
        let account = account(&open(&to.join("data").join(DATABASE)), &before);
        is_of_one_instant(&account.requests);
        println!("backup {number}: {} before, {} in it, {during} answered meanwhile", before.len(), account.calls);
        let audit = std::fs::read_to_string(to.join("data/audit/audit.jsonl")).unwrap();
        assert!(audit.ends_with('\n'));
        audit.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).unwrap()));
    }
    let answered = clients.stopped().await;
    let last = out.path().join("last");
    backup(&gateway, &last).await;
    let at_source = usage(&gateway).await;
    assert!(at_source.to_string().contains("\"requests\""), "{at_source}");

    let elsewhere = Arc::new(tempfile::tempdir().unwrap());
    let ran = setup.run_in(elsewhere.path(), &["restore", last.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    account(&open(&elsewhere.path().join("data").join(DATABASE)), &answered);
    let restored = setup.start_on(elsewhere).await;
    assert_eq!(usage(&restored).await, at_source);
    restored.chat(chat()).await.is_ok();
    until("the next call is booked as well", async || usage(&restored).await != at_source).await;
}

/// Puts files where parts of the gateway keep theirs.
fn furnish(gateway: &Gateway) {
    let put = |name: &str, content: &str, mode: u32| {
        let path = gateway.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    put("data/images/acme/one.png", "an image", 0o600);
    put("data/images/acme/.two.png.part", "half an image", 0o600);
    put("data/keys/internal.key", "a key", 0o600);
    put("data/fx/ecb-2026-11-27.xml", "rates", 0o600);
    put("data/audit/audit-2026-11-27-1.jsonl", "{\"ts\":\"2026-11-27T00:00:00Z\"}\n", 0o640);
    put("agents/helper.yaml", "name: helper", 0o644);
    put("agents/notes.txt", "not an agent", 0o644);
}

#[tokio::test]
async fn everything_that_is_kept_comes_back_with_its_modes() {
    let (_mock, setup) = priced().await;
    let tokens = serde_json::json!({"version": 1, "tokens": [], "tenants": [{"id": "default"}]});
    let gateway = setup.clone().tokens(tokens).start().await;
    gateway.chat(chat()).await.is_ok();
    furnish(&gateway);
    let tokens = gateway.file("auth/tokens.yaml");
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    // what a tenant keeps for retrieval, open elsewhere and for the most part in its log still
    std::fs::create_dir(gateway.data("sqlite/rag")).unwrap();
    let rag = Connection::open(gateway.data("sqlite/rag/acme.sqlite")).unwrap();
    rag.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    rag.execute_batch("CREATE TABLE parts (n INTEGER); INSERT INTO parts VALUES (1), (2)").unwrap();
    until("the call is in the audit log", async || !gateway.audit("http").is_empty()).await;

    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("made");
    backup(&gateway, &to).await;
    is_described(&to);
    let expected = [
        "config/agents/helper.yaml",
        "config/gateway.yaml",
        "config/models.yaml",
        "config/pricing.yaml",
        "config/tokens.yaml",
        "data/audit/audit-2026-11-27-1.jsonl",
        "data/audit/audit.jsonl",
        "data/fx/ecb-2026-11-27.xml",
        "data/images/acme/one.png",
        "data/keys/internal.key",
        "data/sqlite/gateway.sqlite",
        "data/sqlite/rag/acme.sqlite",
        "manifest.json",
    ];
    let there: Vec<String> = files(&to).iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    assert_eq!(there, expected);
    let manifest = manifest(&to);
    assert_eq!((&manifest["format"], &manifest["name"]), (&1.into(), &"dgx-gateway".into()));
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
    manifest["created_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(manifest["schema"]["data/sqlite/gateway.sqlite"]["ledger"].as_u64().unwrap() >= 5, "{manifest}");

    let elsewhere = tempfile::tempdir().unwrap();
    let ran = setup.run_in(elsewhere.path(), &["restore", to.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    for (restored, in_backup, its_mode) in [
        ("agents/helper.yaml", "config/agents/helper.yaml", 0o644),
        ("auth/tokens.yaml", "config/tokens.yaml", 0o600),
        ("conf/gateway.yaml", "config/gateway.yaml", mode(&gateway.file("conf/gateway.yaml"))),
        ("conf/models.yaml", "config/models.yaml", mode(&gateway.file("conf/models.yaml"))),
        ("conf/pricing.yaml", "config/pricing.yaml", mode(&gateway.file("conf/pricing.yaml"))),
        ("data/audit/audit-2026-11-27-1.jsonl", "data/audit/audit-2026-11-27-1.jsonl", 0o640),
        ("data/audit/audit.jsonl", "data/audit/audit.jsonl", 0o640),
        ("data/fx/ecb-2026-11-27.xml", "data/fx/ecb-2026-11-27.xml", 0o600),
        ("data/images/acme/one.png", "data/images/acme/one.png", 0o600),
        ("data/keys/internal.key", "data/keys/internal.key", 0o600),
        ("data/sqlite/gateway.sqlite", "data/sqlite/gateway.sqlite", 0o600),
        (
            "data/sqlite/rag/acme.sqlite",
            "data/sqlite/rag/acme.sqlite",
            mode(&gateway.data("sqlite/rag/acme.sqlite")) & 0o770,
        ),
    ] {
        let restored = elsewhere.path().join(restored);
        assert_eq!(digest(&restored), digest(&to.join(in_backup)), "{in_backup}");
        assert_eq!(mode(&restored), its_mode, "{in_backup}");
    }
    assert_eq!(files(elsewhere.path()).len(), 12);
    for (directory, its_mode) in
        [("data", 0o700), ("data/sqlite", 0o700), ("data/audit", 0o750), ("data/images/acme", 0o700)]
    {
        assert_eq!(mode(&elsewhere.path().join(directory)), its_mode, "{directory}");
    }
    assert_eq!(std::fs::read_to_string(elsewhere.path().join("data/images/acme/one.png")).unwrap(), "an image");
    let parts = open(&elsewhere.path().join("data/sqlite/rag/acme.sqlite"));
    assert_eq!(super::load::number(&parts, "SELECT sum(n) FROM parts"), 3);
}

#[tokio::test]
async fn a_place_that_does_not_do_is_refused_and_nothing_stays_behind() {
    let (_mock, setup) = priced().await;
    let gateway = setup.clone().start().await;
    let out = tempfile::tempdir().unwrap();
    let full = out.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), "").unwrap();
    let (missing, file) = (out.path().join("missing/backup"), full.join("file"));
    let inside = gateway.data("backup");
    for (to, why) in [
        (&full, "is not empty"),
        (&missing, "there is no directory"),
        (&file, "Not a directory"),
        (&inside, "lies inside the data directory"),
    ] {
        let ran = gateway.ran(&["backup", to.to_str().unwrap()]).await;
        assert_eq!(ran.code, Some(1), "{}", ran.said);
        assert!(ran.said.contains(why) && ran.said.contains(to.parent().unwrap().to_str().unwrap()), "{}", ran.said);
    }
    assert_eq!(files(out.path()).len(), 1);
    // a directory that is empty does
    let empty = out.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    backup(&gateway, &empty).await;
    let nobody = tempfile::tempdir().unwrap();
    let ran = setup.run_in(nobody.path(), &["backup", out.path().join("other").to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains("there is no data directory"), "{}", ran.said);
    assert_eq!(nobody.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn what_backups_that_were_killed_left_goes_with_the_next_one() {
    let (_mock, setup) = priced().await;
    let gateway = setup.start().await;
    let out = tempfile::tempdir().unwrap();
    let (dead, alive) = (out.path().join(".dgx-gateway-backup-dead"), out.path().join(".dgx-gateway-backup-alive"));
    for left in [&dead, &alive] {
        std::fs::create_dir(left).unwrap();
        std::fs::write(left.join("file"), "").unwrap();
    }
    let lock = std::fs::File::open(&alive).unwrap();
    lock.lock().unwrap();
    backup(&gateway, &out.path().join("made")).await;
    assert!(!dead.exists() && alive.exists());
}

#[tokio::test]
async fn a_disk_that_is_full_leaves_neither_half_a_backup_nor_half_a_restore() {
    let Some(disk) = SmallDisk::mount("3m") else { return };
    let (_mock, setup) = priced().await;
    let gateway = setup.clone().start().await;
    gateway.chat(chat()).await.is_ok();
    let image = gateway.data("images/acme/one.png");
    std::fs::create_dir_all(image.parent().unwrap()).unwrap();
    std::fs::write(&image, vec![7; 4 << 20]).unwrap();
    let ran = gateway.ran(&["backup", disk.path().join("backup").to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    assert!(ran.said.contains("No space left on device"), "{}", ran.said);
    assert_eq!(disk.path().read_dir().unwrap().count(), 0);
    // a disk so small that not even the database fits
    {
        let Some(smaller) = SmallDisk::mount("64k") else { return };
        let ran = gateway.ran(&["backup", smaller.path().join("backup").to_str().unwrap()]).await;
        assert_eq!(ran.code, Some(1), "{}", ran.said);
        assert!(ran.said.contains("No space left on device"), "{}", ran.said);
        assert_eq!(smaller.path().read_dir().unwrap().count(), 0);
    }

    let out = tempfile::tempdir().unwrap();
    let made = out.path().join("made");
    backup(&gateway, &made).await;
    for there_before in [false, true] {
        if there_before {
            std::fs::create_dir(disk.path().join("data")).unwrap();
        }
        let ran = setup.run_in(disk.path(), &["restore", made.to_str().unwrap()]).await;
        assert_eq!(ran.code, Some(1), "{}", ran.said);
        assert!(ran.said.contains("No space left on device"), "{}", ran.said);
        assert!(files(disk.path()).is_empty());
        assert_eq!(disk.path().join("data").exists(), there_before);
    }
}
