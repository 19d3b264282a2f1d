//! The price file, and what entries cost, with the table of the specification.

use std::path::Path;
use std::time::{Duration, SystemTime};

use dgx_gateway_filter::ambient::Ambient;

use super::*;

/// The file of the specification.
pub(crate) const FILE: &str = r#"
version: 1
entries:                         # the first match wins
  - {backend: openrouter, model: "anthropic/claude-opus-4.7", input: "5.00", cached_input: "0.50", cache_write: "6.25", output: "25.00"}
  - {backend: "*", model: "google/gemini-*-image*", input: "0.30", output: "2.50", image: "0.039"}
  - {backend: "stt-*", model: "*", second: "0.0001"}
  - {backend: vllm-a, model: "*", currency: EUR, input: "0.10", output: "0.40", valid_from: "2026-01-01"}
"#;

pub(crate) fn table(text: &str) -> PriceTable {
    file::parse(text, Path::new("pricing.yaml"), &Ambient::default()).unwrap()
}

/// The problems of a file, as they are printed.
fn problems(text: &str) -> Vec<String> {
    let found = file::parse(text, Path::new("pricing.yaml"), &Ambient::default()).unwrap_err();
    found.iter().map(ToString::to_string).collect()
}

/// 2026-01-01 in UTC.
const YEAR: u64 = 1_767_225_600;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

#[test]
fn the_first_entry_that_matches_backend_model_and_day_counts() {
    let table = table(FILE);
    let input =
        |backend, model, time| table.find(backend, model, time).map(|entry| entry.prices.input.normalize().to_string());
    let now = at(YEAR);
    assert_eq!(input("openrouter", "anthropic/claude-opus-4.7", now).as_deref(), Some("5"));
    assert_eq!(input("openrouter", "anthropic/claude-opus-4", now), None);
    assert_eq!(input("any", "google/gemini-3-pro-image-preview", now).as_deref(), Some("0.3"));
    assert_eq!(input("stt-1", "whisper", now).as_deref(), Some("0"));
    assert_eq!(input("vllm-a", "m", now).as_deref(), Some("0.1"));
    assert_eq!(input("vllm-a", "m", now - Duration::from_millis(1)), None);
    assert_eq!(input("vllm-a", "google/gemini-3-image", now).as_deref(), Some("0.3"), "the first one");
}

#[test]
fn a_price_ends_before_its_last_day_begins() {
    let two = "version: 1\nentries:\n- {backend: a, model: m, input: 1, valid_to: 2026-01-01}\n- {backend: a, model: m, input: 2}\n";
    let table = table(two);
    let input = |time| table.find("a", "m", time).unwrap().prices.input;
    assert_eq!((input(at(YEAR - 1)), input(at(YEAR))), (Decimal::ONE, Decimal::TWO));
    let priced = table.priced_models();
    let target =
        dgx_gateway_filter::money::CallTarget { backend_id: "a".into(), upstream_model: "m".into(), local: false };
    assert!(priced.always(&target, at(YEAR - 1)));
}

#[test]
fn what_is_not_named_costs_nothing_and_caches_cost_what_input_does() {
    let entry = |prices: &str| table(&format!("version: 1\nentries: [{{backend: a, model: m, {prices}}}]")).0.remove(0);
    let prices = entry("input: '2'").prices;
    assert_eq!((prices.cached_input, prices.cache_write, prices.output), (Decimal::TWO, Decimal::TWO, Decimal::ZERO));
    let prices = entry("input: 2, cached_input: 0, cache_write: 2.5").prices;
    assert_eq!((prices.cached_input, prices.cache_write), (Decimal::ZERO, decimal("2.5")));
    let prices = entry("request: 0.000000001").prices;
    assert_eq!((prices.request, prices.by_tokens(), prices.by_seconds()), (decimal("0.000000001"), false, false));
}

#[test]
fn amounts_of_the_specification() {
    let table = table(FILE);
    let used = |prompt, cached, completion, images, seconds: &str| Used {
        prompt,
        cached,
        written: 0,
        completion,
        images,
        seconds: decimal(seconds),
    };
    for (backend, model, used, amount) in [
        ("openrouter", "anthropic/claude-opus-4.7", used(12_000, 8000, 950, 0, "0"), "0.04775"),
        ("x", "google/gemini-2.5-flash-image", used(40, 0, 1290, 2, "0"), "0.081237"),
        ("stt-1", "whisper", used(0, 0, 0, 0, "61.5"), "0.00615"),
        ("vllm-a", "any", used(30_000, 0, 2000, 0, "0"), "0.0038"),
        ("openrouter", "anthropic/claude-opus-4.7", used(1200, 0, 85, 0, "0"), "0.008125"),
        ("openrouter", "anthropic/claude-opus-4.7", Used { written: 1000, ..used(12_000, 8000, 950, 0, "0") }, "0.049"),
        ("vllm-a", "any", used(1, 5, 0, 0, "0"), "0.0000005"),
    ] {
        let entry = table.find(backend, model, at(YEAR)).unwrap();
        assert_eq!(entry.prices.amount(&used), Some(decimal(amount)), "{backend} {model} {used:?}");
    }
}

