//! What calls cost and what is billed for a request. Decimal arithmetic; rounding happens once per request.
//!
//! A decimal holds 28 digits. Every product is exact as long as it has no more: a cost of 17 digits (all that a
//! backend can say in a binary number) times a rate of 4, a markup of 2 and a factor of 2 digits behind the point has
//! them, and so have a thousand million tokens at a price of 9 digits. Beyond that the last of 28 digits is rounded
//! up, never down, so that nothing which costs more than a whole cent is billed as that cent. What exceeds all decimals is
//! no money: its cost counts as unknown.

#[cfg(test)]
mod tests;

use dgx_gateway_filter::money::Terms;
use rust_decimal::{Decimal, RoundingStrategy};

/// Digits of a billed amount behind the point.
const CENTS: u32 = 2;
/// Digits of a reported upstream amount behind the point.
pub(crate) const MICROS: u32 = 6;
/// Largest number that the digits of a decimal make.
const MAX_DIGITS: i128 = Decimal::MAX.mantissa();
/// Most digits behind the point.
const MAX_SCALE: u32 = Decimal::MAX_SCALE;

/// Where the cost of a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Served from a cache.
    Cached,
    /// The backend reported it.
    Upstream,
    /// Reported usage times a price.
    Computed,
    /// Estimated usage times a price.
    Estimated,
    /// A local backend without a price.
    Zero,
    /// Nobody knows.
    Unknown,
}

impl Source {
    /// All, the least certain first: the first that occurs among the calls of a request is that of the request.
    pub(crate) const LEAST_CERTAIN_FIRST: [Self; 6] =
        [Self::Unknown, Self::Estimated, Self::Computed, Self::Upstream, Self::Cached, Self::Zero];

    /// The source of a word in a table.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::LEAST_CERTAIN_FIRST.into_iter().find(|source| source.as_str() == word)
    }

    /// The word in headers, events and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Upstream => "upstream",
            Self::Computed => "computed",
            Self::Estimated => "estimated",
            Self::Zero => "zero",
            Self::Unknown => "unknown",
        }
    }
}

/// The cost of one model call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallCost {
    /// Where it comes from.
    pub source: Source,
    /// Dollars at the upstream; `None` when nobody knows.
    pub upstream_usd: Option<Decimal>,
    /// Euros for the tenant, not rounded.
    pub eur_exact: Decimal,
}

impl CallCost {
    /// The cost of a call that costs `upstream_usd` at the upstream.
    #[must_use]
    pub fn of_dollars(source: Source, upstream_usd: Decimal, terms: &Terms) -> Self {
        let cost = |eur_exact| Self { source, upstream_usd: Some(upstream_usd), eur_exact };
        euros_of_dollars(upstream_usd, terms).map_or_else(Self::unknown, cost)
    }

    /// The cost of a call that costs `amount` euros by the price table.
    #[must_use]
    pub fn of_euros(source: Source, amount: Decimal, terms: &Terms) -> Self {
        let dollars = amount.checked_div(terms.rate).map(|dollars| half_up(dollars, MICROS));
        match (dollars, product(amount, terms.factor)) {
            (Some(dollars), Some(eur_exact)) => Self { source, upstream_usd: Some(dollars), eur_exact },
            _ => Self::unknown(),
        }
    }

    /// A call that costs nothing.
    #[must_use]
    pub fn free(source: Source) -> Self {
        Self { source, upstream_usd: Some(Decimal::ZERO), eur_exact: Decimal::ZERO }
    }

    /// A call of which nobody knows the cost.
    #[must_use]
    pub fn unknown() -> Self {
        Self { source: Source::Unknown, upstream_usd: None, eur_exact: Decimal::ZERO }
    }
}

/// What a request costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The least certain source of its calls.
    pub source: Source,
    /// Whether the cost of each call is known.
    pub available: bool,
    /// Euros, whole cents.
    pub eur: Decimal,
    /// Dollars, whole cents.
    pub usd: Decimal,
    /// Dollars at the upstreams.
    pub upstream_usd: Decimal,
}

impl Bill {
    /// The bill of a request with these calls.
    #[must_use]
    pub fn of(calls: &[CallCost], terms: &Terms) -> Self {
        let has = |source: &Source| calls.iter().any(|call| call.source == *source);
        let exact = sum(calls.iter().map(|call| call.eur_exact));
        let upstream_usd = sum(calls.iter().filter_map(|call| call.upstream_usd));
        let eur = exact.map(cents_up);
        let usd = eur.and_then(|eur| eur.checked_div(terms.rate)).map(|usd| half_up(usd, CENTS));
        Self {
            source: Source::LEAST_CERTAIN_FIRST.into_iter().find(has).unwrap_or(Source::Zero),
            available: !has(&Source::Unknown),
            eur: eur.unwrap_or(Decimal::MAX),
            usd: usd.unwrap_or(Decimal::MAX),
            upstream_usd: upstream_usd.unwrap_or(Decimal::MAX),
        }
    }
}

/// What dollars of an upstream cost a tenant in euros.
pub(crate) fn euros_of_dollars(usd: Decimal, terms: &Terms) -> Option<Decimal> {
    // the three have few digits, so this one is exact
    let factor = product(product(terms.rate, Decimal::ONE.checked_add(terms.fx_markup)?)?, terms.factor)?;
    product(usd, factor)
}

/// Whole cents, the part of a cent counting as one.
pub(crate) fn cents_up(amount: Decimal) -> Decimal {
    amount.round_dp_with_strategy(CENTS, RoundingStrategy::AwayFromZero)
}

pub(crate) fn half_up(amount: Decimal, digits: u32) -> Decimal {
    amount.round_dp_with_strategy(digits, RoundingStrategy::MidpointAwayFromZero)
}

/// A sum of amounts that are not negative.
pub(crate) fn sum(amounts: impl IntoIterator<Item = Decimal>) -> Option<Decimal> {
    amounts.into_iter().try_fold(Decimal::ZERO, Decimal::checked_add).map(|sum| sum.normalize())
}

/// The product of two amounts that are not negative: exact where a decimal holds it, else rounded up in its last
/// digit. `None` when it is too large.
pub(crate) fn product(one: Decimal, other: Decimal) -> Option<Decimal> {
    let (one, other) = (one.normalize(), other.normalize());
    let Some(digits) = one.mantissa().checked_mul(other.mantissa()) else {
        let near = one.checked_mul(other)?;
        return near.checked_add(Decimal::from_parts(1, 0, 0, false, near.scale()));
    };
    let (mut digits, mut scale) = (digits, one.scale() + other.scale());
    while digits > MAX_DIGITS || scale > MAX_SCALE {
        scale = scale.checked_sub(1)?;
        digits = digits / 10 + i128::from(digits % 10 != 0);
    }
    Decimal::try_from_i128_with_scale(digits, scale).ok().map(|product| product.normalize())
}

/// A cost that a backend reports, as decimal text; what a decimal does not hold of it is rounded up. `None` when it is
/// negative or no number.
pub(crate) fn reported(text: &str) -> Option<Decimal> {
    if !text.bytes().all(|byte| byte.is_ascii_digit() || b".-".contains(&byte)) {
        return None;
    }
    let amount = Decimal::from_str_exact(text).or_else(|_| {
        let near = text.parse::<Decimal>()?;
        near.checked_add(Decimal::from_parts(1, 0, 0, false, near.scale()))
            .ok_or(rust_decimal::Error::ExceedsMaximumPossibleValue)
    });
    amount.ok().filter(|amount| !amount.is_sign_negative() || amount.is_zero())
}
