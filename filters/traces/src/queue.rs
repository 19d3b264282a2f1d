//! Spans that wait to be sent: a bounded queue that never lets anybody wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::Notify;

use crate::events::{Came, Events};

/// How spans are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batching {
    /// Most spans that wait; another batch may be on its way.
    pub(crate) queue: usize,
    /// Most spans of one call.
    pub(crate) batch: usize,
    /// How long spans gather.
    pub(crate) delay: Duration,
}

/// The queue.
pub(crate) struct Queue {
    batching: Batching,
    spans: Mutex<VecDeque<Span>>,
    /// Told when a whole batch is there.
    full: Notify,
    events: Arc<Events>,
}

impl Queue {
    pub(crate) fn new(batching: Batching, events: Arc<Events>) -> Self {
        Self { batching, spans: Mutex::default(), full: Notify::new(), events }
    }

    fn spans(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a span; one for which there is no room is dropped and counted.
    pub(crate) fn push(&self, span: Span) {
        let mut spans = self.spans();
        if spans.len() >= self.batching.queue {
            drop(spans);
            self.events.spans(Came::QueueFull, 1);
            return;
        }
        spans.push_back(span);
        let full = spans.len() >= self.batching.batch;
        drop(spans);
        if full {
            self.full.notify_one();
        }
    }

    /// Waits until a batch is full, or the time for gathering is over.
    pub(crate) async fn gather(&self) {
        if self.spans().len() < self.batching.batch {
            // whether it was told or not, what is there is sent
            drop(tokio::time::timeout(self.batching.delay, self.full.notified()).await);
        }
    }

    /// Takes the next batch; it comes back when it is dropped before it was said what came of it.
    pub(crate) fn take(&self) -> Option<Batch<'_>> {
        let mut spans = self.spans();
        if spans.is_empty() {
            return None;
        }
        let length = spans.len().min(self.batching.batch);
        let spans: Vec<Span> = spans.drain(..length).collect();
        Some(Batch { queue: self, spans })
    }

    /// How many spans wait.
    pub(crate) fn len(&self) -> usize {
        self.spans().len()
    }

    /// Gives up what waits.
    pub(crate) fn give_up(&self) {
        let lost = self.spans().drain(..).count();
        self.events.spans(Came::Unsent, lost);
    }
}

/// Spans on their way.
pub(crate) struct Batch<'a> {
    queue: &'a Queue,
    spans: Vec<Span>,
}

impl Batch<'_> {
    pub(crate) fn spans(&mut self) -> &mut Vec<Span> {
        &mut self.spans
    }

    /// What came of them.
    pub(crate) fn done(mut self, came: Came, but_refused: usize) {
        let all = std::mem::take(&mut self.spans).len();
        let refused = but_refused.min(all);
        self.queue.events.spans(came, all - refused);
        self.queue.events.spans(Came::Refused, refused);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.spans.is_empty() {
            return;
        }
        let mut spans = self.queue.spans();
        for span in self.spans.drain(..).rev() {
            spans.push_front(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, Registry, TextEncoder};

    use super::*;

    fn queue(registry: &Registry) -> Queue {
        let batching = Batching { queue: 3, batch: 2, delay: Duration::from_secs(60) };
        Queue::new(batching, Arc::new(Events::register(registry).unwrap()))
    }

    fn span(name: &str) -> Span {
        Span { name: name.to_owned(), ..Span::default() }
    }

    fn names(batch: &mut Batch<'_>) -> Vec<String> {
        batch.spans().iter().map(|span| span.name.clone()).collect()
    }

    #[test]
    fn batches_keep_their_order_and_come_back_where_they_were() {
        let queue = queue(&Registry::new());
        assert!(queue.take().is_none());
        ["a", "b", "c"].into_iter().for_each(|name| queue.push(span(name)));
        let mut batch = queue.take().unwrap();
        assert_eq!((names(&mut batch), queue.len()), (vec!["a".to_owned(), "b".to_owned()], 1));
        queue.push(span("d"));
        drop(batch);
        assert_eq!(names(&mut queue.take().unwrap()), ["a", "b"]);
        queue.take().unwrap().done(Came::Exported, 1);
        assert_eq!(names(&mut queue.take().unwrap()), ["c", "d"]);
        queue.take().unwrap().done(Came::Refused, 0);
        assert!(queue.take().is_none() && queue.take().is_none());
    }

    #[test]
    fn every_span_is_counted_once() {
        let registry = Registry::new();
        let queue = queue(&registry);
        for name in ["a", "b", "c", "d", "e"] {
            queue.push(span(name)); // the last two do not fit
        }
        queue.take().unwrap().done(Came::Exported, 1);
        queue.give_up();
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for (result, count) in [("exported", 1), ("queue_full", 2), ("refused", 1), ("unsent", 1)] {
            let line = format!("dgx_gateway_trace_spans_total{{result=\"{result}\"}} {count}");
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_does_not_wait() {
        let queue = queue(&Registry::new());
        let begun = tokio::time::Instant::now();
        queue.gather().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
        queue.push(span("a"));
        let waiting = async {
            queue.gather().await;
            begun.elapsed()
        };
        let more = async { queue.push(span("b")) };
        assert_eq!(tokio::join!(waiting, more).0, Duration::from_secs(60));
        queue.gather().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
    }
}
