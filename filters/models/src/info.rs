//! The document of `GET /v1/info`: what a caller may use, described. No URL, host, machine or upstream name is in it.

use std::sync::Arc;

use dgx_gateway_filter::facts::Principal;
use serde::Serialize;

use crate::backend::{Backend, Domain};
use crate::catalog::{Catalog, Entry, MACHINE_SCOPE, Model, ModelKind, Slug, Tier};
use crate::settings::{LicenseFile, ModalitiesFile, Reasoning};

/// The whole document.
#[derive(Serialize)]
pub(crate) struct Info<'a> {
    object: &'static str,
    version: &'static str,
    tenant_id: Option<&'a str>,
    models: Vec<Described<'a>>,
    backends: Vec<Place<'a>>,
}

/// One base alias with its derived slugs, or one further name.
#[derive(Serialize)]
struct Described<'a> {
    alias: &'a str,
    tier: &'static str,
    target: Option<&'a str>,
    #[serde(rename = "type")]
    kind: ModelKind,
    family: Option<&'a str>,
    vendor: Option<&'a str>,
    description: Option<&'a str>,
    context_window: Option<u64>,
    max_output_tokens: Option<u32>,
    tools: Option<bool>,
    vision: bool,
    reasoning: Option<Reasoning>,
    modalities: &'a ModalitiesFile,
    capabilities: Vec<&'static str>,
    license: Option<&'a LicenseFile>,
    constraints: Constraints,
    slugs: Vec<&'a str>,
    backends: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Constraints {
    min_max_tokens: Option<u32>,
    accepts_image_url: bool,
    typical_response_seconds: Option<u32>,
    #[serde(flatten)]
    embedding: Option<EmbeddingConstraints>,
}

#[derive(Serialize)]
struct EmbeddingConstraints {
    dimensions: Option<u32>,
    max_inputs: usize,
    max_input_bytes: u64,
    max_input_tokens: u64,
}

/// A step of a route.
#[derive(PartialEq, Serialize)]
struct Step<'a> {
    label: &'a str,
    domain: Domain,
    quantization: Option<&'a str>,
    status: Status,
    notes: Option<&'a str>,
}

/// A backend.
#[derive(Serialize)]
struct Place<'a> {
    label: &'a str,
    domain: Domain,
    status: Status,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Available,
    /// Listed, not used.
    Catalog,
    Unavailable,
}

impl Status {
    fn of(backend: &Backend, enabled: bool) -> Self {
        match (enabled, backend.is_up()) {
            (false, _) => Self::Catalog,
            (true, true) => Self::Available,
            (true, false) => Self::Unavailable,
        }
    }
}

impl<'a> Info<'a> {
    /// What this caller may use, as it is right now.
    pub(crate) fn of(catalog: &'a Catalog, principal: Option<&'a Principal>) -> Self {
        let usable: Vec<&Slug> =
            catalog.slugs().iter().map(|slug| &**slug).filter(|slug| slug.usable_by(principal)).collect();
        // slugs of one model stand together, further names behind all of them
        let same = |one: &&Slug, other: &&Slug| {
            one.target.is_none() && other.target.is_none() && Arc::ptr_eq(&one.model, &other.model)
        };
        let models = usable.chunk_by(same).filter_map(|slugs| described(slugs, principal)).collect();
        let place = |backend: &'a Arc<Backend>| Place {
            label: &backend.label,
            domain: backend.domain,
            status: Status::of(backend, backend.enabled),
        };
        Self {
            object: "info",
            version: env!("CARGO_PKG_VERSION"),
            tenant_id: principal.map(|principal| &*principal.tenant_id),
            models,
            backends: catalog.listed.iter().map(place).collect(),
        }
    }
}

/// One entry from the usable slugs of a model, or from one further name.
fn described<'a>(slugs: &[&'a Slug], principal: Option<&Principal>) -> Option<Described<'a>> {
    let first: &'a Slug = slugs.first()?;
    let model: &'a Model = &first.model;
    let about = &model.about;
    Some(Described {
        alias: if first.target.is_some() { &first.id } else { &model.alias },
        tier: match first.tier {
            Tier::Pin => "T5",
            Tier::Tenant => "tenant",
            _ => "T1",
        },
        target: target(first, principal),
        kind: model.kind,
        family: about.family.as_deref(),
        vendor: about.vendor.as_deref(),
        description: about.description.as_deref(),
        context_window: about.context_window,
        max_output_tokens: model.max_output_tokens,
        tools: about.tools,
        vision: model.image_input,
        reasoning: about.reasoning,
        modalities: &about.modalities,
        capabilities: capabilities(model),
        license: about.license.as_ref(),
        constraints: constraints(model),
        slugs: slugs.iter().map(|slug| &*slug.id).collect(),
        backends: steps(slugs),
    })
}

/// What a further name stands for. That of a tenant alias is the operator's business, and so is a machine.
fn target<'a>(slug: &'a Slug, principal: Option<&Principal>) -> Option<&'a str> {
    let target = slug.target.as_ref()?;
    let hidden = slug.tier == Tier::Tenant || target.tier == Tier::Machine;
    let may_see = !hidden || principal.is_some_and(|principal| principal.scopes.allow(MACHINE_SCOPE));
    may_see.then_some(&*target.slug)
}

/// The route as far as these slugs reach, in its order. Steps that look alike are one.
fn steps<'a>(slugs: &[&'a Slug]) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    let Some(first) = slugs.first() else { return steps };
    let reached = |entry: &Arc<Entry>| slugs.iter().any(|slug| slug.listed.iter().any(|own| Arc::ptr_eq(own, entry)));
    for entry in first.model.listed.iter().filter(|entry| reached(entry)) {
        let step = Step {
            label: &entry.backend.label,
            domain: entry.backend.domain,
            quantization: entry.quantization.as_deref(),
            status: Status::of(&entry.backend, entry.enabled),
            notes: first.notes.as_deref(),
        };
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    steps
}

fn capabilities(model: &Model) -> Vec<&'static str> {
    let about = &model.about;
    let has = |kinds: &[String], wanted: &str| kinds.iter().any(|kind| kind == wanted);
    let takes = |kind| has(&about.modalities.input, kind);
    [
        ("streaming", matches!(model.kind, ModelKind::Chat | ModelKind::Image)),
        ("tools", about.tools == Some(true)),
        ("vision", model.image_input),
        ("reasoning", matches!(about.reasoning, Some(Reasoning::Configurable | Reasoning::Yes))),
        ("json_mode", about.json_mode),
        ("image_output", has(&about.modalities.output, "image")),
        ("audio_input", takes("audio")),
        ("video_input", takes("video")),
        ("embeddings", model.kind == ModelKind::Embedding),
        ("rerank", model.kind == ModelKind::Rerank),
    ]
    .into_iter()
    .filter_map(|(name, holds)| holds.then_some(name))
    .collect()
}

fn constraints(model: &Model) -> Constraints {
    let caps = &model.embedding;
    Constraints {
        min_max_tokens: model.min_max_tokens,
        accepts_image_url: model.accepts_image_url,
        typical_response_seconds: model.about.typical_response_seconds,
        embedding: (model.kind == ModelKind::Embedding).then_some(EmbeddingConstraints {
            dimensions: caps.dimensions,
            max_inputs: caps.max_inputs,
            max_input_bytes: caps.max_input_bytes,
            max_input_tokens: caps.max_input_tokens,
        }),
    }
}

#[cfg(test)]
mod tests;
