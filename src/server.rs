//! The life of the process: build the world, listen, run, drain.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::audit::AdminAction;
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_filter::filter::BackgroundTask;
use dgx_gateway_filter::health::HealthSource;
use dgx_gateway_filter::{BuildEnv, Problem};
use pingora::apps::HttpServerOptions;
use pingora::listeners::TcpSocketOptions;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use tokio::sync::Mutex;

use crate::admin;
use crate::config::{Config, LogFormat, LogSettings, Overrides};
use crate::plugins::Registry;
use crate::proxy::{ConnectionGuard, Connections, Gateway};
use crate::registry::greeting;
use crate::reload::service::{self, ReloadService};
use crate::reload::{Reloader, Sources};
use crate::shutdown::{DrainWatch, Draining};
use crate::telemetry::{self, CoreMetrics};
use crate::world::{World, WorldError};

/// Attempts that the engine allows for one request: every target twice, because a filter may ask for it, and
/// each time a dead pooled connection does not count.
const MOST_TRIES: usize = 4 * dgx_gateway_filter::upstream::MAX_TARGETS;
/// HTTP/2 window of one upload: the default of 64 KiB makes 32 MiB bodies wait for the client 512 times.
const H2_STREAM_WINDOW: u32 = 1 << 20;
/// HTTP/2 window of one connection.
const H2_CONNECTION_WINDOW: u32 = 4 << 20;

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
    sources.load(ambient, None).map(|_| ())
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
    let metrics = prometheus::Registry::new();
    let mut env = BuildEnv::new(Arc::new(SystemClock), read, config.data_dir.clone(), metrics.clone());
    let core = CoreMetrics::register(&metrics)?;
    let draining = Arc::new(Draining::default());
    env.health.add(Arc::clone(&draining) as Arc<dyn HealthSource>);
    let world = World::build(prepared, &sources.registry, &mut env)?;
    let world = Arc::new(ArcSwap::from_pointee(world));
    env.in_use(None);
    let admin_listener = bind(config.server.admin_listen)?;
    // the engine binds later and would panic: find out now
    drop(bind(config.server.listen)?);

    let mut server = Server::new_with_opt_and_conf(None, engine_settings(&config));
    server.bootstrap();
    let public = public_service(&server, &config, Arc::clone(&world), Arc::clone(&core), Arc::clone(&draining));
    server.add_service(public);
    for task in env.take_tasks() {
        server.add_service(background_service(task.name, TaskService(Mutex::new(Some(task)))));
    }
    announce(&env, &config);
    let watch = DrainWatch { draining: Arc::clone(&draining), metrics: core, world: Arc::clone(&world) };
    let reloader = Reloader::new(sources, config, env, Arc::clone(&world), Arc::clone(&draining), log)?;
    let reloader = Arc::new(reloader);
    let (reloads, asking) = ReloadService::new(Arc::clone(&reloader));
    let router = admin::router(metrics, world, asking);
    server
        .add_service(background_service("admin", AdminService { listener: Mutex::new(Some(admin_listener)), router }));
    server.add_service(background_service("reload", reloads));
    reloader.record(AdminAction::Start, true, env!("CARGO_PKG_VERSION"));
    server.run(RunArgs { shutdown_signal: Box::new(watch) });
    let detail = if draining.was_cut() { "requests were cut" } else { "drained" };
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

fn public_service(
    server: &Server,
    config: &Config,
    world: Arc<ArcSwap<World>>,
    metrics: Arc<CoreMetrics>,
    draining: Arc<Draining>,
) -> Service<impl pingora::apps::ServerApp + use<>> {
    let connections = Arc::new(Connections::default());
    let gateway =
        Gateway::new(Arc::clone(&world), config.data_dir.clone(), Arc::clone(&connections), metrics, draining);
    let mut proxy = http_proxy(&server.configuration, gateway);
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    proxy.server_options = Some(options);
    let mut h2 = pingora::protocols::http::v2::server::default_h2_options();
    h2.initial_window_size(H2_STREAM_WINDOW).initial_connection_window_size(H2_CONNECTION_WINDOW);
    proxy.h2_options = Some(h2);
    let app = ConnectionGuard::new(proxy, world, connections);
    let mut service = Service::new("public".to_owned(), app);
    service.add_tcp_with_settings(&config.server.listen.to_string(), TcpSocketOptions::default());
    service
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Bind { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Says where it listens and, without tokens, how to begin. Standard output, because it is for the operator.
fn announce(env: &BuildEnv, config: &Config) {
    let mut text = format!(
        "dgx-gateway {} listens on http://{} (metrics: http://{}/metrics)\n",
        env!("CARGO_PKG_VERSION"),
        config.server.listen,
        config.server.admin_listen
    );
    if let Some(greeting) = greeting(env, config.server.listen) {
        text.push_str(&greeting);
    }
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        tracing::debug!(%error, "nobody reads the greeting");
    }
}

struct AdminService {
    listener: Mutex<Option<TcpListener>>,
    router: axum::Router,
}

#[async_trait]
impl BackgroundService for AdminService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Some(listener) = self.listener.lock().await.take() else { return };
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the admin listener cannot be used"),
        };
        let stop = async move { drop(shutdown.changed().await) };
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
