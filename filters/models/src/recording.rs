//! A request that is a form with a recording: it streams, and only the name of the model changes in it.

use std::sync::Arc;

use bytes::Bytes;
use dgx_gateway_filter::body::Patch;
use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::upstream::AttemptRequest;
use dgx_gateway_filter::{ErrorCode, ExchangeCx, FilterError};
use dgx_gateway_wire::audio::{self, SttMode};
use dgx_gateway_wire::multipart::{Boundary, Field, Form};
use http::{HeaderName, HeaderValue, header};

use crate::catalog::Entry;

const STT_MODE: HeaderName = HeaderName::from_static("spass-stt-mode");
/// The form of the answer may stand behind the recording, so every form is taken.
const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");

/// A form of which the fields before the recording are known, at least.
pub(crate) struct Recording {
    form: Arc<Form>,
    slug: Arc<str>,
    boundary: Boundary,
    content_type: HeaderValue,
    mode: SttMode,
}

impl Recording {
    /// The form that was scanned.
    pub(crate) fn of(form: Arc<Form>, cx: &ExchangeCx<'_>, settings: &TenantSettings) -> Result<Self, FilterError> {
        let unscanned = || FilterError::internal("the form was not scanned");
        let boundary = cx.facts.get::<Boundary>().ok_or_else(unscanned)?.clone();
        let content_type = HeaderValue::try_from(boundary.content_type()).map_err(FilterError::internal)?;
        let named = form.value(audio::MODEL).map(Arc::from);
        let slug = named.or_else(|| settings.stt_model.clone()).ok_or_else(unscanned)?;
        Ok(Self { slug, boundary, content_type, mode: cx.facts.get::<SttMode>().copied().unwrap_or_default(), form })
    }

    /// The model that was asked for.
    pub(crate) fn slug(&self) -> &str {
        &self.slug
    }

    /// Whether events were asked for, as far as is known.
    pub(crate) fn stream(&self) -> bool {
        self.form.value(audio::STREAM).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The entries that take recordings in the mode that was asked for.
    pub(crate) fn takers(&self, mut entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, FilterError> {
        if self.mode == SttMode::Chunked {
            entries.retain(|entry| entry.backend.takes(self.mode));
        }
        if entries.is_empty() {
            let message = "No backend of this model takes recordings in windows. Use SPASS-Stt-Mode continuous.";
            return Err(FilterError::client(ErrorCode::InvalidField, message).param("headers.spass-stt-mode"));
        }
        Ok(entries)
    }

    /// Headers, and the patch of the model, for one entry.
    pub(crate) fn dress(&self, entry: &Entry, attempt: &mut AttemptRequest) {
        attempt.headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        attempt.headers.insert(header::ACCEPT, ANYTHING);
        if entry.backend.declares_stt_modes {
            attempt.headers.insert(STT_MODE, HeaderValue::from_static(self.mode.as_str()));
        }
        attempt.patches.extend(self.name(&entry.model));
    }

    /// The name of the model for a backend: in place of the one that was sent, or in front of everything.
    fn name(&self, model: &str) -> Option<Patch> {
        match self.form.field(audio::MODEL) {
            Some(Field { value, .. }) if *value == *model => None,
            Some(Field { range, .. }) => {
                Some(Patch { range: range.clone(), with: Bytes::copy_from_slice(model.as_bytes()) })
            }
            None => {
                let start = self.form.start()?;
                let with = Bytes::from(self.boundary.field_before(audio::MODEL, model));
                Some(Patch { range: start..start + 2, with })
            }
        }
    }
}