#[test]
fn the_worst_case_takes_the_dearest_kind_of_prompt() {
    let table = table(FILE);
    let worst = |input_bytes, output_tokens, images| WorstCase { input_bytes, output_tokens, images };
    let amount = |model, worst| table.find("openrouter", model, at(YEAR)).unwrap().prices.worst(worst).unwrap();
    // 5 bytes are 3 tokens at the price of writing them into a cache
    assert_eq!(amount("anthropic/claude-opus-4.7", worst(5, 10, 0)), decimal("0.00026875"));
    assert_eq!(amount("google/gemini-x-image", worst(0, 0, 2)), decimal("0.078"));
    assert_eq!(amount("google/gemini-x-image", worst(2, 1, 0)), decimal("0.0000028"));
}

#[test]
fn the_largest_counts_at_the_largest_prices_are_exact() {
    let table = table(
        "version: 1\nentries: [{backend: a, model: m, input: '999999.999999999', cached_input: '0.000000001', output: '999999.999999999'}]",
    );
    let used = Used { prompt: 1_000_000_000_000, cached: 1, completion: 999_999_999_999, ..Used::default() };
    let amount = table.find("a", "m", at(YEAR)).unwrap().prices.amount(&used).unwrap();
    // (999999999999 × 999999.999999999 × 2 + 0.000000001) ÷ 1000000
    assert_eq!(amount, decimal("1999999999997.998000000000003"));
}

#[test]
fn every_problem_is_told_with_its_line_and_key() {
    let text = r#"version: 2
entries:
  - {backend: "", model: m, input: "1"}
  - {backend: a, model: m}
  - backend: a
    model: m
    input: "-1"
    output: "1.0000000001"
    image: 1000000.5
    second: much
  - {backend: a, model: m, input: 1, valid_from: "2026-02-30"}
  - {backend: a, model: m, input: 1, valid_from: "2026-02-03", valid_to: "2026-02-03"}
  - {backend: a, model: m, input: 1, valid_to: "20260203"}
"#;
    let range = "must be a decimal from 0 to 1000000 with at most 9 digits behind the point";
    assert_eq!(
        problems(text),
        [
            "pricing.yaml:1: version: must be 1".to_owned(),
            "pricing.yaml:3: entries[0].backend: must not be empty; * matches all".to_owned(),
            "pricing.yaml:4: entries[1].input: the entry sets no price; a model that costs nothing has input: \"0\""
                .to_owned(),
            format!("pricing.yaml:7: entries[2].input: {range}"),
            format!("pricing.yaml:8: entries[2].output: {range}"),
            format!("pricing.yaml:9: entries[2].image: {range}"),
            format!("pricing.yaml:10: entries[2].second: {range}"),
            "pricing.yaml:11: entries[3].valid_from: must be a day as in 2026-01-31".to_owned(),
            "pricing.yaml:12: entries[4].valid_to: must be after valid_from".to_owned(),
            "pricing.yaml:13: entries[5].valid_to: must be a day as in 2026-01-31".to_owned(),
        ]
    );
}

#[test]
fn a_file_of_another_shape_is_refused() {
    for (text, part) in [
        ("version: 1\nentries: [{backend: a, model: m, input: '1', colour: red}]", "entries[0]"),
        ("version: 1\nentries: [{backend: a, model: m, input: [1]}]", "entries[0].input"),
        ("version: 1\nentries: [{backend: a, input: 1}]", "entries[0]"),
        ("version: 1\nentries: [{backend: a, model: m, input: 1, currency: GBP}]", "entries[0].currency"),
        ("entries: []", "version"),
        ("version: 1\nentries: [", "is not valid YAML"),
        ("version: 1\nprices: []", "prices"),
    ] {
        let found = problems(text).join("\n");
        assert!(found.contains(part) && found.starts_with("pricing.yaml"), "{text}: {found}");
    }
    let many = "  - {backend: a, model: m, input: 1}\n".repeat(10_001);
    assert_eq!(problems(&format!("version: 1\nentries:\n{many}")), ["pricing.yaml:3: entries: must be at most 10000"]);
    assert_eq!(table("version: 1").0, []);
}

#[test]
fn an_absent_file_is_an_empty_table_and_variables_are_expanded() {
    let dir = tempfile::tempdir().unwrap();
    let mut problems = Vec::new();
    let path = dir.path().join("pricing.yaml");
    assert_eq!(file::load(&path, &Ambient::default(), &mut problems).0, []);
    std::fs::write(&path, "version: 1\nentries: [{backend: a, model: m, input: '${PRICE}'}]").unwrap();
    let ambient = Ambient::new([("PRICE".to_owned(), "0.7".to_owned())]);
    assert_eq!(file::load(&path, &ambient, &mut problems).0[0].prices.input, decimal("0.7"));
    assert_eq!(problems, []);
    file::load(dir.path(), &Ambient::default(), &mut problems);
    assert!(problems[0].message.starts_with("cannot be read"), "{problems:?}");
}

proptest::proptest! {
    /// What a YAML number means is what was written.
    #[test]
    fn numbers_keep_their_digits(digits in 0..1_000_000_000_000_000_i64, scale in 0..=9_u32) {
        let written = Decimal::new(digits % 10_i64.pow(6 + scale), scale);
        let table = table(&format!("version: 1\nentries: [{{backend: a, model: m, input: {written}, output: '{written}'}}]"));
        proptest::prop_assert_eq!((table.0[0].prices.input, table.0[0].prices.output), (written, written));
    }
}
