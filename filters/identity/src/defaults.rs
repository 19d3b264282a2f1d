//! `tenants[].defaults`: the operator's level of the tenant configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use dgx_gateway_filter::facts::{AugmentSwitches, StreamConduct};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::schema;
use crate::yaml::{Node, Reader, Section};

/// What the operator sets for a tenant; everything may be left out.
#[derive(Clone, Debug, Default)]
pub struct TenantDefaults {
    /// Factor on the cost of a call, 0.01 to 100.
    pub cost_markup_factor: Option<Decimal>,
    /// Globs of slugs that the tenant may use; `None` means all. Excludes `models_blacklist`.
    pub models_allowlist: Option<Arc<[String]>>,
    /// Globs of slugs that the tenant may not use.
    pub models_blacklist: Option<Arc<[String]>>,
    /// Whether the audit log shows a pseudonym instead of the user id.
    pub audit_user_id_pseudonymize: Option<bool>,
    /// Accepted, without effect.
    pub c1_require_user_id_binding: Option<bool>,
    /// Keys that the tenant may override at run time.
    pub settings: BTreeMap<&'static str, Setting>,
}

/// Value of a key that the tenant may override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A decimal number.
    Decimal(Decimal),
    /// A truth value.
    Flag(bool),
    /// A whole number.
    Integer(u64),
    /// A list of words.
    List(Arc<[String]>),
    /// No value, where the key allows that.
    Null,
    /// One word.
    Text(Arc<str>),
}

/// Type and range of a key.
enum Kind {
    /// Hundredths, from and to.
    Decimal(i64, i64),
    /// At most 200 domain names.
    Domains,
    Flag,
    Integer(u64, u64),
    Slug,
    SlugOrNull,
    Tools,
    Word(&'static [&'static str]),
}

/// Keys that the tenant may override, with type and range. Whether a slug or tool exists is checked where it is used.
const KEYS: &[(&str, Kind)] = &[
    ("augment_memory", Kind::Flag),
    ("augment_server_tools", Kind::Flag),
    ("augment_system_prompt", Kind::Flag),
    ("c1_max_history_turns", Kind::Integer(0, 10_000)),
    ("c1_retention_days", Kind::Integer(0, 3650)),
    ("compaction_enabled", Kind::Flag),
    ("compaction_keep_turns", Kind::Integer(0, 50)),
    ("compaction_model", Kind::SlugOrNull),
    ("compaction_summary_max_tokens", Kind::Integer(128, 8192)),
    ("compaction_threshold", Kind::Decimal(30, 95)),
    ("default_model", Kind::SlugOrNull),
    ("image_gen_inline", Kind::Flag),
    ("image_gen_max_per_request", Kind::Integer(0, 8)),
    ("image_gen_model", Kind::Slug),
    ("image_gen_size", Kind::Word(&["auto", "1024x1024", "1024x1536", "1536x1024"])),
    ("images_max_bytes_per_user", Kind::Integer(0, 1_099_511_627_776)),
    ("images_retention_days", Kind::Integer(0, 3650)),
    ("memory_inject_max_bytes", Kind::Integer(0, 65_536)),
    ("rag_chunk_overlap", Kind::Integer(0, 512)),
    ("rag_chunk_tokens", Kind::Integer(64, 2000)),
    ("rag_embedding_model", Kind::SlugOrNull),
    ("rag_top_k", Kind::Integer(1, 20)),
    ("server_tools_allowlist", Kind::Tools),
    ("session_retention_days", Kind::Integer(0, 3650)),
    ("stream_cost_event", Kind::Flag),
    ("stream_heartbeat_seconds", Kind::Integer(0, 120)),
    ("stt_default_mode", Kind::Word(&["continuous", "chunked"])),
    ("stt_model", Kind::SlugOrNull),
    ("tool_max_iterations", Kind::Integer(1, 50)),
    ("tool_result_max_bytes", Kind::Integer(1024, 262_144)),
    ("tool_timeout_seconds", Kind::Integer(1, 300)),
    ("tools_confirm_same_turn", Kind::Flag),
    ("web_fetch_allow_domains", Kind::Domains),
    ("web_fetch_deny_domains", Kind::Domains),
];

const MAX_DOMAINS: usize = 200;

impl TenantDefaults {
    pub(crate) fn read(node: Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut section = node.section(reader)?;
        let defaults = Self {
            cost_markup_factor: section
                .optional("cost_markup_factor")
                .and_then(|node| node.decimal(reader, Decimal::new(1, 2), Decimal::ONE_HUNDRED)),
            models_allowlist: section.optional("models_allowlist").and_then(|node| globs(node, reader)),
            models_blacklist: section.optional("models_blacklist").and_then(|node| globs(node, reader)),
            audit_user_id_pseudonymize: flag(&mut section, "audit_user_id_pseudonymize", reader),
            c1_require_user_id_binding: flag(&mut section, "c1_require_user_id_binding", reader),
            settings: settings(&mut section, reader),
        };
        if defaults.models_allowlist.is_some() && defaults.models_blacklist.is_some() {
            reader.problem(section.path_of("models_blacklist"), "excludes models_allowlist; set one of the two");
        }
        defaults.check_overlap(&section, reader);
        section.finish(reader);
        Some(defaults)
    }

    /// How streams are conducted, if the operator has set something of it.
    pub(crate) fn streams(&self) -> Option<StreamConduct> {
        let heartbeat_seconds = match self.settings.get("stream_heartbeat_seconds") {
            Some(Setting::Integer(seconds)) => Some(*seconds),
            _ => None,
        };
        let cost_event = match self.settings.get("stream_cost_event") {
            Some(Setting::Flag(wanted)) => Some(*wanted),
            _ => None,
        };
        let conduct = StreamConduct { heartbeat_seconds, cost_event };
        (conduct != StreamConduct::default()).then_some(conduct)
    }

