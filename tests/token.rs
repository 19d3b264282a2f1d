//! `dgx-gateway token …` as an operator meets it: output, exit codes, files.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dgx-gateway")).args(arguments).env_clear().current_dir(folder).output().unwrap()
}

/// Standard output of a command that succeeds without a word on standard error.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that is refused.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn sha256(secret: &str) -> String {
    Sha256::digest(secret.trim_end()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_token_lives_from_new_to_revoke() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = || fs::read_to_string(folder.join("auth/tokens.yaml")).unwrap();
    assert_eq!(done(folder, &["token", "list"]).lines().count(), 1, "only the head");
    let new = ["token", "new", "--id", "shop", "--tenant", "acme", "--label", "The shop", "--expires", "2100-01-01"];
    let first = done(folder, &new);
    assert_eq!(first.trim_end().len(), 64);
    assert!(file().contains(&sha256(&first)) && !file().contains(first.trim_end()));
    done(folder, &["check"]);
    fs::write(folder.join("auth/tokens.yaml"), file().replace("tokens:\n", "tokens:\n  # the web shop\n")).unwrap();

    let second = done(folder, &["token", "rotate", "shop", "--grace", "90m"]);
    assert!(file().contains(&sha256(&second)) && file().contains(&sha256(&first)));
    assert!(file().contains("  # the web shop\n") && !file().contains("2100-01-01"), "{}", file());
    let list = done(folder, &["token", "list"]);
    let row: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["shop", "user", "acme", "-", "2", "never", "The", "shop"]);
    for secret in [&first, &second] {
        assert!(!list.contains(secret.trim_end()) && !list.contains(&sha256(secret)), "{list}");
    }
    done(folder, &["check"]);

    assert_eq!(done(folder, &["token", "revoke", "shop"]), "");
    assert!(!file().contains("shop\n    ") && file().contains("# the web shop"), "{}", file());
    done(folder, &["check"]);
}

#[test]
fn what_is_refused_ends_with_2_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    done(folder, &["token", "new", "--id", "a"]);
    let before = fs::read(folder.join("auth/tokens.yaml")).unwrap();
    for (arguments, told) in [
        (&["token", "new", "--id", "a"][..], "there is a token a already"),
        (&["token", "new", "--id", "b", "--tenant", "nobody"], "there is no tenant nobody"),
        (&["token", "new", "--id", "no id"], "tokens[1].id"),
        (&["token", "new", "--id", "b", "--role", "king"], "king"),
        (&["token", "new", "--id", "b", "--expires", "1999-01-01"], "is over already"),
        (&["token", "rotate", "b"], "there is no token b"),
        (&["token", "rotate", "a", "--grace", "soon"], "must be a whole number"),
        (&["token", "revoke", "b"], "there is no token b"),
    ] {
        let error = refused(folder, arguments);
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
    assert_eq!(fs::read(folder.join("auth/tokens.yaml")).unwrap(), before);
}

#[test]
fn the_configuration_says_where_the_file_is_and_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("g.yaml"), "auth: {tokens_file: other/t.yaml}\nbackends: [{api_key: '${NOT_SET_HERE}'}]\n")
        .unwrap();
    done(folder, &["token", "new", "--id", "a", "--config", "g.yaml"]);
    assert!(folder.join("other/t.yaml").is_file() && !folder.join("auth").exists());
    assert!(refused(folder, &["token", "list", "--config", "nowhere.yaml"]).contains("nowhere.yaml"));
}
