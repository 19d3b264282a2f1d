//! The life of the process: build the world, listen, run, drain.

mod public;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::audit::AdminAction;
use dgx_gateway_filter::clock::{Clock, SystemClock};
use dgx_gateway_filter::filter::BackgroundTask;
use dgx_gateway_filter::health::HealthSource;
use dgx_gateway_filter::{BuildEnv, Problem};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use tokio::sync::Mutex;

use crate::admin;
use crate::config::{Config, LogFormat, LogSettings, Overrides};
use crate::data_dir::{DataDir, DataDirError, Holder};
use crate::notify::Notifier;
use crate::plugins::Registry;
use crate::registry::greeting;
use crate::reload::service::{self, ReloadService};
use crate::reload::{Reloader, Sources};
use crate::shutdown::{DrainWatch, Draining};
use crate::sockets::{self, Sockets};
use crate::telemetry::{self, CoreMetrics};
use crate::upgrade::Successor;
use crate::world::{World, WorldError};

/// Attempts that the engine allows for one request: every target twice, because a filter may ask for it, and
/// each time a dead pooled connection does not count.
const MOST_TRIES: usize = 4 * dgx_gateway_filter::upstream::MAX_TARGETS;

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A port cannot be bound.
    #[error("{address} cannot be bound: {source}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration is wrong.
    #[error("the configuration is not valid")]
    Config(Vec<Problem>),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A socket that was handed over cannot be used.
    #[error("socket {place} of LISTEN_FDS is no listening socket of TCP: {source}")]
    Inherited {
        /// Which one, from 0.
        place: usize,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A metric is registered twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The world cannot be built.
    #[error(transparent)]
    World(WorldError),
}

impl From<WorldError> for StartError {
    fn from(error: WorldError) -> Self {
        match error {
            WorldError::Config(problems) => Self::Config(problems),
            error => Self::World(error),
        }
    }
}

/// Checks the configuration and everything it names.
///
/// # Errors
/// Every problem.
pub fn check(overrides: &Overrides, ambient: &Ambient, registry: Registry) -> Result<(), Vec<Problem>> {
    let _log = telemetry::init(&LogSettings { level: "warn".to_owned(), format: Some(LogFormat::Text) });
    let sources = Sources { overrides: overrides.clone(), ambient: ambient.clone(), registry };
    let (config, ..) = sources.load(ambient, None)?;
    config.warn(SystemClock.wall());
    Ok(())
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A second signal cut what was running.
    Cut,
    /// Nothing was running any more, or its time was over.
    Drained,
}

