//! Judging what an attempt came to.

use std::sync::Arc;

use bytes::Bytes;
use dgx_gateway_filter::facts::Report;
use dgx_gateway_filter::upstream::{AttemptFailure, Verdict};
use dgx_gateway_filter::{ErrorCode, FilterError, ResponseHead};
use dgx_gateway_wire::answer::{
    RewrittenBody, count_images, finish_reasons, rewrite_body, sort_results, tells_where_images_lie,
};
use dgx_gateway_wire::errors::{UpstreamRefusal, classify, is_daily_limit, prompt_count};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::attempts::Came;
use crate::backend::Protocol;
use crate::chosen::Chosen;
use crate::cost::seconds;
use crate::daily_quota::DailyQuota;
use crate::dialect;
use crate::filter::ModelsExchange;
use crate::hidden::without_credential;
use crate::judge;
use crate::relay::Relay;
use crate::sound::Sound;
use crate::transcript::{Streaming, Transcript};

/// Longest whole answer that is held: a thousand embeddings or a few images fit.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

impl ModelsExchange {
    /// Notes what the current attempt came to.
    fn came(&mut self, came: Came) {
        let Some((chosen, entry)) = self.serving() else { return };
        let label = Arc::clone(&entry.backend.label);
        self.service.metrics.attempt(&label, &chosen.model.alias, came);
        if let Came::Status(200..=299) = came {
            entry.history.set_fails(false);
        }
        // a response that turned out to be of no use is still the one attempt that it was
        if !std::mem::replace(&mut self.told, true) {
            self.attempts.push(&label, came);
        }
    }

    pub(crate) fn judge_head(&mut self, head: &ResponseHead) -> Verdict {
        if let Some((_, entry)) = self.serving() {
            entry.history.reached();
            entry.backend.set_up(true);
        }
        if !head.status.is_success() {
            return if judge::needs_body(head.status, &head.headers) || self.may_be_a_day(head.status) {
                Verdict::ReadBody { max_bytes: judge::MAX_ERROR_BYTES }
            } else {
                self.judge_status(head.status, &head.headers, &[])
            };
        }
        if let Some(account) = &self.account {
            account.read_head(&head.headers);
        }
        if self.protocol == Protocol::Speech
            && let Some(sound) = Sound::of(&head.headers)
        {
            self.came(Came::Status(head.status.as_u16()));
            self.sound = Some(sound);
            return Verdict::Relay;
        }
        let streams = |chosen: &Chosen| chosen.stream || chosen.is_recording();
        if self.chosen.as_ref().is_some_and(streams) && is_event_stream(&head.headers) {
            self.came(Came::Status(head.status.as_u16()));
            let form = self.protocol.stream_form();
            let (account, cost) = (self.account.clone(), self.tells_cost);
            self.relay = self.serving().map(|(chosen, _)| {
                let model = Arc::clone(&chosen.shown);
                match chosen.is_recording() {
                    true => Streaming::Transcript(Transcript::new(model).accounted(account)),
                    false => {
                        let relay = Relay::new(model, chosen.client_wants_usage, form);
                        Streaming::Text(Box::new(relay.accounted(account, cost)))
                    }
                }
            });
            return Verdict::Relay;
        }
        Verdict::ReadBody { max_bytes: MAX_ANSWER_BYTES }
    }

