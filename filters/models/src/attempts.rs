//! The story of a request's attempts, told in a header.

use std::fmt::Write;
use std::sync::Arc;

use dgx_gateway_filter::upstream::AttemptFailure;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Name of the header.
const ATTEMPTS: HeaderName = HeaderName::from_static("spass-attempts");

/// What one attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// It gave no response.
    Failed(AttemptFailure),
    /// It answered with a status.
    Status(u16),
}

/// All attempts of a request so far, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempts(Vec<(Arc<str>, Came)>);

impl Attempts {
    /// Adds one.
    pub(crate) fn push(&mut self, label: &Arc<str>, came: Came) {
        self.0.push((Arc::clone(label), came));
    }

    /// How many there were.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Writes the header: a structured list of labels, each with `s` (status) or `e` (failure).
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let mut text = String::new();
        for (label, came) in &self.0 {
            let separator = if text.is_empty() { "" } else { ", " };
            let written = match came {
                Came::Status(status) => write!(text, "{separator}{label};s={status}"),
                Came::Failed(failure) => write!(text, "{separator}{label};e={}", word(*failure)),
            };
            debug_assert!(written.is_ok(), "writing to a string does not fail");
        }
        if let Ok(value) = HeaderValue::from_str(&text)
            && !text.is_empty()
        {
            headers.insert(ATTEMPTS, value);
        }
    }
}

/// The word for a failure, in the header and in metrics.
pub(crate) fn word(failure: AttemptFailure) -> &'static str {
    match failure {
        AttemptFailure::Connect => "connect",
        AttemptFailure::Reset => "reset",
        AttemptFailure::Timeout | AttemptFailure::Total => "timeout",
        AttemptFailure::Tls => "tls",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_story_in_order() {
        let mut attempts = Attempts::default();
        attempts.push(&"local-1".into(), Came::Failed(AttemptFailure::Connect));
        attempts.push(&"cloud-2".into(), Came::Status(200));
        let mut headers = HeaderMap::new();
        attempts.write(&mut headers);
        assert_eq!(headers["spass-attempts"], "local-1;e=connect, cloud-2;s=200");
    }
}
