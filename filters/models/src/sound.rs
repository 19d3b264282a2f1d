//! An answer that is no JSON but sound: it passes as it comes, and how long it lasts is counted meanwhile.

use bytes::Bytes;
use dgx_gateway_filter::facts::{Meter, Report};
use dgx_gateway_wire::audio::SoundLength;
use http::{HeaderMap, HeaderValue, header};
use rust_decimal::Decimal;

/// Media types that pass besides `audio/*`: what servers say that do not know better.
const OTHERS: [&str; 2] = ["application/octet-stream", EVENTS];
/// Sound in base64, inside of events.
const EVENTS: &str = "text/event-stream";

/// The answer of one attempt.
#[derive(Debug)]
pub(crate) struct Sound {
    /// Its media type.
    pub(crate) content_type: HeaderValue,
    /// A byte of it has left.
    pub(crate) left: bool,
    length: SoundLength,
    /// It comes in events: three bytes of four are sound, and they do not tell how long it lasts.
    in_events: bool,
}

impl Sound {
    /// `None` when the head announces something else: then the body tells what went wrong.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(header::CONTENT_TYPE)?;
        let text = content_type.to_str().ok()?.to_ascii_lowercase();
        let essence = text.split(';').next().unwrap_or_default().trim();
        let is_sound = essence.starts_with("audio/") || OTHERS.contains(&essence);
        is_sound.then(|| Self {
            content_type: content_type.clone(),
            left: false,
            length: SoundLength::of(&text),
            in_events: essence == EVENTS,
        })
    }

    /// Notes what leaves, and tells the meter how long it lasts so far.
    pub(crate) fn pass(&mut self, part: Option<&Bytes>, meter: Option<&Meter>) {
        let Some(part) = part.filter(|part| !part.is_empty()) else { return };
        self.left = true;
        let Some(meter) = meter else { return };
        meter.begin();
        let bytes = part.len() as u64;
        if self.in_events {
            return meter.add_sound(bytes - bytes / 4);
        }
        meter.add_sound(bytes);
        self.length.add(part);
        if let Some(so_far) = self.length.so_far() {
            let millis = i64::try_from(so_far.as_millis()).unwrap_or(i64::MAX);
            meter.report(Report { seconds: Some(Decimal::new(millis, 3)), ..Report::default() });
        }
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

    fn metered(content_type: &str, parts: &[&'static [u8]]) -> (u64, Option<String>) {
        let headers = [(header::CONTENT_TYPE, content_type.parse().unwrap())].into_iter().collect();
        let (mut sound, meter) = (Sound::of(&headers).unwrap(), Meter::default());
        assert!(!meter.begun() && !sound.left);
        for part in parts {
            sound.pass(Some(&Bytes::from_static(part)), Some(&meter));
        }
        sound.pass(Some(&Bytes::new()), Some(&meter));
        sound.pass(None, Some(&meter));
        assert_eq!((sound.left, meter.begun()), (!parts.is_empty(), !parts.is_empty()));
        (meter.sound_bytes(), meter.reported().seconds.map(|seconds| seconds.to_string()))
    }

    #[test]
    fn what_has_left_is_counted_and_what_has_not_is_not() {
        assert_eq!(metered("audio/pcm", &[]), (0, None));
        assert_eq!(metered("audio/pcm", &[&[1; 24_000], &[1; 12_000]]), (36_000, Some("0.750".to_owned())));
        assert_eq!(metered("audio/amr", &[b"#!AMR", b"123"]), (8, None));
        assert_eq!(metered("text/event-stream", &[b"data: {}"]), (6, None));
    }
}
