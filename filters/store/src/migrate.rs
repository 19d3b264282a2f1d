//! Schema versions: each owner of tables counts its own steps, which only go forward.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::store::StoreError;

const VERSIONS: &str =
    "CREATE TABLE IF NOT EXISTS schema_versions (owner TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT";

/// Brings the tables of one owner to its newest version, in one transaction.
pub(crate) fn migrate(connection: &mut Connection, owner: &'static str, steps: &[&str]) -> Result<(), StoreError> {
    let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
    transaction.execute_batch(VERSIONS)?;
    let known = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    let version: Option<u32> = transaction
        .query_row("SELECT version FROM schema_versions WHERE owner = ?1", [owner], |row| row.get(0))
        .optional()?;
    let version = version.unwrap_or(0);
    if version > known {
        return Err(StoreError::NewerSchema { owner, version, known });
    }
    for step in steps.iter().skip(version as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.execute(
        "INSERT INTO schema_versions (owner, version) VALUES (?1, ?2) ON CONFLICT (owner) DO UPDATE SET version = ?2",
        params![owner, known],
    )?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [&str; 2] = ["CREATE TABLE a (x INTEGER) STRICT", "ALTER TABLE a ADD COLUMN y TEXT"];

    #[test]
    fn each_owner_goes_forward_from_where_it_stands() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, "one", &STEPS[..1]).unwrap();
        migrate(&mut connection, "other", &["CREATE TABLE b (x INTEGER) STRICT"]).unwrap();
        migrate(&mut connection, "one", &STEPS).unwrap();
        migrate(&mut connection, "one", &STEPS).unwrap();
        connection.execute("INSERT INTO a (x, y) VALUES (1, 'z')", []).unwrap();
    }

    #[test]
    fn a_newer_schema_is_refused_and_a_failed_step_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, "one", &STEPS).unwrap();
        let newer = migrate(&mut connection, "one", &STEPS[..1]);
        assert!(matches!(newer, Err(StoreError::NewerSchema { version: 2, known: 1, .. })));
        let broken = [STEPS[0], STEPS[1], "CREATE TABLE c (x INTEGER) STRICT", "NONSENSE"];
        assert!(migrate(&mut connection, "one", &broken).is_err());
        connection.execute("CREATE TABLE c (x INTEGER) STRICT", []).unwrap();
    }
}
