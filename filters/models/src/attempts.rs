//! The story of a request's attempts, told in a header.

use std::sync::Arc;

use dgx_gateway_filter::upstream::AttemptFailure;
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{KeyRef, ListSerializer, TokenRef};

/// Name of the header.
const ATTEMPTS: HeaderName = HeaderName::from_static("spass-attempts");

/// Parameter of an attempt that got a response.
const STATUS: &KeyRef = KeyRef::constant("s");
/// Parameter of an attempt without one.
const FAILURE: &KeyRef = KeyRef::constant("e");

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

    /// Writes the header: a structured list (RFC 8941) of labels, each with `s` (status) or `e` (failure).
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let mut list = ListSerializer::new();
        for (label, came) in &self.0 {
            // labels are tokens by the rule of the configuration
            let Ok(label) = TokenRef::from_str(label) else { continue };
            let item = list.bare_item(label);
            match came {
                Came::Status(status) => drop(item.parameter(STATUS, *status)),
                Came::Failed(failure) => drop(item.parameter(FAILURE, TokenRef::constant(word(*failure)))),
            }
        }
        if let Some(value) = list.finish().and_then(|text| HeaderValue::from_str(&text).ok()) {
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

    use sfv::{BareItem, List, ListEntry, Parser};

    fn written(attempts: &[(&str, Came)]) -> Option<String> {
        let mut story = Attempts::default();
        attempts.iter().for_each(|(label, came)| story.push(&(*label).into(), *came));
        let mut headers = HeaderMap::new();
        story.write(&mut headers);
        headers.get("spass-attempts").map(|value| value.to_str().unwrap().to_owned())
    }

    /// What a reader of structured fields gets: label, name and value of the one parameter.
    fn read(text: &str) -> Vec<(String, String, String)> {
        let list: List = Parser::new(text).parse().unwrap();
        let told = |entry: &ListEntry| {
            let ListEntry::Item(item) = entry else { panic!("{text}") };
            let BareItem::Token(label) = &item.bare_item else { panic!("{text}") };
            assert_eq!(item.params.len(), 1, "{text}");
            let (name, value) = item.params.first().unwrap();
            let value = match value {
                BareItem::Integer(status) => status.to_string(),
                BareItem::Token(word) => word.to_string(),
                other => panic!("{other:?}"),
            };
            (label.to_string(), name.to_string(), value)
        };
        list.iter().map(told).collect()
    }

    #[test]
    fn tells_the_story_in_order() {
        let text = written(&[("local-1", Came::Failed(AttemptFailure::Connect)), ("cloud-2", Came::Status(200))]);
        assert_eq!(text.as_deref(), Some("local-1;e=connect, cloud-2;s=200"));
        assert_eq!(written(&[]), None);
    }

    #[test]
    fn every_kind_of_attempt_is_read_back() {
        use AttemptFailure::{Connect, Reset, Timeout, Tls, Total};
        for (came, name, value) in [
            (Came::Failed(Connect), "e", "connect"),
            (Came::Failed(Reset), "e", "reset"),
            (Came::Failed(Timeout), "e", "timeout"),
            (Came::Failed(Tls), "e", "tls"),
            (Came::Failed(Total), "e", "timeout"),
            (Came::Status(429), "s", "429"),
        ] {
            let told = [("a", name, value), ("b-2", "s", "200")].map(|(a, b, c)| (a.into(), b.into(), c.into()));
            assert_eq!(read(&written(&[("a", came), ("b-2", Came::Status(200))]).unwrap()), told);
        }
    }
}
