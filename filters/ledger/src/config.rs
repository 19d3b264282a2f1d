//! The keys `ledger`, `pricing_file` and `fx`.

use std::path::PathBuf;
use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::services::Pricing;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::prices::{self, PriceTable};
use crate::service::Ledger;

/// Default of `pricing_file`.
const PRICING_FILE: &str = "conf/pricing.yaml";
/// Default of `fx.markup`.
const DEFAULT_MARKUP: Decimal = Decimal::from_parts(5, 0, 0, false, 2);

/// The service behind the key `ledger`.
#[derive(Debug)]
pub struct Service;

/// Top-level keys of this crate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The account of model calls.
    pub ledger: LedgerSettings,
    /// The price table. Default `conf/pricing.yaml`; a missing file is an empty table.
    pub pricing_file: Option<PathBuf>,
    /// From dollars to euros.
    pub fx: FxSettings,
}

/// From dollars to euros.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FxSettings {
    /// Share that is added to amounts in dollars for the exchange, a decimal from 0 to 1. Default `0.05`. `FX_MARKUP`
    /// takes precedence.
    pub markup: Option<Share>,
}

/// A share as it is written: decimal text or a number.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Share {
    /// A number; its shortest text counts.
    Number(f64),
    /// Decimal text.
    Text(String),
}

/// Checked settings.
pub struct Checked {
    pub(crate) durability: Durability,
    pub(crate) prices: PriceTable,
    pub(crate) fx_markup: Decimal,
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
    const KEYS: &'static [&'static str] = &["fx", "ledger", "pricing_file"];
    type Settings = Settings;
    type Checked = Checked;

    fn check(settings: Settings, ambient: &Ambient) -> Result<Checked, Vec<Problem>> {
        let mut problems = Vec::new();
        let pricing_file = settings.pricing_file.unwrap_or_else(|| PathBuf::from(PRICING_FILE));
        let prices = prices::file::load(&pricing_file, ambient, &mut problems);
        let fx_markup = markup(settings.fx.markup.as_ref(), ambient, &mut problems);
        let durability = settings.ledger.durability.unwrap_or_default();
        if problems.is_empty() { Ok(Checked { durability, prices, fx_markup }) } else { Err(problems) }
    }

    fn build(checked: Checked, env: &mut BuildEnv) -> Result<(), BuildError> {
        let instances = env.data_dir.join("sqlite/instances");
        let priced = checked.prices.priced_models();
        let ledger = Ledger::start(env.service()?, &instances, checked, Arc::clone(&env.clock));
        let ledger = Arc::new(ledger.map_err(|error| BuildError::Part(Box::new(error)))?);
        env.provide(Arc::new(priced));
        env.provide::<Arc<dyn Pricing>>(Arc::new(Arc::clone(&ledger) as Arc<dyn Pricing>));
        env.provide(ledger);
        Ok(())
    }
}

/// The share that is added for the exchange, from the environment, the file or by default.
fn markup(file: Option<&Share>, ambient: &Ambient, problems: &mut Vec<Problem>) -> Decimal {
    let variable = ambient.var("FX_MARKUP");
    let text = match (variable, file) {
        (Some(text), _) => text.to_owned(),
        (None, Some(Share::Text(text))) => text.clone(),
        (None, Some(Share::Number(number))) => number.to_string(),
        (None, None) => return DEFAULT_MARKUP,
    };
    let share = Decimal::from_str_exact(&text).ok().filter(|share| (Decimal::ZERO..=Decimal::ONE).contains(share));
    share.unwrap_or_else(|| {
        let key = if variable.is_some() { "FX_MARKUP" } else { "fx.markup" };
        problems.push(Problem::at(key, "must be a decimal from 0 to 1"));
        DEFAULT_MARKUP
    })
}
