//! The endpoint kind `tenant-config`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Json, Router};
use bytes::Bytes;
use dgx_gateway_filter::audit::Audit;
use dgx_gateway_filter::facts::{Facts, Principal};
use dgx_gateway_filter::services::ModelNames;
use dgx_gateway_filter::tenant_config::TenantKey;
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind, FilterError, RequestInfo};

use crate::change::{Author, Changes};
use crate::document::Members;
use crate::entry::{All, Fixed, Single};
use crate::refusal::{self, Place};
use crate::requests::{Requests, writable};

/// The endpoint kind.
pub struct ConfigEndpoint;

impl EndpointKind for ConfigEndpoint {
    const NAME: &'static str = "tenant-config";

    fn build(env: &BuildEnv) -> Result<Router, BuildError> {
        let audit = env.service::<Arc<dyn Audit>>().ok().map(|audit| Arc::clone(&*audit));
        let service = Requests {
            changes: Changes { tenancy: env.service()?, audit },
            models: Arc::clone(&*env.service::<Arc<dyn ModelNames>>()?),
            clock: Arc::clone(&env.clock),
        };
        Ok(router(service))
    }
}

pub(crate) fn router(service: Requests) -> Router {
    Router::new()
        .route("/v1/tenant/config", get(all).put(put_all))
        .route("/v1/tenant/config/{key}", get(one).put(put_one).delete(delete_one))
        .with_state(Arc::new(service))
}

type Key = Result<Path<String>, PathRejection>;
type Service = State<Arc<Requests>>;

async fn all(State(service): Service, Extension(facts): Extension<Facts>) -> Result<Json<All>, FilterError> {
    let caller = caller(&facts)?;
    let (own, yaml) = service.levels(&caller)?;
    Ok(Json(service.list(&caller, &own, yaml)))
}

async fn one(
    State(service): Service,
    Extension(facts): Extension<Facts>,
    key: Key,
) -> Result<Json<Single>, FilterError> {
    let name = name_of(key)?;
    let caller = caller(&facts)?;
    if let Some(fixed) = Fixed::ALL.into_iter().find(|fixed| fixed.name() == name) {
        return Ok(Json(Single(fixed.entry(&*service.models))));
    }
    let key = TenantKey::named(&name).ok_or_else(|| refusal::unknown(Place::Path(&name)))?;
    let (own, yaml) = service.levels(&caller)?;
    Ok(Json(Single(service.entry(key, &own, yaml))))
}

async fn put_one(
    State(service): Service,
    Extension(facts): Extension<Facts>,
    Extension(request): Extension<RequestInfo>,
    key: Key,
    body: Bytes,
) -> Result<Json<Single>, FilterError> {
    let members = Members::read(&body)?;
    let name = name_of(key)?;
    let place = Place::Path(&name);
    let (key, caller) = (writable(place)?, caller(&facts)?);
    let raw = members.get("value").ok_or_else(|| refusal::missing("value"))?;
    let value = service.value(place, key, raw, &caller)?;
    let (_, yaml) = service.levels(&caller)?;
    let done = service
        .carry_out(author(&facts, request, &caller), vec![(key, Some(value))], |wrong| refusal::value(place, wrong))
        .await?;
    Ok(Json(Single(service.entry(key, &done.own, yaml))))
}

async fn put_all(
    State(service): Service,
    Extension(facts): Extension<Facts>,
    Extension(request): Extension<RequestInfo>,
    body: Bytes,
) -> Result<Json<All>, FilterError> {
    let config = Members::read(&body)?.get("config").ok_or_else(|| refusal::missing("config"))?;
    if !config.get().starts_with('{') {
        return Err(refusal::no_object());
    }
    let Members(members) = Members::read(config.get().as_bytes())?;
    let caller = caller(&facts)?;
    let edits = service.edits(&members, &caller)?;
    let (_, yaml) = service.levels(&caller)?;
    let done = service.carry_out(author(&facts, request, &caller), edits, |wrong| {
        // the rule is about the overlap; without it in the request, the other key has broken it
        let named = |key: TenantKey| members.iter().any(|(name, _)| name == key.about().name);
        let keys = [TenantKey::RagChunkOverlap, TenantKey::RagChunkTokens];
        let key = keys.into_iter().find(|key| named(*key)).unwrap_or(TenantKey::RagChunkOverlap);
        refusal::value(Place::Config(key.about().name), wrong)
    });
    Ok(Json(service.list(&caller, &done.await?.own, yaml)))
}

async fn delete_one(
    State(service): Service,
    Extension(facts): Extension<Facts>,
    Extension(request): Extension<RequestInfo>,
    key: Key,
) -> Result<StatusCode, FilterError> {
    let name = name_of(key)?;
    let (key, caller) = (writable(Place::Path(&name))?, caller(&facts)?);
    service.levels(&caller)?;
    service
        .carry_out(author(&facts, request, &caller), vec![(key, None)], |wrong| {
            refusal::value(Place::Path(&name), wrong)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn caller(facts: &Facts) -> Result<Arc<Principal>, FilterError> {
    facts.shared::<Principal>().ok_or_else(|| FilterError::internal("no principal was stated"))
}

fn author(facts: &Facts, request: RequestInfo, principal: &Arc<Principal>) -> Author {
    Author { request, caller: facts.shared(), principal: Arc::clone(principal) }
}

/// A key that is no text is unknown, too.
fn name_of(key: Key) -> Result<String, FilterError> {
    key.map(|Path(name)| name).map_err(|_| refusal::unknown(Place::Path("")))
}
