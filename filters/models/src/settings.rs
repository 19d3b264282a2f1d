//! File shapes: `backends`, `models_file` and `stream` of the gateway file, and the models file.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::backend::{BackendKind, Domain, Protocol};
use crate::catalog::ModelKind;

/// The keys of the gateway file that this plug-in owns.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Upstreams. Empty: local model servers are looked for, and an embedded demo is offered.
    pub backends: Vec<BackendFile>,
    /// The catalog. Default `conf/models.yaml`; a missing file is an empty catalog.
    pub models_file: Option<PathBuf>,
    /// Time limits of streams.
    pub stream: StreamFile,
}

/// Time limits of streams.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StreamFile {
    /// Longest silence of an upstream inside a stream, in seconds; 1 to 86400. Default 120.
    pub idle_timeout_seconds: u64,
    /// Longest time of a whole stream, in seconds; 1 to 86400. Default 3600.
    pub max_seconds: u64,
}

impl Default for StreamFile {
    fn default() -> Self {
        Self { idle_timeout_seconds: 120, max_seconds: 3600 }
    }
}

/// One upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendFile {
    /// Internal name, unique; never sent to callers.
    pub id: String,
    /// Public name, `^[a-z][a-z0-9-]{0,31}$`, unique. Default `<domain>-<n>` in file order within the domain.
    pub label: Option<String>,
    /// What it is; decides defaults. `demo` is the embedded one and needs no `base_url`.
    pub kind: BackendKind,
    /// Where it computes.
    pub domain: Domain,
    /// Root of its API, mostly ending in `/v1`.
    pub base_url: Option<String>,
    /// Its credential.
    #[serde(default)]
    pub api_key: Option<String>,
    /// What it speaks. Default by kind.
    pub protocols: Option<Vec<Protocol>>,
    /// Longest time for a connection in milliseconds; 1 to 60000. Default 2000.
    pub connect_timeout_ms: Option<u64>,
    /// Longest time until the first byte of a stream in seconds; 1 to 3600. Default 120.
    pub first_byte_timeout_seconds: Option<u64>,
    /// False takes it out of all routes. Default true.
    pub enabled: Option<bool>,
}

/// The models file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogFile {
    /// Version of the form: 1.
    pub version: u32,
    /// Models in the order in which they are listed.
    #[serde(default)]
    pub models: Vec<ModelFile>,
}

/// One model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// The slug that callers use: `^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$` without `..` and `//`.
    pub alias: String,
    /// What it does. Default `chat`.
    #[serde(rename = "type", default)]
    pub kind: ModelKind,
    /// Family, for people.
    pub family: Option<String>,
    /// Owner of the model. Default `unknown`.
    pub vendor: Option<String>,
    /// One line, for people.
    pub description: Option<String>,
    /// Unix time of the model. Default 1735689600.
    pub created: Option<i64>,
    /// Context window in tokens.
    pub context_window: Option<u64>,
    /// Most tokens of one answer.
    pub max_output_tokens: Option<u32>,
    /// Kinds of input and output.
    #[serde(default)]
    pub modalities: ModalitiesFile,
    /// Whether it calls tools.
    pub tools: Option<bool>,
    /// `no`, `yes` or `configurable`.
    pub reasoning: Option<String>,
    /// Limits of requests.
    #[serde(default)]
    pub constraints: ConstraintsFile,
    /// For people.
    pub notes: Option<String>,
    /// Name sent back in answers. Default: the slug of the request.
    pub response_model: Option<String>,
    /// Backends in the order in which they are tried.
    pub route: Vec<EntryFile>,
}

/// Kinds of input and output.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModalitiesFile {
    /// Default `[text]`.
    pub input: Vec<String>,
    /// Default `[text]`.
    pub output: Vec<String>,
}

impl Default for ModalitiesFile {
    fn default() -> Self {
        Self { input: vec!["text".to_owned()], output: vec!["text".to_owned()] }
    }
}

/// Limits of requests.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConstraintsFile {
    /// Floor of `max_tokens`: a smaller value is raised to it.
    pub min_max_tokens: Option<u32>,
    /// Whether `http` and `https` image URLs pass to the backend. Default false.
    pub accepts_image_url: Option<bool>,
    /// How long an answer takes as a rule, for people.
    pub typical_response_seconds: Option<u32>,
}

/// One step of a route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryFile {
    /// Id of the backend.
    pub backend: String,
    /// Name of the model there.
    pub model: String,
    /// Context length there, in tokens.
    pub max_model_len: Option<u64>,
}
