//! From a behaviour to what is sent, whatever the HTTP version.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::answer::{Asked, StreamEnd, events, is_streamed, whole};
use super::behaviour::{Answer, Behaviour};
use super::gzip;

/// Bytes that a wrong length declares too many.
const LENGTH_ERROR: usize = 10;

/// A request that has been read.
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) version: Version,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
}

/// What to do.
pub(super) enum Action {
    /// Wait for the client to leave.
    Hang,
    /// These bytes, then the end.
    Raw(Bytes),
    /// An answer.
    Reply(Reply),
    /// A reset.
    Reset,
}

/// An answer, right or wrong.
pub(super) struct Reply {
    pub(super) wait: Duration,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Declared length; `None` means chunks.
    pub(super) length: Option<usize>,
    pub(super) pieces: Pieces,
    pub(super) end: End,
}

/// The body, each piece after its pause.
pub(super) type Pieces = Box<dyn Iterator<Item = (Duration, Bytes)> + Send>;

/// What follows the last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection ends although the message does not.
    Close,
    /// The message ends as it should.
    Finish,
    /// Nothing, until the client leaves.
    Hang,
    /// A reset.
    Reset,
}

impl Reply {
    fn sized(content_type: &'static str, body: Bytes) -> Self {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self::of(StatusCode::OK, headers, body)
    }

    fn of(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        let length = Some(body.len());
        let pieces = Box::new(std::iter::once((Duration::ZERO, body)));
        Self { wait: Duration::ZERO, status, headers, length, pieces, end: End::Finish }
    }

    fn events(pieces: Pieces) -> Self {
        let reply = Self::sized("text/event-stream; charset=utf-8", Bytes::new());
        Self { length: None, pieces, ..reply }
    }

    /// The same in pieces of other sizes.
    fn recut(mut self, piece: usize, pause: Duration) -> Self {
        let pieces = self.pieces.flat_map(move |(wait, mut bytes)| {
            let mut wait = wait + pause;
            std::iter::from_fn(move || {
                let next = (!bytes.is_empty()).then(|| bytes.split_to(piece.max(1).min(bytes.len())))?;
                Some((std::mem::replace(&mut wait, pause), next))
            })
        });
        self.pieces = Box::new(pieces);
        self
    }

    /// The same, broken off after so many bytes of the body.
    fn cut(mut self, mut left: usize, end: End) -> Self {
        let pieces = self.pieces.map_while(move |(wait, mut bytes)| {
            let piece = (left > 0).then(|| bytes.split_to(left.min(bytes.len())))?;
            left -= piece.len();
            Some((wait, piece))
        });
        self.pieces = Box::new(pieces);
        self.end = end;
        self
    }
}

/// What the behaviour means for this request.
pub(super) fn action(behaviour: Behaviour, request: &Request<'_>, asked: &Asked) -> Action {
    let correct = || correct(&Answer::default(), request, asked);
    let unstreamed = || whole(&Answer::default(), request.path, asked);
    Action::Reply(match behaviour {
        Behaviour::HangBeforeHeaders => return Action::Hang,
        Behaviour::RawBytes(bytes) => return Action::Raw(bytes),
        Behaviour::ResetAfterRequestBytes(_) | Behaviour::ResetOnAccept | Behaviour::ResetOnHeaders => {
            return Action::Reset;
        }
        Behaviour::Answer(answer) => self::correct(&answer, request, asked),
        Behaviour::Echo => Reply::sized("application/json", echo(request)),
        Behaviour::GzipAnyway => gzipped(unstreamed()),
        Behaviour::HangAfterHeaders => correct().cut(0, End::Hang),
        Behaviour::ResetMidResponse(bytes) => correct().cut(bytes, End::Reset),
        Behaviour::SlowBody { piece, pause } => correct().recut(piece, pause),
        Behaviour::SseRaw(pieces) => Reply::events(Box::new(pieces.into_iter())),
        Behaviour::SseRepeated(repeated) => {
            let (first, between, event) = (repeated.first, repeated.between, repeated.event.clone());
            let wait = move |index| if index == 0 { first } else { between };
            let events = (0..repeated.times).map(move |index| (wait(index), event.clone()));
            Reply::events(Box::new(events.chain(std::iter::once((Duration::ZERO, repeated.tail.clone())))))
        }
        Behaviour::Status { status, headers, body } => Reply::of(status, headers, body),
        Behaviour::TruncatedStream => truncated(request, asked),
        Behaviour::WrongContentLength => {
            let reply = Reply::sized("application/json", unstreamed());
            Reply { length: reply.length.map(|length| length + LENGTH_ERROR), end: End::Close, ..reply }
        }
    })
}

fn correct(answer: &Answer, request: &Request<'_>, asked: &Asked) -> Reply {
    let reply = if let Some(form) = &asked.form {
        if asked.stream == Some(true) {
            Reply::events(Box::new(form.events(&answer.pieces).into_iter()))
        } else {
            let (content_type, body) = form.whole(&answer.pieces.concat());
            Reply::sized(content_type, body)
        }
    } else if is_streamed(request.path, asked) {
        Reply::events(Box::new(events(answer, request.path, asked, StreamEnd::Proper).into_iter()))
    } else {
        let body = whole(answer, request.path, asked);
        let length = Some(body.len());
        let pieces = Box::new(std::iter::once((answer.before_body, body)));
        Reply { length, pieces, ..Reply::sized("application/json", Bytes::new()) }
    };
    Reply { wait: answer.before_head, ..reply }
}

fn truncated(request: &Request<'_>, asked: &Asked) -> Reply {
    let answer = Answer::default();
    if is_streamed(request.path, asked) {
        return Reply::events(Box::new(events(&answer, request.path, asked, StreamEnd::Missing).into_iter()));
    }
    let body = whole(&answer, request.path, asked);
    Reply::sized("application/json", body.slice(..body.len() / 2))
}

fn gzipped(body: Bytes) -> Reply {
    let mut reply = Reply::sized("application/json", gzip::wrap(&body).into());
    reply.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    reply
}

fn echo(request: &Request<'_>) -> Bytes {
    let digest = Sha256::digest(request.body).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut headers = Map::new();
    for name in request.headers.keys() {
        let values = request.headers.get_all(name).iter();
        let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        headers.insert(name.to_string(), Value::String(values.join(", ")));
    }
    json!({"object": "echo", "method": request.method.as_str(), "path": request.path,
        "version": format!("{:?}", request.version), "length": request.body.len(), "sha256": digest,
        "headers": headers, "data": []})
    .to_string()
    .into()
}
