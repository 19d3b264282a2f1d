//! Reload: all configuration files are read and checked as one set and put into use at once, or not at all.
//!
//! A reload builds a whole new [`World`] beside the one in use and swaps the two. Requests that run keep the world that
//! they began with. Parts take over what has to outlive a configuration (buckets, queues, tasks) from the generation
//! before. Keys that only a restart changes keep the values with which the process runs; a change of them is told.
//!
//! | Module | Does |
//! |---|---|
//! | [`service`] | waits for what asks for a reload: a request of the admin listener, SIGHUP, a file that changed |
//! | `watch` | notices that files changed |
//! | `events` | what is logged, counted and audited |

mod events;
pub mod service;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::audit::AdminAction;
use dgx_gateway_filter::clock::{Clock, SystemClock};
use dgx_gateway_filter::files::FileRead;
use dgx_gateway_filter::filter::BackgroundTask;
use dgx_gateway_filter::health::HealthSource;
use dgx_gateway_filter::{BuildEnv, Problem};

use self::events::ReloadEvents;
use crate::config::{Config, Overrides};
use crate::plugins::Registry;
use crate::shutdown::Draining;
use crate::telemetry::Log;
use crate::world::{Prepared, World, WorldError};

/// Where configurations come from.
pub struct Sources {
    /// What the command line says.
    pub overrides: Overrides,
    /// Environment variables.
    pub ambient: Ambient,
    /// Everything the binary was built with.
    pub registry: Registry,
}

impl Sources {
    /// Reads and checks everything, so that all problems are known at once. Files are read through `ambient`. What only
    /// a restart changes is as it `runs`; the keys that were changed in vain are given.
    ///
    /// # Errors
    /// Every problem.
    pub fn load(
        &self,
        ambient: &Ambient,
        runs: Option<&Config>,
    ) -> Result<(Config, Prepared, Vec<&'static str>), Vec<Problem>> {
        let (mut config, mut problems) = Config::load(&self.overrides, ambient, &self.registry.keys())?;
        let kept = runs.map(|runs| config.keep_what_runs(runs)).unwrap_or_default();
        match Prepared::check(&config, &self.registry, ambient, SystemClock.wall()) {
            Ok(prepared) if problems.is_empty() => Ok((config, prepared, kept)),
            Ok(_) => Err(problems),
            Err(found) => {
                problems.extend(found);
                Err(problems)
            }
        }
    }
}

/// What asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// `POST /reload`.
    Admin,
    /// A file has changed.
    File,
    /// SIGHUP.
    Signal,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::File => "file",
            Self::Signal => "signal",
        }
    }
}

/// A reload that is in effect.
pub struct Reloaded {
    /// Number of the configuration; the start is 1.
    pub generation: u64,
    /// Files whose content is another one than before.
    pub changed: Vec<PathBuf>,
    /// Keys whose change needs a restart.
    pub restart_needed: Vec<&'static str>,
    /// Work that the new configuration begins in the background.
    pub tasks: Vec<BackgroundTask>,
}

/// Reloads the configuration, one reload at a time.
pub struct Reloader {
    sources: Sources,
    world: Arc<ArcSwap<World>>,
    draining: Arc<Draining>,
    log: Log,
    events: ReloadEvents,
    running: Mutex<Running>,
}

/// The configuration in use.
struct Running {
    config: Config,
    env: BuildEnv,
    generation: u64,
    files: Vec<FileRead>,
    /// Files of the last reload, when it failed.
    failed: Option<Vec<FileRead>>,
}

impl Reloader {
    /// Goes on from the configuration of the start, which was read through the `ambient` of its environment.
    ///
    /// # Errors
    /// A metric is registered twice.
    pub fn new(
        sources: Sources,
        config: Config,
        env: BuildEnv,
        world: Arc<ArcSwap<World>>,
        draining: Arc<Draining>,
        log: Log,
    ) -> Result<Self, prometheus::Error> {
        let files = env.ambient.config_files();
        let events = ReloadEvents::register(&env.metrics)?;
        events.in_effect(1, &files);
        if let Some(tls) = &config.server.tls {
            events.register_certificate(&env.metrics)?;
            events.certificate(tls.ends());
        }
        let running = Mutex::new(Running { config, env, generation: 1, files, failed: None });
        Ok(Self { sources, world, draining, log, events, running })
    }

