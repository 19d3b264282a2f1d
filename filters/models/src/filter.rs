//! The filter kind `models`: from a model name to attempts at backends, and back to an answer.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dgx_gateway_filter::body::Patch;
use dgx_gateway_filter::facts::{ModelChoice, ModelTraits, Principal, Subject, Usage};
use dgx_gateway_filter::upstream::{AttemptFailure, AttemptRequest, AttemptResult, Verdict};
use dgx_gateway_filter::{
    BodyNeed, BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, FinishCx, Flow,
    Outcome, Problem, ResponseHead, Rope,
};
use dgx_gateway_wire::answer::{RewrittenBody, rewrite_body};
use dgx_gateway_wire::request::{Member, Scan, patch};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::applied::{Sent, announce};
use crate::attempts::{Attempts, Came};
use crate::backend::{Protocol, Running};
use crate::catalog::{Entry, Model, Unusable, ordered};
use crate::embeddings;
use crate::hidden::without_credential;
use crate::judge;
use crate::max_tokens::{Applied, Bounds};
use crate::relay::Relay;
use crate::service::Models;
use crate::tokenize;

/// Longest whole answer that is held: a thousand embeddings or a few images fit.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;
const RESOLVED_MODEL: HeaderName = HeaderName::from_static("spass-resolved-model");
const RESOLVED_BACKEND: HeaderName = HeaderName::from_static("spass-resolved-backend");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Parameters of a `models` entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteConfig {
    /// What the backend has to speak: `chat` (default), `completions` or `embeddings`.
    pub protocol: Protocol,
}

/// The kind.
pub struct Route;

impl FilterKind for Route {
    const NAME: &'static str = "models";
    const AFTER: &'static [&'static str] = &["body"];
    type Config = RouteConfig;
    type Checked = Protocol;

    fn check(raw: RouteConfig) -> Result<Protocol, Vec<Problem>> {
        match raw.protocol {
            Protocol::Chat | Protocol::Completions | Protocol::Embeddings => Ok(raw.protocol),
            _ => Err(vec![Problem::at("protocol", "must be chat, completions or embeddings")]),
        }
    }

    fn build(checked: Protocol, env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(ModelsFilter { service: env.service::<Models>()?, protocol: checked }))
    }
}

struct ModelsFilter {
    service: Arc<Models>,
    protocol: Protocol,
}

impl Filter for ModelsFilter {
    fn body_need(&self) -> BodyNeed {
        BodyNeed::Whole
    }

    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(ModelsExchange {
            service: Arc::clone(&self.service),
            protocol: self.protocol,
            chosen: None,
            attempts: Attempts::default(),
            current: 0,
            told: false,
            running: None,
            answer: None,
            relay: None,
        })
    }
}

/// What was chosen for a request, once.
struct Chosen {
    slug: Arc<str>,
    model: Arc<Model>,
    /// Name that the answer carries.
    shown: Arc<str>,
    entries: Vec<Arc<Entry>>,
    scan: Arc<Scan>,
    name: Member,
    sent: Sent,
    /// What changes in an embedding request, whoever serves it.
    embeddings: Vec<Patch>,
    token_ceiling: Option<u32>,
    /// Prompt tokens as a backend counted them, and its name of the model.
    exact: Option<(Arc<str>, u64)>,
    stream: bool,
    client_wants_usage: bool,
}

struct ModelsExchange {
    service: Arc<Models>,
    protocol: Protocol,
    chosen: Option<Chosen>,
    attempts: Attempts,
    current: usize,
    /// The current attempt stands in `attempts`.
    told: bool,
    running: Option<Running>,
    answer: Option<RewrittenBody>,
    relay: Option<Relay>,
}

#[async_trait]
impl Exchange for ModelsExchange {
    async fn request_ready(&mut self, body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let scan = cx.facts.shared::<Scan>().ok_or_else(|| FilterError::internal("the body was not scanned"))?;
        let mut chosen = self.choose(scan, body, cx)?;
        chosen.count_exactly(&self.service, body, self.protocol).await;
        cx.facts.insert(ModelChoice {
            slug: Arc::clone(&chosen.slug),
            alias: Arc::clone(&chosen.model.alias),
            stream: chosen.stream,
        });
        cx.facts.insert(Subject(Arc::clone(&chosen.slug)));
        cx.facts.insert(ModelTraits {
            image_input: chosen.model.image_input,
            accepts_image_url: chosen.model.accepts_image_url,
        });
        cx.plan.targets = chosen.entries.iter().map(|entry| Arc::clone(&entry.backend.upstream)).collect();
        self.chosen = Some(chosen);
        Ok(Flow::Continue)
    }

