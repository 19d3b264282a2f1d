//! File shapes: `backends`, `models_file` and `stream` of the gateway file, and the models file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::{BackendKind, Domain, Protocol, SttMode};
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
    /// How often requests are tried once more at another backend.
    pub retries: RetriesFile,
}

/// The budget of further attempts of each model. A request that fails at one backend is tried at the next one of its route;
/// in large trouble that would multiply the load. While less than half of its budget is left, a model is tried first where
/// the last attempt did not fail; without any left, the first failure is the answer, with `x-should-retry: false`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetriesFile {
    /// Further attempts per hundred requests, 0 to 10000. Default 20.
    pub percent: u32,
    /// Further attempts per second in any case, 0 to 10000; those of ten seconds, and ten more, are saved. Default 10.
    /// Where fewer requests per second fail, each of them is tried to the end of its route. With both at 0 there is no further
    /// attempt at all.
    pub per_second: u32,
}

impl Default for RetriesFile {
    fn default() -> Self {
        Self { percent: 20, per_second: 10 }
    }
}

/// Time limits of streams.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StreamFile {
    /// When the head of a stream leaves although the model has said nothing, in seconds after the request came; 0: never
    /// early; at most 86400. Default 30. Further backends are still tried behind it; an error is then said in the
    /// stream.
    pub commit_after_seconds: u64,
    /// Longest silence of an upstream inside a stream, in seconds; 1 to 86400. Default 120.
    pub idle_timeout_seconds: u64,
    /// Longest time of a whole stream, in seconds; 1 to 86400. Default 3600.
    pub max_seconds: u64,
}

impl Default for StreamFile {
    fn default() -> Self {
        Self { commit_after_seconds: 30, idle_timeout_seconds: 120, max_seconds: 3600 }
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
    #[schemars(extend("writeOnly" = true))]
    pub api_key: Option<String>,
    /// PEM file with the authorities that it is checked against, instead of those that the system trusts; needs an
    /// `https` URL. A change of it brings a reload.
    pub ca_file: Option<PathBuf>,
    /// What it speaks. Default by kind.
    pub protocols: Option<Vec<Protocol>>,
    /// Whether it is spoken to in HTTP/2: by prior knowledge at an `http` URL, negotiated at an `https` URL, and never in
    /// HTTP/1.1. Default false: HTTP/1.1.
    pub http2: Option<bool>,
    /// Longest time for a connection in milliseconds; 1 to 60000. Default 2000.
    pub connect_timeout_ms: Option<u64>,
    /// Longest time until the first byte of a stream in seconds; 1 to 3600. Default 120.
    pub first_byte_timeout_seconds: Option<u64>,
    /// False takes it out of all routes; `GET /v1/info` shows it as `catalog`. Default true.
    pub enabled: Option<bool>,
    /// Whether its own count of prompt tokens replaces the estimate; needs the protocol `tokenize`. Default false.
    pub exact_tokens: Option<bool>,
    /// Slots: most calls at the same time, 0 to 100000; 0 is no limit. Further calls wait, as `limits.queue_timeout_ms`
    /// allows. Slots are those of this process, whatever `limits.store` is. Default 0.
    pub max_in_flight: Option<u32>,
    /// How it takes audio to transcribe: `continuous`, `chunked`, or both. Default `[continuous]`.
    pub stt_modes: Option<Vec<SttMode>>,
    /// Machine it runs on: suffix of the slugs that are tied to it. Local backends only.
    pub machine: Option<String>,
    /// Number in `-cloud-<n>` slugs. Default by kind: ollama 1, openrouter 2, nvidia 3. Cloud backends only.
    pub cloud_slot: Option<u32>,
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
    /// Further names of slugs, as in `some-model-latest`.
    #[serde(default)]
    pub pins: BTreeMap<String, PinFile>,
    /// Names of slugs that some tenants have for themselves.
    #[serde(default)]
    pub tenant_aliases: Vec<TenantAliasFile>,
}

/// A further name of a slug.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PinFile {
    /// The slug that is meant.
    pub target: String,
    /// For people.
    pub notes: Option<String>,
}

/// A name of a slug that some tenants have for themselves.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantAliasFile {
    /// The name.
    pub slug: String,
    /// The slug that is meant.
    pub target: String,
    /// Tenants that know the name. Elsewhere it is unknown.
    pub tenants: Vec<String>,
    /// Whether the tenants rely on just this model, so that they are told when its provider's limit of a day is
    /// reached. Default false.
    #[serde(default)]
    pub pinned: bool,
    /// Slugs that they are then told of, most useful first; those of the catalog that a caller may not use are left
    /// out. Needs `pinned`.
    #[serde(default)]
    pub available_fallbacks: Vec<String>,
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
    /// Whether it thinks before it answers: `no`, `yes` or `configurable`.
    pub reasoning: Option<Reasoning>,
    /// Limits of requests.
    #[serde(default)]
    pub constraints: ConstraintsFile,
    /// Licence, for people.
    pub license: Option<LicenseFile>,
    /// For people.
    pub notes: Option<String>,
    /// Name sent back in answers. Default: the slug of the request.
    pub response_model: Option<String>,
    /// Embedding models: whether `dimensions` other than the native number passes. Default false.
    #[serde(default)]
    pub dimensions_supported: bool,
    /// Whether it can be asked for JSON. Default true for chat models.
    pub json_mode: Option<bool>,
    /// Backends in the order in which they are tried.
    pub route: Vec<EntryFile>,
}

/// Whether a model thinks before it answers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reasoning {
    /// The request decides.
    Configurable,
    /// Never.
    No,
    /// Always.
    Yes,
}

/// Licence of a model.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LicenseFile {
    /// Its name.
    pub name: String,
    /// Where it is written down.
    pub url: Option<String>,
}

/// Kinds of input and output.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
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
    /// Embedding models: native number of dimensions.
    pub dimensions: Option<u32>,
    /// Embedding models: most inputs of one request, 1 to 256. Default 256.
    pub max_inputs: Option<usize>,
    /// Embedding models: most bytes of one input, 1 to 8192. Default 8192.
    pub max_input_bytes: Option<u64>,
    /// Embedding models: most integers of one input, 1 to 2048. Default 2048.
    pub max_input_tokens: Option<u64>,
}

/// One step of a route: a model at a backend, or the whole route of another model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EntryFile {
    /// The route of another model, expanded in place.
    Alias(AliasEntryFile),
    /// A model at a backend.
    Backend(BackendEntryFile),
}

/// The route of another model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasEntryFile {
    /// Its alias.
    pub alias: String,
}

/// A model at a backend.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendEntryFile {
    /// Id of the backend.
    pub backend: String,
    /// Name of the model there.
    pub model: String,
    /// Number format of the weights (`fp8`, `bf16`): suffix of the slug that is tied to it. Local backends only.
    pub quantization: Option<String>,
    /// Entries of one group are one choice: the least loaded is tried first.
    pub group: Option<u32>,
    /// Context length there, in tokens.
    pub max_model_len: Option<u64>,
    /// False takes this step out of the route; `GET /v1/info` shows it as `catalog`. Default true.
    pub enabled: Option<bool>,
}