    /// Reads, checks and puts into use. Blocks. A reload for a file that turns out to be as it was does nothing: `None`.
    ///
    /// # Errors
    /// Every problem; nothing has changed.
    pub fn reload(&self, trigger: Trigger) -> Result<Option<Reloaded>, Vec<Problem>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let ambient = self.sources.ambient.anew();
        let loaded = self.sources.load(&ambient, Some(&running.config));
        let files = ambient.config_files();
        if trigger == Trigger::File && same(&files, running.failed.as_ref().unwrap_or(&running.files)) {
            running.note(files);
            return Ok(None);
        }
        let built = loaded.and_then(|(config, prepared, kept)| {
            let mut env = running.env.next(ambient);
            env.health.add(Arc::clone(&self.draining) as Arc<dyn HealthSource>);
            let world = World::build(prepared, &self.sources.registry, &mut env).map_err(problems_of)?;
            Ok((config, env, world, kept))
        });
        match built {
            Ok((config, mut env, world, mut restart_needed)) => {
                self.world.store(Arc::new(world));
                restart_needed.extend(env.in_use(Some(&mut running.env)));
                restart_needed.sort_unstable();
                restart_needed.dedup();
                self.log.follow(&config.log);
                config.warn(SystemClock.wall());
                if let Some(tls) = &config.server.tls {
                    self.events.certificate(tls.ends());
                }
                let changed = changed(&running.files, &files);
                let tasks = env.take_tasks();
                let generation = running.generation + 1;
                *running = Running { config, env, generation, files, failed: None };
                let reloaded = Reloaded { generation, changed, restart_needed, tasks };
                self.events.succeeded(trigger, &reloaded, &running.files, &running.env);
                Ok(Some(reloaded))
            }
            Err(problems) => {
                running.failed = Some(files);
                self.events.failed(trigger, &problems, &running.env);
                Err(problems)
            }
        }
    }

    /// The files whose change brings a reload: those in use, and those of a reload that failed.
    fn watched(&self) -> Vec<FileRead> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = running.failed.clone().unwrap_or_default();
        let others = running.files.iter().filter(|file| !files.iter().any(|known| known.path == file.path)).cloned();
        let others: Vec<FileRead> = others.collect();
        files.extend(others);
        files
    }

    /// Tells the audit log, if there is one, what the process does.
    pub fn record(&self, action: AdminAction, ok: bool, detail: &str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        events::audit(&running.env, action, ok, detail);
    }

    /// Ends what was built; for the end of the process.
    pub fn end(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).env.end();
    }
}

impl Running {
    /// The files look otherwise, and hold what they held.
    fn note(&mut self, files: Vec<FileRead>) {
        match &mut self.failed {
            Some(failed) => *failed = files,
            None => self.files = files,
        }
    }
}

/// A part that cannot be built is no problem of a key.
fn problems_of(error: WorldError) -> Vec<Problem> {
    match error {
        WorldError::Config(problems) => problems,
        error => vec![Problem::at("", error.to_string())],
    }
}

fn same(files: &[FileRead], known: &[FileRead]) -> bool {
    changed(known, files).is_empty()
}

/// Files that hold something else than before, were added, or have gone.
fn changed(before: &[FileRead], now: &[FileRead]) -> Vec<PathBuf> {
    let digest = |files: &[FileRead], path| files.iter().find(|file| &file.path == path).and_then(|file| file.digest);
    let paths: BTreeSet<&PathBuf> = before.iter().chain(now).map(|file| &file.path).collect();
    paths.into_iter().filter(|path| digest(before, *path) != digest(now, *path)).cloned().collect()
}
