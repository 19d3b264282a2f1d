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
    let tokens = Tokens::new(read(&yaml, &[]).unwrap(), "unused".into()).unwrap();
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
    let tokens = Tokens::new(CheckedTokens::default(), dir.path().to_path_buf()).unwrap();
    let (secret, newly_made) = tokens.bootstrap_secret().unwrap();
    assert!(newly_made);
    let catalog = tokens.catalog();
    let token = &catalog.find(secret.as_bytes()).unwrap().token;
    assert_eq!((&*token.id, token.role), ("bootstrap", Some(Role::TenantAdmin)));
    assert_eq!((token.bound_tenant.as_deref(), token.default_user_id.as_deref()), (Some("default"), Some("me")));
    assert!(tokens.tenant("default").is_some());

    let restarted = Tokens::new(CheckedTokens::default(), dir.path().to_path_buf()).unwrap();
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
fn a_reload_swaps_all_tokens() {
    let world = World::new(LISTED);
    let tokens = world.tokens();
    tokens.replace(read("version: 1\ntokens: [{id: u, secrets: [{value: other}]}]", &[]).unwrap()).unwrap();
    assert_eq!((id_of(&tokens, "listed"), id_of(&tokens, "other")), (None, Some("u".to_owned())));
}

#[test]
fn the_bootstrap_token_ends_with_the_first_listed_token_and_comes_back_after_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(CheckedTokens::default(), dir.path().to_path_buf()).unwrap();
    let secret = tokens.bootstrap_secret().unwrap().0.to_owned();
    tokens.replace(read(LISTED, &[]).unwrap()).unwrap();
    assert_eq!((id_of(&tokens, &secret), tokens.bootstrap_secret()), (None, None));
    tokens.replace(CheckedTokens::default()).unwrap();
    assert_eq!(id_of(&tokens, &secret).as_deref(), Some("bootstrap"));
}

#[test]
fn a_reload_that_cannot_make_the_bootstrap_token_keeps_the_old_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let tokens = Tokens::new(read(LISTED, &[]).unwrap(), file).unwrap();
    assert!(tokens.replace(CheckedTokens::default()).is_err());
    assert_eq!(id_of(&tokens, "listed").as_deref(), Some("t"));
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
