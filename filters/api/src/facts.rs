//! What filters tell each other about a request: one type per fact, never a string key.

use std::any::{Any, TypeId};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rust_decimal::Decimal;

use crate::money::CallTarget;

/// Facts of one request, by type. Cheap to clone: the values are shared.
#[derive(Clone, Debug, Default)]
pub struct Facts(Vec<(TypeId, Arc<dyn Any + Send + Sync>)>);

impl Facts {
    /// States a fact; an earlier one of the same type is replaced.
    pub fn insert<T: Any + Send + Sync>(&mut self, fact: T) {
        self.insert_shared(Arc::new(fact));
    }

    /// States a fact that is shared with others.
    pub fn insert_shared<T: Any + Send + Sync>(&mut self, fact: Arc<T>) {
        let id = TypeId::of::<T>();
        match self.0.iter_mut().find(|(known, _)| *known == id) {
            Some(slot) => slot.1 = fact,
            None => self.0.push((id, fact)),
        }
    }

    /// A fact, if some filter stated it.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.iter().find(|(known, _)| *known == TypeId::of::<T>()).and_then(|(_, fact)| fact.downcast_ref())
    }

    /// A fact as a shared value.
    #[must_use]
    pub fn shared<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0
            .iter()
            .find(|(known, _)| *known == TypeId::of::<T>())
            .and_then(|(_, fact)| Arc::clone(fact).downcast().ok())
    }
}

/// Address the request came from: the peer, or what a trusted proxy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp(pub IpAddr);

/// Where a request comes from that the gateway sent to itself. Stated by the core; a client's request has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// How many such requests it is away from a client, at least 1.
    pub depth: u8,
    /// Id of the request that caused it.
    pub parent_request_id: Arc<str>,
}

/// How a request body is compressed. Stated in `request_head` by a filter that wants to see it decoded; a route that
/// holds its body then holds it decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
}

/// Requests per second and burst of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Refill per second, more than 0.
    pub per_second: f64,
    /// Capacity, at least 1.
    pub burst: u32,
}

/// Answers whether a scope is held. Implemented by the identity crate.
pub trait Scopes: Send + Sync {
    /// Whether the effective set of scopes contains `scope`.
    fn allow(&self, scope: &str) -> bool;
}

/// Who sends the request. Stated by the identity filter, complete once access was checked.
#[derive(Clone)]
pub struct Principal {
    /// Tenant that the request belongs to and that pays.
    pub tenant_id: Arc<str>,
    /// Id of the token record; never the secret.
    pub token_id: Arc<str>,
    /// End user; `None` where the endpoint needs none.
    pub user_id: Option<Arc<str>>,
    /// SHA-256 of the bearer: the key of its rate limit.
    pub bearer_digest: [u8; 32],
    /// Limit of this token, if it has its own.
    pub rate_limit: Option<RateLimit>,
    /// Whether the request limiter is skipped.
    pub rate_limit_bypass: bool,
    /// Globs of slugs that the token may use; `None` means all.
    pub models: Option<Arc<[String]>>,
    /// Ceiling of `max_tokens` for this token.
    pub max_tokens: Option<u32>,
    /// Globs of slugs that the tenant may use; `None` means all.
    pub models_allowlist: Option<Arc<[String]>>,
    /// Globs of slugs that the tenant may not use.
    pub models_blacklist: Option<Arc<[String]>>,
    /// Factor by which the tenant's costs are multiplied.
    pub cost_markup_factor: Decimal,
    /// Whether ledger and audit log hold a pseudonym in place of the user id.
    pub pseudonymous: bool,
    /// Effective scopes.
    pub scopes: Arc<dyn Scopes>,
}

impl std::fmt::Debug for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Principal")
            .field("tenant_id", &self.tenant_id)
            .field("token_id", &self.token_id)
            .finish_non_exhaustive()
    }
}

