//! The service: settings checked, the catalog built, the backends watched.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::budget::RoutesRead;
use dgx_gateway_filter::certificates::Authorities;
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::facts::Principal;
use dgx_gateway_filter::health::{HealthSource, Limitation, Severity};
use dgx_gateway_filter::services::{Aliases, FairShare, ModelNames, Pricing};
use dgx_gateway_filter::tenant_config::{ModelUse, TenantConfig, TenantSettings};
use dgx_gateway_filter::upstream::EmbeddedUpstreams;
use dgx_gateway_filter::views::Views;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind, yaml};
use dgx_gateway_wire::errors::sanitize::Sanitizer;
use tokio::sync::Notify;

use crate::backend::{self, Backend, Domain, Protocol};
use crate::catalog::{self, Catalog, ModelKind, Sources};
use crate::discover;
use crate::events::{BackendGauges, Metrics};
use crate::retries::Retries;
use crate::settings::{BackendFile, CatalogFile, Settings};
use crate::streaming::Streams;

/// Default of `models_file`.
const MODELS_FILE: &str = "conf/models.yaml";

/// What a chat backend speaks, in one dialect or another.
const TALKING: [Protocol; 3] = [Protocol::Chat, Protocol::Messages, Protocol::Responses];

/// Everything the filter and the endpoint need.
pub struct Models {
    /// The catalog as it is now.
    pub catalog: Arc<ArcSwap<Catalog>>,
    pub(crate) sanitizer: ArcSwap<Sanitizer>,
    pub(crate) stream: Streams,
    pub(crate) retries: Retries,
    /// What holds for requests of which no tenant is known.
    pub(crate) of_process: Arc<TenantSettings>,
    pub(crate) metrics: Metrics,
    /// Who knows what calls cost; without it nothing is told.
    pub(crate) pricing: Option<Arc<dyn Pricing>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// For looks and counts; no redirects, no proxy of the environment.
    pub(crate) client: reqwest::Client,
    /// Nothing is configured: what backends report is the catalog.
    pub(crate) discovers: bool,
    pub(crate) lasting: Arc<Lasting>,
}

/// What outlives a configuration.
#[derive(Debug)]
pub(crate) struct Lasting {
    /// The configuration in use.
    current: RwLock<Weak<Models>>,
    /// Told when there is another one.
    pub(crate) changed: Notify,
    /// End of the last round of looks.
    pub(crate) looked_at: RwLock<Option<SystemTime>>,
}

impl Lasting {
    /// The configuration in use; none before the first, and after the last.
    pub(crate) fn current(&self) -> Option<Arc<Models>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn put_in_use(&self, models: &Weak<Models>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Weak::clone(models);
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").finish_non_exhaustive()
    }
}

/// Checked settings.
pub struct Checked {
    backends: Vec<BackendFile>,
    /// Whom each of them is checked against.
    authorities: Vec<Option<Arc<Authorities>>>,
    models: CatalogFile,
    models_file: PathBuf,
    stream: Streams,
    retries: Retries,
    litellm_key: Option<String>,
    /// What the slugs lead to, for checks over several files.
    routes: RoutesRead,
}

/// The kind.
pub struct Service;

