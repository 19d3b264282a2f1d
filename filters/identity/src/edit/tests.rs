use std::path::Path;

use dgx_gateway_filter::ambient::Ambient;
use proptest::prelude::*;

use super::*;
use crate::file;

/// A file that people wrote: comments everywhere, block and flow style, several secrets.
const FILE: &str = r#"# our tokens
version: 1   # the form
tenants:
  - id: acme # the first customer
    name: "Acme Ltd"

tokens:
  # the web shop
  - id: acme-app
    label: Acme   web shop   # odd blanks
    role: user
    bound_tenant: acme
    secrets:                        # two: one replaces the other
      - {sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", expires_at: "2030-01-01T00:00:00Z"} # old
      - sha256: 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752   # new
        # a word on it
    deny_scopes: ["rag:delete"]
    # last word of the shop

  # Alice's laptop
  - {id: alice, role: user, bound_tenant: acme, default_user_id: alice, secrets: [{value: "alpha"}, {value: "beta", expires_at: "2026-01-01T00:00:00Z"}]}  # flow
  -
    id: bob-é
    secrets: [{value: gamma}]
# the end
"#;

fn digest() -> Digest {
    Digest::of(b"new")
}

fn at(text: &str) -> SystemTime {
    expiry(text).unwrap()
}

fn valid(text: &str) -> &str {
    let read = file::read(Path::new("t.yaml"), Some(text), &Ambient::default());
    assert!(read.is_ok(), "{:?}\n{text}", read.err());
    text
}

/// What was taken out and what was put in, line by line.
fn difference(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
    let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let before = old.iter().zip(&new).take_while(|(one, other)| one == other).count();
    let rest = old.len().min(new.len()) - before;
    let behind = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(one, other)| one == other).count();
    (owned(&old[before..old.len() - behind]), owned(&new[before..new.len() - behind]))
}

fn shop() -> NewToken {
    NewToken {
        id: "shop".to_owned(),
        tenant: Some("acme".to_owned()),
        role: Some("user".to_owned()),
        label: Some("The \"new\" shop: #1 \\ é\n".to_owned()),
        user: Some("bob@x".to_owned()),
        expires: Some(at("2031-05-01")),
    }
}

/// `bob-é` is no id that the gateway takes; everything else about the file is valid.
fn file() -> String {
    FILE.replace("bob-é", "bob")
}

#[test]
fn a_token_is_added_behind_the_last_one_and_nothing_else_changes() {
    let file = file();
    let new = add(Some(&file), &shop(), &digest()).unwrap();
    let (gone, came) = difference(&file, valid(&new));
    assert_eq!(gone, Vec::<String>::new());
    assert_eq!(
        came,
        [
            "  - id: shop",
            "    label: \"The \\\"new\\\" shop: #1 \\\\ é\\U0000000A\"",
            "    role: user",
            "    bound_tenant: acme",
            "    default_user_id: \"bob@x\"",
            "    secrets:",
            &format!("      - {{sha256: \"{}\", expires_at: \"2031-05-01T00:00:00Z\"}}", digest().hex()),
        ]
    );
    assert!(matches!(add(Some(&new), &shop(), &digest()), Err(EditError::Exists(id)) if id == "shop"));
}

#[test]
fn a_first_file_is_made_with_its_tenant() {
    let new = add(None, &NewToken { id: "1".to_owned(), ..NewToken::default() }, &digest()).unwrap();
    let sha256 = digest().hex();
    assert_eq!(
        valid(&new),
        format!(
            "{HEAD}\nversion: 1\ntenants:\n  - id: default\ntokens:\n  - id: \"1\"\n    secrets:\n      - {{sha256: \"{sha256}\"}}\n"
        )
    );
    let commented = add(Some("# mine"), &shop(), &digest()).unwrap();
    assert!(valid(&commented).starts_with("# mine\nversion: 1\ntenants:\n  - id: acme\ntokens:\n  - id: shop\n"));
}

