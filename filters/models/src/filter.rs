//! The filter kind `models`: from a model name to attempts at backends, and back to an answer.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dgx_gateway_filter::facts::{ModelCall, ModelChoice, ModelTraits, Principal, Subject, TenantLimits, Traced, Usage};
use dgx_gateway_filter::money::Terms;
use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::upstream::{Admission, AttemptRequest, AttemptResult, Verdict};
use dgx_gateway_filter::{
    BodyNeed, BuildEnv, BuildError, Exchange, ExchangeCx, Filter, FilterError, FilterKind, FinishCx, Flow, Outcome,
    Problem, ResponseHead, Rope,
};
use dgx_gateway_wire::answer::RewrittenBody;
use dgx_gateway_wire::answer::StreamKind;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::applied::announce;
use crate::attempts::Attempts;
use crate::backend::{Domain, Protocol, Running};
use crate::catalog::Entry;
use crate::chosen::Chosen;
use crate::cost::Account;
use crate::count::CountFilter;
use crate::dialect;
use crate::measured::{Measured, operation};
use crate::service::Models;
use crate::sound::Sound;
use crate::streaming;
use crate::transcript::Streaming;
use crate::verdict::tell_not_to_retry;

const RESOLVED_MODEL: HeaderName = HeaderName::from_static("spass-resolved-model");
const RESOLVED_BACKEND: HeaderName = HeaderName::from_static("spass-resolved-backend");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Parameters of a `models` entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteConfig {
    /// What the backend has to speak: `chat` (default), `completions`, `embeddings`, `images`, `messages`, `rerank`,
    /// `responses`, `speech`, `transcription` or `translation`. The last two stand behind the filter `form`, the others
    /// behind `body`.
    pub protocol: Protocol,
    /// Whether the prompt is counted in place of an answer; for `messages` only. Default false.
    pub count_tokens: bool,
}

/// The kind.
pub struct Route;

impl FilterKind for Route {
    const NAME: &'static str = "models";
    const AFTER: &'static [&'static str] = &["body|form"];
    type Config = RouteConfig;
    type Checked = Task;

    fn check(raw: RouteConfig) -> Result<Task, Vec<Problem>> {
        match (raw.protocol, raw.count_tokens) {
            (Protocol::Messages, true) => Ok(Task::Count),
            (_, true) => Err(vec![Problem::at("count_tokens", "is for the protocol messages only")]),
            (protocol, false) if protocol != Protocol::Tokenize => Ok(Task::Answer(protocol)),
            _ => Err(vec![Problem::at(
                "protocol",
                "must be chat, completions, embeddings, images, messages, rerank, responses, speech, transcription or translation",
            )]),
        }
    }

    fn build(checked: Task, env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        let service = env.service::<Models>()?;
        Ok(match checked {
            Task::Answer(protocol) => Arc::new(ModelsFilter { service, protocol }),
            Task::Count => Arc::new(CountFilter::new(service)),
        })
    }
}

/// What a route does with a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// It is answered in this dialect.
    Answer(Protocol),
    /// Its tokens are counted.
    Count,
}

struct ModelsFilter {
    service: Arc<Models>,
    protocol: Protocol,
}

impl Filter for ModelsFilter {
    fn body_need(&self) -> BodyNeed {
        if self.protocol.is_form() { BodyNeed::Start } else { BodyNeed::Whole }
    }

    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(ModelsExchange {
            service: Arc::clone(&self.service),
            protocol: self.protocol,
            chosen: None,
            attempts: Attempts::default(),
            current: 0,
            entry: 0,
            told: false,
            traced: false,
            spent: false,
            running: None,
            account: None,
            tells_cost: None,
            answer: None,
            relay: None,
            media_type: None,
            sound: None,
            measured: None,
        })
    }
}

/// One request.
pub(crate) struct ModelsExchange {
    pub(crate) service: Arc<Models>,
    pub(crate) protocol: Protocol,
    pub(crate) chosen: Option<Chosen>,
    pub(crate) attempts: Attempts,
    /// Position of the current attempt in the plan.
    pub(crate) current: usize,
    /// Its entry.
    pub(crate) entry: usize,
    /// The current attempt stands in `attempts`.
    pub(crate) told: bool,
    /// See [`Traced`].
    pub(crate) traced: bool,
    /// There was another entry, and the model was not tried there any more.
    pub(crate) spent: bool,
    pub(crate) running: Option<Running>,
    /// The account of the current attempt.
    pub(crate) account: Option<Account>,
    /// The kind of stream in which the cost is told.
    pub(crate) tells_cost: Option<StreamKind>,
    pub(crate) answer: Option<RewrittenBody>,
    pub(crate) relay: Option<Streaming>,
    /// What a transcript is, if it is no JSON.
    pub(crate) media_type: Option<HeaderValue>,
    pub(crate) sound: Option<Sound>,
    pub(crate) measured: Option<Measured>,
}

