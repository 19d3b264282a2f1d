//! Where a request stands in its trace.

use std::sync::Arc;

use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::trace::{Begun, SpanId, TraceContext, TraceId, Tracer};

use crate::queue::Queue;
use crate::sampler::Sampler;
use crate::span::Request;

/// Follows requests.
pub(crate) struct OtlpTracer {
    sampler: Sampler,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
}

impl OtlpTracer {
    pub(crate) fn new(sampler: Sampler, queue: Arc<Queue>, clock: Arc<dyn Clock>) -> Self {
        Self { sampler, queue, clock }
    }
}

impl Tracer for OtlpTracer {
    fn begin(&self, head: &http::request::Parts) -> Begun {
        let parent = TraceContext::of(&head.headers);
        let trace = parent.map_or_else(new_trace, |parent| parent.trace);
        let joined = parent.is_some();
        if !self.sampler.follows(trace, parent) {
            // whoever comes next is told that nobody records this trace
            let context = parent.unwrap_or_else(|| TraceContext::new(trace, new_span(), false)).sampled_as(false);
            return Begun { context, joined, span: None };
        }
        let context = match parent {
            Some(parent) => parent.at(new_span()).sampled_as(true),
            None => TraceContext::new(trace, new_span(), true),
        };
        let request = Request::begin(context, parent, head, Arc::clone(&self.queue), Arc::clone(&self.clock));
        Begun { context, joined, span: Some(Box::new(request)) }
    }
}

fn new_trace() -> TraceId {
    TraceId(rand::random::<u128>().max(1))
}

/// A number for a span.
pub(crate) fn new_span() -> SpanId {
    SpanId(rand::random::<u64>().max(1))
}
