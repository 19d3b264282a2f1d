//! What is told of a request when it is settled: metrics and a record of the audit log.

use dgx_gateway_filter::FinishCx;
use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord, CostEvent};
use dgx_gateway_filter::facts::{Caller, Principal};
use prometheus::{CounterVec, HistogramOpts, HistogramVec, Opts, Registry};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use crate::money::Bill;
use crate::rows::{Opened, Settled};

/// Upper bounds of the costs of a request: from a free one to a dear one.
const BUCKETS: [f64; 12] = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0];

/// Counters of costs. Binary numbers, for the eye alone: nothing is billed by them.
pub(crate) struct Metrics {
    eur: CounterVec,
    usd: CounterVec,
    upstream_usd: CounterVec,
    request_eur: HistogramVec,
    request_usd: HistogramVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = CounterVec::new(Opts::new(name, help), &["tenant", "model", "source"])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let histogram = HistogramVec::new(options, &["model"])?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        Ok(Self {
            eur: counter("dgx_gateway_cost_eur_total", "Billed euros.")?,
            usd: counter("dgx_gateway_cost_usd_total", "Billed US dollars.")?,
            upstream_usd: counter("dgx_gateway_upstream_cost_usd_total", "US dollars at the upstreams.")?,
            request_eur: histogram("dgx_gateway_request_cost_eur", "Billed euros of a request.")?,
            request_usd: histogram("dgx_gateway_request_cost_usd", "Billed US dollars of a request.")?,
        })
    }
}

/// A request that was settled.
pub(crate) struct RequestSettled<'a> {
    /// Base alias, for metrics.
    pub alias: &'a str,
    pub call: &'a Opened,
    pub settled: &'a Settled,
    pub bill: &'a Bill,
}

impl RequestSettled<'_> {
    /// Counts it.
    pub(crate) fn count(&self, metrics: &Metrics) {
        let Self { alias, call, bill, .. } = self;
        let labels = [&*call.tenant_id, alias, bill.source.as_str()];
        for (counter, amount) in
            [(&metrics.eur, bill.eur), (&metrics.usd, bill.usd), (&metrics.upstream_usd, bill.upstream_usd)]
        {
            if !amount.is_zero() {
                counter.with_label_values(&labels).inc_by(shown(amount));
            }
        }
        metrics.request_eur.with_label_values(&[alias]).observe(shown(bill.eur));
        metrics.request_usd.with_label_values(&[alias]).observe(shown(bill.usd));
    }

    /// Writes it down.
    pub(crate) fn record(&self, audit: &dyn Audit, cx: &FinishCx<'_>) {
        let Self { call, settled, bill, .. } = self;
        let texts = [
            format!("{:.2}", bill.eur),
            format!("{:.2}", bill.usd),
            bill.upstream_usd.normalize().to_string(),
            call.terms.rate.to_string(),
        ];
        let [billed_eur, billed_usd, upstream_usd, exchange_rate] = &texts;
        let event = AuditEvent::Cost(CostEvent {
            model: Some(&call.model),
            resolved_model: settled.resolved_model.as_deref(),
            backend: settled.backend_label.as_deref(),
            calls: 1,
            prompt_tokens: settled.usage.prompt_tokens,
            completion_tokens: settled.usage.completion_tokens,
            cached_tokens: settled.usage.cached_tokens,
            source: bill.source.as_str(),
            available: bill.available,
            billed_eur,
            billed_usd,
            upstream_usd,
            exchange_rate,
            exchange_rate_source: &call.terms.rate_source,
            status: settled.status.as_str(),
        });
        let (caller, principal) = (cx.facts.get::<Caller>(), cx.facts.get::<Principal>());
        audit.record(&AuditRecord::of_request(cx.request, caller, principal, event));
    }
}

fn shown(amount: Decimal) -> f64 {
    amount.to_f64().unwrap_or_default()
}
