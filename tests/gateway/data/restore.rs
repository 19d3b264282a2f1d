//! `restore DIR`: what is not a whole backup, or has no place, is refused before anything is written.

use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::Value;

use super::backup::{backup, digest, manifest};
use super::files;
use super::load::{chat, priced};
use crate::harness::Setup;

const DATABASE: &str = "data/sqlite/gateway.sqlite";

/// Changes a manifest.
fn edit(backup: &Path, change: impl FnOnce(&mut Value)) {
    let mut manifest = manifest(backup);
    change(&mut manifest);
    std::fs::write(backup.join("manifest.json"), manifest.to_string()).unwrap();
}

/// The entry of a file.
fn entry<'a>(manifest: &'a mut Value, name: &str) -> &'a mut Value {
    manifest["files"].as_array_mut().unwrap().iter_mut().find(|file| file["path"] == name).unwrap()
}

/// Lets the manifest say of a file what is so now.
fn describe(backup: &Path, name: &str) {
    let path = backup.join(name);
    let (size, sum) = (std::fs::metadata(&path).unwrap().len(), digest(&path));
    edit(backup, |manifest| {
        let entry = entry(manifest, name);
        entry["size"] = size.into();
        entry["sha256"] = sum.into();
    });
}

fn in_database(backup: &Path, sql: &str) {
    Connection::open(backup.join(DATABASE)).unwrap().execute_batch(sql).unwrap();
    describe(backup, DATABASE);
}

type Harm = fn(&Path);

/// What is done to a backup, and what `restore` says then.
const HARMS: [(&str, Harm, &[&str]); 21] = [
    ("no manifest", |at| std::fs::remove_file(at.join("manifest.json")).unwrap(), &["manifest.json", "No such file"]),
    ("half a manifest", |at| halve(&at.join("manifest.json")), &["manifest.json: it is no manifest of a backup"]),
    ("an empty manifest", |at| std::fs::write(at.join("manifest.json"), "").unwrap(), &["it is no manifest"]),
    ("another form", |at| edit(at, |manifest| manifest["format"] = 2.into()), &["it has form 2, this version reads 1"]),
    (
        "a file is missing",
        |at| std::fs::remove_file(at.join("config/models.yaml")).unwrap(),
        &["models.yaml: it is missing"],
    ),
    ("half a database", |at| halve(&at.join(DATABASE)), &["gateway.sqlite: its content is not that of the backup"]),
    ("another byte", |at| turn_a_byte(&at.join(DATABASE)), &["gateway.sqlite: its content is not that of the backup"]),
    ("a longer file", |at| lengthen(&at.join("data/audit/audit.jsonl")), &["audit.jsonl: its content is not"]),
    ("a path upwards", |at| rename(at, "data/../../x"), &["names a file outside of the backup: data/../../x"]),
    ("a path from the root", |at| rename(at, "/etc/x"), &["names a file outside of the backup: /etc/x"]),
    ("a path elsewhere", |at| rename(at, "manifest.json"), &["names a file outside of the backup"]),
    ("a name of a restore", |at| rename(at, "data/.restore-not-finished/x"), &["it is missing"]),
    ("a file twice", |at| rename(at, DATABASE), &["it is listed twice"]),
    ("file and directory", |at| rename(at, "data/sqlite"), &["it is listed twice, or as file and directory"]),
    ("a strange mode", |at| edit(at, |manifest| entry(manifest, DATABASE)["mode"] = "4777".into()), &["mode 4777"]),
    ("a link", |at| link(at, "config/models.yaml"), &["models.yaml: it is no file"]),
    ("a directory", |at| directory(at, "config/models.yaml"), &["models.yaml: it is no file"]),
    (
        "a newer schema",
        |at| in_database(at, "UPDATE schema_versions SET version = 99 WHERE owner = 'ledger'"),
        &["tables of ledger have version 99", "use a newer one"],
    ),
    (
        "tables of nobody",
        |at| in_database(at, "INSERT INTO schema_versions VALUES ('martians', 1)"),
        &["tables of martians have version 1, this version knows 0"],
    ),
    (
        "no database",
        |at| {
            std::fs::write(at.join(DATABASE), "nothing").unwrap();
            describe(at, DATABASE);
        },
        &["gateway.sqlite", "not a database"],
    ),
    ("not there at all", |at| std::fs::remove_dir_all(at).unwrap(), &["manifest.json", "No such file"]),
];

fn halve(path: &Path) {
    let content = std::fs::read(path).unwrap();
    std::fs::write(path, &content[..content.len() / 2]).unwrap();
}

fn turn_a_byte(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    let at = content.len() / 2;
    content[at] ^= 1;
    std::fs::write(path, content).unwrap();
}

