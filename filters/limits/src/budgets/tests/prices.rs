//! A hard limit in euros needs prices.

use dgx_gateway_filter::budget::{BudgetRead, BudgetsRead, RouteRead, RoutesRead};
use dgx_gateway_filter::money::{PricedModel, PricedModels};
use dgx_gateway_filter::views::Views;

use super::*;
use crate::budgets::unpriced_budgets;

fn target(backend: &str, model: &str) -> CallTarget {
    CallTarget { backend_id: backend.into(), upstream_model: model.into(), local: backend == "local" }
}

fn route(slug: &str, alias: &str, targets: Vec<CallTarget>) -> RouteRead {
    RouteRead { slug: slug.into(), alias: alias.into(), tenants: None, targets }
}

fn views(budgets: Vec<Budget>, priced: &[&str]) -> Views {
    let mut views = Views::default();
    let read = |(index, budget): (usize, Budget)| BudgetRead {
        tenant_id: "acme".into(),
        budget,
        file: "auth/tokens.yaml".into(),
        line: Some(7),
        key: format!("tenants[0].budgets[{index}]"),
    };
    views.offer(BudgetsRead(budgets.into_iter().enumerate().map(read).collect()));
    let other =
        RouteRead { tenants: Some(vec!["globex".into()]), ..route("secret", "secret", vec![target("cloud", "s")]) };
    views.offer(RoutesRead(vec![
        route("scout", "scout", vec![target("local", "scout"), target("cloud", "org/scout")]),
        route("scout-local", "scout", vec![target("local", "scout")]),
        route("claude", "claude", vec![target("cloud", "org/claude")]),
        other,
    ]));
    let entry = |model: &&str| PricedModel { backend: "cloud".into(), model: (*model).into(), from: None, to: None };
    views.offer(PricedModels::new(priced.iter().map(entry).collect()));
    views
}

fn problems(budgets: Vec<Budget>, priced: &[&str]) -> Vec<String> {
    let found = unpriced_budgets(&views(budgets, priced), wall(NOON));
    assert!(found.iter().all(|problem| problem.file.is_some() && problem.line == Some(7)));
    found.into_iter().map(|problem| problem.to_string()).collect()
}

#[test]
fn a_hard_budget_in_euros_over_a_model_without_a_price_is_told_with_its_place() {
    let told = problems(vec![hard("ok", &["scout-local"], eur("1")), hard("day", &["*"], eur("1"))], &["org/scout"]);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("auth/tokens.yaml:7: tenants[0].budgets[1].models: "), "{}", told[0]);
    assert!(told[0].contains("claude") && told[0].contains("org/claude") && told[0].contains("backend cloud"));
    assert!(!told[0].contains("secret"), "not an alias of another tenant: {}", told[0]);
}

#[test]
fn the_base_alias_counts_as_the_slug_does() {
    assert_eq!(problems(vec![hard("day", &["scout"], eur("1"))], &["org/claude"]).len(), 1);
    assert_eq!(problems(vec![hard("day", &["scout"], eur("1"))], &["org/scout"]), Vec::<String>::new());
}

#[test]
fn other_budgets_need_no_price() {
    let warns = budget("w", &["*"], Window::Day, eur("1"), BudgetMode::Warn);
    let others = vec![warns, hard("t", &["*"], BudgetLimit::Tokens(1)), hard("r", &["*"], BudgetLimit::Requests(1))];
    assert_eq!(problems(others, &[]), Vec::<String>::new());
}

#[test]
fn without_a_view_of_each_file_nothing_is_told() {
    assert!(unpriced_budgets(&Views::default(), wall(NOON)).is_empty());
}