    /// What may be added to prompts; everything, unless a key says false.
    #[must_use]
    pub fn augment_switches(&self) -> AugmentSwitches {
        let is_on = |key| self.settings.get(key) != Some(&Setting::Flag(false));
        AugmentSwitches {
            memory: is_on("augment_memory"),
            server_tools: is_on("augment_server_tools"),
            system_prompt: is_on("augment_system_prompt"),
        }
    }

    /// The overlap of chunks is at most half of a chunk; the product's defaults are 64 of 512.
    fn check_overlap(&self, section: &Section, reader: &mut Reader<'_>) {
        let integer = |key, default| match self.settings.get(key) {
            Some(Setting::Integer(value)) => *value,
            _ => default,
        };
        if integer("rag_chunk_overlap", 64) * 2 > integer("rag_chunk_tokens", 512) {
            reader.problem(section.path_of("rag_chunk_overlap"), "must be at most half of rag_chunk_tokens");
        }
    }
}

fn flag(section: &mut Section, key: &str, reader: &mut Reader<'_>) -> Option<bool> {
    section.optional(key)?.boolean(reader)
}

fn settings(section: &mut Section, reader: &mut Reader<'_>) -> BTreeMap<&'static str, Setting> {
    let mut settings = BTreeMap::new();
    for (key, kind) in KEYS {
        if let Some(setting) = section.take(key).and_then(|node| kind.read(node, reader)) {
            settings.insert(*key, setting);
        }
    }
    settings
}

impl Kind {
    fn schema(&self) -> Value {
        match self {
            Self::Decimal(..) => schema::decimal(),
            Self::Domains => schema::with(schema::list(schema::word()), "maxItems", MAX_DOMAINS),
            Self::Flag => schema::flag(),
            Self::Integer(min, max) => schema::integer(*min, *max),
            Self::Slug => schema::word(),
            Self::SlugOrNull => schema::absent_or(schema::word()),
            Self::Tools => schema::with(schema::list(schema::word()), "uniqueItems", true),
            Self::Word(words) => json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": "\\$\\{"}]}),
        }
    }

    fn read(&self, node: Node, reader: &mut Reader<'_>) -> Option<Setting> {
        match self {
            Self::Decimal(min, max) => {
                node.decimal(reader, Decimal::new(*min, 2), Decimal::new(*max, 2)).map(Setting::Decimal)
            }
            Self::Domains => domains(node, reader),
            Self::Flag => node.boolean(reader).map(Setting::Flag),
            Self::Integer(min, max) => node.number(reader, *min, *max).map(Setting::Integer),
            Self::SlugOrNull if node.is_null() => Some(Setting::Null),
            Self::Slug | Self::SlugOrNull => word(&node, reader).map(|slug| Setting::Text(slug.into())),
            Self::Tools => distinct_words(node, reader),
            Self::Word(words) => node
                .text_as(reader, &format!("one of {}", words.join(", ")), |text| {
                    words.iter().find(|word| **word == text).copied()
                })
                .map(|word| Setting::Text(word.into())),
        }
    }
}

/// The shape of `tenants[].defaults`.
pub(crate) fn schema() -> Value {
    let decimal = || schema::absent_or(schema::decimal());
    let globs = || schema::absent_or(schema::list(schema::word()));
    let flag = || schema::absent_or(schema::flag());
    let own = [
        ("cost_markup_factor", decimal()),
        ("models_allowlist", globs()),
        ("models_blacklist", globs()),
        ("audit_user_id_pseudonymize", flag()),
        ("c1_require_user_id_binding", flag()),
    ];
    let defaults = schema::mapping(&[], own.into_iter().chain(KEYS.iter().map(|(key, kind)| (*key, kind.schema()))));
    let set = |name: &str| json!({"required": [name], "properties": {name: {"type": "array"}}});
    schema::with(defaults, "not", json!({"allOf": [set("models_allowlist"), set("models_blacklist")]}))
}

fn domains(node: Node, reader: &mut Reader<'_>) -> Option<Setting> {
    let path = node.path.clone();
    let domains = node.list_of(reader, |node, reader| word(&node, reader))?;
    if domains.len() > MAX_DOMAINS {
        reader.problem(path, format_args!("has {} entries, at most {MAX_DOMAINS} are allowed", domains.len()));
        return None;
    }
    Some(Setting::List(domains.into()))
}

fn distinct_words(node: Node, reader: &mut Reader<'_>) -> Option<Setting> {
    let path = node.path.clone();
    let words = node.list_of(reader, |node, reader| word(&node, reader))?;
    let twice = words.iter().enumerate().find(|(index, one)| words.iter().skip(index + 1).any(|other| other == *one));
    if let Some((_, word)) = twice {
        reader.problem(path, format_args!("names {word} twice"));
        return None;
    }
    Some(Setting::List(words.into()))
}

/// A slug, glob, tool name or domain: visible characters only.
fn word(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    node.text_as(reader, "a word of at most 256 visible characters", |text| {
        let visible = !text.is_empty() && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
        visible.then(|| text.to_owned())
    })
}

/// Globs of slugs; `*` stands for any characters, everything else for itself.
pub(crate) fn globs(node: Node, reader: &mut Reader<'_>) -> Option<Arc<[String]>> {
    node.list_of(reader, |node, reader| word(&node, reader)).map(Into::into)
}
