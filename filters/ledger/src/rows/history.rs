//! What calls used, by slug: for budgets, which begin with what the rows say.

use std::sync::Arc;

use dgx_gateway_filter::budget::{Amounts, UsedBySlug};
use dgx_gateway_store::rusqlite::{Connection, Result, params};

/// A row counts no more than this, so that sums of absurd reports still fit: a quadrillion.
const MOST: i64 = 1_000_000_000_000_000;

/// Sums of the settled calls of a tenant whose requests began within a time, in milliseconds of UTC. The tokens of a
/// request are those of its calls, its cents those of its bill; a request without a row got nothing and counts as none.
pub(crate) fn used(connection: &Connection, tenant_id: &str, from: i64, to: i64) -> Result<Vec<UsedBySlug>> {
    let mut select = connection.prepare(
        "SELECT model, base, coalesce(sum(cents), 0), count(cents), sum(tokens) FROM (
            SELECT min(model) AS model, min(coalesce(alias, model)) AS base,
                sum(min(prompt_tokens, ?4) + min(completion_tokens, ?4)) AS tokens,
                (SELECT min(CAST(replace(billed_eur, '.', '') AS INTEGER), ?4) FROM usage_requests AS bill
                    WHERE bill.request_uid = call.request_uid) AS cents
            FROM usage_calls AS call
            WHERE tenant_id = ?1 AND coalesce(began, started_at) >= ?2 AND coalesce(began, started_at) < ?3
                AND state = 'settled'
            GROUP BY request_uid)
         GROUP BY model, base",
    )?;
    let rows = select.query_map(params![tenant_id, from, to, MOST], |row| {
        let number = |column: usize| row.get(column).map(|number: i64| u64::try_from(number).unwrap_or_default());
        Ok(UsedBySlug {
            slug: Arc::from(row.get::<_, String>(0)?),
            alias: Arc::from(row.get::<_, String>(1)?),
            used: Amounts { cents: number(2)?, requests: number(3)?, tokens: number(4)? },
        })
    })?;
    rows.collect()
}
