//! What the queue tells of itself. Labels are those of the configured backends.

use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry};

use super::slots::Slots;

/// From a wait that nobody notices to the longest that can be configured, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 120.0, 3600.0];

/// The histogram `dgx_gateway_queue_wait_seconds`: every call that needed a slot, those that did not wait and those
/// that left or gave up included.
#[derive(Clone, Debug)]
pub(super) struct Waits(HistogramVec);

impl Waits {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Time that calls waited for a slot of a backend or of their tenant.";
        let opts = HistogramOpts::new("dgx_gateway_queue_wait_seconds", help).buckets(BUCKETS.to_vec());
        let waits = HistogramVec::new(opts, &["backend"])?;
        registry.register(Box::new(waits.clone()))?;
        Ok(Self(waits))
    }

    pub(super) fn record(&self, backend: &str, waited: Duration) {
        self.0.with_label_values(&[backend]).observe(waited.as_secs_f64());
    }
}

/// The gauge `dgx_gateway_queue_depth`, read when it is asked for. A call that waits at several backends counts at each.
pub(super) struct Depths {
    slots: Weak<Slots>,
    depths: IntGaugeVec,
}

impl Depths {
    pub(super) fn register(registry: &Registry, slots: &Arc<Slots>) -> Result<(), prometheus::Error> {
        let opts =
            Opts::new("dgx_gateway_queue_depth", "Calls that wait for a slot of the backend or of their tenant.");
        let depths = IntGaugeVec::new(opts, &["backend"])?;
        registry.register(Box::new(Self { slots: Arc::downgrade(slots), depths }))
    }
}

impl Collector for Depths {
    fn desc(&self) -> Vec<&Desc> {
        self.depths.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(slots) = self.slots.upgrade() else { return Vec::new() };
        self.depths.reset(); // a backend that is gone is not one where nobody waits
        for (backend, waiting) in slots.depths() {
            self.depths.with_label_values(&[&*backend]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
        }
        self.depths.collect()
    }
}