fn lengthen(path: &Path) {
    let content = std::fs::read(path).unwrap();
    std::fs::write(path, [&content[..], b"{}\n"].concat()).unwrap();
}

fn rename(backup: &Path, name: &str) {
    edit(backup, |manifest| entry(manifest, "config/models.yaml")["path"] = name.into());
}

fn link(backup: &Path, name: &str) {
    let path = backup.join(name);
    let moved = backup.join("moved");
    std::fs::rename(&path, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &path).unwrap();
}

fn directory(backup: &Path, name: &str) {
    std::fs::remove_file(backup.join(name)).unwrap();
    std::fs::create_dir(backup.join(name)).unwrap();
}

async fn refused(setup: &Setup, into: &Path, backup: &Path) -> String {
    let ran = setup.run_in(into, &["restore", backup.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    ran.said
}

#[tokio::test]
async fn what_is_no_whole_backup_is_refused_and_nothing_is_written() {
    let (_mock, setup) = priced().await;
    let gateway = setup.clone().start().await;
    gateway.chat(chat()).await.is_ok();
    let out = tempfile::tempdir().unwrap();
    let good = out.path().join("good");
    backup(&gateway, &good).await;
    for (name, harm, words) in HARMS {
        let bad = out.path().join("bad");
        assert!(Command::new("cp").arg("-a").args([&good, &bad]).status().unwrap().success());
        harm(&bad);
        let into = tempfile::tempdir().unwrap();
        let said = refused(&setup, into.path(), &bad).await;
        assert!(words.iter().all(|word| said.contains(word)), "{name}: {said}");
        assert_eq!(into.path().read_dir().unwrap().count(), 0, "{name}");
        drop(std::fs::remove_dir_all(&bad));
    }
    let into = tempfile::tempdir().unwrap();
    let ran = setup.run_in(into.path(), &["restore", good.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "the good one is taken: {}", ran.said);
}

#[tokio::test]
async fn there_must_be_room_and_nobody_who_uses_it() {
    let (_mock, setup) = priced().await;
    let mut gateway = setup.clone().start().await;
    gateway.chat(chat()).await.is_ok();
    let out = tempfile::tempdir().unwrap();
    let made = out.path().join("made");
    backup(&gateway, &made).await;
    let arguments = ["restore", made.to_str().unwrap()];
    let ran = gateway.ran(&arguments).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains("is in use by another gateway: stop that one first"), "{}", ran.said);
    gateway.signal("TERM");
    gateway.ended().await;
    let ran = gateway.ran(&arguments).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains("data is not empty"), "{}", ran.said);
    // configuration that is there stays as it is, and is spoken of if it is another one
    std::fs::rename(gateway.file("data"), gateway.file("away")).unwrap();
    gateway.put("conf/models.yaml", "version: 1\nmodels: []\n");
    std::fs::remove_file(gateway.file("conf/pricing.yaml")).unwrap();
    let ran = gateway.ran(&arguments).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let spoken_of: Vec<&str> = ran.said.lines().filter(|line| line.contains("it was left as it is")).collect();
    assert_eq!(spoken_of.len(), 1, "{}", ran.said);
    assert!(spoken_of[0].starts_with("conf/models.yaml is there and is another one"), "{}", ran.said);
    assert_eq!(std::fs::read_to_string(gateway.file("conf/models.yaml")).unwrap(), "version: 1\nmodels: []\n");
    assert_eq!(digest(&gateway.file("conf/pricing.yaml")), digest(&made.join("config/pricing.yaml")));
}

/// A key that names a place counts on a machine on which nothing is configured yet, and a volume that is mounted on the
/// data directory is a place, too.
#[tokio::test]
async fn places_are_those_of_the_configuration_in_the_backup() {
    let (_mock, setup) = priced().await;
    let setup =
        setup.variable("DGX_GATEWAY_DATA_DIR", "").section("data_dir", "state/of it").section("models_file", "m.yaml");
    let gateway = setup.clone().start().await;
    gateway.chat(chat()).await;
    std::fs::write(gateway.file("m.yaml"), "version: 1").unwrap();
    let out = tempfile::tempdir().unwrap();
    let made = out.path().join("made");
    backup(&gateway, &made).await;
    let into = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(into.path().join("state/of it/lost+found")).unwrap();
    let ran = setup.run_in(into.path(), &["restore", made.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let there: Vec<String> = files(into.path()).iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    for name in ["conf/gateway.yaml", "m.yaml", "conf/pricing.yaml", "state/of it/sqlite/gateway.sqlite"] {
        assert!(there.iter().any(|path| path == name), "{name} {there:?}");
    }
}
