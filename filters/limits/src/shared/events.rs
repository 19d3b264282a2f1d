//! What is logged and counted about the store, together.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// Why a step was not carried out by the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Too many steps are in flight.
    Busy,
    /// No connection could be made, or the one there was broke.
    Connection,
    /// The store is known to be down, so it was not asked.
    Open,
    /// The store answered with an error.
    Refused,
    /// Too many settlements wait; one was dropped.
    Settlement,
    /// No answer in time.
    Timeout,
}

impl Cause {
    fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Connection => "connection",
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Settlement => "settlement",
            Self::Timeout => "timeout",
        }
    }
}

/// The metrics of the store, and its log lines: one per change.
#[derive(Clone, Debug)]
pub(super) struct StoreEvents {
    failures: IntCounterVec,
    up: IntGauge,
}

impl StoreEvents {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let failures = Opts::new(
            "dgx_gateway_rate_limit_store_failures_total",
            "Steps on shared buckets that the store did not carry out.",
        );
        let failures = IntCounterVec::new(failures, &["cause"])?;
        let up = IntGauge::new("dgx_gateway_rate_limit_store_up", "1 while the store of shared limits answers.")?;
        registry.register(Box::new(failures.clone()))?;
        registry.register(Box::new(up.clone()))?;
        Ok(Self { failures, up })
    }

    pub(super) fn failed(&self, cause: Cause) {
        self.failures.with_label_values(&[cause.label()]).inc();
    }

    pub(super) fn answers(&self) {
        self.up.set(1);
        tracing::info!("the store of shared limits answers");
    }

    /// `detail` is a word of the client library's, never a text with an address in it.
    pub(super) fn is_down(&self, cause: Cause, detail: &str) {
        self.up.set(0);
        tracing::warn!(cause = cause.label(), detail, "the store of shared limits is down");
    }
}
