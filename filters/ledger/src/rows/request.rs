//! The row of a request: what its calls cost together.

use dgx_gateway_store::Group;
use dgx_gateway_store::rusqlite::types::Type;
use dgx_gateway_store::rusqlite::{Connection, Error, Result, Row, params};
use rust_decimal::Decimal;

use super::{Opened, Settled, Status, amount};
use crate::money::{Bill, CallCost, Source};
use crate::report::Sum;
use crate::report::hours::{self, Hours, Line};

/// Adds the row of a request of which all calls are settled. A request that got nothing and costs nothing has none.
/// True when there is one.
pub(super) fn insert(group: &Group<'_>, call: &Opened, settled_at: i64) -> Result<bool> {
    insert_of(group, call, &calls(group, &call.request_uid)?, settled_at)
}

/// The same for a request that made this call alone.
pub(super) fn insert_only(group: &Group<'_>, call: &Opened, settled: &Settled) -> Result<()> {
    let calls = [(settled.status, settled.cost)];
    insert_of(group, call, &calls, settled.settled_at).map(drop)
}

fn insert_of(group: &Group<'_>, call: &Opened, calls: &[(Status, CallCost)], settled_at: i64) -> Result<bool> {
    if !calls.iter().any(|(status, cost)| has_row(*status, *cost)) {
        return Ok(false);
    }
    let costs: Vec<CallCost> = calls.iter().map(|(_, cost)| *cost).collect();
    let (bill, terms) = (Bill::of(&costs, &call.terms), &call.terms);
    let mut insert = group.prepare_cached(
        "INSERT INTO usage_requests (request_uid, request_id, parent_request_id, tenant_id, token_id, user_id, model,
            source, available, billed_eur, billed_usd, upstream_usd, rate, rate_source, fx_markup, cost_markup_factor,
            settled_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?;
    insert.execute(params![
        call.request_uid,
        call.request_id,
        call.parent_request_id,
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
        settled_at,
    ])?;
    let sum = Sum {
        requests: 1,
        eur_cents: hours::cents(bill.eur),
        usd_cents: hours::cents(bill.usd),
        upstream_usd: bill.upstream_usd,
    };
    let line = Line { at: settled_at, model: call.model.clone(), source: bill.source.as_str().to_owned(), sum };
    group.add(|hours: &mut Hours| hours.add(&call.tenant_id, line));
    Ok(true)
}

/// Whether a request with this call has a row: it got something, or it cost something.
pub(crate) fn has_row(status: Status, cost: CallCost) -> bool {
    status != Status::Failed || !cost.eur_exact.is_zero()
}

/// The settled calls of a request.
fn calls(connection: &Connection, request_uid: &str) -> Result<Vec<(Status, CallCost)>> {
    let mut select = connection.prepare_cached(
        "SELECT status, source, upstream_usd, eur_exact FROM usage_calls
         WHERE (call_id = ?1 OR request_uid = ?1 AND request_uid <> call_id) AND state = 'settled' ORDER BY call_id",
    )?;
    let read = |row: &Row<'_>| {
        let (status, source): (String, String) = (row.get(0)?, row.get(1)?);
        let status = Status::from_word(&status).ok_or_else(|| not_ours(0))?;
        let source = Source::from_word(&source).ok_or_else(|| not_ours(1))?;
        let upstream_usd = row.get::<_, Option<String>>(2)?.map(|text| decimal(&text, 2)).transpose()?;
        let eur_exact = decimal(&row.get::<_, String>(3)?, 3)?;
        Ok((status, CallCost { source, upstream_usd, eur_exact }))
    };
    select.query_map([request_uid], read)?.collect()
}

/// An amount of a column.
pub(crate) fn decimal(text: &str, column: usize) -> Result<Decimal> {
    text.parse().map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// Text of a column that the gateway does not write.
fn not_ours(column: usize) -> Error {
    Error::InvalidColumnType(column, "a word".to_owned(), Type::Text)
}
