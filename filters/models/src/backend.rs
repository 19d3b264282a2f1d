//! Backends: where models run, how they are reached, and what is known of them right now.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::upstream::{Address, EmbeddedUpstreams, HttpVersion, Upstream};
use dgx_gateway_wire::audio;
use http::{HeaderName, HeaderValue, Uri, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::BackendFile;

/// Largest `max_in_flight`: more than any model server runs at once.
const MOST_IN_FLIGHT: u32 = 100_000;

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
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
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
    /// Most requests at the same time; `None`: no limit. Nothing enforces it yet.
    pub max_in_flight: Option<NonZeroU32>,
    /// How it takes audio to transcribe.
    pub stt_modes: Vec<SttMode>,
    /// Whether the configuration says so; then it is told the mode of a request.
    pub declares_stt_modes: bool,
    /// Machine it runs on.
    pub machine: Option<Arc<str>>,
    /// Number in `-cloud-<n>` slugs.
    pub cloud_slot: Option<u32>,
    /// Whether the last look or request found it alive.
    up: AtomicBool,
    /// Requests running on it.
    in_flight: AtomicI64,
}

impl Backend {
    /// Whether it was alive when last seen.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Notes what a look or a request found.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// Requests running on it.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.in_flight.load(Ordering::Relaxed)
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
    pub fn enter(self: &Arc<Self>) -> Running {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
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
pub struct Running(Arc<Backend>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Checks one entry of `backends`. `n` is its number within its domain, from 1.
pub(crate) fn check(
    file: &BackendFile,
    key: &str,
    n: usize,
    embedded: &EmbeddedUpstreams,
    problems: &mut Vec<Problem>,
) -> Option<Backend> {
    let before = problems.len();
    let label = file.label.clone().unwrap_or_else(|| format!("{}-{n}", file.domain.as_str()));
    if !is_label(&label) {
        problems.push(Problem::at(format!("{key}.label"), "must match ^[a-z][a-z0-9-]{0,31}$"));
    }
    let (address, base_path) = address(file, key, embedded, problems)?;
    let credential = credential(file, key, problems);
    slugs(file, key, problems);
    let stt_modes = stt_modes(file, key, problems);
    if file.max_in_flight.is_some_and(|most| most > MOST_IN_FLIGHT) {
        problems.push(Problem::at(format!("{key}.max_in_flight"), format!("must be 0 to {MOST_IN_FLIGHT}")));
    }
    let connect =
        milliseconds(file.connect_timeout_ms.unwrap_or(2000), 60_000, &format!("{key}.connect_timeout_ms"), problems);
    let first_byte = file.first_byte_timeout_seconds.unwrap_or(120);
    if !(1..=3600).contains(&first_byte) {
        problems.push(Problem::at(format!("{key}.first_byte_timeout_seconds"), "must be 1 to 3600"));
    }
    let version = if file.http2.unwrap_or(false) { HttpVersion::Http2 } else { HttpVersion::Http1 };
    let label: Arc<str> = label.into();
    let upstream = Upstream { label: Arc::clone(&label), address, version, connect_timeout: connect };
    (problems.len() == before).then(|| Backend {
        id: file.id.as_str().into(),
        label,
        kind: file.kind,
        domain: file.domain,
        enabled: file.enabled.unwrap_or(true),
        upstream: Arc::new(upstream),
        base_path,
        credential,
        protocols: file.protocols.clone().unwrap_or_else(|| default_protocols(file.kind)),
        first_byte_timeout: Duration::from_secs(first_byte),
        exact_tokens: file.exact_tokens.unwrap_or(false),
        max_in_flight: file.max_in_flight.and_then(NonZeroU32::new),
        stt_modes,
        declares_stt_modes: file.stt_modes.is_some(),
        machine: file.machine.as_deref().filter(|_| file.domain == Domain::Local).map(Into::into),
        cloud_slot: file.cloud_slot.or_else(|| default_slot(file.kind)).filter(|_| file.domain == Domain::Cloud),
        up: AtomicBool::new(true),
        in_flight: AtomicI64::new(0),
    })
}

/// Keys that give slugs: each belongs to one domain, and none may look like a domain.
fn slugs(file: &BackendFile, key: &str, problems: &mut Vec<Problem>) {
    if let Some(machine) = &file.machine {
        if file.domain == Domain::Cloud {
            problems.push(Problem::at(format!("{key}.machine"), "is for local backends only"));
        }
        if !is_suffix(machine) {
            problems.push(Problem::at(format!("{key}.machine"), SUFFIX_RULE));
        }
    }
    if let Some(slot) = file.cloud_slot {
        if file.domain == Domain::Local {
            problems.push(Problem::at(format!("{key}.cloud_slot"), "is for cloud backends only"));
        }
        if slot == 0 {
            problems.push(Problem::at(format!("{key}.cloud_slot"), "must be at least 1"));
        }
    }
}

/// What a suffix of slugs must be, for people.
pub(crate) const SUFFIX_RULE: &str =
    "must be letters, digits, '.', '_' or '-', and not local, cloud, cloud-<n>, ollama";

/// Whether a word may be the end of a slug: one that means a domain or a slot would break their promise.
pub(crate) fn is_suffix(word: &str) -> bool {
    let is_slot = word.strip_prefix("cloud-").is_some_and(|slot| slot.bytes().all(|byte| byte.is_ascii_digit()));
    !word.is_empty()
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !is_slot
        && !["cloud", "local", "ollama"].contains(&word)
}

fn stt_modes(file: &BackendFile, key: &str, problems: &mut Vec<Problem>) -> Vec<SttMode> {
    let modes = file.stt_modes.clone().unwrap_or_else(|| vec![SttMode::Continuous]);
    let twice = modes.iter().enumerate().any(|(at, mode)| modes.iter().skip(at + 1).any(|other| other == mode));
    if modes.is_empty() || twice {
        problems.push(Problem::at(format!("{key}.stt_modes"), "must name chunked, continuous, or each of them once"));
    }
    modes
}

fn default_protocols(kind: BackendKind) -> Vec<Protocol> {
    use Protocol::{Chat, Completions, Embeddings, Messages, Rerank, Responses};
    match kind {
        BackendKind::Anthropic => vec![Messages],
        BackendKind::Vllm => vec![Chat, Completions, Embeddings, Rerank, Responses],
        _ => vec![Chat, Completions, Embeddings],
    }
}

fn default_slot(kind: BackendKind) -> Option<u32> {
    match kind {
        BackendKind::Ollama => Some(1),
        BackendKind::Openrouter => Some(2),
        BackendKind::Nvidia => Some(3),
        _ => None,
    }
}

fn is_label(label: &str) -> bool {
    let mut bytes = label.bytes();
    label.len() <= 32
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn milliseconds(value: u64, most: u64, key: &str, problems: &mut Vec<Problem>) -> Duration {
    if !(1..=most).contains(&value) {
        problems.push(Problem::at(key, format!("must be 1 to {most}")));
    }
    Duration::from_millis(value)
}

fn address(
    file: &BackendFile,
    key: &str,
    embedded: &EmbeddedUpstreams,
    problems: &mut Vec<Problem>,
) -> Option<(Address, String)> {
    if file.kind == BackendKind::Demo {
        let router = embedded.0.iter().find(|(name, _)| *name == "demo").map(|(_, router)| Arc::clone(router));
        if router.is_none() {
            problems.push(Problem::at(format!("{key}.kind"), "this build has no demo backend"));
        }
        return router.map(|router| (Address::Embedded(router), "/v1".to_owned()));
    }
    let key = format!("{key}.base_url");
    let Some(text) = &file.base_url else {
        problems.push(Problem::at(key, "is required"));
        return None;
    };
    match text.parse::<Uri>().ok().and_then(|uri| tcp(&uri)) {
        Some(found) => Some(found),
        None => {
            problems.push(Problem::at(key, "must be an http or https URL without user and query"));
            None
        }
    }
}

fn tcp(uri: &Uri) -> Option<(Address, String)> {
    let tls = match uri.scheme_str()? {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    if uri.authority()?.as_str().contains('@') || uri.query().is_some() {
        return None;
    }
    let host = uri.host()?.into();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Some((Address::Tcp { host, port, tls }, uri.path().trim_end_matches('/').to_owned()))
}

fn credential(file: &BackendFile, key: &str, problems: &mut Vec<Problem>) -> Option<(HeaderName, HeaderValue)> {
    let secret = file.api_key.as_deref().filter(|secret| !secret.is_empty())?;
    let (name, text) = match file.kind {
        BackendKind::Anthropic => (HeaderName::from_static("x-api-key"), secret.to_owned()),
        _ => (header::AUTHORIZATION, format!("Bearer {secret}")),
    };
    match HeaderValue::from_str(&text) {
        Ok(mut value) => {
            value.set_sensitive(true);
            Some((name, value))
        }
        Err(_) => {
            problems.push(Problem::at(format!("{key}.api_key"), "has characters that no header can carry"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
