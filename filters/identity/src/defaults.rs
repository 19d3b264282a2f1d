//! `tenants[].defaults`: the operator's level of the tenant configuration.

use dgx_gateway_filter::tenant_config::kind::MAX_DOMAINS;
use dgx_gateway_filter::tenant_config::{Cascade, Group, Kind, Level, Process, TenantKey, Value};
use serde_json::{Value as Json, json};

use crate::schema;
use crate::yaml::{Node, Reader, Section};

/// Reads what the operator sets for a tenant; everything may be left out.
pub(crate) fn read(node: Node, process: &Process, reader: &mut Reader<'_>) -> Option<Level> {
    let mut section = node.section(reader)?;
    let mut level = Level::new();
    for key in TenantKey::ALL {
        if let Some(value) = take(&mut section, *key).and_then(|node| value(node, *key, process, reader)) {
            level.insert(*key, value);
        }
    }
    let is_set = |key| level.contains_key(&key);
    if is_set(TenantKey::ModelsAllowlist) && is_set(TenantKey::ModelsBlacklist) {
        reader.problem(section.path_of("models_blacklist"), "excludes models_allowlist; set one of the two");
    }
    let cascade = Cascade { db: &Level::new(), yaml: &level, process };
    if let Err(wrong) = cascade.check_overlap() {
        reader.problem(section.path_of(TenantKey::RagChunkOverlap.about().name), wrong.message);
    }
    section.finish(reader);
    Some(level)
}

/// Null is the same as absent for what the operator alone may set; else it is a value.
fn take(section: &mut Section, key: TenantKey) -> Option<Node> {
    let about = key.about();
    section.take(about.name).filter(|node| about.group == Group::C || !node.is_null())
}

fn value(node: Node, key: TenantKey, process: &Process, reader: &mut Reader<'_>) -> Option<Value> {
    let path = node.path.clone();
    let input = node.input(reader)?;
    let wrong = match key.about().kind.read(input, process.limits) {
        Ok(value) => return Some(value),
        Err(wrong) => wrong,
    };
    for wrong in wrong {
        let path = wrong.item.map_or_else(|| path.clone(), |index| format!("{path}[{index}]"));
        reader.problem(path, wrong.message);
    }
    None
}

/// The shape of `tenants[].defaults`.
pub(crate) fn schema() -> Json {
    let of = |key: &TenantKey| {
        let about = key.about();
        let shape = shape(about.kind);
        (about.name, if about.group == Group::B { schema::absent_or(shape) } else { shape })
    };
    let defaults = schema::mapping(&[], TenantKey::ALL.iter().map(of));
    let set = |name: &str| json!({"required": [name], "properties": {name: {"type": "array"}}});
    schema::with(defaults, "not", json!({"allOf": [set("models_allowlist"), set("models_blacklist")]}))
}

fn shape(kind: Kind) -> Json {
    match kind {
        Kind::Decimal(..) => schema::decimal(),
        Kind::Domains => schema::with(schema::list(schema::word()), "maxItems", MAX_DOMAINS),
        Kind::Flag => schema::flag(),
        Kind::Globs => schema::list(schema::word()),
        Kind::Integer(min, max) => schema::integer(min, max),
        Kind::Iterations => schema::integer(1, 50), // the most that a process may allow
        Kind::Slug(_) => schema::word(),
        Kind::SlugOrNull(_) => schema::absent_or(schema::word()),
        Kind::Tools => schema::with(schema::list(schema::word()), "uniqueItems", true),
        Kind::Word(words) => json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": "\\$\\{"}]}),
    }
}
