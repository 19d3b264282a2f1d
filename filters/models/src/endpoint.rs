//! `GET /v1/models`, `GET /v1/models/{id}` and `GET /v1/info`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use dgx_gateway_filter::facts::Principal;
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind, ErrorCode, Facts, FilterError};
use serde::Serialize;

use crate::catalog::Slug;
use crate::info::Info;
use crate::service::Models;

/// The endpoint kind `models`.
pub struct ListEndpoint;

impl EndpointKind for ListEndpoint {
    const NAME: &'static str = "models";

    fn build(env: &BuildEnv) -> Result<Router, BuildError> {
        let service = env.service::<Models>()?;
        let router = Router::new()
            .route("/v1/info", get(info))
            .route("/v1/models", get(list))
            .route("/v1/models/{*id}", get(one));
        Ok(router.with_state(service))
    }
}

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    id: Arc<str>,
    object: &'static str,
    created: i64,
    owned_by: String,
}

fn item(slug: &Slug) -> Item {
    Item { id: Arc::clone(&slug.id), object: "model", created: slug.model.created, owned_by: slug.model.vendor.clone() }
}

async fn list(State(service): State<Arc<Models>>, Extension(facts): Extension<Facts>) -> Json<List> {
    let principal = facts.get::<Principal>();
    let catalog = service.catalog.load();
    let usable = catalog.slugs().iter().filter(|slug| slug.usable_by(principal));
    Json(List { object: "list", data: usable.map(|slug| item(slug)).collect() })
}

async fn info(State(service): State<Arc<Models>>, Extension(facts): Extension<Facts>) -> Response {
    let catalog = service.catalog.load();
    Json(Info::of(&catalog, facts.get::<Principal>())).into_response()
}

async fn one(
    State(service): State<Arc<Models>>,
    Extension(facts): Extension<Facts>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Item>, FilterError> {
    let catalog = service.catalog.load();
    // an id that is no text is unknown, too
    let found = id.ok().and_then(|Path(id)| catalog.find(&id, facts.get::<Principal>()).cloned());
    found.map(|slug| Json(item(&slug))).ok_or_else(|| {
        FilterError::client(ErrorCode::ModelNotFound, "There is no such model. See GET /v1/models.").param("path.id")
    })
}
