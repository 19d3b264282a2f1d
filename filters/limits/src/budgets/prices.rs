//! A limit in euros holds only where the most that a call may cost is known before it is made.

use std::time::SystemTime;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::budget::{BudgetLimit, BudgetMode, BudgetRead, BudgetsRead, RouteRead, RoutesRead};
use dgx_gateway_filter::glob;
use dgx_gateway_filter::money::{CallTarget, PricedModels};
use dgx_gateway_filter::views::Views;

/// Slugs that one problem names at most.
const NAMED: usize = 3;

/// The hard budgets in euros that count calls to a backend outside, at which the model has no price. A check over
/// tokens file, models file and price table.
#[must_use]
pub fn unpriced_budgets(views: &Views, now: SystemTime) -> Vec<Problem> {
    let (Some(budgets), Some(routes)) = (views.get::<BudgetsRead>(), views.get::<RoutesRead>()) else {
        return Vec::new();
    };
    let Some(priced) = views.get::<PricedModels>() else { return Vec::new() };
    let hard_in_euros =
        |read: &&BudgetRead| read.budget.mode == BudgetMode::Hard && matches!(read.budget.limit, BudgetLimit::Eur(_));
    budgets.0.iter().filter(hard_in_euros).filter_map(|read| problem(read, routes, priced, now)).collect()
}

fn problem(read: &BudgetRead, routes: &RoutesRead, priced: &PricedModels, now: SystemTime) -> Option<Problem> {
    let has_no_price = |target: &&CallTarget| !priced.is_bounded(target, now);
    let counted = routes.0.iter().filter(|route| counts(read, route));
    let without: Vec<(&RouteRead, &CallTarget)> =
        counted.filter_map(|route| Some((route, route.targets.iter().find(has_no_price)?))).collect();
    let (_, target) = without.first()?;
    let slugs: Vec<&str> = without.iter().take(NAMED).map(|(route, _)| &*route.slug).collect();
    let more = if without.len() > NAMED { " and others" } else { "" };
    let message = format!(
        "a hard limit in euros needs a price for every call outside that it counts: {}{more} may be served by the model {} of backend {}, which has no price that lasts",
        slugs.join(", "),
        target.upstream_model,
        target.backend_id,
    );
    let problem = Problem::at(format!("{}.models", read.key), message).in_file(&read.file);
    Some(Problem { line: read.line, ..problem })
}

fn counts(read: &BudgetRead, route: &RouteRead) -> bool {
    let known = route.tenants.as_ref().is_none_or(|tenants| tenants.iter().any(|tenant| **tenant == *read.tenant_id));
    let named = |pattern: &String| glob::matches(pattern, &route.slug) || glob::matches(pattern, &route.alias);
    known && read.budget.models.iter().any(named)
}
