//! `dgx-gateway import litellm FILE`: from the configuration of LiteLLM to ours.
//!
//! What is printed is YAML with two documents, the backends of `gateway.yaml` and the whole `models.yaml`, and prices as
//! comments. What could not be carried over stands in comments, and on standard error. Secrets of the file are not printed.
//!
//! | Module | Does |
//! |---|---|
//! | `providers` | what the prefixes of model names mean here |
//! | `deployment` | one entry of `model_list` |
//! | `litellm` | the file: backends, routes, fallbacks, what is left over |
//! | `write` | what is printed |

mod deployment;
mod litellm;
mod providers;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use crate::say;

/// What is imported.
#[derive(Subcommand)]
pub(crate) enum Import {
    /// Prints backends and `models.yaml` made from a configuration of LiteLLM.
    Litellm {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// One part alone, to be written into its file.
        #[arg(long, value_enum)]
        part: Option<Part>,
    },
}

/// A part of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The key `backends` of `gateway.yaml`.
    Backends,
    /// `models.yaml`.
    Models,
    /// `pricing.yaml`, from the costs in the file.
    Pricing,
}

/// Why nothing is imported. Quotes nothing of the file but names of providers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ImportError {
    #[error("model_list: {0}")]
    Entries(String),
    #[error("is not valid YAML{}", .0.map(|line| format!(" at or before line {line}")).unwrap_or_default())]
    NoYaml(Option<usize>),
    #[error("has no model_list, so it is no configuration of LiteLLM with models")]
    NoModelList,
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

/// Runs the command.
pub(crate) fn run(what: &Import) -> ExitCode {
    let Import::Litellm { file, part } = what;
    match read(file) {
        Ok(imported) => {
            let notes: String = imported.notes.iter().map(|note| format!("{note}\n")).collect();
            say(&mut std::io::stderr(), &notes);
            say(&mut std::io::stdout(), &write::text(&imported, *part));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            let lines: String = errors.iter().map(|error| format!("{}: {error}\n", file.display())).collect();
            say(&mut std::io::stderr(), &lines);
            ExitCode::from(2)
        }
    }
}

fn read(file: &Path) -> Result<litellm::Imported, Vec<ImportError>> {
    let text = std::fs::read_to_string(file).map_err(|error| vec![error.into()])?;
    litellm::import(&text)
}
