use dgx_gateway_filter::budget::{BudgetLimit, BudgetMode, Window};
use dgx_gateway_filter::facts::TenantLimits;
use dgx_gateway_filter::tenant_config::{TenantKey, Value as Setting};
use std::time::{Duration, SystemTime};

use rust_decimal::Decimal;

use super::*;
use crate::testing::{self, EXAMPLE, ambient};

fn problems(yaml: &str) -> Vec<String> {
    told(testing::read(yaml, &[]))
}

fn told(result: Result<CheckedTokens, Vec<Problem>>) -> Vec<String> {
    let problems = result.err().unwrap_or_default();
    problems.into_iter().map(|problem| Problem { file: None, line: None, ..problem }.to_string()).collect()
}

/// Problems of one token of tenant `acme` with further keys.
fn token_problems(keys: &str) -> Vec<String> {
    problems(&format!("version: 1\ntenants: [{{id: acme}}]\ntokens:\n  - {{id: t, secrets: [{{value: s}}], {keys}}}"))
        .iter()
        .map(|problem| problem.replace("tokens[0].", ""))
        .collect()
}

fn tenant_problems(keys: &str) -> Vec<String> {
    problems(&format!("version: 1\ntenants: [{{id: acme, {keys}}}]"))
        .iter()
        .map(|problem| problem.replace("tenants[0].", ""))
        .collect()
}

#[test]
fn reads_the_example_of_the_specification() {
    let checked = testing::read(EXAMPLE, &[]).unwrap();
    let tenant = &checked.tenants[0];
    assert_eq!((&*tenant.id, tenant.name.as_deref()), ("acme", Some("Acme Ltd")));
    let globs = ["llama-4-scout", "claude-*", "nomic-embed"].map(str::to_owned).to_vec();
    let expected = [
        (TenantKey::CostMarkupFactor, Setting::Decimal(Decimal::new(120, 2))),
        (TenantKey::ModelsAllowlist, Setting::List(globs.into())),
    ];
    assert_eq!(*tenant.defaults, expected.into());
    let budgets: Vec<_> = tenant.budgets.0.iter().map(|budget| (budget.window, budget.limit, budget.mode)).collect();
    assert_eq!(
        budgets,
        [
            (Window::Day, BudgetLimit::Eur(Decimal::new(2500, 2)), BudgetMode::Hard),
            (Window::Month, BudgetLimit::Tokens(50_000_000), BudgetMode::Warn),
        ]
    );
    let limits = TenantLimits { tokens_per_minute: Some(200_000), max_in_flight: Some(32), weight: 1 };
    assert_eq!(*tenant.limits, limits);

    let (app, secrets) = &checked.tokens[0];
    assert_eq!((app.role, app.bound_tenant.as_deref(), app.max_tokens), (Some(Role::User), Some("acme"), Some(4096)));
    assert!(app.scopes.allow("billing:read") && app.scopes.allow("chat:create") && !app.scopes.allow("rag:delete"));
    assert_eq!(app.rate_limit.map(|limit| (limit.per_second, limit.burst)), Some((5.0, 60)));
    let new_year = SystemTime::UNIX_EPOCH + Duration::from_secs(1_798_761_600);
    assert!(secrets[0].is_valid_at(new_year - Duration::from_nanos(1)) && !secrets[0].is_valid_at(new_year));
    assert_eq!(checked.tokens[1].0.default_user_id.as_deref(), Some("alice"));
    assert!(checked.tokens[1].1[0].digest.equals(&Digest::of("0f1e2d3c4b5a69788796a5b4c3d2e1f0".repeat(2).as_bytes())));
}

