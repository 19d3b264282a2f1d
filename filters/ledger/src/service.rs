//! The ledger: terms, prices, and the calls that a dead process left open.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use dgx_gateway_filter::budget::{HistoryError, UsageHistory, UsedBySlug};
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::facts::{Meter, ModelCall, Principal, WorstCase};
use dgx_gateway_filter::money::{CallTarget, Spent, Terms};
use dgx_gateway_filter::services::{Audit, Pricing, Pseudonyms, ShownAmounts, ShownCost};
use dgx_gateway_filter::{BuildEnv, BuildError, Outcome};
use dgx_gateway_store::{Group, Store, StoreError};
use rust_decimal::Decimal;

use crate::config::{Checked, Durability};
use crate::cost::Tally;
use crate::events::Metrics;
use crate::fx::{self, Exchange, Gauges, Rules};
use crate::instance::Instance;
use crate::millis;
use crate::money::{Bill, CallCost};
use crate::prices::PriceTable;
use crate::report::{Reports, hours};
use crate::rows::{self, LeftOpen, Opened, Settled, Status};

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
    pub(crate) lasting: Arc<Lasting>,
    pub(crate) durability: Durability,
    pub(crate) prices: PriceTable,
    fx_markup: Decimal,
    pub(crate) audit: Option<Arc<dyn Audit>>,
    pub(crate) pseudonyms: Option<Arc<dyn Pseudonyms>>,
}

/// What a reload leaves as it is.
pub(crate) struct Lasting {
    pub store: Arc<Store>,
    pub metrics: Metrics,
    pub exchange: Arc<Exchange>,
    pub reports: Arc<Reports>,
    instance: Instance,
    clock: Arc<dyn Clock>,
}

impl Ledger {
    /// Takes over from the generation before, or opens the tables and settles what dead processes left open.
    pub(crate) fn build(checked: Checked, env: &mut BuildEnv) -> Result<Self, BuildError> {
        let Checked { durability, prices, fx_markup, fx } = checked;
        let previous = env.previous::<Self>().map(|previous| Arc::clone(&previous.lasting));
        let is_first = previous.is_none();
        let lasting = match previous {
            Some(lasting) => {
                let exchange = Arc::clone(&lasting.exchange);
                env.when_in_use(move || exchange.follow(fx));
                lasting
            }
            None => Arc::new(Lasting::open(fx, env)?),
        };
        let ledger = Self {
            lasting,
            durability,
            prices,
            fx_markup,
            audit: env.service::<Arc<dyn Audit>>().ok().map(|audit| Arc::clone(&*audit)),
            pseudonyms: env.service::<Arc<dyn Pseudonyms>>().ok().map(|pseudonyms| Arc::clone(&*pseudonyms)),
        };
        if is_first {
            let alive = Instance::alive(&instances(env)).map_err(LedgerError::from).map_err(part)?;
            ledger.settle_left_open(&alive).map_err(part)?;
        }
        Ok(ledger)
    }

    fn settle_left_open(&self, alive: &[String]) -> Result<(), LedgerError> {
        let mut connection = self.lasting.store.maintenance()?;
        let transaction = connection.transaction().map_err(StoreError::from)?;
        hours::sum_up(&transaction).map_err(StoreError::from)?;
        let left = rows::left_open(&transaction, &self.terms(Decimal::ONE)).map_err(StoreError::from)?;
        let dead = left.iter().filter(|left| !alive.contains(&left.instance));
        let settled: Vec<_> = dead.map(|LeftOpen { call, .. }| (call, self.abandoned(call))).collect();
        let group = Group::new(&transaction);
        rows::settle_left_open(&group, &settled).and_then(|()| group.end()).map_err(StoreError::from)?;
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
        &self.lasting.instance.id
    }

    /// Milliseconds of UTC.
    pub(crate) fn now(&self) -> i64 {
        millis(self.lasting.clock.wall())
    }