/// Limits over all tokens of the tenant. Stated with [`Principal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// Tokens per minute in both directions; `None`: no limit, 0 refuses everything.
    pub tokens_per_minute: Option<u64>,
    /// Model calls at the same time, over all backends; `None`: no limit, 0 refuses everything.
    pub max_in_flight: Option<u32>,
    /// Share in the fair queue, 1 to 1000; default 1.
    pub weight: u32,
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self { tokens_per_minute: None, max_in_flight: None, weight: 1 }
    }
}

/// The most that a model call may use, known before it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorstCase {
    /// Bytes of the request body.
    pub input_bytes: u64,
    /// Tokens that may be written, over all choices.
    pub output_tokens: u64,
    /// Images that may be drawn, as far as the request bounds them; 0 where it does not.
    pub images: u64,
}

impl WorstCase {
    /// Tokens that are read at most: two bytes are rarely less than one.
    #[must_use]
    pub fn input_tokens(self) -> u64 {
        self.input_bytes.div_ceil(2)
    }

    /// Tokens in both directions.
    #[must_use]
    pub fn tokens(self) -> u64 {
        self.input_tokens().saturating_add(self.output_tokens)
    }
}

/// Whether the gateway adds something of one kind to a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Augment {
    /// No: the configuration of the tenant says so.
    Disabled,
    /// No: the request says so.
    Off,
    /// Yes.
    #[default]
    On,
}

/// What may be added to the prompt of this request, once request and tenant were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// Notes about the user.
    pub memory: Augment,
    /// Tools that the gateway runs itself.
    pub server_tools: Augment,
    /// Prompts of tenant, scope and user.
    pub system_prompt: Augment,
}

/// Tokens of a finished model call, as the upstream reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens written, reasoning included.
    pub completion_tokens: u64,
    /// Part of the prompt that came from a cache.
    pub cached_tokens: u64,
    /// Part of the prompt that was written into a cache. Together with what came from one it is at most the prompt.
    pub cache_write_tokens: u64,
}

/// The model call that is being attempted. Stated before each attempt, so it tells of the last one.
#[derive(Clone, Debug)]
pub struct ModelCall {
    /// Base alias that serves; of a composite its member.
    pub resolved_model: Arc<str>,
    /// Internal id of the backend, for price tables. Never shown to callers.
    pub backend_id: Arc<str>,
    /// Public label of the backend.
    pub backend_label: Arc<str>,
    /// Name of the model at the backend.
    pub upstream_model: Arc<str>,
    /// Whether the backend is one of ours, so that a call costs nothing unless a price says so.
    pub local: bool,
    /// Estimated tokens of the prompt.
    pub prompt_estimate: u64,
    /// Bytes of the request when it brings a recording, as it declares them; 0: none, or not declared.
    pub recording_bytes: u64,
}

/// What has been received of a model's answer. Written while it passes and read at any time, because an answer may
/// end anywhere.
#[derive(Debug, Default)]
pub struct Meter {
    text_bytes: AtomicU64,
    sound_bytes: AtomicU64,
    begun: AtomicBool,
    finish: AtomicU16,
    report: Mutex<Report>,
}

/// What an upstream reports of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tokens, once they were reported.
    pub usage: Option<Usage>,
    /// Cost in US dollars as plain decimal text, if it was reported.
    pub cost_usd: Option<String>,
    /// Images in the answer.
    pub images: u64,
    /// Seconds of audio, if they were reported, or a sound that the model made tells them.
    pub seconds: Option<Decimal>,
}

impl Meter {
    /// Adds bytes of content, reasoning and tool-call arguments.
    pub fn add_text(&self, bytes: u64) {
        self.text_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of content, reasoning and tool-call arguments so far.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes.load(Ordering::Relaxed)
    }

