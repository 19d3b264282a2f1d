//! Why a body is refused as JSON.

/// The body is not the JSON object it has to be. The client is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct ScanError {
    /// Offset in the body of the byte that cannot stand there. For a duplicate member it is the quote that opens
    /// the repeated name, for ill-formed UTF-8 the first byte of the sequence, for a number out of range its first byte.
    pub offset: usize,
    /// What is wrong there.
    pub kind: ScanErrorKind,
}

/// What is wrong with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanErrorKind {
    /// A control character inside a string has to be escaped.
    #[error("unescaped control character")]
    ControlCharacter,
    /// A name of the top level appears twice, compared after unescaping.
    #[error("duplicate member")]
    DuplicateMember,
    /// An unknown escape, a bad hexadecimal digit or an unpaired surrogate.
    #[error("invalid escape")]
    Escape,
    /// The body is JSON of another kind.
    #[error("not an object")]
    NotAnObject,
    /// A number that no 64-bit floating point value can hold.
    #[error("number out of range")]
    NumberOutOfRange,
    /// Any other byte that the grammar does not allow.
    #[error("invalid syntax")]
    Syntax,
    /// More than [`MAX_DEPTH`](super::MAX_DEPTH) nested containers.
    #[error("nested too deeply")]
    TooDeep,
    /// The body ends before the object does.
    #[error("unexpected end")]
    Truncated,
    /// A string holds bytes that are not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
}
