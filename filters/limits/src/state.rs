//! What the filters of this crate share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::{BuildEnv, BuildError};
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::bucket::{BucketMap, MapMetrics};
use crate::config::CheckedLimits;
use crate::events::Refusals;

/// Buckets of bearers. Only known tokens have one, so this is far above any real catalog (10,000 tokens). Full, the
/// map takes about 15 MiB.
const MAX_BEARERS: usize = 131_072;

/// Buckets of addresses, for failures and for public pages each. An attacker chooses the addresses: this bounds the
/// memory to about 8 MiB each, and [`BucketMap`] says what happens beyond it.
const MAX_ADDRESSES: usize = 65_536;

/// Settings, buckets and metrics. Lives as long as the process: a reload swaps the settings, and no bucket starts
/// anew because a file changed.
pub struct Limits {
    settings: ArcSwap<CheckedLimits>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) requests: BucketMap,
    pub(crate) failures: BucketMap,
    pub(crate) public: BucketMap,
    pub(crate) refusals: Refusals,
}

impl Limits {
    pub(crate) fn new(settings: CheckedLimits, env: &BuildEnv) -> Result<Self, BuildError> {
        let buckets = Opts::new("dgx_gateway_rate_limit_buckets", "Buckets held in memory; full ones are forgotten.");
        let buckets = IntGaugeVec::new(buckets, &["kind"])?;
        let shared = Opts::new(
            "dgx_gateway_rate_limit_shared_takes_total",
            "Takes from a shared bucket, because the map of buckets was at its cap.",
        );
        let shared = IntCounterVec::new(shared, &["kind"])?;
        env.metrics.register(Box::new(buckets.clone()))?;
        env.metrics.register(Box::new(shared.clone()))?;
        let map = |cap, kind| {
            let shared_takes = shared.with_label_values(&[kind]);
            let metrics = MapMetrics { buckets: buckets.with_label_values(&[kind]), shared_takes };
            BucketMap::new(cap, env.clock.now(), metrics)
        };
        Ok(Self {
            settings: ArcSwap::from_pointee(settings),
            clock: Arc::clone(&env.clock),
            requests: map(MAX_BEARERS, "requests"),
            failures: map(MAX_ADDRESSES, "auth"),
            public: map(MAX_ADDRESSES, "public"),
            refusals: Refusals::register(&env.metrics)?,
        })
    }

    /// Swaps the settings, after a reload. Levels stay as they are.
    pub fn replace(&self, settings: CheckedLimits) {
        self.settings.store(Arc::new(settings));
    }

    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<CheckedLimits>> {
        self.settings.load()
    }
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").field("settings", &self.settings).finish_non_exhaustive()
    }
}
