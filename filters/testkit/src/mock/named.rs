//! Behaviours by name, for clients that can only choose a model.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::behaviour::{Answer, Behaviour, Repeated};

/// Bytes of the stream that leave before `reset-mid-stream` resets: some chunks, then half of one.
const MID_STREAM_BYTES: usize = 400;

/// Pause between the pieces of `slow` and `slow-body`.
const SLOW: Duration = Duration::from_millis(200);

/// The names that `/v1/models` lists. `status-NNN` is understood for every number from 200 to 599.
const NAMES: [&str; 19] = [
    "bench",
    "bench-stream",
    "echo",
    "gzip",
    "hang",
    "hang-after-headers",
    "ok",
    "raw",
    "reset",
    "reset-mid-body",
    "reset-mid-stream",
    "slow",
    "slow-body",
    "status-400",
    "status-401",
    "status-429",
    "status-500",
    "truncated",
    "wrong-length",
];

/// The names, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

/// The behaviours behind the names; what the benchmarks need is built once.
#[derive(Clone, Debug)]
pub struct Named {
    bench: Behaviour,
    bench_stream: Behaviour,
}

impl Named {
    /// `bench` answers a fixed JSON; `bench-stream` sends `events` events, the first after `first`, the
    /// others `between` each other.
    #[must_use]
    pub fn new(events: usize, first: Duration, between: Duration) -> Self {
        let chunk = |delta: &str, finish: &str| {
            format!(
                "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1735689600,\
                 \"model\":\"bench-stream\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
            )
        };
        let repeated = Repeated {
            event: chunk(r#"{"content":"token "}"#, "null").into(),
            times: events,
            first,
            between,
            tail: (chunk("{}", "\"stop\"") + "data: [DONE]\n\n").into(),
        };
        let whole = Bytes::from_static(
            br#"{"id":"chatcmpl-bench","object":"chat.completion","created":1735689600,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"Hello from the mock."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":4,"total_tokens":16}}"#,
        );
        Self { bench: Behaviour::json(whole), bench_stream: Behaviour::SseRepeated(Arc::new(repeated)) }
    }

    /// The behaviour of a name, if it has one.
    #[must_use]
    pub fn behaviour(&self, name: &str) -> Option<Behaviour> {
        Some(match name {
            "bench" => self.bench.clone(),
            "bench-stream" => self.bench_stream.clone(),
            "echo" => Behaviour::Echo,
            "gzip" => Behaviour::GzipAnyway,
            "hang" => Behaviour::HangBeforeHeaders,
            "hang-after-headers" => Behaviour::HangAfterHeaders,
            "ok" => Behaviour::default(),
            "raw" => Behaviour::RawBytes(Bytes::from_static(b"this is not HTTP\r\n\r\n")),
            "reset" => Behaviour::ResetOnHeaders,
            "reset-mid-body" => Behaviour::ResetMidResponse(20),
            "reset-mid-stream" => Behaviour::ResetMidResponse(MID_STREAM_BYTES),
            "slow" => Behaviour::Answer(Answer { before_body: SLOW, ..Answer::default().every(SLOW) }),
            "slow-body" => Behaviour::SlowBody { piece: 16, pause: SLOW },
            "truncated" => Behaviour::TruncatedStream,
            "wrong-length" => Behaviour::WrongContentLength,
            _ => Behaviour::status(status(name)?),
        })
    }
}

impl Default for Named {
    /// 64 events, at once.
    fn default() -> Self {
        Self::new(64, Duration::ZERO, Duration::ZERO)
    }
}

fn status(name: &str) -> Option<StatusCode> {
    let code = name.strip_prefix("status-")?.parse().ok().filter(|code| (200..600).contains(code))?;
    StatusCode::from_u16(code).ok()
}
