//! What stays across a reload.

use super::*;

/// The next generation, with other budgets.
fn reloaded(world: World, budgets: Option<Vec<Budget>>) -> World {
    let World { clock, mut env, .. } = world;
    let budgets = of(budgets.unwrap_or_default());
    let listed = if budgets.0.is_empty() { vec![] } else { vec![("acme".into(), Arc::clone(&budgets))] };
    let mut next = env.next(Ambient::default());
    let limits = crate::Service::check(serde_json::from_str("{}").unwrap(), &next.ambient).unwrap();
    crate::Service::build(limits, &mut next).unwrap();
    next.provide::<Arc<dyn Pricing>>(Arc::new(Arc::new(CentPerToken)));
    next.provide::<Arc<dyn UsageHistory>>(env.service::<Arc<dyn UsageHistory>>().unwrap());
    next.provide(Arc::new(BudgetsOfTenants(listed)));
    BudgetService::build((), &mut next).unwrap();
    next.in_use(Some(&mut env));
    World { clock, env: next, budgets }
}

#[tokio::test]
async fn a_limit_that_changes_holds_at_once_and_calls_in_flight_stay_counted() {
    let limit = |tokens| vec![hard("day", &["*"], BudgetLimit::Tokens(tokens))];
    let world = World::new(limit(100));
    let mut call = world.admitted("m", 100).await;
    world.refused("m", 1).await;
    let world = reloaded(world, Some(limit(150)));
    let _more = world.admitted("m", 50).await;
    let world = reloaded(world, Some(limit(120)));
    world.refused("m", 1).await;
    made(&mut call, Some(10));
    call.finish(&OK);
    assert_eq!(world.day().0.tokens, 10);
    let _now = world.admitted("m", 60).await;
    world.refused("m", 1).await;
}

#[tokio::test]
async fn a_budget_that_is_new_or_reads_otherwise_counts_what_was_used_before() {
    let world = World::new(vec![hard("narrow", &["m"], BudgetLimit::Tokens(100))]);
    let mut other = world.admitted("n", 30).await;
    let _open = world.admitted("m", 20).await;
    made(&mut other, Some(30));
    other.finish(&OK);
    let world = reloaded(
        world,
        Some(vec![
            hard("narrow", &["m", "n"], BudgetLimit::Tokens(100)),
            hard("new", &["n"], BudgetLimit::Requests(2)),
        ]),
    );
    world.refused("n", 51).await;
    let _last = world.admitted("n", 50).await;
    world.refused("n", 1).await;
    assert_eq!(world.metric(r#"dgx_gateway_budget_used_ratio{budget="new",tenant="acme"}"#), Some(0.5));
}

#[tokio::test]
async fn a_budget_that_is_gone_refuses_nothing_and_has_no_series() {
    let world =
        World::new(vec![hard("day", &["*"], BudgetLimit::Requests(0)), hard("rest", &["x"], BudgetLimit::Requests(1))]);
    world.refused("m", 1).await;
    let world = reloaded(world, Some(vec![hard("rest", &["x"], BudgetLimit::Requests(1))]));
    world.admitted("m", 1).await;
    assert_eq!(world.metric(r#"dgx_gateway_budget_used_ratio{budget="day",tenant="acme"}"#), None);
    let world = reloaded(world, None);
    assert_eq!(world.metric(r#"dgx_gateway_budget_used_ratio{budget="rest",tenant="acme"}"#), None);
    assert!(world.env.service::<TenantsWithBudgets>().unwrap().tenant("acme").is_none());
}

#[tokio::test]
async fn a_request_of_the_configuration_before_counts_by_its_own_budgets() {
    let world = World::new(vec![hard("day", &["*"], BudgetLimit::Tokens(100))]);
    let mut old = world.call("m", 60);
    let world = reloaded(world, Some(vec![hard("day", &["*"], BudgetLimit::Tokens(50))]));
    old.ready(&mut Rope::new()).await.unwrap();
    world.refused("m", 1).await;
    made(&mut old, Some(20));
    old.finish(&OK);
    world.admitted("m", 30).await;
}

#[tokio::test]
async fn names_of_catalogs_long_gone_are_forgotten() {
    let day = || vec![hard("day", &["*"], BudgetLimit::Tokens(1_000_000))];
    let mut world = World::new(day());
    for round in 0..20 {
        for slug in 0..10 {
            let mut call = world.admitted(&format!("m-{round}-{slug}"), 1).await;
            made(&mut call, Some(1));
            call.finish(&OK);
        }
        world.clock.advance(Duration::from_secs(32 * 24 * 3600));
        world = reloaded(world, Some(day()));
    }
    let known = world.tenant().state().usage.size().1;
    assert!(known <= 40, "{known}");
}
