//! The key `ledger`.

use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::services::Pricing;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::service::Ledger;

/// The service behind the key `ledger`.
#[derive(Debug)]
pub struct Service;

/// Top-level keys of this crate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The account of model calls.
    pub ledger: LedgerSettings,
}

/// The account of model calls.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerSettings {
    /// What waits for the disk. `auto` (default): calls that can cost money are on the disk before they are made;
    /// rows of free local calls follow within 50 ms. `strict`: all wait. `relaxed`: none waits. Where rows do not
    /// wait, a killed process may lose the last 50 ms of them; a stop signal loses none.
    pub durability: Option<Durability>,
}

/// What waits for the disk.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Calls that can cost money.
    #[default]
    Auto,
    /// None.
    Relaxed,
    /// All.
    Strict,
}

impl ServiceKind for Service {
    const NAME: &'static str = "ledger";
    const KEYS: &'static [&'static str] = &["ledger"];
    type Settings = Settings;
    type Checked = LedgerSettings;

    fn check(settings: Settings, _ambient: &Ambient) -> Result<LedgerSettings, Vec<Problem>> {
        Ok(settings.ledger)
    }

    fn build(checked: LedgerSettings, env: &mut BuildEnv) -> Result<(), BuildError> {
        let instances = env.data_dir.join("sqlite/instances");
        let ledger =
            Ledger::start(env.service()?, &instances, checked.durability.unwrap_or_default(), Arc::clone(&env.clock));
        let ledger = Arc::new(ledger.map_err(|error| BuildError::Part(Box::new(error)))?);
        env.provide::<Arc<dyn Pricing>>(Arc::new(Arc::clone(&ledger) as Arc<dyn Pricing>));
        env.provide(ledger);
        Ok(())
    }
}
