//! Metrics of model calls. Labels are words of the catalog only: what a client invents never becomes one.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::attempts::{Came, word};
use crate::measured::Measures;
use crate::service::Lasting;

/// Counters and gauges of model calls.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    attempts: IntCounterVec,
    fallbacks: IntCounterVec,
    retries_spent: IntCounterVec,
    /// Those with the names of the conventions.
    pub(crate) calls: Arc<Measures>,
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
            retries_spent: IntCounterVec::new(
                Opts::new(
                    "dgx_gateway_retry_budget_spent_total",
                    "Requests that failed although another backend was left, because the model may not be tried more often.",
                ),
                &["model"],
            )?,
            calls: Arc::new(Measures::register(registry)?),
        };
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.fallbacks.clone()))?;
        registry.register(Box::new(metrics.retries_spent.clone()))?;
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

    /// A request was not tried at a further backend.
    pub(crate) fn retries_spent(&self, model: &str) {
        self.retries_spent.with_label_values(&[model]).inc();
    }

    /// A backend served that was not the first.
    pub(crate) fn fallback(&self, model: &str, backend: &str) {
        self.fallbacks.with_label_values(&[model, backend]).inc();
    }
}

/// Gauges of backends, read when they are asked for.
pub(crate) struct BackendGauges {
    lasting: Arc<Lasting>,
    /// One at a time: the series are made anew.
    collecting: Mutex<()>,
    up: IntGaugeVec,
    in_flight: IntGaugeVec,
}

impl BackendGauges {
    pub(crate) fn register(registry: &Registry, lasting: &Arc<Lasting>) -> Result<(), prometheus::Error> {
        let up = Opts::new("dgx_gateway_backend_up", "1 when the backend was alive when last seen.");
        let in_flight = Opts::new("dgx_gateway_backend_in_flight", "Requests running on the backend.");
        registry.register(Box::new(Self {
            lasting: Arc::clone(lasting),
            collecting: Mutex::default(),
            up: IntGaugeVec::new(up, &["backend", "domain"])?,
            in_flight: IntGaugeVec::new(in_flight, &["backend"])?,
        }))
    }
}

impl Collector for BackendGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.up.desc().into_iter().chain(self.in_flight.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _alone = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.up.reset();
        self.in_flight.reset();
        if let Some(service) = self.lasting.current() {
            for backend in &service.catalog.load().backends {
                self.up.with_label_values(&[&*backend.label, backend.domain.as_str()]).set(i64::from(backend.is_up()));
                self.in_flight.with_label_values(&[&*backend.label]).set(backend.in_flight());
            }
        }
        self.up.collect().into_iter().chain(self.in_flight.collect()).collect()
    }
}