#[test]
fn a_token_is_added_to_a_list_in_any_form() {
    let token = NewToken { id: "t".to_owned(), ..NewToken::default() };
    let item = format!("{{id: t, secrets: [{{sha256: {}}}]}}", digest().hex());
    let item_quoted = item.replace(&digest().hex(), &format!("\"{}\"", digest().hex()));
    let block =
        |indent: &str| format!("{indent}- id: t\n{indent}  secrets:\n{indent}    - {{sha256: \"{}\"}}", digest().hex());
    let has_a = "{id: a, secrets: [{value: x}]}";
    for (old, new) in [
        ("version: 1\n".to_owned(), format!("version: 1\ntokens:\n{}\n", block("  "))),
        ("version: 1".to_owned(), format!("version: 1\ntokens:\n{}\n", block("  "))),
        ("version: 1\ntokens: # none\n".to_owned(), format!("version: 1\ntokens: # none\n{}\n", block("  "))),
        ("tokens:\nversion: 1\n".to_owned(), format!("tokens:\n{}\nversion: 1\n", block("  "))),
        ("version: 1\ntokens: []\n".to_owned(), "version: 1\ntokens: [ITEM]\n".to_owned()),
        ("version: 1\ntokens: ~ # x\n".to_owned(), "version: 1\ntokens: [ITEM] # x\n".to_owned()),
        (format!("version: 1\ntokens: [{has_a}]"), format!("version: 1\ntokens: [{has_a}, ITEM]")),
        (
            format!("version: 1\ntokens: [\n  {has_a}, # x\n]\n"),
            format!("version: 1\ntokens: [\n  {has_a}, ITEM, # x\n]\n"),
        ),
        (format!("{{version: 1, tokens: [{has_a}]}}"), format!("{{version: 1, tokens: [{has_a}, ITEM]}}")),
        ("{version: 1}".to_owned(), "{version: 1, tokens: [ITEM]}".to_owned()),
        (format!("version: 1\ntokens:\n- {has_a}\n"), format!("version: 1\ntokens:\n- {has_a}\n{}\n", block(""))),
        (format!("tokens:\n- {has_a}\nversion: 1"), format!("tokens:\n- {has_a}\n{}\nversion: 1", block(""))),
        (
            format!("version: 1\r\ntokens:\r\n    - {has_a}\r\n"),
            format!("version: 1\r\ntokens:\r\n    - {has_a}\r\n{}\r\n", block("    ").replace('\n', "\r\n")),
        ),
    ] {
        let found = add(Some(&old), &token, &digest()).unwrap_or_else(|error| panic!("{error}: {old}"));
        let expected = [&item, &item_quoted].map(|item| new.replace("ITEM", item));
        assert!(expected.contains(&found), "{old}\n---\n{found}");
        valid(&found);
    }
}

#[test]
fn rotating_lets_the_old_secrets_end_and_adds_one() {
    let file = file();
    let new = rotate(&file, "acme-app", &digest(), at("2026-11-21")).unwrap();
    let (gone, came) = difference(&file, valid(&new));
    assert_eq!(gone.len(), 3, "{gone:?}");
    assert_eq!(
        came,
        [
            "      - {sha256: \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\", expires_at: \"2026-11-21T00:00:00Z\"} # old",
            "      - sha256: 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752   # new",
            "        expires_at: \"2026-11-21T00:00:00Z\"",
            "        # a word on it",
            &format!("      - {{sha256: \"{}\"}}", digest().hex()),
        ]
    );
}

#[test]
fn rotating_in_flow_style_leaves_ends_that_are_earlier() {
    let file = file();
    let new = rotate(&file, "alice", &digest(), at("2026-11-21T10:00:00Z")).unwrap();
    let (_, came) = difference(&file, valid(&new));
    assert_eq!(
        came,
        [format!(
            "  - {{id: alice, role: user, bound_tenant: acme, default_user_id: alice, secrets: [{{value: \"alpha\", expires_at: \"2026-11-21T10:00:00Z\"}}, {{value: \"beta\", expires_at: \"2026-01-01T00:00:00Z\"}}, {{sha256: \"{}\"}}]}}  # flow",
            digest().hex()
        )]
    );
    let twice = rotate(&new, "alice", &Digest::of(b"newer"), at("2026-11-22")).unwrap();
    assert_eq!(valid(&twice).matches("2026-11-21T10").count(), 1, "the grace of the first one is not longer now");
    assert_eq!(twice.matches("2026-11-22").count(), 1);
}

#[test]
fn an_end_that_is_left_empty_is_filled_in() {
    let file = "version: 1\ntokens:\n- id: a\n  secrets:\n  - value: x\n    expires_at:   # never\n  - {value: y, expires_at: ~}\n";
    let new = rotate(file, "a", &digest(), at("2026-11-21")).unwrap();
    assert!(valid(&new).contains("    expires_at: \"2026-11-21T00:00:00Z\"   # never\n"), "{new}");
    assert!(new.contains("{value: y, expires_at: \"2026-11-21T00:00:00Z\"}\n"), "{new}");
}

