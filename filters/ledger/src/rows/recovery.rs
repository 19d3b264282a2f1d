//! Calls that a process left open when it died.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use dgx_gateway_filter::money::{CallTarget, Terms};
use dgx_gateway_store::Group;
use dgx_gateway_store::rusqlite::{Connection, Result, Row};

use super::request::{self, decimal};
use super::{Opened, Settled, settle_call};

/// A call that is open.
#[derive(Debug)]
pub(crate) struct LeftOpen {
    pub call: Opened,
    pub instance: String,
}

/// All calls that are open, of whichever process. `terms` are those of calls that were opened by a version which did not
/// write them down.
pub(crate) fn left_open(connection: &Connection, terms: &Terms) -> Result<Vec<LeftOpen>> {
    let mut select = connection.prepare(
        "SELECT call_id, request_uid, request_id, tenant_id, token_id, user_id, model, prompt_tokens, started_at,
            instance, backend_id, upstream_model, local, began, rate, rate_source, fx_markup, cost_markup_factor,
            parent_request_id
         FROM usage_calls WHERE state = 'reserved'",
    )?;
    let read = |row: &Row<'_>| {
        let call = Opened {
            call_id: row.get(0)?,
            request_uid: row.get(1)?,
            request_id: row.get(2)?,
            parent_request_id: row.get(18)?,
            tenant_id: row.get(3)?,
            token_id: row.get(4)?,
            user_id: row.get(5)?,
            model: row.get(6)?,
            alias: None, // it is in the row already
            prompt_estimate: u64::try_from(row.get::<_, i64>(7)?).unwrap_or_default(),
            started_at: row.get(8)?,
            target: target(row)?,
            terms: self::terms(row)?.unwrap_or_else(|| terms.clone()),
        };
        Ok(LeftOpen { call, instance: row.get(9)? })
    };
    select.query_map([], read)?.collect()
}

fn target(row: &Row<'_>) -> Result<Option<CallTarget>> {
    let (backend, model): (Option<String>, Option<String>) = (row.get(10)?, row.get(11)?);
    let local = row.get::<_, Option<bool>>(12)?.unwrap_or_default();
    let target = |(backend, model): (String, String)| CallTarget {
        backend_id: backend.into(),
        upstream_model: model.into(),
        local,
    };
    Ok(backend.zip(model).map(target))
}

fn terms(row: &Row<'_>) -> Result<Option<Terms>> {
    let Some(began) = row.get::<_, Option<i64>>(13)? else { return Ok(None) };
    let amount = |column| decimal(&row.get::<_, String>(column)?, column);
    Ok(Some(Terms {
        began: UNIX_EPOCH + Duration::from_millis(u64::try_from(began).unwrap_or_default()),
        rate: amount(14)?,
        rate_source: row.get::<_, String>(15)?.into(),
        fx_markup: amount(16)?,
        factor: amount(17)?,
    }))
}

/// Settles calls that nobody is left to settle, and their requests with them. A request of which another call is open
/// still is left to whoever holds that.
pub(crate) fn settle_left_open(group: &Group<'_>, settled: &[(&Opened, Settled)]) -> Result<()> {
    let mut requests = BTreeMap::new();
    for (call, settled) in settled {
        settle_call(group, call, settled)?;
        requests.insert(&call.request_uid, (call, settled.settled_at));
    }
    let mut open = group.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM usage_calls
            WHERE (call_id = ?1 OR request_uid = ?1 AND request_uid <> call_id) AND state = 'reserved')",
    )?;
    for (uid, (call, settled_at)) in requests {
        if !open.query_row([uid], |row| row.get(0))? {
            request::insert(group, call, settled_at)?;
        }
    }
    Ok(())
}
