//! How much of each budget is used: worked out when somebody looks, so a window that ends counts as empty at once and
//! a budget that is gone has no series.

use std::sync::Arc;

use dgx_gateway_filter::budget::Budget;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};

use super::limit::units;
use super::service::Lasting;
use super::usage::each;
use super::window::second_of;

/// The gauge `dgx_gateway_budget_used_ratio`. Tenants and budgets come from the tokens file, so the series are as few as
/// those.
pub(super) struct BudgetGauge {
    lasting: Arc<Lasting>,
    shape: GaugeVec,
}

impl BudgetGauge {
    pub(super) fn new(lasting: Arc<Lasting>) -> Result<Self, prometheus::Error> {
        Ok(Self { lasting, shape: gauge()? })
    }
}

fn gauge() -> Result<GaugeVec, prometheus::Error> {
    let opts = Opts::new(
        "dgx_gateway_budget_used_ratio",
        "Share of a budget that is used in its current window; above 1 where calls used more.",
    );
    GaugeVec::new(opts, &["tenant", "budget"])
}

impl Collector for BudgetGauge {
    fn desc(&self) -> Vec<&Desc> {
        self.shape.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(gauge) = gauge() else { return Vec::new() };
        let now = second_of(self.lasting.clock.wall());
        for (tenant, budgets) in self.lasting.current.load().iter() {
            let mut state = tenant.state();
            state.adopt(&tenant.id, budgets);
            for (index, budget) in each(budgets, u64::MAX) {
                let (unit, limit) = units(budget.limit);
                let start = state.usage.period(budget.window, now).start;
                let (used, _) = state.usage.taken(index, unit, budget.window, start);
                let used = used.saturating_add(state.names.elsewhere(index, start));
                gauge.with_label_values(&[&*tenant.id, id_of(budget)]).set(ratio(used, limit));
            }
        }
        gauge.collect()
    }
}

fn id_of(budget: &Budget) -> &str {
    &budget.id
}

/// For people: not exact for the largest numbers. A limit of 0 is used up.
#[expect(clippy::cast_precision_loss, reason = "a ratio that is looked at, not reckoned with")]
fn ratio(used: u64, limit: u64) -> f64 {
    if limit == 0 { 1.0 } else { used as f64 / limit as f64 }
}