#[test]
fn a_revoked_token_goes_with_its_lines_and_leaves_those_of_others() {
    let file = file();
    let new = revoke(&file, "acme-app").unwrap();
    let (gone, came) = difference(&file, valid(&new));
    assert_eq!(came, Vec::<String>::new());
    assert_eq!(
        (gone.len(), gone[0].as_str(), gone[9].as_str()),
        (10, "  - id: acme-app", "    # last word of the shop")
    );
    for kept in ["# our tokens", "# the web shop", "# Alice's laptop", "# the end"] {
        assert!(new.contains(kept), "{kept}");
    }
    assert_eq!(difference(&file, valid(&revoke(&file, "alice").unwrap())).0.len(), 1);
    let (gone, _) = difference(&file, valid(&revoke(&file, "bob").unwrap()));
    assert_eq!(gone, ["  -", "    id: bob", "    secrets: [{value: gamma}]"]);
    let none = ["alice", "acme-app", "bob"].iter().fold(file, |text, id| revoke(&text, id).unwrap());
    assert!(valid(&none).ends_with("tokens:\n  # the web shop\n\n  # Alice's laptop\n# the end\n"), "{none}");
    assert!(valid(&add(Some(&none), &shop(), &digest()).unwrap()).contains("tokens:\n  - id: shop\n"));
}

#[test]
fn a_token_in_brackets_is_taken_out_with_its_comma() {
    let token = |id: &str| format!("{{id: {id}, secrets: [{{value: {id}}}]}}");
    let (a, b, c) = (token("a"), token("b"), token("c"));
    let text = format!("version: 1\ntokens: [{a}, {b} # of b\n  , {c}]\n");
    for (id, expected) in [
        ("a", format!("version: 1\ntokens: [{b} # of b\n  , {c}]\n")),
        ("b", format!("version: 1\ntokens: [{a},  # of b\n  {c}]\n")),
        ("c", format!("version: 1\ntokens: [{a}, {b} # of b\n   ]\n")),
    ] {
        assert_eq!(valid(&revoke(&text, id).unwrap()), expected, "{id}");
    }
    assert_eq!(revoke(&format!("version: 1\ntokens: [{a},]"), "a").unwrap(), "version: 1\ntokens: []");
}

#[test]
fn an_unknown_token_is_told() {
    assert!(matches!(rotate(FILE, "nobody", &digest(), at("2027-01-01")), Err(EditError::Unknown(_))));
    assert!(matches!(revoke("version: 1", "nobody"), Err(EditError::Unknown(_))));
    assert!(matches!(revoke("version: [", "nobody"), Err(EditError::Invalid(_))));
}

#[test]
fn what_cannot_be_changed_safely_is_refused() {
    for text in [
        // the secrets of two tokens are the same lines
        "version: 1\ntokens:\n- {id: a, secrets: &s [{value: x}]}\n- {id: b, secrets: *s}\n",
        "version: 1\ntokens:\n- {id: b, label: &s x, secrets: [&t {value: y}]}\n- {id: a, secrets: [*t]}\n",
    ] {
        assert!(matches!(rotate(text, "a", &digest(), at("2027-01-01")), Err(EditError::Unforeseen)), "{text}");
    }
    let two = "version: 1\n---\nversion: 1\n";
    assert!(add(Some(two), &shop(), &digest()).is_err());
    assert!(matches!(add(Some("- a list"), &shop(), &digest()), Err(EditError::Unforeseen)));
}

#[test]
fn times_are_read_and_written_in_whole_seconds() {
    assert_eq!(grace("24h"), Some(Duration::from_secs(86_400)));
    assert_eq!(grace("0s"), Some(Duration::ZERO));
    assert_eq!((grace("90m"), grace("7d")), (Some(Duration::from_secs(5400)), Some(Duration::from_secs(604_800))));
    for bad in ["", "h", "24", "-1h", "+1h", "1.5h", "24 h", "99999d", "99999999999999999999s", "é"] {
        assert_eq!(grace(bad), None, "{bad}");
    }
    assert_eq!(at("2027-01-01"), at("2027-01-01T00:00:00Z"));
    assert_eq!(expiry("tomorrow"), None);
    assert_eq!(timestamp(at("2027-01-01") + Duration::from_millis(1)).unwrap(), "2027-01-01T00:00:01Z");
}

proptest! {
    #[test]
    fn any_label_and_id_survive(id in "\\PC{1,20}", label in "(?s).{0,30}") {
        let token = NewToken { id: id.clone(), label: Some(label.clone()), ..NewToken::default() };
        for old in [FILE, "version: 1\ntokens: []\n"] {
            let new = add(Some(old), &token, &digest()).unwrap();
            let value: Value = serde_yaml::from_str(&new).unwrap();
            let tokens = value["tokens"].as_sequence().unwrap();
            let last = tokens.last().unwrap();
            prop_assert_eq!((last["id"].as_str(), last["label"].as_str()), (Some(&*id), Some(&*label)));
        }
    }

    #[test]
    fn no_text_breaks_it(text in "(tokens:|- |id: a|secrets:|\\[|\\]|\\{|\\}|,|\n|  |value: x|#|&s|\\*s|é|\\||\")*") {
        drop(add(Some(&text), &shop(), &digest()));
        drop(rotate(&text, "a", &digest(), SystemTime::UNIX_EPOCH));
        drop(revoke(&text, "a"));
    }
}
