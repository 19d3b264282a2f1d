//! `dgx-gateway backup DIR` and `restore DIR`: all that a gateway keeps, as files with a manifest.
//!
//! ```text
//! DIR/manifest.json      versions, time, and size, mode and SHA-256 of every file
//! DIR/data/…             the data directory; databases as they were at one commit each
//! DIR/config/…           gateway.yaml, tokens.yaml, models.yaml, pricing.yaml, agents/*.yaml
//! ```
//!
//! Both make a directory complete or not at all: what is written gets its name when it is on the disk.
//!
//! | Module | Does |
//! |---|---|
//! | `files` | copies files and sums them up |
//! | `manifest` | what a backup says of itself, and whether that is true |
//! | `places` | where the gateway keeps things |
//! | `restore`, `take` | the commands |

mod files;
mod manifest;
mod places;
mod restore;
mod take;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dgx_gateway::config::Overrides;
use dgx_gateway::data_dir::DataDirError;
use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_store::copy::CopyError;

use self::manifest::ManifestError;
use crate::{report, say};

/// Why nothing was backed up or restored.
#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error("the configuration does not say where things are")]
    Config(Vec<Problem>),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("{path}: {source}")]
    Database {
        path: PathBuf,
        #[source]
        source: CopyError,
    },
    #[error("{0} lies inside the data directory: choose a place outside")]
    Inside(PathBuf),
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{path}: tables of {owner} have version {version}, this version knows {known}: use a newer one")]
    Newer { path: PathBuf, owner: String, version: u32, known: usize },
    #[error("there is no data directory {0}")]
    NoData(PathBuf),
    #[error("there is no directory {0} to make the backup in")]
    NoParent(PathBuf),
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    #[error("{0} is neither a file nor a directory, and cannot be backed up")]
    Strange(PathBuf),
}

/// Names the file of an error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

/// Runs `backup`. 0: done. 1: nothing was written.
pub(crate) fn backup(target: &Path, overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    end(take::take(target, overrides, ambient))
}

/// Runs `restore`. 0: done. 1: nothing was written.
pub(crate) fn restore(source: &Path, overrides: &Overrides, ambient: &Ambient) -> ExitCode {
    end(restore::restore(source, overrides, ambient))
}

fn end(done: Result<String, BackupError>) -> ExitCode {
    match done {
        Ok(said) => {
            say(&mut io::stdout(), &said);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&mut io::stderr(), &format!("dgx-gateway: {error}\n"));
            if let BackupError::Config(problems) = &error {
                report(problems);
            }
            ExitCode::FAILURE
        }
    }
}
