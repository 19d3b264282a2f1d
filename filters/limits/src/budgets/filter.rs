//! The filter kind `limits-budgets`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use dgx_gateway_filter::budget::{Amounts, BudgetLimit, HeldByHardBudget, TenantBudgets};
use dgx_gateway_filter::facts::{Meter, ModelCall, ModelChoice, Principal, WorstCase};
use dgx_gateway_filter::money::Terms;
use dgx_gateway_filter::services::Pricing;
use dgx_gateway_filter::upstream::AttemptRequest;
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, FinishCx, Flow, Outcome,
    Pending, Problem, Rope,
};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::limit::cents_up;
use super::service::TenantsWithBudgets;
use super::tenant::{Granted, Reservation, Tenant};
use super::usage::{Answer, Call, Share, each};
use super::window::{moment, second_of};
use crate::buckets::store_is_down;
use crate::config::StoreFailure;
use crate::events::{LimitKind, RateLimited};
use crate::state::Limits;

const WARNING: HeaderName = HeaderName::from_static("spass-budget-warning");

/// Filter kind `limits-budgets`: a model call reserves its worst case on all budgets of its tenant that count it, and
/// settles what it used when it ends, however it ends.
#[derive(Debug)]
pub struct Budgets;

/// The entry takes no parameters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetsConfig {}

impl FilterKind for Budgets {
    const NAME: &'static str = "limits-budgets";
    const AFTER: &'static [&'static str] = &["identity", "models"];
    type Config = BudgetsConfig;
    type Checked = ();

    fn check(_raw: BudgetsConfig) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build((): (), env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        let pricing = Arc::clone(&*env.service::<Arc<dyn Pricing>>()?);
        Ok(Arc::new(BudgetsFilter(Arc::new(Keeper { limits: env.service()?, tenants: env.service()?, pricing }))))
    }
}

/// What one route entry works with.
struct Keeper {
    limits: Arc<Limits>,
    tenants: Arc<TenantsWithBudgets>,
    pricing: Arc<dyn Pricing>,
}

struct BudgetsFilter(Arc<Keeper>);

impl Filter for BudgetsFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(BudgetsExchange { keeper: Arc::clone(&self.0), reservation: None })
    }
}

struct BudgetsExchange {
    keeper: Arc<Keeper>,
    reservation: Option<Reservation>,
}

#[async_trait]
impl Exchange for BudgetsExchange {
    async fn request_ready(&mut self, _body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let Some(budgets) = cx.facts.shared::<TenantBudgets>() else { return Ok(Flow::Continue) };
        let missing = |what| FilterError::internal(what);
        let principal = cx.facts.get::<Principal>().ok_or_else(|| missing("no principal was stated"))?;
        let choice = cx.facts.get::<ModelChoice>().ok_or_else(|| missing("no model was chosen"))?;
        let worst = *cx.facts.get::<WorstCase>().ok_or_else(|| missing("no worst case was stated"))?;
        let terms = cx.facts.get::<Terms>().ok_or_else(|| missing("no terms were stated"))?;
        let tenant = self.keeper.tenants.tenant(&principal.tenant_id);
        let tenant = tenant.ok_or_else(|| missing("the budgets of the tenant were not loaded"))?;
        let now = self.keeper.limits.clock.wall();
        let (worst, priced) = self.keeper.worst(&budgets, choice, worst, terms);
        let call = Call { slug: &choice.slug, alias: &choice.alias, worst, priced, at: second_of(terms.began) };
        match self.keeper.reserve(tenant, &budgets, &call, &cx.request.route).await {
            Ok(Granted { answer, reservation }) => {
                self.reservation = Some(reservation);
                if let Some(warning) = warning(&budgets, answer.exceeded) {
                    cx.reply_headers.insert(WARNING, warning);
                }
                if answer.hard {
                    cx.facts.insert(HeldByHardBudget);
                }
                Ok(Flow::Continue)
            }
            Err(NotGranted::UsedUp(until)) => {
                self.keeper.limits.refusals.record(&RateLimited {
                    kind: LimitKind::Budget,
                    tenant: Some(&principal.tenant_id),
                    token: Some(&principal.token_id),
                    request_id: Some(&cx.request.id),
                });
                Err(used_up(now, until))
            }
            Err(NotGranted::StoreDown) => Err(store_is_down()),
        }
    }

