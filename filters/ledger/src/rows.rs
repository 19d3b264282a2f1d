//! The rows of calls and requests, and their SQL.
//!
//! A request makes one call or several, one after the other or at the same time. It is under way as long as one of its
//! calls is `reserved`: whoever makes another call opens it before, or with [`settle_and_open`] together with, the
//! settlement of the one before. The last settlement and the row of the request are one transaction.
//!
//! | Module | Holds |
//! |---|---|
//! | `history` | what calls used, for budgets |
//! | `recovery` | calls that nobody is left to settle |
//! | `request` | the row of a request |
//! | `schema` | the tables |

mod history;
mod recovery;
mod request;
mod schema;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use dgx_gateway_filter::facts::Usage;
use dgx_gateway_filter::money::{CallTarget, Terms};
use dgx_gateway_store::Group;
use dgx_gateway_store::rusqlite::{Connection, Error, Result, params};
use rust_decimal::Decimal;

pub(crate) use self::history::used;
pub(crate) use self::recovery::{LeftOpen, left_open, settle_left_open};
pub(crate) use self::request::{decimal, has_row};
pub(crate) use self::schema::STEPS;
use crate::millis;
use crate::money::CallCost;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Aborted,
    Failed,
    Ok,
}

impl Status {
    fn from_word(word: &str) -> Option<Self> {
        [Self::Aborted, Self::Failed, Self::Ok].into_iter().find(|status| status.as_str() == word)
    }

    pub(crate) fn as_str(self) -> &'static str {
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
    pub parent_request_id: Option<String>,
    pub tenant_id: String,
    pub token_id: String,
    pub user_id: Option<String>,
    pub model: String,
    /// Base alias of the model.
    pub alias: Option<String>,
    pub prompt_estimate: u64,
    /// Milliseconds of UTC.
    pub started_at: i64,
    /// Where it goes first.
    pub target: Option<CallTarget>,
    /// The terms of its request.
    pub terms: Terms,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub status: Status,
    pub resolved_model: Option<String>,
    pub backend_label: Option<String>,
    pub usage: Usage,
    pub images: u64,
    pub seconds: Decimal,
    pub cost: CallCost,
    pub settled_at: i64,
}

/// Counts of tokens fit: an upstream that reports more than this lies.
fn count(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn amount(value: Decimal) -> Cow<'static, str> {
    if value.is_zero() { Cow::Borrowed("0") } else { Cow::Owned(value.normalize().to_string()) }
}

/// Opens a call of a request. The id of the first one is the uid of its request, see `schema`.
pub(crate) fn open(connection: &Connection, call: &Opened, instance: &str) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO usage_calls (call_id, request_uid, request_id, tenant_id, token_id, user_id, model, state,
            prompt_tokens, started_at, instance, backend_id, upstream_model, local, began, rate, rate_source, fx_markup,
            cost_markup_factor, parent_request_id, alias)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'reserved', ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    )?;
    let (target, terms) = (call.target.as_ref(), &call.terms);
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
        target.map(|target| &*target.backend_id),
        target.map(|target| &*target.upstream_model),
        target.map(|target| target.local),
        millis(terms.began),
        amount(terms.rate),
        &*terms.rate_source,
        amount(terms.fx_markup),
        amount(terms.factor),
        call.parent_request_id,
        call.alias,
    ])?;
    Ok(())
}

/// Writes the only call of a request that is over before its row was written, and the request with it: what [`open`] and
/// [`settle_only`] come to together.
pub(crate) fn write_settled(group: &Group<'_>, call: &Opened, settled: &Settled, instance: &str) -> Result<()> {
    let mut insert = group.prepare_cached(
        "INSERT INTO usage_calls (call_id, request_uid, request_id, tenant_id, token_id, user_id, model, state,
            prompt_tokens, started_at, instance, began, status, resolved_model, backend_label, completion_tokens,
            cached_tokens, cache_write_tokens, images, seconds, source, upstream_usd, eur_exact, settled_at,
            parent_request_id, alias)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'settled', ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
            ?21, ?22, ?23, ?24, ?25)",
    )?;
    insert.execute(params![
        call.call_id,
        call.request_uid,
        call.request_id,
        call.tenant_id,
        call.token_id,
        call.user_id,
        call.model,
        count(settled.usage.prompt_tokens),
        call.started_at,
        instance,
        millis(call.terms.began),
        settled.status.as_str(),
        settled.resolved_model,
        settled.backend_label,
        count(settled.usage.completion_tokens),
        count(settled.usage.cached_tokens),
        count(settled.usage.cache_write_tokens),
        count(settled.images),
        amount(settled.seconds),
        settled.cost.source.as_str(),
        settled.cost.upstream_usd.map(amount),
        amount(settled.cost.eur_exact),
        settled.settled_at,
        call.parent_request_id,
        call.alias,
    ])?;
    request::insert_only(group, call, settled)
}

/// Settles the only call of a request, and the request with it.
pub(crate) fn settle_only(group: &Group<'_>, call: &Opened, settled: &Settled) -> Result<()> {
    settle_call(group, call, settled)?;
    request::insert_only(group, call, settled)
}

/// Settles the last of several calls of a request, and the request with it. True when the request has a row.
#[cfg_attr(not(test), expect(dead_code, reason = "for requests that make several calls, which come with tool loops"))]
pub(crate) fn settle(group: &Group<'_>, call: &Opened, settled: &Settled) -> Result<bool> {
    settle_call(group, call, settled)?;
    request::insert(group, call, settled.settled_at)
}

/// Settles a call and opens the next one of the same request.
#[cfg_attr(not(test), expect(dead_code, reason = "for requests that make several calls, which come with tool loops"))]
pub(crate) fn settle_and_open(
    connection: &Connection,
    (call, settled): (&Opened, &Settled),
    next: &Opened,
    instance: &str,
) -> Result<()> {
    settle_call(connection, call, settled)?;
    open(connection, next, instance)
}

/// What the call was to be priced by is needed no more.
fn settle_call(connection: &Connection, call: &Opened, settled: &Settled) -> Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE usage_calls SET state = 'settled', status = ?2, resolved_model = ?3, backend_label = ?4,
            prompt_tokens = ?5, completion_tokens = ?6, cached_tokens = ?7, cache_write_tokens = ?8, images = ?9,
            seconds = ?10, source = ?11, upstream_usd = ?12, eur_exact = ?13, settled_at = ?14, backend_id = NULL,
            upstream_model = NULL, local = NULL, rate = NULL, rate_source = NULL, fx_markup = NULL,
            cost_markup_factor = NULL
         WHERE call_id = ?1 AND state = 'reserved'",
    )?;
    let changed = update.execute(params![
        call.call_id,
        settled.status.as_str(),
        settled.resolved_model,
        settled.backend_label,
        count(settled.usage.prompt_tokens),
        count(settled.usage.completion_tokens),
        count(settled.usage.cached_tokens),
        count(settled.usage.cache_write_tokens),
        count(settled.images),
        amount(settled.seconds),
        settled.cost.source.as_str(),
        settled.cost.upstream_usd.map(amount),
        amount(settled.cost.eur_exact),
        settled.settled_at,
    ])?;
    // it was settled before, which must not happen
    if changed == 1 { Ok(()) } else { Err(Error::StatementChangedRows(changed)) }
}