#[test]
fn tells_all_problems_at_once_with_file_and_key() {
    let yaml = r#"
version: 2
colour: red
tenants:
  - {id: acme, budget: [], limits: {weight: 0}}
  - {id: acme}
  - {name: nameless}
tokens:
  - {id: a, role: root, secrets: [{value: x, sha256: y}, {}, {sha256: "12"}], extra_scopes: ["chat:make"]}
  - {id: a, secrets: []}
"#;
    let found = testing::read(yaml, &[]).unwrap_err();
    assert!(found.iter().all(|problem| problem.file.as_deref() == Some(Path::new("auth/tokens.yaml"))));
    let lines: Vec<_> = found.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    assert!(lines.contains(&(Some(3), "colour")) && lines.contains(&(Some(9), "tokens[0].role")), "{lines:?}");
    let mut keys: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "colour",
            "tenants[0].budget",
            "tenants[0].limits.weight",
            "tenants[1].id",
            "tenants[2].id",
            "tokens[0].extra_scopes[0]",
            "tokens[0].role",
            "tokens[0].secrets[0].value",
            "tokens[0].secrets[1].value",
            "tokens[0].secrets[2].sha256",
            "tokens[1].id",
            "tokens[1].secrets",
            "version",
        ]
    );
}

#[test]
fn names_the_line_of_a_syntax_error() {
    for (yaml, line) in [("version: 1\ntokens: [\n", 3), ("version: 1\ntokens: []\ntokens: []\n", 1), ("a: b: c\n", 1)]
    {
        let found = testing::read(yaml, &[]).unwrap_err();
        assert_eq!((found.len(), found[0].line), (1, Some(line)), "{}", found[0]);
    }
}

#[test]
fn no_problem_shows_a_secret() {
    let yaml = "version: 1\ntokens: [{id: t, secrets: [{value: 'hunter 2'}, {sha256: hunter2}, {value: hunter2}, {value: hunter2}]}]";
    let variables = [("RUST_API_BEARER", "hunter 2")];
    let found = told(testing::read(yaml, &variables));
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(!found.concat().contains("hunter"), "{found:?}");
}

#[test]
fn no_syntax_error_shows_a_secret() {
    for text in [
        "tokens: [{value: !!int hunter2}]",
        "tokens: [{value: !!float hunter2}]",
        "tokens: [{value: !!bool hunter2}]",
        "tokens: [{value: !!null hunter2}]",
        "tokens: [{value: !secret hunter2}]",
        "value: *hunter2",
        "value: \"\\hunter2\"",
        "value: @hunter2",
        "value: hunter2: x",
        "value: %hunter2\n%hunter2",
        "value: 'hunter2",
        "{value: hunter2, value: hunter2}",
        "[hunter2]: hunter2",
        "hunter2",
    ] {
        let found = problems(text);
        assert!(!found.is_empty() && !found.concat().contains("hunter2"), "{text}: {found:?}");
    }
}

#[test]
fn an_empty_file_is_a_mistake_and_a_missing_one_is_not() {
    assert_eq!(problems(""), ["must be a mapping"]);
    assert_eq!(problems("{}"), ["version: is required"]);
    assert!(problems("version: 1").is_empty());
    assert!(file_read_without_text().tokens.is_empty());
}

fn file_read_without_text() -> CheckedTokens {
    read(Path::new("none"), None, &ambient(&[])).unwrap()
}

#[test]
fn expands_references_where_a_type_is_expected() {
    let yaml = r#"
version: 1
tenants: [{id: "${TENANT:-acme}", limits: {tokens_per_minute: "${TPM}"}}]
tokens: [{id: t, secrets: [{value: "${SECRET}"}], rate_limit: {per_second: "${RATE:-0.5}", burst: 3}, rate_limit_bypass: "${BYPASS}"}]
"#;
    let variables = [("TPM", "7"), ("SECRET", "0123:\"#x"), ("BYPASS", "true")];
    let checked = testing::read(yaml, &variables).unwrap();
    assert_eq!(checked.tenants[0].limits.tokens_per_minute, Some(7));
    let (token, secrets) = &checked.tokens[0];
    assert!(secrets[0].digest.equals(&Digest::of(b"0123:\"#x")) && token.rate_limit_bypass);
    assert_eq!(token.rate_limit.map(|limit| limit.per_second), Some(0.5));
    let found = problems(yaml);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[1].contains("tokens[0].secrets[0].value: the environment variable SECRET is not set"), "{found:?}");
}

#[test]
fn numbers_and_truth_values_in_quotes_are_refused() {
    assert_eq!(token_problems("rate_limit_bypass: 'true'"), ["rate_limit_bypass: must be true or false"]);
    assert_eq!(token_problems("constraints: {max_tokens: '5'}").len(), 1);
    assert_eq!(token_problems("label: 5"), ["label: must be text; put it into quotes"]);
}

