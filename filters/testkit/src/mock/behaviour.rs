//! What the mock can do with a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// What happens to one request.
///
/// Over HTTP/2 a reset is that of the stream (`INTERNAL_ERROR`); [`Self::ResetOnAccept`] always ends the
/// connection, and [`Self::RawBytes`] becomes a reset.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// A correct answer.
    Answer(Answer),
    /// 200 with JSON about the request: `method`, `path`, `version`, `length`, `sha256`, and all `headers`.
    Echo,
    /// A correct answer, compressed although nobody asked.
    GzipAnyway,
    /// The head of a correct answer, then silence.
    HangAfterHeaders,
    /// The request is read, then silence.
    HangBeforeHeaders,
    /// These bytes on the wire, then the end of the connection.
    RawBytes(Bytes),
    /// A reset after this many bytes of the request body (or at its end), without an answer.
    ResetAfterRequestBytes(usize),
    /// A correct answer, with a reset after this many bytes of its body.
    ResetMidResponse(usize),
    /// A reset as soon as the connection is accepted. It counts as taken from the queue only when it stands
    /// at its front at that moment.
    ResetOnAccept,
    /// A reset as soon as the request head is read.
    ResetOnHeaders,
    /// A correct answer, in pieces of this many bytes, with a pause before each.
    SlowBody {
        /// Bytes of a piece, at least 1.
        piece: usize,
        /// Before each piece.
        pause: Duration,
    },
    /// 200 `text/event-stream` with these bytes, each after its pause.
    SseRaw(Vec<(Duration, Bytes)>),
    /// 200 `text/event-stream` with one event many times. Nothing is built per request.
    SseRepeated(Arc<Repeated>),
    /// This status, these headers, this body with a correct length.
    Status {
        /// Status.
        status: StatusCode,
        /// Headers; the length is added.
        headers: HeaderMap,
        /// The whole body.
        body: Bytes,
    },
    /// A stream that ends in an orderly way without a finish and without `[DONE]`; whole answers end halfway.
    TruncatedStream,
    /// A correct answer that declares ten bytes more than it sends, then the end of the connection.
    WrongContentLength,
}

impl Behaviour {
    /// A status with an error body in the OpenAI form.
    #[must_use]
    pub fn status(status: StatusCode) -> Self {
        let message = status.canonical_reason().unwrap_or("Failed");
        let body = format!(
            r#"{{"error":{{"message":"{message}","type":"mock_error","param":null,"code":{}}}}}"#,
            status.as_u16()
        );
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        Self::Status { status, headers, body: body.into() }
    }

    /// A JSON body with status 200.
    #[must_use]
    pub fn json(body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        Self::Status { status: StatusCode::OK, headers, body: body.into() }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::Answer(Answer::default())
    }
}

/// A correct answer, in the form that path and `stream` of the request ask for.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text: one chunk each when streamed, joined otherwise.
    pub pieces: Vec<String>,
    /// Before the head.
    pub before_head: Duration,
    /// Between the head and the first byte of the body.
    pub before_body: Duration,
    /// Before each chunk but the first.
    pub between: Duration,
    /// Tokens read and written. `None`: no usage is reported.
    pub usage: Option<(u64, u64)>,
    /// Numbers per embedding.
    pub dimensions: usize,
}

impl Default for Answer {
    /// `Hello from the mock.` in four pieces, at once, for 12 and 4 tokens.
    fn default() -> Self {
        Self {
            pieces: ["Hello ", "from ", "the ", "mock."].map(str::to_owned).into(),
            before_head: Duration::ZERO,
            before_body: Duration::ZERO,
            between: Duration::ZERO,
            usage: Some((12, 4)),
            dimensions: 8,
        }
    }
}

impl Answer {
    /// A text of one piece.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::pieces([text])
    }

    /// A text in pieces.
    #[must_use]
    pub fn pieces<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Self {
        Self { pieces: pieces.into_iter().map(str::to_owned).collect(), ..Self::default() }
    }

    /// With a pause before each chunk but the first.
    #[must_use]
    pub fn every(mut self, between: Duration) -> Self {
        self.between = between;
        self
    }
}

/// A stream of one event, many times.
#[derive(Clone, Debug)]
pub struct Repeated {
    /// The event, blank line included.
    pub event: Bytes,
    /// How often.
    pub times: usize,
    /// Before the first.
    pub first: Duration,
    /// Before each further one.
    pub between: Duration,
    /// What follows them.
    pub tail: Bytes,
}
