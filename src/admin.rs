//! The admin listener: metrics, and the same health pages as the public one. No authentication, so it listens on
//! the loopback unless told otherwise.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind};
use prometheus::{Encoder, TextEncoder};

/// The router of the admin listener: `/metrics` beside the given pages.
pub fn router(registry: prometheus::Registry, pages: Router) -> Router {
    pages.route("/metrics", get(move || async move { metrics(&registry) }))
}

/// The endpoint kind `metrics`: the same page on the public listener, where `server.metrics_on_public` wants it.
pub struct MetricsPage;

impl EndpointKind for MetricsPage {
    const NAME: &'static str = "metrics";

    fn build(env: &BuildEnv) -> Result<Router, BuildError> {
        Ok(router(env.metrics.clone(), Router::new()))
    }
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