    /// Adds bytes of sound that a model made.
    pub fn add_sound(&self, bytes: u64) {
        self.sound_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of sound that a model made so far.
    pub fn sound_bytes(&self) -> u64 {
        self.sound_bytes.load(Ordering::Relaxed)
    }

    /// Notes that something of this answer leaves for the client.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether something of this answer has left for the client. A head that was sent early belongs to no answer.
    pub fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Notes why the answer, or some of several, ended.
    pub fn finished(&self, reasons: FinishReasons) {
        self.finish.fetch_or(reasons.0, Ordering::Relaxed);
    }

    /// Why the answer ended, as far as the upstream has said it.
    pub fn finish_reasons(&self) -> FinishReasons {
        FinishReasons(self.finish.load(Ordering::Relaxed))
    }

    /// Takes what the upstream reports; a later report replaces an earlier one where it says more. Images add up.
    pub fn report(&self, report: Report) {
        let mut known = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        known.usage = report.usage.or(known.usage);
        known.cost_usd = report.cost_usd.or(known.cost_usd.take());
        known.images = known.images.saturating_add(report.images);
        known.seconds = report.seconds.or(known.seconds);
    }

    /// What the upstream has reported so far.
    pub fn reported(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why answers end, in the words of the dialects.
const FINISH_REASONS: [&str; 13] = [
    "stop",
    "length",
    "tool_calls",
    "function_call",
    "content_filter",
    "error",
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "other",
];

/// A set of reasons why answers ended: words that are known, and `other` for the rest. An upstream's own words go no
/// further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FinishReasons(u16);

impl FinishReasons {
    /// The set of one.
    #[must_use]
    pub fn of(word: &str) -> Self {
        let place = FINISH_REASONS.iter().position(|known| *known == word).unwrap_or(FINISH_REASONS.len() - 1);
        Self(1 << place)
    }

    /// Those of both sets.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Their words.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        FINISH_REASONS.into_iter().enumerate().filter(move |(place, _)| self.0 & 1 << place != 0).map(|(_, word)| word)
    }
}

/// The request is followed by a trace: what it takes to tell more of it is worth its while. Stated by the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced;

/// Which model a request asked for and which one served. For logs and metrics: catalog words only.
#[derive(Clone, Debug)]
pub struct ModelChoice {
    /// What is done, by the name of OpenTelemetry's conventions where they have one.
    pub operation: &'static str,
    /// Slug that the client sent; known to the catalog.
    pub slug: Arc<str>,
    /// Base alias behind the slug.
    pub alias: Arc<str>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Estimated tokens of the prompt.
    pub prompt_estimate: u64,
    /// Whether the call can cost money: some backend of the route is not one of ours.
    pub may_cost: bool,
    /// Where the call may go, in the order of the attempts.
    pub targets: Arc<[CallTarget]>,
}

/// What the chosen model can do, for the checks of a request's content. Stated with [`ModelChoice`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelTraits {
    /// Whether it takes images.
    pub image_input: bool,
    /// Whether image URLs that are no data URIs pass to it.
    pub accepts_image_url: bool,
}

/// What a request is about, in words of a catalog: the field `subject` of its log line. Never what a client invents.
#[derive(Clone, Debug)]
pub struct Subject(pub Arc<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_fact_of_a_type_replaces_the_first() {
        let mut facts = Facts::default();
        facts.insert(Usage { prompt_tokens: 1, ..Usage::default() });
        facts.insert(Usage { prompt_tokens: 2, ..Usage::default() });
        assert_eq!(facts.get::<Usage>().map(|usage| usage.prompt_tokens), Some(2));
        assert!(facts.get::<ClientIp>().is_none());
    }

    #[test]
    fn reasons_are_words_that_are_known() {
        let meter = Meter::default();
        assert_eq!(meter.finish_reasons().words().count(), 0);
        meter.finished(FinishReasons::of("tool_calls"));
        meter.finished(FinishReasons::of("what an upstream invents").and(FinishReasons::of("stop")));
        assert_eq!(meter.finish_reasons().words().collect::<Vec<_>>(), ["stop", "tool_calls", "other"]);
    }
}
