//! Looks for newer rates, and shows the one in use.

use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge, Registry};
use rust_decimal::prelude::ToPrimitive;

use super::{Exchange, Refused};

/// How long after a look that failed the next one comes, if that is not due earlier.
const RETRY: Duration = Duration::from_mins(15);
const HOUR: u64 = 3600;

/// Looks now and every `refresh_hours`; for the life of the process.
pub(crate) async fn watch(exchange: Arc<Exchange>) {
    loop {
        let rules = exchange.rules.load_full();
        let refresh = Duration::from_secs(HOUR * u64::from(rules.refresh_hours));
        let wait = match &rules.source {
            None => refresh,
            Some(_) if exchange.look().await => refresh,
            Some(_) => refresh.min(RETRY),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = exchange.changed.notified() => {}
        }
    }
}

impl Exchange {
    /// Asks the source once; whether that led to a rate that is at least as new.
    pub(super) async fn look(self: &Arc<Self>) -> bool {
        let rules = self.rules.load_full();
        let Some(source) = &rules.source else { return false };
        let document = match source.get().await {
            Ok(document) => document,
            Err(error) => {
                tracing::warn!(%error, fx.used = %self.rate().source, "no new exchange rate could be had");
                return false;
            }
        };
        let this = Arc::clone(self);
        match tokio::task::spawn_blocking(move || this.offer(&document)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error @ (Refused::Document(_) | Refused::Future(_) | Refused::NotKept(_) | Refused::Older(_)))) => {
                tracing::warn!(%error, fx.used = %self.rate().source, "an exchange rate was left aside");
                false
            }
            Err(error) => {
                tracing::error!(%error, "an exchange rate could not be taken");
                false
            }
        }
    }
}

/// The rate in use, read when it is asked for.
pub(crate) struct Gauges {
    exchange: Weak<Exchange>,
    rate: Gauge,
    stale: IntGauge,
}

impl Gauges {
    pub(crate) fn register(registry: &Registry, exchange: &Arc<Exchange>) -> Result<(), prometheus::Error> {
        registry.register(Box::new(Self {
            exchange: Arc::downgrade(exchange),
            rate: Gauge::new("dgx_gateway_fx_rate_eur_per_usd", "Euros per US dollar that are billed.")?,
            stale: IntGauge::new("dgx_gateway_fx_stale", "1 when the exchange rate is older than fx.max_age_days.")?,
        }))
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.rate.desc().into_iter().chain(self.stale.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(exchange) = self.exchange.upgrade() {
            // for the eye alone: nothing is billed by it
            self.rate.set(exchange.rate().eur_per_usd.to_f64().unwrap_or_default());
            self.stale.set(i64::from(exchange.is_stale()));
        }
        self.rate.collect().into_iter().chain(self.stale.collect()).collect()
    }
}
