//! From the models file to slugs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dgx_gateway_filter::Problem;
use dgx_gateway_wire::request::{MAX_INPUT_BYTES, MAX_INPUT_TOKENS, MAX_INPUTS};

use super::entry::Entry;
use super::{About, EmbeddingCaps, Model, ModelKind, Slug, Tier, slugs};
use crate::backend::{Backend, SUFFIX_RULE, is_suffix};
use crate::retries::RetryBudget;
use crate::settings::{AliasEntryFile, BackendEntryFile, CatalogFile, ConstraintsFile, EntryFile, ModelFile};

/// `created` of models that do not state theirs: 2025-01-01.
const DEFAULT_CREATED: i64 = 1_735_689_600;

/// The backends that routes may name.
pub(crate) struct Sources<'a> {
    /// Those that are valid.
    pub backends: &'a [Arc<Backend>],
    /// Ids of all of them; an entry of one that is not valid is left out.
    pub ids: &'a [String],
}

/// Makes the slugs of a catalog file.
pub(crate) fn read(file: CatalogFile, sources: &Sources<'_>, problems: &mut Vec<Problem>) -> Vec<Arc<Slug>> {
    if file.version != 1 {
        problems.push(Problem::at("version", "must be 1"));
    }
    let mut reader = Reader { sources, files: HashMap::new(), own: HashMap::new(), problems };
    for (index, model) in file.models.iter().enumerate() {
        reader.own_entries(index, model);
        reader.files.entry(&model.alias).or_insert(model);
    }
    let models: Vec<Arc<Model>> =
        file.models.iter().enumerate().map(|(index, model)| Arc::new(reader.model(index, model))).collect();
    let mut all: Vec<Slug> = models.iter().flat_map(slugs::of).collect();
    unique("models", &all, problems);
    let mut names = Vec::new();
    for (name, pin) in &file.pins {
        let slug = other_name(&format!("pins.{name}"), name, &pin.target, Tier::Pin, &all, problems);
        names.extend(slug.map(|slug| Slug { notes: pin.notes.as_deref().map(Into::into).or(slug.notes), ..slug }));
    }
    for (index, alias) in file.tenant_aliases.iter().enumerate() {
        let key = format!("tenant_aliases[{index}]");
        let slug = other_name(&key, &alias.slug, &alias.target, Tier::Tenant, &all, problems);
        if !alias.pinned && !alias.available_fallbacks.is_empty() {
            problems.push(Problem::at(format!("{key}.available_fallbacks"), "needs pinned: true"));
        }
        for (at, fallback) in alias.available_fallbacks.iter().enumerate().filter(|(_, slug)| !is_slug(slug)) {
            problems.push(Problem::at(format!("{key}.available_fallbacks[{at}]"), format!("{fallback} is no slug")));
        }
        let pinned = alias.pinned.then(|| alias.available_fallbacks.as_slice().into());
        names.extend(slug.map(|slug| Slug { tenants: alias.tenants.clone(), pinned, ..slug }));
    }
    unique("tenant_aliases", &names, problems);
    all.extend(names);
    all.into_iter().map(Arc::new).collect()
}

