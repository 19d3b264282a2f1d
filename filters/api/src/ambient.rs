//! Environment variables, captured once, so that no library code reads the process environment, and the way to
//! configuration files.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::files::{FileRead, Journal};

/// What the process was given besides its configuration file.
#[derive(Clone, Debug, Default)]
pub struct Ambient {
    variables: HashMap<String, String>,
    files: Journal,
}

impl Ambient {
    /// From any list of pairs; `main` passes the process environment, tests pass what they need.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { variables: variables.into_iter().collect(), files: Journal::default() }
    }

    /// The same variables, and no file read yet: for the next look at a configuration.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { variables: self.variables.clone(), files: Journal::default() }
    }

    /// Reads a configuration file; `None` when there is none. Every file whose change is to bring a reload is read
    /// through here.
    ///
    /// # Errors
    /// It is there and cannot be read, or is no text.
    pub fn config_file(&self, path: &Path) -> io::Result<Option<String>> {
        self.files.read(path)
    }

    /// The configuration files that were read, or looked for.
    #[must_use]
    pub fn config_files(&self) -> Vec<FileRead> {
        self.files.files()
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A secret: the variable itself, or the content of the file that `<name>_FILE` points to.
    ///
    /// # Errors
    /// The file is named but cannot be read.
    pub fn secret(&self, name: &str) -> io::Result<Option<String>> {
        if let Some(value) = self.var(name) {
            return Ok(Some(value.to_owned()));
        }
        match self.var(&format!("{name}_FILE")).map(PathBuf::from) {
            None => Ok(None),
            Some(path) => Ok(Some(std::fs::read_to_string(path)?.trim_end_matches(['\r', '\n']).to_owned())),
        }
    }
}
