//! The one thread that writes: gathers, commits, tells.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::group::Group;
use crate::queue::{Job, Patience, Queue};
use crate::sound::{Files, is_damage};
use crate::store::{Keep, StoreError, Wait};

/// Longest time that work without a waiter gathers before it is committed.
pub const GATHER: Duration = Duration::from_millis(50);
/// How long the writer rests after a commit that failed.
pub const RETRY: Duration = Duration::from_millis(500);
/// Most pieces of work in one transaction.
const GROUP: usize = 1024;
/// Pieces of work between two moments at which the writer lets the threads of requests run. Without them the kernel gives
/// it its whole slice, of 1.4 ms on two cores, and a request that begins meanwhile waits for so long.
const TURN: usize = 4;
/// With so many in the queue it goes on without: giving way would only make the queue longer.
const MUCH: usize = GROUP / 2;

/// What others may know of the writer.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    failing: AtomicBool,
    /// Something of the database does not fit together. Only a restart, which looks through it, ends that.
    damaged: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Condition {
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) || self.is_damaged()
    }

    fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    pub(crate) fn wait_for_end(&self, limit: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.end.wait_timeout_while(ended, limit, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn ended(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
    }

    fn note(&self, result: &Result<(), StoreError>) {
        if let Err(StoreError::Sqlite(error)) = result
            && is_damage(error)
            && !self.damaged.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, "the database is damaged, nothing more is written; restart to see what can be done");
        }
        let failing = result.is_err();
        if self.failing.swap(failing, Ordering::Relaxed) != failing {
            match result {
                Err(error) => tracing::error!(%error, "the database cannot be written; trying again"),
                Ok(()) => tracing::info!("the database can be written again"),
            }
        }
    }
}

pub(crate) struct Writer {
    connection: Connection,
    files: Files,
    queue: Arc<Queue>,
    condition: Arc<Condition>,
    group: Vec<Job>,
}

impl Writer {
    pub(crate) fn start(
        connection: Connection,
        files: Files,
        queue: Arc<Queue>,
        condition: Arc<Condition>,
    ) -> io::Result<JoinHandle<()>> {
        let writer = Self { connection, files, queue, condition, group: Vec::new() };
        std::thread::Builder::new().name("storage".to_owned()).spawn(move || writer.run())
    }

    fn run(mut self) {
        while self.gather() {
            let taken = self.group.len();
            let result = self.commit();
            self.condition.note(&result);
            if let Err(error) = &result {
                self.keep_what_must_not_be_lost(error);
            }
            self.queue.done(taken - self.group.len());
            if let Err(error) = &result {
                self.refuse_what_waits(error);
                self.queue.rest(RETRY);
            }
        }
        self.condition.ended();
    }

    /// Fills the group; false when the queue has ended and nothing is left to write. What was kept from a commit that
    /// failed is written before more is taken. While the disk refuses, the group may stay empty.
    fn gather(&mut self) -> bool {
        if self.group.is_empty() {
            let patience = if self.condition.is_failing() { Patience::None } else { Patience::Endless };
            match self.queue.group(patience, GATHER, GROUP) {
                Some(group) => self.group = group,
                None => return false,
            }
        }
        true
    }

    /// Commits the group and tells who waits. An error is about the commit as a whole; the group is left then. An empty
    /// group finds out whether the disk still refuses: a service that is not ready is sent nothing that would show it.
    fn commit(&mut self) -> Result<(), StoreError> {
        if self.condition.is_damaged() {
            return Err(StoreError::NotWritten("the database is damaged".into()));
        }
        let Self { connection, group, files, queue, .. } = self;
        let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
        if group.is_empty() {
            probe(&transaction)?;
        }
        let together = Group::new(&transaction);
        match work(group, &together, queue).and_then(|()| together.end()) {
            Ok(()) => {
                files.are_there()?; // nobody would find what is committed to a file without a name
                transaction.commit()?;
                group.drain(..).for_each(|mut job| job.tell(Ok(())));
                Ok(())
            }
            Err(error) => {
                transaction.rollback()?;
                self.commit_one_by_one(error)
            }
        }
    }

    /// One piece of the group does not go in: each gets a transaction of its own, so that the others are not lost
    /// with it.
    fn commit_one_by_one(&mut self, first: rusqlite::Error) -> Result<(), StoreError> {
        if is_of_the_disk(&first) {
            return Err(first.into());
        }
        while let Some(job) = self.group.first_mut() {
            let transaction = Transaction::new(&mut self.connection, TransactionBehavior::Immediate)?;
            let alone = Group::new(&transaction);
            let done = match (job.work)(&alone).and_then(|()| alone.end()) {
                Ok(()) => {
                    self.files.are_there()?;
                    match transaction.commit() {
                        Err(error) if is_of_the_disk(&error) => return Err(error.into()),
                        committed => committed.map_err(StoreError::from),
                    }
                }
                Err(error) if is_of_the_disk(&error) => return Err(error.into()),
                Err(error) => {
                    // the work itself is wrong; trying again would fail for ever
                    tracing::error!(%error, "a write was refused by the database");
                    Err(error.into())
                }
            };
            let mut job = self.group.remove(0);
            job.tell(done);
        }
        Ok(())
    }

    /// What was kept stands before all that came later. Of that, what may fail fails now and not when there is room again.
    fn refuse_what_waits(&self, error: &StoreError) {
        let text: Arc<str> = error.to_string().into();
        let refused = self.queue.take_what_may_fail();
        self.queue.done(refused.len());
        for mut job in refused {
            job.tell(Err(StoreError::NotWritten(Arc::clone(&text))));
        }
    }

    fn keep_what_must_not_be_lost(&mut self, error: &StoreError) {
        let text: Arc<str> = error.to_string().into();
        for job in &mut self.group {
            job.tell(Err(StoreError::NotWritten(Arc::clone(&text))));
        }
        self.group.retain(|job| job.keep == Keep::Always);
    }
}

/// Does what a group has to do. A group that is not full gives way, as long as nobody waits for it or behind it.
fn work(group: &mut [Job], together: &Group<'_>, queue: &Queue) -> rusqlite::Result<()> {
    let has_time = group.len() < GROUP && group.iter().all(|job| job.wait == Wait::Later);
    for (done, job) in group.iter_mut().enumerate() {
        if has_time && done % TURN == TURN - 1 && !queue.is_in_a_hurry(MUCH) {
            std::thread::yield_now();
        }
        (job.work)(together)?;
    }
    Ok(())
}

/// Writes a page without changing anything.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    connection.pragma_update(None, "user_version", version)
}

/// Whether an error is about the surroundings and not about the statement.
fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as C;
    !matches!(
        error.sqlite_error_code(),
        None | Some(
            C::ConstraintViolation | C::TypeMismatch | C::ParameterOutOfRange | C::ApiMisuse | C::TooBig | C::Unknown
        )
    )
}
