//! Which processes are alive. Several may share the database for a while: one that drains and the one that follows
//! it. Only the calls of a process that is gone may be settled for it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A process that uses the database: it holds the lock of its file for as long as it lives.
#[derive(Debug)]
pub(crate) struct Instance {
    pub id: Arc<str>,
    path: PathBuf,
    _lock: File,
}

impl Instance {
    /// Registers this process in `directory`.
    pub(crate) fn register(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let id = uuid::Uuid::now_v7().to_string();
        // under a hidden name until it is locked: else another process could take it for that of a dead one
        let (hidden, path) = (directory.join(format!(".{id}")), directory.join(&id));
        let lock = File::create_new(&hidden)?;
        lock.lock()?;
        std::fs::rename(&hidden, &path)?;
        Ok(Self { id: id.into(), path, _lock: lock })
    }

    /// Ids of the processes that are alive, this one included. The files of the others are removed.
    pub(crate) fn alive(directory: &Path) -> io::Result<Vec<String>> {
        let mut alive = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            if id.starts_with('.') {
                continue;
            }
            match File::open(&path).map(|file| file.try_lock()) {
                Ok(Err(TryLockError::WouldBlock)) => alive.push(id),
                // nobody holds it: the process is gone
                Ok(Ok(())) => std::fs::remove_file(&path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) | Ok(Err(TryLockError::Error(error))) => return Err(error),
            }
        }
        Ok(alive)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the file of this instance is gone already");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_who_is_alive_and_forgets_who_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Instance::register(dir.path()).unwrap(), Instance::register(dir.path()).unwrap());
        let mut alive = Instance::alive(dir.path()).unwrap();
        alive.sort();
        assert_eq!(alive, [one.id.to_string(), two.id.to_string()]);
        std::fs::write(dir.path().join("of-a-process-that-was-killed"), "").unwrap();
        drop(one);
        assert_eq!(Instance::alive(dir.path()).unwrap(), [two.id.to_string()]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
