//! What budgets promise, driven through usage, tenant, filter and service.

mod calls;
mod history;
mod prices;
mod races;
mod reload;
mod windows;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::budget::{
    Amounts, Budget, BudgetLimit, BudgetMode, BudgetsOfTenants, HistoryError, TenantBudgets, UsageHistory, UsedBySlug,
    Window,
};
use dgx_gateway_filter::clock::ManualClock;
use dgx_gateway_filter::facts::{Meter, ModelCall, ModelChoice, Report, Usage as Tokens, WorstCase};
use dgx_gateway_filter::money::{CallTarget, Spent, Terms};
use dgx_gateway_filter::services::{Pricing, ShownCost};
use dgx_gateway_filter::{BuildEnv, FilterError, FilterKind, Outcome, Rope, ServiceKind};
use dgx_gateway_testkit::exchange::{ExchangeDriver, attempt_request};
use http::{Request, StatusCode};
use rust_decimal::Decimal;

use super::service::TenantsWithBudgets;
use super::tenant::Tenant;
use super::window::second_of;
use super::{BudgetService, Budgets};
use crate::testing::principal;

/// 2026-05-16T12:30:00Z.
pub(super) const NOON: u64 = 1_778_934_600;

pub(super) const OK: Outcome = Outcome::Answered { status: StatusCode::OK, code: None };

pub(super) fn wall(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

pub(super) fn budget(id: &str, models: &[&str], window: Window, limit: BudgetLimit, mode: BudgetMode) -> Budget {
    let models: Vec<String> = models.iter().map(|glob| (*glob).to_owned()).collect();
    Budget { id: id.into(), models: models.into(), window, limit, mode }
}

pub(crate) fn hard(id: &str, models: &[&str], limit: BudgetLimit) -> Budget {
    budget(id, models, Window::Day, limit, BudgetMode::Hard)
}

pub(super) fn eur(text: &str) -> BudgetLimit {
    BudgetLimit::Eur(text.parse().unwrap())
}

pub(crate) fn of(budgets: Vec<Budget>) -> Arc<TenantBudgets> {
    Arc::new(TenantBudgets(budgets))
}

/// Prices of its own: a cent per token at backends outside; what costs nothing is local; `unpriced` has no price.
struct CentPerToken;

fn tokens_of(meter: &Meter, call: &ModelCall) -> u64 {
    let reported = meter.reported().usage;
    reported.map_or(call.prompt_estimate, |usage| usage.prompt_tokens + usage.completion_tokens)
}

impl Pricing for CentPerToken {
    fn terms(&self, factor: Decimal) -> Terms {
        let rate_source = "ecb-2026-05-15".into();
        Terms { began: wall(NOON), rate: Decimal::ONE, rate_source, fx_markup: Decimal::ZERO, factor }
    }

    fn by_seconds(&self, _terms: &Terms, _call: &ModelCall) -> bool {
        false
    }

    fn bill(&self, _terms: &Terms, _call: &ModelCall, _meter: &Meter) -> ShownCost {
        ShownCost { source: "computed", amounts: None }
    }

    fn spent(&self, _terms: &Terms, call: &ModelCall, meter: &Meter, outcome: &Outcome) -> Spent {
        if matches!(outcome, Outcome::Answered { status, .. } if !status.is_success()) {
            return Spent::default();
        }
        let tokens = tokens_of(meter, call);
        let eur = if call.local { Decimal::ZERO } else { Decimal::new(i64::try_from(tokens).unwrap(), 2) };
        Spent { eur, tokens }
    }

    fn worst_eur(&self, _terms: &Terms, targets: &[CallTarget], worst: WorstCase) -> Option<Decimal> {
        let each = targets.iter().map(|target| match (target.local, &*target.upstream_model) {
            (true, _) => Some(Decimal::ZERO),
            (false, "unpriced") => None,
            (false, _) => Some(Decimal::new(i64::try_from(worst.tokens()).unwrap(), 2)),
        });
        each.collect::<Option<Vec<_>>>().map(|each| each.into_iter().max().unwrap_or_default())
    }
}

/// What the ledger would say, by tenant and start of the period.
#[derive(Default)]
pub(super) struct Past(pub(super) Mutex<HashMap<(String, SystemTime), Vec<UsedBySlug>>>);

impl UsageHistory for Past {
    fn used(&self, tenant: &str, from: SystemTime, to: SystemTime) -> Result<Vec<UsedBySlug>, HistoryError> {
        assert!(from < to);
        Ok(self.0.lock().unwrap().get(&(tenant.to_owned(), from)).cloned().unwrap_or_default())
    }
}

/// The service with the budgets of tenant `acme`, and a clock that stands still.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) env: BuildEnv,
    budgets: Arc<TenantBudgets>,
}

