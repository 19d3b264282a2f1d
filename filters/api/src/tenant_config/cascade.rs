//! The levels, and the value that counts.

use std::collections::BTreeMap;

use super::environment::{Environment, Limits};
use super::keys::{Group, TenantKey};
use super::kind::Wrong;
use super::value::Value;

/// The values that one level has.
pub type Level = BTreeMap<TenantKey, Value>;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The tenant set it at run time.
    Db,
    /// The environment, else the product.
    Process,
    /// The operator's file.
    Yaml,
}

impl Source {
    /// The word in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Db => "db",
            Self::Process => "process",
            Self::Yaml => "yaml",
        }
    }
}

/// The lowest level, which has a value for every key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    values: Vec<Value>,
    /// Bounds of the process.
    pub limits: Limits,
}

impl Process {
    /// The values of the environment, else of the product.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let limits = environment.limits;
        let value = |key: &TenantKey| match environment.level.get(key) {
            Some(value) => value.clone(),
            None => key.about().default(limits),
        };
        Self { values: TenantKey::ALL.iter().map(value).collect(), limits }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::of(&Environment::default())
    }
}

/// All levels of a tenant. The highest that has a value wins, for each key on its own.
#[derive(Clone, Copy, Debug)]
pub struct Cascade<'a> {
    /// What the tenant set at run time; counts for group C alone.
    pub db: &'a Level,
    /// What the operator set for the tenant.
    pub yaml: &'a Level,
    /// What holds for the whole process.
    pub process: &'a Process,
}

impl<'a> Cascade<'a> {
    /// The value that counts, and where it comes from.
    #[must_use]
    pub fn value(&self, key: TenantKey) -> (&'a Value, Source) {
        let of_tenant = self.db.get(&key).filter(|_| key.about().group == Group::C);
        of_tenant
            .map(|value| (value, Source::Db))
            .or_else(|| self.yaml.get(&key).map(|value| (value, Source::Yaml)))
            .unwrap_or_else(|| {
                // the lowest level has a value for every key, in their order
                (self.process.values.get(key as usize).unwrap_or(&Value::Null), Source::Process)
            })
    }

    fn integer(&self, key: TenantKey) -> u64 {
        if let Value::Integer(number) = self.value(key).0 { *number } else { 0 }
    }

    /// The rule that two keys keep together: chunks overlap by half at most. It is about `rag_chunk_overlap`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_overlap(&self) -> Result<(), Wrong> {
        if self.integer(TenantKey::RagChunkOverlap) * 2 <= self.integer(TenantKey::RagChunkTokens) {
            return Ok(());
        }
        Err(Wrong { item: None, message: "must be at most half of rag_chunk_tokens".to_owned() })
    }
}
