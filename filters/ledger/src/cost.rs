//! What one call cost: as its backend says, else by the price table, else nothing at a backend of ours, else unknown.

#[cfg(test)]
mod tests;

use dgx_gateway_filter::facts::{Meter, ModelCall, Report, Usage, WorstCase};
use dgx_gateway_filter::money::{CallTarget, Terms};
use rust_decimal::Decimal;

use crate::money::{CallCost, Source, cents_up, euros_of_dollars, product, reported};
use crate::prices::{Currency, Entry, PriceTable, Used};
use crate::rows::Status;

/// Bytes of text that make one estimated token.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes of a recording, or of a sound that a model made, that make one estimated second: 128 kbit/s, what common encoders write.
const BYTES_PER_SECOND: u64 = 16_000;
/// Most dollars that a backend is believed for one call; a report of more counts as none.
const MAX_DOLLARS: u32 = 1_000_000;
/// Most tokens that a backend is believed for one call; a report of more counts as none.
const MAX_TOKENS: u64 = 1_000_000_000_000;
/// Most seconds of audio that a backend is believed for one call, 116 days; a report of more counts as none.
const MAX_SECONDS: u32 = 10_000_000;

/// What a call used, as far as that is known.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Tokens: as reported, else estimated from the prompt and from what was received.
    pub usage: Usage,
    /// Whether they were reported.
    pub tokens_known: bool,
    /// Images in what was received.
    pub images: u64,
    /// Seconds of audio: as reported, or as a sound tells them, else estimated from the size of the recording or sound.
    pub seconds: Decimal,
    /// Whether they are no estimate.
    pub seconds_known: bool,
    /// Dollars, if they were reported.
    pub cost_usd: Option<Decimal>,
}

impl Tally {
    /// Counts what a meter has seen of a call.
    pub(crate) fn of(call: &ModelCall, meter: &Meter) -> Self {
        let Report { usage, cost_usd, images, seconds } = meter.reported();
        let usage = usage.filter(is_believed);
        let seconds = seconds.filter(|seconds| (Decimal::ZERO..=MAX_SECONDS.into()).contains(seconds));
        let estimate = || Usage {
            prompt_tokens: call.prompt_estimate,
            completion_tokens: meter.text_bytes().div_ceil(BYTES_PER_TOKEN),
            ..Usage::default()
        };
        let audio_bytes = call.recording_bytes.saturating_add(meter.sound_bytes());
        Self {
            tokens_known: usage.is_some(),
            usage: usage.unwrap_or_else(estimate),
            images,
            seconds_known: seconds.is_some(),
            seconds: seconds.unwrap_or_else(|| audio_bytes.div_ceil(BYTES_PER_SECOND).into()),
            cost_usd: cost_usd.as_deref().and_then(reported).filter(|usd| *usd <= MAX_DOLLARS.into()),
        }
    }

    /// A call of which nothing is known but its prompt.
    pub(crate) fn of_prompt(prompt_tokens: u64) -> Self {
        let usage = Usage { prompt_tokens, ..Usage::default() };
        Self { usage, tokens_known: false, images: 0, seconds: Decimal::ZERO, seconds_known: false, cost_usd: None }
    }

    fn used(&self) -> Used {
        Used {
            prompt: self.usage.prompt_tokens,
            cached: self.usage.cached_tokens,
            written: self.usage.cache_write_tokens,
            completion: self.usage.completion_tokens,
            images: self.images,
            seconds: self.seconds,
        }
    }

    /// Whether everything is known that this entry has a price for.
    fn suffices(&self, entry: &Entry, complete: bool) -> bool {
        (self.tokens_known || !entry.prices.by_tokens())
            && (self.seconds_known || !entry.prices.by_seconds())
            && (complete || self.tokens_known || !entry.prices.by_images())
    }
}

fn is_believed(usage: &Usage) -> bool {
    [usage.prompt_tokens, usage.completion_tokens].iter().all(|count| *count <= MAX_TOKENS)
}

/// The model that was called, for the price table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Called<'a> {
    pub backend_id: &'a str,
    pub upstream_model: &'a str,
    pub local: bool,
}

impl<'a> From<&'a ModelCall> for Called<'a> {
    fn from(call: &'a ModelCall) -> Self {
        Self { backend_id: &call.backend_id, upstream_model: &call.upstream_model, local: call.local }
    }
}

impl<'a> From<&'a CallTarget> for Called<'a> {
    fn from(target: &'a CallTarget) -> Self {
        let CallTarget { backend_id, upstream_model, local } = target;
        Self { backend_id, upstream_model, local: *local }
    }
}

impl PriceTable {
    /// What a call cost.
    pub(crate) fn cost(&self, called: Called<'_>, tally: &Tally, status: Status, terms: &Terms) -> CallCost {
        // of an answer that broke off, what its head promised is not what it cost
        let is_settled = status != Status::Aborted || tally.tokens_known;
        if let Some(usd) = tally.cost_usd.filter(|_| is_settled) {
            return CallCost::of_dollars(Source::Upstream, usd, terms);
        }
        if status == Status::Failed {
            return CallCost::free(Source::Zero);
        }
        match self.find(called.backend_id, called.upstream_model, terms.began) {
            Some(entry) => {
                let known = tally.suffices(entry, status == Status::Ok);
                let source = if known { Source::Computed } else { Source::Estimated };
                let amount = entry.prices.amount(&tally.used());
                amount.map_or_else(CallCost::unknown, |amount| entry.cost(source, amount, terms))
            }
            None if called.local => CallCost::free(Source::Zero),
            None => CallCost::unknown(),
        }
    }

    /// Whether a call to one of these targets may cost money: it has a price, or it goes to a backend of others.
    pub(crate) fn may_cost(&self, targets: &[CallTarget], terms: &Terms) -> bool {
        targets
            .iter()
            .any(|target| !target.local || self.find(&target.backend_id, &target.upstream_model, terms.began).is_some())
    }

    /// The most that a call to any of these targets is billed.
    pub(crate) fn worst_eur(&self, terms: &Terms, targets: &[CallTarget], worst: WorstCase) -> Option<Decimal> {
        targets.iter().try_fold(Decimal::ZERO, |dearest, target| {
            let eur = match self.find(&target.backend_id, &target.upstream_model, terms.began) {
                Some(entry) => entry.worst_eur(worst, terms)?,
                None if target.local => Decimal::ZERO,
                None => return None,
            };
            Some(dearest.max(eur))
        })
    }
}

impl Entry {
    fn cost(&self, source: Source, amount: Decimal, terms: &Terms) -> CallCost {
        match self.currency {
            Currency::Eur => CallCost::of_euros(source, amount, terms),
            Currency::Usd => CallCost::of_dollars(source, amount, terms),
        }
    }

    fn worst_eur(&self, worst: WorstCase, terms: &Terms) -> Option<Decimal> {
        let amount = self.prices.worst(worst)?;
        let eur = match self.currency {
            Currency::Eur => product(amount, terms.factor)?,
            Currency::Usd => euros_of_dollars(amount, terms)?,
        };
        Some(cents_up(eur))
    }
}
