//! The end of the process: running requests finish, new ones go elsewhere.
//!
//! | Step | What happens |
//! |---|---|
//! | a stop signal | `/readyz` answers 503; answers over HTTP/1.1 announce the end of their connection |
//! | `server.drain_grace_seconds` later | the public listener closes, idle connections end, HTTP/2 connections get GOAWAY |
//! | nothing runs, or `server.drain_seconds` later | what still runs is cut, and settled |
//!
//! A second signal cuts at once. SIGUSR2 hands over to another process first; then the listener closes without grace,
//! because that process accepts, and idle connections have the grace time to learn that they end.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use dgx_gateway_filter::audit::AdminAction;
use dgx_gateway_filter::health::{HealthSource, Limitation, Severity};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};

use crate::notify::Notifier;
use crate::reload::Reloader;
use crate::telemetry::CoreMetrics;
use crate::upgrade::{self, Successor};
use crate::world::World;

/// How often a drain looks whether it is done.
const TICK: Duration = Duration::from_millis(50);
/// How long nothing may run before a drain is done.
const QUIET: Duration = Duration::from_millis(200);

/// Whether the process is being stopped.
pub struct Draining {
    since: OnceLock<Instant>,
    cut: AtomicBool,
    closing: watch::Sender<bool>,
    handed_over: watch::Sender<bool>,
    /// How long idle connections are left alone after the listener was closed.
    linger: OnceLock<Duration>,
}

impl Default for Draining {
    fn default() -> Self {
        Self {
            since: OnceLock::new(),
            cut: AtomicBool::new(false),
            closing: watch::channel(false).0,
            handed_over: watch::channel(false).0,
            linger: OnceLock::new(),
        }
    }
}

impl Draining {
    fn begin(&self) {
        self.since.get_or_init(Instant::now);
    }

    fn close(&self) {
        self.closing.send_replace(true);
    }

    fn hand_over(&self, linger: Duration) {
        self.linger.get_or_init(|| linger);
        self.handed_over.send_replace(true);
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

    /// Another process has taken over.
    #[must_use]
    pub fn has_handed_over(&self) -> bool {
        *self.handed_over.borrow()
    }

    /// Tells when another process has taken over.
    #[must_use]
    pub fn handed_over(&self) -> ShutdownWatch {
        self.handed_over.subscribe()
    }

    /// How long idle connections are left alone after the listener was closed.
    #[must_use]
    pub fn linger(&self) -> Duration {
        self.linger.get().copied().unwrap_or_default()
    }

    /// Tells when nothing more is accepted.
    #[must_use]
    pub fn closing(&self) -> ShutdownWatch {
        self.closing.subscribe()
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
    /// Says how long things may take.
    pub world: Arc<ArcSwap<World>>,
    /// Tells the service manager.
    pub notifier: Arc<Notifier>,
    /// The process before, if it waits for this one.
    pub before: Option<UnixDatagram>,
    /// The process that may come after; it keeps the sockets open.
    pub successor: Mutex<Option<Successor>>,
    /// Writes the audit log.
    pub reloader: Arc<Reloader>,
}

impl DrainWatch {
    /// Returns when nothing runs any more, or when the time is over.
    async fn drained(&self) {
        self.draining.begin();
        let (grace, limit) = {
            let world = self.world.load();
            (world.server.drain_grace, world.server.drain)
        };
        tokio::time::sleep(if self.draining.has_handed_over() { Duration::ZERO } else { grace }).await;
        drop(self.successor.lock().await.take()); // it holds the sockets
        self.draining.close();
        tracing::info!(running = self.metrics.running(), "the listener is closed");
        let closed = Instant::now();
        let mut quiet = Duration::ZERO;
        while (quiet < QUIET || closed.elapsed() < self.draining.linger()) && closed.elapsed() < limit {
            tokio::time::sleep(TICK).await;
            quiet = if self.metrics.running() == 0 { quiet + TICK } else { Duration::ZERO };
        }
        tracing::info!(running = self.metrics.running(), "drained");
    }

    /// Waits for a signal that ends this process. A hand-over that succeeds is one.
    async fn ends(&self, signals: &mut Signals) -> Why {
        loop {
            match signals.next().await {
                Asked::Stop(signal) => return Why::Stop(signal),
                Asked::Upgrade => {
                    tracing::info!("handing over: the new process is started");
                    let successor = self.successor.lock().await;
                    let Some(next) = successor.as_ref() else { continue };
                    let started = tokio::select! {
                        started = next.start() => started,
                        signal = signals.stop() => return Why::Stop(signal),
                    };
                    let ok = started.is_ok();
                    let detail = match &started {
                        Ok(pid) => format!("process {pid}"),
                        Err(error) => error.to_string(),
                    };
                    self.reloader.record(AdminAction::Upgrade, ok, &detail);
                    match started {
                        Ok(pid) => return Why::HandedOver(pid),
                        Err(error) => tracing::error!(%error, "the hand-over failed; this process goes on"),
                    }
                }
            }
        }
    }
}

/// Why the process ends.
enum Why {
    HandedOver(u32),
    Stop(&'static str),
}

#[async_trait]
impl ShutdownSignalWatch for DrainWatch {
    async fn recv(&self) -> ShutdownSignal {
        match Signals::watch() {
            Ok(mut signals) => {
                self.notifier.ready();
                if let Some(before) = &self.before {
                    upgrade::tell_ready(before);
                }
                match self.ends(&mut signals).await {
                    Why::Stop(signal) => {
                        tracing::info!(signal, "draining");
                        self.notifier.stopping();
                    }
                    Why::HandedOver(process) => {
                        tracing::info!(process.id = process, "handed over; draining");
                        self.notifier.main_process(process);
                        self.draining.hand_over(self.world.load().server.drain_grace);
                        // who stops the service means the new process, and tells all of them
                        let told = signals.stop();
                        tokio::select! {
                            () = self.drained() => return ShutdownSignal::FastShutdown,
                            signal = told => tracing::info!(signal, "draining already"),
                        }
                    }
                }
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

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.upgrade.recv() => Asked::Upgrade,
        }
    }

    /// Waits for a stop signal; a hand-over is no longer possible, or under way.
    async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Asked::Stop(signal) => return signal,
                Asked::Upgrade => tracing::warn!("SIGUSR2 ignored: the process ends, or hands over already"),
            }
        }
    }
}

/// What a signal asks for.
enum Asked {
    Stop(&'static str),
    Upgrade,
}
