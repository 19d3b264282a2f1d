use std::fmt::Write;

use dgx_gateway_filter::ServiceKind;

use super::*;
use crate::Service;
use crate::config::{AuthSettings, Settings};
use crate::testing::{World, ambient, read};

const LISTED: &str = "version: 1\ntokens: [{id: t, secrets: [{value: listed}]}]";

fn id_of(tokens: &Tokens, secret: &str) -> Option<String> {
    tokens.catalog().find(secret.as_bytes()).map(|known| known.token.id.to_string())
}

#[test]
fn finds_each_of_ten_thousand_tokens_by_each_of_its_secrets() {
    let mut yaml = "version: 1\ntokens:\n".to_owned();
    for number in 0..10_000 {
        writeln!(yaml, "  - {{id: t{number}, secrets: [{{value: old{number}}}, {{value: new{number}}}]}}").unwrap();
    }
    let tokens = Tokens::new(read(&yaml, &[]).unwrap(), Path::new("unused"), None).unwrap();
    for number in [0, 1, 4711, 9999] {
        for secret in ["old", "new"] {
            assert_eq!(id_of(&tokens, &format!("{secret}{number}")), Some(format!("t{number}")));
        }
    }
    assert_eq!(id_of(&tokens, "old10000"), None);
}

#[test]
fn without_any_token_a_bootstrap_token_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(CheckedTokens::default(), dir.path(), None).unwrap();
    let (secret, newly_made) = tokens.bootstrap_secret().unwrap();
    assert!(newly_made);
    let catalog = tokens.catalog();
    let token = &catalog.find(secret.as_bytes()).unwrap().token;
    assert_eq!((&*token.id, token.role), ("bootstrap", Some(Role::TenantAdmin)));
    assert_eq!((token.bound_tenant.as_deref(), token.default_user_id.as_deref()), (Some("default"), Some("me")));
    assert!(tokens.tenant("default").is_some());

    let restarted = Tokens::new(CheckedTokens::default(), dir.path(), None).unwrap();
    assert_eq!(restarted.bootstrap_secret(), Some((secret, false)));
}

#[test]
fn with_a_token_no_bootstrap_token_is_made() {
    let world = World::new(LISTED);
    assert_eq!(world.tokens().bootstrap_secret(), None);
    assert!(!world.env.data_dir.join("keys").exists());
    assert!(world.tokens().tenant("default").is_none());
}

#[test]
fn the_bootstrap_token_ends_with_the_first_listed_token_and_comes_back_after_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let first = Tokens::new(CheckedTokens::default(), dir.path(), None).unwrap();
    let secret = first.bootstrap_secret().unwrap().0.to_owned();
    let second = Tokens::new(read(LISTED, &[]).unwrap(), dir.path(), Some(&first)).unwrap();
    assert_eq!((id_of(&second, &secret), second.bootstrap_secret()), (None, None));
    assert_eq!(id_of(&second, "listed").as_deref(), Some("t"));
    std::fs::remove_dir_all(dir.path().join("keys")).unwrap();
    let third = Tokens::new(CheckedTokens::default(), dir.path(), Some(&second)).unwrap();
    assert_eq!(id_of(&third, &secret).as_deref(), Some("bootstrap"));
    assert_eq!(id_of(&third, "listed"), None);
}

#[test]
fn without_a_place_for_the_bootstrap_token_there_are_no_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let listed = Tokens::new(read(LISTED, &[]).unwrap(), &file, None).unwrap();
    assert!(Tokens::new(CheckedTokens::default(), &file, Some(&listed)).is_err());
}

#[test]
fn the_service_reads_the_file_that_the_settings_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.yaml");
    let settings = || Settings { auth: AuthSettings { tokens_file: path.clone() } };
    assert!(Service::check(settings(), &ambient(&[])).unwrap().tokens.is_empty(), "a missing file has no tokens");
    std::fs::write(&path, LISTED).unwrap();
    assert_eq!(Service::check(settings(), &ambient(&[])).unwrap().tokens.len(), 1);
    std::fs::write(&path, "version: 3").unwrap();
    assert_eq!(Service::check(settings(), &ambient(&[])).unwrap_err()[0].file, Some(path.clone()));
    std::fs::write(&path, [0xff]).unwrap();
    assert_eq!(Service::check(settings(), &ambient(&[])).unwrap_err().len(), 1);
}

#[test]
fn nothing_printable_holds_a_secret_or_its_digest() {
    let checked = read(LISTED, &[]).unwrap();
    let printed = format!("{checked:?}");
    assert!(!printed.contains("listed") && printed.contains("Digest(..)"), "{printed}");
}
