//! What differs between the dialects of text: names of members, forwarded headers, the form of streams.

use bytes::Bytes;
use dgx_gateway_filter::FilterError;
use dgx_gateway_filter::body::Patch;
use dgx_gateway_wire::answer::StreamKind;
use dgx_gateway_wire::request::{Scan, patch};
use http::{HeaderMap, HeaderName};

use crate::backend::Protocol;

/// Headers of a client that reach backends in the dialect of messages.
const OF_MESSAGES: [HeaderName; 2] =
    [HeaderName::from_static("anthropic-beta"), HeaderName::from_static("anthropic-version")];

/// What the stream of a dialect is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamForm {
    /// Chunks with choices, then a marker.
    Chunks,
    /// Named events, of which a certain one is the last.
    Events,
}

impl Protocol {
    /// The form of its streams.
    pub(crate) fn stream_form(self) -> StreamForm {
        match self {
            Self::Messages | Self::Responses => StreamForm::Events,
            _ => StreamForm::Chunks,
        }
    }

    /// In which form its streams tell what they cost; the others have no room for it.
    pub(crate) fn cost_event(self) -> Option<StreamKind> {
        match self {
            Self::Chat => Some(StreamKind::Chat),
            Self::Completions => Some(StreamKind::Completions),
            _ => None,
        }
    }

    /// The member that holds the prompt.
    pub(crate) fn prompt_member(self) -> &'static str {
        match self {
            Self::Responses => "input",
            _ => "messages",
        }
    }

    /// The member that limits the answer.
    pub(crate) fn limit_member(self) -> &'static str {
        match self {
            Self::Responses => "max_output_tokens",
            _ => "max_tokens",
        }
    }
}

/// Copies what the backends of a dialect need of a client's head.
pub(crate) fn forward(protocol: Protocol, from: &HeaderMap, to: &mut HeaderMap) {
    if protocol == Protocol::Messages {
        for name in OF_MESSAGES {
            for value in from.get_all(&name) {
                to.append(name.clone(), value.clone());
            }
        }
    }
}

/// Tells the backend to keep nothing: what it kept would not be kept apart by tenant.
pub(crate) fn keep_nothing(scan: &Scan) -> Patch {
    match &scan.store {
        Some(store) => patch::replace(store, Bytes::from_static(b"false")),
        None => patch::append_member(scan, "\"store\":false"),
    }
}

/// An error about a member of chat, about that of the dialect.
pub(crate) fn renamed(protocol: Protocol, error: FilterError) -> FilterError {
    let name = match error.param.as_deref() {
        Some("max_tokens") => protocol.limit_member(),
        Some("messages") => protocol.prompt_member(),
        _ => return error,
    };
    error.param(name)
}
