//! Answers.

use std::fmt;
use std::sync::Arc;

use dgx_gateway_filter::services::{Aliases, ModelNames};
use dgx_gateway_filter::tenant_config::keys::MAX_BYTES_PER_BUCKET;
use dgx_gateway_filter::tenant_config::{Cascade, Group, Source, TenantKey, Value};
use jiff::Timestamp;
use serde::ser::{Error, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::rows::{Mark, OwnLevel};

/// A value as JSON. A decimal is a number with the digits that it was written with.
pub(crate) struct Shown<'a>(pub &'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Decimal(decimal) => {
                RawValue::from_string(decimal.to_string()).map_err(S::Error::custom)?.serialize(serializer)
            }
            Value::Flag(flag) => serializer.serialize_bool(*flag),
            Value::Integer(number) => serializer.serialize_u64(*number),
            Value::List(words) => serializer.collect_seq(words.iter()),
            Value::Null => serializer.serialize_unit(),
            Value::Text(word) => serializer.serialize_str(word),
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// A key and all that is told of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: &'static str,
    value: Value,
    source: Source,
    group: Group,
    kind: &'static str,
    default: Value,
    mark: Option<Mark>,
}

impl Entry {
    /// A key of group B or C.
    pub(crate) fn of(key: TenantKey, cascade: &Cascade<'_>, own: &OwnLevel) -> Self {
        let about = key.about();
        let (value, source) = cascade.value(key);
        Self {
            name: about.name,
            value: value.clone(),
            source,
            group: about.group,
            kind: about.kind.type_name(),
            default: about.default(cascade.process.limits),
            mark: own.marks.get(&key).filter(|_| source == Source::Db).cloned(),
        }
    }

    fn members<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("value", &Shown(&self.value))?;
        map.serialize_entry("source", self.source.as_str())?;
        map.serialize_entry("group", self.group.as_str())?;
        map.serialize_entry("type", self.kind)?;
        map.serialize_entry("default", &Shown(&self.default))?;
        map.serialize_entry("writable", &(self.group == Group::C))?;
        map.serialize_entry("updated_at", &self.mark.as_ref().map(|mark| time(mark.at)))?;
        map.serialize_entry("updated_by", &self.mark.as_ref().map(|mark| &*mark.by))
    }
}

/// Seconds are enough for people.
fn time(millis: i64) -> String {
    let seconds = Timestamp::from_second(millis.div_euclid(1000));
    seconds.map(|time| time.to_string()).unwrap_or_default()
}

/// Inside the answer that lists all keys.
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(8))?;
        self.members(&mut map)?;
        map.end()
    }
}

/// One key as an answer of its own.
pub(crate) struct Single(pub Entry);

impl Serialize for Single {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(9))?;
        map.serialize_entry("key", self.0.name)?;
        self.0.members(&mut map)?;
        map.end()
    }
}

/// The answer that lists all keys.
#[derive(Serialize)]
pub(crate) struct All {
    pub tenant_id: Arc<str>,
    pub config: Entries,
}

/// Keys in their order.
pub(crate) struct Entries(pub Vec<Entry>);

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (entry.name, entry)))
    }
}

/// A key that nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fixed {
    AllowedEmbeddingModels,
    AllowedModels,
    MaxBytesPerBucket,
}

impl Fixed {
    /// All, in the order of answers.
    pub(crate) const ALL: [Self; 3] = [Self::AllowedEmbeddingModels, Self::AllowedModels, Self::MaxBytesPerBucket];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllowedEmbeddingModels => "ALLOWED_EMBEDDING_MODELS",
            Self::AllowedModels => "ALLOWED_MODELS",
            Self::MaxBytesPerBucket => "MAX_BYTES_PER_BUCKET",
        }
    }

    pub(crate) fn entry(self, models: &dyn ModelNames) -> Entry {
        let list = |aliases: Vec<Arc<str>>| {
            let words: Arc<[String]> = aliases.iter().map(|alias| alias.as_ref().to_owned()).collect();
            (Value::List(words), "list")
        };
        let (value, kind) = match self {
            Self::AllowedEmbeddingModels => list(models.aliases(Aliases::Embedding)),
            Self::AllowedModels => list(models.aliases(Aliases::All)),
            Self::MaxBytesPerBucket => (Value::Integer(MAX_BYTES_PER_BUCKET), "integer"),
        };
        let (source, group, default) = (Source::Process, Group::A, value.clone());
        Entry { name: self.name(), value, source, group, kind, default, mark: None }
    }
}

#[cfg(test)]
mod tests {
    use dgx_gateway_filter::tenant_config::{Level, Process};
    use rust_decimal::Decimal;

    use super::*;

    #[test]
    fn an_entry_is_written_as_the_specification_shows() {
        let mut own = OwnLevel::default();
        let mark = Mark { at: 1_778_932_800_999, by: "acme-admin".into() };
        own.set(TenantKey::CompactionThreshold, Value::Decimal(Decimal::new(75, 2)), mark);
        let yaml = Level::from([(TenantKey::CostMarkupFactor, Value::Decimal(Decimal::new(120, 2)))]);
        let process = Process::default();
        let cascade = Cascade { db: &own.values, yaml: &yaml, process: &process };
        let entry = Entry::of(TenantKey::CompactionThreshold, &cascade, &own);
        assert_eq!(
            serde_json::to_string(&Single(entry)).unwrap(),
            r#"{"key":"compaction_threshold","value":0.75,"source":"db","group":"C","type":"decimal","default":0.80,"writable":true,"updated_at":"2026-05-16T12:00:00Z","updated_by":"acme-admin"}"#
        );
        let entries = Entries(vec![Entry::of(TenantKey::CostMarkupFactor, &cascade, &own)]);
        assert_eq!(
            serde_json::to_string(&All { tenant_id: "acme".into(), config: entries }).unwrap(),
            r#"{"tenant_id":"acme","config":{"cost_markup_factor":{"value":1.20,"source":"yaml","group":"B","type":"decimal","default":1.00,"writable":false,"updated_at":null,"updated_by":null}}}"#
        );
    }
}
