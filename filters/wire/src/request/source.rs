//! The `source` of a block: media type and payload in members of their own, in any order.

use super::finding::Problem;
use super::image::{ImageType, Payload};
use super::json::Kind;

/// What a source says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceKind {
    Base64,
    Other,
    Text,
    Url,
}

/// What all occurrences of a member say together: which of them a server reads is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Said<T> {
    Differently,
    #[default]
    Nothing,
    Once(T),
}

impl<T: Copy + PartialEq> Said<T> {
    fn add(&mut self, value: T) {
        *self = match *self {
            Self::Nothing => Self::Once(value),
            Self::Once(known) if known == value => Self::Once(value),
            _ => Self::Differently,
        };
    }
}

/// Whether a member is there, as a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Found {
    #[default]
    Missing,
    NotString,
    String,
}

impl Found {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Null => Self::Missing,
            Kind::String => Self::String,
            _ => Self::NotString,
        }
    }

    /// What is wrong with it as the URL of an image.
    fn problem(self) -> Option<Problem> {
        match self {
            Self::Missing => Some(Problem::ImageUrlMissing),
            Self::NotString => Some(Problem::ImageUrlNotString),
            Self::String => None,
        }
    }
}

/// One source. It is judged at its end, when its media type is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Source {
    kind: Said<SourceKind>,
    is_url: bool,
    /// The media type; an unknown one is `None`.
    declared: Said<Option<ImageType>>,
    /// The type that the payload shows.
    signed: Said<Option<ImageType>>,
    data: Found,
    url: Found,
    payload: Payload,
    /// A payload was no padded base64.
    is_broken: bool,
    /// Bytes of `data` after unescaping.
    bytes: u64,
}

impl Source {
    pub(super) fn kind(&mut self, name: Option<&[u8]>) {
        let kind = match name {
            Some(b"base64") => SourceKind::Base64,
            Some(b"text") => SourceKind::Text,
            Some(b"url") => SourceKind::Url,
            _ => SourceKind::Other,
        };
        self.is_url |= kind == SourceKind::Url;
        self.kind.add(kind);
    }

    pub(super) fn media_type(&mut self, name: Option<&[u8]>) {
        self.declared.add(name.and_then(|name| ImageType::declared(&name.to_ascii_lowercase())));
    }

    pub(super) fn url(&mut self, kind: Kind) {
        self.url = Found::of(kind);
    }

    pub(super) fn begin_data(&mut self, kind: Kind) {
        self.data = Found::of(kind);
        self.payload = Payload::default();
    }

    pub(super) fn data_text(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.is_broken = self.is_broken || !self.payload.push(piece);
    }

    pub(super) fn end_data(&mut self) {
        self.is_broken |= !self.payload.is_whole();
        self.signed.add(self.payload.image_type());
    }

    /// Bytes of text, if this is a text.
    pub(super) fn text_bytes(&self) -> u64 {
        if self.kind == Said::Once(SourceKind::Text) { self.bytes } else { 0 }
    }

    /// What is wrong with it as an image, by the rows of the vision table.
    pub(super) fn problem(&self) -> Option<Problem> {
        if self.is_url {
            return Some(self.url.problem().unwrap_or(Problem::ImageUrlRemote));
        }
        if let Some(problem) = self.data.problem() {
            return Some(problem);
        }
        match (self.kind, self.declared) {
            (Said::Once(SourceKind::Base64), Said::Once(Some(_))) if self.is_broken => Some(Problem::ImageBase64),
            (Said::Once(SourceKind::Base64), Said::Once(Some(_))) if self.signed == self.declared => None,
            _ => Some(Problem::ImageDecode),
        }
    }
}
