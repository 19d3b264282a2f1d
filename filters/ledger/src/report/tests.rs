//! Reports of a database: the example of the specification, bounds, tenants, and sums against rows.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::report::hours::{Hours, read, requests, sum_up};
use crate::rows::STEPS;
use dgx_gateway_store::Together as _;
use dgx_gateway_store::rusqlite::{Connection, params};

/// 2026-05-16 00:00 UTC.
const DAY: i64 = 1_778_889_600_000;
const HOUR: i64 = 3_600_000;

fn database() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    for step in STEPS {
        connection.execute_batch(step).unwrap();
    }
    connection
}

/// A row of a request, as the ledger writes it, without its sum.
fn row(connection: &Connection, uid: &str, tenant: &str, at: i64, (model, source): (&str, &str), amounts: [&str; 3]) {
    let mut insert = connection
        .prepare_cached("INSERT INTO usage_requests VALUES (?1, 'r', NULL, ?2, 't', NULL, ?3, ?4, 1, ?5, ?6, ?7, '0.8546', 'ecb', '0.05', '1', ?8)")
        .unwrap();
    insert.execute(params![uid, tenant, model, source, amounts[0], amounts[1], amounts[2], at]).unwrap();
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

/// The same with its sum.
fn request(connection: &Connection, uid: &str, tenant: &str, at: i64, kind: (&str, &str), amounts: [&str; 3]) {
    row(connection, uid, tenant, at, kind, amounts);
    let sum = Sum {
        requests: 1,
        eur_cents: hours::cents(decimal(amounts[0])),
        usd_cents: hours::cents(decimal(amounts[1])),
        upstream_usd: decimal(amounts[2]),
    };
    let mut hours = Hours::default();
    hours.add(tenant, Line { at, model: kind.0.into(), source: kind.1.into(), sum });
    hours.write(connection).unwrap();
}

fn report(connection: &Connection, tenant: &str, query: &str) -> String {
    let period = Period::read(query).unwrap();
    let (from, to) = period.millis();
    let buckets = buckets(read(connection, tenant, from, to).unwrap(), period.granularity);
    serde_json::to_string(&answer::Answer::new(tenant, &period, &buckets)).unwrap()
}

fn example() -> Connection {
    let connection = database();
    let opus = ("claude-opus-4.7", "upstream");
    request(&connection, "1", "acme", DAY + 9 * HOUR, opus, ["0.02", "0.02", "0.0114"]);
    request(&connection, "2", "acme", DAY + 10 * HOUR - 1, opus, ["0.03", "0.04", "0.0207"]);
    request(&connection, "3", "acme", DAY + 9 * HOUR + 5, ("llama-4-scout", "zero"), ["0.00", "0.00", "0"]);
    request(&connection, "4", "acme", DAY + 10 * HOUR, opus, ["0.05", "0.06", "0.04"]);
    request(&connection, "5", "other", DAY + 10 * HOUR, opus, ["7.00", "8.00", "9"]);
    connection
}

#[test]
fn is_the_report_of_the_specification() {
    let expected = concat!(
        r#"{"tenant_id":"acme","from":"2026-05-16T00:00:00+00:00","to":"2026-05-17T00:00:00+00:00","granularity":"hour","bucket_count":2,"buckets":["#,
        r#"{"bucket_start":"2026-05-16T09:00:00+00:00","bucket_end":"2026-05-16T10:00:00+00:00","total_requests":3,"#,
        r#""total_cost_eur":0.05,"total_cost_usd":0.06,"total_upstream_cost_usd":0.0321,"#,
        r#""by_model":{"claude-opus-4.7":{"requests":2,"cost_eur":0.05,"cost_usd":0.06,"upstream_usd":0.0321},"#,
        r#""llama-4-scout":{"requests":1,"cost_eur":0.00,"cost_usd":0.00,"upstream_usd":0}},"#,
        r#""by_cost_source":{"upstream":2,"zero":1}},"#,
        r#"{"bucket_start":"2026-05-16T10:00:00+00:00","bucket_end":"2026-05-16T11:00:00+00:00","total_requests":1,"#,
        r#""total_cost_eur":0.05,"total_cost_usd":0.06,"total_upstream_cost_usd":0.04,"#,
        r#""by_model":{"claude-opus-4.7":{"requests":1,"cost_eur":0.05,"cost_usd":0.06,"upstream_usd":0.04}},"#,
        r#""by_cost_source":{"upstream":1}}],"#,
        r#""total":{"requests":4,"cost_eur":0.10,"cost_usd":0.12,"upstream_cost_usd":0.0721}}"#,
    );
    assert_eq!(report(&example(), "acme", "from=2026-05-16&to=2026-05-17"), expected);
}

#[test]
fn bounds_hold_to_the_millisecond_and_days_sum_up() {
    let connection = example();
    let buckets = |query: &str| {
        let report: serde_json::Value = serde_json::from_str(&report(&connection, "acme", query)).unwrap();
        let list = report["buckets"].as_array().unwrap().iter();
        let list: Vec<_> = list
            .map(|bucket| format!("{} {}", bucket["bucket_start"].as_str().unwrap(), bucket["total_requests"]))
            .collect();
        assert_eq!(report["bucket_count"], list.len());
        list
    };
    assert_eq!(buckets("from=2026-05-16&to=2026-05-16"), [""; 0]);
    assert_eq!(buckets("from=2026-05-16&to=2026-05-17&granularity=day"), ["2026-05-16T00:00:00+00:00 4"]);
    assert_eq!(buckets("from=2026-05-16T09:00:00.001Z&to=2026-05-16T09:59:59.999Z"), ["2026-05-16T09:00:00+00:00 1"]);
    assert_eq!(buckets("from=2026-05-16T09:00:00.001Z&to=2026-05-16T10:00:00Z"), ["2026-05-16T09:00:00+00:00 2"]);
    assert_eq!(
        buckets("from=2026-05-16T11:59:59.999%2B02:00&to=2026-05-16T12:00:00.001%2B02:00"),
        ["2026-05-16T09:00:00+00:00 1", "2026-05-16T10:00:00+00:00 1"]
    );
    assert_eq!(
        buckets("from=2026-05-15T12:00:00Z&to=2026-05-16T09:30:00Z&granularity=day"),
        ["2026-05-16T00:00:00+00:00 2"]
    );
}

#[test]
fn a_fraction_of_a_second_is_told_and_nothing_of_others_is() {
    let report = report(&example(), "nobody", "from=2026-05-16T00:00:00.5Z&to=2026-05-16T02:00:00%2B01:00");
    assert!(
        report.starts_with(
            r#"{"tenant_id":"nobody","from":"2026-05-16T00:00:00.5+00:00","to":"2026-05-16T01:00:00+00:00","#
        ),
        "{report}"
    );
    assert!(report.ends_with(r#""bucket_count":0,"buckets":[],"total":{"requests":0,"cost_eur":0.00,"cost_usd":0.00,"upstream_cost_usd":0}}"#), "{report}");
}

#[test]
fn upstream_amounts_are_rounded_once_per_number() {
    let connection = database();
    for uid in 0..3 {
        request(&connection, &uid.to_string(), "a", DAY, ("m", "upstream"), ["0.01", "0.01", "0.0000004"]);
    }
    request(&connection, "n", "a", DAY, ("", "unknown"), ["0.00", "0.00", "0"]);
    let report = report(&connection, "a", "from=2026-05-16&to=2026-05-17");
    assert!(report.contains(r#""total_upstream_cost_usd":0.000001,"#), "{report}");
    assert!(report.contains(r#""by_model":{"(unknown)":{"requests":1,"#), "{report}");
}

#[test]
fn requests_of_an_older_version_are_summed_up_once() {
    let connection = database();
    for (uid, at) in [("1", DAY), ("2", DAY + 1), ("3", DAY + HOUR)] {
        row(&connection, uid, "a", at, ("m", "upstream"), ["0.02", "0.03", "0.0123"]);
    }
    sum_up(&connection).unwrap();
    sum_up(&connection).unwrap();
    let report = report(&connection, "a", "from=2026-05-16&to=2026-05-17");
    assert!(
        report.ends_with(r#""total":{"requests":3,"cost_eur":0.06,"cost_usd":0.09,"upstream_cost_usd":0.0369}}"#),
        "{report}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Sums of hours and the parts at both ends say what the rows of all requests say.
    #[test]
    fn sums_of_hours_are_those_of_rows(
        rows in prop::collection::vec((0..30 * HOUR, 0..3_usize, 0..3_usize, 0..500_i64, 0..5_000_000_i64), 0..60),
        from in 0..30 * HOUR, length in 0..30 * HOUR, day in any::<bool>(),
    ) {
        let connection = database();
        for (index, (at, model, source, cents, upstream)) in rows.iter().enumerate() {
            let kind = (["a", "b", "c"][*model], ["upstream", "computed", "zero"][*source]);
            let (eur, usd) = (Decimal::new(*cents, 2), Decimal::new(cents + 1, 2));
            let amounts = [format!("{eur:.2}"), format!("{usd:.2}"), Decimal::new(*upstream, 9).to_string()];
            request(&connection, &index.to_string(), "t", DAY + at, kind, [&amounts[0], &amounts[1], &amounts[2]]);
        }
        let granularity = if day { Granularity::Day } else { Granularity::Hour };
        let (from, to) = (DAY + from, DAY + from + length);
        let summed = buckets(read(&connection, "t", from, to).unwrap(), granularity);
        let counted = buckets(requests(&connection, "t", from, to).unwrap(), granularity);
        prop_assert_eq!(summed, counted);
    }
}

/// A month of a million requests of 20 models, in a file. Run with
/// `cargo test --release -p dgx-gateway-ledger -- --ignored --nocapture a_month_of_a_million`.
#[test]
#[ignore = "writes a million rows and tells how long reports take"]
fn a_month_of_a_million_requests() {
    const REQUESTS: i64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::open(dir.path().join("usage.sqlite")).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; BEGIN").unwrap();
    for step in STEPS {
        connection.execute_batch(step).unwrap();
    }
    let month = 31 * 24 * HOUR;
    let began = Instant::now();
    for index in 0..REQUESTS {
        let at = DAY + index * (month / REQUESTS);
        let model = format!("model-{}", index % 20);
        let source = ["upstream", "computed", "zero"][usize::try_from(index % 3).unwrap()];
        request(&connection, &format!("{index:036}"), "acme", at, (&model, source), ["0.02", "0.02", "0.0123456"]);
    }
    connection.execute_batch("COMMIT").unwrap();
    println!("written with their sums in {:?}", began.elapsed());
    for query in ["from=2026-05-16T00:30:00Z&to=2026-06-15T23:30:00Z", "from=2026-05-16&to=2026-06-16&granularity=day"]
    {
        for _ in 0..3 {
            let began = Instant::now();
            let body = report(&connection, "acme", query);
            println!("{query}: {} bytes in {:?}", body.len(), began.elapsed());
        }
    }
    let began = Instant::now();
    let lines = requests(&connection, "acme", DAY, DAY + month).unwrap();
    println!("for comparison, all {} rows without sums: {:?}", lines.len(), began.elapsed());
}
