//! What operators learn of the export: metrics and log lines together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// How often the log says that spans are lost or wait.
const AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// What came of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// The collector has it.
    Exported,
    /// There was no room for it.
    QueueFull,
    /// The collector does not take it.
    Refused,
    /// The process ended before.
    Unsent,
}

impl Came {
    const ALL: [Self; 4] = [Self::Exported, Self::QueueFull, Self::Refused, Self::Unsent];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Unsent => "unsent",
        }
    }
}

/// Counters, and the last time that something was said.
pub(crate) struct Events {
    spans: [IntCounter; Came::ALL.len()],
    said: Mutex<Option<Instant>>,
}

impl Events {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let spans = Opts::new("dgx_gateway_trace_spans_total", "Spans of traces, by what came of them.");
        let spans = IntCounterVec::new(spans, &["result"])?;
        registry.register(Box::new(spans.clone()))?;
        Ok(Self { spans: Came::ALL.map(|came| spans.with_label_values(&[came.as_str()])), said: Mutex::new(None) })
    }

    /// Counts spans.
    pub(crate) fn spans(&self, came: Came, spans: usize) {
        for (counter, _) in self.spans.iter().zip(Came::ALL).filter(|(_, counted)| *counted == came) {
            counter.inc_by(spans as u64);
        }
    }

    /// The collector gives trouble: says so, at most once a minute.
    pub(crate) fn trouble(&self, error: &dyn std::fmt::Display, waiting: usize) {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|said| now.saturating_duration_since(said) < AT_MOST_EVERY) {
            return;
        }
        *said = Some(now);
        drop(said);
        let lost: u64 = self.spans.iter().skip(1).map(IntCounter::get).sum();
        tracing::warn!(%error, spans.waiting = waiting, spans.lost = lost, "traces cannot be exported");
    }
}
