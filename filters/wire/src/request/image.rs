//! The URL of an image: scheme, media type, base64 and signature, checked as its characters arrive.

use super::finding::Problem;
use super::run;

/// Base64 characters kept to see the signature: 12 decoded bytes, the length of the longest one (WebP).
const HEAD: usize = 16;
/// Room for the longest scheme, media type or parameter that is compared.
const WORD: usize = 16;

/// The image types that models take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageType {
    Gif,
    Jpeg,
    Png,
    Webp,
}

impl ImageType {
    /// The allowed types, by media type in lower case.
    pub(super) fn declared(media_type: &[u8]) -> Option<Self> {
        match media_type {
            b"image/gif" => Some(Self::Gif),
            b"image/jpeg" => Some(Self::Jpeg),
            b"image/png" => Some(Self::Png),
            b"image/webp" => Some(Self::Webp),
            _ => None,
        }
    }

    fn signed(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            _ => None,
        }
    }
}

/// A short text that arrives byte by byte; what does not fit is dropped and matches nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    kept: [u8; WORD],
    len: usize,
}

impl Word {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.kept.get_mut(self.len) {
            *slot = byte;
        }
        self.len = self.len.saturating_add(1);
    }

    fn bytes(&self) -> &[u8] {
        self.kept.get(..self.len).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before the first `:`.
    Scheme(Word),
    /// Before the first `;` of a data URI.
    MediaType(Word),
    /// Behind a `;`, before the comma.
    Parameter {
        declared: ImageType,
        word: Word,
    },
    Payload {
        declared: ImageType,
        payload: Payload,
    },
    Decided(Problem),
}

/// Base64 that arrives in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Payload {
    head: [u8; HEAD],
    /// Characters of the alphabet so far.
    len: usize,
    padding: usize,
}

/// The check of one URL.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageUrl {
    state: State,
}

impl ImageUrl {
    pub(super) fn new() -> Self {
        Self { state: State::Scheme(Word::default()) }
    }

    /// Takes unescaped content; gives the problem once nothing that follows can change it.
    pub(super) fn push(&mut self, piece: &[u8]) -> Option<Problem> {
        let mut rest = piece.iter();
        loop {
            if let State::Payload { payload, .. } = &mut self.state {
                if !payload.push(rest.as_slice()) {
                    self.state = State::Decided(Problem::ImageBase64);
                }
                break;
            }
            let Some(&byte) = rest.next() else { break };
            self.state = self.state.step(byte);
        }
        match self.state {
            State::Decided(problem) => Some(problem),
            _ => None,
        }
    }

    /// The verdict on the whole URL.
    pub(super) fn finish(&self) -> Option<Problem> {
        match &self.state {
            State::Scheme(_) | State::MediaType(_) | State::Parameter { .. } => Some(Problem::ImageDecode),
            State::Decided(problem) => Some(*problem),
            State::Payload { payload, .. } if !payload.is_whole() => Some(Problem::ImageBase64),
            State::Payload { payload, declared } => {
                (payload.image_type() != Some(*declared)).then_some(Problem::ImageDecode)
            }
        }
    }
}

impl State {
    fn step(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Scheme(word), b':') => match word.bytes() {
                b"data" => Self::MediaType(Word::default()),
                b"http" | b"https" => Self::Decided(Problem::ImageUrlRemote),
                _ => Self::Decided(Problem::ImageDecode),
            },
            (Self::Scheme(mut word), _) => {
                word.push(byte.to_ascii_lowercase());
                Self::Scheme(word)
            }
            (Self::MediaType(word), b';') => match ImageType::declared(word.bytes()) {
                Some(declared) => Self::Parameter { declared, word: Word::default() },
                None => Self::Decided(Problem::ImageDecode),
            },
            (Self::MediaType(_), b',') => Self::Decided(Problem::ImageDecode),
            (Self::MediaType(mut word), _) => {
                word.push(byte.to_ascii_lowercase());
                Self::MediaType(word)
            }
            (Self::Parameter { declared, word }, b',') if word.bytes() == b"base64" => {
                Self::Payload { declared, payload: Payload::default() }
            }
            (Self::Parameter { .. }, b',') => Self::Decided(Problem::ImageDecode),
            (Self::Parameter { declared, .. }, b';') => Self::Parameter { declared, word: Word::default() },
            (Self::Parameter { declared, mut word }, _) => {
                word.push(byte);
                Self::Parameter { declared, word }
            }
            (Self::Payload { .. } | Self::Decided(_), _) => self,
        }
    }
}

impl Payload {
    /// Takes characters; false if one of them cannot stand there.
    pub(super) fn push(&mut self, piece: &[u8]) -> bool {
        let data = if self.padding == 0 { run::base64(piece) } else { 0 };
        for (slot, &byte) in self.head.iter_mut().skip(self.len).zip(piece.iter().take(data)) {
            *slot = byte;
        }
        self.len += data;
        let padding = piece.get(data..).unwrap_or_default();
        self.padding = self.padding.saturating_add(padding.len());
        self.padding <= 2 && padding.iter().all(|&byte| byte == b'=')
    }

    /// Whether it may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.len > 0 && (self.len + self.padding).is_multiple_of(4)
    }

    /// The type by its first bytes.
    pub(super) fn image_type(&self) -> Option<ImageType> {
        let mut decoded = [0; HEAD / 4 * 3];
        let len = self.len.min(HEAD);
        for (from, to) in self.head.chunks_exact(4).zip(decoded.chunks_exact_mut(3)) {
            let group = from.iter().fold(0, |group, &byte| group << 6 | sextet(byte));
            for (slot, byte) in to.iter_mut().zip(group.to_be_bytes().into_iter().skip(1)) {
                *slot = byte;
            }
        }
        ImageType::signed(decoded.get(..len * 6 / 8).unwrap_or_default())
    }
}

/// Value of a character of the alphabet; zero for what is none.
fn sextet(byte: u8) -> u32 {
    u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => 0,
    })
}
