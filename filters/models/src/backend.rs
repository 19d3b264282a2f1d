//! Backends: where models run, how they are reached, and what is known of them right now.

mod check;
mod live;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::upstream::{Address, Upstream};
use dgx_gateway_wire::audio;
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::check::{SUFFIX_RULE, check, is_suffix};
pub(crate) use self::live::{Live, take_over};

/// What a backend is; decides defaults.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum BackendKind {
    Anthropic,
    Demo,
    Litellm,
    Nvidia,
    Ollama,
    Openai,
    Openrouter,
    Vllm,
}

/// Where a backend computes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// At a provider.
    Cloud,
    /// On own machines.
    Local,
}

impl Domain {
    /// The word in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Local => "local",
        }
    }
}

/// An API that a backend speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Hash, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Protocol {
    #[default]
    Chat,
    Completions,
    Embeddings,
    Images,
    Messages,
    Rerank,
    Responses,
    Speech,
    Tokenize,
    Transcription,
    Translation,
}

impl Protocol {
    /// Whether it writes text: then `max_tokens` counts, and the answer may be a stream of events.
    #[must_use]
    pub fn writes_text(self) -> bool {
        matches!(self, Self::Chat | Self::Completions | Self::Messages | Self::Responses)
    }

    /// Path below the root of the backend's API.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Embeddings => "/embeddings",
            Self::Images => "/images/generations",
            Self::Messages => "/messages",
            Self::Rerank => "/rerank",
            Self::Responses => "/responses",
            Self::Speech => "/audio/speech",
            Self::Tokenize => "/tokenize",
            Self::Transcription => "/audio/transcriptions",
            Self::Translation => "/audio/translations",
        }
    }
}

impl Protocol {
    /// Whether its requests are multipart forms.
    #[must_use]
    pub fn is_form(self) -> bool {
        matches!(self, Self::Transcription | Self::Translation)
    }
}

/// How a backend takes audio to transcribe.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SttMode {
    /// In windows that it cuts itself.
    Chunked,
    /// In one piece.
    Continuous,
}

/// One backend.
#[derive(Debug)]
pub struct Backend {
    /// Internal name.
    pub id: Arc<str>,
    /// Public name.
    pub label: Arc<str>,
    /// What it is.
    pub kind: BackendKind,
    /// Where it computes.
    pub domain: Domain,
    /// Whether it is used at all; if not, it is only listed.
    pub enabled: bool,
    /// How it is reached.
    pub upstream: Arc<Upstream>,
    /// Path before that of the protocol, without a trailing slash.
    pub base_path: String,
    /// Its credential; marked sensitive, so that it is never printed.
    pub credential: Option<(HeaderName, HeaderValue)>,
    /// What it speaks.
    pub protocols: Vec<Protocol>,
    /// Longest time until the first byte of a stream.
    pub first_byte_timeout: Duration,
    /// Whether its own count of prompt tokens replaces the estimate.
    pub exact_tokens: bool,
    /// How it takes audio to transcribe.
    pub stt_modes: Vec<SttMode>,
    /// Whether the configuration says so; then it is told the mode of a request.
    pub declares_stt_modes: bool,
    /// Machine it runs on.
    pub machine: Option<Arc<str>>,
    /// Number in `-cloud-<n>` slugs.
    pub cloud_slot: Option<u32>,
    /// What happens to it; outlives a configuration.
    pub(crate) live: Arc<Live>,
}

impl Backend {
    /// Whether it was alive when last seen.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.live.is_up()
    }

    /// Notes what a look or a request found.
    pub fn set_up(&self, up: bool) {
        self.live.set_up(up);
    }

    /// Requests running on it.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.live.in_flight()
    }

    /// Whether it takes recordings in a mode.
    #[must_use]
    pub fn takes(&self, mode: audio::SttMode) -> bool {
        self.stt_modes.contains(&match mode {
            audio::SttMode::Chunked => SttMode::Chunked,
            audio::SttMode::Continuous => SttMode::Continuous,
        })
    }

    /// A request begins; ends with the guard.
    #[must_use]
    pub fn enter(&self) -> Running {
        self.live.begins();
        Running(Arc::clone(&self.live))
    }

    /// Root of its API for probes: scheme, host and port, without a path. `None` for embedded ones.
    #[must_use]
    pub fn root(&self) -> Option<String> {
        match &self.upstream.address {
            Address::Embedded(_) => None,
            Address::Tcp { host, port, tls } => {
                Some(format!("{}://{host}:{port}", if *tls { "https" } else { "http" }))
            }
        }
    }
}

/// A request on a backend.
#[derive(Debug)]
pub struct Running(Arc<Live>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ends();
    }
}
