//! The key `limits` of the configuration file.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::services::AuthFailures;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::auth_failures::FailureLimit;
use crate::bucket::Rate;
use crate::failure::FailureRules;
use crate::fair;
use crate::shared::StoreAddress;
use crate::state::Limits;

/// Refill per second that makes sense: from one request in eleven days to a million per second.
const PER_SECOND: RangeInclusive<f64> = 0.000_001..=1_000_000.0;

/// Capacities that make sense; 0 would refuse everything, which is not what a limit is for.
const BURST: RangeInclusive<u32> = 1..=1_000_000;

/// The service behind the key `limits`.
#[derive(Debug)]
pub struct Service;

/// Top-level keys of this crate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How often clients may ask.
    pub limits: LimitSettings,
}

/// Limits that hold for all tokens unless a token has its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Requests per second and bearer that flow back into its bucket; 0.000001 to 1000000, fractions allowed.
    /// Default 1. `RATE_LIMIT_PER_SECOND` takes precedence.
    pub per_second: f64,
    /// Requests that a bearer may send at once; 1 to 1000000. Default 30. `RATE_LIMIT_BURST` takes precedence.
    pub burst: u32,
    /// URL of a Redis server whose buckets several processes share: `redis://[user:password@]host[:port][/database]`,
    /// or `rediss://` with TLS. It is connected to in the background; a start does not wait for it. Default null:
    /// limits count per process. `DGX_GATEWAY_REDIS_URL` takes precedence.
    pub store: Option<StoreAddress>,
    /// What happens while the shared store is down: `closed` refuses with 503, `local_share` lets each process count
    /// for itself with its share of the limit. One value, or a mapping from path prefixes (whole segments of the
    /// path of a route; the longest counts) to values; paths without one have `local_share`. Default `local_share`.
    /// Without effect while `store` is null.
    pub on_store_failure: OnStoreFailure,
    /// Processes that share the store, 1 to 10000; `local_share` divides by it. Default 1.
    pub expected_replicas: u32,
    /// Longest time in milliseconds that a request waits for slots, over all its attempts, before it is refused with 503;
    /// 1 to 3600000. Default 30000.
    pub queue_timeout_ms: u64,
    /// Failed authentications per client address.
    pub auth_failures: AuthFailureSettings,
}

/// Failed authentications that a client address (IPv6: a /64) is allowed before it is answered 429.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthFailureSettings {
    /// Failures per minute that flow back; 1 to 1000000. Default 30.
    pub per_minute: u32,
    /// Failures at once; 1 to 1000000. Default 10.
    pub burst: u32,
}

/// One rule for all paths, or one per path prefix.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(untagged)]
pub enum OnStoreFailure {
    /// For all paths.
    All(StoreFailure),
    /// By path prefix.
    ByPrefix(BTreeMap<String, StoreFailure>),
}

/// What happens when the shared store is down.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum StoreFailure {
    /// Requests are refused with 503.
    Closed,
    /// Each machine counts for itself with its share of the limit.
    LocalShare,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            per_second: 1.0,
            burst: 30,
            store: None,
            on_store_failure: OnStoreFailure::All(StoreFailure::LocalShare),
            expected_replicas: 1,
            queue_timeout_ms: 30_000,
            auth_failures: AuthFailureSettings::default(),
        }
    }
}

impl Default for AuthFailureSettings {
    fn default() -> Self {
        Self { per_minute: 30, burst: 10 }
    }
}

/// Limits in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedLimits {
    /// Bucket of a token without its own limit.
    pub requests: Rate,
    /// Bucket of failed authentications per client address.
    pub auth_failures: Rate,
    /// Longest wait in the fair queue.
    pub queue_timeout: Duration,
    /// Store of shared buckets; its URL is valid.
    pub store: Option<StoreAddress>,
    /// What holds while the store is down.
    pub on_store_failure: FailureRules,
    /// Processes that share the store.
    pub expected_replicas: u32,
}

