//! An answer that is no JSON but sound: it passes as it comes.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

/// Media types that pass besides `audio/*`: what servers say that do not know better.
const OTHERS: [&str; 2] = ["application/octet-stream", "text/event-stream"];

/// The answer of one attempt.
#[derive(Debug)]
pub(crate) struct Sound {
    /// Its media type.
    pub(crate) content_type: HeaderValue,
    /// A byte of it has left.
    pub(crate) left: bool,
}

impl Sound {
    /// `None` when the head announces something else: then the body tells what went wrong.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(header::CONTENT_TYPE)?;
        let text = content_type.to_str().ok()?.to_ascii_lowercase();
        let essence = text.split(';').next().unwrap_or_default().trim();
        let is_sound = essence.starts_with("audio/") || OTHERS.contains(&essence);
        is_sound.then(|| Self { content_type: content_type.clone(), left: false })
    }

    /// Notes what leaves.
    pub(crate) fn pass(&mut self, part: Option<&Bytes>) {
        self.left |= part.is_some_and(|part| !part.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_passes() {
        for (content_type, expected) in [
            ("audio/mpeg", true),
            ("Audio/WAV; rate=24000", true),
            ("application/octet-stream", true),
            ("text/event-stream", true),
            ("application/json", false),
            ("text/html", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            assert_eq!(Sound::of(&headers).is_some(), expected, "{content_type}");
        }
        assert!(Sound::of(&HeaderMap::new()).is_none());
    }
}