struct Reader<'a> {
    sources: &'a Sources<'a>,
    files: HashMap<&'a str, &'a ModelFile>,
    /// Entries that a model lists itself, by alias, then by position; composites share them.
    own: HashMap<(&'a str, usize), Option<Arc<Entry>>>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn own_entries(&mut self, index: usize, model: &'a ModelFile) {
        let key = format!("models[{index}]");
        if !is_slug(&model.alias) {
            self.problems.push(Problem::at(
                format!("{key}.alias"),
                "must match ^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$ without .. and //",
            ));
        }
        if model.route.is_empty() {
            self.problems.push(Problem::at(format!("{key}.route"), "must not be empty"));
        }
        for (at, entry) in model.route.iter().enumerate() {
            if let EntryFile::Backend(entry) = entry {
                let entry = self.entry(model, entry, &format!("{key}.route[{at}]"));
                self.own.insert((&model.alias, at), entry);
            }
        }
    }

    fn entry(&mut self, model: &ModelFile, entry: &BackendEntryFile, key: &str) -> Option<Arc<Entry>> {
        let backend = self.sources.backends.iter().find(|backend| *backend.id == *entry.backend);
        if backend.is_none() && !self.sources.ids.contains(&entry.backend) {
            self.problems.push(Problem::at(format!("{key}.backend"), format!("there is no backend {}", entry.backend)));
        }
        let backend = backend?;
        if let Some(quantization) = &entry.quantization {
            if self.sources.backends.iter().any(|any| any.machine.as_deref() == Some(quantization)) {
                self.problems.push(Problem::at(format!("{key}.quantization"), "must differ from every machine"));
            }
            if !is_suffix(quantization) {
                self.problems.push(Problem::at(format!("{key}.quantization"), SUFFIX_RULE));
            }
        }
        let (name, alias): (Arc<str>, Arc<str>) = (entry.model.as_str().into(), model.alias.as_str().into());
        Some(Arc::new(Entry {
            history: backend.live.history(&alias, &name),
            backend: Arc::clone(backend),
            enabled: backend.enabled && entry.enabled.unwrap_or(true),
            model: name,
            alias,
            floor: model.constraints.min_max_tokens,
            quantization: entry
                .quantization
                .as_deref()
                .filter(|_| backend.domain == crate::backend::Domain::Local)
                .map(Into::into),
            group: entry.group,
            configured_window: entry.max_model_len,
        }))
    }

    /// The route with the routes of other models in place.
    fn expand(&mut self, model: &'a ModelFile, key: &str, on_the_way: &mut Vec<&'a str>) -> Vec<Arc<Entry>> {
        if on_the_way.contains(&&*model.alias) {
            self.problems.push(Problem::at(format!("{key}.route"), format!("leads back to {}", model.alias)));
            return Vec::new();
        }
        on_the_way.push(&model.alias);
        let mut route = Vec::new();
        for (at, entry) in model.route.iter().enumerate() {
            match entry {
                EntryFile::Backend(_) => route.extend(self.own.get(&(&*model.alias, at)).cloned().flatten()),
                EntryFile::Alias(AliasEntryFile { alias }) => match self.files.get(&**alias).copied() {
                    Some(other) => route.extend(self.expand(other, key, on_the_way)),
                    None => self
                        .problems
                        .push(Problem::at(format!("{key}.route[{at}].alias"), format!("there is no model {alias}"))),
                },
            }
        }
        on_the_way.pop();
        route
    }

    fn model(&mut self, index: usize, file: &'a ModelFile) -> Model {
        let key = format!("models[{index}]");
        let listed = each_once(self.expand(file, &key, &mut Vec::new()));
        Model {
            alias: file.alias.as_str().into(),
            kind: file.kind,
            vendor: file.vendor.clone().unwrap_or_else(|| "unknown".to_owned()),
            created: file.created.unwrap_or(DEFAULT_CREATED),
            image_input: file.modalities.input.iter().any(|kind| kind == "image"),
            accepts_image_url: file.constraints.accepts_image_url.unwrap_or(false),
            min_max_tokens: file.constraints.min_max_tokens,
            max_output_tokens: file.max_output_tokens,
            response_model: file.response_model.as_deref().map(Into::into),
            embedding: caps(&file.constraints, file.dimensions_supported, &key, self.problems),
            about: About {
                family: file.family.clone(),
                vendor: file.vendor.clone(),
                description: file.description.clone(),
                context_window: file.context_window,
                tools: file.tools,
                reasoning: file.reasoning,
                modalities: file.modalities.clone(),
                json_mode: file.json_mode.unwrap_or(file.kind == ModelKind::Chat),
                license: file.license.clone(),
                typical_response_seconds: file.constraints.typical_response_seconds,
                notes: file.notes.as_deref().map(Into::into),
            },
            route: listed.iter().filter(|entry| entry.enabled).cloned().collect(),
            listed,
            retries: RetryBudget::default(),
        }
    }
}

