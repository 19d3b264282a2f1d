//! The catalog: slugs, models, and the route of each to backends. Immutable; a new one replaces it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::facts::Principal;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::backend::{Backend, Protocol};
use crate::glob::matches;
use crate::settings::{CatalogFile, EntryFile, ModelFile};

/// `created` of models that do not state theirs: 2025-01-01.
const DEFAULT_CREATED: i64 = 1_735_689_600;
/// Connect failures in a row after which an entry is skipped.
const FAILURES_BEFORE_SKIP: u32 = 3;
/// How long it is skipped then.
const SKIP: Duration = Duration::from_secs(10);
/// Longest time for which a `Retry-After` of an upstream is honoured.
const LONGEST_SKIP: Duration = Duration::from_secs(60);

/// What a model does.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ModelKind {
    Audio,
    #[default]
    Chat,
    Embedding,
    Image,
    Rerank,
}

impl ModelKind {
    fn fits(self, protocol: Protocol) -> bool {
        use Protocol as P;
        match self {
            Self::Audio => matches!(protocol, P::Speech | P::Transcription | P::Translation),
            Self::Chat => matches!(protocol, P::Chat | P::Completions | P::Messages | P::Responses | P::Tokenize),
            Self::Embedding => protocol == P::Embeddings,
            Self::Image => matches!(protocol, P::Chat | P::Completions | P::Messages | P::Responses | P::Images),
            Self::Rerank => protocol == P::Rerank,
        }
    }
}

/// One model as the catalog describes it.
#[derive(Debug)]
pub struct Model {
    /// Base alias.
    pub alias: Arc<str>,
    /// What it does.
    pub kind: ModelKind,
    /// Owner.
    pub vendor: String,
    /// Unix time.
    pub created: i64,
    /// Whether it takes images.
    pub image_input: bool,
    /// Whether image URLs pass.
    pub accepts_image_url: bool,
    /// Floor of `max_tokens`.
    pub min_max_tokens: Option<u32>,
    /// Ceiling of `max_tokens`.
    pub max_output_tokens: Option<u32>,
    /// Name in answers, if not the slug.
    pub response_model: Option<Arc<str>>,
    /// Where it runs, in order.
    pub route: Vec<Arc<Entry>>,
}

/// One step of a route, with what is known of it right now.
#[derive(Debug)]
pub struct Entry {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Name of the model there.
    pub model: Arc<str>,
    /// Context length there.
    pub max_model_len: Option<u64>,
    failures: AtomicU32,
    /// Milliseconds after `epoch` until which it is skipped.
    skip_until: AtomicU64,
    epoch: Instant,
}

impl Entry {
    /// A step without history.
    #[must_use]
    pub fn new(backend: Arc<Backend>, model: Arc<str>, max_model_len: Option<u64>) -> Self {
        Self {
            backend,
            model,
            max_model_len,
            failures: AtomicU32::new(0),
            skip_until: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    fn skipped(&self, now: Instant) -> bool {
        self.skip_until.load(Ordering::Relaxed) > self.millis(now)
    }

    /// It could not be reached. Three times in a row, and it is skipped for a while.
    pub fn unreachable(&self, now: Instant) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_BEFORE_SKIP {
            self.skip_until.fetch_max(self.millis(now + SKIP), Ordering::Relaxed);
        }
    }

    /// It was reached.
    pub fn reached(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// It asked to be left alone.
    pub fn rest(&self, now: Instant, wait: Duration) {
        self.skip_until.fetch_max(self.millis(now + wait.min(LONGEST_SKIP)), Ordering::Relaxed);
    }
}

/// All models and backends.
#[derive(Debug, Default)]
pub struct Catalog {
    models: Vec<Arc<Model>>,
    slugs: HashMap<Arc<str>, usize>,
    /// Backends in file order.
    pub backends: Vec<Arc<Backend>>,
}

/// Why a slug cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No backend of its route speaks the protocol.
    NoBackend,
    /// Unknown, not allowed, or not for this endpoint.
    NotAvailable,
}

impl Catalog {
    /// A catalog of models. The first of two with one alias wins.
    #[must_use]
    pub fn new(models: Vec<Model>, backends: Vec<Arc<Backend>>) -> Self {
        let mut catalog = Self { backends, ..Self::default() };
        for model in models {
            if !catalog.slugs.contains_key(&model.alias) {
                catalog.slugs.insert(Arc::clone(&model.alias), catalog.models.len());
                catalog.models.push(Arc::new(model));
            }
        }
        catalog
    }

    /// All models, in order.
    #[must_use]
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// A model by slug.
    #[must_use]
    pub fn find(&self, slug: &str) -> Option<&Arc<Model>> {
        self.slugs.get(slug).and_then(|index| self.models.get(*index))
    }