impl ServiceKind for Service {
    const NAME: &'static str = "models";
    const KEYS: &'static [&'static str] = &["backends", "models_file", "retries", "stream"];
    type Settings = Settings;
    type Checked = Checked;

    fn check(settings: Settings, ambient: &Ambient) -> Result<Checked, Vec<Problem>> {
        let mut problems = Vec::new();
        let models_file = settings.models_file.unwrap_or_else(|| PathBuf::from(MODELS_FILE));
        let (models, text) = read_models(&models_file, ambient, &mut problems);
        // checked against a stand-in for the embedded services, which only exist once the process is built
        let stand_in = EmbeddedUpstreams(vec![("demo", Arc::default())]);
        let authorities = authorities(&settings.backends, ambient, &mut problems);
        let backends = backends(&settings.backends, &stand_in, &authorities, &mut problems);
        let mut in_models = Vec::new();
        let slugs = catalog::read(models.clone(), &sources(&backends, &ids(&settings.backends)), &mut in_models);
        problems.extend(yaml::located(in_models, &models_file, &text));
        let stream = Streams::check(settings.stream, &mut problems);
        let retries = Retries::check(settings.retries, &mut problems);
        if problems.is_empty() {
            let litellm_key =
                ["LITELLM_API_KEY", "LITELLM_MASTER_KEY"].iter().find_map(|name| ambient.secret(name).ok().flatten());
            let routes = RoutesRead(slugs.iter().map(|slug| slug.as_read()).collect());
            Ok(Checked {
                backends: settings.backends,
                authorities,
                models,
                models_file,
                stream,
                retries,
                litellm_key,
                routes,
            })
        } else {
            Err(problems)
        }
    }

    fn view(checked: &Checked, views: &mut Views) {
        views.offer(checked.routes.clone());
    }

    fn build(checked: Checked, env: &mut BuildEnv) -> Result<(), BuildError> {
        let embedded = env.service::<EmbeddedUpstreams>().unwrap_or_default();
        let mut problems = Vec::new();
        let configured = !checked.backends.is_empty();
        let files =
            if configured { checked.backends } else { discover::usual(checked.litellm_key, !embedded.0.is_empty()) };
        let previous = env.previous::<Models>();
        let mut backends = backends(&files, &embedded, &checked.authorities, &mut problems);
        if let Some(previous) = &previous {
            backend::take_over(&mut backends, &previous.catalog.load().listed);
        }
        let slugs = catalog::read(checked.models, &sources(&backends, &ids(&files)), &mut problems);
        if let Some(problem) = problems.first() {
            // the check passed; what is left is a build without the embedded service that the file names
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, problem.to_string());
            return Err(BuildError::Io { path: checked.models_file, source });
        }
        let hosts: Vec<String> =
            backends.iter().filter_map(|backend| backend.root()).map(|root| host_of(&root)).collect();
        let ids: Vec<String> = backends.iter().map(|backend| backend.id.to_string()).collect();
        let (lasting, metrics, client) = match &previous {
            Some(known) => (Arc::clone(&known.lasting), known.metrics.clone(), known.client.clone()),
            None => start(env)?,
        };
        let catalog = match previous.as_ref().filter(|previous| previous.discovers && !configured) {
            Some(previous) => Arc::clone(&previous.catalog), // it goes on as it was found
            None => Arc::new(ArcSwap::from_pointee(Catalog::new(slugs, backends))),
        };
        let service = Arc::new(Models {
            sanitizer: ArcSwap::from_pointee(Sanitizer::new(hosts, ids)),
            catalog,
            stream: checked.stream,
            retries: checked.retries,
            of_process: env.service::<Arc<dyn TenantConfig>>()?.process(),
            metrics,
            pricing: env.service::<Arc<dyn Pricing>>().ok().map(|pricing| Arc::clone(&*pricing)),
            clock: Arc::clone(&env.clock),
            client,
            discovers: !configured,
            lasting,
        });
        if let Ok(share) = env.service::<Arc<dyn FairShare>>() {
            let slots = |backend: &Arc<Backend>| (Arc::clone(&backend.label), backend.upstream.slots);
            let slots = service.catalog.load().backends.iter().map(slots).collect();
            env.when_in_use(move || share.backends(slots));
        }
        if service.discovers && !previous.as_ref().is_some_and(|previous| previous.discovers) {
            discover::offer_embedded(&service);
        }
        env.health.add(Arc::clone(&service) as Arc<dyn HealthSource>);
        env.provide::<Arc<dyn ModelNames>>(Arc::new(Arc::clone(&service) as Arc<dyn ModelNames>));
        let (lasting, used) = (Arc::clone(&service.lasting), Arc::downgrade(&service));
        env.when_in_use(move || {
            lasting.put_in_use(&used);
            if previous.is_some() {
                lasting.changed.notify_one(); // new backends are not known yet
            }
        });
        env.provide(service);
        Ok(())
    }
}

/// What is made once: the state, the metrics, and the task that looks at backends.
fn start(env: &mut BuildEnv) -> Result<(Arc<Lasting>, Metrics, reqwest::Client), BuildError> {
    let lasting =
        Arc::new(Lasting { current: RwLock::default(), changed: Notify::new(), looked_at: RwLock::new(None) });
    let metrics = Metrics::register(&env.metrics)?;
    BackendGauges::register(&env.metrics, &lasting)?;
    env.spawn("look at backends", discover::watch(Arc::clone(&lasting)));
    Ok((lasting, metrics, client().map_err(|error| BuildError::Part(Box::new(error)))?))
}

fn client() -> Result<reqwest::Client, reqwest::Error> {
    builder().build()
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy()
}

fn ids(files: &[BackendFile]) -> Vec<String> {
    files.iter().map(|file| file.id.clone()).collect()
}

fn sources<'a>(backends: &'a [Arc<Backend>], ids: &'a [String]) -> Sources<'a> {
    Sources { backends, ids }
}

fn host_of(root: &str) -> String {
    let rest = root.split_once("://").map_or(root, |(_, rest)| rest);
    rest.rsplit_once(':').map_or(rest, |(host, _)| host).to_owned()
}

/// The catalog file and its text; an absent file is an empty catalog.
fn read_models(file: &Path, ambient: &Ambient, problems: &mut Vec<Problem>) -> (CatalogFile, String) {
    let empty = CatalogFile { version: 1, ..CatalogFile::default() };
    let text = match ambient.config_file(file) {
        Ok(Some(text)) => text,
        Ok(None) => return (empty, String::new()),
        Err(error) => {
            problems.push(Problem::at("", format!("cannot be read: {error}")).in_file(file));
            return (empty, String::new());
        }
    };
    let read = yaml::parse(&text, file, ambient).and_then(|value| yaml::read(value).map_err(|problem| vec![problem]));
    match read {
        Ok(models) => (models, text),
        Err(found) => {
            problems.extend(yaml::located(found, file, &text));
            (empty, text)
        }
    }
}

