//! The ledger: terms, prices, and the calls that a dead process left open.

use std::path::Path;
use std::sync::Arc;

use dgx_gateway_filter::Outcome;
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::facts::{Meter, ModelCall, WorstCase};
use dgx_gateway_filter::money::{CallTarget, Spent, Terms};
use dgx_gateway_filter::services::{Pricing, ShownAmounts, ShownCost};
use dgx_gateway_store::{Store, StoreError};
use rust_decimal::Decimal;

use crate::config::{Checked, Durability};
use crate::cost::Tally;
use crate::instance::Instance;
use crate::millis;
use crate::money::{Bill, CallCost};
use crate::prices::PriceTable;
use crate::rows::{self, LeftOpen, Opened, Settled, Status};

/// Euros per dollar of the rate that comes with the binary, in ten-thousandths, and its day.
const SHIPPED_RATE: (i64, &str) = (8546, "ecb-2026-05-15");

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("the directory of instances: {0}")]
    Instances(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The account of model calls.
pub struct Ledger {
    pub(crate) store: Arc<Store>,
    pub(crate) durability: Durability,
    pub(crate) prices: PriceTable,
    fx_markup: Decimal,
    instance: Instance,
    clock: Arc<dyn Clock>,
}

impl Ledger {
    /// Opens the tables and settles what dead processes left open.
    pub(crate) fn start(
        store: Arc<Store>,
        instances: &Path,
        checked: Checked,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LedgerError> {
        store.migrate("ledger", &rows::STEPS)?;
        let Checked { durability, prices, fx_markup } = checked;
        let ledger = Self { store, durability, prices, fx_markup, instance: Instance::register(instances)?, clock };
        ledger.settle_left_open(&Instance::alive(instances)?)?;
        Ok(ledger)
    }

    fn settle_left_open(&self, alive: &[String]) -> Result<(), LedgerError> {
        let mut connection = self.store.maintenance()?;
        let transaction = connection.transaction().map_err(StoreError::from)?;
        let left = rows::left_open(&transaction, &self.terms(Decimal::ONE)).map_err(StoreError::from)?;
        let dead = left.iter().filter(|left| !alive.contains(&left.instance));
        let settled: Vec<_> = dead.map(|LeftOpen { call, .. }| (call, self.abandoned(call))).collect();
        rows::settle_left_open(&transaction, &settled).map_err(StoreError::from)?;
        transaction.commit().map_err(StoreError::from)?;
        if !settled.is_empty() {
            tracing::warn!(calls = settled.len(), "calls that a process left open were settled as aborted");
        }
        Ok(())
    }

    /// What becomes of a call of which nobody knows how far it came: its prompt counts, and no answer.
    fn abandoned(&self, call: &Opened) -> Settled {
        let tally = Tally::of_prompt(call.prompt_estimate);
        let cost = |target: &CallTarget| self.prices.cost(target.into(), &tally, Status::Aborted, &call.terms);
        Settled {
            status: Status::Aborted,
            resolved_model: None,
            backend_label: None,
            usage: tally.usage,
            images: 0,
            seconds: Decimal::ZERO,
            cost: call.target.as_ref().map_or_else(CallCost::unknown, cost),
            settled_at: self.now(),
        }
    }

    /// Id of this process in the rows that it opens.
    pub(crate) fn instance(&self) -> &Arc<str> {
        &self.instance.id
    }

    /// Milliseconds of UTC.
    pub(crate) fn now(&self) -> i64 {
        millis(self.clock.wall())
    }
}

/// An upstream that breaks off after something of its answer has left counts like a client that leaves: it was paid.
pub(crate) fn status(outcome: &Outcome, made: bool) -> Status {
    match outcome {
        Outcome::Answered { status, code: None } if status.is_success() => Status::Ok,
        Outcome::Answered { .. } => Status::Failed,
        Outcome::ClientLeft | Outcome::Cut(_) | Outcome::Dropped if made => Status::Aborted,
        Outcome::ClientLeft | Outcome::Cut(_) | Outcome::Dropped => Status::Failed,
    }
}

impl Pricing for Ledger {
    fn terms(&self, factor: Decimal) -> Terms {
        let (rate, source) = SHIPPED_RATE;
        Terms {
            began: self.clock.wall(),
            rate: Decimal::new(rate, 4),
            rate_source: source.into(),
            fx_markup: self.fx_markup,
            factor,
        }
    }

    fn spent(&self, terms: &Terms, call: &ModelCall, meter: &Meter, outcome: &Outcome) -> Spent {
        let (status, tally) = (status(outcome, true), Tally::of(call, meter));
        if status == Status::Failed && tally.cost_usd.is_none() {
            return Spent::default();
        }
        let bill = Bill::of(&[self.prices.cost(call.into(), &tally, status, terms)], terms);
        Spent { eur: bill.eur, tokens: tally.usage.prompt_tokens.saturating_add(tally.usage.completion_tokens) }
    }

    fn worst_eur(&self, terms: &Terms, targets: &[CallTarget], worst: WorstCase) -> Option<Decimal> {
        self.prices.worst_eur(terms, targets, worst)
    }

    fn bill(&self, terms: &Terms, call: &ModelCall, meter: &Meter) -> ShownCost {
        let cost = self.prices.cost(call.into(), &Tally::of(call, meter), Status::Ok, terms);
        let bill = Bill::of(&[cost], terms);
        let amounts = bill.available.then(|| ShownAmounts {
            eur: format!("{:.2}", bill.eur),
            usd: format!("{:.2}", bill.usd),
            exchange_rate: terms.rate.to_string(),
            exchange_rate_source: terms.rate_source.to_string(),
        });
        ShownCost { source: bill.source.as_str(), amounts }
    }
}
