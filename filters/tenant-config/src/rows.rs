//! The tables and their SQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use dgx_gateway_filter::tenant_config::{Input, Level, Limits, TenantKey, Value};
use dgx_gateway_store::rusqlite::{Connection, Result, Row, params};

use crate::document;
use crate::entry::Shown;

/// Steps of the schema, oldest first. A step that was released is never changed.
pub(crate) const STEPS: [&str; 1] = ["
CREATE TABLE tenant_config (
    tenant_id TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT NOT NULL,
    PRIMARY KEY (tenant_id, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE tenant_config_changes (
    tenant_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
"];

/// When a value was set, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Milliseconds of UTC.
    pub at: i64,
    /// Id of the token.
    pub by: Arc<str>,
}

/// What a tenant has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnLevel {
    pub values: Level,
    pub marks: BTreeMap<TenantKey, Mark>,
}

impl OwnLevel {
    pub(crate) fn set(&mut self, key: TenantKey, value: Value, mark: Mark) {
        self.values.insert(key, value);
        self.marks.insert(key, mark);
    }

    pub(crate) fn remove(&mut self, key: TenantKey) {
        self.values.remove(&key);
        self.marks.remove(&key);
    }

    /// Takes a row. One that does not fit its key, or is of a key that is not known, says nothing: another version of
    /// the gateway, or a narrower bound of the process, may have left it.
    fn take(&mut self, row: &Row<'_>, limits: Limits) -> Result<()> {
        let (name, json): (String, String) = (row.get("key")?, row.get("value")?);
        let read = |key: TenantKey| {
            let input: Input = document::input(&json)?;
            Some((key, key.about().kind.read(input, limits).ok()?))
        };
        match TenantKey::named(&name).and_then(read) {
            Some((key, value)) => {
                let by: String = row.get("updated_by")?;
                self.set(key, value, Mark { at: row.get("updated_at")?, by: by.into() });
            }
            None => tracing::warn!(config.key = %name, "a stored value does not fit its key and is not used"),
        }
        Ok(())
    }
}

/// What one tenant has set.
pub(crate) fn of_tenant(connection: &Connection, tenant: &str, limits: Limits) -> Result<OwnLevel> {
    let mut select = connection
        .prepare_cached("SELECT key, value, updated_at, updated_by FROM tenant_config WHERE tenant_id = ?1")?;
    let mut rows = select.query([tenant])?;
    let mut level = OwnLevel::default();
    while let Some(row) = rows.next()? {
        level.take(row, limits)?;
    }
    Ok(level)
}

/// Writes one value, or removes it.
pub(crate) fn write(
    connection: &Connection,
    tenant: &str,
    key: TenantKey,
    value: Option<(&Value, &Mark)>,
) -> Result<()> {
    let name = key.about().name;
    match value {
        None => {
            let mut delete =
                connection.prepare_cached("DELETE FROM tenant_config WHERE tenant_id = ?1 AND key = ?2")?;
            delete.execute(params![tenant, name])?;
        }
        Some((value, mark)) => {
            let mut upsert = connection.prepare_cached(
                "INSERT INTO tenant_config (tenant_id, key, value, updated_at, updated_by) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (tenant_id, key) DO UPDATE SET value = ?3, updated_at = ?4, updated_by = ?5",
            )?;
            upsert.execute(params![tenant, name, Shown(value).to_string(), mark.at, &*mark.by])?;
        }
    }
    Ok(())
}

/// Tells all processes that a tenant has changed. Versions only grow: whoever writes is alone in its transaction.
pub(crate) fn tell(connection: &Connection, tenant: &str) -> Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO tenant_config_changes (tenant_id, version)
         VALUES (?1, (SELECT coalesce(max(version), 0) + 1 FROM tenant_config_changes))
         ON CONFLICT (tenant_id) DO UPDATE SET version = excluded.version",
    )?;
    upsert.execute([tenant])?;
    Ok(())
}

/// The version of the last change.
pub(crate) fn version(connection: &Connection) -> Result<i64> {
    let mut select = connection.prepare_cached("SELECT coalesce(max(version), 0) FROM tenant_config_changes")?;
    select.query_row([], |row| row.get(0))
}

/// Tenants that have changed since a version.
pub(crate) fn changed_since(connection: &Connection, version: i64) -> Result<Vec<String>> {
    let mut select = connection.prepare_cached("SELECT tenant_id FROM tenant_config_changes WHERE version > ?1")?;
    select.query_map([version], |row| row.get(0))?.collect()
}