/// Whom each backend is checked against, if its entry says so.
fn authorities(files: &[BackendFile], ambient: &Ambient, problems: &mut Vec<Problem>) -> Vec<Option<Arc<Authorities>>> {
    let load = |(index, file): (usize, &BackendFile)| {
        Authorities::load(file.ca_file.as_deref()?, &format!("backends[{index}].ca_file"), ambient, problems)
    };
    files.iter().enumerate().map(load).collect()
}

/// The backends that are valid, in file order.
pub(crate) fn backends(
    files: &[BackendFile],
    embedded: &EmbeddedUpstreams,
    authorities: &[Option<Arc<Authorities>>],
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Backend>> {
    let (mut local, mut cloud) = (0, 0);
    let mut built: Vec<Arc<Backend>> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let key = format!("backends[{index}]");
        let n = match file.domain {
            Domain::Local => &mut local,
            Domain::Cloud => &mut cloud,
        };
        *n += 1;
        let authorities = authorities.get(index).and_then(Option::as_ref);
        let Some(backend) = backend::check(file, &key, *n, embedded, authorities, problems) else { continue };
        if built.iter().any(|known| known.id == backend.id) {
            problems.push(Problem::at(format!("{key}.id"), "stands twice"));
        }
        if built.iter().any(|known| known.label == backend.label) {
            problems.push(Problem::at(format!("{key}.label"), "stands twice"));
        }
        built.push(Arc::new(backend));
    }
    built
}

impl Models {
    /// The client for a backend: one that is checked against authorities of its own has a client of its own.
    pub(crate) fn client_of(&self, backend: &Backend) -> Option<reqwest::Client> {
        let Some(authorities) = &backend.upstream.authorities else { return Some(self.client.clone()) };
        let made = authorities.made(|certificates| {
            let builder = certificates.iter().try_fold(builder().tls_built_in_root_certs(false), |builder, one| {
                reqwest::Certificate::from_der(one).map(|one| builder.add_root_certificate(one))
            });
            builder.and_then(reqwest::ClientBuilder::build).ok()
        });
        (*made).clone()
    }

    fn chat_backends(&self) -> Vec<Arc<Backend>> {
        let catalog = self.catalog.load();
        let mut found: Vec<Arc<Backend>> = Vec::new();
        for entry in catalog.models().flat_map(|model| &model.route) {
            if entry.backend.protocols.iter().any(|protocol| TALKING.contains(protocol))
                && !found.iter().any(|known| Arc::ptr_eq(known, &entry.backend))
            {
                found.push(Arc::clone(&entry.backend));
            }
        }
        found
    }
}

impl ModelNames for Models {
    fn aliases(&self, which: Aliases) -> Vec<Arc<str>> {
        let catalog = self.catalog.load();
        let wanted = catalog.models().filter(|model| which == Aliases::All || model.kind == ModelKind::Embedding);
        wanted.map(|model| Arc::clone(&model.alias)).collect()
    }

    fn is_usable(&self, slug: &str, caller: &Principal, wanted_for: ModelUse) -> bool {
        let tenant = Principal { models: None, ..caller.clone() };
        let protocol = match wanted_for {
            ModelUse::Chat => Protocol::Chat,
            ModelUse::Embedding => Protocol::Embeddings,
            ModelUse::Image => Protocol::Images,
            ModelUse::Transcription => Protocol::Transcription,
        };
        self.catalog.load().find(slug, Some(&tenant)).is_some_and(|slug| slug.model.fits(protocol))
    }
}

impl HealthSource for Models {
    fn limitations(&self) -> Vec<Limitation> {
        let backends = self.chat_backends();
        if !backends.iter().any(|backend| backend.is_up()) {
            return vec![Limitation { reason: "compute capacity unavailable", severity: Severity::Unready }];
        }
        let mut worst = None;
        for domain in [Domain::Local, Domain::Cloud] {
            let of_domain = || backends.iter().filter(|backend| backend.domain == domain);
            let down = of_domain().filter(|backend| !backend.is_up()).count();
            let severity = match down {
                0 => continue,
                down if down == of_domain().count() => Severity::Impaired,
                _ => Severity::Degraded,
            };
            worst = worst.max(Some(severity));
        }
        worst.map(|severity| Limitation { reason: "compute capacity limited", severity }).into_iter().collect()
    }

    fn checked_at(&self) -> Option<SystemTime> {
        *self.lasting.looked_at.read().unwrap_or_else(PoisonError::into_inner)
    }
}
