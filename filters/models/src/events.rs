//! Metrics of model calls. Labels are words of the catalog only: what a client invents never becomes one.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::attempts::{Came, word};

/// Counters and gauges of model calls.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    attempts: IntCounterVec,
    fallbacks: IntCounterVec,
    up: IntGaugeVec,
    in_flight: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            attempts: IntCounterVec::new(
                Opts::new("dgx_gateway_upstream_attempts_total", "Attempts at backends."),
                &["backend", "model", "result"],
            )?,
            fallbacks: IntCounterVec::new(
                Opts::new(
                    "dgx_gateway_upstream_fallbacks_total",
                    "Requests that another backend than the first one served.",
                ),
                &["model", "backend"],
            )?,
            up: IntGaugeVec::new(
                Opts::new("dgx_gateway_backend_up", "1 when the backend was alive when last seen."),
                &["backend", "domain"],
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new("dgx_gateway_backend_in_flight", "Requests running on the backend."),
                &["backend"],
            )?,
        };
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.fallbacks.clone()))?;
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        Ok(metrics)
    }

    /// An attempt has come to something.
    pub(crate) fn attempt(&self, backend: &str, model: &str, came: Came) {
        let result = match came {
            Came::Failed(failure) => word(failure),
            Came::Status(200..=299) => "ok",
            Came::Status(429) => "status_429",
            Came::Status(500..) => "status_5xx",
            Came::Status(_) => "status_4xx",
        };
        self.attempts.with_label_values(&[backend, model, result]).inc();
    }

    /// A backend served that was not the first.
    pub(crate) fn fallback(&self, model: &str, backend: &str) {
        self.fallbacks.with_label_values(&[model, backend]).inc();
    }

    /// A backend was looked at.
    pub(crate) fn seen(&self, backend: &str, domain: &str, up: bool, in_flight: i64) {
        self.up.with_label_values(&[backend, domain]).set(i64::from(up));
        self.in_flight.with_label_values(&[backend]).set(in_flight);
    }
}
