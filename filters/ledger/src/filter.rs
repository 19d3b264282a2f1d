//! The filter kind `ledger`: opens a row before a call and settles it before the last of the answer leaves, or
//! when the request ends without one.

use std::sync::Arc;

use async_trait::async_trait;
use dgx_gateway_filter::budget::HeldByHardBudget;
use dgx_gateway_filter::facts::{Caller, Meter, ModelCall, ModelChoice, Principal, Usage};
use dgx_gateway_filter::money::Terms;
use dgx_gateway_filter::upstream::AttemptRequest;
use dgx_gateway_filter::{
    Blame, BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, FinishCx, Flow,
    Outcome, Pending, Problem, Rope,
};
use dgx_gateway_store::{Group, Keep, Receipt, Slot, StoreError, Wait};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Durability;
use crate::cost::Tally;
use crate::events::RequestSettled;
use crate::money::{Bill, CallCost, Source};
use crate::row::Row;
use crate::rows::{self, Opened, Settled, Status};
use crate::service::{Ledger, status};

/// The kind.
#[derive(Debug)]
pub struct Book;

/// The entry takes no parameters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BookConfig {}

impl FilterKind for Book {
    const NAME: &'static str = "ledger";
    const AFTER: &'static [&'static str] = &["identity", "models"];
    type Config = BookConfig;
    type Checked = ();

    fn check(_raw: BookConfig) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build((): (), env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(BookFilter(env.service()?)))
    }
}

struct BookFilter(Arc<Ledger>);

impl Filter for BookFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(BookExchange { ledger: Arc::clone(&self.0), open: None, tried: false })
    }
}

/// A row that has been opened, and the place in the queue for its settlement.
struct Open {
    row: Arc<Row>,
    /// It can cost money, or counts against a hard budget.
    counts: bool,
    slot: Slot,
}

struct BookExchange {
    ledger: Arc<Ledger>,
    open: Option<Open>,
    /// An upstream has heard of the call.
    tried: bool,
}

#[async_trait]
impl Exchange for BookExchange {
    async fn request_ready(&mut self, _body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let principal = cx.facts.get::<Principal>().ok_or_else(|| FilterError::internal("no principal was stated"))?;
        let choice = cx.facts.get::<ModelChoice>().ok_or_else(|| FilterError::internal("no model was chosen"))?;
        let text = |value: &Arc<str>| value.as_ref().to_owned();
        let uid = uuid::Uuid::now_v7().to_string();
        let call = Opened {
            call_id: uid.clone(),
            request_uid: uid,
            request_id: text(&cx.request.id),
            parent_request_id: cx.facts.get::<Caller>().map(|caller| text(&caller.parent_request_id)),
            tenant_id: text(&principal.tenant_id),
            token_id: text(&principal.token_id),
            user_id: self.ledger.user(principal),
            model: text(&choice.slug),
            alias: Some(text(&choice.alias)),
            prompt_estimate: choice.prompt_estimate,
            started_at: self.ledger.now(),
            target: choice.targets.first().cloned(),
            terms: cx.facts.get::<Terms>().ok_or_else(|| FilterError::internal("no terms were stated"))?.clone(),
        };
        let counts = choice.may_cost
            || cx.facts.get::<HeldByHardBudget>().is_some()
            || self.ledger.prices.may_cost(&choice.targets, &call.terms);
        self.open(call, counts).await.map_err(storage_error)?;
        Ok(Flow::Continue)
    }

    fn attempt(&mut self, _attempt: &mut AttemptRequest, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        self.tried = true;
        Ok(())
    }

    /// A row that waits is on the disk before the last of the answer leaves.
    fn complete(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) -> Option<Pending> {
        let (wait, receipt) = self.settle(outcome, cx)?;
        // one that cannot be written now is tried again; the answer does not depend on it
        (wait == Wait::Now).then(|| Box::pin(async { drop(receipt.committed().await) }) as Pending)
    }