#[async_trait]
impl Exchange for ModelsExchange {
    async fn request_ready(&mut self, body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let mut chosen = Chosen::of(&self.service, self.protocol, body, cx)?;
        chosen.count_exactly(&self.service, body).await;
        cx.facts.insert(chosen.worst_case(body));
        if let (Some(pricing), Some(principal)) = (&self.service.pricing, cx.facts.get::<Principal>()) {
            let terms = pricing.terms(principal.cost_markup_factor);
            cx.facts.insert::<Terms>(terms);
        }
        cx.facts.insert(ModelChoice {
            operation: operation(self.protocol),
            slug: Arc::clone(&chosen.slug),
            alias: Arc::clone(&chosen.model.alias),
            stream: chosen.stream,
            prompt_estimate: chosen.prompt_estimate(),
            may_cost: chosen.entries.iter().any(|entry| entry.backend.domain != Domain::Local),
            targets: chosen.entries.iter().map(|entry| entry.as_target()).collect(),
        });
        cx.facts.insert(Subject(Arc::clone(&chosen.slug)));
        cx.facts.insert(ModelTraits {
            image_input: chosen.model.image_input,
            accepts_image_url: chosen.model.accepts_image_url,
        });
        cx.plan.targets = chosen.targets(&self.service);
        if chosen.stream && may_wait(cx) {
            let settings = cx.facts.get::<TenantSettings>().unwrap_or(&self.service.of_process);
            cx.plan.keep_alive = Some(self.service.stream.keep_alive(settings.stream_heartbeat_seconds));
        }
        self.chosen = Some(chosen);
        Ok(Flow::Continue)
    }

    fn before_attempt(&mut self, _index: usize, _cx: &mut ExchangeCx<'_>) -> Result<Admission, FilterError> {
        self.running = None; // the attempt before it is over, however long this one waits
        Ok(Admission::Granted)
    }

