//! What a value is to the gateway, by where it stands.

use super::scan::Protocol;

/// The role of a value in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Arguments,
    Body,
    Call,
    Calls,
    Content,
    Dimensions,
    Document,
    DocumentText,
    Documents,
    EncodingFormat,
    Function,
    ImageUrl,
    IncludeUsage,
    Input,
    InputItem,
    MaxCompletionTokens,
    MaxTokens,
    Message,
    Messages,
    Model,
    N,
    /// Nothing that is looked at, and nothing below it either.
    Other,
    Part,
    PartType,
    Prompt,
    PromptItem,
    Quality,
    Query,
    ResponseFormat,
    Role,
    /// The schema of a tool; counts with all its bytes.
    Schema,
    Size,
    Stream,
    StreamOptions,
    /// A string that counts as text of the prompt.
    Text,
    /// A number that stands for one token.
    Token,
    Tool,
    Tools,
    Url,
    UserId,
    Voice,
}

impl Place {
    /// The place of the member `name` of an object that stands here.
    pub(super) fn member(self, name: &[u8]) -> Self {
        match (self, name) {
            (Self::Body, _) => Self::top(name),
            (Self::StreamOptions, b"include_usage") => Self::IncludeUsage,
            (Self::Document, b"text") => Self::DocumentText,
            (Self::Message, b"role") => Self::Role,
            (Self::Message, b"content") => Self::Content,
            (Self::Message, b"tool_calls") => Self::Calls,
            (Self::Part, b"type") => Self::PartType,
            (Self::Part, b"image_url") => Self::ImageUrl,
            (Self::ImageUrl, b"url") => Self::Url,
            (Self::Call, b"function") => Self::Function,
            (Self::Function, b"arguments") => Self::Arguments,
            (Self::Part, b"text") | (Self::Function | Self::Tool, b"name") | (Self::Tool, b"description") => Self::Text,
            (Self::Tool, b"function") => Self::Tool,
            (Self::Tool, b"parameters") => Self::Schema,
            _ => Self::Other,
        }
    }

    fn top(name: &[u8]) -> Self {
        match name {
            b"dimensions" => Self::Dimensions,
            b"documents" => Self::Documents,
            b"encoding_format" => Self::EncodingFormat,
            b"input" => Self::Input,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_tokens" => Self::MaxTokens,
            b"messages" => Self::Messages,
            b"model" => Self::Model,
            b"n" => Self::N,
            b"prompt" => Self::Prompt,
            b"quality" => Self::Quality,
            b"query" => Self::Query,
            b"response_format" => Self::ResponseFormat,
            b"size" => Self::Size,
            b"stream" => Self::Stream,
            b"stream_options" => Self::StreamOptions,
            b"tools" => Self::Tools,
            b"user_id" => Self::UserId,
            b"voice" => Self::Voice,
            _ => Self::Other,
        }
    }

    /// The place of an element of an array that stands here.
    pub(super) fn element(self, protocol: Protocol) -> Self {
        match (self, protocol) {
            (Self::Messages, Protocol::Chat) => Self::Message,
            (Self::Tools, Protocol::Chat) => Self::Tool,
            (Self::Prompt, Protocol::Completions) => Self::PromptItem,
            (Self::Input, Protocol::Embeddings) => Self::InputItem,
            (Self::Documents, Protocol::Rerank) => Self::Document,
            (Self::Content, _) => Self::Part,
            (Self::Calls, _) => Self::Call,
            (Self::PromptItem | Self::InputItem, _) => Self::Token,
            _ => Self::Other,
        }
    }
}
