//! `backup DIR`. Databases come first: what a row speaks of was there before the row, so it is there when files are copied
//! afterwards. A file that goes away meanwhile is left out, like one that had gone before.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dgx_gateway::config::Overrides;
use dgx_gateway::registry::version;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::{Clock, SystemClock};
use dgx_gateway_store::copy::{self, Versions};
use tempfile::TempDir;

use super::files::{self, Sum};
use super::manifest::{self, FileEntry, Manifest};
use super::places::Places;
use super::{BackupError, at};

/// How a backup is called while it is not complete; it lies beside its target.
const PARTIAL: &str = ".dgx-gateway-backup-";
/// Deepest directory below the data directory: deeper, a link leads back.
const DEEPEST: usize = 32;
/// Bytes that have to fit on a disk that is not full.
const ROOM: usize = 128 * 1024;
/// Directories and files that say something of processes and not of data.
const LEFT_OUT: [&str; 2] = ["sqlite/instances", "lost+found"];
/// Directory of the audit log, which has a lock.
const AUDIT: &str = "audit";
/// Its file that is written.
const AUDIT_FILE: &str = "audit/audit.jsonl";

/// Makes the backup; gives what there is to say.
pub(super) fn take(target: &Path, overrides: &Overrides, ambient: &Ambient) -> Result<String, BackupError> {
    let places = Places::find(overrides, ambient, None)?;
    if !places.data_dir.is_dir() {
        return Err(BackupError::NoData(places.data_dir));
    }
    let parent = parent_of(target, &places.data_dir)?;
    remove_left_behind(&parent)?;
    let staged = tempfile::Builder::new()
        .prefix(PARTIAL)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(&parent)
        .map_err(at(&parent))?;
    let lock = File::open(staged.path()).map_err(at(staged.path()))?;
    lock.lock().map_err(at(staged.path()))?;
    let manifest = fill(staged.path(), &places)?;
    let said = format!(
        "Backed up {} files, {} bytes, to {}.\n",
        manifest.files.len(),
        manifest.files.iter().map(|file| file.size).sum::<u64>(),
        target.display()
    );
    finish(staged, target, &parent)?;
    Ok(said)
}

/// The directory in which the target is made; the target is new or empty, and outside of the data directory.
fn parent_of(target: &Path, data_dir: &Path) -> Result<PathBuf, BackupError> {
    let parent = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) if target.file_name().is_some() => parent,
        _ => return Err(BackupError::NoParent(target.to_owned())),
    };
    if !parent.is_dir() {
        return Err(BackupError::NoParent(parent.to_owned()));
    }
    let parent = parent.canonicalize().map_err(at(parent))?;
    if parent.starts_with(data_dir.canonicalize().map_err(at(data_dir))?) {
        return Err(BackupError::Inside(target.to_owned()));
    }
    match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
        Ok(false) => Err(BackupError::NotEmpty(target.to_owned())),
        Ok(true) => Ok(parent),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(parent),
        Err(source) => Err(BackupError::Io { path: target.to_owned(), source }),
    }
}

/// Removes what backups left that were killed: nobody holds its lock.
fn remove_left_behind(parent: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(parent).map_err(at(parent))? {
        let path = entry.map_err(at(parent))?.path();
        let is_partial = path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(PARTIAL));
        if is_partial && File::open(&path).is_ok_and(|directory| directory.try_lock().is_ok()) {
            fs::remove_dir_all(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// Gives the directory its name, once everything in it is on the disk.
fn finish(staged: TempDir, target: &Path, parent: &Path) -> Result<(), BackupError> {
    files::sync_all_of(staged.path()).map_err(at(target))?;
    fs::rename(staged.path(), target).map_err(at(target))?;
    drop(staged.keep()); // it has another name now
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(at(parent))
}

/// Whether a little more can be written beside a file.
fn room_at(path: &Path) -> Result<(), BackupError> {
    let write = |directory: &Path| {
        let mut scratch = tempfile::tempfile_in(directory)?;
        io::Write::write_all(&mut scratch, &[0; ROOM])?;
        scratch.sync_all()
    };
    path.parent().map_or(Ok(()), write).map_err(at(path))
}

fn fill(staged: &Path, places: &Places) -> Result<Manifest, BackupError> {
    let mut copying = Copying { staged, files: Vec::new(), schema: BTreeMap::new() };
    let mut listed = Listed::default();
    listed.walk(&places.data_dir, "", 0)?;
    for (name, path) in &listed.databases {
        copying.database(name, path)?;
    }
    for (name, path) in places.config_files()? {
        copying.file(&name, &path)?;
    }
    copying.audit(&places.data_dir)?;
    // images that rows of the copies speak of may have come after the first look
    let mut now = Listed::default();
    now.walk(&places.data_dir, "", 0)?;
    for (name, path) in &now.files {
        copying.file(name, path)?;
    }
    copying.manifest()
}

/// What there is below the data directory.
#[derive(Default)]
struct Listed {
    databases: Vec<(String, PathBuf)>,
    /// All but databases and the audit log.
    files: Vec<(String, PathBuf)>,
}

impl Listed {
    /// Links are followed: a part of the data may lie on another disk.
    fn walk(&mut self, directory: &Path, below: &str, depth: usize) -> Result<(), BackupError> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound && depth > 0 => return Ok(()),
            Err(source) => return Err(BackupError::Io { path: directory.to_owned(), source }),
        };
        for entry in entries {
            let path = entry.map_err(at(directory))?.path();
            let Some(name) = path.file_name().and_then(OsStr::to_str) else { return Err(BackupError::Strange(path)) };
            let found = match fs::metadata(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(source) => return Err(BackupError::Io { path, source }),
            };
            let place = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            if name.starts_with('.') || LEFT_OUT.contains(&place.as_str()) || place == AUDIT {
                continue; // hidden: it is being written
            }
            if found.is_dir() && depth < DEEPEST {
                self.walk(&path, &place, depth + 1)?;
            } else if !found.is_file() {
                return Err(BackupError::Strange(path));
            } else if place.starts_with("sqlite/") {
                // a log and its index are part of what SQLite copies
                if path.extension() == Some(OsStr::new("sqlite")) {
                    self.databases.push((format!("data/{place}"), path));
                }
            } else {
                self.files.push((format!("data/{place}"), path));
            }
        }
        Ok(())
    }
}

struct Copying<'a> {
    staged: &'a Path,
    files: Vec<FileEntry>,
    schema: BTreeMap<String, Versions>,
}

