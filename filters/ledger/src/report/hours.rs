//! Sums of hours: kept with each request, read for reports.

use std::collections::BTreeMap;

use dgx_gateway_store::Together;
use dgx_gateway_store::rusqlite::{Connection, OptionalExtension, Result, Row, params};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::Sum;
use super::period::{Granularity, HOUR};
use crate::rows::decimal;

/// What requests of one model and one source cost within an hour, or some part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// A moment of that hour, in milliseconds of UTC.
    pub at: i64,
    pub model: String,
    pub source: String,
    pub sum: Sum,
}

/// What the requests of one transaction add to the sums of their hours: written once, however many they are.
#[derive(Debug, Default)]
pub(crate) struct Hours(BTreeMap<(String, i64, String, String), Sum>);

impl Hours {
    /// Adds a request of a tenant.
    pub(crate) fn add(&mut self, tenant: &str, line: Line) {
        let hour = Granularity::Hour.begin(line.at);
        self.0.entry((tenant.to_owned(), hour, line.model, line.source)).or_default().add(&line.sum);
    }
}

impl Together for Hours {
    fn write(self, connection: &Connection) -> Result<()> {
        let mut select = connection.prepare_cached(
            "SELECT requests, eur_cents, usd_cents, upstream_usd FROM usage_hours
             WHERE tenant_id = ?1 AND hour = ?2 AND model = ?3 AND source = ?4",
        )?;
        let mut replace = connection.prepare_cached(
            "INSERT OR REPLACE INTO usage_hours (tenant_id, hour, model, source, requests, eur_cents, usd_cents,
                upstream_usd)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        for ((tenant, hour, model, source), more) in self.0 {
            let known = select.query_row(params![tenant, hour, model, source], |row| sum(row, 0)).optional()?;
            let mut total = known.unwrap_or_default();
            total.add(&more);
            let requests = i64::try_from(total.requests).unwrap_or(i64::MAX);
            let upstream_usd = total.upstream_usd.normalize().to_string();
            replace.execute(params![
                tenant,
                hour,
                model,
                source,
                requests,
                total.eur_cents,
                total.usd_cents,
                upstream_usd
            ])?;
        }
        Ok(())
    }
}

/// Sums up the requests of a version that kept no sums; once, when there are none yet.
pub(crate) fn sum_up(connection: &Connection) -> Result<()> {
    let has = |table: &str| {
        let any = format!("SELECT EXISTS (SELECT 1 FROM {table})");
        connection.query_row(&any, [], |row| row.get::<_, bool>(0))
    };
    if has("usage_hours")? || !has("usage_requests")? {
        return Ok(());
    }
    let mut select = connection.prepare(
        "SELECT settled_at, model, source, billed_eur, billed_usd, upstream_usd, tenant_id FROM usage_requests",
    )?;
    let mut rows = select.query([])?;
    let mut hours = Hours::default();
    while let Some(row) = rows.next()? {
        hours.add(&row.get::<_, String>(6)?, request(row)?);
    }
    hours.write(connection)
}

/// What a tenant was billed from one moment until before another, in milliseconds of UTC.
pub(super) fn read(connection: &Connection, tenant: &str, from: i64, to: i64) -> Result<Vec<Line>> {
    let first = whole_from(connection, tenant, from)?;
    let last = whole_until(connection, tenant, to)?;
    if first >= last {
        return requests(connection, tenant, from, to);
    }
    let mut lines = if from < first { requests(connection, tenant, from, first)? } else { Vec::new() };
    let mut select = connection.prepare_cached(
        "SELECT hour, model, source, requests, eur_cents, usd_cents, upstream_usd FROM usage_hours
         WHERE tenant_id = ?1 AND hour >= ?2 AND hour < ?3 ORDER BY hour",
    )?;
    let line = |row: &Row<'_>| Ok(Line { at: row.get(0)?, model: row.get(1)?, source: row.get(2)?, sum: sum(row, 3)? });
    for found in select.query_map(params![tenant, first, last], line)? {
        lines.push(found?);
    }
    if last < to {
        lines.extend(requests(connection, tenant, last, to)?);
    }
    Ok(lines)
}

/// From which hour on the sums count: the one of `from`, if it holds nothing before that moment.
fn whole_from(connection: &Connection, tenant: &str, from: i64) -> Result<i64> {
    let hour = Granularity::Hour.begin(from);
    Ok(if any(connection, tenant, hour, from)? { hour.saturating_add(HOUR) } else { hour })
}

/// Until before which hour the sums count: behind the one of `to`, if it holds nothing from that moment on. So an hour that
/// runs is not counted request by request in a report until now.
fn whole_until(connection: &Connection, tenant: &str, to: i64) -> Result<i64> {
    let (hour, next) = (Granularity::Hour.begin(to), Granularity::Hour.begin(to).saturating_add(HOUR));
    Ok(if hour == to || any(connection, tenant, to, next)? { hour } else { next })
}

/// Whether a tenant has a request from one moment until before another.
fn any(connection: &Connection, tenant: &str, from: i64, to: i64) -> Result<bool> {
    if from >= to {
        return Ok(false);
    }
    let mut select = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM usage_requests WHERE tenant_id = ?1 AND settled_at >= ?2 AND settled_at < ?3)",
    )?;
    select.query_row(params![tenant, from, to], |row| row.get(0))
}

/// The same from the rows of requests: summed up by hour while they are read, however many they are.
pub(super) fn requests(connection: &Connection, tenant: &str, from: i64, to: i64) -> Result<Vec<Line>> {
    let mut select = connection.prepare_cached(
        "SELECT settled_at, model, source, billed_eur, billed_usd, upstream_usd FROM usage_requests
         WHERE tenant_id = ?1 AND settled_at >= ?2 AND settled_at < ?3",
    )?;
    let mut sums: BTreeMap<(i64, String, String), Sum> = BTreeMap::new();
    for line in select.query_map(params![tenant, from, to], request)? {
        let Line { at, model, source, sum } = line?;
        sums.entry((Granularity::Hour.begin(at), model, source)).or_default().add(&sum);
    }
    Ok(sums.into_iter().map(|((at, model, source), sum)| Line { at, model, source, sum }).collect())
}

fn request(row: &Row<'_>) -> Result<Line> {
    let amount = |column| decimal(&row.get::<_, String>(column)?, column);
    let sum = Sum { requests: 1, eur_cents: cents(amount(3)?), usd_cents: cents(amount(4)?), upstream_usd: amount(5)? };
    Ok(Line { at: row.get(0)?, model: row.get(1)?, source: row.get(2)?, sum })
}

fn sum(row: &Row<'_>, at: usize) -> Result<Sum> {
    Ok(Sum {
        requests: u64::try_from(row.get::<_, i64>(at)?).unwrap_or_default(),
        eur_cents: row.get(at + 1)?,
        usd_cents: row.get(at + 2)?,
        upstream_usd: decimal(&row.get::<_, String>(at + 3)?, at + 3)?,
    })
}

/// Whole cents of an amount that has no others; more than any integer holds is not billed.
pub(crate) fn cents(amount: Decimal) -> i64 {
    amount.checked_mul(Decimal::ONE_HUNDRED).and_then(|cents| cents.to_i64()).unwrap_or(i64::MAX)
}
