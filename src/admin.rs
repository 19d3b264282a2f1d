//! The admin listener: metrics, reload, and the same health pages as the public one. No authentication, so it listens
//! on the loopback unless told otherwise.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind};
use prometheus::{Encoder, TextEncoder};
use tower::ServiceExt;

use crate::registry::ADMIN_PAGES;
use crate::reload::service::Asking;
use crate::world::World;

/// The router of the admin listener: `/metrics` and `/reload`, and the pages of the world in use.
pub fn router(registry: prometheus::Registry, world: Arc<ArcSwap<World>>, asking: Asking) -> Router {
    Router::new()
        .route("/metrics", get(move || async move { metrics(&registry) }))
        .route("/reload", post(move || asking.answer()))
        .fallback(async move |request: Request| {
            let pages = world.load().endpoints.get(ADMIN_PAGES).cloned().unwrap_or_default();
            pages.oneshot(request).await
        })
}

/// The endpoint kind `metrics`: the same page on the public listener, where `server.metrics_on_public` wants it.
pub struct MetricsPage;

impl EndpointKind for MetricsPage {
    const NAME: &'static str = "metrics";

    fn build(env: &BuildEnv) -> Result<Router, BuildError> {
        let registry = env.metrics.clone();
        Ok(Router::new().route("/metrics", get(move || async move { metrics(&registry) })))
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
