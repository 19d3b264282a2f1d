//! Traces: the context that requests carry (W3C Trace Context), and who follows them.
//!
//! The core knows when a request and its attempts begin and end; what becomes of that is known to whoever offers an
//! `Arc<dyn Tracer>`. Without one nothing is followed, and nothing of this costs anything.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::exchange::{FinishCx, Outcome};
use crate::facts::Facts;
use crate::upstream::{AttemptFailure, AttemptRequest, Upstream};

/// The header with the context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what tracing systems add to it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of `00-<32 hex>-<16 hex>-<2 hex>`.
const LENGTH: usize = 55;
/// The bit of the flags that says that the trace is recorded.
const SAMPLED: u8 = 1;
/// Bits of the flags that have a meaning, so that they are passed on: recorded, and a trace id that is random.
const KNOWN_FLAGS: u8 = 3;

/// Number of a trace, never 0. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Number of a span within its trace, never 0. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A place in a trace: what `traceparent` says (W3C Trace Context, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span in it.
    pub span: SpanId,
    /// Known flags.
    flags: u8,
}

/// A text is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no traceparent")]
pub struct NoTraceContext;

impl TraceContext {
    /// A place in a new trace.
    #[must_use]
    pub fn new(trace: TraceId, span: SpanId, sampled: bool) -> Self {
        Self { trace, span, flags: u8::from(sampled) }
    }

    /// What the headers say; `None` where they say nothing, or nothing that can be joined.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        only.to_str().ok()?.parse().ok()
    }

    /// Another place in the same trace.
    #[must_use]
    pub fn at(self, span: SpanId) -> Self {
        Self { span, ..self }
    }

    /// The same place, in a trace that is recorded from here on, or not.
    #[must_use]
    pub fn sampled_as(self, sampled: bool) -> Self {
        Self { flags: self.flags & !SAMPLED | u8::from(sampled), ..self }
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags as they are passed on.
    #[must_use]
    pub fn flags(self) -> u8 {
        self.flags
    }

    /// The value of the header.
    #[must_use]
    pub fn header(self) -> Option<HeaderValue> {
        let mut text = String::with_capacity(LENGTH);
        write!(text, "00-{}-{}-{:02x}", self.trace, self.span, self.flags).ok()?;
        HeaderValue::try_from(text).ok()
    }
}

impl FromStr for TraceContext {
    type Err = NoTraceContext;

    /// A later version than ours is read as far as it is known to us: it may go on behind a further dash.
    fn from_str(text: &str) -> Result<Self, NoTraceContext> {
        let (known, rest) = text.split_at_checked(LENGTH).ok_or(NoTraceContext)?;
        let mut parts = known.split('-');
        let mut part = |length: usize| parts.next().filter(|part| part.len() == length).ok_or(NoTraceContext);
        let (version, trace, span, flags) = (hex(part(2)?)?, hex(part(32)?)?, hex(part(16)?)?, hex(part(2)?)?);
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let span = u64::try_from(span).map_err(|_| NoTraceContext)?;
        let flags = u8::try_from(flags).map_err(|_| NoTraceContext)?;
        if !fits || trace == 0 || span == 0 {
            return Err(NoTraceContext);
        }
        Ok(Self { trace: TraceId(trace), span: SpanId(span), flags: flags & KNOWN_FLAGS })
    }
}

/// A number of lower-case hexadecimal digits; the standard knows no others.
fn hex(text: &str) -> Result<u128, NoTraceContext> {
    if !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(NoTraceContext);
    }
    u128::from_str_radix(text, 16).map_err(|_| NoTraceContext)
}

/// Follows requests. Offered as an `Arc<dyn Tracer>` by the part that tells of them.
pub trait Tracer: Send + Sync {
    /// A request begins, with this head.
    fn begin(&self, head: &http::request::Parts) -> Begun;
}

/// Where a request stands in its trace.
pub struct Begun {
    /// Its own place; that of the client when the request is not followed, but belongs to a trace of the client's.
    pub context: TraceContext,
    /// The trace is one of the client's, so that its `tracestate` goes on.
    pub joined: bool,
    /// Who follows the request; `None`: nobody.
    pub span: Option<Box<dyn RequestSpan>>,
}

/// Follows one request.
pub trait RequestSpan: Send + Sync {
    /// An attempt begins; gives its place in the trace. While an attempt is not over, this is the same attempt once
    /// more, because its connection was dead.
    fn attempt(&mut self, upstream: &Upstream, request: &AttemptRequest) -> TraceContext;

    /// The upstream answered with this status.
    fn answered(&mut self, status: StatusCode);

    /// The attempt failed.
    fn failed(&mut self, failure: AttemptFailure);

    /// Nothing of the attempt reaches the client.
    fn over(&mut self, facts: &Facts);

    /// The upstream has said everything; how long the client takes to read it is not the attempt's time.
    fn complete(&mut self);

    /// The request ends, and with it the attempt that serves it.
    fn end(self: Box<Self>, outcome: &Outcome, cx: &FinishCx<'_>);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_and_written_as_it_was() {
        let context: TraceContext = GOOD.parse().unwrap();
        assert_eq!(context.trace, TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
        assert_eq!((context.span, context.is_sampled()), (SpanId(0x00f0_67aa_0ba9_02b7), true));
        assert_eq!(context.header().unwrap(), GOOD);
        assert_eq!(context.sampled_as(false).header().unwrap(), GOOD.replace("-01", "-00"));
        let random: TraceContext = GOOD.replace("-01", "-03").parse().unwrap();
        assert_eq!(random.sampled_as(false).flags(), 2, "that the number is random stays true");
        assert_eq!(context.at(SpanId(1)).header().unwrap(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-01");
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for text in [GOOD.replacen("00", "cc", 1), GOOD.replacen("00", "01", 1) + "-what-comes"] {
            assert_eq!(text.parse::<TraceContext>(), GOOD.parse(), "{text}");
        }
        let flags: TraceContext = GOOD.replace("-01", "-ff").parse().unwrap();
        assert_eq!(flags.flags(), 3, "what is not known is not passed on");
    }

    #[test]
    fn what_is_no_context_is_not_joined() {
        let long = format!("{GOOD}-x");
        let bad = [
            "",
            "00",
            &GOOD.replacen("00", "ff", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace('4', "+"),
            &GOOD.replace('-', "_"),
            &long,
            &format!("{}x", GOOD.replacen("00", "01", 1)),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-701",
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-01",
        ];
        for text in bad {
            assert_eq!(text.parse::<TraceContext>(), Err(NoTraceContext), "{text}");
        }
    }

    #[test]
    fn two_contexts_are_none() {
        let mut headers = HeaderMap::new();
        assert!(TraceContext::of(&headers).is_none());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(TraceContext::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(TraceContext::of(&headers).is_none());
    }
}