    fn finish(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) {
        drop(self.settle(outcome, cx)); // nobody is left to wait
    }
}

impl BookExchange {
    fn waits(&self, counts: bool) -> Wait {
        match self.ledger.durability {
            Durability::Strict => Wait::Now,
            Durability::Auto if counts => Wait::Now,
            Durability::Auto | Durability::Relaxed => Wait::Later,
        }
    }

    /// Settles the row, if it is open.
    fn settle(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) -> Option<(Wait, Receipt)> {
        let open = self.open.take()?;
        let settled = self.settlement(&open, outcome, cx);
        self.tell(&open.row.call, &settled, cx);
        let wait = self.waits(open.counts);
        let Open { row, slot, .. } = open;
        row.is_settled(settled);
        let work = Box::new(move |group: &Group<'_>| row.settle(group));
        Some((wait, slot.write(wait, Keep::Always, work)))
    }

    /// Takes both places in the queue first: once the row is open, nothing can keep it from being settled.
    async fn open(&mut self, call: Opened, counts: bool) -> Result<(), StoreError> {
        let (to_open, to_settle) = (self.ledger.lasting.store.slot().await?, self.ledger.lasting.store.slot().await?);
        let row = Arc::new(Row::new(call, self.ledger.instance()));
        let opened = Arc::clone(&row);
        let work = Box::new(move |group: &Group<'_>| opened.open(group));
        // before the wait: a request that ends within it is settled like every other
        self.open = Some(Open { row, counts, slot: to_settle });
        match self.waits(counts) {
            Wait::Later => drop(to_open.write(Wait::Later, Keep::Always, work)),
            Wait::Now => {
                let written = to_open.write(Wait::Now, Keep::Never, work).committed().await;
                written.inspect_err(|_| self.open = None)?;
            }
        }
        Ok(())
    }

    /// Tells of the request what stands in its row.
    fn tell(&self, call: &Opened, settled: &Settled, cx: &FinishCx<'_>) {
        let bill = Bill::of(&[settled.cost], &call.terms);
        let alias = cx.facts.get::<ModelChoice>().map_or("(unknown)", |choice| &choice.alias);
        let event = RequestSettled { alias, call, settled, bill: &bill };
        if rows::has_row(settled.status, settled.cost) {
            event.count(&self.ledger.lasting.metrics);
        }
        if let Some(audit) = &self.ledger.audit {
            event.record(&**audit, cx);
        }
    }

    fn settlement(&self, open: &Open, outcome: &Outcome, cx: &FinishCx<'_>) -> Settled {
        let made = cx.facts.get::<ModelCall>().filter(|_| self.tried);
        let unused = Meter::default();
        let meter = cx.facts.get::<Meter>().unwrap_or(&unused);
        let status = status(outcome, made.map(|_| meter));
        let mut settled = Settled {
            status,
            resolved_model: made.map(|call| call.resolved_model.to_string()),
            backend_label: made.map(|call| call.backend_label.to_string()),
            usage: Usage::default(),
            images: 0,
            seconds: Decimal::ZERO,
            cost: CallCost::free(Source::Zero),
            settled_at: self.ledger.now(),
        };
        let Some(call) = made else { return settled };
        let tally = Tally::of(call, meter);
        if status != Status::Failed || tally.cost_usd.is_some() {
            settled.cost = self.ledger.prices.cost(call.into(), &tally, status, &open.row.call.terms);
            settled.usage = tally.usage;
            settled.images = tally.images;
            settled.seconds = tally.seconds;
        }
        settled
    }
}

fn storage_error(error: StoreError) -> FilterError {
    let mut refusal = FilterError::internal(error);
    refusal.code = ErrorCode::StorageError;
    refusal.blame = Blame::Gateway;
    refusal.message = "The request could not be booked, so it was not carried out. Try again.".into();
    refusal
}
