//! What was chosen for a request, once.

use std::sync::Arc;
use std::time::Instant;

use dgx_gateway_filter::facts::{Principal, WorstCase};
use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::upstream::{AttemptRequest, MAX_TARGETS, Target};
use dgx_gateway_filter::{ErrorCode, ExchangeCx, FilterError, Rope};
use dgx_gateway_wire::errors::PromptCount;
use dgx_gateway_wire::multipart::Form;
use dgx_gateway_wire::request::Scan;
use http::{HeaderValue, header};

use crate::backend::Protocol;
use crate::catalog::{Entry, Model, Unusable, choices, ordered};
use crate::daily_quota::DailyQuota;
use crate::document::{Document, Wanted};
use crate::max_tokens::Applied;
use crate::recording::Recording;
use crate::service::Models;

const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The model of a request, the entries that may serve it, and what was asked of them.
pub(crate) struct Chosen {
    pub(crate) slug: Arc<str>,
    pub(crate) model: Arc<Model>,
    /// Name that the answer carries.
    pub(crate) shown: Arc<str>,
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Entries that fail are tried behind the others.
    avoids: bool,
    /// What is told when the provider's day is used up.
    pub(crate) daily_quota: Option<DailyQuota>,
    pub(crate) asked: Asked,
    pub(crate) stream: bool,
    pub(crate) client_wants_usage: bool,
}

/// The form of a request.
pub(crate) enum Asked {
    /// JSON, held.
    Document(Box<Document>),
    /// A form, which streams.
    Recording(Recording),
}

impl Chosen {
    /// Finds the model of a request and checks what depends on it.
    pub(crate) fn of(
        service: &Models,
        protocol: Protocol,
        body: &Rope,
        cx: &ExchangeCx<'_>,
    ) -> Result<Self, FilterError> {
        let principal = cx.facts.get::<Principal>();
        let settings = cx.facts.get::<TenantSettings>().unwrap_or(&service.of_process);
        let catalog = service.catalog.load();
        let resolve = |slug: &str| catalog.resolve(slug, principal, protocol).map_err(refusal);
        let (slug, (found, entries), asked) = if protocol.is_form() {
            let form = cx.facts.shared::<Form>().ok_or_else(|| FilterError::internal("the form was not scanned"))?;
            let recording = Recording::of(form, cx, settings)?;
            let (found, entries) = resolve(recording.slug())?;
            let entries = recording.takers(entries)?;
            (recording.slug().to_owned(), (found, entries), Asked::Recording(recording))
        } else {
            let scan = cx.facts.shared::<Scan>().ok_or_else(|| FilterError::internal("the body was not scanned"))?;
            let asked = Wanted::of(protocol, &scan, body, settings)?;
            let slug = asked.slug.clone();
            let (found, entries) = resolve(&slug)?;
            let document = Document::of(protocol, scan, asked, body, &found.model, principal)?;
            (slug, (found, entries), Asked::Document(Box::new(document)))
        };
        let slug: Arc<str> = slug.into();
        let (now, budget) = (service.clock.now(), &found.model.retries);
        budget.request();
        // asked only in trouble: it takes a lock
        let avoids = entries.iter().any(|entry| entry.history.fails()) && budget.is_low(service.retries, now);
        let mut entries = ordered(entries, |entry| rests(entry, now, avoids));
        entries.truncate(MAX_TARGETS); // no more are tried, and the last of them has to be known as such
        let (stream, client_wants_usage) = match &asked {
            Asked::Document(document) => (document.stream, document.client_wants_usage),
            Asked::Recording(recording) => (recording.stream(), true),
        };
        Ok(Self {
            shown: found.model.response_model.clone().unwrap_or_else(|| Arc::clone(&slug)),
            model: Arc::clone(&found.model),
            entries,
            avoids,
            daily_quota: DailyQuota::of(found, &catalog, principal, &cx.head.headers),
            asked,
            stream,
            client_wants_usage,
            slug,
        })
    }

    /// The most that the call may use, whichever entry serves it. Of a recording nobody knows it; it reserves nothing.
    pub(crate) fn worst_case(&self, body: &Rope) -> WorstCase {
        match &self.asked {
            Asked::Document(document) => document.worst_case(&self.model, &self.entries, body),
            Asked::Recording(_) => WorstCase::default(),
        }
    }

    /// Estimated tokens of the prompt; a recording has none.
    pub(crate) fn prompt_estimate(&self) -> u64 {
        match &self.asked {
            Asked::Document(document) => document.prompt_estimate(),
            Asked::Recording(_) => 0,
        }
    }

    /// Whether the request is a form with a recording.
    pub(crate) fn is_recording(&self) -> bool {
        matches!(self.asked, Asked::Recording(_))
    }

    /// Where it may go.
    pub(crate) fn targets(&self, service: &Models) -> Vec<Target> {
        let now = service.clock.now();
        let choices = choices(&self.entries, |entry| rests(entry, now, self.avoids));
        let target = |(entry, (of, choice)): (usize, (&Arc<Entry>, usize))| Target {
            upstream: Arc::clone(&of.backend.upstream),
            entry,
            choice,
        };
        self.entries.iter().zip(choices).enumerate().map(target).collect()
    }

    /// Headers and body for the entry of an attempt.
    pub(crate) fn dress(
        &self,
        protocol: Protocol,
        entry: &Entry,
        attempt: &mut AttemptRequest,
    ) -> Result<Applied, FilterError> {
        match &self.asked {
            Asked::Document(document) => {
                let accept = match protocol {
                    Protocol::Speech => ANYTHING,
                    _ if self.stream => EVENT_STREAM,
                    _ => JSON,
                };
                attempt.headers.insert(header::CONTENT_TYPE, JSON);
                attempt.headers.insert(header::ACCEPT, accept);
                let (patches, applied) = document.patches(&self.model, attempt.entry, entry)?;
                attempt.body = attempt.body.patched(&patches);
                Ok(applied)
            }
            Asked::Recording(recording) => {
                recording.dress(entry, attempt);
                Ok(Applied::Unchanged)
            }
        }
    }

    /// Asks a backend for the size of the prompt, where one counts exactly.
    pub(crate) async fn count_exactly(&mut self, service: &Models, body: &Rope) {
        if let Asked::Document(document) = &mut self.asked {
            document.count_exactly(service, &self.entries, body).await;
        }
    }

    /// An entry refused for length and said how large the prompt is: whether it is worth asking once more.
    pub(crate) fn shorten(&mut self, at: usize, counted: PromptCount) -> bool {
        match (&mut self.asked, self.entries.get(at)) {
            (Asked::Document(document), Some(entry)) => document.shorten(&self.model, at, entry, counted),
            _ => false,
        }
    }
}

/// Whether an entry is to be left alone for now.
fn rests(entry: &Entry, now: Instant, avoids: bool) -> bool {
    entry.history.skipped(now) || avoids && entry.history.fails()
}

pub(crate) fn refusal(unusable: Unusable) -> FilterError {
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
