//! The handle of the database: places in the queue, receipts, readers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::group::Group;
use crate::queue::{Job, Queue};
use crate::sound::{self, Files};
use crate::writer::{Condition, Writer};
use crate::{log, migrate};

/// Most pieces of work that wait to be written, slots that were taken beforehand included.
const QUEUE: usize = 65_536;
/// Longest wait for a slot while the queue is full.
const SLOT_WAIT: Duration = Duration::from_secs(1);
/// Statements that a connection keeps prepared: more than all parts together have.
const STATEMENTS: usize = 256;
/// Pages that a connection that reads keeps, in KiB: those of the trees' inner nodes. It reads the rows themselves once.
const READER_CACHE_KIB: i64 = 512;
/// How long a connection waits for another process that writes.
pub(crate) const BUSY: Duration = Duration::from_secs(5);

/// Some SQL. It may run more than once, each time in a transaction that begins anew.
pub type Work = Box<dyn FnMut(&Group<'_>) -> rusqlite::Result<()> + Send>;

/// Why something was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The queue stayed full.
    #[error("the queue of writes is full")]
    Busy,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// What stands in the database does not fit together.
    #[error(
        "the database {path} is damaged ({what}): restore the last backup (`dgx-gateway restore`), or move the file away and \
         save what can be read with `sqlite3 {path} .recover`"
    )]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The log has commits that nobody would find.
    #[error(
        "the log {path} is damaged: {commits} commits stand behind the damage and would be lost. Restore the last backup \
         (`dgx-gateway restore`); to go on without them, run `PRAGMA wal_checkpoint(TRUNCATE)` on the database with sqlite3"
    )]
    DamagedLog {
        /// Which one.
        path: PathBuf,
        /// How many at least.
        commits: usize,
    },
    /// A file of the database has lost its name while it was open.
    #[error("{0} was removed or replaced while it was open: put it back, or restart the gateway on what is there now")]
    Gone(PathBuf),
    /// The directory or the file cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database was written by a newer version of the gateway.
    #[error("tables of {owner} have version {version}, this version knows {known}: use a newer one")]
    NewerSchema {
        /// Owner of the tables.
        owner: &'static str,
        /// Version in the file.
        version: u32,
        /// Newest version that is known here.
        known: u32,
    },
    /// The database cannot be opened.
    #[error("{path}: {source}")]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// What the database says.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction that held it failed.
    #[error("not written: {0}")]
    NotWritten(Arc<str>),
}

/// Whether somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The commit happens as soon as the writer is free.
    Now,
    /// The commit may gather more work first.
    Later,
}

/// What happens when it cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is tried again until it is written.
    Always,
    /// It is reported as failed, and forgotten.
    Never,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    queue: Arc<Queue>,
    condition: Arc<Condition>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Store {
    /// Opens a file that nobody else has open, see [`Store::open`]; a file that was cut off and a log with damage in its
    /// middle are noticed only so.
    ///
    /// # Errors
    /// It cannot be opened, or is damaged.
    pub fn open_alone(path: &Path) -> Result<Self, StoreError> {
        sound::look_at_size(path)?;
        match log::lost_commits(path) {
            Ok(0) => Self::open(path),
            Ok(commits) => Err(StoreError::DamagedLog { path: log::path(path), commits }),
            Err(source) => Err(StoreError::Io { path: log::path(path), source }),
        }
    }

    /// Opens the file, or makes it, looks through it, and starts the writer.
    ///
    /// # Errors
    /// It cannot be opened, or is damaged.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path)?;
        sound::look(&connection, path)?;
        let condition = Arc::new(Condition::default());
        let queue = Arc::new(Queue::new(QUEUE));
        let files = Files::of(path);
        let thread = Writer::start(connection, files, Arc::clone(&queue), Arc::clone(&condition))
            .map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), queue, condition, thread: Mutex::new(Some(thread)) })
    }

    /// Brings the tables of an owner to the newest of its `steps`. Blocks; for the start of the process.
    ///
    /// # Errors
    /// The file is newer than this binary, or a step fails.
    pub fn migrate(&self, owner: &'static str, steps: &[&str]) -> Result<(), StoreError> {
        migrate::migrate(&mut connect(&self.path)?, owner, steps)
    }

    /// A connection that writes, for work at the start of the process, before there is anything to wait for. Blocks.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn maintenance(&self) -> Result<Connection, StoreError> {
        connect(&self.path)
    }

    /// A connection that reads what is committed. Blocks.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn reader(&self) -> Result<Connection, StoreError> {
        let connection = Connection::open_with_flags(
            &self.path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        Ok(connection)
    }

    /// Takes a place in the queue.
    ///
    /// # Errors
    /// The queue stayed full for a second, or the store was closed.
    ///
    /// # Cancel safety
    /// A place that was not given is not taken.
    pub async fn slot(&self) -> Result<Slot, StoreError> {
        self.queue.place(SLOT_WAIT).await?;
        Ok(Slot { queue: Some(Arc::clone(&self.queue)) })
    }

    /// Whether the last commit failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.condition.is_failing()
    }

    /// Writes what is queued and ends the writer. Gives up after `limit` when the disk refuses; false then.
    pub fn close(&self, limit: Duration) -> bool {
        self.queue.close();
        let ended = self.condition.wait_for_end(limit);
        if ended && let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join());
        }
        ended
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close(BUSY);
    }
}

/// A place in the queue. One that is dropped is free again.
#[derive(Debug)]
pub struct Slot {
    queue: Option<Arc<Queue>>,
}

impl Slot {
    /// Hands work over. It does not wait.
    pub fn write(mut self, wait: Wait, keep: Keep, work: Work) -> Receipt {
        let (told, receipt) = oneshot::channel();
        if let Some(queue) = self.queue.take() {
            queue.put(Job { work, wait, keep, told: Some(told) });
        }
        Receipt(receipt)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.leave();
        }
    }
}

/// Becomes ready when the work is committed, or has failed. May be dropped.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<(), StoreError>>);

impl Receipt {
    /// Waits for the commit.
    ///
    /// # Errors
    /// It failed. Work that is always kept may still be written later.
    ///
    /// # Cancel safety
    /// The work is done all the same.
    pub async fn committed(self) -> Result<(), StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    if let Some(directory) = path.parent() {
        make_private(directory).map_err(|source| StoreError::Io { path: directory.to_owned(), source })?;
    }
    create_private(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    prepared(path).map_err(|error| sound::named(path, error))
}

fn prepared(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Makes a directory that only the owner can enter.
fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// SQLite gives its further files the mode of the first.
///
/// A file that is there is not opened: closing any handle of it takes away the locks by which SQLite tells other
/// processes that this one uses the database (POSIX locks belong to the process). The next process that leaves the
/// database would then take itself for the last one, and remove the log that this one writes to.
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
