//! The price table: what a call costs by what it used.
//!
//! | Module | Holds |
//! |---|---|
//! | [`mod@file`] | the file shape and its check |

pub(crate) mod file;
#[cfg(test)]
pub(crate) mod tests;

use std::time::SystemTime;

use dgx_gateway_filter::facts::WorstCase;
use dgx_gateway_filter::glob::matches;
use dgx_gateway_filter::money::{PricedModel, PricedModels};
use rust_decimal::Decimal;

use crate::money::{product, sum};

/// One token's share of a price per million.
const MILLIONTH: Decimal = Decimal::from_parts(1, 0, 0, false, 6);

/// In which currency prices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Currency {
    Eur,
    Usd,
}

/// The prices of one entry. What an entry does not name is 0, cache reads and writes cost what input does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prices {
    /// Per million tokens of the prompt.
    pub input: Decimal,
    /// Per million tokens of the prompt that came from a cache.
    pub cached_input: Decimal,
    /// Per million tokens of the prompt that were written into a cache.
    pub cache_write: Decimal,
    /// Per million tokens of the answer.
    pub output: Decimal,
    /// Per image in the answer.
    pub image: Decimal,
    /// Per second of audio.
    pub second: Decimal,
    /// Per call.
    pub request: Decimal,
}

/// What a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Tokens of the prompt, cached and written ones included.
    pub prompt: u64,
    /// Those of them that came from a cache.
    pub cached: u64,
    /// Those of them that were written into a cache.
    pub written: u64,
    /// Tokens of the answer.
    pub completion: u64,
    /// Images in the answer.
    pub images: u64,
    /// Seconds of audio.
    pub seconds: Decimal,
}

impl Prices {
    /// What a call that used this costs; `None` for a number that no money has.
    pub(crate) fn amount(&self, used: &Used) -> Option<Decimal> {
        let fresh = used.prompt.saturating_sub(used.cached).saturating_sub(used.written);
        sum([
            self.tokens(fresh, self.input)?,
            self.tokens(used.cached, self.cached_input)?,
            self.tokens(used.written, self.cache_write)?,
            self.tokens(used.completion, self.output)?,
            product(used.images.into(), self.image)?,
            product(used.seconds, self.second)?,
            self.request,
        ])
    }

    /// The most that a call costs that may use this: its whole prompt is of the dearest kind.
    pub(crate) fn worst(&self, worst: WorstCase) -> Option<Decimal> {
        let dearest = self.input.max(self.cached_input).max(self.cache_write);
        sum([
            self.tokens(worst.input_tokens(), dearest)?,
            self.tokens(worst.output_tokens, self.output)?,
            product(worst.images.into(), self.image)?,
            self.request,
        ])
    }

    #[expect(clippy::unused_self, reason = "reads like the rule")]
    fn tokens(&self, count: u64, price: Decimal) -> Option<Decimal> {
        product(product(count.into(), price)?, MILLIONTH)
    }

    /// Whether a call has no price before its tokens are known.
    pub(crate) fn by_tokens(&self) -> bool {
        [self.input, self.cached_input, self.cache_write, self.output].iter().any(|price| !price.is_zero())
    }

    /// Whether a call has no price before the length of its audio is known.
    pub(crate) fn by_seconds(&self) -> bool {
        !self.second.is_zero()
    }

    /// Whether a call has no price before its images are known.
    pub(crate) fn by_images(&self) -> bool {
        !self.image.is_zero()
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub models: PricedModel,
    pub currency: Currency,
    pub prices: Prices,
}

/// The table. The first entry that matches counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct PriceTable(Vec<Entry>);

impl PriceTable {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        Self(entries)
    }

    /// The entry for a model at a backend, at a moment.
    pub(crate) fn find(&self, backend: &str, model: &str, at: SystemTime) -> Option<&Entry> {
        self.0.iter().find(|entry| {
            let PricedModel { backend: backends, model: models, from, to } = &entry.models;
            from.is_none_or(|from| from <= at)
                && to.is_none_or(|to| at < to)
                && matches(backends, backend)
                && matches(models, model)
        })
    }

    /// What others may know of it.
    pub(crate) fn priced_models(&self) -> PricedModels {
        PricedModels::new(self.0.iter().map(|entry| entry.models.clone()).collect())
    }
}