/// Several members may lead to one entry; it is tried at its first place.
fn each_once(route: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    let mut once: Vec<Arc<Entry>> = Vec::with_capacity(route.len());
    for entry in route {
        if !once.iter().any(|known| Arc::ptr_eq(known, &entry)) {
            once.push(entry);
        }
    }
    once
}

fn caps(file: &ConstraintsFile, dimensions_supported: bool, key: &str, problems: &mut Vec<Problem>) -> EmbeddingCaps {
    let mut cap = |name: &str, value: Option<u64>, most: u64| {
        let value = value.unwrap_or(most);
        if !(1..=most).contains(&value) {
            problems.push(Problem::at(format!("{key}.constraints.{name}"), format!("must be 1 to {most}")));
        }
        value
    };
    let max_inputs = cap("max_inputs", file.max_inputs.map(|value| value as u64), MAX_INPUTS as u64);
    EmbeddingCaps {
        dimensions: file.dimensions,
        dimensions_supported,
        max_inputs: usize::try_from(max_inputs).unwrap_or(MAX_INPUTS),
        max_input_bytes: cap("max_input_bytes", file.max_input_bytes, MAX_INPUT_BYTES),
        max_input_tokens: cap("max_input_tokens", file.max_input_tokens, MAX_INPUT_TOKENS),
    }
}

fn unique(key: &str, all: &[Slug], problems: &mut Vec<Problem>) {
    let mut seen = HashSet::new();
    for slug in all {
        if !seen.insert(&*slug.id) {
            problems.push(Problem::at(key, format!("the slug {} stands for two things", slug.id)));
        }
        if slug.tier != Tier::Base && !is_slug(&slug.id) {
            problems.push(Problem::at(key, format!("the slug {} is too long", slug.id)));
        }
    }
}

fn other_name(
    key: &str,
    name: &str,
    target: &str,
    tier: Tier,
    all: &[Slug],
    problems: &mut Vec<Problem>,
) -> Option<Slug> {
    if !is_slug(name) || all.iter().any(|slug| *slug.id == *name) {
        problems.push(Problem::at(key, format!("{name} is no slug, or stands for another thing already")));
    }
    let found = all.iter().find(|slug| *slug.id == *target);
    if found.is_none() {
        problems.push(Problem::at(format!("{key}.target"), format!("there is no slug {target}")));
    }
    found.map(|target| slugs::renamed(name, target, tier))
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

/// The entry of a model that a backend reported itself.
pub(crate) fn discovered_entry(name: &str, backend: &Arc<Backend>) -> Entry {
    let name: Arc<str> = name.into();
    Entry {
        history: backend.live.history(&name, &name),
        backend: Arc::clone(backend),
        enabled: true,
        model: Arc::clone(&name),
        alias: name,
        floor: None,
        quantization: None,
        group: None,
        configured_window: None,
    }
}

/// A model that backends reported themselves.
pub(crate) fn discovered(alias: &str, kind: ModelKind, route: Vec<Arc<Entry>>) -> Slug {
    let alias: Arc<str> = alias.into();
    let embedding = EmbeddingCaps {
        dimensions: None,
        dimensions_supported: true,
        max_inputs: MAX_INPUTS,
        max_input_bytes: MAX_INPUT_BYTES,
        max_input_tokens: MAX_INPUT_TOKENS,
    };
    let model = Model {
        alias: Arc::clone(&alias),
        kind,
        vendor: "local".to_owned(),
        created: DEFAULT_CREATED,
        image_input: kind == ModelKind::Chat,
        accepts_image_url: false,
        min_max_tokens: None,
        max_output_tokens: None,
        response_model: None,
        embedding,
        about: About { json_mode: kind == ModelKind::Chat, ..About::default() },
        listed: route.clone(),
        route: route.clone(),
        retries: RetryBudget::default(),
    };
    Slug {
        id: alias,
        tier: Tier::Base,
        model: Arc::new(model),
        listed: route.clone(),
        entries: route,
        tenants: Vec::new(),
        target: None,
        pinned: None,
        notes: None,
    }
}
