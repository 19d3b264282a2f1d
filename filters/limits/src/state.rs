//! What the filters share.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use dgx_gateway_filter::clock::Clock;
use dgx_gateway_filter::{BuildEnv, BuildError};
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::address;
use crate::bucket::{BucketMap, Key, MapMetrics, Rate};
use crate::buckets::{Asked, Buckets};
use crate::config::CheckedLimits;
use crate::events::{LimitKind, Refusals};
use crate::shared::{SharedStore, StoreAddress};

/// Buckets of bearers. Only known tokens have one, so this is far above any real catalog (10,000 tokens). Full, the
/// map takes about 30 MiB.
const MAX_BEARERS: usize = 131_072;

/// Buckets of addresses, for failures and for public pages each. An attacker chooses the addresses: this bounds the
/// memory to about 15 MiB each, and [`BucketMap`] says what happens beyond it.
const MAX_ADDRESSES: usize = 65_536;

/// Buckets of tenants. Only tenants of the catalog have one.
const MAX_TENANTS: usize = 65_536;

/// The settings of one configuration, and the state that all configurations share.
pub struct Limits {
    settings: CheckedLimits,
    state: Arc<LimitState>,
}

/// Buckets and metrics. Lives as long as the process: no bucket starts anew because a file changed. The store stays
/// the one of the start.
pub struct LimitState {
    /// Where the store is.
    address: Option<StoreAddress>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) requests: Buckets,
    pub(crate) tokens: Buckets,
    pub(crate) failures: Buckets,
    pub(crate) public: Buckets,
    pub(crate) refusals: Refusals,
    /// Shared by all, where one is configured.
    pub(crate) store: Option<Arc<SharedStore>>,
}

impl Deref for Limits {
    type Target = LimitState;

    fn deref(&self) -> &LimitState {
        &self.state
    }
}

impl LimitState {
    fn new(settings: &CheckedLimits, env: &mut BuildEnv) -> Result<Self, BuildError> {
        let buckets = Opts::new("dgx_gateway_rate_limit_buckets", "Buckets held in memory; full ones are forgotten.");
        let buckets = IntGaugeVec::new(buckets, &["kind"])?;
        let overflow = Opts::new(
            "dgx_gateway_rate_limit_shared_takes_total",
            "Takes from a shared bucket, because the map of buckets was at its cap.",
        );
        let overflow = IntCounterVec::new(overflow, &["kind"])?;
        env.metrics.register(Box::new(buckets.clone()))?;
        env.metrics.register(Box::new(overflow.clone()))?;
        let refusals = Refusals::register(&env.metrics)?;
        let store = match settings.store.clone() {
            Some(address) => {
                let client = address.client().map_err(|error| BuildError::Part(Box::new(error)))?;
                Some(SharedStore::new(client, env)?)
            }
            None => None,
        };
        let now = env.clock.now();
        let of_kind = |cap, kind: LimitKind| {
            let label = [kind.label()];
            let shared_takes = overflow.with_label_values(&label);
            let metrics = MapMetrics { buckets: buckets.with_label_values(&label), shared_takes };
            Buckets { kind, local: BucketMap::new(cap, now, metrics), shared: store.clone() }
        };
        Ok(Self {
            address: settings.store.clone(),
            clock: Arc::clone(&env.clock),
            requests: of_kind(MAX_BEARERS, LimitKind::Requests),
            tokens: of_kind(MAX_TENANTS, LimitKind::Tokens),
            failures: of_kind(MAX_ADDRESSES, LimitKind::Auth),
            public: of_kind(MAX_ADDRESSES, LimitKind::Public),
            refusals,
            store,
        })
    }
}

impl Limits {
    /// Takes the state over from the configuration before, or makes it. Levels stay as they are.
    pub(crate) fn new(settings: CheckedLimits, env: &mut BuildEnv) -> Result<Self, BuildError> {
        let state = match env.previous::<Self>() {
            Some(previous) => Arc::clone(&previous.state),
            None => Arc::new(LimitState::new(&settings, env)?),
        };
        if state.address != settings.store {
            env.restart_needed("limits.store");
        }
        if let Some(store) = &state.store {
            env.health.add(store.health());
        }
        Ok(Self { settings, state })
    }

    pub(crate) fn settings(&self) -> &CheckedLimits {
        &self.settings
    }

    /// A question about the bucket of a key.
    pub(crate) fn asked(&self, key: Key, rate: Rate, route: &str) -> Asked {
        let settings = self.settings();
        // without a store nobody asks what holds when it is down
        let without_store = settings.on_store_failure.of(route);
        Asked { key, rate, now: self.clock.now(), without_store, replicas: settings.expected_replicas }
    }

    /// A question about the bucket of a client address.
    pub(crate) fn asked_of(&self, client: Option<IpAddr>, rate: Rate, route: &str) -> Asked {
        self.asked(address::key(client), rate, route)
    }
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").field("settings", &self.settings).finish_non_exhaustive()
    }
}
