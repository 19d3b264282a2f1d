//! What the endpoint does with a request.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use dgx_gateway_filter::FilterError;
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::facts::Principal;
use dgx_gateway_filter::services::ModelNames;
use dgx_gateway_filter::tenant_config::{Cascade, Group, Level, TenantKey, Value, Wrong};
use serde_json::value::RawValue;

use crate::change::{Author, Change, Changes, Done, Failed};
use crate::document::input;
use crate::entry::{All, Entries, Entry, Fixed};
use crate::refusal::{self, Place};
use crate::rows::OwnLevel;

/// What else the operator sets for tenants and tokens in `tokens.yaml`. It can be named, but neither read nor written
/// here.
const OF_OPERATOR: [&str; 8] =
    ["budgets", "constraints", "deny_scopes", "extra_scopes", "limits", "rate_limit", "rate_limit_bypass", "secrets"];

/// What the handlers work with.
pub(crate) struct Requests {
    pub changes: Changes,
    pub models: Arc<dyn ModelNames>,
    pub clock: Arc<dyn Clock>,
}

impl Requests {
    /// What the tenant of a caller has set, and what its operator has.
    pub(crate) fn levels(&self, caller: &Principal) -> Result<(Arc<OwnLevel>, &Arc<Level>), FilterError> {
        let levels = self.changes.tenancy.levels(&caller.tenant_id);
        levels.ok_or_else(|| FilterError::internal("the configuration of a tenant is not known"))
    }

    fn cascade<'a>(&'a self, own: &'a OwnLevel, yaml: &'a Level) -> Cascade<'a> {
        Cascade { db: &own.values, yaml, process: &self.changes.tenancy.process }
    }

    pub(crate) fn entry(&self, key: TenantKey, own: &OwnLevel, yaml: &Level) -> Entry {
        Entry::of(key, &self.cascade(own, yaml), own)
    }

    pub(crate) fn list(&self, caller: &Principal, own: &OwnLevel, yaml: &Level) -> All {
        let cascade = self.cascade(own, yaml);
        let fixed = Fixed::ALL.iter().map(|fixed| fixed.entry(&*self.models));
        let others = TenantKey::ALL.iter().map(|key| Entry::of(*key, &cascade, own));
        All { tenant_id: Arc::clone(&caller.tenant_id), config: Entries(fixed.chain(others).collect()) }
    }

    /// The changes that the members of `config` ask for. Keys that are not known are told first, then those that a
    /// tenant may not write, then values.
    pub(crate) fn edits(
        &self,
        members: &[(String, &RawValue)],
        caller: &Principal,
    ) -> Result<Vec<(TenantKey, Option<Value>)>, FilterError> {
        let mut keys = Vec::with_capacity(members.len());
        let mut read_only = None;
        for (name, raw) in members {
            let place = Place::Config(name);
            match writable(place) {
                Ok(key) => keys.push((place, key, *raw)),
                Err(NotWritable::Unknown(refusal)) => return Err(refusal),
                Err(NotWritable::ReadOnly(refusal)) => drop(read_only.get_or_insert(refusal)),
            }
        }
        if let Some(refusal) = read_only {
            return Err(refusal);
        }
        let edit = |(place, key, raw)| Ok((key, Some(self.value(place, key, raw, caller)?)));
        keys.into_iter().map(edit).collect()
    }

    /// The value of a key, if it may have it.
    pub(crate) fn value(
        &self,
        place: Place<'_>,
        key: TenantKey,
        raw: &RawValue,
        caller: &Principal,
    ) -> Result<Value, FilterError> {
        let kind = key.about().kind;
        let input = input(raw.get()).ok_or_else(|| refusal::not_json(&"a value cannot be read"))?;
        let value = kind.read(input, self.changes.tenancy.process.limits).map_err(|wrong| {
            let first = wrong.into_iter().next();
            refusal::value(place, &first.unwrap_or(Wrong { item: None, message: "does not fit".to_owned() }))
        })?;
        match (kind.model_use(), &value) {
            (Some(wanted_for), Value::Text(slug)) if !self.models.is_usable(slug, caller, wanted_for) => {
                Err(refusal::model(place))
            }
            _ => Ok(value),
        }
    }

    /// Changes something; `rule` says a rule between keys that would be broken.
    pub(crate) async fn carry_out(
        &self,
        author: Author,
        edits: Vec<(TenantKey, Option<Value>)>,
        rule: impl FnOnce(&Wrong) -> FilterError,
    ) -> Result<Done, FilterError> {
        let since = self.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let change = Change { author: Arc::new(author), edits, at };
        self.changes.carry_out(change).await.map_err(|failed| match failed {
            Failed::Rule(wrong) => rule(&wrong),
            Failed::Store(error) => refusal::storage(error),
        })
    }
}

/// Why a key cannot be written.
#[derive(Debug)]
pub(crate) enum NotWritable {
    ReadOnly(FilterError),
    Unknown(FilterError),
}

impl From<NotWritable> for FilterError {
    fn from(why: NotWritable) -> Self {
        match why {
            NotWritable::ReadOnly(refusal) | NotWritable::Unknown(refusal) => refusal,
        }
    }
}

/// The key at a place, if a tenant may write it.
pub(crate) fn writable(place: Place<'_>) -> Result<TenantKey, NotWritable> {
    let (Place::Config(name) | Place::Path(name)) = place;
    if Fixed::ALL.iter().any(|fixed| fixed.name() == name) {
        return Err(NotWritable::ReadOnly(refusal::fixed(place)));
    }
    let of_operator = || NotWritable::ReadOnly(refusal::of_operator(place));
    if OF_OPERATOR.contains(&name) || name.starts_with("constraints.") {
        return Err(of_operator());
    }
    match TenantKey::named(name) {
        None => Err(NotWritable::Unknown(refusal::unknown(place))),
        Some(key) if key.about().group == Group::C => Ok(key),
        Some(_) => Err(of_operator()),
    }
}
