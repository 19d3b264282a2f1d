//! Refusals, in the form that OpenAI clients read.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A refused request.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    message: String,
    param: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl Refusal {
    /// 400, without a place.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), param: None }
    }

    /// 400, at a path of the body.
    pub(crate) fn at(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad_request(message) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = Detail {
            message: &self.message,
            r#type: "invalid_request_error",
            param: self.param.as_deref(),
            code: None,
        };
        (self.status, Json(Envelope { error })).into_response()
    }
}

/// Reads a JSON body, whatever its content type says.
pub(crate) fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    let body = body.map_err(|error| Refusal { status: error.status(), message: error.body_text(), param: None })?;
    serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(format!("The body is not a request: {error}.")))
}

/// 404.
pub(crate) async fn no_such_path() -> Refusal {
    Refusal { status: StatusCode::NOT_FOUND, message: "There is no such path.".to_owned(), param: None }
}

/// 405.
pub(crate) async fn wrong_method() -> Refusal {
    Refusal {
        status: StatusCode::METHOD_NOT_ALLOWED,
        message: "The path does not take this method.".to_owned(),
        param: None,
    }
}
