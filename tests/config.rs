//! `dgx-gateway config …` and `check` as an operator meets them: output, exit codes, warnings.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs a command with these variables and no others.
fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).current_dir(folder);
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn folder(gateway: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("conf")).unwrap();
    fs::create_dir(folder.path().join("auth")).unwrap();
    fs::write(folder.path().join("conf/gateway.yaml"), gateway).unwrap();
    folder
}

const GATEWAY: &str = r#"
server: {drain_seconds: 7}
backends:
  - {id: a, kind: openai, domain: local, base_url: "http://127.0.0.1:8000/v1", api_key: canary-of-the-file}
  - {id: b, kind: openrouter, domain: cloud, base_url: "https://b.example/v1", api_key: "${KEY}"}
"#;
const TOKENS: &str =
    "version: 1\ntenants: [{id: acme}]\ntokens: [{id: t, bound_tenant: acme, secrets: [{value: canary-token}]}]\n";

#[test]
fn show_prints_what_is_in_effect_and_no_secret() {
    let folder = folder(GATEWAY);
    fs::write(folder.path().join("auth/tokens.yaml"), TOKENS).unwrap();
    let bearer = folder.path().join("bearer");
    fs::write(&bearer, "canary-in-a-file").unwrap();
    let variables = [
        ("KEY", "canary-of-the-environment"),
        ("RUST_API_BEARER_FILE", bearer.to_str().unwrap()),
        ("MAX_BODY_BYTES", "2048"),
    ];
    let (code, shown, said) = run(folder.path(), &["config", "show"], &variables);
    assert_eq!((code, said.lines().filter(|line| !line.contains("tokens file")).count()), (Some(0), 0), "{said}");
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("drain_seconds: 7\n") && shown.contains("max_body_bytes: 2048\n"), "{shown}");
    assert_eq!(shown.matches("api_key: \"[secret]\"\n").count(), 2, "{shown}");
    assert!(shown.contains("base_url: https://b.example/v1\n"), "{shown}");
}

#[test]
fn show_and_check_read_the_price_table() {
    let folder = folder("fx: {markup: 0.07}\n");
    let (code, shown, _) = run(folder.path(), &["config", "show"], &[]);
    assert_eq!(code, Some(0));
    assert!(shown.contains("pricing_file: conf/pricing.yaml\n") && shown.contains("markup: 0.07\n"), "{shown}");
    let (_, shown, _) = run(folder.path(), &["config", "show"], &[("FX_MARKUP", "0.1")]);
    assert!(shown.contains("markup: 0.1\n"), "{shown}");
    fs::write(folder.path().join("conf/pricing.yaml"), "version: 1\nentries:\n- {backend: a, model: m}\n").unwrap();
    for arguments in [&["check"][..], &["config", "show"]] {
        let (code, _, said) = run(folder.path(), arguments, &[]);
        assert_eq!(code, Some(2));
        assert!(said.starts_with("conf/pricing.yaml:3: entries[0].input: the entry sets no price"), "{said}");
    }
    for (markup, key) in [("1.1", "FX_MARKUP"), ("-0.1", "FX_MARKUP"), ("a lot", "FX_MARKUP"), ("", "fx.markup")] {
        fs::remove_file(folder.path().join("conf/pricing.yaml")).ok();
        fs::write(folder.path().join("conf/gateway.yaml"), "fx: {markup: '2'}\n").unwrap();
        let (code, _, said) = run(folder.path(), &["check"], &[("FX_MARKUP", markup)]);
        assert_eq!(code, Some(2), "{markup}");
        assert!(said.contains(&format!("{key}: must be a decimal from 0 to 1")), "{said}");
    }
}

#[test]
fn show_of_an_invalid_configuration_tells_its_problems() {
    let folder = folder("server: {drain_seconds: -1}\nbackends: [{id: a, api_key: canary, colour: red}]\n");
    let (code, shown, said) = run(folder.path(), &["config", "show"], &[]);
    assert_eq!((code, shown.as_str()), (Some(2), ""));
    assert!(said.contains("server.drain_seconds") && !said.contains("canary"), "{said}");
}

#[test]
fn a_file_that_is_not_read_yet_has_no_schema() {
    let folder = folder("");
    let (code, shown, said) = run(folder.path(), &["config", "schema", "--file", "agent"], &[]);
    assert_eq!((code, shown.as_str()), (Some(2), ""));
    assert!(said.contains("reads no agent file"), "{said}");
    for file in ["gateway", "models", "pricing", "tokens"] {
        let (code, shown, said) = run(folder.path(), &["config", "schema", "--file", file], &[]);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{file}");
        assert!(shown.contains("\"$schema\": \"https://json-schema.org/draft/2020-12/schema\""), "{shown}");
    }
}

#[test]
fn check_warns_of_a_tokens_file_that_everyone_can_read() {
    let folder = folder("");
    let tokens = folder.path().join("auth/tokens.yaml");
    fs::write(&tokens, TOKENS).unwrap();
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
        fs::set_permissions(&tokens, fs::Permissions::from_mode(mode)).unwrap();
        let (code, shown, said) = run(folder.path(), &["check"], &[]);
        assert_eq!((code, shown.as_str()), (Some(0), "The configuration is valid.\n"));
        assert_eq!(said.contains("everyone on this machine can read the tokens file"), warned, "{mode:o}: {said}");
        assert_eq!(said.contains("auth/tokens.yaml"), warned, "{mode:o}: {said}");
        assert_eq!(said.lines().count(), usize::from(warned), "{said}");
    }
}
