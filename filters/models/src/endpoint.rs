//! `GET /v1/models`, `GET /v1/models/{id}` and `GET /v1/info`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use dgx_gateway_filter::facts::Principal;
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind, ErrorCode, Facts, FilterError};
use http::{HeaderValue, header};
use serde::Serialize;

use crate::catalog::Slug;
use crate::info::Info;
use crate::service::Models;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

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
struct List<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'a str,
}

fn item(slug: &Slug) -> Item<'_> {
    Item { id: &slug.id, object: "model", created: slug.model.created, owned_by: &slug.model.vendor }
}

/// Written into one piece of memory: a list may be long.
fn json(content: &impl Serialize) -> Result<Response, FilterError> {
    let body = serde_json::to_vec(content).map_err(FilterError::internal)?;
    Ok(([(header::CONTENT_TYPE, JSON)], body).into_response())
}

async fn list(State(service): State<Arc<Models>>, Extension(facts): Extension<Facts>) -> Result<Response, FilterError> {
    let principal = facts.get::<Principal>();
    let catalog = service.catalog.load();
    let usable = catalog.slugs().iter().filter(|slug| slug.usable_by(principal));
    json(&List { object: "list", data: usable.map(|slug| item(slug)).collect() })
}

async fn info(State(service): State<Arc<Models>>, Extension(facts): Extension<Facts>) -> Response {
    let catalog = service.catalog.load();
    Json(Info::of(&catalog, facts.get::<Principal>())).into_response()
}

async fn one(
    State(service): State<Arc<Models>>,
    Extension(facts): Extension<Facts>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, FilterError> {
    let catalog = service.catalog.load();
    // an id that is no text is unknown, too
    let found = id.ok().and_then(|Path(id)| catalog.find(&id, facts.get::<Principal>()));
    let unknown = || {
        FilterError::client(ErrorCode::ModelNotFound, "There is no such model. See GET /v1/models.").param("path.id")
    };
    json(&item(found.ok_or_else(unknown)?))
}
