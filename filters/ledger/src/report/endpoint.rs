//! `GET /v1/billing/usage`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use dgx_gateway_filter::facts::Principal;
use dgx_gateway_filter::{Blame, BuildEnv, BuildError, EndpointKind, ErrorCode, Facts, FilterError};
use dgx_gateway_store::rusqlite::Connection;
use dgx_gateway_store::{Keep, Store, StoreError, Wait};
use http::{HeaderValue, header};
use tokio::sync::Semaphore;

use super::answer::Answer;
use super::period::Period;
use super::{buckets, hours};
use crate::service::Ledger;

/// Most reports that are read at the same time; others wait.
const AT_ONCE: usize = 4;
/// Longest wait for a turn.
const TURN: Duration = Duration::from_secs(10);
/// Longest wait for rows that are on their way to the disk.
const ON_THEIR_WAY: Duration = Duration::from_millis(500);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The endpoint kind `billing-usage`.
#[derive(Debug)]
pub struct Usage;

impl EndpointKind for Usage {
    const NAME: &'static str = "billing-usage";

    fn build(env: &BuildEnv) -> Result<Router, BuildError> {
        let ledger = env.service::<Ledger>()?;
        Ok(Router::new().route("/v1/billing/usage", get(usage)).with_state(Arc::clone(&ledger.lasting.reports)))
    }
}

async fn usage(
    State(reports): State<Arc<Reports>>,
    Extension(facts): Extension<Facts>,
    RawQuery(query): RawQuery,
) -> Result<Response, FilterError> {
    let principal = facts.get::<Principal>().ok_or_else(|| FilterError::internal("no principal was stated"))?;
    let period = Period::read(&query.unwrap_or_default())?;
    let body = reports.read(Arc::clone(&principal.tenant_id), period).await?;
    Ok(([(header::CONTENT_TYPE, JSON)], body).into_response())
}

/// Reads reports: few at a time, on threads that may block.
pub(crate) struct Reports {
    store: Arc<Store>,
    turns: Arc<Semaphore>,
    /// Connections that are not in use, at most one per turn.
    idle: Mutex<Vec<Connection>>,
}

impl Reports {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, turns: Arc::new(Semaphore::new(AT_ONCE)), idle: Mutex::default() }
    }

    async fn read(self: &Arc<Self>, tenant: Arc<str>, period: Period) -> Result<Vec<u8>, FilterError> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.map_err(|_| overloaded())?.map_err(FilterError::internal)?;
        self.settle().await;
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let body = this.body(&tenant, &period);
            drop(turn);
            body
        });
        read.await.map_err(FilterError::internal)?
    }

    /// Waits for what was settled before this moment, so that an hour that is over never changes. A disk that refuses
    /// keeps no report from what is there.
    async fn settle(&self) {
        let written = async {
            let slot = self.store.slot().await?;
            slot.write(Wait::Now, Keep::Never, Box::new(|_| Ok(()))).committed().await
        };
        if !matches!(tokio::time::timeout(ON_THEIR_WAY, written).await, Ok(Ok(()))) {
            tracing::debug!("a report did not wait for rows that are on their way");
        }
    }

    fn body(&self, tenant: &str, period: &Period) -> Result<Vec<u8>, FilterError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| self.store.reader(), Ok).map_err(unreadable)?;
        let (from, to) = period.millis();
        let lines =
            snapshot(&connection, |connection| hours::read(connection, tenant, from, to)).map_err(unreadable)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        let buckets = buckets(lines, period.granularity);
        serde_json::to_vec(&Answer::new(tenant, period, &buckets)).map_err(FilterError::internal)
    }
}

/// Reads several times from one state of the database.
fn snapshot<T>(
    connection: &Connection,
    read: impl FnOnce(&Connection) -> dgx_gateway_store::rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let transaction = connection.unchecked_transaction()?;
    Ok(read(&transaction)?)
}

fn unreadable(error: StoreError) -> FilterError {
    let mut refusal = FilterError::internal(error);
    refusal.code = ErrorCode::StorageError;
    refusal.blame = Blame::Gateway;
    refusal.message = "The report could not be read. Try again.".into();
    refusal
}

fn overloaded() -> FilterError {
    let mut refusal =
        FilterError::policy(ErrorCode::ServiceOverloaded, "Too many reports at the same time. Try again.");
    refusal.blame = Blame::Gateway;
    refusal.retry_after(Duration::from_secs(1))
}
