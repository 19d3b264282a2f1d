//! Content rules that a well-formed body breaks, and where.

use std::fmt;
use std::mem::discriminant;

/// Upper bound of recorded findings: the first of each problem is kept, and there are no more problems than this.
pub const MAX_FINDINGS: usize = 24;

/// What is wrong with, or notable about, a part of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// One document has more than [`MAX_DOCUMENT_BYTES`](super::MAX_DOCUMENT_BYTES).
    DocumentTooLarge,
    /// An element of `documents` is neither a string nor an object with a text.
    DocumentType,
    /// There is no document, or there are more than [`MAX_DOCUMENTS`](super::MAX_DOCUMENTS).
    DocumentsCount,
    /// The input is an empty array or an empty string, or holds one.
    EmbeddingInputEmpty,
    /// One input text has more than [`MAX_INPUT_BYTES`](super::MAX_INPUT_BYTES).
    EmbeddingInputTooLarge,
    /// The input, or an element of it, is of a kind that cannot be embedded.
    EmbeddingInputType,
    /// There are more than [`MAX_INPUTS`](super::MAX_INPUTS) inputs.
    EmbeddingTooManyInputs,
    /// One input has more than [`MAX_INPUT_TOKENS`](super::MAX_INPUT_TOKENS) integers.
    EmbeddingTooManyTokens {
        /// How many it has.
        count: u64,
    },
    /// The payload is not padded base64.
    ImageBase64,
    /// No data URI of an allowed image type, or the bytes are not of the declared type.
    ImageDecode,
    /// There is an image; a problem only for a model that takes none.
    ImagePart,
    /// The image has no URL, or a null one.
    ImageUrlMissing,
    /// The URL of the image is not a string.
    ImageUrlNotString,
    /// The image stands elsewhere (`http`, `https`); a problem unless the model accepts that.
    ImageUrlRemote,
    /// An element of `messages` is not an object.
    MessageNotObject,
    /// A message has no role, or a null one.
    RoleMissing,
    /// The role of a message is not a string.
    RoleNotString,
    /// The arguments of a tool call are not a string that holds JSON.
    ToolArguments,
}

impl Problem {
    /// Whether some models accept it: images as such, remote images, and the caps that a model may raise.
    #[must_use]
    pub fn depends_on_model(self) -> bool {
        matches!(
            self,
            Self::ImagePart
                | Self::ImageUrlRemote
                | Self::EmbeddingInputTooLarge
                | Self::EmbeddingTooManyInputs
                | Self::EmbeddingTooManyTokens { .. }
        )
    }
}

/// Place of a finding. Its text is the path that clients read, with indices from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// `messages[i].tool_calls[k].function.arguments`
    Arguments {
        /// Index of the message.
        message: usize,
        /// Index of the call.
        call: usize,
    },
    /// `….source.data` of a part
    ImageData(PartPath),
    /// `….image_url.url` of a part
    ImageUrl(PartPath),
    /// `….image_url` of a part
    ImageUrlText(PartPath),
    /// `documents[i]`
    Document(usize),
    /// `documents`
    Documents,
    /// `input`
    Input,
    /// `input[i]`
    InputItem(usize),
    /// `messages[i]`
    Message(usize),
    /// `….type` of a part
    PartType(PartPath),
    /// `messages[i].role`
    Role(usize),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments { message, call } => write!(f, "messages[{message}].tool_calls[{call}].function.arguments"),
            Self::ImageData(part) => write!(f, "{part}.source.data"),
            Self::ImageUrl(part) => write!(f, "{part}.image_url.url"),
            Self::ImageUrlText(part) => write!(f, "{part}.image_url"),
            Self::Document(document) => write!(f, "documents[{document}]"),
            Self::Documents => f.write_str("documents"),
            Self::Input => f.write_str("input"),
            Self::InputItem(item) => write!(f, "input[{item}]"),
            Self::Message(message) => write!(f, "messages[{message}]"),
            Self::PartType(part) => write!(f, "{part}.type"),
            Self::Role(message) => write!(f, "messages[{message}].role"),
        }
    }
}

/// Place of a part of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartPath {
    /// `input[i].content[j]`
    ItemContent {
        /// Index of the item.
        item: usize,
        /// Index of the part.
        part: usize,
    },
    /// `input[i].output[j]`
    ItemOutput {
        /// Index of the item.
        item: usize,
        /// Index of the part.
        part: usize,
    },
    /// `messages[i].content[j]`
    Message {
        /// Index of the message.
        message: usize,
        /// Index of the part.
        part: usize,
    },
    /// `messages[i].content[j].content[k]`
    Result {
        /// Index of the message.
        message: usize,
        /// Index of the part that holds the result of a tool.
        part: usize,
        /// Index within the result.
        inner: usize,
    },
}

impl fmt::Display for PartPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ItemContent { item, part } => write!(f, "input[{item}].content[{part}]"),
            Self::ItemOutput { item, part } => write!(f, "input[{item}].output[{part}]"),
            Self::Message { message, part } => write!(f, "messages[{message}].content[{part}]"),
            Self::Result { message, part, inner } => write!(f, "messages[{message}].content[{part}].content[{inner}]"),
        }
    }
}

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub problem: Problem,
    /// Offset in the body of the value concerned; of the enclosing one if a member is missing, and of the whole
    /// part for [`Problem::ImagePart`].
    pub offset: usize,
    /// Where that is.
    pub location: Location,
}

impl Finding {
    /// The path of the value, as in `messages[0].content[1].image_url.url`.
    #[must_use]
    pub fn param(&self) -> String {
        self.location.to_string()
    }

    /// Adds to a list in document order, unless the list holds the same problem.
    pub(super) fn add_to(self, list: &mut Vec<Self>) {
        let is_known = list.iter().any(|known| discriminant(&known.problem) == discriminant(&self.problem));
        if !is_known && list.len() < MAX_FINDINGS {
            list.insert(list.partition_point(|known| known.offset <= self.offset), self);
        }
    }
}