    /// The model behind a slug, if this caller may use it with this protocol.
    ///
    /// # Errors
    /// Why not.
    pub fn resolve(
        &self,
        slug: &str,
        principal: Option<&Principal>,
        protocol: Protocol,
    ) -> Result<(&Arc<Model>, Vec<Arc<Entry>>), Unusable> {
        let model = self.find(slug).filter(|model| model.kind.fits(protocol) && allowed(&model.alias, slug, principal));
        let model = model.ok_or(Unusable::NotAvailable)?;
        let speaks = |entry: &&Arc<Entry>| entry.backend.protocols.contains(&protocol);
        let entries: Vec<Arc<Entry>> = model.route.iter().filter(speaks).cloned().collect();
        if entries.is_empty() { Err(Unusable::NoBackend) } else { Ok((model, entries)) }
    }
}

/// The tenant's lists and the token's own list.
pub(crate) fn allowed(alias: &str, slug: &str, principal: Option<&Principal>) -> bool {
    let Some(principal) = principal else { return true };
    let any = |globs: &[String]| globs.iter().any(|glob| matches(glob, slug) || matches(glob, alias));
    principal.models_allowlist.as_deref().is_none_or(any)
        && !principal.models_blacklist.as_deref().is_some_and(any)
        && principal.models.as_deref().is_none_or(any)
}

/// The order in which entries are tried: as routed, those that rest or are down last.
pub(crate) fn ordered(mut entries: Vec<Arc<Entry>>, now: Instant) -> Vec<Arc<Entry>> {
    entries.sort_by_key(|entry| (entry.skipped(now), !entry.backend.is_up()));
    entries
}

/// Makes the models of a catalog file.
pub(crate) fn models(file: CatalogFile, backends: &[Arc<Backend>], problems: &mut Vec<Problem>) -> Vec<Model> {
    if file.version != 1 {
        problems.push(Problem::at("version", "must be 1"));
    }
    let mut seen = std::collections::HashSet::new();
    let mut models = Vec::new();
    for (index, raw) in file.models.into_iter().enumerate() {
        let key = format!("models[{index}]");
        if !is_slug(&raw.alias) {
            problems.push(Problem::at(
                format!("{key}.alias"),
                "must match ^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$ without .. and //",
            ));
        }
        if !seen.insert(raw.alias.clone()) {
            problems.push(Problem::at(format!("{key}.alias"), "stands twice in the catalog"));
        }
        models.push(model(raw, &key, backends, problems));
    }
    models
}

fn model(raw: ModelFile, key: &str, backends: &[Arc<Backend>], problems: &mut Vec<Problem>) -> Model {
    if raw.route.is_empty() {
        problems.push(Problem::at(format!("{key}.route"), "must not be empty"));
    }
    let route = raw
        .route
        .iter()
        .enumerate()
        .filter_map(|(at, entry)| route_entry(entry, &format!("{key}.route[{at}]"), backends, problems));
    let route = route.collect();
    Model {
        alias: raw.alias.as_str().into(),
        kind: raw.kind,
        vendor: raw.vendor.unwrap_or_else(|| "unknown".to_owned()),
        created: raw.created.unwrap_or(DEFAULT_CREATED),
        image_input: raw.modalities.input.iter().any(|kind| kind == "image"),
        accepts_image_url: raw.constraints.accepts_image_url.unwrap_or(false),
        min_max_tokens: raw.constraints.min_max_tokens,
        max_output_tokens: raw.max_output_tokens,
        response_model: raw.response_model.map(Into::into),
        route,
    }
}

fn route_entry(
    entry: &EntryFile,
    key: &str,
    backends: &[Arc<Backend>],
    problems: &mut Vec<Problem>,
) -> Option<Arc<Entry>> {
    match backends.iter().find(|backend| *backend.id == *entry.backend) {
        Some(backend) => {
            Some(Arc::new(Entry::new(Arc::clone(backend), entry.model.as_str().into(), entry.max_model_len)))
        }
        None => {
            problems.push(Problem::at(format!("{key}.backend"), format!("there is no backend {}", entry.backend)));
            None
        }
    }
}

/// Whether a model name may be used as a slug; names that backends report are checked, too.
pub(crate) fn is_slug(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte))
        && !text.contains("..")
        && !text.contains("//")
}

/// A model that a backend reported itself.
pub(crate) fn discovered(alias: &str, kind: ModelKind, entry: Arc<Entry>) -> Model {
    Model {
        alias: alias.into(),
        kind,
        vendor: "local".to_owned(),
        created: DEFAULT_CREATED,
        image_input: kind == ModelKind::Chat,
        accepts_image_url: false,
        min_max_tokens: None,
        max_output_tokens: None,
        response_model: None,
        route: vec![entry],
    }
}
