//! The filter kind `body`: one scan of the body, and the members that the protocol needs.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dgx_gateway_filter::facts::ContentCoding;
use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::{
    BodyNeed, BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem,
    Rope,
};
use dgx_gateway_wire::request::{self, Finding, Kind, Member, Scan, Scanner};
use http::header;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::content::refusal_of_all;
use crate::plain;

/// Bodies up to this length are judged when they are complete, in the exact order of checks: reading the rest of them
/// costs little. A longer one is refused at the first thing that no model takes, and the rest of it is not read.
const JUDGED_WHOLE: usize = 1024 * 1024;

/// The form of the body.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// `messages`.
    #[default]
    Chat,
    /// `prompt`.
    Completions,
    /// `messages` in blocks, to be counted.
    CountTokens,
    /// `input`, to be embedded.
    Embeddings,
    /// `messages` in blocks, and `max_tokens`.
    Messages,
    /// `input`, to be answered.
    Responses,
    /// `prompt`, to be drawn.
    Images,
    /// An object whose members the endpoint checks itself.
    Object,
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
            Self::CountTokens | Self::Messages => request::Protocol::Messages,
            Self::Embeddings => request::Protocol::Embeddings,
            Self::Responses => request::Protocol::Responses,
            Self::Images | Self::Object => request::Protocol::Images, // nothing below the top level is looked at
            Self::Rerank => request::Protocol::Rerank,
            Self::Speech => request::Protocol::Speech,
        }
    }
}

/// Parameters of a `body` entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BodyConfig {
    /// Form of the body: `chat` (default), `completions`, `count_tokens`, `embeddings`, `images`, `messages`, `object`,
    /// `rerank`, `responses` or `speech`.
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
        let scanner = Some(Scanner::new(self.protocol.scanned()));
        Box::new(BodyExchange { protocol: self.protocol, scanner, expected: 0, seen: 0 })
    }
}

struct BodyExchange {
    protocol: Protocol,
    /// Taken when the body is complete.
    scanner: Option<Scanner>,
    /// Length that the client declared.
    expected: usize,
    /// Bytes scanned so far.
    seen: usize,
}

#[async_trait]
impl Exchange for BodyExchange {
    async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        if self.protocol == Protocol::Images {
            plain::refuse_images(cx.facts.get::<TenantSettings>())?;
        }
        cx.refuse_declared_too_large()?;
        media_type(cx.head)?;
        if let Some(coding) = content_coding(cx.head)? {
            cx.facts.insert(coding);
        }
        let declared = cx.head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        self.expected = declared.unwrap_or(0);
        Ok(Flow::Continue)
    }

    fn request_chunk(&mut self, chunk: &Bytes, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        scanner.push(chunk).map_err(|error| not_json(&error))?;
        self.seen += chunk.len();
        if self.seen.max(self.expected) <= JUDGED_WHOLE {
            return Ok(());
        }
        let refused = scanner.early().and_then(|finding| message_error(finding).or_else(|| refusal_of_all(finding)));
        refused.map_or(Ok(()), Err)
    }

    async fn request_ready(&mut self, body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        if let Some(scanner) = self.scanner.take() {
            let scan = scanner.finish().map_err(|error| not_json(&error))?;
            if self.protocol != Protocol::Object {
                members(&scan, self.protocol, body, cx.facts.get::<TenantSettings>())?;
            }
            cx.facts.insert(scan);
        }
        Ok(Flow::Continue)
    }
}

fn not_json(error: &request::ScanError) -> FilterError {
    FilterError::client(ErrorCode::InvalidJson, format!("The body is not a valid JSON object: {error}."))
}

fn media_type(head: &http::request::Parts) -> Result<(), FilterError> {
    if let Some(value) = head.headers.get(header::CONTENT_TYPE) {
        let essence =
            value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
            return unsupported("The body must be JSON: send Content-Type application/json.", "headers.content-type");
        }
    }
    Ok(())
}

