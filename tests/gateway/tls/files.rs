//! Certificate and key: what is taken, what is refused with which words, what is warned of, and that nothing of a key
//! is shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::json;

use super::Keys;
use crate::harness::tls::{HERE, Issued};
use crate::harness::{Setup, until};

/// `dgx-gateway check` on a file with `server.tls`; gives exit code and what it said.
fn check(keys: &Keys, command: &str) -> (Option<i32>, String) {
    let config = keys.dir().join("gateway.yaml");
    let yaml = "server:\n  listen: 127.0.0.1:3000\n  tls:\n    cert_file: cert.pem\n    key_file: key.pem\n";
    fs::write(&config, yaml).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"));
    program.args(command.split(' ')).arg("--config").arg("gateway.yaml").env_clear().current_dir(keys.dir());
    let Output { status, stdout, stderr } = program.output().unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    for line in keys.issued.key.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!said.contains(line), "a part of the key is shown");
    }
    (status.code(), said)
}

fn put(keys: &Keys, name: &str, content: &str) {
    fs::write(keys.dir().join(name), content).unwrap();
    fs::set_permissions(keys.dir().join(name), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn every_bad_file_is_told_with_file_line_and_key() {
    let keys = Keys::new();
    assert_eq!(check(&keys, "check"), (Some(0), "The configuration is valid.\n".to_owned()));
    let (good, key) = (keys.issued.chain.clone(), keys.issued.key.clone());
    let half = |text: &str| text.split_at(text.len() / 2).0.to_owned();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let odd = "-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n";
    let other = Issued::by_itself(&HERE).key;
    let (cert_at, key_at) =
        ("gateway.yaml:4: server.tls.cert_file: cert.pem", "gateway.yaml:5: server.tls.key_file: key.pem");
    for (name, content, expected) in [
        ("cert.pem", None, format!("{cert_at} cannot be read: there is no such file")),
        ("key.pem", None, format!("{key_at} cannot be read: there is no such file")),
        (
            "cert.pem",
            Some(String::new()),
            format!("{cert_at}: there is no certificate in it (-----BEGIN CERTIFICATE-----)"),
        ),
        (
            "cert.pem",
            Some(key.clone()),
            format!("{cert_at}: there is no certificate in it (-----BEGIN CERTIFICATE-----)"),
        ),
        ("cert.pem", Some(half(&good)), format!("{cert_at}: certificate 1 in it cannot be read")),
        ("cert.pem", Some(good.clone() + &half(&good)), format!("{cert_at}: certificate 2 in it cannot be read")),
        (
            "key.pem",
            Some(good.clone()),
            format!("{key_at}: there is no private key in it (-----BEGIN PRIVATE KEY-----)"),
        ),
        ("key.pem", Some(half(&key)), format!("{key_at}: the private key in it cannot be read")),
        (
            "key.pem",
            Some(encrypted.to_owned()),
            format!("{key_at}: the private key is encrypted; it must be stored without a passphrase"),
        ),
        (
            "key.pem",
            Some(odd.to_owned()),
            format!(
                "{key_at}: the private key is of a kind that is not supported; use RSA, ECDSA P-256 or P-384, or Ed25519"
            ),
        ),
        (
            "key.pem",
            Some(other),
            format!("{key_at}: the private key does not belong to the first certificate of cert_file"),
        ),
    ] {
        match content {
            Some(content) => put(&keys, name, &content),
            None => fs::remove_file(keys.dir().join(name)).unwrap(),
        }
        assert_eq!(check(&keys, "check"), (Some(2), expected + "\n"));
        put(&keys, "cert.pem", &good);
        put(&keys, "key.pem", &key);
    }
    fs::write(keys.dir().join("cert.pem"), [0x30, 0x82, 0xff]).unwrap();
    assert_eq!(check(&keys, "check"), (Some(2), format!("{cert_at} is no text; PEM is needed (-----BEGIN …)\n")));
    // both are told
    put(&keys, "key.pem", "");
    assert_eq!(check(&keys, "check").1.lines().count(), 2);
}

#[test]
fn the_content_of_a_file_in_the_place_of_its_path_is_not_shown() {
    let keys = Keys::new();
    let yaml = json!({"server": {"tls": {"cert_file": keys.issued.chain, "key_file": keys.issued.key}}}).to_string();
    fs::write(keys.dir().join("inline.yaml"), yaml).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"))
        .args(["check", "--config", "inline.yaml"])
        .env_clear()
        .current_dir(keys.dir())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(said.matches("must be the path of a file").count(), 2, "{said}");
    assert!(!said.contains("BEGIN"), "{said}");
}

#[test]
fn a_certificate_that_does_not_hold_and_a_key_for_all_eyes_are_warned_of() {
    let keys = Keys::new();
    keys.authority.issue_ended(&HERE).write(keys.dir());
    let (code, said) = check(&keys, "check");
    assert!(code == Some(0) && said.contains("the certificate has ended; clients refuse it"), "{said}");
    assert!(said.contains("cert.pem") && said.contains("2021-01-01"), "{said}");
    keys.authority.issue_but(&HERE, |params| params.not_before = rcgen::date_time_ymd(4000, 1, 1)).write(keys.dir());
    assert!(check(&keys, "check").1.contains("the certificate does not hold yet; clients refuse it"));
    keys.issued.write(keys.dir());
    fs::set_permissions(keys.dir().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = check(&keys, "check");
    assert!(code == Some(0) && said.contains("everyone on this machine can read the key of the certificate"), "{said}");
}

#[tokio::test]
async fn the_warnings_stand_in_the_log_of_a_start_and_of_a_reload() {
    let keys = Keys::new();
    keys.authority.issue_ended(&HERE).write(keys.dir());
    let gateway = keys.setup(Setup::new()).start().await;
    let warnings = async || gateway.log().matches("the certificate has ended").count();
    until("it is in the log", async || warnings().await == 1).await;
    assert_eq!(gateway.reload().await.0, 200);
    until("it is in the log again", async || warnings().await == 2).await;
    // 2021-01-01, as it was issued
    let series = "dgx_gateway_tls_certificate_not_after_seconds";
    assert_eq!(gateway.metrics().await.value(series), 1_609_459_200.0);
    keys.authority.issue_but(&HERE, |params| params.not_after = rcgen::date_time_ymd(2035, 1, 1)).write(keys.dir());
    assert_eq!(gateway.reload().await.0, 200);
    assert_eq!(gateway.metrics().await.value(series), 2_051_222_400.0);
    keys.authority.issue_ended(&HERE).write(keys.dir());
    assert_eq!(gateway.reload().await.0, 200);
    assert!(keys.authority.client(&["h2"]).connect(gateway.addr).await.unwrap_err().to_string().contains("xpired"));
}

#[test]
fn show_names_the_files_and_nothing_in_them() {
    let keys = Keys::new();
    let (code, said) = check(&keys, "config show");
    assert_eq!(code, Some(0));
    assert!(said.contains("cert_file: cert.pem\n") && said.contains("key_file: key.pem\n"), "{said}");
    assert!(!said.contains("BEGIN"), "{said}");
}
