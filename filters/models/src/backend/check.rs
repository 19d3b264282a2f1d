//! From an entry of `backends` to a backend.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::certificates::Authorities;
use dgx_gateway_filter::upstream::{Address, EmbeddedUpstreams, HttpVersion, Upstream};
use http::{HeaderName, HeaderValue, Uri, header};

use super::{Backend, BackendKind, Domain, Protocol, SttMode};
use crate::settings::BackendFile;

/// Largest `max_in_flight`: more than any model server runs at once.
const MOST_IN_FLIGHT: u32 = 100_000;

/// Checks one entry of `backends`. `n` is its number within its domain, from 1; `authorities` is what its file holds.
pub(crate) fn check(
    file: &BackendFile,
    key: &str,
    n: usize,
    embedded: &EmbeddedUpstreams,
    authorities: Option<&Arc<Authorities>>,
    problems: &mut Vec<Problem>,
) -> Option<Backend> {
    let before = problems.len();
    let label = file.label.clone().unwrap_or_else(|| format!("{}-{n}", file.domain.as_str()));
    if !is_label(&label) {
        problems.push(Problem::at(format!("{key}.label"), "must match ^[a-z][a-z0-9-]{0,31}$"));
    }
    let (address, base_path) = address(file, key, embedded, problems)?;
    if file.ca_file.is_some() && !matches!(address, Address::Tcp { tls: true, .. }) {
        problems.push(Problem::at(format!("{key}.ca_file"), "needs a base_url that is an https URL"));
    }
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
    let slots = file.max_in_flight.and_then(NonZeroU32::new);
    let authorities = authorities.cloned();
    let upstream =
        Upstream { label: Arc::clone(&label), address, version, authorities, connect_timeout: connect, slots };
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
        stt_modes,
        declares_stt_modes: file.stt_modes.is_some(),
        machine: file.machine.as_deref().filter(|_| file.domain == Domain::Local).map(Into::into),
        cloud_slot: file.cloud_slot.or_else(|| default_slot(file.kind)).filter(|_| file.domain == Domain::Cloud),
        live: Arc::default(),
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
