//! The one error that crosses the filter interface.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::code::ErrorCode;

/// Who has to change something so that the request succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request is wrong.
    Client,
    /// The gateway failed; logged in full, answered with a fixed text.
    Gateway,
    /// The request is fine, a rule of the operator refuses it.
    Policy,
    /// Something behind the gateway failed.
    Upstream,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A refusal or failure, on its way to the one place that renders it (`src/reply.rs`).
///
/// `message` may be shown to the client; `source` never leaves the process.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct FilterError {
    /// Who is to blame.
    pub blame: Blame,
    /// The code of the catalog; it fixes the status.
    pub code: ErrorCode,
    /// One sentence for the client: no secret, no host, no internal name.
    pub message: Cow<'static, str>,
    /// Where the problem lies: a path in the body, or `headers.x`, `query.x`, `path.x`.
    pub param: Option<Cow<'static, str>>,
    /// Replaces the status of the catalog, for codes that pass an upstream status on.
    pub status: Option<StatusCode>,
    /// After how long a retry makes sense; becomes `Retry-After` and `retry-after-ms`.
    pub retry_after: Option<Duration>,
    /// Slugs that the client may use instead, most useful first; only for a used-up day. Words of a catalog.
    pub available_fallbacks: Option<Arc<Vec<String>>>,
    /// Further headers of the answer (`WWW-Authenticate`, `Allow`).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What really happened, for the log.
    #[source]
    pub source: Option<Source>,
}

impl FilterError {
    fn new(blame: Blame, code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            blame,
            code,
            message: message.into(),
            param: None,
            status: None,
            retry_after: None,
            available_fallbacks: None,
            headers: Vec::new(),
            source: None,
        }
    }

    /// The client has to change its request.
    pub fn client(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Blame::Client, code, message)
    }

    /// The body is larger than `limit` bytes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::client(ErrorCode::BodyTooLarge, format!("The body is larger than {limit} bytes."))
    }

    /// A rule of the operator refuses the request.
    pub fn policy(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Blame::Policy, code, message)
    }

    /// Something behind the gateway failed.
    pub fn upstream(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Blame::Upstream, code, message)
    }

    /// The gateway failed. The client reads a fixed text, the log reads `source`.
    pub fn internal(source: impl Into<Source>) -> Self {
        let mut error = Self::new(Blame::Gateway, ErrorCode::InternalError, "Internal error. Report the request id.");
        error.source = Some(source.into());
        error
    }

    /// Names the place of the problem.
    #[must_use]
    pub fn param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Replaces the status of the catalog.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Says when a retry makes sense.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Names the slugs that may be used instead.
    #[must_use]
    pub fn available_fallbacks(mut self, slugs: Vec<String>) -> Self {
        self.available_fallbacks = Some(Arc::new(slugs));
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Lets an axum handler return `Result<_, FilterError>`: the error travels in the response extensions
/// to the bridge, which renders it like every other refusal.
impl axum::response::IntoResponse for FilterError {
    fn into_response(self) -> axum::response::Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(CarriedError(Arc::new(std::sync::Mutex::new(Some(self)))));
        response
    }
}

/// A [`FilterError`] inside the extensions of an axum response; taken out by the bridge.
#[derive(Clone, Debug)]
pub struct CarriedError(Arc<std::sync::Mutex<Option<FilterError>>>);

impl CarriedError {
    /// Takes the error; `None` when it was taken before.
    #[must_use]
    pub fn take(&self) -> Option<FilterError> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}