    fn attempt(&mut self, attempt: &mut AttemptRequest, cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let Some(chosen) = &self.chosen else { return Ok(()) };
        let Some(entry) = chosen.entries.get(attempt.index) else { return Ok(()) };
        self.current = attempt.index;
        self.told = false;
        self.running = Some(entry.backend.enter());
        self.answer = None;
        self.relay = None;
        attempt.path = format!("{}{}", entry.backend.base_path, self.protocol.path());
        attempt.headers.insert(header::CONTENT_TYPE, JSON);
        attempt
            .headers
            .insert(header::ACCEPT, if chosen.stream { HeaderValue::from_static("text/event-stream") } else { JSON });
        if let Some((name, value)) = &entry.backend.credential {
            attempt.headers.insert(name.clone(), value.clone());
        }
        let (patches, applied) = chosen.patches(entry, self.protocol)?;
        attempt.body = attempt.body.patched(&patches);
        announce(applied, cx.reply_headers);
        if chosen.stream {
            attempt.timeouts.first_byte = Some(entry.backend.first_byte_timeout);
            attempt.timeouts.idle = Some(self.service.stream.idle);
            attempt.timeouts.total_once_begun = self.service.stream.total.max(attempt.timeouts.total);
        }
        Ok(())
    }

    fn judge(&mut self, result: &AttemptResult<'_>, cx: &mut ExchangeCx<'_>) -> Option<Verdict> {
        let verdict = match result {
            AttemptResult::Head(head) => self.judge_head(head),
            AttemptResult::Body { head, body, complete } => self.judge_body(head, body, *complete),
            AttemptResult::Failed(failure) => self.judge_failure(*failure),
        };
        if !matches!(verdict, Verdict::ReadBody { .. }) {
            self.attempts.write(cx.reply_headers);
        }
        if let Verdict::Fail(_) = verdict
            && self.attempts.len() >= cx.plan.targets.len()
        {
            tell_not_to_retry(&verdict, cx.reply_headers);
        }
        Some(verdict)
    }

    fn response_head(&mut self, head: &mut ResponseHead, cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let Some((chosen, entry)) = self.serving() else { return Ok(()) };
        let mut headers = HeaderMap::with_capacity(8); // nothing of the upstream's headers passes
        if self.relay.is_some() {
            headers.insert(header::CONTENT_TYPE, EVENT_STREAM);
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
            head.length = None;
        } else {
            headers.insert(header::CONTENT_TYPE, JSON);
        }
        for (name, value) in [(RESOLVED_MODEL, &entry.alias), (RESOLVED_BACKEND, &entry.backend.label)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        if self.current > 0 {
            self.service.metrics.fallback(&chosen.model.alias, &entry.backend.label);
        }
        if let Some(usage) = self.answer.as_ref().and_then(|answer| answer.usage) {
            cx.facts.insert::<Usage>(usage);
        }
        head.headers = headers;
        Ok(())
    }

    fn response_chunk(
        &mut self,
        part: &mut Option<Bytes>,
        end: bool,
        cx: &mut ExchangeCx<'_>,
    ) -> Result<(), FilterError> {
        if let Some(relay) = &mut self.relay {
            relay.pass(part, end)?;
            if end && let Some(usage) = relay.usage() {
                cx.facts.insert::<Usage>(usage);
            }
        } else if let Some(answer) = self.answer.take() {
            *part = Some(answer.body);
        }
        Ok(())
    }

    fn finish(&mut self, _outcome: &Outcome, _cx: &FinishCx<'_>) {
        self.running = None;
    }
}

impl ModelsExchange {
    fn choose(&self, scan: Arc<Scan>, body: &Rope, cx: &ExchangeCx<'_>) -> Result<Chosen, FilterError> {
        let principal = cx.facts.get::<Principal>();
        let name = scan.model.clone().ok_or_else(|| FilterError::internal("a body without a model passed"))?;
        let slug = patch::read_string(body, &name).unwrap_or_default();
        let catalog = self.service.catalog.load();
        let (found, entries) = catalog.resolve(&slug, principal, self.protocol).map_err(refusal)?;
        let model = &found.model;
        let slug: Arc<str> = slug.into();
        let embeddings = match self.protocol {
            Protocol::Embeddings => embeddings::check(&scan, body, &model.embedding)?,
            _ => Vec::new(),
        };
        Ok(Chosen {
            shown: model.response_model.clone().unwrap_or_else(|| Arc::clone(&slug)),
            model: Arc::clone(model),
            embeddings,
            entries: ordered(entries, self.service.clock.now()),
            sent: Sent::read(&scan, body)?,
            token_ceiling: principal.and_then(|principal| principal.max_tokens),
            exact: None,
            stream: self.protocol != Protocol::Embeddings && is_true(scan.stream.as_ref(), body),
            client_wants_usage: is_true(scan.include_usage.as_ref(), body),
            slug,
            scan,
            name,
        })
    }

