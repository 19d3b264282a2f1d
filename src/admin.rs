//! The admin listener: metrics, and the same health pages as the public one. No authentication, so it listens on
//! the loopback unless told otherwise.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};

/// The router of the admin listener: `/metrics` beside the given pages.
pub fn router(registry: prometheus::Registry, pages: Router) -> Router {
    pages.route("/metrics", get(move || async move { metrics(&registry) }))
}

fn metrics(registry: &prometheus::Registry) -> Result<impl IntoResponse + use<>, StatusCode> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => Ok(([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text)),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}
