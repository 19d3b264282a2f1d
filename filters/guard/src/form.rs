//! The filter kind `form`: a multipart form with a recording, checked while it arrives.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::{
    BodyNeed, BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem,
    Rope,
};
use dgx_gateway_wire::audio::{self, SttMode};
use dgx_gateway_wire::multipart::{Boundary, Field, File, Form, FormError, Scanner};
use http::{HeaderMap, HeaderName, header};
use schemars::JsonSchema;
use serde::Deserialize;

const STT_MODE: HeaderName = HeaderName::from_static("spass-stt-mode");
const STT_MODE_PARAM: &str = "headers.spass-stt-mode";
/// The highest temperature that any model takes.
const HOTTEST: f64 = 2.0;

/// What the form is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum FormProtocol {
    /// Speech to text; the header `SPASS-Stt-Mode` counts.
    #[default]
    Transcription,
    /// Speech to English text.
    Translation,
}

/// Parameters of a `form` entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FormConfig {
    /// What the form is for: `transcription` (default) or `translation`.
    pub protocol: FormProtocol,
}

/// The kind.
pub struct AudioForm;

impl FilterKind for AudioForm {
    const NAME: &'static str = "form";
    type Config = FormConfig;
    type Checked = FormProtocol;

    fn check(raw: FormConfig) -> Result<FormProtocol, Vec<Problem>> {
        Ok(raw.protocol)
    }

    fn build(checked: FormProtocol, _env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(FormFilter { protocol: checked }))
    }
}

struct FormFilter {
    protocol: FormProtocol,
}

impl Filter for FormFilter {
    fn body_need(&self) -> BodyNeed {
        BodyNeed::Start
    }

    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(FormExchange { protocol: self.protocol, mode: SttMode::default(), scanner: None })
    }
}

struct FormExchange {
    protocol: FormProtocol,
    mode: SttMode,
    /// There from the head on.
    scanner: Option<Scanner>,
}

#[async_trait]
impl Exchange for FormExchange {
    async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        if self.protocol == FormProtocol::Transcription {
            let of_tenant = cx.facts.get::<TenantSettings>().and_then(|own| SttMode::read(&own.stt_default_mode));
            self.mode = mode(&cx.head.headers)?.or(of_tenant).unwrap_or_default();
        }
        let boundary = boundary(&cx.head.headers)?;
        self.scanner = Some(Scanner::new(&boundary, audio::WANTED));
        cx.facts.insert(boundary);
        cx.facts.insert(self.mode);
        Ok(Flow::Continue)
    }

    fn request_chunk(&mut self, chunk: &Bytes, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        let pushed = scanner.push(chunk);
        // what stands before a bad byte is said first, so that the answer does not depend on how the body was cut
        check(scanner.form(), self.mode)?;
        pushed.map_err(malformed)
    }

    /// The model decides where the form goes. Fields behind the file are checked before they go there, too.
    fn seen_enough(&self) -> bool {
        let form = self.scanner.as_ref().map(Scanner::form);
        form.is_some_and(|form| form.file().is_some() && form.field(audio::MODEL).is_some())
    }

    async fn request_ready(&mut self, _body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let Some(scanner) = &self.scanner else { return Ok(Flow::Continue) };
        if !self.seen_enough() {
            scanner.finish().map_err(malformed)?; // the body has ended
            required(scanner.form(), cx.facts.get::<TenantSettings>())?;
        }
        cx.facts.insert(scanner.form().clone());
        Ok(Flow::Continue)
    }
}

/// The mode that the request asks for.
fn mode(headers: &HeaderMap) -> Result<Option<SttMode>, FilterError> {
    let mut sent = headers.get_all(STT_MODE).iter();
    let Some(value) = sent.next() else { return Ok(None) };
    let mode = value.to_str().ok().and_then(|word| SttMode::read(word.trim()));
    mode.filter(|_| sent.next().is_none()).map(Some).ok_or_else(|| {
        FilterError::client(ErrorCode::InvalidField, "SPASS-Stt-Mode must be chunked or continuous.")
            .param(STT_MODE_PARAM)
    })
}

