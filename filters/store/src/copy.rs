//! A copy of a database that others write to meanwhile, and what can be known of a file that nobody writes to.
//!
//! It belongs into a process of its own. SQLite's locks are those of POSIX: closing a file gives back all locks that the
//! process holds on it, those of other connections included.
//!
//! All pages are copied in one read transaction (the online backup of SQLite in a single step): the copy is the database
//! as it was at one commit, and writers go on meanwhile. Copying in several steps would begin anew whenever another
//! process commits. `VACUUM INTO` would do, too: with 300 MB and 200 commits a second both took 2 to 3 s, and
//! neither could be seen in how long the commits took (rows of the ledger, two cores, 2026-11-30). Copied pages keep rowids
//! and order, cost less of the processor than building all trees anew, and show the check afterwards what is damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::store::{BUSY, create_private};

/// Tables in a file: their owners and the versions of their schemas.
pub type Versions = BTreeMap<String, u32>;

/// Why there is no copy, or why a file says nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Somebody kept the database locked.
    #[error("it stays locked by another process")]
    Busy,
    /// Pages do not fit together.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The copy cannot be made.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What the database says.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Copies a database to a new file, mode 0600, and checks every page and index of the copy. What is written is not
/// brought to the disk here.
///
/// # Errors
/// The source cannot be read or is damaged, or the copy cannot be written.
pub fn copy(from: &Path, to: &Path) -> Result<Versions, CopyError> {
    create_private(to).map_err(|source| CopyError::Io { path: to.to_owned(), source })?;
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    source.busy_timeout(BUSY)?;
    let mut copy =
        Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    copy.pragma_update(None, "synchronous", "OFF")?;
    match Backup::new(&source, &mut copy)?.step(-1)? {
        StepResult::Done => {}
        _ => return Err(CopyError::Busy),
    }
    drop(source);
    // one file, that can be read where nothing can be written
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    check(&copy)?;
    versions(&copy)
}

/// What tables a file has. Nobody may write to it, and nothing is written beside it.
///
/// # Errors
/// It cannot be read, or is no database.
pub fn versions_of(path: &Path) -> Result<Versions, CopyError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    versions(&Connection::open_with_flags(uri(path), flags)?)
}

/// A URI that says that the file does not change: then neither a log nor its index is looked for.
fn uri(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(*byte)),
            other => write!(uri, "%{other:02x}").unwrap_or_default(), // a string takes everything
        }
    }
    uri + "?immutable=1"
}

fn versions(connection: &Connection) -> Result<Versions, CopyError> {
    if !connection.table_exists(None, "schema_versions")? {
        return Ok(Versions::new());
    }
    let mut select = connection.prepare("SELECT owner, version FROM schema_versions")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn check(connection: &Connection) -> Result<(), CopyError> {
    match connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))? {
        found if found == "ok" => Ok(()),
        found => Err(CopyError::Damaged(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(path: &Path) -> Vec<i64> {
        let connection = Connection::open(path).unwrap();
        let mut select = connection.prepare("SELECT n FROM numbers ORDER BY rowid").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn database(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE numbers (n INTEGER PRIMARY KEY, fill TEXT)").unwrap();
        connection
    }

    #[test]
    fn a_copy_has_what_only_the_log_has_and_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a file?.sqlite"), dir.path().join("a copy #%.sqlite"));
        let mut connection = database(&from);
        crate::migrate::migrate(&mut connection, "tests", &["CREATE TABLE further (n INTEGER) STRICT"]).unwrap();
        connection.execute_batch("INSERT INTO numbers (n) VALUES (1), (2)").unwrap();
        let versions = Versions::from([("tests".to_owned(), 1)]);
        assert_eq!(copy(&from, &to).unwrap(), versions);
        connection.execute_batch("INSERT INTO numbers (n) VALUES (3)").unwrap();
        assert_eq!(versions_of(&to).unwrap(), versions);
        assert_eq!(rows(&to), [1, 2]);
        let mut names: Vec<_> = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name.to_str().unwrap().starts_with("a copy"));
        assert_eq!(names, ["a copy #%.sqlite"]);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&to).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_database_is_no_backup() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from.sqlite");
        let connection = database(&from);
        for n in 0..200 {
            connection.execute("INSERT INTO numbers (n, fill) VALUES (?1, ?2)", (n, "x".repeat(400))).unwrap();
        }
        drop(connection); // the log is in the file now
        let file = std::fs::OpenOptions::new().write(true).open(&from).unwrap();
        file.write_all_at(&[0xa5; 4096], 5 * 4096).unwrap();
        let error = copy(&from, &dir.path().join("to.sqlite")).unwrap_err();
        assert!(error.to_string().contains("damaged") || error.to_string().contains("malformed"), "{error}");
        std::fs::write(&from, [b'x'; 9000]).unwrap();
        assert!(copy(&from, &dir.path().join("other.sqlite")).is_err());
        assert!(versions_of(&from).is_err());
        assert!(copy(&dir.path().join("missing"), &dir.path().join("third.sqlite")).is_err());
    }
}
