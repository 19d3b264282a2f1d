//! Takes, reservations and settlements on shared buckets, and what holds while the store is down.

use std::sync::Arc;

use dgx_gateway_filter::BuildEnv;
use dgx_gateway_filter::health::HealthSource;
use futures_util::StreamExt as _;
use futures_util::stream;
use redis::Client;
use tokio::sync::mpsc;

use super::events::{Cause, StoreEvents};
use super::link::{Link, Unavailable};
use super::script::{self, Grant, Step};
use crate::bucket::{Key, Rate, Refused, Ticket};
use crate::budgets::{BudgetLine, BudgetReply, BudgetStep};
use crate::events::LimitKind;

/// Settlements that wait to be sent; beyond them one is dropped, and the refill brings back what it would have.
const MAX_SETTLEMENTS: usize = 8192;

/// Settlements that are sent at the same time.
const SETTLEMENTS_AT_ONCE: usize = 32;

/// The store of shared buckets.
pub(crate) struct SharedStore {
    link: Arc<Link>,
    settlements: mpsc::Sender<Settlement>,
}

/// A reservation that ended.
struct Settlement {
    name: String,
    ticket: Ticket,
    used: u64,
    rate: Rate,
}

impl SharedStore {
    /// A store that is connected to in the background, and settled in the background.
    pub(crate) fn new(client: Client, env: &mut BuildEnv) -> Result<Arc<Self>, prometheus::Error> {
        let link = Arc::new(Link::new(client, StoreEvents::register(&env.metrics)?));
        let (settlements, waiting) = mpsc::channel(MAX_SETTLEMENTS);
        env.spawn("limits-store", Arc::clone(&link).keep());
        env.spawn("limits-settlements", settle_all(Arc::clone(&link), waiting));
        Ok(Arc::new(Self { link, settlements }))
    }

    /// Knows whether the store answers.
    pub(crate) fn health(&self) -> Arc<dyn HealthSource> {
        Arc::<Link>::clone(&self.link)
    }

    /// Whether the store can be asked; if not, the failure is counted.
    pub(crate) fn is_up(&self) -> bool {
        let up = self.link.is_up();
        if !up {
            self.link.events.failed(Cause::Open);
        }
        up
    }

    /// Carries out one step. The outer error is the store's, the inner one the bucket's.
    ///
    /// # Cancel safety
    /// A step that was sent may take effect although nobody waits for its answer any more. What it took flows back
    /// with the refill.
    pub(crate) async fn run(
        &self,
        kind: LimitKind,
        key: Key,
        step: Step,
        rate: Rate,
    ) -> Result<Result<Grant, Refused>, Unavailable> {
        self.link.run(&script::name(kind, &key), step, rate).await
    }

    /// The connection to the store, by number; `None` while it is down, and the failure is counted then.
    pub(crate) fn generation(&self) -> Result<u64, Unavailable> {
        self.link.generation().ok_or_else(|| {
            self.link.events.failed(Cause::Open);
            Unavailable
        })
    }

    /// Whether this is the connection that is used.
    pub(crate) fn is_generation(&self, generation: u64) -> bool {
        self.link.generation() == Some(generation)
    }

    /// Returns when there is a new connection.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(crate) async fn connected(&self) {
        self.link.connected().await;
    }

    /// Carries out one step on budgets, on this connection and no other.
    ///
    /// # Cancel safety
    /// A step that was sent may take effect although nobody waits for its answer any more.
    pub(crate) async fn run_budgets(
        &self,
        generation: u64,
        step: BudgetStep,
        node: &str,
        lines: &[BudgetLine],
    ) -> Result<BudgetReply, Unavailable> {
        self.link.run_budgets(generation, step, node, lines).await
    }

    /// A settlement could not be handed on, and is told another way.
    pub(crate) fn settlement_failed(&self) {
        self.link.events.failed(Cause::Settlement);
    }

    /// Ends a reservation, in the background.
    pub(crate) fn settle(&self, kind: LimitKind, key: &Key, ticket: Ticket, used: u64, rate: Rate) {
        let settlement = Settlement { name: script::name(kind, key), ticket, used, rate };
        if self.settlements.try_send(settlement).is_err() {
            self.link.events.failed(Cause::Settlement);
        }
    }
}

/// # Cancel safety
/// Settlements that were not sent are lost; the refill brings back what they would have.
async fn settle_all(link: Arc<Link>, waiting: mpsc::Receiver<Settlement>) {
    let settlements =
        stream::unfold(waiting, async |mut waiting| waiting.recv().await.map(|settlement| (settlement, waiting)));
    settlements
        .for_each_concurrent(SETTLEMENTS_AT_ONCE, async |Settlement { name, ticket, used, rate }| {
            // a failure is counted where it happens, and nobody waits for the result
            drop(link.run(&name, Step::Settle(ticket, used), rate).await);
        })
        .await;
}