    fn attempt(&mut self, attempt: &mut AttemptRequest, cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let Some(chosen) = &self.chosen else { return Ok(()) };
        let Some(entry) = chosen.entries.get(attempt.entry) else { return Ok(()) };
        self.current = attempt.index;
        self.entry = attempt.entry;
        self.told = false;
        self.traced = cx.facts.get::<Traced>().is_some();
        self.running = Some(entry.backend.enter());
        let (measures, now) = (&self.service.metrics.calls, self.service.clock.now());
        let begun = Measured::begin(measures, self.protocol, &entry.backend.label, &chosen.slug, &entry.alias, now);
        self.measured = Some(begun);
        self.answer = None;
        self.relay = None;
        self.media_type = None;
        self.sound = None;
        attempt.decode_answer = true;
        self.account = open_account(&self.service, chosen, entry, cx);
        attempt.path = format!("{}{}", entry.backend.base_path, self.protocol.path());
        if let Some((name, value)) = &entry.backend.credential {
            attempt.headers.insert(name.clone(), value.clone());
        }
        dialect::forward(self.protocol, &cx.head.headers, &mut attempt.headers);
        announce(chosen.dress(self.protocol, entry, attempt)?, cx.reply_headers);
        if chosen.stream {
            self.service.stream.limit(entry.backend.first_byte_timeout, &mut attempt.timeouts);
            let settings = cx.facts.get::<TenantSettings>().unwrap_or(&self.service.of_process);
            attempt.keep_alive = Some(self.service.stream.keep_alive(settings.stream_heartbeat_seconds));
            self.tells_cost = self.protocol.cost_event().filter(|_| settings.stream_cost_event);
        } else if chosen.is_recording() {
            // whether a recording is answered with events may be said behind it
            self.service.stream.let_go_on(&mut attempt.timeouts);
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
            && (self.spent || self.current + 1 >= cx.plan.targets.len())
        {
            tell_not_to_retry(&verdict, cx.reply_headers);
        }
        Some(verdict)
    }

    fn response_head(&mut self, head: &mut ResponseHead, cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let Some((chosen, entry)) = self.serving() else { return Ok(()) };
        // nothing of the upstream's headers passes
        let mut headers = if let Some(relay) = &self.relay {
            head.length = None;
            if let Streaming::Text(relay) = relay
                && self.protocol == Protocol::Responses
            {
                *cx.renderer = Some(Arc::new(relay.errors()));
            }
            streaming::headers()
        } else if let Some(sound) = &self.sound {
            streaming::headers_of(sound.content_type.clone())
        } else {
            streaming::headers_of(self.media_type.clone().unwrap_or(JSON))
        };
        if let (None, Some(account)) = (&self.relay, &self.account) {
            account.tell(&mut headers, self.sound.is_some());
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
            let passed = relay.pass(part, end);
            if let (true, Some(account)) = (relay.left(), &self.account) {
                account.meter.begin();
            }
            passed?;
            if let Some(ending) = relay.take_ending() {
                *cx.ending = Some(ending);
            }
            if end && let Some(usage) = relay.usage() {
                cx.facts.insert::<Usage>(usage);
            }
            if let Some(measured) = &mut self.measured
                && part.as_ref().is_some_and(|part| !part.is_empty())
            {
                measured.chunk(&self.service.metrics.calls, self.service.clock.now());
            }
        } else if let Some(sound) = &mut self.sound {
            sound.pass(part.as_ref(), self.account.as_ref().map(|account| &*account.meter));
        } else if let Some(answer) = self.answer.take() {
            *part = Some(answer.body);
        }
        if (end || cx.ending.is_some())
            && let Some(measured) = &mut self.measured
        {
            measured.complete(self.service.clock.now());
        }
        Ok(())
    }

    fn finish(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) {
        self.running = None;
        if let Some(measured) = self.measured.take() {
            let usage = self.account.as_ref().and_then(|account| account.meter.reported().usage);
            let usage = usage.or_else(|| cx.facts.get().copied());
            measured.finish(&self.service.metrics.calls, outcome, usage, self.service.clock.now());
        }
    }
}

/// Whether an attempt may have to wait for its turn.
fn may_wait(cx: &ExchangeCx<'_>) -> bool {
    cx.plan.targets.iter().any(|target| target.upstream.slots.is_some())
        || cx.facts.get::<TenantLimits>().is_some_and(|limits| limits.max_in_flight.is_some())
}

/// Bytes of a body, as its head declares them.
fn declared_length(headers: &HeaderMap) -> u64 {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Opens the account of an attempt, and states it for the filter that books it.
fn open_account(service: &Models, chosen: &Chosen, entry: &Entry, cx: &mut ExchangeCx<'_>) -> Option<Account> {
    let terms = cx.facts.shared::<Terms>()?;
    let call = ModelCall {
        resolved_model: Arc::clone(&entry.alias),
        backend_id: Arc::clone(&entry.backend.id),
        backend_label: Arc::clone(&entry.backend.label),
        upstream_model: Arc::clone(&entry.model),
        local: entry.backend.domain == Domain::Local,
        prompt_estimate: chosen.prompt_estimate(),
        recording_bytes: if chosen.is_recording() { declared_length(&cx.head.headers) } else { 0 },
    };
    let account = Account::open(Arc::clone(service.pricing.as_ref()?), terms, call);
    cx.facts.insert_shared(Arc::clone(&account.call));
    cx.facts.insert_shared(Arc::clone(&account.meter));
    Some(account)
}

impl ModelsExchange {
    /// What was chosen, and the entry of the current attempt.
    pub(crate) fn serving(&self) -> Option<(&Chosen, &Arc<Entry>)> {
        let chosen = self.chosen.as_ref()?;
        Some((chosen, chosen.entries.get(self.entry)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_answers_in_a_dialect_of_text_or_counts() {
        use Protocol::{Chat, Messages, Rerank, Responses, Tokenize};
        let checked = |protocol, count_tokens| {
            Route::check(RouteConfig { protocol, count_tokens }).map_err(|problems| problems[0].key.clone())
        };
        for protocol in [Chat, Messages, Rerank, Responses] {
            assert_eq!(checked(protocol, false), Ok(Task::Answer(protocol)));
        }
        assert_eq!(checked(Messages, true), Ok(Task::Count));
        assert_eq!(checked(Responses, true), Err("count_tokens".to_owned()));
        assert_eq!(checked(Tokenize, false), Err("protocol".to_owned()));
    }
}
