//! All tenants with budgets.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::budget::{BudgetsOfTenants, HistoryError, TenantBudgets, UsageHistory};
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use schemars::JsonSchema;
use serde::Deserialize;

use super::gauge::BudgetGauge;
use super::shared::{self, SharedBudgets};
use super::tenant::Tenant;
use super::window::second_of;
use crate::state::Limits;

/// Knows the tenants with budgets and what they have used. Needs the ledger, so it stands behind it.
#[derive(Debug)]
pub struct BudgetService;

/// No keys: budgets stand in the tokens file, the store of shared ones in `limits`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NoSettings {}

/// The tenants with budgets of one configuration, and the state that all configurations share.
pub struct TenantsWithBudgets {
    tenants: HashMap<Arc<str>, Arc<Tenant>>,
    lasting: Arc<Lasting>,
}

/// What lives as long as the process.
pub(super) struct Lasting {
    /// The tenants of the configuration in use, with their budgets.
    pub(super) current: ArcSwap<Vec<(Arc<Tenant>, Arc<TenantBudgets>)>>,
    pub(super) shared: Option<SharedBudgets>,
    pub(super) clock: Arc<dyn Clock>,
}

impl ServiceKind for BudgetService {
    const NAME: &'static str = "budgets";
    const KEYS: &'static [&'static str] = &[];
    const TABLES: &'static [(&'static str, usize)] = &[("limits", shared::STEPS.len())];
    type Settings = NoSettings;
    type Checked = ();

    fn check(_settings: NoSettings, _ambient: &Ambient) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build((): (), env: &mut BuildEnv) -> Result<(), BuildError> {
        let history = env.service::<Arc<dyn UsageHistory>>()?;
        let listed = env.service::<BudgetsOfTenants>()?;
        let previous = env.previous::<TenantsWithBudgets>();
        let now = second_of(env.clock.wall());
        // who had budgets before goes on counting; who has none any more is forgotten
        let known = |id: &Arc<str>| Some(Arc::clone(previous.as_ref()?.tenants.get(id)?));
        let tenants = listed.0.iter().map(|(id, _)| {
            let tenant = match known(id) {
                Some(tenant) => tenant,
                None => Arc::new(Tenant::load(id, &**history, now)?),
            };
            Ok((Arc::clone(id), tenant))
        });
        let tenants: HashMap<_, _> =
            tenants.collect::<Result<_, HistoryError>>().map_err(|error| BuildError::Part(Box::new(error)))?;
        let lasting = match &previous {
            Some(previous) => Arc::clone(&previous.lasting),
            None => start(env)?,
        };
        let current =
            listed.0.iter().filter_map(|(id, budgets)| Some((Arc::clone(tenants.get(id)?), Arc::clone(budgets))));
        let (current, shown) = (Arc::new(current.collect()), Arc::clone(&lasting));
        match previous {
            Some(_) => env.when_in_use(move || shown.current.store(current)), // a reload may still fail
            None => shown.current.store(current),
        }
        env.provide(Arc::new(TenantsWithBudgets { tenants, lasting }));
        Ok(())
    }
}

/// What is made once: the gauge, and the tasks of a shared store.
fn start(env: &mut BuildEnv) -> Result<Arc<Lasting>, BuildError> {
    let limits = env.service::<Limits>()?;
    let (shared, tasks) = match &limits.store {
        Some(store) => {
            let node = shared::node(env)?;
            let (shared, waiting) = SharedBudgets::new(Arc::clone(store), node, Arc::clone(&env.clock), &env.metrics)?;
            (Some(shared.clone()), Some((shared, waiting)))
        }
        None => (None, None),
    };
    let lasting = Arc::new(Lasting { current: ArcSwap::default(), shared, clock: Arc::clone(&env.clock) });
    env.metrics.register(Box::new(BudgetGauge::new(Arc::clone(&lasting))?))?;
    if let Some((shared, waiting)) = tasks {
        env.spawn("budgets-settlements", shared.clone().settle_all(waiting));
        env.spawn("budgets-statements", shared.keep_stated(Arc::clone(&lasting)));
    }
    Ok(lasting)
}

impl TenantsWithBudgets {
    pub(super) fn tenant(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(id)
    }

    pub(super) fn shared(&self) -> Option<&SharedBudgets> {
        self.lasting.shared.as_ref()
    }
}

impl std::fmt::Debug for TenantsWithBudgets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantsWithBudgets").field("tenants", &self.tenants.len()).finish_non_exhaustive()
    }
}
