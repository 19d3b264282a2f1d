//! Counting the tokens of a prompt: asked of the backends that speak the dialect, estimated where none of them counts.
//!
//! The estimate is the last target of the plan, a service inside the process that gives back what it is sent. So a
//! backend that fails, in whatever way, is followed by an answer like any other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use dgx_gateway_filter::facts::{ModelChoice, ModelTraits, Principal, Subject};
use dgx_gateway_filter::upstream::{
    Address, AttemptFailure, AttemptRequest, AttemptResult, HttpVersion, MAX_TARGETS, Upstream, Verdict,
};
use dgx_gateway_filter::{
    BodyNeed, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FinishCx, Flow, Outcome, ResponseHead, Rope,
};
use dgx_gateway_wire::request::{Member, Scan, patch};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;

use crate::attempts::{Attempts, Came};
use crate::backend::{Protocol, Running};
use crate::catalog::{Entry, Model, Unusable, ordered};
use crate::chosen::refusal;
use crate::service::Models;
use crate::{dialect, judge};

/// Below the path of messages.
const PATH: &str = "/count_tokens";
/// Longest answer that is read: a number and little else.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Name of the estimate among upstreams; no backend can have it.
const ESTIMATE: &str = "(estimate)";
const RESOLVED_MODEL: HeaderName = HeaderName::from_static("spass-resolved-model");
const RESOLVED_BACKEND: HeaderName = HeaderName::from_static("spass-resolved-backend");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The filter of a route that counts.
pub(crate) struct CountFilter {
    service: Arc<Models>,
    estimate: Arc<Upstream>,
}

impl CountFilter {
    pub(crate) fn new(service: Arc<Models>) -> Self {
        let echo = |body: Bytes| async move { ([(header::CONTENT_TYPE, JSON)], body) };
        let estimate = Upstream {
            label: ESTIMATE.into(),
            address: Address::Embedded(Arc::new(Router::new().fallback(echo))),
            version: HttpVersion::Http1,
            authorities: None,
            connect_timeout: Duration::from_secs(1),
            slots: None,
        };
        Self { service, estimate: Arc::new(estimate) }
    }
}

impl Filter for CountFilter {
    fn body_need(&self) -> BodyNeed {
        BodyNeed::Whole
    }

    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(CountExchange {
            service: Arc::clone(&self.service),
            estimate: Arc::clone(&self.estimate),
            chosen: None,
            current: 0,
            told: false,
            attempts: Attempts::default(),
            running: None,
            counted: 0,
        })
    }
}

/// What was chosen for a request, once.
struct Chosen {
    slug: Arc<str>,
    model: Arc<Model>,
    entries: Vec<Arc<Entry>>,
    name: Member,
    estimate: u64,
}

struct CountExchange {
    service: Arc<Models>,
    estimate: Arc<Upstream>,
    chosen: Option<Chosen>,
    current: usize,
    /// The current attempt stands in `attempts`.
    told: bool,
    attempts: Attempts,
    running: Option<Running>,
    counted: u64,
}

#[derive(Deserialize)]
struct Counted {
    input_tokens: u64,
}

#[async_trait]
impl Exchange for CountExchange {
    async fn request_ready(&mut self, body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let scan = cx.facts.shared::<Scan>().ok_or_else(|| FilterError::internal("the body was not scanned"))?;
        let chosen = choose(&self.service, &scan, body, cx.facts.get::<Principal>())?;
        let (slug, model) = (Arc::clone(&chosen.slug), &chosen.model);
        cx.facts.insert(ModelTraits { image_input: model.image_input, accepts_image_url: model.accepts_image_url });
        cx.facts.insert(Subject(Arc::clone(&slug)));
        cx.facts.insert(ModelChoice {
            operation: "count_tokens",
            slug,
            alias: Arc::clone(&model.alias),
            stream: false,
            prompt_estimate: chosen.estimate,
            may_cost: false,
            targets: Arc::default(),
        });
        let backends = chosen.entries.iter().map(|entry| Arc::clone(&entry.backend.upstream));
        cx.plan.set(backends.chain([Arc::clone(&self.estimate)]));
        self.chosen = Some(chosen);
        Ok(Flow::Continue)
    }

    fn attempt(&mut self, attempt: &mut AttemptRequest, cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let Some(chosen) = &self.chosen else { return Ok(()) };
        self.current = attempt.index;
        self.told = false;
        attempt.decode_answer = true;
        attempt.headers.insert(header::CONTENT_TYPE, JSON);
        attempt.headers.insert(header::ACCEPT, JSON);
        let Some(entry) = chosen.entries.get(attempt.index) else {
            self.running = None;
            attempt.path = Protocol::Messages.path().to_owned() + PATH;
            attempt.body = Rope::from(answer(chosen.estimate));
            return Ok(());
        };
        self.running = Some(entry.backend.enter());
        attempt.path = format!("{}{}{PATH}", entry.backend.base_path, Protocol::Messages.path());
        dialect::forward(Protocol::Messages, &cx.head.headers, &mut attempt.headers);
        if let Some((name, value)) = &entry.backend.credential {
            attempt.headers.insert(name.clone(), value.clone());
        }
        if *entry.model != *chosen.slug {
            let name = serde_json::to_string(&*entry.model).unwrap_or_default();
            attempt.body = attempt.body.patched(&[patch::replace(&chosen.name, Bytes::from(name))]);
        }
        attempt.timeouts.first_byte = Some(entry.backend.first_byte_timeout);
        Ok(())
    }

