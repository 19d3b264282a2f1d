//! The file of the log: whole lines are appended, closed files get a name with their day.
//!
//! Several processes may write to one directory, as during a hand-over. Each append holds a lock on the directory and looks
//! first whether the name still leads to the file that is open: another process, or an operator, may have moved it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::civil::Date;

/// Size at which a file is closed.
pub(crate) const MAX_BYTES: u64 = 268_435_456;
/// The file that is written.
const NAME: &str = "audit.jsonl";
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;
/// How long a lock is waited for: others hold it for one append.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked for meanwhile.
const LOCK_LOOK: Duration = Duration::from_millis(5);
/// How much of a file's end is looked through at once for the last line end.
const TAIL: u64 = 64 * 1024;
/// What the text of a day begins behind, in every line.
const BEFORE_DAY: &[u8] = b"{\"ts\":\"";

/// The directory of the log, and the file in it.
#[derive(Debug)]
pub(crate) struct AuditFile {
    folder: PathBuf,
    path: PathBuf,
    max_bytes: u64,
    open: Option<Open>,
    /// Something was appended since the last [`AuditFile::sync`].
    unsynced: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// Day of its first line; `None` while it is empty.
    day: Option<Date>,
}

impl AuditFile {
    pub(crate) fn new(folder: PathBuf, max_bytes: u64) -> Self {
        let path = folder.join(NAME);
        Self { folder, path, max_bytes, open: None, unsynced: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines, all of them or none. Closes the file before a line of another day and before the limit.
    ///
    /// # Errors
    /// The disk refuses, or another process holds the lock. Some of the lines may have been written if they are of
    /// several days or files; `lines` is cut down to those that were not.
    pub(crate) fn append(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        let _lock = self.lock()?;
        while !lines.is_empty() {
            let (day, of_day) = first_day(lines);
            let open = self.current()?;
            let size = open.file.metadata()?.len();
            let ended = open.day.zip(day).is_some_and(|(open, line)| open < line);
            let room = usize::try_from(self.max_bytes.saturating_sub(size)).unwrap_or(usize::MAX);
            let fitting = if size == 0 {
                whole_lines(lines, of_day, room).max(first_line(lines))
            } else {
                whole_lines(lines, of_day, room)
            };
            if size > 0 && (ended || fitting == 0) {
                self.close_file()?;
                continue;
            }
            let Some(part) = lines.get(..fitting) else { break };
            self.write(part, size, day)?;
            lines.drain(..fitting);
        }
        Ok(())
    }

    /// Looks whether the file is still there, and closes it when its day is over.
    ///
    /// # Errors
    /// The disk refuses, or another process holds the lock.
    pub(crate) fn look(&mut self, now: SystemTime) -> io::Result<Looked> {
        let _lock = self.lock()?;
        if self.current()?.day.is_some_and(|day| day < today(now)) {
            self.close_file()?;
            self.current()?;
            return Ok(Looked::Closed);
        }
        Ok(Looked::Same)
    }

    /// Brings to the disk what was appended: content and size (`fdatasync`).
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if let Some(open) = self.open.as_ref().filter(|_| self.unsynced) {
            open.file.sync_data()?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// Removes closed files that are older than so many days.
    pub(crate) fn remove_older(&self, keep_days: u32, now: SystemTime) {
        if keep_days == 0 {
            return;
        }
        let oldest = today(now).saturating_sub(jiff::Span::new().try_days(keep_days).unwrap_or_default());
        let closed = self.closed().unwrap_or_default();
        for (path, _, _) in closed.into_iter().filter(|(_, day, _)| *day < oldest) {
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(file.path = %path.display(), "an old audit file was removed"),
                Err(error) if error.kind() == ErrorKind::NotFound => {} // by another process
                Err(error) => tracing::warn!(file.path = %path.display(), %error, "an old audit file stays"),
            }
        }
    }

    /// The lock on the directory; it ends with the value.
    fn lock(&self) -> io::Result<File> {
        match DirBuilder::new().mode(FOLDER_MODE).create(&self.folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?, // not the data directory: one that is gone is not made again, half
        }
        let folder = File::open(&self.folder)?;
        let end = Instant::now() + LOCK_WAIT;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(folder),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                    return Err(io::Error::new(ErrorKind::TimedOut, "another process holds the lock"));
                }
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_LOOK),
            }
        }
    }

    /// The file that the name leads to now.
    fn current(&mut self) -> io::Result<&mut Open> {
        let there = match fs::metadata(&self.path) {
            Ok(found) => Some((found.dev(), found.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let open = self.open.take();
        if let Some(open) = &open
            && Some(open.identity) != there
        {
            tracing::info!(file.path = %self.path.display(), "the audit file was moved; a new one is used");
            if self.unsynced {
                open.file.sync_data()?;
            }
        }
        let open = match open.filter(|open| Some(open.identity) == there) {
            Some(open) => open,
            None => self.reopen(there.is_none())?,
        };
        Ok(self.open.insert(open))
    }

    fn reopen(&self, is_new: bool) -> io::Result<Open> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(FILE_MODE).open(&self.path)?;
        if is_new {
            file.set_permissions(Permissions::from_mode(FILE_MODE))?; // whatever the umask
            File::open(&self.folder)?.sync_all()?;
        }
        let found = file.metadata()?;
        mend(&file, &self.path)?;
        let day = day_of(&file)?;
        Ok(Open { file, identity: (found.dev(), found.ino()), day })
    }

    /// Gives the file its name and forgets it.
    fn close_file(&mut self) -> io::Result<()> {
        self.sync()?;
        let Some(open) = &self.open else { return Ok(()) };
        let day = open.day.unwrap_or_default();
        let last = self.closed()?.into_iter().filter(|(_, of, _)| *of == day).map(|(_, _, number)| number).max();
        let number = last.unwrap_or(0).saturating_add(1);
        fs::rename(&self.path, self.folder.join(format!("audit-{day}-{number}.jsonl")))?;
        File::open(&self.folder)?.sync_all()?;
        self.open = None;
        Ok(())
    }

    /// Closed files with day and number.
    fn closed(&self) -> io::Result<Vec<(PathBuf, Date, u64)>> {
        let mut closed = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let Some((day, number)) = entry.file_name().to_str().and_then(parse_name) {
                closed.push((entry.path(), day, number));
            }
        }
        Ok(closed)
    }

    /// Writes lines, or nothing of them.
    fn write(&mut self, lines: &[u8], size: u64, day: Option<Date>) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Err(io::Error::from(ErrorKind::NotFound)) };
        if let Err(error) = open.file.write_all(lines) {
            // without half a line at the end; if that does not work either, the next look mends it
            let cut = open.file.set_len(size);
            tracing::debug!(cut = cut.is_ok(), "lines were taken back");
            self.open = None;
            return Err(error);
        }
        open.day = open.day.or(day);
        self.unsynced = true;
        Ok(())
    }
}