    fn serving(&self) -> Option<(&Chosen, &Arc<Entry>)> {
        let chosen = self.chosen.as_ref()?;
        Some((chosen, chosen.entries.get(self.current)?))
    }

    /// Notes what the current attempt came to.
    fn came(&mut self, came: Came) {
        let Some((chosen, entry)) = self.serving() else { return };
        let label = Arc::clone(&entry.backend.label);
        self.service.metrics.attempt(&label, &chosen.model.alias, came);
        // a response that turned out to be of no use is still the one attempt that it was
        if !std::mem::replace(&mut self.told, true) {
            self.attempts.push(&label, came);
        }
    }

    fn judge_head(&mut self, head: &ResponseHead) -> Verdict {
        if let Some((_, entry)) = self.serving() {
            entry.history.reached();
            entry.backend.set_up(true);
        }
        if !head.status.is_success() {
            return if judge::needs_body(head.status) {
                Verdict::ReadBody { max_bytes: judge::MAX_ERROR_BYTES }
            } else {
                self.judge_status(head.status, &head.headers, &[])
            };
        }
        let stream = self.chosen.as_ref().is_some_and(|chosen| chosen.stream);
        if stream && is_event_stream(&head.headers) {
            self.came(Came::Status(head.status.as_u16()));
            if let Some((chosen, _)) = self.serving() {
                self.relay = Some(Relay::new(Arc::clone(&chosen.shown), chosen.client_wants_usage));
            }
            return Verdict::Relay;
        }
        Verdict::ReadBody { max_bytes: MAX_ANSWER_BYTES }
    }

    fn judge_body(&mut self, head: &ResponseHead, body: &Bytes, complete: bool) -> Verdict {
        if !head.status.is_success() {
            return self.judge_status(head.status, &head.headers, body);
        }
        self.came(Came::Status(head.status.as_u16()));
        let Some((chosen, _)) = self.serving() else { return Verdict::Next };
        if !complete {
            return self.next_or(|| judge::last_failure(AttemptFailure::Reset));
        }
        match rewrite_body(body, &chosen.shown) {
            Ok(_) if chosen.stream => self.next_or(|| judge::last_failure(AttemptFailure::Reset)),
            Ok(answer) => {
                self.answer = Some(answer);
                Verdict::Relay
            }
            Err(error) => {
                let status = error
                    .status
                    .and_then(|status| StatusCode::from_u16(status).ok())
                    .unwrap_or(StatusCode::BAD_GATEWAY);
                self.judge_meaning(status, &head.headers, body)
            }
        }
    }

    fn judge_status(&mut self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
        self.came(Came::Status(status.as_u16()));
        self.judge_meaning(status, headers, body)
    }

    fn judge_meaning(&mut self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
        let Some((chosen, entry)) = self.serving() else { return Verdict::Next };
        if matches!(status.as_u16(), 402 | 429) {
            entry.history.rest(self.service.clock.now(), judge::retry_after(headers));
        }
        let body = &*without_credential(body, entry.backend.credential.as_ref().map(|(_, value)| value));
        tracing::debug!(
            backend.label = %entry.backend.label, http.status = status.as_u16(), body = %String::from_utf8_lossy(body.get(..512.min(body.len())).unwrap_or_default()),
            "a backend refused"
        );
        let sanitizer = self.service.sanitizer.load();
        match judge::status(status, headers, body, |body| sanitizer.message(body, &entry.model, &chosen.slug)) {
            Verdict::Next => self.next_or(|| judge::last_status(status, headers)),
            verdict => verdict,
        }
    }

    fn judge_failure(&mut self, failure: AttemptFailure) -> Verdict {
        // the attempt has been counted, and nothing brings another one
        if let Some(relay) = self.relay.as_ref().filter(|relay| relay.left()) {
            return if relay.complete() {
                Verdict::Relay
            } else {
                Verdict::Fail(Box::new(judge::last_failure(failure)))
            };
        }
        self.came(Came::Failed(failure));
        if let Some((_, entry)) = self.serving()
            && failure == AttemptFailure::Connect
        {
            entry.history.unreachable(self.service.clock.now());
            entry.backend.set_up(false);
        }
        match judge::failure(failure) {
            Verdict::Next => self.next_or(|| judge::last_failure(failure)),
            verdict => verdict,
        }
    }

