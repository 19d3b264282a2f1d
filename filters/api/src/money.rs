//! Money: what turns the cost of an upstream into an amount for a tenant. Decimal arithmetic only.

use std::sync::Arc;
use std::time::SystemTime;

use rust_decimal::Decimal;

use crate::glob::matches;

/// What turns dollars of an upstream into an amount for a tenant. A fact of the request: those of its start count,
/// whatever changes meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When the request began: the prices of this moment count.
    pub began: SystemTime,
    /// Euros per US dollar.
    pub rate: Decimal,
    /// Where the rate comes from, such as `ecb-2026-05-15`.
    pub rate_source: Arc<str>,
    /// Share that is added for the exchange, such as 0.05.
    pub fx_markup: Decimal,
    /// Factor of the tenant.
    pub factor: Decimal,
}

/// A model at a backend that may serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallTarget {
    /// Internal id of the backend, for price tables. Never shown to callers.
    pub backend_id: Arc<str>,
    /// Name of the model at the backend.
    pub upstream_model: Arc<str>,
    /// Whether the backend is one of ours, so that a call costs nothing unless a price says so.
    pub local: bool,
}

/// What a call that has ended counts against budgets: the numbers of its row in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Billed euros, whole cents.
    pub eur: Decimal,
    /// Tokens in both directions.
    pub tokens: u64,
}

/// Which models at which backends have a price: the price table without its prices. Offered as an
/// `Arc<PricedModels>` by the part that owns the table, for whoever must know before the first request whether a
/// limit in euros can hold. Pure: it knows no clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PricedModels(Vec<PricedModel>);

/// The models that one entry of the price table is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricedModel {
    /// Glob of backend ids.
    pub backend: String,
    /// Glob of names of models at the backend.
    pub model: String,
    /// When the price begins to count; `None`: it always has.
    pub from: Option<SystemTime>,
    /// When it counts no more; `None`: it always will.
    pub to: Option<SystemTime>,
}

impl PricedModels {
    /// A table with these entries.
    #[must_use]
    pub fn new(entries: Vec<PricedModel>) -> Self {
        Self(entries)
    }

    /// Whether a call to `target` has a price at every moment from `now` on. One that ends some day without another
    /// that follows is not enough, and neither is one that is still to come.
    #[must_use]
    pub fn always(&self, target: &CallTarget, now: SystemTime) -> bool {
        let concerns = |entry: &&PricedModel| {
            matches(&entry.backend, &target.backend_id) && matches(&entry.model, &target.upstream_model)
        };
        let mut entries: Vec<&PricedModel> = self.0.iter().filter(concerns).collect();
        entries.sort_by_key(|entry| entry.from); // those without a beginning come first
        let mut priced_until = now;
        for entry in entries {
            match (entry.from, entry.to) {
                (Some(from), _) if from > priced_until => return false,
                (_, None) => return true,
                (_, Some(to)) => priced_until = priced_until.max(to),
            }
        }
        false
    }

    /// Whether a call to `target` can be bounded in euros for good: it has a price at every moment from `now` on, or it
    /// costs nothing because the backend is one of ours and no price says otherwise.
    #[must_use]
    pub fn is_bounded(&self, target: &CallTarget, now: SystemTime) -> bool {
        target.local || self.always(target, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn day(day: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(24 * day)
    }

    fn entry(backend: &str, model: &str, from: Option<u64>, to: Option<u64>) -> PricedModel {
        PricedModel { backend: backend.into(), model: model.into(), from: from.map(day), to: to.map(day) }
    }

    fn target(local: bool) -> CallTarget {
        CallTarget { backend_id: "cloud".into(), upstream_model: "org/m".into(), local }
    }

    #[test]
    fn a_price_must_hold_without_end_and_without_a_gap() {
        for (entries, always) in [
            (vec![], false),
            (vec![entry("cloud", "org/m", None, None)], true),
            (vec![entry("cl*", "*", None, None)], true),
            (vec![entry("other", "*", None, None), entry("*", "org/n", None, None)], false),
            (vec![entry("*", "*", Some(10), None)], true),
            (vec![entry("*", "*", Some(11), None)], false),
            (vec![entry("*", "*", None, Some(20))], false),
            (vec![entry("*", "*", Some(20), None), entry("*", "*", None, Some(20))], true),
            (vec![entry("*", "*", Some(21), None), entry("*", "*", None, Some(20))], false),
            (
                vec![
                    entry("*", "*", None, Some(30)),
                    entry("*", "*", Some(5), Some(12)),
                    entry("*", "*", Some(30), None),
                ],
                true,
            ),
            (vec![entry("*", "*", None, Some(9)), entry("*", "*", Some(9), None)], true),
        ] {
            let priced = PricedModels::new(entries.clone());
            assert_eq!(priced.always(&target(false), day(10)), always, "{entries:?}");
            assert_eq!(priced.is_bounded(&target(false), day(10)), always, "{entries:?}");
            assert!(priced.is_bounded(&target(true), day(10)));
        }
    }
}
