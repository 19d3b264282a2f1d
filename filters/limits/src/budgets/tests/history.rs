//! What was used before this process began.

use super::*;
use crate::budgets::window::Period;

fn start(window: Window) -> SystemTime {
    crate::budgets::window::moment(Period::at(window, i64::try_from(NOON).unwrap()).start)
}

fn past(entries: &[(Window, &str, &str, u64)]) -> Past {
    let past = Past::default();
    for (window, slug, alias, tokens) in entries {
        let used = Amounts { cents: *tokens, requests: 1, tokens: *tokens };
        let used = UsedBySlug { slug: (*slug).into(), alias: (*alias).into(), used };
        past.0.lock().unwrap().entry(("acme".to_owned(), start(*window))).or_default().push(used);
    }
    past
}

#[tokio::test]
async fn the_ledger_says_what_was_used_of_each_window() {
    let past = past(&[
        (Window::Hour, "m", "m", 10),
        (Window::Day, "m", "m", 20),
        (Window::Day, "n-cloud", "n", 5),
        (Window::Month, "m", "m", 40),
    ]);
    let of = |id: &str, models: &[&str], window| budget(id, models, window, BudgetLimit::Tokens(100), BudgetMode::Hard);
    let world = World::after(
        vec![
            of("hour", &["*"], Window::Hour),
            of("day", &["*"], Window::Day),
            of("day-n", &["n"], Window::Day),
            of("month", &["*"], Window::Month),
        ],
        past,
    );
    for (id, ratio) in [("hour", 0.1), ("day", 0.25), ("day-n", 0.05), ("month", 0.4)] {
        let series = format!("dgx_gateway_budget_used_ratio{{budget=\"{id}\",tenant=\"acme\"}}");
        assert_eq!(world.metric(&series), Some(ratio), "{id}");
    }
    world.refused("m", 61).await;
    world.admitted("m", 60).await;
}

#[test]
fn a_ledger_that_cannot_be_read_stops_the_start() {
    struct Broken;
    impl UsageHistory for Broken {
        fn used(&self, _: &str, _: SystemTime, _: SystemTime) -> Result<Vec<UsedBySlug>, HistoryError> {
            Err(HistoryError("disk".into()))
        }
    }
    let dir = std::path::PathBuf::from("unused");
    let clock = Arc::new(ManualClock::starting_at(wall(NOON)));
    let mut env = BuildEnv::new(clock, Ambient::default(), dir, prometheus::Registry::new());
    env.provide::<Arc<dyn UsageHistory>>(Arc::new(Arc::new(Broken)));
    let listed = of(vec![hard("day", &["*"], BudgetLimit::Requests(1))]);
    env.provide(Arc::new(BudgetsOfTenants(vec![("acme".into(), listed)])));
    assert!(matches!(BudgetService::build((), &mut env), Err(dgx_gateway_filter::BuildError::Part(_))));
}
