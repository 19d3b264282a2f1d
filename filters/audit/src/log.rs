//! The handle of the log: takes records and never waits.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord, Pseudonyms};
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::health::{HealthSource, Limitation, Severity};
use dgx_gateway_filter::{BuildEnv, BuildError};

use crate::events::{Cause, Events};
use crate::file::{AuditFile, MAX_BYTES};
use crate::line::{self, Added, Stamp};
use crate::pseudonyms::Keyring;
use crate::refusals::{Refusal, Refusals, Summary};
use crate::writer::Writer;

/// Most bytes of lines that wait; as many again may be with the writer. About 9000 records.
pub(crate) const QUEUE_BYTES: usize = 4 << 20;
/// From here on the writer is woken at once.
const HIGH_WATER: usize = QUEUE_BYTES / 4;

/// The audit log.
pub struct AuditLog {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What callers and the writer share.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) keep_days: AtomicU32,
    refusals: Mutex<Refusals>,
    queue: Mutex<Queue>,
    woken: Condvar,
    /// Told after each turn of the writer.
    turned: Condvar,
}

/// Lines that wait to be written.
#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    stamp: Stamp,
    /// Records left out since the log last said so.
    dropped: u64,
    /// The writer waits for a first line.
    idle: bool,
    closing: bool,
    ended: bool,
    /// Turns that were asked for, and those that were made; for whoever waits until all is written.
    asked: u64,
    made: u64,
}

/// What the writer takes at once.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Whether everything that stood in the queue was taken.
    pub(crate) all: bool,
    /// The turn that somebody waits for.
    pub(crate) asked: Option<u64>,
    /// The log ends.
    pub(crate) closing: bool,
    /// Records that were left out.
    pub(crate) dropped: u64,
}

impl AuditLog {
    /// Opens the file, or makes it, and starts the writer.
    ///
    /// # Errors
    /// The directory cannot be used, or a metric name is taken.
    pub(crate) fn start(env: &BuildEnv, keyring: Arc<Keyring>, keep_days: u32) -> Result<Self, BuildError> {
        Self::start_at(env.data_dir.join("audit"), MAX_BYTES, env, keyring, keep_days)
    }

    pub(crate) fn start_at(
        folder: PathBuf,
        max_bytes: u64,
        env: &BuildEnv,
        keyring: Arc<Keyring>,
        keep_days: u32,
    ) -> Result<Self, BuildError> {
        let shared = Arc::new(Shared {
            clock: Arc::clone(&env.clock),
            events: Events::register(&env.metrics)?,
            keyring,
            keep_days: AtomicU32::new(keep_days),
            refusals: Mutex::default(),
            queue: Mutex::default(),
            woken: Condvar::new(),
            turned: Condvar::new(),
        });
        let file = AuditFile::new(folder, max_bytes);
        let path = file.path().to_owned();
        let thread = Writer::start(file, Arc::clone(&shared)).map_err(|source| BuildError::Io { path, source })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// For how many days closed files are kept from now on.
    pub(crate) fn keep_for(&self, days: u32) {
        self.shared.keep_days.store(days, Ordering::Relaxed);
    }

    /// Waits until what was recorded before is on the disk; false when the disk refuses for that long.
    pub fn flush(&self, limit: Duration) -> bool {
        let asked = {
            let mut queue = self.shared.queue();
            queue.asked += 1;
            self.shared.woken.notify_all();
            queue.asked
        };
        let queue = self.shared.queue();
        let done = |queue: &mut Queue| queue.made < asked && !queue.ended;
        let waited = self.shared.turned.wait_timeout_while(queue, limit, done).unwrap_or_else(PoisonError::into_inner);
        waited.0.made >= asked
    }

    /// Writes what waits and ends the writer. Gives up after `limit` when the disk refuses; false then.
    pub fn close(&self, limit: Duration) -> bool {
        self.shared.queue().closing = true;
        self.shared.woken.notify_all();
        let queue = self.shared.queue();
        let not_yet = |queue: &mut Queue| !queue.ended;
        let waited = self.shared.turned.wait_timeout_while(queue, limit, not_yet);
        let ended = waited.unwrap_or_else(PoisonError::into_inner).0.ended;
        if ended && let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join());
        }
        ended
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.close(Duration::from_secs(5));
    }
}

impl Audit for AuditLog {
    fn record(&self, record: &AuditRecord<'_>) {
        let mut suppressed = 0;
        if let AuditEvent::Auth { reason, client_ip } = record.event {
            let refusal = Refusal { reason, client_ip, pseudonymous: record.pseudonymous };
            match self.shared.refusals().admit(refusal, self.shared.clock.now()) {
                Some(before) => suppressed = before,
                None => return,
            }
        }
        let pseudonym = match (record.tenant_id, record.user_id) {
            (Some(tenant), Some(user)) if record.pseudonymous => self.shared.keyring.pseudonym(tenant, user),
            _ => None,
        };
        let user_id = if record.pseudonymous { pseudonym.as_deref() } else { record.user_id };
        self.shared.push(record, user_id, suppressed);
    }
}

