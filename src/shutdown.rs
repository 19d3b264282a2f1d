//! The end of the process: running requests finish, new ones go elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use dgx_gateway_filter::health::{HealthSource, Limitation, Severity};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::telemetry::CoreMetrics;
use crate::world::World;

/// How long new requests are still taken after a stop signal, so that whoever balances load can notice.
const STILL_TAKEN: Duration = Duration::from_secs(5);
/// How often a drain looks whether it is done.
const TICK: Duration = Duration::from_millis(50);
/// How long nothing may run before a drain is done.
const QUIET: Duration = Duration::from_millis(200);

/// Whether the process is being stopped.
#[derive(Default)]
pub struct Draining {
    since: OnceLock<Instant>,
    cut: AtomicBool,
}

impl Draining {
    fn begin(&self) {
        self.since.get_or_init(Instant::now);
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// A second signal cut requests that were running.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// A stop signal came: answers announce the end of their connection.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.since.get().is_some()
    }

    /// New requests are refused.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.since.get().is_some_and(|since| since.elapsed() >= STILL_TAKEN)
    }
}

impl HealthSource for Draining {
    fn limitations(&self) -> Vec<Limitation> {
        let draining = Limitation { reason: "draining", severity: Severity::Unready };
        self.begun().then_some(draining).into_iter().collect()
    }
}

/// Waits for a signal, then for the running requests. A second signal ends the wait.
pub struct DrainWatch {
    /// Told at the first signal.
    pub draining: Arc<Draining>,
    /// Knows what is running.
    pub metrics: Arc<CoreMetrics>,
    /// Says how long running requests may take.
    pub world: Arc<ArcSwap<World>>,
}

impl DrainWatch {
    /// Returns when nothing runs any more, or when the time is over.
    async fn drained(&self) {
        self.draining.begin();
        let end = Instant::now() + self.world.load().server.drain;
        let mut quiet = Duration::ZERO;
        while quiet < QUIET && Instant::now() < end {
            tokio::time::sleep(TICK).await;
            quiet = if self.metrics.running() == 0 { quiet + TICK } else { Duration::ZERO };
        }
        tracing::info!(running = self.metrics.running(), "drained");
    }
}

#[async_trait]
impl ShutdownSignalWatch for DrainWatch {
    async fn recv(&self) -> ShutdownSignal {
        match Signals::watch() {
            Ok(mut signals) => {
                let first = signals.stop().await;
                tracing::info!(signal = first, "draining");
                tokio::select! {
                    () = self.drained() => {}
                    signal = signals.stop() => {
                        tracing::warn!(signal, "second signal: running requests are cut");
                        self.draining.cut();
                    }
                }
            }
            Err(error) => tracing::error!(%error, "signals cannot be watched; stopping"),
        }
        ShutdownSignal::FastShutdown
    }
}

/// The signals that mean something to this process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    upgrade: Signal,
}

impl Signals {
    fn watch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a stop signal. Those for which there is no handler yet are said and ignored: by default they would
    /// kill the process.
    async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.upgrade.recv() => tracing::warn!("SIGUSR2 ignored: this version does not hand over; restart it"),
            }
        }
    }
}
