//! The key `auth` of the configuration file.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// Top-level keys of this crate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who may use the gateway.
    pub auth: AuthSettings,
}

/// Where tokens and tenants are written down.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// File with tenants and tokens, relative to the working directory. Default `auth/tokens.yaml`. A file that does
    /// not exist means that no token is configured there.
    pub tokens_file: PathBuf,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self { tokens_file: PathBuf::from("auth/tokens.yaml") }
    }
}