    fn attempt(&mut self, _attempt: &mut AttemptRequest, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        if let Some(reservation) = &mut self.reservation {
            reservation.try_now();
        }
        Ok(())
    }

    /// Before the last of the answer leaves, so that the next request of the same client finds what this one left.
    /// The ledger, which stands behind this filter, has settled the row of the call by then, with the same numbers.
    fn complete(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) -> Option<Pending> {
        self.settle(outcome, cx);
        None
    }

    fn finish(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) {
        self.settle(outcome, cx);
    }
}

impl BudgetsExchange {
    fn settle(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) {
        let Some(reservation) = self.reservation.take() else { return };
        let used = if reservation.was_tried() { self.keeper.used(outcome, cx) } else { Amounts::default() };
        reservation.settle(used);
    }
}

/// Why a call may not be made.
enum NotGranted {
    /// A hard budget has too little left until this second.
    UsedUp(i64),
    /// Budgets are shared, their store is down, and the route is closed then.
    StoreDown,
}

impl From<Answer> for NotGranted {
    fn from(answer: Answer) -> Self {
        Self::UsedUp(answer.refused_until.unwrap_or_default())
    }
}

impl Keeper {
    /// The most that a call may use, and whether what it may cost is known. A call whose tokens nobody knows
    /// beforehand, a recording, needs one at least, and one that may cost something a cent: so a budget that is used
    /// up refuses it.
    fn worst(&self, budgets: &TenantBudgets, choice: &ModelChoice, worst: WorstCase, terms: &Terms) -> (Amounts, bool) {
        let mut amounts = Amounts { cents: 0, requests: 1, tokens: worst.tokens().max(1) };
        let in_euros = budgets.0.iter().any(|budget| matches!(budget.limit, BudgetLimit::Eur(_)));
        if !in_euros {
            return (amounts, true);
        }
        let Some(eur) = self.pricing.worst_eur(terms, &choice.targets, worst) else { return (amounts, false) };
        amounts.cents = cents_up(eur).max(u64::from(choice.may_cost));
        (amounts, true)
    }

    async fn reserve(
        &self,
        tenant: &Arc<Tenant>,
        budgets: &Arc<TenantBudgets>,
        call: &Call<'_>,
        route: &str,
    ) -> Result<Granted, NotGranted> {
        let Some(shared) = self.tenants.shared() else { return Ok(tenant.reserve(budgets, call, Share::ALL)?) };
        if let Ok(answer) = shared.reserve(tenant, budgets, call).await {
            return Ok(answer?);
        }
        let settings = self.limits.settings();
        match settings.on_store_failure.of(route) {
            StoreFailure::Closed => Err(NotGranted::StoreDown),
            StoreFailure::LocalShare => {
                Ok(shared.reserve_without_store(tenant, budgets, call, Share(settings.expected_replicas))?)
            }
        }
    }

    /// What a call used that an upstream has heard of: the numbers of its row in the ledger.
    fn used(&self, outcome: &Outcome, cx: &FinishCx<'_>) -> Amounts {
        let (Some(call), Some(terms)) = (cx.facts.get::<ModelCall>(), cx.facts.get::<Terms>()) else {
            return Amounts::default();
        };
        let unused = Meter::default();
        let spent = self.pricing.spent(terms, call, cx.facts.get::<Meter>().unwrap_or(&unused), outcome);
        let cents = cents_up(spent.eur);
        let delivered = match outcome {
            Outcome::Answered { status, code } => status.is_success() && code.is_none(),
            Outcome::ClientLeft | Outcome::Cut(_) | Outcome::Dropped => true,
        };
        Amounts { cents, requests: u64::from(delivered || cents > 0), tokens: spent.tokens }
    }
}

/// The ids of budgets of mode `warn` that have too little left, in the order of the file.
fn warning(budgets: &TenantBudgets, exceeded: u64) -> Option<HeaderValue> {
    if exceeded == 0 {
        return None;
    }
    let ids: Vec<&str> = each(budgets, exceeded).map(|(_, budget)| &*budget.id).collect();
    HeaderValue::from_str(&ids.join(", ")).ok()
}

fn used_up(now: SystemTime, until: i64) -> FilterError {
    let wait = moment(until).duration_since(now).unwrap_or(Duration::ZERO);
    let message = "The quota for this model is used up. Use another model, or wait for the time in Retry-After.";
    FilterError::policy(ErrorCode::ModelQuotaExhausted, message).param("model").retry_after(wait)
}
