//! Copying files, and their sums.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// What went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub size: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// Reads to the end, or as far as `most`, and writes it on.
pub(super) fn pour(from: &mut impl Read, most: u64, to: &mut impl Write) -> io::Result<Sum> {
    let (mut from, mut piece) = (from.take(most), vec![0; PIECE]);
    let (mut size, mut hash) = (0, Sha256::new());
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => piece.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(read);
        to.write_all(read)?;
        size += read.len() as u64;
    }
    Ok(Sum { size, sha256: hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect() })
}

/// The sum of a file.
pub(super) fn sum(path: &Path) -> io::Result<Sum> {
    pour(&mut File::open(path)?, u64::MAX, &mut io::sink())
}

/// A new file that only its owner can read.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A directory that only its owner can enter, with those above it.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Brings everything that was written to the file system of a directory to the disk: for many files less work than one
/// after the other.
pub(super) fn sync_all_of(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}
