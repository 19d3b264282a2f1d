//! Reservations, settlements and statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dgx_gateway_filter::budget::{Amounts, BudgetMode, TenantBudgets};
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::{BuildEnv, BuildError};
use dgx_gateway_store::{Store, StoreError, rusqlite};
use futures_util::StreamExt as _;
use futures_util::stream;
use prometheus::{IntGauge, Registry};
use tokio::sync::mpsc;
use tokio::time::sleep;
use uuid::Uuid;

use super::names::Stated;
use super::script::{BudgetStep, Line, Verdict};
use crate::budgets::limit::{Unit, units};
use crate::budgets::service::Lasting;
use crate::budgets::tenant::{Granted, Reservation, State, Tenant};
use crate::budgets::usage::{Answer, Call, Share, Ticket, each};
use crate::budgets::window::{WINDOWS, second_of};
use crate::shared::{SharedStore, Unavailable};

/// Settlements that wait to be sent. One that finds no place makes its process state the budgets anew.
const MAX_SETTLEMENTS: usize = 8192;

/// Settlements, and statements in the background, that are sent at the same time.
const AT_ONCE: usize = 32;

/// How often this process shows that it is there, and states what it could not before.
const REFRESH_EVERY: Duration = Duration::from_secs(5);

/// How long a key stays after the end of its period: calls that began in it may still end.
const KEEP_AFTER: Duration = Duration::from_secs(2 * 3600);

/// Tries of a reservation: the first may find that something has to be stated, and a statement that another process
/// replaced.
const TRIES: usize = 3;

/// Migrations.
pub(in crate::budgets) const STEPS: [&str; 1] = ["CREATE TABLE limits_node (id TEXT NOT NULL) STRICT"];

/// The name of this process among those that share a store: that of its data directory, so that the next process on
/// it takes the place of this one.
pub(in crate::budgets) fn node(env: &BuildEnv) -> Result<String, BuildError> {
    let store = env.service::<Store>()?;
    let named = || -> Result<String, StoreError> {
        store.migrate("limits", &STEPS)?;
        let connection = store.maintenance()?;
        connection.execute(
            "INSERT INTO limits_node SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM limits_node)",
            [Uuid::now_v7().to_string()],
        )?;
        let id: rusqlite::Result<String> = connection.query_row("SELECT id FROM limits_node", [], |row| row.get(0));
        Ok(id?)
    };
    named().map_err(|error| BuildError::Part(Box::new(error)))
}

/// Budgets in the store.
#[derive(Clone)]
pub(in crate::budgets) struct SharedBudgets(Arc<Inner>);

struct Inner {
    store: Arc<SharedStore>,
    node: String,
    /// Part of every token: those of another process are others.
    process: Uuid,
    statements: AtomicU64,
    queue: mpsc::Sender<Ended>,
    clock: Arc<dyn Clock>,
    unstated: IntGauge,
}

/// A call that has ended, as changes to what was stated.
pub(in crate::budgets) struct Ended {
    tenant: Arc<Tenant>,
    changes: Vec<Change>,
}

struct Change {
    at: Place,
    token: u64,
    reserved: u64,
    used: u64,
}

/// A budget in one of its periods.
#[derive(Clone, Debug)]
struct Place {
    name: Arc<str>,
    start: i64,
    end: i64,
}

/// One budget that a call counts in.
struct Asked {
    index: usize,
    at: Place,
    stated: Option<Stated>,
    limit: u64,
    hard: bool,
    needed: u64,
}

/// What becomes of a place if nobody says that a step on it went well.
struct Unsure<'a> {
    tenant: &'a Tenant,
    places: Vec<Place>,
}

impl Unsure<'_> {
    fn went_well(mut self) {
        self.places.clear();
    }
}

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        if !self.places.is_empty() {
            let mut state = self.tenant.state();
            self.places.iter().for_each(|at| state.names.forget(&at.name, at.start));
        }
    }
}

impl SharedBudgets {
    pub(in crate::budgets) fn new(
        store: Arc<SharedStore>,
        node: String,
        clock: Arc<dyn Clock>,
        metrics: &Registry,
    ) -> Result<(Self, mpsc::Receiver<Ended>), prometheus::Error> {
        let unstated = IntGauge::new(
            "dgx_gateway_budgets_unstated",
            "Budgets of which this process could not tell the shared store yet what it knows.",
        )?;
        metrics.register(Box::new(unstated.clone()))?;
        let (queue, waiting) = mpsc::channel(MAX_SETTLEMENTS);
        let (process, statements) = (Uuid::new_v4(), AtomicU64::new(0));
        Ok((Self(Arc::new(Inner { store, node, process, statements, queue, clock, unstated })), waiting))
    }