#[test]
fn checks_every_key_of_a_token() {
    for (keys, at) in [
        ("bound_tenant: globex", "bound_tenant"),
        ("default_user_id: 'a b'", "default_user_id"),
        ("deny_scopes: ['chat']", "deny_scopes[0]"),
        ("extra_scopes: chat", "extra_scopes"),
        ("constraints: {cidrs: ['198.51.100.0/33']}", "constraints.cidrs[0]"),
        ("constraints: {cidrs: []}", "constraints.cidrs"),
        ("constraints: {models: []}", "constraints.models"),
        ("constraints: {max_tokens: 0}", "constraints.max_tokens"),
        ("constraints: {max_token: 1}", "constraints.max_token"),
        ("rate_limit: {per_second: 0, burst: 1}", "rate_limit.per_second"),
        ("rate_limit: {per_second: .inf, burst: 1}", "rate_limit.per_second"),
        ("rate_limit: {per_second: .nan, burst: 1}", "rate_limit.per_second"),
        ("rate_limit: {per_second: 1, burst: 0}", "rate_limit.burst"),
        ("rate_limit: {per_second: 1}", "rate_limit.burst"),
        ("scopes: []", "scopes"),
    ] {
        let found = token_problems(keys);
        assert!(found.len() == 1 && found[0].starts_with(&format!("{at}: ")), "{keys}: {found:?}");
    }
}

#[test]
fn checks_the_dates_of_a_secret() {
    let read = |dates: &str| problems(&format!("version: 1\ntokens: [{{id: t, secrets: [{{value: s, {dates}}}]}}]"));
    assert!(read("not_before: '2026-01-01T00:00:00Z', expires_at: '2026-01-01T01:00:00.5+00:30'").is_empty());
    for dates in [
        "expires_at: '2026-01-01'",
        "expires_at: tomorrow",
        "not_before: 5",
        "not_before: '2026-01-02T00:00:00Z', expires_at: '2026-01-02T00:00:00Z'",
    ] {
        assert_eq!(read(dates).len(), 1, "{dates}");
    }
}

#[test]
fn a_secret_belongs_to_one_token_only() {
    let yaml = "version: 1\ntokens:\n  - {id: a, secrets: [{value: abc}]}\n  - {id: b, secrets: \
        [{sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad}]}";
    assert_eq!(problems(yaml), ["tokens[1].secrets: has a secret of tokens[0] again"]);
}

#[test]
fn ids_are_safe_words() {
    for id in ["", ".", "../x", "a/b", "-a", "a b", "é", &"x".repeat(65)] {
        assert_eq!(problems(&format!("version: 1\ntenants: [{{id: '{id}'}}]")).len(), 1, "{id}");
    }
    assert!(problems(&format!("version: 1\ntenants: [{{id: {}}}, {{id: A.b_c-9}}]", "x".repeat(64))).is_empty());
}

#[test]
fn checks_budgets() {
    let budget = |keys: &str| tenant_problems(&format!("budgets: [{{id: b, models: ['*'], {keys}}}]"));
    assert!(budget("window: hour, mode: warn, limit_requests: 0").is_empty());
    assert_eq!(budget("window: week, mode: soft, limit_eur: -1").len(), 3);
    assert_eq!(budget("window: day, mode: hard").len(), 1);
    assert_eq!(budget("window: day, mode: hard, limit_eur: 1, limit_tokens: 1").len(), 1);
    assert_eq!(budget("window: day, mode: hard, limit_tokens: 1.5").len(), 1);
    let twice = "{id: b, models: ['*'], window: day, mode: hard, limit_eur: 1.5}";
    assert_eq!(
        tenant_problems(&format!("budgets: [{twice}, {twice}]")),
        ["budgets[1].id: b is the id of an earlier budget"]
    );
}