    /// The user as the ledger holds it: a pseudonym where the tenant wants that, and nobody where there is none.
    pub(crate) fn user(&self, principal: &Principal) -> Option<String> {
        let user = principal.user_id.as_deref()?;
        if !principal.pseudonymous {
            return Some(user.to_owned());
        }
        self.pseudonyms.as_ref()?.pseudonym(&principal.tenant_id, user)
    }
}

impl Lasting {
    fn open(fx: Rules, env: &mut BuildEnv) -> Result<Self, BuildError> {
        let store = env.service::<Store>()?;
        store.migrate("ledger", &rows::STEPS).map_err(part)?;
        let exchange = Arc::new(Exchange::open(env.data_dir.join("fx"), fx, Arc::clone(&env.clock)));
        Gauges::register(&env.metrics, &exchange)?;
        env.spawn("exchange rate", fx::watch(Arc::clone(&exchange)));
        Ok(Self {
            metrics: Metrics::register(&env.metrics)?,
            reports: Arc::new(Reports::new(Arc::clone(&store))),
            exchange,
            instance: Instance::register(&instances(env)).map_err(LedgerError::from).map_err(part)?,
            clock: Arc::clone(&env.clock),
            store,
        })
    }
}

/// The directory of processes that are alive.
fn instances(env: &BuildEnv) -> PathBuf {
    env.data_dir.join("sqlite/instances")
}

fn part(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Part(Box::new(error))
}

/// How a call ended; `meter` is there once it was made. An upstream that breaks off after something of its answer has
/// left counts like a client that leaves: it was paid. One that fails behind a head which was sent early has
/// delivered nothing.
pub(crate) fn status(outcome: &Outcome, meter: Option<&Meter>) -> Status {
    match outcome {
        Outcome::Answered { status, code: None } if status.is_success() => Status::Ok,
        Outcome::Answered { .. } => Status::Failed,
        Outcome::ClientLeft | Outcome::Dropped if meter.is_some() => Status::Aborted,
        Outcome::Cut(_) if meter.is_some_and(Meter::begun) => Status::Aborted,
        Outcome::ClientLeft | Outcome::Cut(_) | Outcome::Dropped => Status::Failed,
    }
}

impl UsageHistory for Ledger {
    fn used(&self, tenant_id: &str, from: SystemTime, to: SystemTime) -> Result<Vec<UsedBySlug>, HistoryError> {
        let read = || {
            let reader = self.lasting.store.reader()?;
            Ok::<_, StoreError>(rows::used(&reader, tenant_id, millis(from), millis(to))?)
        };
        read().map_err(|error| HistoryError(Box::new(error)))
    }
}

impl Pricing for Ledger {
    fn terms(&self, factor: Decimal) -> Terms {
        let rate = self.lasting.exchange.rate();
        Terms {
            began: self.lasting.clock.wall(),
            rate: rate.eur_per_usd,
            rate_source: Arc::clone(&rate.source),
            fx_markup: self.fx_markup,
            factor,
        }
    }

    fn spent(&self, terms: &Terms, call: &ModelCall, meter: &Meter, outcome: &Outcome) -> Spent {
        let (status, tally) = (status(outcome, Some(meter)), Tally::of(call, meter));
        if status == Status::Failed && tally.cost_usd.is_none() {
            return Spent::default();
        }
        let bill = Bill::of(&[self.prices.cost(call.into(), &tally, status, terms)], terms);
        Spent { eur: bill.eur, tokens: tally.usage.prompt_tokens.saturating_add(tally.usage.completion_tokens) }
    }

    fn worst_eur(&self, terms: &Terms, targets: &[CallTarget], worst: WorstCase) -> Option<Decimal> {
        self.prices.worst_eur(terms, targets, worst)
    }

    fn by_seconds(&self, terms: &Terms, call: &ModelCall) -> bool {
        self.prices
            .find(&call.backend_id, &call.upstream_model, terms.began)
            .is_some_and(|entry| entry.prices.by_seconds())
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
