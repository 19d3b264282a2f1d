//! An embedded OpenAI-compatible backend without a model, for the first five minutes.
//!
//! It answers *from* the prompt, so that a new user sees a streamed answer, a tool call or a schema-bound
//! object on a machine without a GPU, and sees that the prompt was read. Nothing is learned, fetched or kept.
//! Apart from `id` and `created`, equal requests get equal answers. Any model name is served and echoed.
//!
//! | Module | Holds |
//! |---|---|
//! | `chat`, `completions`, `embeddings`, `models` | one endpoint each |
//! | `prompt` | what a list of messages says |
//! | `answer` | what is answered: text, JSON or a tool call |
//! | `schema`, `tools` | values that fit a JSON schema; whether and how a tool is called |
//! | `cut`, `usage` | `stop`, `max_tokens`, and the token estimate behind them |
//! | `stream` | events at the pace of `stream::WORD_PAUSE` |
//! | `error` | refusals in the OpenAI form |
//! | `service` | the plug-in that offers it |

mod answer;
mod chat;
mod completions;
mod cut;
mod embeddings;
mod error;
mod models;
mod prompt;
mod schema;
mod service;
mod stream;
mod tools;
mod usage;

#[cfg(test)]
mod tests;

pub use self::service::{Service, Settings};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

/// Longest request body: 64 MiB, above any limit of the gateway in front.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The whole backend, with full paths (`/v1/…`).
pub fn router() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/models", get(models::handle))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}
