//! `restore DIR`. Everything is checked before anything is written; then files are written below a name that a gateway
//! refuses to start on, and get their own names when all of them are on the disk.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use dgx_gateway::config::Overrides;
use dgx_gateway::data_dir::{RESTORING, lock_alone};
use dgx_gateway::registry::registry;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_store::copy;

use super::files;
use super::manifest::{FileEntry, Manifest, ManifestError};
use super::places::{MAIN, Places};
use super::{BackupError, at};

/// What a file system may have in an empty directory.
const OF_THE_FILE_SYSTEM: &str = "lost+found";
/// A directory that a group may enter: that of the audit log.
const FOR_A_GROUP: (&str, u32) = ("data/audit", 0o750);

/// Restores; gives what there is to say.
pub(super) fn restore(backup: &Path, overrides: &Overrides, ambient: &Ambient) -> Result<String, BackupError> {
    let manifest = Manifest::read(backup)?;
    let spare = fs::read_to_string(backup.join(MAIN)).ok(); // its sum is checked below
    let places = Places::find(overrides, ambient, spare)?;
    let data_dir = &places.data_dir;
    let is_new = !data_dir.try_exists().map_err(at(data_dir))?;
    let lock = if is_new { None } else { Some(lock_alone(data_dir)?) };
    must_be_empty(data_dir)?;
    manifest.verify(backup)?;
    let databases = manifest.files.iter().filter(|file| file.path.starts_with("data/sqlite/"));
    databases.map(|file| backup.join(&file.path)).try_for_each(|path| must_be_known(&path))?;
    let _lock = match lock {
        Some(lock) => lock,
        None => {
            files::make_private(data_dir).map_err(at(data_dir))?;
            lock_alone(data_dir)?
        }
    };
    let mut restoring =
        Restoring { backup, data_dir, is_new, configuration: Vec::new(), placed: Vec::new(), done: false };
    let kept = restoring.stage(&manifest, &places)?;
    restoring.put_in_place()?;
    Ok(said(&manifest, data_dir, &kept))
}

fn said(manifest: &Manifest, data_dir: &Path, kept: &[(PathBuf, PathBuf)]) -> String {
    let (count, data_dir) = (manifest.files.len(), data_dir.display());
    let mut said = format!(
        "Restored a backup of {} by version {}, {count} files; the data directory is {data_dir}.\n",
        manifest.created_at, manifest.version
    );
    for (there, in_backup) in kept {
        let (there, in_backup) = (there.display(), in_backup.display());
        said.push_str(&format!(
            "{there} is there and is another one: it was left as it is. That of the backup: {in_backup}\n"
        ));
    }
    said
}

fn must_be_empty(data_dir: &Path) -> Result<(), BackupError> {
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BackupError::Io { path: data_dir.to_owned(), source }),
    };
    for entry in entries {
        if entry.map_err(at(data_dir))?.file_name() != OF_THE_FILE_SYSTEM {
            return Err(BackupError::NotEmpty(data_dir.to_owned()));
        }
    }
    Ok(())
}

/// A database whose tables this version can bring forward.
fn must_be_known(path: &Path) -> Result<(), BackupError> {
    let versions = copy::versions_of(path).map_err(|source| BackupError::Database { path: path.to_owned(), source })?;
    for (owner, version) in versions {
        let known = registry().tables().find(|(known, _)| *known == owner).map_or(0, |(_, version)| version);
        if version as usize > known {
            return Err(BackupError::Newer { path: path.to_owned(), owner, version, known });
        }
    }
    Ok(())
}

/// What was written so far. Dropped before it is done, all of it is removed.
struct Restoring<'a> {
    backup: &'a Path,
    data_dir: &'a Path,
    /// The data directory was made here.
    is_new: bool,
    /// Configuration files: written, and where they go.
    configuration: Vec<(tempfile::TempPath, PathBuf)>,
    /// What has its own name already.
    placed: Vec<PathBuf>,
    done: bool,
}

