//! The ledger: terms, prices, and the calls that a dead process left open.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dgx_gateway_filter::Outcome;
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::facts::{Meter, ModelCall, Report, Usage, WorstCase};
use dgx_gateway_filter::money::{CallTarget, Spent, Terms};
use dgx_gateway_filter::services::{Pricing, ShownAmounts, ShownCost};
use dgx_gateway_store::{Store, StoreError};
use rust_decimal::Decimal;

use crate::config::Durability;
use crate::instance::Instance;
use crate::money::{Bill, CallCost, Source};
use crate::rows::{self, Settled, Status};

/// Bytes of text that make one estimated token.
const BYTES_PER_TOKEN: u64 = 4;
/// Euros per dollar of the rate that comes with the binary, in ten-thousandths, and its day.
const SHIPPED_RATE: (i64, &str) = (8546, "ecb-2026-05-15");
/// Share that is added for the exchange, in hundredths.
const FX_MARKUP: i64 = 5;

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
    instance: Instance,
    clock: Arc<dyn Clock>,
}

impl Ledger {
    /// Opens the tables and settles what dead processes left open.
    pub(crate) fn start(
        store: Arc<Store>,
        instances: &Path,
        durability: Durability,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LedgerError> {
        store.migrate("ledger", &rows::STEPS)?;
        let ledger = Self { store, durability, instance: Instance::register(instances)?, clock };
        ledger.settle_left_open(&Instance::alive(instances)?)?;
        Ok(ledger)
    }

    fn settle_left_open(&self, alive: &[String]) -> Result<(), LedgerError> {
        let (terms, now) = (self.terms(Decimal::ONE), self.now());
        let mut connection = self.store.maintenance()?;
        let transaction = connection.transaction().map_err(StoreError::from)?;
        let left = rows::left_open(&transaction).map_err(StoreError::from)?;
        let dead = left.iter().filter(|left| !alive.contains(&left.instance));
        let mut count = 0;
        for left in dead {
            let settled = Settled {
                status: Status::Aborted,
                resolved_model: None,
                backend_label: None,
                prompt_tokens: left.call.prompt_estimate,
                completion_tokens: 0,
                cached_tokens: 0,
                cost: CallCost::unknown(),
                settled_at: now,
            };
            rows::settle(&transaction, &left.call, &settled, &terms).map_err(StoreError::from)?;
            count += 1;
        }
        transaction.commit().map_err(StoreError::from)?;
        if count > 0 {
            tracing::warn!(calls = count, "calls that a process left open were settled as aborted");
        }
        Ok(())
    }

    /// Id of this process in the rows that it opens.
    pub(crate) fn instance(&self) -> &str {
        &self.instance.id
    }

    /// Milliseconds of UTC.
    pub(crate) fn now(&self) -> i64 {
        millis(self.clock.wall())
    }
}

/// What a call cost: as reported, or nothing at a backend of ours, or unknown.
pub(crate) fn cost(call: &ModelCall, report: &Report, terms: &Terms) -> CallCost {
    match report.cost_usd.as_deref().and_then(|text| text.parse::<Decimal>().ok()) {
        Some(usd) if !usd.is_sign_negative() => CallCost::of_dollars(Source::Upstream, usd, terms),
        _ if call.local => CallCost::free(Source::Zero),
        _ => CallCost::unknown(),
    }
}

/// Tokens of a call: as reported, else estimated from the prompt and from what was received.
pub(crate) fn tokens(call: &ModelCall, meter: &Meter) -> Usage {
    meter.reported().usage.unwrap_or_else(|| Usage {
        prompt_tokens: call.prompt_estimate,
        completion_tokens: meter.text_bytes().div_ceil(BYTES_PER_TOKEN),
        cached_tokens: 0,
    })
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
        Terms { rate: Decimal::new(rate, 4), rate_source: source.into(), fx_markup: Decimal::new(FX_MARKUP, 2), factor }
    }

    fn spent(&self, terms: &Terms, call: &ModelCall, meter: &Meter, outcome: &Outcome) -> Spent {
        let report = meter.reported();
        if status(outcome, true) == Status::Failed && report.cost_usd.is_none() {
            return Spent::default();
        }
        let usage = tokens(call, meter);
        let bill = Bill::of(&[cost(call, &report, terms)], terms);
        Spent { eur: bill.eur, tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens) }
    }

    fn worst_eur(&self, _terms: &Terms, targets: &[CallTarget], _worst: WorstCase) -> Option<Decimal> {
        targets.iter().all(|target| target.local).then_some(Decimal::ZERO)
    }

    fn bill(&self, terms: &Terms, call: &ModelCall, meter: &Meter) -> ShownCost {
        let bill = Bill::of(&[cost(call, &meter.reported(), terms)], terms);
        let amounts = bill.available.then(|| ShownAmounts {
            eur: format!("{:.2}", bill.eur),
            usd: format!("{:.2}", bill.usd),
            exchange_rate: terms.rate.to_string(),
            exchange_rate_source: terms.rate_source.to_string(),
        });
        ShownCost { source: bill.source.as_str(), amounts }
    }
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