/// What became of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// It was closed, and another one begun.
    Closed,
    /// It is still the one to write to.
    Same,
}

fn today(now: SystemTime) -> Date {
    let now = jiff::Timestamp::try_from(now).unwrap_or_default();
    now.to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn parse_name(name: &str) -> Option<(Date, u64)> {
    let (day, number) = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.split_at_checked(10)?;
    let number = number.strip_prefix('-')?;
    let is_number = number.bytes().all(|digit| digit.is_ascii_digit());
    Some((day.parse().ok()?, number.parse().ok().filter(|_| is_number)?))
}

/// Day of a line.
fn day_of_line(line: &[u8]) -> Option<Date> {
    let day = line.strip_prefix(BEFORE_DAY)?.get(..10)?;
    std::str::from_utf8(day).ok()?.parse().ok()
}

/// Day of the first line, and the length of all lines up to one of another day. Lines are in the order of their times.
fn first_day(lines: &[u8]) -> (Option<Date>, usize) {
    let day = day_text(lines);
    let last = last_line(lines);
    if day_text(last) == day {
        return (day_of_line(lines), lines.len());
    }
    let mut end = 0;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        if day_text(line) != day {
            break;
        }
        end += line.len();
    }
    (day_of_line(lines), end)
}

fn day_text(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(BEFORE_DAY)?.get(..10)
}

fn last_line(lines: &[u8]) -> &[u8] {
    let body = lines.strip_suffix(b"\n").unwrap_or(lines);
    let start = memchr::memrchr(b'\n', body).map_or(0, |at| at + 1);
    lines.get(start..).unwrap_or_default()
}

/// Length of the first line.
fn first_line(lines: &[u8]) -> usize {
    memchr::memchr(b'\n', lines).map_or(lines.len(), |at| at + 1)
}

/// Length of the whole lines within the first `most` bytes and within `room`.
fn whole_lines(lines: &[u8], most: usize, room: usize) -> usize {
    let within = lines.get(..most.min(room)).unwrap_or(lines);
    memchr::memrchr(b'\n', within).map_or(0, |at| at + 1)
}

/// Day of the first line of a file; of a file without one in our form, the day of its last change.
fn day_of(mut file: &File) -> io::Result<Option<Date>> {
    let found = file.metadata()?;
    if found.len() == 0 {
        return Ok(None);
    }
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(64).read_to_end(&mut start)?;
    Ok(Some(day_of_line(&start).unwrap_or_else(|| found.modified().map_or(Date::default(), today))))
}

/// Sees to it that the file ends with a whole line. What a process that was killed left half written is cut off; only
/// the end of a line may be missing, and is written then.
fn mend(mut file: &File, path: &Path) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut kept = length;
    let mut tail = Vec::new();
    while kept > 0 {
        let start = kept.saturating_sub(TAIL);
        let mut piece = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.take(kept - start).read_to_end(&mut piece)?;
        let line_end = memchr::memrchr(b'\n', &piece).map_or(0, |at| at + 1);
        let cut = piece.split_off(line_end);
        tail.splice(..0, cut);
        kept = start + line_end as u64;
        if line_end > 0 || tail.len() as u64 > MAX_BYTES {
            break;
        }
    }
    if tail.is_empty() {
        return Ok(());
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(&tail).is_ok() {
        return file.write_all(b"\n");
    }
    tracing::warn!(file.path = %path.display(), bytes = tail.len(), "a record that was not written to its end was cut off");
    file.set_len(kept)
}

#[cfg(test)]
mod tests;