#[test]
fn checks_the_defaults_of_a_tenant() {
    for (defaults, at) in [
        ("cost_markup_factor: 0", "cost_markup_factor"),
        ("cost_markup_factor: '100.01'", "cost_markup_factor"),
        ("cost_markup_factor: a lot", "cost_markup_factor"),
        ("models_allowlist: [a], models_blacklist: [b]", "models_blacklist"),
        ("ALLOWED_MODELS: [a]", "ALLOWED_MODELS"),
        ("augment_memory: 1", "augment_memory"),
        ("compaction_threshold: 0.96", "compaction_threshold"),
        ("image_gen_model: null", "image_gen_model"),
        ("image_gen_size: 1x1", "image_gen_size"),
        ("rag_chunk_overlap: 257", "rag_chunk_overlap"),
        ("rag_chunk_tokens: 127", "rag_chunk_overlap"),
        ("server_tools_allowlist: [calculator, web_fetch, calculator]", "server_tools_allowlist"),
        ("server_tools_allowlist: [calculator, shell]", "server_tools_allowlist[1]"),
        ("tool_max_iterations: 11", "tool_max_iterations"),
        ("web_fetch_deny_domains: ['a b']", "web_fetch_deny_domains[0]"),
    ] {
        let found = tenant_problems(&format!("defaults: {{{defaults}}}"));
        assert!(found.len() == 1 && found[0].starts_with(&format!("defaults.{at}: ")), "{defaults}: {found:?}");
    }
}

#[test]
fn keeps_the_defaults_of_a_tenant_typed() {
    let yaml = "version: 1\ntenants: [{id: a, defaults: {compaction_threshold: '0.75', stt_model: null, tool_max_iterations: 5, \
        stream_cost_event: false, image_gen_size: auto, web_fetch_allow_domains: [example.org], models_blacklist: null}}]";
    let checked = testing::read(yaml, &[]).unwrap();
    let defaults = &checked.tenants[0].defaults;
    let settings: Vec<_> = defaults.iter().map(|(key, setting)| (key.about().name, setting.clone())).collect();
    assert_eq!(
        settings,
        [
            ("compaction_threshold", Setting::Decimal(Decimal::new(75, 2))),
            ("image_gen_size", Setting::Text("auto".into())),
            ("stream_cost_event", Setting::Flag(false)),
            ("stt_model", Setting::Null),
            ("tool_max_iterations", Setting::Integer(5)),
            ("web_fetch_allow_domains", Setting::List(vec!["example.org".to_owned()].into())),
        ]
    );
}

#[test]
fn the_environment_adds_a_token_of_the_tenant_default() {
    let variables = [("RUST_API_BEARER", "s3cret"), ("DGX_GATEWAY_DEFAULT_USER_ID", "me@example")];
    let checked =
        testing::read("version: 1\ntokens: [{id: t, bound_tenant: default, secrets: [{value: s}]}]", &variables);
    let checked = checked.unwrap();
    assert_eq!(checked.tenants.iter().map(|tenant| &*tenant.id).collect::<Vec<_>>(), ["default"]);
    let (token, secrets) = &checked.tokens[1];
    assert_eq!((&*token.id, token.role), ("env", Some(Role::TenantAdmin)));
    assert_eq!(
        (token.bound_tenant.as_deref(), token.default_user_id.as_deref()),
        (Some("default"), Some("me@example"))
    );
    assert!(secrets[0].digest.equals(&Digest::of(b"s3cret")));
}

#[test]
fn the_secret_of_the_environment_may_stand_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bearer");
    std::fs::write(&path, "s3cret\n").unwrap();
    let checked = testing::read("version: 1", &[("RUST_API_BEARER_FILE", path.to_str().unwrap())]).unwrap();
    assert!(checked.tokens[0].1[0].digest.equals(&Digest::of(b"s3cret")));
    let missing = testing::read("version: 1", &[("RUST_API_BEARER_FILE", "/nowhere/at/all")]);
    assert_eq!(missing.unwrap_err()[0].key, "RUST_API_BEARER_FILE");
}

#[test]
fn the_token_of_the_environment_must_not_collide() {
    let variables = [("RUST_API_BEARER", "s"), ("DGX_GATEWAY_DEFAULT_USER_ID", "a b")];
    let found = testing::read("version: 1\ntokens: [{id: env, secrets: [{value: s}]}]", &variables).unwrap_err();
    let keys: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["DGX_GATEWAY_DEFAULT_USER_ID", "RUST_API_BEARER", "RUST_API_BEARER"]);
}