    /// Reserves on all budgets that count a call, or on none. The outer error is the store's.
    ///
    /// # Cancel safety
    /// Where a step was sent and nobody waited for its answer, everything is stated anew.
    pub(in crate::budgets) async fn reserve(
        &self,
        tenant: &Arc<Tenant>,
        budgets: &Arc<TenantBudgets>,
        call: &Call<'_>,
    ) -> Result<Result<Granted, Answer>, Unavailable> {
        for _ in 0..TRIES {
            let generation = self.0.store.generation()?;
            let steps = tenant.steps.read().await;
            let asked = self.asked(tenant, budgets, call, generation);
            if asked.iter().any(|asked| asked.stated.is_none()) {
                drop(steps);
                let places = asked.into_iter().filter(|asked| asked.stated.is_none());
                self.state(tenant, places.map(|asked| (asked.index, asked.at)).collect()).await?;
                continue;
            }
            let unsure = Unsure { tenant, places: asked.iter().map(|asked| asked.at.clone()).collect() };
            let lines: Vec<Line> = asked.iter().map(|asked| self.reserve_line(asked)).collect();
            let reply = match lines.is_empty() {
                true => None,
                false => Some(self.0.store.run_budgets(generation, BudgetStep::Reserve, &self.0.node, &lines).await?),
            };
            let reply = match reply {
                Some(reply) if reply.verdict == Verdict::StateFirst => continue,
                reply => reply,
            };
            unsure.went_well();
            let mut state = tenant.state();
            let mut answer = Answer { hard: asked.iter().any(|asked| asked.hard), ..Answer::default() };
            let lines = reply.as_ref().map_or(&[][..], |reply| &reply.lines);
            for (asked, (exceeded, elsewhere)) in asked.iter().zip(lines) {
                state.names.note(&asked.at.name, asked.at.start, *elsewhere);
                match (exceeded, asked.hard) {
                    (false, _) => {}
                    (true, true) => answer.refused_until = answer.refused_until.max(Some(asked.at.end)),
                    (true, false) => answer.exceeded |= 1 << asked.index,
                }
            }
            if answer.refused_until.is_some() {
                return Ok(Err(answer));
            }
            let ticket = state.usage.reserve(call);
            forget_others(&mut state, call, &ticket, &asked);
            drop(state);
            return Ok(Ok(Granted { answer, reservation: Reservation::new(tenant, ticket, Some(self.clone())) }));
        }
        Err(Unavailable)
    }

    /// Reserves the share of this process, while the store is down.
    pub(in crate::budgets) fn reserve_without_store(
        &self,
        tenant: &Arc<Tenant>,
        budgets: &Arc<TenantBudgets>,
        call: &Call<'_>,
        share: Share,
    ) -> Result<Granted, Answer> {
        let mut state = tenant.state();
        state.adopt(&tenant.id, budgets);
        let answer = state.usage.ask(call, share);
        if answer.refused_until.is_some() {
            return Err(answer);
        }
        let ticket = state.usage.reserve(call);
        forget_others(&mut state, call, &ticket, &[]); // the store has not heard of it
        drop(state);
        Ok(Granted { answer, reservation: Reservation::new(tenant, ticket, Some(self.clone())) })
    }

    /// The budgets that count a call, with what was stated of them on this connection.
    fn asked(&self, tenant: &Tenant, budgets: &Arc<TenantBudgets>, call: &Call<'_>, generation: u64) -> Vec<Asked> {
        let mut state = tenant.state();
        state.adopt(&tenant.id, budgets);
        let counting = state.usage.counting(call);
        let asked = each(budgets, counting).filter_map(|(index, budget)| {
            let (unit, limit) = units(budget.limit);
            let period = state.usage.period(budget.window, call.at);
            let at = Place { name: Arc::clone(state.names.name(index)?), start: period.start, end: period.end };
            let stated = state.names.stated(index, period.start).filter(|stated| stated.generation == generation);
            let known = unit != Unit::Cents || call.priced;
            Some(Asked {
                index,
                at,
                stated: stated.copied(),
                limit: if known { limit } else { 0 },
                hard: budget.mode == BudgetMode::Hard,
                needed: unit.of(call.worst),
            })
        });
        asked.collect()
    }

