//! Sources in their order, the vectors of the specification, and costs that nobody believes.

use std::time::{Duration, SystemTime};

use super::*;
use crate::money::Bill;
use crate::prices::tests::{FILE, table};

fn terms(factor: &str) -> Terms {
    Terms {
        began: SystemTime::UNIX_EPOCH + Duration::from_secs(1_778_000_000),
        rate: "0.8546".parse().unwrap(),
        rate_source: "ecb-2026-05-15".into(),
        fx_markup: "0.05".parse().unwrap(),
        factor: factor.parse().unwrap(),
    }
}

fn call(backend: &str, model: &str, local: bool) -> ModelCall {
    ModelCall {
        resolved_model: "m".into(),
        backend_id: backend.into(),
        backend_label: "x-1".into(),
        upstream_model: model.into(),
        local,
        prompt_estimate: 1200,
        recording_bytes: 0,
    }
}

const OPUS: (&str, &str) = ("openrouter", "anthropic/claude-opus-4.7");

fn usage(prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> Option<Usage> {
    Some(Usage { prompt_tokens, completion_tokens, cached_tokens, ..Usage::default() })
}

/// Source, dollars, exact euros and billed amounts of one call.
fn told(call: &ModelCall, report: Report, text: u64, status: Status, factor: &str) -> String {
    let (terms, meter) = (terms(factor), Meter::default());
    meter.report(report);
    meter.add_text(text);
    let cost = table(FILE).cost(call.into(), &Tally::of(call, &meter), status, &terms);
    let bill = Bill::of(&[cost], &terms);
    let usd = cost.upstream_usd.map_or("-".to_owned(), |usd| usd.normalize().to_string());
    format!("{} {usd} {} {:.2} {:.2}", cost.source.as_str(), cost.eur_exact.normalize(), bill.eur, bill.usd)
}

#[test]
fn the_table_of_the_specification() {
    let opus = call(OPUS.0, OPUS.1, false);
    let report = Report { usage: usage(12_000, 8000, 950), ..Report::default() };
    assert_eq!(told(&opus, report, 9, Status::Ok, "1.20"), "computed 0.04775 0.051417009 0.06 0.07");
    let image = Report { usage: usage(40, 0, 1290), images: 2, ..Report::default() };
    let told_image = told(&call("x", "google/gemini-3-image", false), image, 0, Status::Ok, "1.00");
    assert_eq!(told_image, "computed 0.081237 0.07289639721 0.08 0.09");
    let audio = Report { seconds: Some("61.5".parse().unwrap()), ..Report::default() };
    assert_eq!(
        told(&call("stt-1", "w", false), audio, 0, Status::Ok, "1.00"),
        "computed 0.00615 0.0055185795 0.01 0.01"
    );
    let euros = Report { usage: usage(30_000, 0, 2000), ..Report::default() };
    assert_eq!(told(&call("vllm-a", "m", true), euros, 0, Status::Ok, "1.20"), "computed 0.004447 0.00456 0.01 0.01");
    let aborted = told(&opus, Report::default(), 340, Status::Aborted, "1.20");
    assert_eq!(aborted, "estimated 0.008125 0.0087489675 0.01 0.01");
}

#[test]
fn the_first_source_that_fits_counts() {
    let reported = |cost: &str| Report { cost_usd: Some(cost.to_owned()), ..Report::default() };
    let both = |cost: &str| Report { usage: usage(1_000_000, 0, 0), ..reported(cost) };
    let used = || Report { usage: usage(1_000_000, 0, 0), ..Report::default() };
    for (backend, model, local, report, status, expected) in [
        // reported before computed, at a backend of ours, too
        (OPUS.0, OPUS.1, false, both("0.5"), Status::Ok, "upstream 0.5"),
        ("vllm-a", "m", true, both("0.5"), Status::Ok, "upstream 0.5"),
        ("vllm-b", "m", true, both("0.5"), Status::Ok, "upstream 0.5"),
        ("cloud", "m", false, both("0"), Status::Ok, "upstream 0"),
        // an abort whose usage arrived is complete as far as money goes; one whose head alone said a cost is not
        (OPUS.0, OPUS.1, false, both("0.5"), Status::Aborted, "upstream 0.5"),
        (OPUS.0, OPUS.1, false, reported("0.5"), Status::Aborted, "estimated 0.006"),
        ("cloud", "m", false, reported("0.5"), Status::Aborted, "unknown -"),
        (OPUS.0, OPUS.1, false, used(), Status::Aborted, "computed 5"),
        // what failed costs what was reported, else nothing
        (OPUS.0, OPUS.1, false, reported("0.5"), Status::Failed, "upstream 0.5"),
        (OPUS.0, OPUS.1, false, used(), Status::Failed, "zero 0"),
        // estimated, zero, unknown
        (OPUS.0, OPUS.1, false, Report::default(), Status::Ok, "estimated 0.006"),
        ("vllm-a", "m", true, Report::default(), Status::Ok, "estimated 0.00014"),
        ("vllm-b", "m", true, used(), Status::Ok, "zero 0"),
        ("vllm-b", "m", true, Report::default(), Status::Aborted, "zero 0"),
        ("cloud", "m", false, used(), Status::Ok, "unknown -"),
        // a price by the second needs no tokens, one by tokens no seconds
        ("stt-1", "w", false, used(), Status::Ok, "estimated 0"),
        ("x", "google/gemini-3-image", false, used(), Status::Ok, "computed 0.3"),
        // nobody is believed beyond reason: the next source counts
        (OPUS.0, OPUS.1, false, both("1000000"), Status::Ok, "upstream 1000000"),
        (OPUS.0, OPUS.1, false, both("1000000.000001"), Status::Ok, "computed 5"),
        (OPUS.0, OPUS.1, false, both("99999999999999999999999999999999999"), Status::Ok, "computed 5"),
        (OPUS.0, OPUS.1, false, both("-0.01"), Status::Ok, "computed 5"),
        (OPUS.0, OPUS.1, false, both("nan"), Status::Ok, "computed 5"),
        ("cloud", "m", false, both("1000000.000001"), Status::Ok, "unknown -"),
        (
            OPUS.0,
            OPUS.1,
            false,
            Report { usage: usage(1_000_000_000_000, 0, 0), ..Report::default() },
            Status::Ok,
            "computed 5000000",
        ),
        (
            OPUS.0,
            OPUS.1,
            false,
            Report { usage: usage(1_000_000_000_001, 0, 0), ..Report::default() },
            Status::Ok,
            "estimated 0.006",
        ),
        (
            OPUS.0,
            OPUS.1,
            false,
            Report { usage: usage(u64::MAX, 0, u64::MAX), ..Report::default() },
            Status::Ok,
            "estimated 0.006",
        ),
        (
            "stt-1",
            "w",
            false,
            Report { seconds: Some(Decimal::from(10_000_001)), ..Report::default() },
            Status::Ok,
            "estimated 0",
        ),
    ] {
        let told = told(&call(backend, model, local), report.clone(), 0, status, "1.00");
        assert!(told.starts_with(&format!("{expected} ")), "{backend} {report:?} {status:?}: {told}, not {expected}");
    }
}

#[test]
fn a_recording_of_unknown_length_is_estimated_by_its_size() {
    for (bytes, expected) in
        [(0, "estimated 0 "), (1, "estimated 0.0001 "), (16_000, "estimated 0.0001 "), (16_001, "estimated 0.0002 ")]
    {
        let call = ModelCall { recording_bytes: bytes, ..call("stt-1", "w", false) };
        let told = told(&call, Report::default(), 0, Status::Ok, "1.00");
        assert!(told.starts_with(expected), "{bytes}: {told}");
    }
    let known = ModelCall { recording_bytes: 1, ..call("stt-1", "w", false) };
    let report = Report { seconds: Some("61.5".parse().unwrap()), ..Report::default() };
    assert!(told(&known, report, 0, Status::Ok, "1.00").starts_with("computed 0.00615 "));
}

fn target(backend: &str, model: &str, local: bool) -> CallTarget {
    CallTarget { backend_id: backend.into(), upstream_model: model.into(), local }
}

#[test]
fn the_dearest_target_bounds_a_call() {
    let (table, terms) = (table(FILE), terms("1.20"));
    let worst = WorstCase { input_bytes: 2000, output_tokens: 1000, images: 0 };
    let eur = |targets: &[CallTarget]| table.worst_eur(&terms, targets, worst).map(|eur| format!("{eur:.2}"));
    let [opus, ours, free, image, unpriced] = [
        target(OPUS.0, OPUS.1, false),
        target("vllm-a", "m", true),
        target("vllm-b", "m", true),
        target("x", "google/gemini-3-image", false),
        target("cloud", "m", false),
    ];
    // (1000 × 6.25 + 1000 × 25) ÷ 1000000 = 0.03125 dollars = 0.03365... euros
    assert_eq!(eur(std::slice::from_ref(&opus)).as_deref(), Some("0.04"));
    assert_eq!(eur(std::slice::from_ref(&ours)).as_deref(), Some("0.01"), "(0.1 + 0.4) ÷ 1000 × 1.20, whole cents");
    assert_eq!(eur(std::slice::from_ref(&free)).as_deref(), Some("0.00"));
    assert_eq!(eur(&[free.clone(), ours.clone(), opus.clone(), image]).as_deref(), Some("0.04"));
    assert_eq!(eur(&[free.clone(), opus, unpriced.clone()]), None, "one of them could cost anything");
    assert_eq!(eur(&[]).as_deref(), Some("0.00"));
    assert!(table.may_cost(&[free.clone(), ours], &terms) && table.may_cost(&[unpriced], &terms));
    assert!(!table.may_cost(&[free], &terms));
}

proptest::proptest! {
    /// What is reserved before a call is never less than what the call is billed, whatever it uses within its bounds.
    #[test]
    fn no_call_within_its_bounds_costs_more_than_its_worst_case(
        (bytes, output, images) in (0..10_000_000_u64, 0..200_000_u64, 0..3_u64),
        (prompt, cached, written, completion) in (0..=100_u64, 0..=100_u64, 0..=100_u64, 0..=100_u64),
        which in 0..3_usize, factor in 1..=10_000_i64,
    ) {
        let worst = WorstCase { input_bytes: bytes, output_tokens: output, images };
        let prompt = worst.input_tokens() * prompt / 100;
        let cached = prompt * cached / 100;
        let usage = Usage { prompt_tokens: prompt, completion_tokens: output * completion / 100, cached_tokens: cached, cache_write_tokens: (prompt - cached) * written / 100 };
        let (backend, model) = [OPUS, ("x", "google/gemini-3-image"), ("vllm-a", "m")][which];
        let (table, terms) = (table(FILE), terms(&Decimal::new(factor, 2).to_string()));
        let call = call(backend, model, false);
        let meter = Meter::default();
        meter.report(Report { usage: Some(usage), images, ..Report::default() });
        let cost = table.cost((&call).into(), &Tally::of(&call, &meter), Status::Ok, &terms);
        let billed = Bill::of(&[cost], &terms).eur;
        let reserved = table.worst_eur(&terms, &[target(backend, model, false)], worst).unwrap();
        proptest::prop_assert!(billed <= reserved, "{} > {}", billed, reserved);
    }
}
