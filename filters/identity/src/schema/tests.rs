use std::sync::LazyLock;

use super::*;
use crate::testing;

/// How the schema and the reader see a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Both refuse it.
    Bad,
    /// Only the reader refuses it: a rule that the schema does not say.
    Deeper,
    /// Both accept it.
    Good,
}
use Seen::{Bad, Deeper, Good};

fn seen(yaml: &str) -> Seen {
    static VALIDATOR: LazyLock<jsonschema::Validator> =
        LazyLock::new(|| jsonschema::validator_for(&tokens_file_schema().to_value()).unwrap());
    let validator = &*VALIDATOR;
    let file: Value = serde_yaml::from_str(yaml).unwrap();
    match (validator.is_valid(&file), testing::read(yaml, &[]).is_ok()) {
        (true, true) => Good,
        (true, false) => Deeper,
        (false, false) => Bad,
        (false, true) => panic!(
            "the schema refuses what the reader accepts: {yaml}\n{:?}",
            validator.iter_errors(&file).map(|error| error.to_string()).collect::<Vec<_>>()
        ),
    }
}

fn check(cases: &[(&str, Seen)], file: impl Fn(&str) -> String) {
    for (part, expected) in cases {
        assert_eq!(seen(&file(part)), *expected, "{part}");
    }
}

#[test]
fn the_examples_are_valid() {
    let operations = include_str!("../../../../docs/OPERATIONS.md");
    let example = operations.split("```yaml\n").skip(1).find(|block| block.starts_with("version: 1")).unwrap();
    assert_eq!(seen(example.split("```").next().unwrap()), Good);
    assert_eq!(seen(testing::EXAMPLE), Good);
}

#[test]
fn agrees_on_whole_files() {
    let cases = [
        ("{}", Bad),
        ("[]", Bad),
        ("version: 1", Good),
        ("version: 2", Bad),
        ("version: '1'", Bad),
        ("{version: 1, tenants: null, tokens: null}", Good),
        ("{version: 1, tenants: {}}", Bad),
        ("{version: 1, colour: red}", Bad),
        ("{version: 1, tenants: [{id: a}, {id: a}]}", Deeper),
        ("{version: 1, tenants: [{name: nameless}]}", Bad),
        ("{version: 1, tokens: [{id: a, bound_tenant: b, secrets: [{value: s}]}]}", Deeper),
        ("{version: 1, tokens: [{id: a, secrets: [{value: s}]}, {id: b, secrets: [{value: s}]}]}", Deeper),
        ("{version: 1, tenants: [{id: '${NAME:-acme}', limits: {weight: '${WEIGHT:-3}'}}]}", Good),
    ];
    check(&cases, str::to_owned);
}

#[test]
fn agrees_on_tokens() {
    let cases = [
        ("label: x", Good),
        ("label: 5", Bad),
        ("role: operator", Good),
        ("role: null", Good),
        ("role: root", Bad),
        ("bound_tenant: acme", Good),
        ("bound_tenant: 'a b'", Bad),
        ("default_user_id: a@b", Good),
        ("default_user_id: 'a b'", Bad),
        ("extra_scopes: ['*', 'memory:*', 'chat:create', 'system_prompts:write:*']", Good),
        ("extra_scopes: [chat]", Bad),
        ("extra_scopes: ['memory*']", Bad),
        ("deny_scopes: chat", Bad),
        ("constraints: {models: [a, 'b-*'], max_tokens: 1, cidrs: ['198.51.100.0/24', '::1']}", Good),
        ("constraints: {models: []}", Bad),
        ("constraints: {cidrs: []}", Bad),
        ("constraints: {cidrs: ['198.51.100.0/33']}", Deeper),
        ("constraints: {max_tokens: 0}", Bad),
        ("constraints: {max_tokens: '5'}", Bad),
        ("constraints: {max_token: 1}", Bad),
        ("rate_limit: {per_second: 0.5, burst: 1}", Good),
        ("rate_limit: {per_second: 0, burst: 1}", Bad),
        ("rate_limit: {per_second: 1, burst: 0}", Bad),
        ("rate_limit: {per_second: 1}", Bad),
        ("rate_limit_bypass: true", Good),
        ("rate_limit_bypass: 'true'", Bad),
        ("rate_limit_bypass: '${BYPASS:-true}'", Good),
        ("scopes: []", Bad),
    ];
    check(&cases, |keys| {
        format!("version: 1\ntenants: [{{id: acme}}]\ntokens: [{{id: t, secrets: [{{value: s}}], {keys}}}]")
    });
}