impl HealthSource for AuditLog {
    /// Requests can be served, but what they do cannot be proven later.
    fn limitations(&self) -> Vec<Limitation> {
        let unavailable = Limitation { reason: "storage unavailable", severity: Severity::Impaired };
        self.shared.events.is_failing().then_some(unavailable).into_iter().collect()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a line into the queue. It is made there, under the lock: that takes less than to hand it over, and the lines
    /// stand in the order of their times.
    fn push(&self, record: &AuditRecord<'_>, user_id: Option<&str>, suppressed: u64) {
        let mut queue = self.queue();
        let before = queue.lines.len();
        if !queue.closing {
            let Queue { lines, stamp, .. } = &mut *queue;
            line::write(lines, stamp, record, Added { now: self.clock.wall(), user_id, suppressed });
        }
        if queue.closing || queue.lines.len() > QUEUE_BYTES {
            queue.lines.truncate(before);
            queue.dropped += 1;
            let cause = match (queue.closing, self.events.is_failing()) {
                (true, _) => Cause::End,
                (false, true) => Cause::Disk,
                (false, false) => Cause::Queue,
            };
            drop(queue);
            return self.events.dropped(cause, 1);
        }
        let after = queue.lines.len();
        let wake = std::mem::take(&mut queue.idle) || before < HIGH_WATER && after >= HIGH_WATER;
        drop(queue);
        if wake {
            self.woken.notify_all();
        }
    }

    /// Refusals whose second is over get their lines. `all`: the log ends.
    pub(crate) fn sum_up_refusals(&self, all: bool, into: &mut Vec<u8>) {
        let due = self.refusals().due(self.clock.now(), all);
        for Summary { refusal: Refusal { reason, client_ip, pseudonymous }, suppressed } in due {
            let event = AuditEvent::Auth { reason, client_ip };
            self.own_line(&AuditRecord { pseudonymous, ..AuditRecord::of(event) }, suppressed, into);
        }
    }

    /// A line of the log's own, which passes the queue by.
    pub(crate) fn own_line(&self, record: &AuditRecord<'_>, suppressed: u64, into: &mut Vec<u8>) {
        let added = Added { now: self.clock.wall(), user_id: None, suppressed };
        line::write(into, &mut Stamp::default(), record, added);
    }

    /// Waits for lines, at most for `patience`, then for more of them for at most `gather`. They come into `into`, which
    /// keeps its memory; if something is left in it, they stay.
    pub(crate) fn take(&self, into: &mut Vec<u8>, patience: Duration, gather: Duration) -> Taken {
        let mut queue = self.queue();
        queue.idle = queue.lines.is_empty();
        queue = self.wait(queue, patience, |queue| queue.lines.is_empty() && !queue.hurries());
        if !queue.lines.is_empty() {
            queue = self.wait(queue, gather, |queue| queue.lines.len() < HIGH_WATER && !queue.hurries());
        }
        queue.idle = false;
        let all = into.is_empty();
        if all {
            std::mem::swap(&mut queue.lines, into);
        }
        let asked = queue.hurries().then_some(queue.asked);
        Taken { all, asked, closing: queue.closing, dropped: std::mem::take(&mut queue.dropped) }
    }

    /// Waits after the disk refused, whoever hurries.
    pub(crate) fn rest(&self, limit: Duration) {
        drop(self.wait(self.queue(), limit, |_| true));
    }

    fn wait<'a>(
        &self,
        queue: MutexGuard<'a, Queue>,
        limit: Duration,
        condition: impl FnMut(&mut Queue) -> bool,
    ) -> MutexGuard<'a, Queue> {
        self.woken.wait_timeout_while(queue, limit, condition).unwrap_or_else(PoisonError::into_inner).0
    }

    /// All that stood in the queue is on the disk.
    pub(crate) fn turned(&self, asked: Option<u64>) {
        if let Some(asked) = asked {
            self.queue().made = asked;
            self.turned.notify_all();
        }
    }

    /// The writer has ended; so many records it leaves behind, besides those in the queue.
    pub(crate) fn ended(&self, left: u64) {
        let mut queue = self.queue();
        queue.closing = true;
        queue.ended = true;
        let left = left + memchr::memchr_iter(b'\n', &queue.lines).count() as u64;
        drop(queue);
        self.turned.notify_all();
        if left > 0 {
            self.events.dropped(Cause::End, left);
            tracing::error!(records = left, "records of the audit log could not be written");
        }
    }
}

impl Queue {
    /// Whether somebody waits for the writer.
    fn hurries(&self) -> bool {
        self.closing || self.asked > self.made
    }
}