    /// The next entry, or the answer when there is none left.
    fn next_or(&self, last: impl FnOnce() -> FilterError) -> Verdict {
        match &self.chosen {
            Some(chosen) if self.current + 1 < chosen.entries.len() => Verdict::Next,
            _ => Verdict::Fail(Box::new(last())),
        }
    }
}

impl Chosen {
    /// Everything that changes in the body for one entry, in order.
    fn patches(&self, entry: &Entry, protocol: Protocol) -> Result<(Vec<Patch>, Applied), FilterError> {
        let left = self.left(entry)?;
        let bounds = Bounds {
            floor: self.model.min_max_tokens.max(entry.floor),
            token_ceiling: self.token_ceiling,
            model_ceiling: self.model.max_output_tokens,
            left,
        };
        let (mut patches, applied) = match protocol {
            Protocol::Embeddings => (self.embeddings.clone(), Applied::Unchanged),
            _ => self.sent.patches(&self.scan, bounds),
        };
        if *entry.model != *self.slug {
            let name = serde_json::to_string(&*entry.model).unwrap_or_default();
            patches.push(patch::replace(&self.name, Bytes::from(name)));
        }
        if self.stream && !self.client_wants_usage {
            patches.push(self.ask_for_usage());
        }
        patches.sort_by_key(|patch| patch.range.start);
        Ok((patches, applied))
    }

    /// Asks the first entry that counts exactly; one that does not answer costs one wait, not one per entry.
    async fn count_exactly(&mut self, service: &Models, body: &Rope, protocol: Protocol) {
        let Some(entry) = self.entries.iter().find(|entry| entry.backend.exact_tokens) else { return };
        let count = tokenize::count(&service.client, entry, &self.scan, body, protocol).await;
        self.exact = count.map(|count| (Arc::clone(&entry.model), count));
    }

    /// Tokens left in the context of an entry. With an exact count, too few of them are an error; with an
    /// estimate the upstream decides.
    fn left(&self, entry: &Entry) -> Result<Option<u64>, FilterError> {
        let Some(window) = entry.max_model_len() else { return Ok(None) };
        let exact = self.exact.as_ref().filter(|(model, _)| *model == entry.model).map(|(_, count)| *count);
        let left = window.saturating_sub(exact.unwrap_or_else(|| self.scan.estimated_prompt_tokens()));
        let floor = self.model.min_max_tokens.max(entry.floor).map_or(0, u64::from);
        if exact.is_some() && left < floor.max(1) {
            let message = format!("The prompt does not fit the context of this model: {window} tokens.");
            return Err(FilterError::client(ErrorCode::ContextLengthExceeded, message).param("messages"));
        }
        Ok(Some(left))
    }

    /// The gateway always asks for usage; whether the client sees it is another matter.
    fn ask_for_usage(&self) -> Patch {
        const ASKED: &str = "\"include_usage\":true";
        let scan = &self.scan;
        match (&scan.include_usage, &scan.stream_options) {
            (Some(member), _) => patch::replace(member, Bytes::from_static(b"true")),
            (None, Some(options)) => patch::append_stream_option(scan, ASKED)
                .unwrap_or_else(|| patch::replace(options, Bytes::from(format!("{{{ASKED}}}")))),
            (None, None) => patch::append_member(scan, &format!("\"stream_options\":{{{ASKED}}}")),
        }
    }
}

fn refusal(unusable: Unusable) -> FilterError {
    match unusable {
        Unusable::NotAvailable => {
            FilterError::client(ErrorCode::ModelNotInAllowlist, "This model is not available. See GET /v1/models.")
                .param("model")
        }
        Unusable::NoBackend => {
            FilterError::client(ErrorCode::InvalidField, "No backend of this model serves this endpoint.")
                .param("model")
        }
    }
}

fn is_true(member: Option<&Member>, body: &Rope) -> bool {
    member.is_some_and(|member| *body.read(member.value.clone()) == *b"true")
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// Everything was tried: a client that retries at once would only repeat it.
fn tell_not_to_retry(verdict: &Verdict, headers: &mut HeaderMap) {
    use ErrorCode::{UpstreamError, UpstreamTimeout, UpstreamUnavailable};
    if let Verdict::Fail(error) = verdict
        && matches!(error.code, UpstreamError | UpstreamTimeout | UpstreamUnavailable)
    {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
}