impl ServiceKind for Service {
    const NAME: &'static str = "limits";
    const KEYS: &'static [&'static str] = &["limits"];
    type Settings = Settings;
    type Checked = CheckedLimits;

    fn check(settings: Settings, ambient: &Ambient) -> Result<CheckedLimits, Vec<Problem>> {
        let raw = settings.limits;
        let mut problems = Vec::new();
        let (per_second, per_second_key) =
            from_environment(ambient, "RATE_LIMIT_PER_SECOND", raw.per_second, "limits.per_second", &mut problems);
        let (burst, burst_key) =
            from_environment(ambient, "RATE_LIMIT_BURST", raw.burst, "limits.burst", &mut problems);
        in_range(&per_second, &PER_SECOND, per_second_key, &mut problems);
        in_range(&burst, &BURST, burst_key, &mut problems);
        in_range(&raw.auth_failures.per_minute, &BURST, "limits.auth_failures.per_minute", &mut problems);
        in_range(&raw.auth_failures.burst, &BURST, "limits.auth_failures.burst", &mut problems);
        in_range(&raw.expected_replicas, &(1..=10_000), "limits.expected_replicas", &mut problems);
        in_range(&raw.queue_timeout_ms, &(1..=3_600_000), "limits.queue_timeout_ms", &mut problems);
        check_prefixes(&raw.on_store_failure, &mut problems);
        let store = check_store(raw.store, ambient, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(CheckedLimits {
            requests: Rate::new(burst, per_second),
            auth_failures: Rate::per_minute(raw.auth_failures.burst, raw.auth_failures.per_minute),
            queue_timeout: Duration::from_millis(raw.queue_timeout_ms),
            store,
            on_store_failure: FailureRules::new(&raw.on_store_failure),
            expected_replicas: raw.expected_replicas,
        })
    }

    fn build(checked: CheckedLimits, env: &mut BuildEnv) -> Result<(), BuildError> {
        let limits = Arc::new(Limits::new(checked, env)?);
        let failures: Arc<dyn AuthFailures> = Arc::new(FailureLimit(Arc::clone(&limits)));
        env.provide(limits);
        env.provide(Arc::new(failures));
        fair::provide(env)
    }
}

/// The value that counts and the name under which its problems are told.
fn from_environment<T: FromStr>(
    ambient: &Ambient,
    variable: &'static str,
    from_file: T,
    key: &'static str,
    problems: &mut Vec<Problem>,
) -> (T, &'static str) {
    match ambient.var(variable).map(|text| text.trim().parse()) {
        None => (from_file, key),
        Some(Ok(value)) => (value, variable),
        Some(Err(_)) => {
            problems.push(Problem::at(variable, "is not a number that fits here"));
            (from_file, key)
        }
    }
}

fn in_range<T: PartialOrd + Display>(value: &T, range: &RangeInclusive<T>, key: &str, problems: &mut Vec<Problem>) {
    if !range.contains(value) {
        problems.push(Problem::at(key, format!("must be from {} to {}, is {value}", range.start(), range.end())));
    }
}

/// The store that counts. Its URL may hold a password, so no problem repeats it.
fn check_store(
    from_file: Option<StoreAddress>,
    ambient: &Ambient,
    problems: &mut Vec<Problem>,
) -> Option<StoreAddress> {
    const VARIABLE: &str = "DGX_GATEWAY_REDIS_URL";
    let (store, key) = match ambient.secret(VARIABLE) {
        Ok(None) => (from_file?, "limits.store"),
        Ok(Some(url)) => (StoreAddress::new(url), VARIABLE),
        Err(_) => {
            problems.push(Problem::at(format!("{VARIABLE}_FILE"), "names a file that cannot be read"));
            return None;
        }
    };
    if let Err(error) = store.client() {
        problems.push(Problem::at(key, error.to_string()));
    }
    Some(store)
}

fn check_prefixes(rules: &OnStoreFailure, problems: &mut Vec<Problem>) {
    let OnStoreFailure::ByPrefix(rules) = rules else { return };
    for prefix in rules.keys().filter(|prefix| !prefix.starts_with('/')) {
        let key = format!("limits.on_store_failure.{prefix}");
        problems.push(Problem::at(key, "a path prefix begins with /"));
    }
}

#[cfg(test)]
mod tests;