#[test]
fn agrees_on_secrets() {
    let digest = "sha256: 9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let cases = [
        ("[{value: s}]", Good),
        ("[{value: s, sha256: null}]", Good),
        ("[{value: 's s'}]", Bad),
        ("[{value: ''}]", Bad),
        ("[{value: 5}]", Bad),
        ("[{}]", Bad),
        ("[]", Bad),
        ("null", Bad),
        ("[{sha256: '12'}]", Bad),
        ("[{value: s, expires_at: '2027-01-01T00:00:00Z', not_before: '2026-01-01T01:00:00.5+00:30'}]", Good),
        ("[{value: s, expires_at: '2027-01-01'}]", Bad),
        ("[{value: s, expires_at: tomorrow}]", Bad),
        ("[{value: s, not_before: 5}]", Bad),
        ("[{value: s, expires_at: '2026-13-01T00:00:00Z'}]", Deeper),
        ("[{value: s, not_before: '2026-01-02T00:00:00Z', expires_at: '2026-01-02T00:00:00Z'}]", Deeper),
        ("[{value: s, expires: never}]", Bad),
    ];
    let file = |secrets: &str| format!("version: 1\ntokens: [{{id: t, secrets: {secrets}}}]");
    check(&cases, file);
    assert_eq!(seen(&file(&format!("[{{{digest}}}]"))), Good);
    assert_eq!(seen(&file(&format!("[{{{digest}, value: s}}]"))), Bad);
}

#[test]
fn agrees_on_tenants() {
    let cases = [
        ("name: x", Good),
        ("budget: []", Bad),
        ("limits: {tokens_per_minute: 0, max_in_flight: 1, weight: 1000}", Good),
        ("limits: {weight: 0}", Bad),
        ("limits: {weight: 1001}", Bad),
        ("budgets: [{id: b, models: ['*'], window: hour, mode: warn, limit_requests: 0}]", Good),
        ("budgets: [{id: b, models: ['*'], window: day, mode: hard, limit_eur: '25.00'}]", Good),
        ("budgets: [{id: b, models: ['*'], window: day, mode: hard, limit_eur: 1.5, limit_tokens: null}]", Good),
        ("budgets: [{id: b, models: ['*'], window: week, mode: hard, limit_eur: 1}]", Bad),
        ("budgets: [{id: b, models: ['*'], window: day, mode: soft, limit_eur: 1}]", Bad),
        ("budgets: [{id: b, models: ['*'], window: day, mode: hard, limit_eur: -1}]", Bad),
        ("budgets: [{id: b, models: ['*'], window: day, mode: hard}]", Bad),
        ("budgets: [{id: b, models: ['*'], window: day, mode: hard, limit_eur: 1, limit_tokens: 1}]", Bad),
        ("budgets: [{id: b, models: ['*'], window: day, mode: hard, limit_tokens: 1.5}]", Bad),
        ("defaults: {cost_markup_factor: '1.20', models_allowlist: [a]}", Good),
        ("defaults: {cost_markup_factor: 0}", Deeper),
        ("defaults: {cost_markup_factor: a lot}", Bad),
        ("defaults: {models_allowlist: [a], models_blacklist: [b]}", Bad),
        ("defaults: {models_allowlist: [a], models_blacklist: null}", Good),
        ("defaults: {ALLOWED_MODELS: [a]}", Bad),
        ("defaults: {augment_memory: 1}", Bad),
        ("defaults: {augment_memory: false, stt_model: null, image_gen_size: auto, tool_max_iterations: 5}", Good),
        ("defaults: {image_gen_model: null}", Bad),
        ("defaults: {image_gen_size: 1x1}", Bad),
        ("defaults: {rag_chunk_overlap: 257}", Deeper),
        ("defaults: {server_tools_allowlist: [a, b, a]}", Bad),
        ("defaults: {tool_max_iterations: 51}", Bad),
        ("defaults: {web_fetch_deny_domains: ['a b']}", Bad),
    ];
    check(&cases, |keys| format!("version: 1\ntenants: [{{id: acme, {keys}}}]"));
}
