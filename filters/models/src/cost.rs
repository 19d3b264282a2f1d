//! What a call costs, as clients are told it: headers of an answer, an event of a stream.

use std::sync::Arc;

use bytes::Bytes;
use dgx_gateway_filter::facts::{Meter, ModelCall, Report};
use dgx_gateway_filter::money::Terms;
use dgx_gateway_filter::services::{Pricing, ShownCost};
use dgx_gateway_wire::answer::{CostMember, Stamp, StreamKind, cost_event, plain_decimal};
use http::{HeaderMap, HeaderName, HeaderValue};
use rust_decimal::Decimal;

const AVAILABLE: HeaderName = HeaderName::from_static("spass-cost-available");
const EUR: HeaderName = HeaderName::from_static("spass-cost-eur");
const USD: HeaderName = HeaderName::from_static("spass-cost-usd");
const SOURCE: HeaderName = HeaderName::from_static("spass-cost-source");
const RATE: HeaderName = HeaderName::from_static("spass-cost-exchange-rate");
const RATE_SOURCE: HeaderName = HeaderName::from_static("spass-cost-exchange-rate-source");
/// In which LiteLLM reports what a call cost, in US dollars.
const LITELLM: HeaderName = HeaderName::from_static("x-litellm-response-cost");
/// The source of a cost that nobody knows yet.
const UNKNOWN: &str = "unknown";
/// Longest amount that is believed.
const MAX_AMOUNT: usize = 32;

/// Seconds of audio from plain decimal text.
pub(crate) fn seconds(text: &str) -> Option<Decimal> {
    text.parse().ok()
}

/// The account of one attempt.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) meter: Arc<Meter>,
    pub(crate) call: Arc<ModelCall>,
    terms: Arc<Terms>,
    pricing: Arc<dyn Pricing>,
}

impl Account {
    /// Opens the account of an attempt.
    pub(crate) fn open(pricing: Arc<dyn Pricing>, terms: Arc<Terms>, call: ModelCall) -> Self {
        Self { meter: Arc::default(), call: Arc::new(call), terms, pricing }
    }

    /// Takes what the head of an answer reports.
    pub(crate) fn read_head(&self, headers: &HeaderMap) {
        let text = headers.get(LITELLM).and_then(|value| value.to_str().ok()).map(str::trim);
        // the text of a binary number: small amounts come with an exponent
        let cost_usd = text.filter(|text| text.len() <= MAX_AMOUNT).and_then(plain_decimal);
        if cost_usd.is_some() {
            self.meter.report(Report { cost_usd, ..Report::default() });
        }
    }

    fn bill(&self) -> ShownCost {
        self.pricing.bill(&self.terms, &self.call, &self.meter)
    }

    /// Tells the cost in the head of an answer. The head of a sound leaves before anybody knows how long it lasts.
    pub(crate) fn tell(&self, headers: &mut HeaderMap, is_sound: bool) {
        let is_open =
            is_sound && self.meter.reported().cost_usd.is_none() && self.pricing.by_seconds(&self.terms, &self.call);
        let bill = if is_open { ShownCost { source: UNKNOWN, amounts: None } } else { self.bill() };
        headers.insert(AVAILABLE, HeaderValue::from_static(if bill.amounts.is_some() { "true" } else { "false" }));
        headers.insert(SOURCE, HeaderValue::from_static(bill.source));
        let Some(amounts) = bill.amounts else { return };
        for (name, text) in [
            (EUR, &amounts.eur),
            (USD, &amounts.usd),
            (RATE, &amounts.exchange_rate),
            (RATE_SOURCE, &amounts.exchange_rate_source),
        ] {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
    }

    /// Tells the cost in a stream.
    pub(crate) fn event(&self, kind: StreamKind, stamp: &Stamp, model: &str, client_wants_usage: bool) -> Bytes {
        let bill = self.bill();
        let amounts = bill
            .amounts
            .as_ref()
            .map(|amounts| [&*amounts.eur, &*amounts.usd, &*amounts.exchange_rate, &*amounts.exchange_rate_source]);
        cost_event(kind, stamp, model, client_wants_usage, CostMember { source: bill.source, amounts })
    }
}
