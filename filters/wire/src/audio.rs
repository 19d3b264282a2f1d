//! What the forms of the audio endpoints hold, and how long a sound lasts.

mod length;

pub use self::length::SoundLength;
use crate::multipart::Wanted;

/// The part that holds the recording.
pub const FILE: &str = "file";
/// The field that names the model.
pub const MODEL: &str = "model";
/// The field that chooses the form of the answer.
pub const RESPONSE_FORMAT: &str = "response_format";
/// The field that asks for events instead of one answer.
pub const STREAM: &str = "stream";
/// The field that says how freely to guess.
pub const TEMPERATURE: &str = "temperature";
/// A field that must not be there.
pub const USER_ID: &str = "user_id";

/// What is looked for in a form. Slugs have up to 128 characters, numbers and words far fewer than 64.
pub const WANTED: Wanted = Wanted {
    file: FILE,
    fields: &[(MODEL, 256), (RESPONSE_FORMAT, 64), (STREAM, 64), (TEMPERATURE, 64), (USER_ID, 256)],
};

/// Extensions of recordings that are taken.
pub const EXTENSIONS: [&str; 10] = ["flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "wav", "webm"];

/// Forms of an answer; the first is the default.
pub const RESPONSE_FORMATS: [&str; 5] = ["json", "text", "srt", "vtt", "verbose_json"];

/// How a recording goes to its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SttMode {
    /// In windows.
    Chunked,
    /// In one piece.
    #[default]
    Continuous,
}

impl SttMode {
    /// The mode of a word.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        [Self::Chunked, Self::Continuous].into_iter().find(|mode| mode.as_str() == word)
    }

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunked => "chunked",
            Self::Continuous => "continuous",
        }
    }
}