    fn judge(&mut self, result: &AttemptResult<'_>, cx: &mut ExchangeCx<'_>) -> Option<Verdict> {
        let verdict = match result {
            AttemptResult::Head(head) => {
                self.reached();
                if head.status.is_success() || judge::needs_body(head.status, &head.headers) {
                    return Some(Verdict::ReadBody { max_bytes: MAX_ANSWER_BYTES });
                }
                self.refused(head.status, &head.headers, &[])
            }
            AttemptResult::Body { head, body, complete } => self.answered(head, body, *complete),
            AttemptResult::Failed(failure) => self.failed(*failure),
        };
        self.attempts.write(cx.reply_headers);
        Some(verdict)
    }

    fn response_head(&mut self, head: &mut ResponseHead, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let Some(chosen) = &self.chosen else { return Ok(()) };
        let mut headers = HeaderMap::with_capacity(3); // nothing of the upstream's headers passes
        headers.insert(header::CONTENT_TYPE, JSON);
        let entry = chosen.entries.get(self.current);
        let alias = entry.map_or(&chosen.model.alias, |entry| &entry.alias);
        for (name, value) in
            [(RESOLVED_MODEL, Some(alias)), (RESOLVED_BACKEND, entry.map(|entry| &entry.backend.label))]
        {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        }
        head.headers = headers;
        Ok(())
    }

    fn response_chunk(
        &mut self,
        part: &mut Option<Bytes>,
        _end: bool,
        _cx: &mut ExchangeCx<'_>,
    ) -> Result<(), FilterError> {
        *part = Some(answer(self.counted));
        Ok(())
    }

    fn finish(&mut self, _outcome: &Outcome, _cx: &FinishCx<'_>) {
        self.running = None;
    }
}

impl CountExchange {
    fn entry(&self) -> Option<&Arc<Entry>> {
        self.chosen.as_ref()?.entries.get(self.current)
    }

    fn reached(&self) {
        if let Some(entry) = self.entry() {
            entry.history.reached();
            entry.backend.set_up(true);
        }
    }

    /// Notes what the current attempt came to; the estimate is none.
    fn came(&mut self, came: Came) {
        let (Some(chosen), Some(entry)) = (&self.chosen, self.entry()) else { return };
        let label = Arc::clone(&entry.backend.label);
        self.service.metrics.attempt(&label, &chosen.model.alias, came);
        if !std::mem::replace(&mut self.told, true) {
            self.attempts.push(&label, came);
        }
    }

    fn answered(&mut self, head: &ResponseHead, body: &Bytes, complete: bool) -> Verdict {
        if !head.status.is_success() {
            return self.refused(head.status, &head.headers, body);
        }
        self.came(Came::Status(head.status.as_u16()));
        match serde_json::from_slice::<Counted>(body) {
            Ok(counted) if complete => {
                self.counted = counted.input_tokens;
                Verdict::Relay
            }
            _ => Verdict::Next,
        }
    }

    /// A request that the backend calls wrong is wrong; any other refusal is about the backend itself.
    fn refused(&mut self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
        self.came(Came::Status(status.as_u16()));
        let (Some(chosen), Some(entry)) = (&self.chosen, self.entry()) else { return Verdict::Next };
        let sanitizer = self.service.sanitizer.load();
        match judge::status(status, headers, body, |body| sanitizer.message(body, &entry.model, &chosen.slug)) {
            Verdict::Fail(error) if error.code == ErrorCode::UpstreamBadRequest => Verdict::Fail(error),
            _ => Verdict::Next,
        }
    }

    fn failed(&mut self, failure: AttemptFailure) -> Verdict {
        self.came(Came::Failed(failure));
        if let Some(entry) = self.entry()
            && failure == AttemptFailure::Connect
        {
            entry.history.unreachable(self.service.clock.now());
            entry.backend.set_up(false);
        }
        judge::failure(failure)
    }
}

/// Finds the model of a request, and the backends that may count for it; there may be none.
fn choose(service: &Models, scan: &Scan, body: &Rope, principal: Option<&Principal>) -> Result<Chosen, FilterError> {
    let name = scan.model.clone().ok_or_else(|| FilterError::internal("a body without a model passed"))?;
    let slug = patch::read_string(body, &name).unwrap_or_default();
    let catalog = service.catalog.load();
    let (model, mut entries) = match catalog.resolve(&slug, principal, Protocol::Messages) {
        Ok((found, entries)) => {
            let now = service.clock.now();
            (Arc::clone(&found.model), ordered(entries, |entry| entry.history.skipped(now)))
        }
        Err(Unusable::NoBackend) => {
            let found = catalog.find(&slug, principal).ok_or_else(|| refusal(Unusable::NotAvailable))?;
            (Arc::clone(&found.model), Vec::new())
        }
        Err(unusable) => return Err(refusal(unusable)),
    };
    entries.truncate(MAX_TARGETS - 1); // the estimate has to fit into the plan
    Ok(Chosen { slug: slug.into(), model, entries, name, estimate: scan.estimated_prompt_tokens() })
}

fn answer(tokens: u64) -> Bytes {
    Bytes::from(format!("{{\"input_tokens\":{tokens}}}"))
}