    fn reserve_line(&self, asked: &Asked) -> Line {
        let token = asked.stated.map_or(0, |stated| stated.token);
        self.line(&asked.at, token, vec![asked.limit, u64::from(asked.hard), asked.needed])
    }

    fn line(&self, at: &Place, token: u64, amounts: Vec<u64>) -> Line {
        let left = at.end.saturating_sub(second_of(self.0.clock.wall())).max(0);
        let keep = Duration::from_secs(left.unsigned_abs()) + KEEP_AFTER;
        Line {
            key: format!("{}:{}", at.name, at.start),
            token: format!("{}-{token}", self.0.process.simple()),
            amounts,
            keep_ms: u64::try_from(keep.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Says all that this process knows of some budgets. No other step of the tenant is on its way meanwhile.
    ///
    /// # Cancel safety
    /// What was not answered is stated again.
    async fn state(&self, tenant: &Tenant, places: Vec<(usize, Place)>) -> Result<(), Unavailable> {
        let _steps = tenant.steps.write().await;
        let generation = self.0.store.generation()?;
        let (unsure, lines) = {
            let mut state = tenant.state();
            let mut lines = Vec::with_capacity(places.len());
            let mut stated = Vec::with_capacity(places.len());
            for (index, at) in places {
                if state.names.name(index) != Some(&at.name) {
                    continue; // other budgets are in place meanwhile
                }
                let Some(budget) = state.usage.budgets.0.get(index) else { continue };
                let (unit, window) = (units(budget.limit).0, budget.window);
                let (used, reserved) = state.usage.taken(index, unit, window, at.start);
                let token = self.0.statements.fetch_add(1, Ordering::Relaxed) + 1;
                let elsewhere = state.names.elsewhere(index, at.start);
                state.names.state(&at.name, at.start, Stated { token, generation, end: at.end, elsewhere });
                lines.push(self.line(&at, token, vec![used, reserved]));
                stated.push(at);
            }
            (Unsure { tenant, places: stated }, lines)
        };
        if !lines.is_empty() {
            let reply = self.0.store.run_budgets(generation, BudgetStep::State, &self.0.node, &lines).await?;
            note_elsewhere(&mut tenant.state(), unsure.places.iter(), &reply.lines);
        }
        unsure.went_well();
        Ok(())
    }

    /// A call has ended; called under the lock of its tenant. Does not wait.
    pub(in crate::budgets) fn settle(&self, tenant: &Arc<Tenant>, state: &mut State, ticket: &Ticket, used: Amounts) {
        let counted = places_of(state, &Call::of(ticket), ticket);
        let changes = counted.into_iter().filter_map(|(index, at)| {
            let token = state.names.stated(index, at.start)?.token;
            let unit = units(state.usage.budgets.0.get(index)?.limit).0;
            Some(Change { at, token, reserved: unit.of(ticket.worst), used: unit.of(used) })
        });
        let changes: Vec<Change> = changes.collect();
        if changes.is_empty() {
            return; // whoever states next says it
        }
        if let Err(error) = self.0.queue.try_send(Ended { tenant: Arc::clone(tenant), changes }) {
            self.0.store.settlement_failed();
            let ended = error.into_inner();
            ended.changes.iter().for_each(|change| state.names.forget(&change.at.name, change.at.start));
        }
    }

    /// Tells the store of calls that have ended.
    ///
    /// # Cancel safety
    /// What was not sent is stated by the next process on the data directory.
    pub(in crate::budgets) async fn settle_all(self, waiting: mpsc::Receiver<Ended>) {
        let ended = stream::unfold(waiting, async |mut waiting| waiting.recv().await.map(|ended| (ended, waiting)));
        ended.for_each_concurrent(AT_ONCE, async |Ended { tenant, changes }| self.change(&tenant, changes).await).await;
    }

    /// Carries changes out. Those whose statement does not hold any more are part of the next one.
    async fn change(&self, tenant: &Tenant, changes: Vec<Change>) {
        let _steps = tenant.steps.read().await;
        let Ok(generation) = self.0.store.generation() else { return };
        let changes: Vec<Change> = {
            let state = tenant.state();
            let holds = |change: &Change| state.names.is_stated(&change.at.name, change.at.start, change.token);
            changes.into_iter().filter(holds).collect()
        };
        if changes.is_empty() {
            return;
        }
        let lines: Vec<Line> = changes
            .iter()
            .map(|change| self.line(&change.at, change.token, vec![change.reserved, change.used]))
            .collect();
        let unsure = Unsure { tenant, places: changes.into_iter().map(|change| change.at).collect() };
        let step = self.0.store.run_budgets(generation, BudgetStep::Settle, &self.0.node, &lines);
        let Ok(reply) = step.await else { return };
        let mut state = tenant.state();
        note_elsewhere(&mut state, unsure.places.iter(), &reply.lines);
        for (at, (lost, _)) in unsure.places.iter().zip(&reply.lines) {
            if *lost {
                state.names.forget(&at.name, at.start);
            }
        }
        drop(state);
        unsure.went_well();
    }

    /// Shows again and again that this process is there, and states what it could not before: in a store that was
    /// emptied all is there again after one round.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub(in crate::budgets) async fn keep_stated(self, lasting: Arc<Lasting>) {
        loop {
            tokio::select! {
                () = self.0.store.connected() => {}
                () = sleep(REFRESH_EVERY) => {}
            }
            let current = lasting.current.load_full();
            let unstated = AtomicU64::new(0);
            stream::iter(current.iter())
                .for_each_concurrent(AT_ONCE, async |(tenant, budgets)| {
                    let left = self.refresh(tenant, budgets).await;
                    unstated.fetch_add(left, Ordering::Relaxed);
                })
                .await;
            self.0.unstated.set(i64::try_from(unstated.into_inner()).unwrap_or(i64::MAX));
        }
    }

    /// Gives the number of budgets that could not be stated.
    async fn refresh(&self, tenant: &Tenant, budgets: &Arc<TenantBudgets>) -> u64 {
        let (touched, unstated) = self.in_use(tenant, budgets);
        self.change(tenant, touched).await;
        let count = unstated.len() as u64;
        let stated = unstated.is_empty() || self.state(tenant, unstated).await.is_ok();
        if stated { 0 } else { count }
    }

    /// The budgets of a tenant of which something is used or held: those that are stated, and those that are not.
    fn in_use(&self, tenant: &Tenant, budgets: &Arc<TenantBudgets>) -> (Vec<Change>, Vec<(usize, Place)>) {
        let now = second_of(self.0.clock.wall());
        let mut state = tenant.state();
        state.adopt(&tenant.id, budgets);
        state.names.forget_ended(now);
        let (mut touched, mut unstated) = (Vec::new(), Vec::new());
        for (index, budget) in each(budgets, u64::MAX) {
            let period = state.usage.period(budget.window, now);
            let taken = state.usage.taken(index, units(budget.limit).0, budget.window, period.start);
            let Some(name) = state.names.name(index).cloned() else { continue };
            let at = Place { name, start: period.start, end: period.end };
            match state.names.stated(index, period.start) {
                Some(stated) if self.0.store.is_generation(stated.generation) => {
                    touched.push(Change { at, token: stated.token, reserved: 0, used: 0 });
                }
                _ if taken == (0, 0) => {}
                _ => unstated.push((index, at)),
            }
        }
        (touched, unstated)
    }
}

impl std::fmt::Debug for SharedBudgets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedBudgets").field("node", &self.0.node).finish_non_exhaustive()
    }
}