/// Runs until a signal ends it.
///
/// # Errors
/// It cannot start.
pub fn serve(overrides: &Overrides, ambient: &Ambient, registry: Registry) -> Result<Ended, StartError> {
    let sources = Sources { overrides: overrides.clone(), ambient: ambient.clone(), registry };
    let read = ambient.anew();
    let (config, prepared, _) = sources.load(&read, None).map_err(StartError::Config)?;
    let log = telemetry::init(&config.log);
    config.warn(SystemClock.wall());
    let holder = if sockets::takes_over(ambient) { Holder::Successor } else { Holder::First };
    let _data_dir = DataDir::take(&config.data_dir, holder)?;
    let metrics = prometheus::Registry::new();
    let mut env = BuildEnv::new(Arc::new(SystemClock), read, config.data_dir.clone(), metrics.clone());
    env.is_first = holder == Holder::First;
    let core = CoreMetrics::register(&metrics)?;
    let draining = Arc::new(Draining::default());
    env.health.add(Arc::clone(&draining) as Arc<dyn HealthSource>);
    let world = World::build(prepared, &sources.registry, &mut env)?;
    let world = Arc::new(ArcSwap::from_pointee(world));
    env.in_use(None);
    let sockets = Sockets::open(&config.server, ambient)?;
    let addresses = Addresses::of(&sockets, &config);
    let successor =
        Successor::new(&sockets).inspect_err(|error| tracing::warn!(%error, "this process cannot hand over")).ok();
    let notifier = Arc::new(Notifier::new(ambient));

    let mut server = Server::new_with_opt_and_conf(None, engine_settings(&config));
    server.bootstrap();
    let parts = public::Parts {
        socket: sockets.public,
        address: addresses.public,
        spool_dir: config.data_dir.clone(),
        world: Arc::clone(&world),
        metrics: Arc::clone(&core),
        draining: Arc::clone(&draining),
        notifier: Arc::clone(&notifier),
    };
    server.add_service(public::service(&server, parts));
    for task in env.take_tasks() {
        server.add_service(background_service(task.name, TaskService(Mutex::new(Some(task)))));
    }
    announce(&env, &addresses);
    let reloader = Reloader::new(sources, config, env, Arc::clone(&world), Arc::clone(&draining), log)?;
    let reloader = Arc::new(reloader);
    let watch = DrainWatch {
        draining: Arc::clone(&draining),
        metrics: core,
        world: Arc::clone(&world),
        notifier: Arc::clone(&notifier),
        before: sockets.ready,
        successor: Mutex::new(successor),
        reloader: Arc::clone(&reloader),
    };
    let (reloads, asking) = ReloadService::new(Arc::clone(&reloader), notifier);
    let router = admin::router(metrics, world, asking);
    server.add_service(background_service(
        "admin",
        AdminService { listener: Mutex::new(Some(sockets.admin)), router, handed_over: draining.handed_over() },
    ));
    server.add_service(background_service("reload", reloads));
    reloader.record(AdminAction::Start, true, env!("CARGO_PKG_VERSION"));
    server.run(RunArgs { shutdown_signal: Box::new(watch) });
    let detail = match (draining.was_cut(), draining.has_handed_over()) {
        (true, _) => "requests were cut",
        (false, true) => "handed over and drained",
        (false, false) => "drained",
    };
    reloader.record(AdminAction::Stop, !draining.was_cut(), detail);
    reloader.end();
    Ok(if draining.was_cut() { Ended::Cut } else { Ended::Drained })
}

fn engine_settings(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.server.threads,
        max_retries: MOST_TRIES,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

/// Where the process listens: a socket that was handed over may have another address than the one that is configured.
struct Addresses {
    public: SocketAddr,
    admin: SocketAddr,
    scheme: &'static str,
}

impl Addresses {
    fn of(sockets: &Sockets, config: &Config) -> Self {
        Self {
            public: sockets.public.local_addr().unwrap_or(config.server.listen),
            admin: sockets.admin.local_addr().unwrap_or(config.server.admin_listen),
            scheme: if config.server.tls.is_some() { "https" } else { "http" },
        }
    }
}

/// Says where it listens and, without tokens, how to begin. Standard output, because it is for the operator.
fn announce(env: &BuildEnv, addresses: &Addresses) {
    let Addresses { public, admin, scheme } = addresses;
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("dgx-gateway {version} listens on {scheme}://{public} (metrics: http://{admin}/metrics)\n");
    if let Some(greeting) = greeting(env, scheme, *public) {
        text.push_str(&greeting);
    }
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        tracing::debug!(%error, "nobody reads the greeting");
    }
}

struct AdminService {
    listener: Mutex<Option<TcpListener>>,
    router: axum::Router,
    handed_over: ShutdownWatch,
}

#[async_trait]
impl BackgroundService for AdminService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Some(listener) = self.listener.lock().await.take() else { return };
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the admin listener cannot be used"),
        };
        let mut handed_over = self.handed_over.clone();
        let stop = async move {
            tokio::select! {
                _ = shutdown.changed() => {}
                _ = handed_over.changed() => {} // the next process answers
            }
        };
        if let Err(error) = axum::serve(listener, self.router.clone()).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the admin listener ended");
        }
    }
}

struct TaskService(Mutex<Option<BackgroundTask>>);

#[async_trait]
impl BackgroundService for TaskService {
    async fn start(&self, shutdown: ShutdownWatch) {
        let Some(task) = self.0.lock().await.take() else { return };
        service::run(task, shutdown).await;
    }
}
