//! The one thread that writes the log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dgx_gateway_filter::audit::{AdminAction, AuditEvent, AuditRecord};

use crate::file::{AuditFile, Looked};
use crate::log::{Shared, Taken};

/// How long lines gather before they are written together.
const GATHER: Duration = Duration::from_millis(50);
/// How often what was written is brought to the disk, and the file looked after.
const TICK: Duration = Duration::from_secs(1);
/// How long the writer rests after the disk refused.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is tried at the end of the process, while the disk refuses.
const LAST_TRIES: u32 = 3;
/// Memory for lines that is kept while nothing happens.
const KEPT_BYTES: usize = 256 * 1024;

pub(crate) struct Writer {
    file: AuditFile,
    shared: Arc<Shared>,
    /// Lines on their way.
    lines: Vec<u8>,
    /// Records left out that the log has not told yet.
    dropped: u64,
    /// The `keep_days` by which old files were removed last.
    kept_days: u32,
    ticked: Instant,
}

impl Writer {
    /// Opens the file, so that a directory that cannot be used stops the start.
    pub(crate) fn start(mut file: AuditFile, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
        file.look(shared.clock.wall())?;
        let kept_days = shared.keep_days.load(Ordering::Relaxed);
        file.remove_older(kept_days, shared.clock.wall());
        let writer = Self { file, shared, lines: Vec::new(), dropped: 0, kept_days, ticked: Instant::now() };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())
    }

    fn run(mut self) {
        let mut tries = 0;
        loop {
            let patience = TICK.saturating_sub(self.ticked.elapsed());
            let taken = self.shared.take(&mut self.lines, patience, GATHER);
            self.dropped += taken.dropped;
            match self.turn(&taken) {
                Ok(()) if !taken.all => {} // what had to be tried again stood before it
                Ok(()) if taken.closing => break,
                Ok(()) => self.shared.turned(taken.asked),
                Err(error) => {
                    self.shared.events.refused(self.file.path(), &error);
                    tries += u32::from(taken.closing);
                    if tries >= LAST_TRIES {
                        break;
                    }
                    self.shared.rest(RETRY);
                }
            }
        }
        self.shared.ended(count(&self.lines));
    }

    /// Writes what was taken; once a second, and whenever somebody waits, brings it to the disk.
    fn turn(&mut self, taken: &Taken) -> io::Result<()> {
        self.append()?;
        let hurried = taken.closing || taken.asked.is_some();
        if !hurried && !self.shared.events.is_failing() && self.ticked.elapsed() < TICK {
            return Ok(());
        }
        self.shared.sum_up_refusals(taken.closing, &mut self.lines);
        self.append()?;
        let now = self.shared.clock.wall();
        let keep_days = self.shared.keep_days.load(Ordering::Relaxed);
        // a reload that keeps less does not wait for the next file
        if self.file.look(now)? == Looked::Closed || keep_days != self.kept_days {
            self.file.remove_older(keep_days, now);
            self.kept_days = keep_days;
        }
        self.file.sync()?;
        self.ticked = Instant::now();
        if self.shared.events.accepted() || self.dropped > 0 {
            self.tell_dropped();
            self.append()?;
            self.file.sync()?;
        }
        self.lines.shrink_to(KEPT_BYTES);
        Ok(())
    }

    fn append(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let before = count(&self.lines);
        let appended = self.file.append(&mut self.lines);
        self.shared.events.written(before.saturating_sub(count(&self.lines)));
        appended
    }

    /// The log says itself that it was interrupted, and how much is missing.
    fn tell_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        tracing::warn!(records = dropped, "the audit log is written again; so many records were left out");
        let detail = format!("{dropped} records were left out");
        let event = AuditEvent::Admin { action: AdminAction::Resume, ok: true, detail: Some(&detail) };
        self.shared.own_line(&AuditRecord::of(event), 0, &mut self.lines);
    }
}

/// Records in some lines.
fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}
