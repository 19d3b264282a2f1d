//! The connection to the store.
//!
//! While there is none, nobody waits: a step fails at once (the circuit is open), and one task in the background
//! tries to connect again, ever more rarely. A connection counts only after the script has run on it, so a server
//! that accepts and never answers, or that must not write, stays out. The first step that fails or takes too long
//! opens the circuit for all others.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dgx_gateway_filter::health::{HealthSource, Limitation, Severity};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::events::{Cause, StoreEvents};
use super::script::{BucketScript, Grant, STEP_TIMEOUT, Step};
use crate::bucket::{Rate, Refused};
use crate::budgets::{BudgetLine, BudgetReply, BudgetScript, BudgetStep};

/// Steps that wait for an answer at the same time; more are not sent.
const MAX_STEPS_IN_FLIGHT: usize = 1024;

/// The longest time for a new connection, TLS, login and first step included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits between two tries to connect: the first, and the longest after doublings.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A connection that held so long was a good one: after it the waits begin anew.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// How often the connection is tried while nobody uses it, so that it is not a request that finds it dead.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// The store did not carry out a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// The way to the store, shared by all that use it.
pub(super) struct Link {
    client: Client,
    script: BucketScript,
    budgets: BudgetScript,
    current: ArcSwapOption<Live>,
    /// Connections made so far.
    generations: AtomicU64,
    /// Told when there is a new connection.
    connected: Notify,
    broken: Notify,
    why: Mutex<(Cause, String)>,
    in_flight: Semaphore,
    pub(super) events: StoreEvents,
}

/// A connection that is used.
struct Live {
    generation: u64,
    connection: MultiplexedConnection,
}

impl Link {
    pub(super) fn new(client: Client, events: StoreEvents) -> Self {
        Self {
            client,
            script: BucketScript::new(),
            budgets: BudgetScript::new(),
            generations: AtomicU64::new(0),
            connected: Notify::new(),
            current: ArcSwapOption::empty(),
            broken: Notify::new(),
            why: Mutex::new((Cause::Connection, String::new())),
            in_flight: Semaphore::new(MAX_STEPS_IN_FLIGHT),
            events,
        }
    }

    /// Whether steps are sent at all.
    pub(super) fn is_up(&self) -> bool {
        self.current.load().is_some()
    }

    /// Carries out one step, within [`STEP_TIMEOUT`].
    ///
    /// # Cancel safety
    /// A step that was sent may take effect although nobody waits for its answer any more.
    pub(super) async fn run(&self, name: &str, step: Step, rate: Rate) -> Result<Result<Grant, Refused>, Unavailable> {
        let Some(live) = self.current.load_full() else { return Err(self.fails(Cause::Open)) };
        let mut handle = live.connection.clone();
        self.timed(&live, self.script.run(&mut handle, name, step, rate, &[])).await
    }

    /// The connection that is used, by number; `None` while there is none.
    pub(super) fn generation(&self) -> Option<u64> {
        self.current.load().as_ref().map(|live| live.generation)
    }

    /// Returns when there is a new connection.
    pub(super) async fn connected(&self) {
        self.connected.notified().await;
    }

    /// Carries out one step on budgets, on the connection of this number and no other.
    ///
    /// # Cancel safety
    /// A step that was sent may take effect although nobody waits for its answer any more.
    pub(super) async fn run_budgets(
        &self,
        generation: u64,
        step: BudgetStep,
        node: &str,
        lines: &[BudgetLine],
    ) -> Result<BudgetReply, Unavailable> {
        let live = self.current.load_full().filter(|live| live.generation == generation);
        let Some(live) = live else { return Err(self.fails(Cause::Open)) };
        let mut handle = live.connection.clone();
        self.timed(&live, self.budgets.run(&mut handle, step, node, lines)).await
    }

    async fn timed<T>(&self, live: &Arc<Live>, step: impl Future<Output = RedisResult<T>>) -> Result<T, Unavailable> {
        let Ok(_permit) = self.in_flight.try_acquire() else { return Err(self.fails(Cause::Busy)) };
        match timeout(STEP_TIMEOUT, step).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(self.breaks(live, cause_of(&error), error.category())),
            Err(_) => Err(self.breaks(live, Cause::Timeout, "a step")),
        }
    }

    fn fails(&self, cause: Cause) -> Unavailable {
        self.events.failed(cause);
        Unavailable
    }

    /// Opens the circuit, if this is still the connection of all.
    fn breaks(&self, live: &Arc<Live>, cause: Cause, detail: &str) -> Unavailable {
        let seen = Some(Arc::clone(live));
        let before = self.current.compare_and_swap(&seen, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, live)) {
            *self.why.lock().unwrap_or_else(PoisonError::into_inner) = (cause, detail.to_owned());
            self.broken.notify_one();
        }
        self.fails(cause)
    }

    /// Keeps a connection, for the life of the process. Says so in the log when that changes.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut wait = FIRST_WAIT;
        let mut said_down = false;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
                    self.current.store(Some(Arc::new(Live { generation, connection })));
                    self.connected.notify_one();
                    self.events.answers();
                    let since = Instant::now();
                    self.watch().await;
                    let (cause, detail) = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    self.events.is_down(cause, &detail);
                    said_down = true;
                    if since.elapsed() >= PROVEN_AFTER {
                        wait = FIRST_WAIT;
                    }
                }
                Err((cause, detail)) => {
                    self.events.failed(cause);
                    if !std::mem::replace(&mut said_down, true) {
                        self.events.is_down(cause, &detail);
                    }
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, (Cause, String)> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None) // the time limits are here
            .set_pipeline_buffer_size(MAX_STEPS_IN_FLIGHT);
        let connecting = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            self.script.probe(&mut connection).await?;
            Ok::<_, RedisError>(connection)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err((cause_of(&error), error.category().to_owned())),
            Err(_) => Err((Cause::Timeout, "a new connection".to_owned())),
        }
    }

    /// Returns when the connection is gone.
    async fn watch(&self) {
        loop {
            tokio::select! {
                () = self.broken.notified() => {}
                () = sleep(PROBE_EVERY) => {}
            }
            let Some(live) = self.current.load_full() else { return };
            let mut handle = live.connection.clone();
            match timeout(STEP_TIMEOUT, self.script.probe(&mut handle)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => drop(self.breaks(&live, cause_of(&error), error.category())),
                Err(_) => drop(self.breaks(&live, Cause::Timeout, "a probe")),
            }
        }
    }
}

impl HealthSource for Link {
    fn limitations(&self) -> Vec<Limitation> {
        let limited = Limitation { reason: "shared limits limited", severity: Severity::Degraded };
        if self.is_up() { Vec::new() } else { vec![limited] }
    }
}

fn cause_of(error: &RedisError) -> Cause {
    if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() {
        Cause::Connection
    } else if error.is_timeout() {
        Cause::Timeout
    } else {
        Cause::Refused
    }
}
