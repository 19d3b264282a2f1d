//! Requests with several calls, and what is left of them when a process dies.

use std::time::{Duration, UNIX_EPOCH};

use dgx_gateway_filter::budget::{Amounts, UsedBySlug};
use proptest::prelude::*;

use super::*;
use crate::money::Source;
use crate::row::Row;

fn database() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    for step in STEPS {
        connection.execute_batch(step).unwrap();
    }
    connection
}

fn terms() -> Terms {
    Terms {
        began: UNIX_EPOCH + Duration::from_millis(1_778_000_000_123),
        rate: "0.8546".parse().unwrap(),
        rate_source: "ecb-2026-05-15".into(),
        fx_markup: "0.05".parse().unwrap(),
        factor: "1.00".parse().unwrap(),
    }
}

fn call(request: u64, number: u64) -> Opened {
    Opened {
        call_id: if number == 1 { format!("uid-{request}") } else { format!("{request}-{number}") },
        request_uid: format!("uid-{request}"),
        request_id: "chosen by the caller".to_owned(),
        parent_request_id: Some("of an agent".to_owned()),
        tenant_id: "acme".to_owned(),
        token_id: "app".to_owned(),
        user_id: None,
        model: "m".to_owned(),
        alias: None,
        prompt_estimate: 10,
        started_at: 5,
        target: Some(CallTarget { backend_id: "b".into(), upstream_model: "org/m".into(), local: true }),
        terms: terms(),
    }
}

fn settled(status: Status, cost: CallCost) -> Settled {
    Settled {
        status,
        resolved_model: None,
        backend_label: None,
        usage: Usage { prompt_tokens: 8, completion_tokens: 2, cached_tokens: 3, cache_write_tokens: 4 },
        images: 2,
        seconds: Decimal::new(615, 1),
        cost,
        settled_at: 7,
    }
}

fn dollars(usd: &str) -> CallCost {
    CallCost::of_dollars(Source::Upstream, usd.parse().unwrap(), &terms())
}

fn settle(connection: &Connection, call: &Opened, settled: &Settled) -> Result<bool> {
    let group = Group::new(connection);
    let has_row = super::settle(&group, call, settled)?;
    group.end().map(|()| has_row)
}

fn settle_left_open(connection: &Connection, settled: &[(&Opened, Settled)]) -> Result<()> {
    let group = Group::new(connection);
    super::settle_left_open(&group, settled).and_then(|()| group.end())
}

