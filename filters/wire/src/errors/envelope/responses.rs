//! The dialect of `/v1/responses`: that of chat, but for the event inside a stream, which is numbered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dgx_gateway_filter::FilterError;
use dgx_gateway_filter::render::{ErrorRenderer, Rendered};
use http::StatusCode;
use serde::Serialize;

use super::{Members, OpenAi, event};

/// The dialect of one stream of `/v1/responses`; whoever relays the stream says how far its numbers have come.
#[derive(Clone, Debug, Default)]
pub struct Responses {
    next: Arc<AtomicU64>,
}

impl Responses {
    /// The next event has this number.
    pub fn set_next(&self, number: u64) {
        self.next.store(number, Ordering::Relaxed);
    }

    /// The number of the next event.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

impl ErrorRenderer for Responses {
    fn render(&self, error: &FilterError, request_id: &str) -> Rendered {
        OpenAi.render(error, request_id)
    }

    fn stream_event(&self, error: &FilterError, _request_id: &str) -> Option<Bytes> {
        let members = Members { kind: "error", ..Members::new(error, "") };
        Some(event(b"event: error\ndata: ", &Numbered { members, sequence_number: self.next() }))
    }

    fn status(&self, error: &FilterError) -> StatusCode {
        OpenAi.status(error)
    }
}

#[derive(Serialize)]
struct Numbered<'a> {
    #[serde(flatten)]
    members: Members<'a>,
    sequence_number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use dgx_gateway_filter::ErrorCode;

    #[test]
    fn an_event_takes_the_next_number_and_an_answer_is_that_of_chat() {
        let dialect = Responses::default();
        let error = FilterError::upstream(ErrorCode::UpstreamError, "The upstream failed.");
        dialect.set_next(7);
        assert_eq!(
            dialect.stream_event(&error, "id").unwrap(),
            "event: error\ndata: {\"type\":\"error\",\"code\":\"upstream_error\",\"message\":\"The upstream failed.\",\"param\":null,\"sequence_number\":7}\n\n"
        );
        let (own, chat) = (dialect.render(&error, "id"), OpenAi.render(&error, "id"));
        assert_eq!((own.status, own.body), (chat.status, chat.body));
        assert_eq!(dialect.status(&error), chat.status);
    }
}
