//! Whether the log of a database (WAL) is whole.
//!
//! SQLite reads the log up to the first frame whose checksum does not fit, and takes the rest for what a process left that
//! died while it wrote. So a damaged byte in the middle loses every commit behind it, without a word. Here both are told
//! apart: a commit is on the disk before the next one begins (`synchronous=FULL`), so behind the frame at which a
//! process died there is one end of a commit at most. The form: <https://sqlite.org/fileformat2.html#walformat>

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

const MAGIC: u32 = 0x377f_0682;
const HEADER: usize = 32;
const FRAME: usize = 24;
/// Ends of commits behind a frame that does not fit, from which on the log is damaged and not cut off.
const DAMAGED_FROM: usize = 2;

/// The log beside a database.
pub(crate) fn path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// How many commits the log of a database has that SQLite would not find; 0 for a log that is whole, or was cut off.
/// Nobody may have the database open meanwhile, this process included.
pub(crate) fn lost_commits(database: &Path) -> io::Result<usize> {
    let mut file = match File::open(path(database)) {
        Ok(file) => BufReader::with_capacity(1 << 16, file),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER];
    if !filled(&mut file, &mut header)? {
        return Ok(0);
    }
    let Some(mut frames) = Frames::of(&header, page_size(database)?) else {
        return Ok(0); // neither a database nor a log
    };
    let mut frame = vec![0; FRAME + frames.page];
    while filled(&mut file, &mut frame)? {
        frames.next(&frame);
    }
    Ok(if frames.lost < DAMAGED_FROM { 0 } else { frames.lost })
}

/// Size of pages as the database says, if it says one.
pub(crate) fn page_size(database: &Path) -> io::Result<Option<usize>> {
    let mut start = [0; 18];
    if !filled(&mut File::open(database)?, &mut start)? {
        return Ok(None);
    }
    let size = usize::from(u16::from_be_bytes([start[16], start[17]]));
    Ok(is_page_size(if size == 1 { 65_536 } else { size }))
}

fn is_page_size(size: usize) -> Option<usize> {
    (size.is_power_of_two() && (512..=65_536).contains(&size)).then_some(size)
}

/// False at the end of the file, also where only a part is left.
fn filled(file: &mut impl Read, piece: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(piece) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The frames of a log, one after the other.
struct Frames {
    page: usize,
    big_endian: bool,
    /// Of the header; a damaged header has none, then those of the first frame count.
    salts: Option<[u32; 2]>,
    /// Checksum so far; `None` once a frame did not fit.
    sum: Option<[u32; 2]>,
    /// Ends of commits since then.
    lost: usize,
}

impl Frames {
    fn of(header: &[u8; HEADER], page: Option<usize>) -> Option<Self> {
        let magic = word(header, 0);
        let (known, big_endian) = (magic & !1 == MAGIC, magic & 1 == 1);
        let page = page.or_else(|| is_page_size(usize::try_from(word(header, 8)).ok()?))?;
        let sum = add([0, 0], header.get(..FRAME)?, big_endian);
        let fits = known && sum == [word(header, 24), word(header, 28)];
        let salts = fits.then(|| [word(header, 16), word(header, 20)]);
        Some(Self { page, big_endian, salts, sum: fits.then_some(sum), lost: 0 })
    }

    fn next(&mut self, frame: &[u8]) {
        let salts = [word(frame, 8), word(frame, 12)];
        if *self.salts.get_or_insert(salts) != salts {
            self.sum = None; // what an earlier turn of the log left
            return;
        }
        self.sum = self.sum.and_then(|sum| {
            let sum = add(sum, frame.get(..8)?, self.big_endian);
            let sum = add(sum, frame.get(FRAME..)?, self.big_endian);
            (sum == [word(frame, 16), word(frame, 20)]).then_some(sum)
        });
        let is_end = word(frame, 4) != 0;
        self.lost += usize::from(self.sum.is_none() && is_end);
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// The checksum of the log, over eight bytes at a time.
fn add([mut one, mut two]: [u32; 2], bytes: &[u8], big_endian: bool) -> [u32; 2] {
    for pair in bytes.chunks_exact(8) {
        let [first, second] = [word(pair, 0), word(pair, 4)];
        let [first, second] = if big_endian { [first, second] } else { [first.swap_bytes(), second.swap_bytes()] };
        one = one.wrapping_add(first).wrapping_add(two);
        two = two.wrapping_add(second).wrapping_add(one);
    }
    [one, two]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// A log of so many commits, as a process that was killed leaves it.
    fn left_by_a_kill(commits: usize) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (database, left) = (dir.path().join("database.sqlite"), dir.path().join("left"));
        let connection = Connection::open(&database).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE numbers (n INTEGER)").unwrap();
        for n in 1..i64::try_from(commits).unwrap() {
            connection.execute("INSERT INTO numbers VALUES (?1)", [n]).unwrap();
        }
        std::fs::copy(&database, &left).unwrap();
        std::fs::copy(path(&database), path(&left)).unwrap();
        (dir, left)
    }

    /// What is lost after a change of the log, which is undone.
    fn after(database: &Path, change: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = std::fs::read(path(database)).unwrap();
        let mut bytes = before.clone();
        change(&mut bytes);
        std::fs::write(path(database), bytes).unwrap();
        let lost = lost_commits(database).unwrap();
        std::fs::write(path(database), before).unwrap();
        lost
    }

    #[test]
    fn a_log_that_is_whole_or_cut_off_anywhere_loses_nothing() {
        let (_dir, database) = left_by_a_kill(20);
        assert_eq!(lost_commits(&database).unwrap(), 0);
        assert_eq!(lost_commits(&database.with_extension("missing")).unwrap(), 0);
        let length = std::fs::read(path(&database)).unwrap().len();
        for left in [0, 1, 31, 32, 33, 32 + 4120, length / 2, length - 1] {
            assert_eq!(after(&database, |bytes| bytes.truncate(left)), 0, "{left}");
        }
        // the last commit was being written
        let last = length - 4120;
        assert_eq!(after(&database, |bytes| bytes[last + 100] ^= 1), 0);
        assert_eq!(after(&database, |bytes| bytes.resize(length + 3 * 4120, 0)), 0);
        // what an earlier turn left
        let other_salts = |bytes: &mut Vec<u8>| {
            bytes.extend_from_within(32..);
            bytes[length..].chunks_mut(4120).for_each(|frame| frame[8] ^= 1);
        };
        assert_eq!(after(&database, other_salts), 0);
    }

    #[test]
    fn damage_in_the_middle_is_counted() {
        let (_dir, database) = left_by_a_kill(20);
        for at in [32 + 4120 * 8 + 16, 32 + 4120 * 8 + 24, 32 + 4120 * 8 + 4000] {
            assert!(after(&database, |bytes| bytes[at] ^= 0x40) > 5, "{at}");
        }
        for at in [0, 3, 9, 17, 24, 31] {
            assert!(after(&database, |bytes| bytes[at] ^= 0x40) >= 20, "header, {at}");
        }
        let garbage = |bytes: &mut Vec<u8>| bytes[10_000..20_000].fill(0xa5);
        assert!(after(&database, garbage) > 5);
    }
}
