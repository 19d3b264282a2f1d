//! The data directory belongs to one gateway: the processes that use it hold a lock on the directory itself.
//!
//! Whoever starts, or restores, takes the lock for itself alone, which shows that nobody else uses the directory; a
//! gateway then shares it, so that the process that takes its place (SIGUSR2) can hold it, too, before this one ends.
//! The system gives the lock back when a process ends, however it ends, and there is no file that could stay behind.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What a restore that has not ended leaves in the directory.
pub const RESTORING: &str = ".restore-not-finished";

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// It cannot be made, opened, locked or written.
    #[error("the data directory {path} cannot be used: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data directory {0} is in use by another gateway: stop that one first (`fuser {0}` names its process), or set \
         another `data_dir`"
    )]
    InUse(PathBuf),
    /// A restore has begun, and not ended.
    #[error("a restore into the data directory {0} did not end: remove what is in {0}, and restore again")]
    Restoring(PathBuf),
}

/// Who takes the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The first gateway on the directory.
    First,
    /// A gateway that takes the place of another one.
    Successor,
}

/// The lock; it ends with the value.
#[derive(Debug)]
pub struct DataDir {
    _locked: File,
}

impl DataDir {
    /// Makes the directory, mode 0700, if there is none, and takes the lock of a gateway.
    ///
    /// # Errors
    /// It is in use, holds half a restore, or cannot be written.
    pub fn take(path: &Path, holder: Holder) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let locked = match holder {
            Holder::First => lock_alone(path)?,
            Holder::Successor => File::open(path).map_err(failed)?,
        };
        match locked.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        if path.join(RESTORING).exists() {
            return Err(DataDirError::Restoring(path.to_owned()));
        }
        tempfile::tempfile_in(path).map_err(failed)?; // SQLite would open what it cannot write
        Ok(Self { _locked: locked })
    }
}

/// The lock on a directory that nobody uses.
///
/// # Errors
/// It is in use, or cannot be locked.
pub fn lock_alone(path: &Path) -> Result<File, DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    let locked = File::open(path).map_err(failed)?;
    match locked.try_lock() {
        Ok(()) => Ok(locked),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gateway_and_its_successors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/data");
        let first = DataDir::take(&path, Holder::First).unwrap();
        let is_in_use = |taken| matches!(taken, Err(DataDirError::InUse(_)));
        assert!(is_in_use(DataDir::take(&path, Holder::First).map(drop)));
        let second = DataDir::take(&path, Holder::Successor).unwrap();
        drop(first);
        assert!(is_in_use(DataDir::take(&path, Holder::First).map(drop)), "the successor holds it");
        assert!(is_in_use(lock_alone(&path).map(drop)));
        drop(second);
        let restoring = lock_alone(&path).unwrap();
        assert!(is_in_use(DataDir::take(&path, Holder::First).map(drop)));
        assert!(is_in_use(DataDir::take(&path, Holder::Successor).map(drop)));
        drop(restoring);
        assert_eq!(path.read_dir().unwrap().count(), 0, "nothing stays behind");
        std::fs::create_dir(path.join(RESTORING)).unwrap();
        assert!(matches!(DataDir::take(&path, Holder::First), Err(DataDirError::Restoring(_))));
    }

    #[test]
    fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::take(file.path(), Holder::First).unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