fn texts(connection: &Connection, sql: &str) -> Vec<String> {
    let mut select = connection.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn bills(connection: &Connection) -> Vec<String> {
    texts(
        connection,
        "SELECT request_uid || ' ' || source || ' ' || available || ' ' || billed_eur || ' ' || billed_usd || ' ' || upstream_usd FROM usage_requests ORDER BY 1",
    )
}

#[test]
fn calls_of_a_request_are_billed_together_and_rounded_once() {
    let connection = database();
    let calls = [call(1, 1), call(1, 2), call(1, 3)];
    open(&connection, &calls[0], "i").unwrap();
    settle_and_open(&connection, (&calls[0], &settled(Status::Ok, dollars("0.004"))), &calls[1], "i").unwrap();
    settle_and_open(&connection, (&calls[1], &settled(Status::Ok, dollars("0.004"))), &calls[2], "i").unwrap();
    assert_eq!(bills(&connection).len(), 0, "the request is under way");
    assert!(settle(&connection, &calls[2], &settled(Status::Ok, dollars("0.004"))).unwrap());
    assert_eq!(bills(&connection), ["uid-1 upstream 1 0.02 0.02 0.012"]);
    let row = "SELECT prompt_tokens || ' ' || completion_tokens || ' ' || cached_tokens || ' ' || cache_write_tokens || ' ' || images || ' ' || seconds FROM usage_calls";
    assert_eq!(texts(&connection, row), ["8 2 3 4 2 61.5"; 3]);
}

#[test]
fn the_least_certain_call_names_the_source_and_the_known_part_is_billed() {
    for (costs, expected) in [
        (vec![dollars("0.02"), CallCost::unknown()], "uid-1 unknown 0 0.02 0.02 0.02"),
        (vec![CallCost::free(Source::Zero), dollars("0.02")], "uid-1 upstream 1 0.02 0.02 0.02"),
        (vec![CallCost::free(Source::Zero), CallCost::free(Source::Cached)], "uid-1 cached 1 0.00 0.00 0"),
    ] {
        let connection = database();
        open(&connection, &call(1, 1), "i").unwrap();
        settle_and_open(&connection, (&call(1, 1), &settled(Status::Ok, costs[0])), &call(1, 2), "i").unwrap();
        settle(&connection, &call(1, 2), &settled(Status::Aborted, costs[1])).unwrap();
        assert_eq!(bills(&connection), [expected]);
    }
}

#[test]
fn a_request_that_got_nothing_has_no_row_unless_it_cost_something() {
    let connection = database();
    for (request, cost) in [(1, CallCost::free(Source::Zero)), (2, dollars("0.5"))] {
        open(&connection, &call(request, 1), "i").unwrap();
        let has_row = settle(&connection, &call(request, 1), &settled(Status::Failed, cost)).unwrap();
        assert_eq!(has_row, request == 2);
    }
    assert_eq!(bills(&connection), ["uid-2 upstream 1 0.45 0.53 0.5"]);
}

#[test]
fn no_call_and_no_request_is_settled_twice() {
    let connection = database();
    open(&connection, &call(1, 1), "i").unwrap();
    settle(&connection, &call(1, 1), &settled(Status::Ok, dollars("0.02"))).unwrap();
    assert!(settle(&connection, &call(1, 1), &settled(Status::Ok, dollars("0.02"))).is_err());
    assert!(open(&connection, &call(1, 1), "i").is_err());
    assert_eq!(bills(&connection).len(), 1);
}

#[test]
fn what_was_written_down_at_the_start_is_what_recovery_reads() {
    let connection = database();
    open(&connection, &call(1, 1), "dead").unwrap();
    let other = Terms { rate: "2".parse().unwrap(), ..terms() };
    let left = left_open(&connection, &other).unwrap();
    assert_eq!((left[0].instance.as_str(), &left[0].call.terms), ("dead", &terms()));
    assert_eq!(left[0].call.target, call(1, 1).target);
    settle_left_open(&connection, &[(&left[0].call, settled(Status::Aborted, dollars("1")))]).unwrap();
    assert_eq!(texts(&connection, "SELECT parent_request_id FROM usage_requests"), ["of an agent"]);
}

#[test]
fn rows_of_an_older_version_are_read_without_what_it_did_not_write() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(STEPS[0]).unwrap();
    connection
        .execute_batch("INSERT INTO usage_calls (call_id, request_uid, request_id, tenant_id, token_id, model, state, prompt_tokens, started_at, instance) VALUES ('c', 'u', 'r', 'acme', 'app', 'm', 'reserved', 77, 1, 'gone')")
        .unwrap();
    for step in &STEPS[1..] {
        connection.execute_batch(step).unwrap();
    }
    let left = left_open(&connection, &terms()).unwrap();
    assert_eq!((left[0].call.target.clone(), &left[0].call.terms), (None, &terms()));
    settle_left_open(&connection, &[(&left[0].call, settled(Status::Aborted, CallCost::unknown()))]).unwrap();
    assert_eq!(bills(&connection), ["u unknown 0 0.00 0.00 0"]);
}

#[test]
fn a_request_with_a_call_that_lives_elsewhere_is_left_to_it() {
    let connection = database();
    open(&connection, &call(1, 1), "dead").unwrap();
    open(&connection, &call(1, 2), "alive").unwrap();
    let (dead, alive) = (call(1, 1), call(1, 2));
    settle_left_open(&connection, &[(&dead, settled(Status::Aborted, dollars("0.02")))]).unwrap();
    assert_eq!(bills(&connection).len(), 0);
    settle(&connection, &alive, &settled(Status::Ok, dollars("0.02"))).unwrap();
    assert_eq!(bills(&connection), ["uid-1 upstream 1 0.04 0.05 0.04"]);
}