impl World {
    pub(super) fn new(budgets: Vec<Budget>) -> Self {
        Self::after(budgets, Past::default())
    }

    pub(super) fn after(budgets: Vec<Budget>, past: Past) -> Self {
        let clock = Arc::new(ManualClock::starting_at(wall(NOON)));
        let dir = std::path::PathBuf::from("unused");
        let mut env =
            BuildEnv::new(Arc::<ManualClock>::clone(&clock), Ambient::default(), dir, prometheus::Registry::new());
        let limits = crate::Service::check(serde_json::from_str("{}").unwrap(), &env.ambient).unwrap();
        crate::Service::build(limits, &mut env).unwrap();
        env.provide::<Arc<dyn Pricing>>(Arc::new(Arc::new(CentPerToken)));
        env.provide::<Arc<dyn UsageHistory>>(Arc::new(Arc::new(past)));
        let budgets = of(budgets);
        env.provide(Arc::new(BudgetsOfTenants(vec![("acme".into(), Arc::clone(&budgets))])));
        BudgetService::build((), &mut env).unwrap();
        Self { clock, env, budgets }
    }

    pub(super) fn tenant(&self) -> Arc<Tenant> {
        Arc::clone(self.env.service::<TenantsWithBudgets>().unwrap().tenant("acme").unwrap())
    }

    pub(super) fn now(&self) -> i64 {
        second_of(dgx_gateway_filter::clock::Clock::wall(&*self.clock))
    }

    /// What all calls of a day hold and have used.
    pub(super) fn day(&self) -> (Amounts, Amounts) {
        let row = self.tenant().state().usage.total(Window::Day, self.now());
        (row.used, row.reserved)
    }

    /// A call to a slug, at a backend outside; half of its tokens are read.
    pub(super) fn call(&self, slug: &str, tokens: u64) -> ExchangeDriver {
        self.call_of(slug, slug, tokens, false, "m")
    }

    pub(super) fn call_of(
        &self,
        slug: &str,
        alias: &str,
        tokens: u64,
        local: bool,
        upstream_model: &str,
    ) -> ExchangeDriver {
        let filter = Budgets::build((), &self.env).unwrap();
        let target = CallTarget { backend_id: "b".into(), upstream_model: upstream_model.into(), local };
        let choice = ModelChoice {
            operation: "chat",
            slug: slug.into(),
            alias: alias.into(),
            stream: false,
            prompt_estimate: tokens / 2,
            may_cost: !local,
            targets: [target].into(),
        };
        let worst =
            WorstCase { input_bytes: tokens / 2 * 2, output_tokens: tokens - tokens / 2, ..WorstCase::default() };
        let mut call = ExchangeDriver::new(filter.begin(), Request::post("/v1/chat/completions").body(()).unwrap())
            .with_fact(principal("app"))
            .with_fact(choice)
            .with_fact(worst)
            .with_fact(Terms {
                began: dgx_gateway_filter::clock::Clock::wall(&*self.clock),
                ..CentPerToken.terms(Decimal::ONE)
            });
        call.facts_mut().insert_shared(Arc::clone(&self.budgets));
        call
    }

    /// A call that was admitted.
    pub(super) async fn admitted(&self, slug: &str, tokens: u64) -> ExchangeDriver {
        let mut call = self.call(slug, tokens);
        call.ready(&mut Rope::new()).await.unwrap();
        call
    }

    pub(super) async fn refused(&self, slug: &str, tokens: u64) -> FilterError {
        self.call(slug, tokens).ready(&mut Rope::new()).await.unwrap_err()
    }

    /// A metric, by its series.
    pub(super) fn metric(&self, series: &str) -> Option<f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.env.metrics.gather()).unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}

/// An upstream hears of a call and reports so many tokens.
pub(super) fn made(call: &mut ExchangeDriver, tokens: Option<u64>) {
    made_at(call, tokens, false);
}

pub(super) fn made_at(call: &mut ExchangeDriver, tokens: Option<u64>, local: bool) {
    call.attempt(&mut attempt_request(0, "/v1/chat/completions", Rope::new())).unwrap();
    let prompt_estimate = call.facts().get::<ModelChoice>().unwrap().prompt_estimate;
    call.facts_mut().insert(ModelCall {
        resolved_model: "m".into(),
        backend_id: "b".into(),
        backend_label: "b".into(),
        upstream_model: "m".into(),
        local,
        prompt_estimate,
        recording_bytes: 0,
    });
    let meter = Meter::default();
    if let Some(tokens) = tokens {
        let usage = Tokens { prompt_tokens: tokens, ..Tokens::default() };
        meter.report(Report { usage: Some(usage), ..Report::default() });
    }
    call.facts_mut().insert(meter);
}
