//! The filter kind `body`: one scan of the body, and the members that the protocol needs.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dgx_gateway_filter::{
    BodyNeed, BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem,
    Rope,
};
use dgx_gateway_wire::request::{self, Finding, Kind, Member, Scan, Scanner};
use http::header;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::plain;

/// The form of the body.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// `messages`.
    #[default]
    Chat,
    /// `prompt`.
    Completions,
    /// `input`, to be embedded.
    Embeddings,
    /// `prompt`, to be drawn.
    Images,
    /// `query` and `documents`.
    Rerank,
    /// `input` and `voice`.
    Speech,
}

impl Protocol {
    fn scanned(self) -> request::Protocol {
        match self {
            Self::Chat => request::Protocol::Chat,
            Self::Completions => request::Protocol::Completions,
            Self::Embeddings => request::Protocol::Embeddings,
            Self::Images => request::Protocol::Images,
            Self::Rerank => request::Protocol::Rerank,
            Self::Speech => request::Protocol::Speech,
        }
    }
}

/// Parameters of a `body` entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BodyConfig {
    /// Form of the body: `chat` (default), `completions`, `embeddings`, `images`, `rerank` or `speech`.
    pub protocol: Protocol,
}

/// The kind.
pub struct Body;

impl FilterKind for Body {
    const NAME: &'static str = "body";
    type Config = BodyConfig;
    type Checked = Protocol;

    fn check(raw: BodyConfig) -> Result<Protocol, Vec<Problem>> {
        Ok(raw.protocol)
    }

    fn build(checked: Protocol, _env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(BodyFilter { protocol: checked }))
    }
}

struct BodyFilter {
    protocol: Protocol,
}

impl Filter for BodyFilter {
    fn body_need(&self) -> BodyNeed {
        BodyNeed::Whole
    }

    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(BodyExchange { protocol: self.protocol, scanner: Some(Scanner::new(self.protocol.scanned())) })
    }
}

struct BodyExchange {
    protocol: Protocol,
    /// Taken when the body is complete.
    scanner: Option<Scanner>,
}

#[async_trait]
impl Exchange for BodyExchange {
    async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        media_type(cx.head)?;
        Ok(Flow::Continue)
    }

    fn request_chunk(&mut self, chunk: &Bytes, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        match &mut self.scanner {
            Some(scanner) => scanner.push(chunk).map_err(|error| not_json(&error)),
            None => Ok(()),
        }
    }

    async fn request_ready(&mut self, body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        if let Some(scanner) = self.scanner.take() {
            let scan = scanner.finish().map_err(|error| not_json(&error))?;
            members(&scan, self.protocol, body)?;
            cx.facts.insert(scan);
        }
        Ok(Flow::Continue)
    }
}

fn not_json(error: &request::ScanError) -> FilterError {
    FilterError::client(ErrorCode::InvalidJson, format!("The body is not a valid JSON object: {error}."))
}

fn media_type(head: &http::request::Parts) -> Result<(), FilterError> {
    let unsupported = |message, param| Err(FilterError::client(ErrorCode::UnsupportedMediaType, message).param(param));
    if let Some(value) = head.headers.get(header::CONTENT_TYPE) {
        let essence =
            value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
            return unsupported("The body must be JSON: send Content-Type application/json.", "headers.content-type");
        }
    }
    match head.headers.get(header::CONTENT_ENCODING) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"identity") => unsupported(
            "This content encoding is not supported. Send the body uncompressed.",
            "headers.content-encoding",
        ),
        _ => Ok(()),
    }
}

/// What every body of the protocol needs, in the order of the contract. Whether the model exists is not asked here.
fn members(scan: &Scan, protocol: Protocol, body: &Rope) -> Result<(), FilterError> {
    if scan.user_id.is_some() {
        let message = "The member user_id is not allowed. Send the header SPASS-User-Id.";
        return Err(FilterError::client(ErrorCode::InvalidField, message).param("body.user_id"));
    }
    required(scan.model.as_ref(), "model", &[Kind::String])?;
    match protocol {
        Protocol::Chat => messages(scan)?,
        Protocol::Completions => required(scan.prompt.as_ref(), "prompt", &[Kind::String, Kind::Array])?,
        Protocol::Embeddings => {
            return required(
                scan.input.as_ref(),
                "input",
                &[Kind::String, Kind::Array, Kind::Number, Kind::Object, Kind::Bool],
            );
        }
        Protocol::Images => return plain::images(scan, body),
        Protocol::Rerank => return plain::rerank(scan),
        Protocol::Speech => return plain::speech(scan, body),
    }
    optional(scan.stream.as_ref(), "stream", Kind::Bool)?;
    optional(scan.stream_options.as_ref(), "stream_options", Kind::Object)?;
    optional(scan.tools.as_ref(), "tools", Kind::Array)
}

fn messages(scan: &Scan) -> Result<(), FilterError> {
    required(scan.messages.as_ref(), "messages", &[Kind::Array])?;
    if scan.messages_count == 0 {
        return Err(FilterError::client(ErrorCode::InvalidField, "messages must not be empty.").param("messages"));
    }
    scan.findings.iter().find_map(message_error).map_or(Ok(()), Err)
}

fn message_error(finding: &Finding) -> Option<FilterError> {
    use request::Problem::{MessageNotObject, RoleMissing, RoleNotString};
    let (code, message) = match finding.problem {
        MessageNotObject => (ErrorCode::InvalidField, "A message must be an object."),
        RoleMissing => (ErrorCode::MissingField, "A message needs a role."),
        RoleNotString => (ErrorCode::InvalidField, "The role of a message must be a string."),
        _ => return None,
    };
    Some(FilterError::client(code, message).param(finding.param()))
}

pub(crate) fn required(member: Option<&Member>, name: &'static str, kinds: &[Kind]) -> Result<(), FilterError> {
    match member {
        None => {
            Err(FilterError::client(ErrorCode::MissingField, format!("The member {name} is required.")).param(name))
        }
        Some(member) if member.kind == Kind::Null => required(None, name, kinds),
        Some(member) if !kinds.contains(&member.kind) => Err(wrong_type(name)),
        Some(_) => Ok(()),
    }
}

fn optional(member: Option<&Member>, name: &'static str, kind: Kind) -> Result<(), FilterError> {
    match member {
        Some(member) if member.kind != kind && member.kind != Kind::Null => Err(wrong_type(name)),
        _ => Ok(()),
    }
}

pub(crate) fn wrong_type(name: &'static str) -> FilterError {
    invalid(name, format!("The member {name} has the wrong type."))
}

pub(crate) fn invalid(name: &'static str, message: String) -> FilterError {
    FilterError::client(ErrorCode::InvalidField, message).param(name)
}