/// How the body is compressed. One coding is decoded, not a row of them.
fn content_coding(head: &http::request::Parts) -> Result<Option<ContentCoding>, FilterError> {
    let mut values = head.headers.get_all(header::CONTENT_ENCODING).iter();
    let (value, more) = (values.next(), values.next());
    let text = value.map_or("identity", |value| value.to_str().unwrap_or_default()).trim().to_ascii_lowercase();
    match (text.as_str(), more) {
        ("identity", None) => Ok(None),
        ("gzip" | "x-gzip", None) => Ok(Some(ContentCoding::Gzip)),
        ("zstd", None) => Ok(Some(ContentCoding::Zstd)),
        _ => unsupported(
            "This content encoding is not supported. Send gzip, zstd or no encoding.",
            "headers.content-encoding",
        ),
    }
}

fn unsupported<T>(message: &'static str, param: &'static str) -> Result<T, FilterError> {
    Err(FilterError::client(ErrorCode::UnsupportedMediaType, message).param(param))
}

/// What every body of the protocol needs, in the order of the contract. Whether the model exists is not asked here.
fn members(scan: &Scan, protocol: Protocol, body: &Rope, settings: Option<&TenantSettings>) -> Result<(), FilterError> {
    if scan.user_id.is_some() {
        let message = "The member user_id is not allowed. Send the header SPASS-User-Id.";
        return Err(FilterError::client(ErrorCode::InvalidField, message).param("body.user_id"));
    }
    match protocol {
        // the tenant has one for those who name none
        Protocol::Images => optional(scan.model.as_ref(), "model", Kind::String)?,
        _ => required(scan.model.as_ref(), "model", &[Kind::String])?,
    }
    match protocol {
        Protocol::Chat => messages(scan)?,
        Protocol::Completions => required(scan.prompt.as_ref(), "prompt", &[Kind::String, Kind::Array])?,
        Protocol::CountTokens => messages(scan)?,
        Protocol::Embeddings => return present(scan.input.as_ref(), "input"),
        Protocol::Messages => {
            messages(scan)?;
            present(scan.max_tokens.as_ref(), "max_tokens")?;
        }
        Protocol::Responses => responses(scan)?,
        Protocol::Images => return plain::images(scan, body, settings),
        Protocol::Object => return Ok(()),
        Protocol::Rerank => return plain::rerank(scan),
        Protocol::Speech => return plain::speech(scan, body),
    }
    optional(scan.stream.as_ref(), "stream", Kind::Bool)?;
    optional(scan.stream_options.as_ref(), "stream_options", Kind::Object)?;
    optional(scan.tools.as_ref(), "tools", Kind::Array)
}

fn responses(scan: &Scan) -> Result<(), FilterError> {
    required(scan.input.as_ref(), "input", &[Kind::String, Kind::Array])?;
    // what an upstream keeps is not kept apart by tenant
    let kept = [(&scan.previous_response_id, "previous_response_id"), (&scan.conversation, "conversation")];
    for (member, name) in kept {
        if member.as_ref().is_some_and(|member| member.kind != Kind::Null) {
            let message = format!("{name} is not supported: nothing is kept between requests. Send the whole input.");
            return Err(FilterError::client(ErrorCode::InvalidField, message).param(name));
        }
    }
    optional(scan.background.as_ref(), "background", Kind::Bool)?;
    if scan.background.as_ref().is_some_and(Member::is_true) {
        let message = "background must be false: nothing is kept between requests.";
        return Err(FilterError::client(ErrorCode::InvalidField, message).param("background"));
    }
    optional(scan.store.as_ref(), "store", Kind::Bool)
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

/// Of whatever kind; what it may be is checked with the model.
fn present(member: Option<&Member>, name: &'static str) -> Result<(), FilterError> {
    required(member, name, &[Kind::String, Kind::Array, Kind::Number, Kind::Object, Kind::Bool])
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
