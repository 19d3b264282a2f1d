//! The names that a model and its route give.

use std::sync::Arc;

use super::entry::Entry;
use super::{Model, Slug, Target, Tier};
use crate::backend::Domain;

/// The alias and its derived slugs, in the order in which they are listed.
pub(super) fn of(model: &Arc<Model>) -> Vec<Slug> {
    let mut slugs = vec![slug(model, String::new(), Tier::Base, |_| true)];
    for domain in [Domain::Local, Domain::Cloud] {
        slugs.push(slug(model, format!("-{}", domain.as_str()), Tier::Domain, |entry| entry.backend.domain == domain));
    }
    for quantization in distinct(model, |entry| entry.quantization.clone()) {
        let of = |entry: &Entry| entry.quantization.as_ref() == Some(&quantization);
        slugs.push(slug(model, format!("-{quantization}"), Tier::Quantization, of));
    }
    let mut slots = distinct(model, |entry| entry.backend.cloud_slot);
    slots.sort_unstable();
    for slot in slots {
        slugs.push(slug(model, format!("-cloud-{slot}"), Tier::CloudSlot, |entry| {
            entry.backend.cloud_slot == Some(slot)
        }));
    }
    for machine in distinct(model, |entry| entry.backend.machine.clone()) {
        let on = |entry: &Entry| entry.backend.machine.as_ref() == Some(&machine);
        slugs.push(slug(model, format!("-{machine}"), Tier::Machine, on));
    }
    slugs.retain(|slug| !slug.entries.is_empty());
    slugs
}

fn slug(model: &Arc<Model>, suffix: String, tier: Tier, part: impl Fn(&Entry) -> bool) -> Slug {
    let mut listed: Vec<Arc<Entry>> = model.listed.iter().filter(|entry| part(entry)).cloned().collect();
    if suffix == "-cloud" {
        // by slot, then those without one in the order of the route
        listed.sort_by_key(|entry| entry.backend.cloud_slot.unwrap_or(u32::MAX));
    }
    Slug {
        id: format!("{}{suffix}", model.alias).into(),
        tier,
        model: Arc::clone(model),
        entries: listed.iter().filter(|entry| entry.enabled).cloned().collect(),
        listed,
        tenants: Vec::new(),
        target: None,
        pinned: None,
        notes: model.about.notes.clone(),
    }
}

fn distinct<T: PartialEq>(model: &Model, of: impl Fn(&Entry) -> Option<T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in model.route.iter().filter_map(|entry| of(entry)) {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

/// Another name of a slug.
pub(super) fn renamed(name: &str, target: &Slug, tier: Tier) -> Slug {
    Slug {
        id: name.into(),
        tier,
        model: Arc::clone(&target.model),
        entries: target.entries.clone(),
        listed: target.listed.clone(),
        tenants: Vec::new(),
        pinned: None,
        target: Some(Target { slug: Arc::clone(&target.id), tier: target.tier }),
        notes: target.notes.clone(),
    }
}