impl Restoring<'_> {
    /// Writes all files below names that do not count. Gives configuration files that are there already and differ.
    fn stage(&mut self, manifest: &Manifest, places: &Places) -> Result<Vec<(PathBuf, PathBuf)>, BackupError> {
        let staged = self.data_dir.join(RESTORING);
        fs::DirBuilder::new().mode(0o700).create(&staged).map_err(at(&staged))?;
        let mut kept = Vec::new();
        for file in &manifest.files {
            match (file.path.strip_prefix("data/"), places.of_config(&file.path)) {
                (Some(name), _) => self.data(file, &staged, name)?,
                (None, Some(place)) => {
                    if !self.configuration(file, &place)? {
                        kept.push((place, self.backup.join(&file.path)));
                    }
                }
                (None, None) => {} // of a version that has further ones
            }
        }
        give_all_to_owner_of(self.data_dir, &staged)?;
        files::sync_all_of(self.data_dir).map_err(at(self.data_dir))?;
        Ok(kept)
    }

    fn data(&self, file: &FileEntry, staged: &Path, name: &str) -> Result<(), BackupError> {
        let to = staged.join(name);
        if let Some(directory) = to.parent() {
            files::make_private(directory).map_err(at(directory))?;
        }
        if Path::new(&file.path).parent() == Some(Path::new(FOR_A_GROUP.0))
            && let Some(directory) = to.parent()
        {
            fs::set_permissions(directory, Permissions::from_mode(FOR_A_GROUP.1)).map_err(at(directory))?;
        }
        let copy = files::create(&to).map_err(at(&to))?;
        self.copy(file, copy, &to, file.mode()? & 0o770)
    }

    /// Writes a configuration file beside its place. False when another one is there, which stays.
    fn configuration(&mut self, file: &FileEntry, place: &Path) -> Result<bool, BackupError> {
        match files::sum(place) {
            Ok(sum) => return Ok(sum.sha256 == file.sha256),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(BackupError::Io { path: place.to_owned(), source }),
        }
        let directory = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(at(directory))?;
        let (copy, path) = tempfile::NamedTempFile::new_in(directory).map_err(at(directory))?.into_parts();
        self.copy(file, copy, &path, file.mode()?)?;
        give_to_owner_of(directory, &path)?;
        self.configuration.push((path, place.to_owned()));
        Ok(true)
    }

    /// Copies a file, which must still be the one that was checked.
    fn copy(&self, file: &FileEntry, mut copy: File, to: &Path, mode: u32) -> Result<(), BackupError> {
        let from = self.backup.join(&file.path);
        let sum = File::open(&from)
            .map_err(at(&from))
            .and_then(|mut open| files::pour(&mut open, u64::MAX, &mut copy).map_err(at(to)))?;
        if sum.sha256 != file.sha256 {
            return Err(ManifestError::Differs { path: from }.into());
        }
        copy.set_permissions(Permissions::from_mode(mode)).and_then(|()| copy.sync_all()).map_err(at(to))
    }

    /// Gives all files their names. What is still below the name that does not count keeps a gateway from starting.
    fn put_in_place(mut self) -> Result<(), BackupError> {
        let staged = self.data_dir.join(RESTORING);
        for (written, place) in std::mem::take(&mut self.configuration) {
            written
                .persist_noclobber(&place)
                .map_err(|error| BackupError::Io { path: place.clone(), source: error.error })?;
            self.placed.push(place);
        }
        for entry in fs::read_dir(&staged).map_err(at(&staged))? {
            let entry = entry.map_err(at(&staged))?;
            let place = self.data_dir.join(entry.file_name());
            fs::rename(entry.path(), &place).map_err(at(&place))?;
            self.placed.push(place);
        }
        let data_dir = File::open(self.data_dir).map_err(at(self.data_dir))?;
        data_dir.sync_all().map_err(at(self.data_dir))?;
        fs::remove_dir(&staged).map_err(at(&staged))?;
        self.done = true;
        data_dir.sync_all().map_err(at(self.data_dir))
    }
}

/// Whoever owns the directory has to be able to use what an administrator restores.
fn give_to_owner_of(directory: &Path, path: &Path) -> Result<(), BackupError> {
    let (owner, found) =
        (fs::metadata(directory).map_err(at(directory))?, fs::symlink_metadata(path).map_err(at(path))?);
    if (owner.uid(), owner.gid()) == (found.uid(), found.gid()) {
        return Ok(());
    }
    lchown(path, Some(owner.uid()), Some(owner.gid())).map_err(at(path))
}

/// The same for everything below a directory.
fn give_all_to_owner_of(directory: &Path, below: &Path) -> Result<(), BackupError> {
    let mut directories = vec![below.to_owned()];
    while let Some(next) = directories.pop() {
        give_to_owner_of(directory, &next)?;
        for entry in fs::read_dir(&next).map_err(at(&next))? {
            let path = entry.map_err(at(&next))?.path();
            if path.is_dir() { directories.push(path) } else { give_to_owner_of(directory, &path)? }
        }
    }
    Ok(())
}

impl Drop for Restoring<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let remove = |path: &Path| match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        self.configuration.clear();
        let staged = self.data_dir.join(RESTORING);
        let mut removed: Vec<io::Result<()>> = self.placed.iter().map(|path| remove(path)).collect();
        removed.push(remove(&staged));
        if self.is_new {
            removed.push(fs::remove_dir(self.data_dir));
        }
        for error in removed.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "something of a restore that failed stays behind");
        }
    }
}
