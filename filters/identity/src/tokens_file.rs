//! The tokens file on disk: one change at a time, whole or not at all.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use secrecy::SecretString;

use crate::digest::Digest;
use crate::edit::{self, NewToken};
use crate::{file, random};

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// There is such a token already.
    #[error("there is a token {0} already")]
    Exists(String),
    /// The file, as it is or as it would be, is not valid.
    #[error("the tokens file would not be valid")]
    Invalid(Vec<Problem>),
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A time is out of range.
    #[error("the time is out of range")]
    Time,
    /// The file is written in a way that cannot be changed by a program without touching the rest.
    #[error("the file is written in a form that cannot be changed safely; change it by hand")]
    Unforeseen,
    /// There is no such token.
    #[error("there is no token {0}")]
    Unknown(String),
}

/// What is told of a token; no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Id.
    pub id: String,
    /// Role word; `None`: no scopes by default.
    pub role: Option<&'static str>,
    /// Tenant that it is bound to; `None`: any.
    pub tenant: Option<String>,
    /// User whose personal token it is.
    pub user: Option<String>,
    /// Number of secrets.
    pub secrets: usize,
    /// When its last secret ends; `None`: never.
    pub expires: Option<SystemTime>,
    /// Name for people.
    pub label: Option<String>,
}

/// The tokens file.
#[derive(Debug)]
pub struct TokensFile<'a> {
    path: PathBuf,
    ambient: &'a Ambient,
}

impl<'a> TokensFile<'a> {
    /// The file at a path; it need not exist.
    #[must_use]
    pub fn at(path: PathBuf, ambient: &'a Ambient) -> Self {
        // a link is followed, so that the file behind it is replaced and not the link
        Self { path: fs::canonicalize(&path).unwrap_or(path), ambient }
    }

    /// Adds a token; gives its secret, which is kept nowhere.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn add(&self, token: &NewToken) -> Result<SecretString, EditError> {
        let (secret, digest) = self.new_secret()?;
        self.change(|text| edit::add(text, token, &digest))?;
        Ok(secret)
    }

    /// Adds a secret to a token and lets the others end; gives the new one.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn rotate(&self, id: &str, old_end: SystemTime) -> Result<SecretString, EditError> {
        let (secret, digest) = self.new_secret()?;
        let unknown = || EditError::Unknown(id.to_owned());
        self.change(|text| edit::rotate(text.ok_or_else(unknown)?, id, &digest, old_end))?;
        Ok(secret)
    }

    /// Takes a token out.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn revoke(&self, id: &str) -> Result<(), EditError> {
        let unknown = || EditError::Unknown(id.to_owned());
        self.change(|text| edit::revoke(text.ok_or_else(unknown)?, id))
    }

    /// The tokens of the file, in its order.
    ///
    /// # Errors
    /// The file cannot be read, or is not valid.
    pub fn list(&self) -> Result<Vec<Listed>, EditError> {
        file::listed(&self.path, self.read()?.as_deref(), self.ambient).map_err(EditError::Invalid)
    }

    fn new_secret(&self) -> Result<(SecretString, Digest), EditError> {
        let secret = random::secret().map_err(|source| self.failed(source))?;
        let digest = Digest::of(secret.as_bytes());
        Ok((SecretString::from(secret), digest))
    }

    fn failed(&self, source: io::Error) -> EditError {
        EditError::Io { path: self.path.clone(), source }
    }

    fn read(&self) -> Result<Option<String>, EditError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Reads, changes, checks and replaces the file while nobody else does.
    fn change(&self, change: impl FnOnce(Option<&str>) -> Result<String, EditError>) -> Result<(), EditError> {
        let folder = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| self.failed(source))?;
        let _lock = self.lock(folder).map_err(|source| self.failed(source))?;
        let old = self.read()?;
        let new = change(old.as_deref())?;
        file::read(&self.path, Some(&new), self.ambient).map_err(EditError::Invalid)?;
        self.replace(folder, &new).map_err(|source| self.failed(source))
    }

    /// Waits for others that change the file, too. The lock file stays: removing it would let two in.
    fn lock(&self, folder: &Path) -> io::Result<File> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let path = folder.join(format!(".{name}.lock"));
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    }

    fn replace(&self, folder: &Path, text: &str) -> io::Result<()> {
        // a temporary file has mode 0600
        let mut file = tempfile::Builder::new().prefix(".tokens").tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        let owner = fs::metadata(&self.path).or_else(|_| fs::metadata(folder))?;
        keep_owner(file.as_file(), &owner)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    }
}

/// The account that runs the gateway must be able to read what an administrator writes.
fn keep_owner(file: &File, owner: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    if own.uid() == owner.uid() {
        return Ok(());
    }
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests;
