//! One call after the other through the filter.

use dgx_gateway_filter::ErrorCode;
use dgx_gateway_filter::budget::HeldByHardBudget;

use super::*;

const BAD: Outcome = Outcome::Answered { status: StatusCode::BAD_GATEWAY, code: Some(ErrorCode::UpstreamError) };

fn used(tokens: u64) -> Amounts {
    Amounts { cents: tokens, requests: 1, tokens }
}

#[tokio::test]
async fn a_call_holds_its_worst_case_and_settles_what_it_used() {
    let world = World::new(vec![hard("day", &["*"], BudgetLimit::Tokens(1000))]);
    let mut call = world.admitted("claude", 100).await;
    assert_eq!(world.day(), (Amounts::default(), Amounts { cents: 0, requests: 1, tokens: 100 }));
    made(&mut call, Some(30));
    call.finish(&OK);
    assert_eq!(world.day(), (used(30), Amounts::default()));
    assert_eq!(world.metric(r#"dgx_gateway_budget_used_ratio{budget="day",tenant="acme"}"#), Some(0.03));
}

#[tokio::test]
async fn a_hard_budget_refuses_what_does_not_fit_until_its_window_ends() {
    let world = World::new(vec![hard("cloud-day", &["claude*"], eur("1.00"))]);
    let _first = world.admitted("claude", 60).await;
    let refused = world.refused("claude", 41).await;
    assert_eq!((refused.code, refused.param.as_deref()), (ErrorCode::ModelQuotaExhausted, Some("model")));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(11 * 3600 + 1800)));
    for word in ["claude", "cloud-day", "acme", "1.00", "EUR", "http"] {
        assert!(!refused.message.contains(word), "{}", refused.message);
    }
    assert_eq!(world.metric(r#"dgx_gateway_rate_limited_total{kind="budget",tenant="acme"}"#), Some(1.0));
    let _exactly = world.admitted("claude", 40).await;
    world.admitted("gpt", 5000).await; // no budget counts it
}

#[tokio::test]
async fn a_worst_case_above_the_whole_budget_is_refused() {
    let world = World::new(vec![hard("day", &["*"], BudgetLimit::Tokens(1000))]);
    world.refused("m", 1001).await;
    world.admitted("m", 1000).await;
}

#[tokio::test]
async fn a_limit_of_zero_refuses_everything() {
    for limit in [eur("0"), BudgetLimit::Tokens(0), BudgetLimit::Requests(0)] {
        let world = World::new(vec![hard("none", &["*"], limit)]);
        world.refused("m", 10).await;
        let mut free = world.call_of("m", "m", 0, true, "m");
        assert_eq!(free.ready(&mut Rope::new()).await.unwrap_err().code, ErrorCode::ModelQuotaExhausted);
        assert_eq!(world.metric(r#"dgx_gateway_budget_used_ratio{budget="none",tenant="acme"}"#), Some(1.0));
    }
}

#[tokio::test]
async fn use_beyond_the_worst_case_counts_and_free_calls_pass_a_budget_in_euros_that_is_used_up() {
    let world = World::new(vec![hard("day", &["*"], eur("1"))]);
    let mut call = world.admitted("m", 100).await;
    made(&mut call, Some(250));
    call.finish(&OK);
    assert_eq!(world.day().0.cents, 250);
    world.refused("m", 1).await;
    let mut free = world.call_of("m", "m", 50, true, "m");
    free.ready(&mut Rope::new()).await.unwrap();
    made_at(&mut free, Some(50), true);
    free.finish(&OK);
    assert_eq!(world.day().0, Amounts { cents: 250, requests: 2, tokens: 300 });
}

#[tokio::test]
async fn what_nobody_can_bound_needs_something_to_be_left() {
    let world = World::new(vec![hard("t", &["*"], BudgetLimit::Tokens(10)), hard("e", &["*"], eur("0.10"))]);
    let recording = || world.call_of("stt", "stt", 0, false, "m");
    let mut first = recording();
    first.ready(&mut Rope::new()).await.unwrap();
    assert_eq!(world.day().1, Amounts { cents: 1, requests: 1, tokens: 1 });
    made(&mut first, Some(10));
    first.finish(&OK);
    assert_eq!(recording().ready(&mut Rope::new()).await.unwrap_err().code, ErrorCode::ModelQuotaExhausted);
}

#[tokio::test]
async fn a_call_without_a_price_is_refused_by_a_hard_budget_in_euros_alone() {
    let unpriced = |world: &World| world.call_of("m", "m", 10, false, "unpriced");
    let world = World::new(vec![hard("day", &["*"], eur("100"))]);
    assert_eq!(unpriced(&world).ready(&mut Rope::new()).await.unwrap_err().code, ErrorCode::ModelQuotaExhausted);
    let warns = budget("day", &["*"], Window::Day, eur("100"), BudgetMode::Warn);
    let world = World::new(vec![warns, hard("tokens", &["*"], BudgetLimit::Tokens(10))]);
    let mut call = unpriced(&world);
    call.ready(&mut Rope::new()).await.unwrap();
    assert_eq!(call.reply_headers()["spass-budget-warning"], "day");
}

#[tokio::test]
async fn a_budget_that_warns_lets_run_and_names_itself() {
    let warns = |id: &str, limit| budget(id, &["*"], Window::Hour, limit, BudgetMode::Warn);
    let world = World::new(vec![
        warns("calls", BudgetLimit::Requests(1)),
        warns("tokens", BudgetLimit::Tokens(100)),
        warns("large", BudgetLimit::Tokens(1000)),
    ]);
    let warning = |call: &ExchangeDriver| {
        call.reply_headers().get("spass-budget-warning").map(|ids| ids.to_str().unwrap().to_owned())
    };
    let first = world.admitted("m", 60).await;
    assert_eq!(warning(&first), None);
    let second = world.admitted("m", 60).await;
    assert_eq!(warning(&second).as_deref(), Some("calls, tokens"), "in the order of the file");
    assert!(second.facts().get::<HeldByHardBudget>().is_none());
    assert_eq!(world.metric(r#"dgx_gateway_rate_limited_total{kind="budget",tenant="acme"}"#), None);
}

#[tokio::test]
async fn the_slug_and_its_base_alias_count_and_a_hard_budget_is_stated() {
    let world = World::new(vec![
        hard("family", &["claude"], BudgetLimit::Requests(3)),
        hard("derived", &["*-cloud*"], BudgetLimit::Requests(2)),
    ]);
    let call = async |slug: &str, alias: &str| {
        let mut call = world.call_of(slug, alias, 10, false, "m");
        let admitted = call.ready(&mut Rope::new()).await.is_ok();
        made(&mut call, Some(1));
        if admitted {
            assert!(call.facts().get::<HeldByHardBudget>().is_some());
        }
        call.finish(&OK);
        admitted
    };
    assert!(call("claude-cloud-1", "claude").await);
    assert!(call("nano-cloud", "nano").await);
    assert!(!call("claude-cloud", "claude").await, "derived slugs share a budget of a glob");
    assert!(call("claude", "claude").await);
    assert!(call("acme-premium", "claude").await, "a tenant alias counts as its base alias");
    assert!(!call("claude", "claude").await);
    let mut other = world.call_of("gpt", "gpt", 10, false, "m");
    other.ready(&mut Rope::new()).await.unwrap();
    assert!(other.facts().get::<HeldByHardBudget>().is_none());
}

#[tokio::test]
async fn a_refusal_by_one_budget_reserves_on_none() {
    let world = World::new(vec![
        hard("wide", &["*"], BudgetLimit::Tokens(1000)),
        hard("narrow", &["m"], BudgetLimit::Tokens(10)),
    ]);
    world.refused("m", 11).await;
    assert_eq!(world.day(), (Amounts::default(), Amounts::default()));
    world.admitted("other", 1000).await;
}

#[tokio::test]
async fn every_end_settles_exactly_once() {
    for (attempts, reported, outcome, expected) in [
        (0, None, Outcome::ClientLeft, Amounts::default()),
        (0, None, BAD, Amounts::default()),
        (1, None, BAD, Amounts::default()),
        (1, Some(7), OK, used(7)),
        (1, Some(7), Outcome::ClientLeft, used(7)),
        (1, None, Outcome::ClientLeft, used(50)),
        (1, None, Outcome::Cut(ErrorCode::UpstreamError), used(50)),
        (1, None, Outcome::Dropped, used(50)),
        (2, Some(7), OK, used(7)),
    ] {
        let world = World::new(vec![hard("day", &["*"], BudgetLimit::Tokens(1000))]);
        let mut call = world.admitted("m", 100).await;
        (0..attempts).for_each(|_| made(&mut call, reported));
        call.finish(&outcome);
        call.finish(&outcome);
        drop(call);
        assert_eq!(world.day(), (expected, Amounts::default()), "{attempts} {reported:?} {outcome:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_without_its_end_gives_back_what_no_upstream_heard_of() {
    let world = World::new(vec![hard("day", &["*"], BudgetLimit::Tokens(1000))]);
    drop(world.admitted("m", 100).await);
    assert_eq!(world.day(), (Amounts::default(), Amounts::default()));
    let mut call = world.admitted("m", 100).await;
    made(&mut call, None);
    drop(call);
    assert_eq!(world.day(), (Amounts { cents: 0, requests: 1, tokens: 100 }, Amounts::default()));
}

#[tokio::test]
async fn a_tenant_without_budgets_is_not_looked_at() {
    let world = World::new(vec![hard("none", &["*"], BudgetLimit::Requests(0))]);
    let filter = Budgets::build((), &world.env).unwrap();
    // no other fact is needed either
    let mut call = ExchangeDriver::new(filter.begin(), Request::post("/").body(()).unwrap());
    call.ready(&mut Rope::new()).await.unwrap();
    call.finish(&OK);
}

#[tokio::test]
async fn a_missing_fact_ends_the_request() {
    let world = World::new(vec![hard("day", &["*"], BudgetLimit::Requests(1))]);
    let filter = Budgets::build((), &world.env).unwrap();
    let mut call = ExchangeDriver::new(filter.begin(), Request::post("/").body(()).unwrap());
    call.facts_mut().insert_shared(Arc::clone(&world.budgets));
    assert_eq!(call.ready(&mut Rope::new()).await.unwrap_err().code, ErrorCode::InternalError);
    let mut other = world
        .call("m", 1)
        .with_fact(dgx_gateway_filter::facts::Principal { tenant_id: "globex".into(), ..principal("app") });
    assert_eq!(other.ready(&mut Rope::new()).await.unwrap_err().code, ErrorCode::InternalError);
}
