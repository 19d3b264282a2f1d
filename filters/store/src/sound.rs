//! Whether a database is whole: looked at when it is opened, and known while it is open.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use crate::log;
use crate::store::StoreError;

/// How long a start, or a hand-over (30 s), may be held up by a look at all pages: about 1 GB.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Bytes before the first table.
const HEAD: u64 = 100;

/// Whether an error says that what stands in the file does not fit together.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// An error of a database, with its name and what can be done.
pub(crate) fn named(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    if is_damage(&error) {
        StoreError::Damaged { path, what: error.to_string() }
    } else {
        StoreError::Open { path, source: error }
    }
}

/// Looks at the size of a file that nobody has open. SQLite takes what is shorter than its head for an empty database, and
/// fills half a page up with zeros; a process that died may have left half a page if the log has all of it.
pub(crate) fn look_at_size(path: &Path) -> Result<(), StoreError> {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    if !path.exists() {
        return Ok(()); // the first start
    }
    let failed = |source| StoreError::Io { path: path.to_owned(), source };
    let (size, page) = (length(path), log::page_size(path).map_err(failed)?);
    let is_cut_off = match page {
        _ if size == 0 => {
            tracing::warn!(file.path = %path.display(), "the database is empty; a new one is begun");
            false
        }
        _ if size < HEAD => true,
        Some(page) => !size.is_multiple_of(page as u64) && length(&log::path(path)) == 0,
        None => false, // SQLite sees for itself that it is none of its own
    };
    let what = || format!("it is cut off after {size} bytes");
    if is_cut_off { Err(StoreError::Damaged { path: path.to_owned(), what: what() }) } else { Ok(()) }
}

/// Looks at every page, unless that takes too long.
pub(crate) fn look(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let (done, waits) = sync_channel::<()>(1);
    let interrupt = connection.get_interrupt_handle();
    let watch = std::thread::Builder::new().name("storage check".to_owned()).spawn(move || {
        if waits.recv_timeout(LONGEST_LOOK) == Err(RecvTimeoutError::Timeout) {
            interrupt.interrupt();
        }
    });
    let watch = watch.map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    let found: rusqlite::Result<String> = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    drop(done);
    drop(watch.join());
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(what) => Err(StoreError::Damaged { path: path.to_owned(), what }),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            tracing::info!(file.path = %path.display(), "the database is too large to be looked through at a start");
            Ok(())
        }
        Err(error) => Err(named(path, error)),
    }
}

/// The files of an open database. What is committed to files that have lost their names is lost with the process.
#[derive(Debug)]
pub(crate) struct Files {
    database: (PathBuf, Option<Identity>),
    /// Known once there is one.
    log: (PathBuf, Option<Identity>),
}

type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Files {
    pub(crate) fn of(path: &Path) -> Self {
        let log = log::path(path);
        Self { database: (path.to_owned(), identity(path)), log: (log, None) }
    }

    /// Whether the names still lead to the files.
    pub(crate) fn are_there(&mut self) -> Result<(), StoreError> {
        let (path, known) = &self.database;
        if identity(path) != *known {
            return Err(StoreError::Gone(path.clone()));
        }
        let (path, known) = &mut self.log;
        match (&known, identity(path)) {
            (None, found) => *known = found,
            (Some(before), Some(found)) if *before == found => {}
            (Some(_), _) => return Err(StoreError::Gone(path.clone())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_database_without_its_name_is_noticed_and_so_is_its_return() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database.sqlite");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        let mut files = Files::of(&path);
        files.are_there().unwrap();
        connection.execute_batch("CREATE TABLE numbers (n INTEGER)").unwrap();
        files.are_there().unwrap();
        for name in [path.clone(), log::path(&path)] {
            let away = dir.path().join("away");
            std::fs::rename(&name, &away).unwrap();
            let gone = files.are_there().unwrap_err();
            assert!(matches!(&gone, StoreError::Gone(path) if *path == name), "{gone}");
            std::fs::write(&name, "another file").unwrap();
            assert!(files.are_there().is_err());
            std::fs::rename(&away, &name).unwrap();
            files.are_there().unwrap();
        }
    }

    #[test]
    fn damage_is_named_with_its_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database.sqlite");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE numbers (n INTEGER, fill TEXT)").unwrap();
        for n in 0..300 {
            connection.execute("INSERT INTO numbers VALUES (?1, ?2)", (n, "x".repeat(300))).unwrap();
        }
        look(&connection, &path).unwrap();
        drop(connection);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xa5; 4096], 9 * 4096).unwrap();
        let error = look(&Connection::open(&path).unwrap(), &path).unwrap_err().to_string();
        assert!(error.contains("database.sqlite is damaged") && error.contains("restore"), "{error}");
    }
}
