//! The report as JSON. Amounts are numbers as they stand in the ledger; no binary number lies between.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Bucket, Period, Sum};

/// Name of requests without a model.
const UNKNOWN: &str = "(unknown)";

/// A decimal text that is written as a number.
struct Number(String);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.clone()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// The answer.
#[derive(Serialize)]
pub(super) struct Answer<'a> {
    tenant_id: &'a str,
    from: String,
    to: String,
    granularity: &'static str,
    bucket_count: usize,
    buckets: Vec<BucketAnswer<'a>>,
    total: Total,
}

#[derive(Serialize)]
struct BucketAnswer<'a> {
    bucket_start: String,
    bucket_end: String,
    total_requests: u64,
    total_cost_eur: Number,
    total_cost_usd: Number,
    total_upstream_cost_usd: Number,
    by_model: BTreeMap<&'a str, ModelAnswer>,
    by_cost_source: &'a BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct ModelAnswer {
    requests: u64,
    cost_eur: Number,
    cost_usd: Number,
    upstream_usd: Number,
}

#[derive(Serialize)]
struct Total {
    requests: u64,
    cost_eur: Number,
    cost_usd: Number,
    upstream_cost_usd: Number,
}

impl<'a> Answer<'a> {
    pub(super) fn new(tenant_id: &'a str, period: &Period, buckets: &'a BTreeMap<i64, Bucket>) -> Self {
        let mut total = Sum::default();
        buckets.values().for_each(|bucket| total.add(&bucket.all));
        let length = period.granularity.length();
        Self {
            tenant_id,
            from: moment(period.from),
            to: moment(period.to),
            granularity: period.granularity.as_str(),
            bucket_count: buckets.len(),
            buckets: buckets.iter().map(|(begin, bucket)| BucketAnswer::new(*begin, length, bucket)).collect(),
            total: Total {
                requests: total.requests,
                cost_eur: Number(total.eur()),
                cost_usd: Number(total.usd()),
                upstream_cost_usd: Number(total.upstream()),
            },
        }
    }
}

impl<'a> BucketAnswer<'a> {
    fn new(begin: i64, length: i64, bucket: &'a Bucket) -> Self {
        let at = |millis| Timestamp::from_millisecond(millis).unwrap_or_default();
        let model = |(model, sum): (&'a String, &Sum)| {
            let name = if model.is_empty() { UNKNOWN } else { model };
            let amounts = ModelAnswer {
                requests: sum.requests,
                cost_eur: Number(sum.eur()),
                cost_usd: Number(sum.usd()),
                upstream_usd: Number(sum.upstream()),
            };
            (name, amounts)
        };
        Self {
            bucket_start: moment(at(begin)),
            bucket_end: moment(at(begin.saturating_add(length))),
            total_requests: bucket.all.requests,
            total_cost_eur: Number(bucket.all.eur()),
            total_cost_usd: Number(bucket.all.usd()),
            total_upstream_cost_usd: Number(bucket.all.upstream()),
            by_model: bucket.by_model.iter().map(model).collect(),
            by_cost_source: &bucket.by_source,
        }
    }
}

/// A moment in UTC, with parts of a second where it has some.
fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.f+00:00").to_string()
}
