//! What a backup says of itself: read as something that anybody could have written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use dgx_gateway_store::copy::Versions;
use serde::{Deserialize, Serialize};

use super::files;

/// Its name.
pub(super) const NAME: &str = "manifest.json";
/// Form of the directory that this version writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;
/// Longest manifest that is read: some millions of files.
const MAX_BYTES: u64 = 1 << 30;

/// Why a backup is not taken for one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("{path}: its content is not that of the backup (size or SHA-256 differ from the manifest)")]
    Differs { path: PathBuf },
    #[error("{path}: it has form {format}, this version reads {FORMAT}: use a newer one")]
    Format { path: PathBuf, format: u32 },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}: it is listed twice, or as file and directory")]
    Listed { path: String },
    #[error("{path}: it is missing in the backup")]
    Missing { path: PathBuf },
    #[error("{file}: mode {mode} is none of a file")]
    Mode { file: String, mode: String },
    #[error("{path}: it is no manifest of a backup: {source}")]
    NoManifest {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the manifest names a file outside of the backup: {path}")]
    Outside { path: String },
    #[error("{path}: it is no file")]
    NoFile { path: PathBuf },
}

/// The manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub format: u32,
    pub name: String,
    pub version: String,
    pub git_sha: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// For each database the owners of its tables and the versions of their schemas.
    pub schema: BTreeMap<String, Versions>,
    pub files: Vec<FileEntry>,
}

/// A file of a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FileEntry {
    /// Relative to the backup, `/` between names.
    pub path: String,
    pub size: u64,
    /// Of the file that was backed up, in octal digits. In the backup itself all have 0600.
    pub mode: String,
    pub sha256: String,
}

impl FileEntry {
    /// The bits of its mode.
    pub(super) fn mode(&self) -> Result<u32, ManifestError> {
        let wrong = || ManifestError::Mode { file: self.path.clone(), mode: self.mode.clone() };
        u32::from_str_radix(&self.mode, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(wrong)
    }
}

/// Only the form, so that a manifest of another form is told from a damaged one.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

impl Manifest {
    /// Reads it, and checks that it describes files inside of the backup.
    pub(super) fn read(backup: &Path) -> Result<Self, ManifestError> {
        let path = backup.join(NAME);
        let failed = |source| ManifestError::Io { path: path.clone(), source };
        let mut text = Vec::new();
        File::open(&path).map_err(failed)?.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
        let is_none = |source| ManifestError::NoManifest { path: path.clone(), source };
        let Form { format } = serde_json::from_slice(&text).map_err(is_none)?;
        if format != FORMAT {
            return Err(ManifestError::Format { path, format });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(is_none)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let (mut files, mut directories) = (BTreeSet::new(), BTreeSet::new());
        for file in &self.files {
            if !is_inside(&file.path) {
                return Err(ManifestError::Outside { path: file.path.clone() });
            }
            file.mode()?;
            directories.extend(Path::new(&file.path).ancestors().skip(1).map(Path::to_owned));
            if !files.insert(PathBuf::from(&file.path)) {
                return Err(ManifestError::Listed { path: file.path.clone() });
            }
        }
        match files.intersection(&directories).next() {
            Some(both) => Err(ManifestError::Listed { path: both.display().to_string() }),
            None => Ok(()),
        }
    }

    /// Reads every file and compares.
    pub(super) fn verify(&self, backup: &Path) -> Result<(), ManifestError> {
        for file in &self.files {
            let path = backup.join(&file.path);
            match fs::symlink_metadata(&path) {
                Ok(found) if !found.is_file() => return Err(ManifestError::NoFile { path }),
                Ok(found) if found.len() != file.size => return Err(ManifestError::Differs { path }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ManifestError::Missing { path }),
                Err(source) => return Err(ManifestError::Io { path, source }),
            }
            let sum = files::sum(&path).map_err(|source| ManifestError::Io { path: path.clone(), source })?;
            if sum.sha256 != file.sha256 {
                return Err(ManifestError::Differs { path });
            }
        }
        Ok(())
    }
}

/// Whether a path names something below `data` or `config`, spelled in one way only.
fn is_inside(path: &str) -> bool {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let spelled: PathBuf = Path::new(path).components().collect();
    let below = path.strip_prefix("data/").or_else(|| path.strip_prefix("config/"));
    plain && spelled.as_os_str() == path && !path.contains('\0') && below.is_some_and(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[(&str, &str)]) -> Result<(), ManifestError> {
        let entry = |(path, mode): &(&str, &str)| FileEntry {
            path: (*path).to_owned(),
            size: 0,
            mode: (*mode).to_owned(),
            sha256: String::new(),
        };
        Manifest {
            format: FORMAT,
            name: String::new(),
            version: String::new(),
            git_sha: String::new(),
            created_at: String::new(),
            schema: BTreeMap::new(),
            files: files.iter().map(entry).collect(),
        }
        .check()
    }

    #[test]
    fn only_files_inside_of_the_backup_are_named() {
        for path in ["data/a", "data/sqlite/rag/x.sqlite", "config/agents/a..b.yaml", "data/..a"] {
            manifest(&[(path, "0600")]).unwrap();
        }
        for path in [
            "",
            "data",
            "data/",
            "/data/a",
            "data/../a",
            "../a",
            "data/./a",
            "./data/a",
            "data//a",
            "data/a/",
            "other/a",
            "manifest.json",
            "data/..",
            "data/a\0b",
            "config/../../etc/passwd",
        ] {
            let error = manifest(&[(path, "0600")]).unwrap_err();
            assert!(matches!(error, ManifestError::Outside { .. }), "{path:?} {error}");
        }
    }

    #[test]
    fn each_file_has_one_entry_and_a_plain_mode() {
        manifest(&[("data/a", "0600"), ("data/b/c", "0640"), ("data/b/d", "600")]).unwrap();
        for files in [[("data/a", "0600"), ("data/a", "0600")], [("data/a", "0600"), ("data/a/b", "0600")]] {
            assert!(matches!(manifest(&files), Err(ManifestError::Listed { .. })), "{files:?}");
        }
        for mode in ["", "4755", "rw", "-1", "0o600", "1000"] {
            assert!(matches!(manifest(&[("data/a", mode)]), Err(ManifestError::Mode { .. })), "{mode}");
        }
    }
}