    pub(crate) fn judge_body(&mut self, head: &ResponseHead, body: &Bytes, complete: bool) -> Verdict {
        if !head.status.is_success() {
            return self.judge_status(head.status, &head.headers, body);
        }
        self.came(Came::Status(head.status.as_u16()));
        let Some((chosen, _)) = self.serving() else { return Verdict::Next };
        if !complete {
            return self.next_or(judge::last_failure(AttemptFailure::Reset));
        }
        if chosen.is_recording()
            && let Some(media_type) = transcript_type(&head.headers)
        {
            self.answer = Some(RewrittenBody { body: body.clone(), usage: None, cost_usd: None, seconds: None });
            self.media_type = Some(media_type);
            return Verdict::Relay;
        }
        match rewrite_body(body, &chosen.shown) {
            // events, or sound, were asked for; not every model that listens knows events
            Ok(_) if chosen.stream && !chosen.is_recording() || self.protocol == Protocol::Speech => {
                self.next_or(judge::last_failure(AttemptFailure::Reset))
            }
            Ok(_) if self.protocol == Protocol::Images && tells_where_images_lie(body) => {
                self.next_or(judge::last_failure(AttemptFailure::Reset))
            }
            Ok(mut answer) => {
                if self.protocol == Protocol::Rerank {
                    answer.body = sort_results(&answer.body);
                }
                if let Some(account) = &self.account {
                    let (usage, cost_usd) = (answer.usage, answer.cost_usd.clone());
                    let images = count_images(body, self.protocol == Protocol::Images);
                    let seconds = answer.seconds.as_deref().and_then(seconds);
                    account.meter.report(Report { usage, cost_usd, images, seconds });
                    if self.traced {
                        account.meter.finished(finish_reasons(body));
                    }
                }
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
        if self.fits_when_shorter(status, body) {
            return Verdict::Again;
        }
        let Some((chosen, entry)) = self.serving() else { return Verdict::Next };
        if matches!(status.as_u16(), 402 | 429) {
            entry.history.rest(self.service.clock.now(), judge::retry_after(headers, body));
        }
        let body = &*without_credential(body, entry.backend.credential.as_ref().map(|(_, value)| value));
        // not what it says: refusals repeat prompts
        tracing::debug!(
            backend.label = %entry.backend.label, http.status = status.as_u16(),
            meaning = ?classify(status.as_u16(), body), bytes = body.len(),
            "a backend refused"
        );
        let sanitizer = self.service.sanitizer.load();
        match judge::status(status, headers, body, |body| sanitizer.message(body, &entry.model, &chosen.slug)) {
            Verdict::Next => {
                let last = self.last_status(status, headers, body);
                self.next_or(last)
            }
            Verdict::Fail(error) => Verdict::Fail(Box::new(dialect::renamed(self.protocol, *error))),
            verdict => verdict,
        }
    }

    /// A refusal for length that names the size of the prompt: whether the same entry is asked once more.
    fn fits_when_shorter(&mut self, status: StatusCode, body: &[u8]) -> bool {
        if classify(status.as_u16(), body) != UpstreamRefusal::ContextLength {
            return false;
        }
        match (prompt_count(body), &mut self.chosen) {
            (Some(counted), Some(chosen)) => chosen.shorten(self.entry, counted),
            _ => false,
        }
    }

    /// Whether the body decides between two answers: the last entry of a pinned alias is out of quota.
    fn may_be_a_day(&self, status: StatusCode) -> bool {
        self.serving().is_some_and(|(chosen, entry)| {
            chosen.daily_quota.is_some()
                && self.current + 1 == chosen.entries.len()
                && DailyQuota::concerns(entry, status)
        })
    }

    /// The answer when the last entry of the route gave this status.
    fn last_status(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> FilterError {
        match self.chosen.as_ref().and_then(|chosen| chosen.daily_quota.as_ref()) {
            Some(quota) if self.may_be_a_day(status) && is_daily_limit(body) => {
                quota.used_up(self.service.clock.wall())
            }
            _ => judge::last_status(status, headers, body),
        }
    }

    pub(crate) fn judge_failure(&mut self, failure: AttemptFailure) -> Verdict {
        // the attempt has been counted, and nothing brings another one
        if let Some(relay) = self.relay.as_ref().filter(|relay| relay.left()) {
            return if relay.complete() {
                Verdict::Relay
            } else {
                Verdict::Fail(Box::new(judge::last_failure(failure)))
            };
        }
        if self.sound.as_ref().is_some_and(|sound| sound.left) {
            return Verdict::Fail(Box::new(judge::last_failure(failure)));
        }
        self.came(Came::Failed(failure));
        if let Some((_, entry)) = self.serving()
            && failure == AttemptFailure::Connect
        {
            entry.history.unreachable(self.service.clock.now());
            entry.backend.set_up(false);
        }
        match judge::failure(failure) {
            Verdict::Next => self.next_or(judge::last_failure(failure)),
            verdict => verdict,
        }
    }

    /// The next entry, or the answer when there is none left, or the model may not be tried any more.
    fn next_or(&mut self, last: FilterError) -> Verdict {
        if let Some((chosen, entry)) = self.serving() {
            entry.history.set_fails(true);
            if self.current + 1 < chosen.entries.len() {
                if chosen.model.retries.take(self.service.retries, self.service.clock.now()) {
                    return Verdict::Next;
                }
                self.service.metrics.retries_spent(&chosen.model.alias);
                self.spent = true;
            }
        }
        Verdict::Fail(Box::new(last))
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let of =
        |value: &HeaderValue| value.as_bytes().get(..EVENTS.len()).is_some_and(|of| of.eq_ignore_ascii_case(EVENTS));
    headers.get(header::CONTENT_TYPE).is_some_and(of)
}

/// The type of a transcript that is plain text or subtitles; `None` for everything else, which has to be JSON.
fn transcript_type(headers: &HeaderMap) -> Option<HeaderValue> {
    const KNOWN: [&str; 4] = ["application/x-subrip", "text/plain", "text/srt", "text/vtt"];
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    let known = KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(essence))?;
    // subtitles and transcripts are UTF-8 wherever they are made today
    HeaderValue::try_from(format!("{known}; charset=utf-8")).ok()
}

/// Everything was tried that may be: a client that retries at once would only repeat it.
pub(crate) fn tell_not_to_retry(verdict: &Verdict, headers: &mut HeaderMap) {
    use ErrorCode::{UpstreamError, UpstreamTimeout, UpstreamUnavailable};
    if let Verdict::Fail(error) = verdict
        && matches!(error.code, UpstreamError | UpstreamTimeout | UpstreamUnavailable)
    {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
}
