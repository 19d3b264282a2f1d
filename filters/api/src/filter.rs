//! What a plug-in crate exports: services, filter kinds and endpoint kinds.
//!
//! A *service* owns top-level keys of the configuration file and the state behind them (a token catalog, a
//! model catalog). A *filter kind* is a step of a route; a route entry becomes one [`Filter`]. An *endpoint
//! kind* is an axum router that a route can end in.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::ambient::Ambient;
use crate::body::BodyNeed;
use crate::clock::Clock;
use crate::exchange::Exchange;
use crate::health::HealthBoard;
use crate::views::Views;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File the value came from; `None`: the main configuration file.
    pub file: Option<PathBuf>,
    /// Line in that file, from 1, where known.
    pub line: Option<usize>,
    /// Dotted path of the key.
    pub key: String,
    /// What is wrong and what would be right. Never the value of a secret.
    pub message: String,
}

impl Problem {
    /// A problem at a key.
    pub fn at(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: None, line: None, key: key.into(), message: message.into() }
    }

    /// Names the file.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A part could not be built although its configuration is valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A file or directory could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A metric name is taken.
    #[error("metric: {0}")]
    Metric(#[from] prometheus::Error),
    /// Something of the part's own.
    #[error("{0}")]
    Part(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A service that this part needs is not registered before it.
    #[error("needs the service {0}, which is not registered before it")]
    MissingService(&'static str),
}

/// Work that runs beside the requests for the life of the process.
pub struct BackgroundTask {
    /// Name in logs.
    pub name: &'static str,
    /// The work. It is dropped at shutdown.
    pub run: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What parts are built with.
pub struct BuildEnv {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Environment variables.
    pub ambient: Ambient,
    /// Directory for state, mode 0700; created when first needed.
    pub data_dir: PathBuf,
    /// No other process used the data directory when this one began.
    pub is_first: bool,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
    /// Where parts say what they know of the health of the service. Each generation has its own: a part adds its
    /// sources in every `build`.
    pub health: Arc<HealthBoard>,
    services: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    previous: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    tasks: Vec<BackgroundTask>,
    endings: Vec<Box<dyn FnOnce() + Send>>,
    starts: Vec<Box<dyn FnOnce() + Send>>,
    restart_needed: Vec<&'static str>,
}

impl BuildEnv {
    /// An environment without services.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, ambient: Ambient, data_dir: PathBuf, metrics: prometheus::Registry) -> Self {
        let health = Arc::new(HealthBoard::default());
        Self {
            clock,
            ambient,
            data_dir,
            is_first: false,
            metrics,
            health,
            services: HashMap::new(),
            previous: HashMap::new(),
            tasks: Vec::new(),
            endings: Vec::new(),
            starts: Vec::new(),
            restart_needed: Vec::new(),
        }
    }

    /// The environment in which the next generation is built: it shares clock, directory and metrics, and knows what
    /// this one provides.
    #[must_use]
    pub fn next(&self, ambient: Ambient) -> Self {
        let (clock, data_dir) = (Arc::clone(&self.clock), self.data_dir.clone());
        Self { previous: self.services.clone(), ..Self::new(clock, ambient, data_dir, self.metrics.clone()) }
    }

    /// Offers a service to the parts that are built later.
    pub fn provide<T: Any + Send + Sync>(&mut self, service: Arc<T>) {
        self.services.insert(TypeId::of::<T>(), service);
    }

    /// A service that was built before.
    ///
    /// # Errors
    /// No such service was registered.
    pub fn service<T: Any + Send + Sync>(&self) -> Result<Arc<T>, BuildError> {
        self.services
            .get(&TypeId::of::<T>())
            .and_then(|service| Arc::clone(service).downcast().ok())
            .ok_or(BuildError::MissingService(std::any::type_name::<T>()))
    }

    /// What the part provided in the generation before, when this is a reload; `None` at the start. A part takes its
    /// long-lived state over from it: what counts, waits or is registered (metrics, tasks, queues) is made once.
    #[must_use]
    pub fn previous<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.previous.get(&TypeId::of::<T>()).and_then(|service| Arc::clone(service).downcast().ok())
    }

    /// What to do once this generation is in use: at the start of the process, or when a reload has succeeded. What a
    /// part changes in the state that it took over, it changes here, so that a reload that fails changes nothing.
    pub fn when_in_use(&mut self, act: impl FnOnce() + Send + 'static) {
        self.starts.push(Box::new(act));
    }

    /// Says that a key has changed that only a restart puts into effect; the part goes on as it runs.
    pub fn restart_needed(&mut self, key: &'static str) {
        self.restart_needed.push(key);
    }

    /// The generation is in use now, in place of the one it was made from; called by the core. Gives the keys that
    /// need a restart.
    pub fn in_use(&mut self, instead_of: Option<&mut Self>) -> Vec<&'static str> {
        if let Some(before) = instead_of {
            let own = std::mem::replace(&mut self.endings, std::mem::take(&mut before.endings));
            self.endings.extend(own);
        }
        self.previous.clear();
        for act in std::mem::take(&mut self.starts) {
            act();
        }
        std::mem::take(&mut self.restart_needed)
    }

    /// Starts work in the background once the runtime is up.
    pub fn spawn(&mut self, name: &'static str, run: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(BackgroundTask { name, run: Box::pin(run) });
    }

    /// Runs once when the process ends, after the last request, in reverse order. May block for seconds.
    pub fn at_end(&mut self, ending: impl FnOnce() + Send + 'static) {
        self.endings.push(Box::new(ending));
    }

    /// Runs what was asked for with [`BuildEnv::at_end`]; called by the core.
    pub fn end(&mut self) {
        while let Some(ending) = self.endings.pop() {
            ending();
        }
    }

    /// The background work, taken by the core.
    pub fn take_tasks(&mut self) -> Vec<BackgroundTask> {
        std::mem::take(&mut self.tasks)
    }
}