/// Every column of every table.
fn everything(connection: &Connection) -> Vec<String> {
    ["usage_calls", "usage_requests", "usage_hours"]
        .iter()
        .flat_map(|table| {
            let mut select = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = select.column_count();
            let read = |row: &dgx_gateway_store::rusqlite::Row<'_>| {
                (0..columns).map(|column| Ok(format!("{:?}", row.get_ref(column)?))).collect::<Result<Vec<_>>>()
            };
            select.query_map([], read).unwrap().map(|row| row.unwrap().join(" ")).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn a_call_that_is_over_before_its_row_is_written_leaves_the_same_rows() {
    let costs = [dollars("0.02"), dollars("0"), CallCost::free(Source::Zero), CallCost::unknown()];
    for (status, cost) in [Status::Ok, Status::Aborted, Status::Failed].into_iter().flat_map(|s| costs.map(|c| (s, c)))
    {
        let (apart, together) = (database(), database());
        for (connection, over) in [(&apart, false), (&together, true)] {
            let row = Row::new(call(1, 1), &"i".into());
            if over {
                row.is_settled(settled(status, cost));
                row.open(&Group::new(connection)).unwrap();
                connection.execute_batch("DELETE FROM usage_calls; DELETE FROM usage_requests").unwrap(); // rolled back
            }
            let group = Group::new(connection);
            row.open(&group).unwrap();
            row.is_settled(settled(status, cost));
            row.settle(&group).unwrap();
            group.end().unwrap();
        }
        assert_eq!(everything(&apart), everything(&together), "{status:?} {cost:?}");
        assert!(!everything(&apart).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However far each request came before its process died: afterwards every call is settled once, and every request
    /// that was not over has its row.
    #[test]
    fn a_death_at_any_point_leaves_each_request_with_one_row(requests in prop::collection::vec((1..6_u64, 0..12_u64), 1..20)) {
        let connection = database();
        for (index, (calls, steps)) in requests.iter().enumerate() {
            let request = u64::try_from(index).unwrap();
            open(&connection, &call(request, 1), "dead").unwrap();
            for number in 1..(*calls).min(*steps) {
                settle_and_open(&connection, (&call(request, number), &settled(Status::Ok, dollars("0.004"))), &call(request, number + 1), "dead").unwrap();
            }
            if steps > calls {
                settle(&connection, &call(request, *calls), &settled(Status::Ok, dollars("0.004"))).unwrap();
            }
        }
        let left = left_open(&connection, &terms()).unwrap();
        let all: Vec<_> = left.iter().map(|left| (&left.call, settled(Status::Aborted, CallCost::free(Source::Zero)))).collect();
        settle_left_open(&connection, &all).unwrap();
        prop_assert_eq!(left_open(&connection, &terms()).unwrap().len(), 0);
        prop_assert_eq!(bills(&connection).len(), requests.len());
        let sum: i64 = connection.query_row("SELECT sum(calls) FROM (SELECT count(*) AS calls FROM usage_calls GROUP BY request_uid)", [], |row| row.get(0)).unwrap();
        let expected: u64 = requests.iter().map(|(calls, steps)| (*calls).min(*steps).max(1)).sum();
        prop_assert_eq!(u64::try_from(sum).unwrap(), expected);
    }
}

#[test]
fn what_was_used_is_summed_by_slug_and_by_the_moment_of_the_request() {
    let connection = database();
    let began = 1_778_000_000_123;
    let booked = |request: u64, alias: Option<&str>, status: Status, cost: CallCost| {
        let call = Opened { alias: alias.map(str::to_owned), ..call(request, 1) };
        open(&connection, &call, "i").unwrap();
        settle(&connection, &call, &settled(status, cost)).unwrap();
    };
    booked(1, Some("base"), Status::Ok, dollars("0.0114"));
    booked(2, Some("base"), Status::Aborted, dollars("0.0207"));
    booked(3, Some("base"), Status::Failed, CallCost::free(Source::Zero));
    booked(4, None, Status::Ok, CallCost::free(Source::Zero));
    open(&connection, &call(5, 1), "i").unwrap(); // under way
    let of = |tenant: &str, from: i64, to: i64| {
        let used = used(&connection, tenant, from, to).unwrap();
        let line = |used: UsedBySlug| {
            let Amounts { cents, requests, tokens } = used.used;
            format!("{} {} {cents} {requests} {tokens}", used.slug, used.alias)
        };
        used.into_iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(of("acme", began, began + 1), ["m base 4 2 30", "m m 0 1 10"]);
    assert_eq!(of("acme", began - 1, began), Vec::<String>::new());
    assert_eq!(of("acme", began + 1, i64::MAX), Vec::<String>::new());
    assert_eq!(of("globex", 0, i64::MAX), Vec::<String>::new());
}

#[test]
fn several_calls_of_a_request_are_one_request_with_one_bill() {
    let connection = database();
    let (first, second) = (call(1, 1), call(1, 2));
    open(&connection, &first, "i").unwrap();
    settle_and_open(&connection, (&first, &settled(Status::Ok, dollars("0.004"))), &second, "i").unwrap();
    settle(&connection, &second, &settled(Status::Ok, dollars("0.004"))).unwrap();
    let used = used(&connection, "acme", 0, i64::MAX).unwrap();
    assert_eq!(used.iter().map(|used| used.used).collect::<Vec<_>>(), [Amounts { cents: 1, requests: 1, tokens: 20 }]);
}

#[test]
fn the_way_to_the_calls_of_a_time_is_an_index_and_absurd_reports_do_not_overflow() {
    let connection = database();
    for request in 0..9 {
        let call = call(request, 1);
        open(&connection, &call, "i").unwrap();
        let usage = Usage { prompt_tokens: u64::MAX, completion_tokens: u64::MAX, ..Usage::default() };
        let cost = dollars("70000000000000000");
        settle(&connection, &call, &Settled { usage, ..settled(Status::Ok, cost) }).unwrap();
    }
    let used = used(&connection, "acme", 0, i64::MAX).unwrap()[0].used;
    assert_eq!((used.tokens, used.cents), (18_000_000_000_000_000, 9_000_000_000_000_000));
    let plan: String = connection
        .query_row(
            "EXPLAIN QUERY PLAN SELECT 1 FROM usage_calls WHERE tenant_id = 'a' AND coalesce(began, started_at) >= 1 AND coalesce(began, started_at) < 2",
            [],
            |row| row.get(3),
        )
        .unwrap();
    assert!(
        plan.contains("USING INDEX usage_calls_began") || plan.contains("USING COVERING INDEX usage_calls_began"),
        "{plan}"
    );
}
