//! The end of the process: running requests finish, new ones go elsewhere.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dgx_gateway_filter::health::{HealthSource, Limitation, Severity};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};

use crate::telemetry::CoreMetrics;

/// How long new requests are still taken after a stop signal, so that whoever balances load can notice.
const STILL_TAKEN: Duration = Duration::from_secs(5);
/// How often a drain looks whether it is done.
const TICK: Duration = Duration::from_millis(50);
/// How long nothing may run before a drain is done.
const QUIET: Duration = Duration::from_millis(200);

/// Whether the process is being stopped.
#[derive(Default)]
pub struct Draining(OnceLock<Instant>);

impl Draining {
    fn begin(&self) {
        self.0.get_or_init(Instant::now);
    }

    /// A stop signal came: answers announce the end of their connection.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.0.get().is_some()
    }

    /// New requests are refused.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.0.get().is_some_and(|since| since.elapsed() >= STILL_TAKEN)
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
    /// How long running requests may take.
    pub limit: Duration,
}

impl DrainWatch {
    /// Returns when nothing runs any more, or when the time is over.
    async fn drained(&self) {
        self.draining.begin();
        let end = Instant::now() + self.limit;
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
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::error!("signals cannot be watched; stopping");
            return ShutdownSignal::FastShutdown;
        };
        let mut any = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let first = any().await;
        tracing::info!(signal = first, "draining");
        tokio::select! {
            () = self.drained() => {}
            signal = any() => tracing::warn!(signal, "second signal: running requests are cut"),
        }
        ShutdownSignal::FastShutdown
    }
}
