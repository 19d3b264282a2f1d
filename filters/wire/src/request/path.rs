//! What a value is to the gateway, by where it stands.

use super::scan::Protocol;

/// The role of a value in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Arguments,
    Background,
    /// A part of the content in the dialect of messages.
    Block,
    Body,
    Call,
    Calls,
    Content,
    Conversation,
    /// The payload of a source.
    Data,
    Dimensions,
    Document,
    DocumentText,
    Documents,
    EncodingFormat,
    Function,
    ImageUrl,
    IncludeUsage,
    /// A part of the content of a block.
    InnerBlock,
    Input,
    InputItem,
    Instructions,
    /// An item of the input in the dialect of responses.
    Item,
    ItemContent,
    ItemOutput,
    /// A part of the content of an item.
    ItemPart,
    MaxCompletionTokens,
    MaxOutputTokens,
    MaxTokens,
    MediaType,
    Message,
    Messages,
    Model,
    N,
    /// Nothing that is looked at, and nothing below it either.
    Other,
    Part,
    PartType,
    PreviousResponse,
    Prompt,
    PromptItem,
    Quality,
    Query,
    ResponseFormat,
    /// The content of a block, such as the result of a tool.
    Result,
    Role,
    /// The schema of a tool; counts with all its bytes.
    Schema,
    Size,
    Source,
    SourceType,
    SourceUrl,
    Store,
    Stream,
    StreamOptions,
    /// The summary of a reasoning item.
    Summary,
    System,
    /// A string that counts as text of the prompt.
    Text,
    /// An object whose `text` counts.
    TextPart,
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
            (Self::Part | Self::ItemPart | Self::Block | Self::InnerBlock, b"type") => Self::PartType,
            (Self::Part, b"image_url") => Self::ImageUrl,
            (Self::ImageUrl, b"url") | (Self::ItemPart, b"image_url") => Self::Url,
            (Self::Call, b"function") => Self::Function,
            (Self::Function, b"arguments") => Self::Arguments,
            (Self::Part | Self::ItemPart | Self::TextPart, b"text")
            | (Self::ItemPart, b"refusal")
            | (Self::Function | Self::Tool, b"name")
            | (Self::Tool, b"description") => Self::Text,
            (Self::Tool, b"function") => Self::Tool,
            (Self::Tool, b"parameters" | b"input_schema") => Self::Schema,
            (Self::Item, _) => Self::of_item(name),
            (Self::Block | Self::InnerBlock | Self::Source, _) => self.of_block(name),
            _ => Self::Other,
        }
    }

    fn of_item(name: &[u8]) -> Self {
        match name {
            b"arguments" | b"name" => Self::Text,
            b"content" => Self::ItemContent,
            b"output" => Self::ItemOutput,
            b"summary" => Self::Summary,
            _ => Self::Other,
        }
    }

    fn of_block(self, name: &[u8]) -> Self {
        match (self, name) {
            (Self::Source, b"data") => Self::Data,
            (Self::Source, b"media_type") => Self::MediaType,
            (Self::Source, b"type") => Self::SourceType,
            (Self::Source, b"url") => Self::SourceUrl,
            (Self::Block, b"content") => Self::Result,
            (Self::Block, b"input") => Self::Schema,
            (Self::Block | Self::InnerBlock, b"context" | b"name" | b"text" | b"thinking" | b"title") => Self::Text,
            (Self::Block | Self::InnerBlock, b"source") => Self::Source,
            _ => Self::Other,
        }
    }

    fn top(name: &[u8]) -> Self {
        match name {
            b"background" => Self::Background,
            b"conversation" => Self::Conversation,
            b"dimensions" => Self::Dimensions,
            b"documents" => Self::Documents,
            b"encoding_format" => Self::EncodingFormat,
            b"input" => Self::Input,
            b"instructions" => Self::Instructions,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_output_tokens" => Self::MaxOutputTokens,
            b"max_tokens" => Self::MaxTokens,
            b"messages" => Self::Messages,
            b"model" => Self::Model,
            b"n" => Self::N,
            b"previous_response_id" => Self::PreviousResponse,
            b"prompt" => Self::Prompt,
            b"quality" => Self::Quality,
            b"query" => Self::Query,
            b"response_format" => Self::ResponseFormat,
            b"size" => Self::Size,
            b"store" => Self::Store,
            b"stream" => Self::Stream,
            b"stream_options" => Self::StreamOptions,
            b"system" => Self::System,
            b"tools" => Self::Tools,
            b"user_id" => Self::UserId,
            b"voice" => Self::Voice,
            _ => Self::Other,
        }
    }

    /// The place of an element of an array that stands here.
    pub(super) fn element(self, protocol: Protocol) -> Self {
        use Protocol::{Chat, Completions, Embeddings, Messages, Rerank, Responses};
        match (self, protocol) {
            (Self::Messages, Chat | Messages) => Self::Message,
            (Self::Tools, Chat | Messages | Responses) => Self::Tool,
            (Self::Prompt, Completions) => Self::PromptItem,
            (Self::Input, Embeddings) => Self::InputItem,
            (Self::Input, Responses) => Self::Item,
            (Self::Content, Messages) => Self::Block,
            (Self::Documents, Rerank) => Self::Document,
            (Self::Content, _) => Self::Part,
            (Self::ItemContent | Self::ItemOutput, _) => Self::ItemPart,
            (Self::Result, _) => Self::InnerBlock,
            (Self::Summary, _) | (Self::System, Messages) => Self::TextPart,
            (Self::Calls, Chat) => Self::Call,
            (Self::PromptItem | Self::InputItem, _) => Self::Token,
            _ => Self::Other,
        }
    }
}
