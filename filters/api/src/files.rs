//! Configuration files: read through here, so that the core knows which ones make up a configuration, and notices
//! when one of them changes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What can be known of a file without reading it. The file behind a link counts, so a link that is turned shows, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Looks at a file; `None` when it cannot be seen.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self {
            place: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// A file that was read, or looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRead {
    /// The path as it is configured.
    pub path: PathBuf,
    /// How it looked before it was read.
    pub stamp: Option<Stamp>,
    /// Tells contents apart; `None` when there was no file.
    pub digest: Option<u64>,
}

/// The files of one configuration, in the order in which they were read. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<FileRead>>>);

impl Journal {
    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// It is there and cannot be read, or is no text.
    pub fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let stamp = Stamp::of(path);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let digest = text.as_ref().ok().and_then(Option::as_ref).map(|text| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        });
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|known| known.path != path);
        files.push(FileRead { path: path.to_owned(), stamp, digest });
        text
    }

    /// What was read so far.
    #[must_use]
    pub fn files(&self) -> Vec<FileRead> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_what_was_read_and_what_was_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (there, missing) = (dir.path().join("there"), dir.path().join("missing"));
        std::fs::write(&there, "a: 1").unwrap();
        let journal = Journal::default();
        assert_eq!(journal.read(&there).unwrap().as_deref(), Some("a: 1"));
        assert_eq!(journal.read(&missing).unwrap(), None);
        assert!(journal.read(dir.path()).is_err());
        let files = journal.files();
        assert_eq!(files.iter().map(|file| file.digest.is_some()).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!((files[0].stamp, files[1].stamp), (Stamp::of(&there), None));
    }

    #[test]
    fn a_stamp_shows_every_way_to_change_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let before = Stamp::of(&path);
        // replaced by a rename, with the same size and the same time
        let other = dir.path().join("other");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let replaced = Stamp::of(&path);
        assert_ne!(before, replaced);
        // written in place
        std::fs::write(&path, "three").unwrap();
        assert_ne!(replaced, Stamp::of(&path));
        // a link on the way that is turned
        for (name, text) in [("a", "1"), ("b", "2")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("file"), text).unwrap();
        }
        let (link, new) = (dir.path().join("current"), dir.path().join("new"));
        std::os::unix::fs::symlink("a", &link).unwrap();
        let through = link.join("file");
        let first = Stamp::of(&through);
        std::os::unix::fs::symlink("b", &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
        assert_ne!(first, Stamp::of(&through));
        // gone
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Stamp::of(&path), None);
    }
}
