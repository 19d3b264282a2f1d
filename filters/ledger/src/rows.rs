//! The tables and their SQL.

use dgx_gateway_filter::money::Terms;
use dgx_gateway_store::rusqlite::{Connection, Error, Result, params};
use rust_decimal::Decimal;

use crate::money::{Bill, CallCost};

/// Steps of the schema, oldest first. A step that was released is never changed.
pub(crate) const STEPS: [&str; 1] = ["
CREATE TABLE usage_calls (
    call_id TEXT PRIMARY KEY,
    request_uid TEXT NOT NULL,
    request_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    token_id TEXT NOT NULL,
    user_id TEXT,
    model TEXT NOT NULL,
    resolved_model TEXT,
    backend_label TEXT,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'settled')),
    status TEXT CHECK (status IN ('ok', 'aborted', 'failed')),
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    images INTEGER NOT NULL DEFAULT 0,
    seconds TEXT NOT NULL DEFAULT '0',
    source TEXT,
    upstream_usd TEXT,
    eur_exact TEXT,
    started_at INTEGER NOT NULL,
    settled_at INTEGER,
    instance TEXT NOT NULL,
    CHECK ((state = 'settled') = (status IS NOT NULL AND settled_at IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_calls_open ON usage_calls (instance) WHERE state = 'reserved';
CREATE INDEX usage_calls_request ON usage_calls (request_uid);
CREATE TABLE usage_requests (
    request_uid TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,
    parent_request_id TEXT,
    tenant_id TEXT NOT NULL,
    token_id TEXT NOT NULL,
    user_id TEXT,
    model TEXT NOT NULL,
    source TEXT NOT NULL,
    available INTEGER NOT NULL,
    billed_eur TEXT NOT NULL,
    billed_usd TEXT NOT NULL,
    upstream_usd TEXT NOT NULL,
    rate TEXT NOT NULL,
    rate_source TEXT NOT NULL,
    fx_markup TEXT NOT NULL,
    cost_markup_factor TEXT NOT NULL,
    settled_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_requests_time ON usage_requests (tenant_id, settled_at);
"];

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Aborted,
    Failed,
    Ok,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Ok => "ok",
        }
    }
}

/// A call as it is known before it is made.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub call_id: String,
    pub request_uid: String,
    pub request_id: String,
    pub tenant_id: String,
    pub token_id: String,
    pub user_id: Option<String>,
    pub model: String,
    pub prompt_estimate: u64,
    /// Milliseconds of UTC.
    pub started_at: i64,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub status: Status,
    pub resolved_model: Option<String>,
    pub backend_label: Option<String>,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cached_tokens: u64,
    pub cost: CallCost,
    pub settled_at: i64,
}

/// Counts of tokens fit: an upstream that reports more than this lies.
fn count(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn amount(value: Decimal) -> String {
    value.normalize().to_string()
}

pub(crate) fn open(connection: &Connection, call: &Opened, instance: &str) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO usage_calls (call_id, request_uid, request_id, tenant_id, token_id, user_id, model, state,
            prompt_tokens, started_at, instance)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'reserved', ?8, ?9, ?10)",
    )?;
    insert.execute(params![
        call.call_id,
        call.request_uid,
        call.request_id,
        call.tenant_id,
        call.token_id,
        call.user_id,
        call.model,
        count(call.prompt_estimate),
        call.started_at,
        instance,
    ])?;
    Ok(())
}

/// Settles the only call of a request, and the request with it.
pub(crate) fn settle(connection: &Connection, call: &Opened, settled: &Settled, terms: &Terms) -> Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE usage_calls SET state = 'settled', status = ?2, resolved_model = ?3, backend_label = ?4,
            prompt_tokens = ?5, completion_tokens = ?6, cached_tokens = ?7, source = ?8, upstream_usd = ?9,
            eur_exact = ?10, settled_at = ?11
         WHERE call_id = ?1 AND state = 'reserved'",
    )?;
    let changed = update.execute(params![
        call.call_id,
        settled.status.as_str(),
        settled.resolved_model,
        settled.backend_label,
        count(settled.prompt_tokens),
        count(settled.completion_tokens),
        count(settled.cached_tokens),
        settled.cost.source.as_str(),
        settled.cost.upstream_usd.map(amount),
        amount(settled.cost.eur_exact),
        settled.settled_at,
    ])?;
    if changed != 1 {
        return Err(Error::StatementChangedRows(changed)); // it was settled before, which must not happen
    }
    if settled.status == Status::Failed && settled.cost.eur_exact.is_zero() {
        return Ok(());
    }
    insert_request(connection, call, settled, terms)
}

fn insert_request(connection: &Connection, call: &Opened, settled: &Settled, terms: &Terms) -> Result<()> {
    let bill = Bill::of(&[settled.cost], terms);
    let mut insert = connection.prepare_cached(
        "INSERT INTO usage_requests (request_uid, request_id, parent_request_id, tenant_id, token_id, user_id, model,
            source, available, billed_eur, billed_usd, upstream_usd, rate, rate_source, fx_markup, cost_markup_factor,
            settled_at)
         VALUES (?1, ?2, NULL, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?;
    insert.execute(params![
        call.request_uid,
        call.request_id,
        call.tenant_id,
        call.token_id,
        call.user_id,
        call.model,
        bill.source.as_str(),
        bill.available,
        format!("{:.2}", bill.eur),
        format!("{:.2}", bill.usd),
        amount(bill.upstream_usd),
        amount(terms.rate),
        &*terms.rate_source,
        amount(terms.fx_markup),
        amount(terms.factor),
        settled.settled_at,
    ])?;
    Ok(())
}

/// A call that a process left open when it died.
#[derive(Debug)]
pub(crate) struct LeftOpen {
    pub call: Opened,
    pub instance: String,
}

/// All calls that are open, of whichever process.
pub(crate) fn left_open(connection: &Connection) -> Result<Vec<LeftOpen>> {
    let mut select = connection.prepare(
        "SELECT call_id, request_uid, request_id, tenant_id, token_id, user_id, model, prompt_tokens, started_at, instance
         FROM usage_calls WHERE state = 'reserved'",
    )?;
    let rows = select.query_map([], |row| {
        let call = Opened {
            call_id: row.get(0)?,
            request_uid: row.get(1)?,
            request_id: row.get(2)?,
            tenant_id: row.get(3)?,
            token_id: row.get(4)?,
            user_id: row.get(5)?,
            model: row.get(6)?,
            prompt_estimate: u64::try_from(row.get::<_, i64>(7)?).unwrap_or_default(),
            started_at: row.get(8)?,
        };
        Ok(LeftOpen { call, instance: row.get(9)? })
    })?;
    rows.collect()
}