impl Copying<'_> {
    fn database(&mut self, name: &str, from: &Path) -> Result<(), BackupError> {
        let to = self.place(name)?;
        match copy::copy(from, &to) {
            Ok(versions) => drop(self.schema.insert(name.to_owned(), versions)),
            Err(_) if !from.exists() => return fs::remove_file(&to).map_err(at(&to)),
            Err(source) => {
                room_at(&to)?; // SQLite does not say which of the two files it means, nor always that a disk is full
                return Err(BackupError::Database { path: from.to_owned(), source });
            }
        }
        let sum = files::sum(&to).map_err(at(&to))?;
        let mode = fs::metadata(from).map_or(0o600, |found| found.permissions().mode());
        self.note(name, mode, sum);
        Ok(())
    }

    fn file(&mut self, name: &str, from: &Path) -> Result<(), BackupError> {
        match File::open(from) {
            Ok(open) => self.open_file(name, from, &open, u64::MAX),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(source) => Err(BackupError::Io { path: from.to_owned(), source }),
        }
    }

    fn open_file(&mut self, name: &str, from: &Path, mut open: &File, most: u64) -> Result<(), BackupError> {
        let to = self.place(name)?;
        let mode = open.metadata().map_err(at(from))?.permissions().mode();
        let mut copy = files::create(&to).map_err(at(&to))?;
        let sum = files::pour(&mut open, most, &mut copy).map_err(at(&to))?;
        self.note(name, mode, sum);
        Ok(())
    }

    /// The audit log: its lock is held for a moment, in which no line is half written and no file changes its name.
    fn audit(&mut self, data_dir: &Path) -> Result<(), BackupError> {
        let folder = data_dir.join(AUDIT);
        let lock = match File::open(&folder) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(BackupError::Io { path: folder, source }),
        };
        lock.lock().map_err(at(&folder))?;
        let (path, mut closed) = (data_dir.join(AUDIT_FILE), Vec::new());
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let entry = entry.map_err(at(&folder))?.path();
            let Some(name) = entry.file_name().and_then(OsStr::to_str) else { return Err(BackupError::Strange(entry)) };
            if entry.is_file() && entry != path && !name.starts_with('.') {
                closed.push((format!("data/{AUDIT}/{name}"), entry));
            }
        }
        let written = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        drop(lock);
        match written {
            Ok((length, file)) => self.open_file(&format!("data/{AUDIT_FILE}"), &path, &file, length)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(BackupError::Io { path, source }),
        }
        closed.iter().try_for_each(|(name, path)| self.file(name, path))
    }

    /// Where a file goes; its directory is made.
    fn place(&self, name: &str) -> Result<PathBuf, BackupError> {
        let to = self.staged.join(name);
        let directory = to.parent().unwrap_or(self.staged);
        files::make_private(directory).map_err(at(directory))?;
        Ok(to)
    }

    fn note(&mut self, name: &str, mode: u32, Sum { size, sha256 }: Sum) {
        self.files.push(FileEntry { path: name.to_owned(), size, mode: format!("{:04o}", mode & 0o777), sha256 });
    }

    fn manifest(mut self) -> Result<Manifest, BackupError> {
        self.files.sort_by(|one, other| one.path.cmp(&other.path));
        let (version, path) = (version(), self.staged.join(manifest::NAME));
        let now = jiff::Timestamp::try_from(SystemClock.wall()).unwrap_or_default();
        let manifest = Manifest {
            format: manifest::FORMAT,
            name: version.name.to_string(),
            version: version.version.to_string(),
            git_sha: version.git_sha.to_string(),
            created_at: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            schema: self.schema,
            files: self.files,
        };
        let written = files::create(&path).and_then(|file| {
            let mut file = io::BufWriter::new(file);
            serde_json::to_writer_pretty(&mut file, &manifest)?;
            io::Write::flush(&mut file)
        });
        written.map_err(at(&path))?;
        Ok(manifest)
    }
}