fn boundary(headers: &HeaderMap) -> Result<Boundary, FilterError> {
    let unsupported = |message, param| FilterError::client(ErrorCode::UnsupportedMediaType, message).param(param);
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(Boundary::of).ok_or_else(|| {
        unsupported("The body must be a form: send Content-Type multipart/form-data.", "headers.content-type")
    })?;
    match headers.get(header::CONTENT_ENCODING) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(unsupported("Send the form without a content encoding.", "headers.content-encoding"))
        }
        _ => Ok(boundary),
    }
}

fn malformed(error: FormError) -> FilterError {
    let param = match error {
        FormError::NotText(name) | FormError::Repeated(name) | FormError::TooLong(name) => name,
        _ => "body",
    };
    invalid(param, format!("The form cannot be read: {error}."))
}

fn invalid(param: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> FilterError {
    FilterError::client(ErrorCode::InvalidField, message).param(param)
}

/// The tenant may have a model for those who name none.
fn required(form: &Form, settings: Option<&TenantSettings>) -> Result<(), FilterError> {
    let missing = |name: &'static str| {
        Err(FilterError::client(ErrorCode::MissingField, format!("The field {name} is required.")).param(name))
    };
    let of_tenant = || settings.is_some_and(|settings| settings.stt_model.is_some());
    match (form.file(), form.value(audio::MODEL)) {
        (None, _) => missing(audio::FILE),
        (_, None) if !of_tenant() => missing(audio::MODEL),
        _ => Ok(()),
    }
}

/// Everything that can be said of what has arrived.
fn check(form: &Form, mode: SttMode) -> Result<(), FilterError> {
    if form.has(audio::USER_ID) {
        let message = "The field user_id is not allowed. Send the header SPASS-User-Id.";
        return Err(invalid("body.user_id", message));
    }
    if let Some(file) = form.file() {
        extension(file)?;
    }
    form.fields().iter().try_for_each(|field| value(field, mode))
}

fn extension(file: &File) -> Result<(), FilterError> {
    let extension = file.name.as_deref().and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension);
    if extension.is_some_and(|found| audio::EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(found))) {
        return Ok(());
    }
    let known = audio::EXTENSIONS.join(", ");
    Err(invalid(audio::FILE, format!("The file needs a name with one of the extensions {known}.")))
}

fn value(field: &Field, mode: SttMode) -> Result<(), FilterError> {
    let chunked = || {
        let message = "SPASS-Stt-Mode chunked needs response_format json or text, and no stream.";
        Err(invalid(STT_MODE_PARAM, message))
    };
    let value = field.value.as_str();
    match field.name {
        audio::MODEL if value.is_empty() => {
            Err(FilterError::client(ErrorCode::MissingField, "The field model is required.").param(audio::MODEL))
        }
        audio::RESPONSE_FORMAT if !audio::RESPONSE_FORMATS.contains(&value) => {
            let known = audio::RESPONSE_FORMATS.join(", ");
            Err(invalid(audio::RESPONSE_FORMAT, format!("response_format must be one of {known}.")))
        }
        audio::RESPONSE_FORMAT if mode == SttMode::Chunked && !["json", "text"].contains(&value) => chunked(),
        audio::STREAM if !["true", "false"].iter().any(|word| value.eq_ignore_ascii_case(word)) => {
            Err(invalid(audio::STREAM, "stream must be true or false."))
        }
        audio::STREAM if mode == SttMode::Chunked && value.eq_ignore_ascii_case("true") => chunked(),
        audio::TEMPERATURE if !value.parse().is_ok_and(|number: f64| (0.0..=HOTTEST).contains(&number)) => {
            Err(invalid(audio::TEMPERATURE, "temperature must be a number from 0 to 2."))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
