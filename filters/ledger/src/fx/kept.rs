//! The rates that were accepted, one file per day as it was received: what bills of the past rest on.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::civil::Date;

use super::document::{self, DayRate, MAX_BYTES};

/// The directory.
#[derive(Debug)]
pub(super) struct Kept(PathBuf);

impl Kept {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    fn path(&self, day: Date) -> PathBuf {
        self.0.join(format!("ecb-{day}.xml"))
    }

    /// Whether there is a file for a day.
    pub(super) fn has(&self, day: Date) -> bool {
        self.path(day).exists()
    }

    /// The newest rate that can still be read.
    pub(super) fn newest(&self) -> Option<DayRate> {
        let mut days: Vec<Date> = fs::read_dir(&self.0)
            .ok()?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?.strip_prefix("ecb-")?.strip_suffix(".xml")?.parse().ok()
            })
            .collect();
        days.sort_unstable();
        days.into_iter().rev().find_map(|day| {
            let read = read_file(&self.path(day)).map(|document| document::read(&document));
            match read {
                Ok(Ok(rate)) if rate.day == day => Some(rate),
                read => {
                    let why = read.map(|read| read.err().map(|error| error.to_string()));
                    tracing::warn!(fx.day = %day, ?why, "a kept exchange rate cannot be read and is left aside");
                    None
                }
            }
        })
    }

    /// Writes the document of a day, mode 0600, whole or not at all.
    pub(super) fn keep(&self, day: Date, document: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let mut file = tempfile::Builder::new().prefix(".ecb").tempfile_in(&self.0)?; // mode 0600
        file.write_all(document)?;
        file.as_file().sync_all()?;
        file.persist(self.path(day))?;
        fs::File::open(&self.0)?.sync_all()
    }
}

/// A file, as far as a document may reach.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut document = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut document)?;
    Ok(document)
}
