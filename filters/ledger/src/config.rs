//! The keys `ledger`, `pricing_file` and `fx`.

use std::path::PathBuf;
use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::budget::UsageHistory;
use dgx_gateway_filter::certificates::Authorities;
use dgx_gateway_filter::services::Pricing;
use dgx_gateway_filter::views::Views;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::fx::{self, Rules, Source};
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
    /// PEM file with the authorities that the server of `url` is checked against, instead of those that the system trusts;
    /// needs an `https` URL. A change of it brings a reload. Default null.
    pub ca_file: Option<PathBuf>,
    /// File with the daily reference rates of the ECB (XML), kept up to date by something else. Default null. Set this or
    /// `url`.
    pub file: Option<PathBuf>,
    /// Age in days, counted from the day in the file, after which `dgx_gateway_fx_stale` is 1; 1 to 36500. Default 7.
    pub max_age_days: Option<u32>,
    /// Share that is added to amounts in dollars for the exchange, a decimal from 0 to 1. Default `0.05`. `FX_MARKUP`
    /// takes precedence.
    pub markup: Option<Share>,
    /// Hours between two looks for a newer rate, 1 to 168. Default 12.
    pub refresh_hours: Option<u32>,
    /// Where the daily reference rates of the ECB are fetched from, `http://` or `https://`. Default null: the rate in use
    /// stays, at first that of the binary.
    pub url: Option<String>,
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
    pub(crate) fx: Rules,
}

/// The account of model calls.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerSettings {
    /// What waits for the disk. `auto` (default): calls that can cost money or count against a hard budget
    /// are on the disk before they are made; rows of other calls follow within 50 ms. `strict`: all wait. `relaxed`: none waits. Where rows do not
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
    const TABLES: &'static [(&'static str, usize)] = &[("ledger", crate::rows::STEPS.len())];
    type Settings = Settings;
    type Checked = Checked;

    fn check(settings: Settings, ambient: &Ambient) -> Result<Checked, Vec<Problem>> {
        let mut problems = Vec::new();
        let pricing_file = settings.pricing_file.unwrap_or_else(|| PathBuf::from(PRICING_FILE));
        let prices = prices::file::load(&pricing_file, ambient, &mut problems);
        let fx_markup = markup(settings.fx.markup.as_ref(), ambient, &mut problems);
        let fx = rules(settings.fx, ambient, &mut problems);
        let durability = settings.ledger.durability.unwrap_or_default();
        if problems.is_empty() { Ok(Checked { durability, prices, fx_markup, fx }) } else { Err(problems) }
    }

    fn view(checked: &Checked, views: &mut Views) {
        views.offer(checked.prices.priced_models());
    }

    fn build(checked: Checked, env: &mut BuildEnv) -> Result<(), BuildError> {
        let priced = checked.prices.priced_models();
        let ledger = Arc::new(Ledger::build(checked, env)?);
        env.provide(Arc::new(priced));
        env.provide::<Arc<dyn UsageHistory>>(Arc::new(Arc::clone(&ledger) as Arc<dyn UsageHistory>));
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

/// Where rates come from, and how old they may be.
fn rules(file: FxSettings, ambient: &Ambient, problems: &mut Vec<Problem>) -> Rules {
    let mut in_range = |key: &str, value: Option<u32>, default: u32, most: u32| {
        let value = value.unwrap_or(default);
        if !(1..=most).contains(&value) {
            problems.push(Problem::at(key, format!("must be 1 to {most}")));
        }
        value
    };
    let refresh_hours = in_range("fx.refresh_hours", file.refresh_hours, 12, 168);
    let max_age_days = in_range("fx.max_age_days", file.max_age_days, 7, 36_500);
    let secure = file.url.as_ref().is_some_and(|url| url.starts_with("https://"));
    let authorities = match &file.ca_file {
        Some(_) if !secure => {
            problems.push(Problem::at("fx.ca_file", "needs an fx.url that begins with https://"));
            None
        }
        Some(path) => Authorities::load(path, "fx.ca_file", ambient, problems),
        None => None,
    };
    let source = match (file.url, file.file) {
        (Some(_), Some(_)) => {
            problems.push(Problem::at("fx.url", "set this or fx.file, not both"));
            None
        }
        (Some(url), None) => {
            if !fx::is_url(&url) {
                problems.push(Problem::at("fx.url", "must be a URL that begins with http:// or https://"));
            }
            Some(Source::Url(url, authorities))
        }
        (None, file) => file.map(Source::File),
    };
    Rules { source, refresh_hours, max_age_days }
}