/// The budgets in place that count a call, in the periods in which it began.
fn places_of(state: &mut State, call: &Call<'_>, ticket: &Ticket) -> Vec<(usize, Place)> {
    let counting = state.usage.counting(call);
    let budgets = Arc::clone(&state.usage.budgets);
    let places = each(&budgets, counting).filter_map(|(index, budget)| {
        let start = WINDOWS.iter().zip(ticket.starts).find(|(window, _)| **window == budget.window)?.1;
        let end = state.usage.period(budget.window, start).end;
        Some((index, Place { name: Arc::clone(state.names.name(index)?), start, end }))
    });
    places.collect()
}

/// A call holds something that the store was not told of for these budgets: what was stated of them does not hold.
fn forget_others(state: &mut State, call: &Call<'_>, ticket: &Ticket, told: &[Asked]) {
    for (_, at) in places_of(state, call, ticket) {
        if !told.iter().any(|asked| asked.at.name == at.name && asked.at.start == at.start) {
            state.names.forget(&at.name, at.start);
        }
    }
}

fn note_elsewhere<'a>(state: &mut State, places: impl Iterator<Item = &'a Place>, lines: &[(bool, u64)]) {
    for (at, (_, elsewhere)) in places.zip(lines) {
        state.names.note(&at.name, at.start, *elsewhere);
    }
}