/// State behind top-level keys of the configuration file.
pub trait ServiceKind: 'static {
    /// Name in logs and problems.
    const NAME: &'static str;
    /// The top-level keys it owns. `Settings` is read from a mapping of just these.
    const KEYS: &'static [&'static str];
    /// The tables that it keeps in databases: their owner as the store knows it, and the newest version of their schema. A
    /// backup of tables that are newer than this, or that nobody here keeps, is not restored.
    const TABLES: &'static [(&'static str, usize)] = &[];
    /// File shape; unknown keys refused.
    type Settings: DeserializeOwned + JsonSchema + Default;
    /// In range, parsed, ready. May come from further files that the settings name.
    type Checked: Send + 'static;

    /// Checks the settings and reports all problems at once.
    ///
    /// # Errors
    /// What is wrong, each with its key.
    fn check(settings: Self::Settings, ambient: &Ambient) -> Result<Self::Checked, Vec<Problem>>;

    /// Offers what was read to the checks over the files of several services.
    fn view(_checked: &Self::Checked, _views: &mut Views) {}

    /// Builds the state and offers it with [`BuildEnv::provide`].
    ///
    /// # Errors
    /// The surroundings do not allow it (a directory that cannot be written).
    fn build(checked: Self::Checked, env: &mut BuildEnv) -> Result<(), BuildError>;
}

/// A check over what several services have read; every problem names file and key. It finds no view of a service whose
/// own check has failed.
pub type CrossCheck = fn(&Views, std::time::SystemTime) -> Vec<Problem>;

/// A step that routes can list.
pub trait FilterKind: 'static {
    /// Key in `routes[].filters`, metric label and log field.
    const NAME: &'static str;
    /// Kinds that must stand before it on every route that lists it; `a|b` means one of them.
    const AFTER: &'static [&'static str] = &[];
    /// File shape of its parameters; unknown keys refused. An entry without parameters is the default.
    type Config: DeserializeOwned + JsonSchema + Default;
    /// In range, parsed, ready.
    type Checked: Send + Sync + 'static;

    /// Checks the parameters and reports all problems at once.
    ///
    /// # Errors
    /// What is wrong, each with its key relative to the entry.
    fn check(raw: Self::Config) -> Result<Self::Checked, Vec<Problem>>;

    /// Builds the filter of one route entry.
    ///
    /// # Errors
    /// A service is missing or a metric cannot be registered.
    fn build(checked: Self::Checked, env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError>;
}

/// One route entry, shared by all requests of the route.
pub trait Filter: Send + Sync {
    /// What it has to see of the body.
    fn body_need(&self) -> BodyNeed {
        BodyNeed::None
    }

    /// Whether it finds out who sends the request. A route with such a filter is a protected one.
    fn authenticates(&self) -> bool {
        false
    }

    /// Its part in a new request.
    fn begin(&self) -> Box<dyn Exchange>;
}

/// An axum router that routes can end in. The handlers find [`crate::exchange::RequestInfo`] and
/// [`crate::facts::Facts`] in the request extensions.
pub trait EndpointKind: 'static {
    /// Value of `routes[].endpoint`.
    const NAME: &'static str;

    /// Builds the router. Its paths are full paths.
    ///
    /// # Errors
    /// A service is missing.
    fn build(env: &BuildEnv) -> Result<axum::Router, BuildError>;
}
