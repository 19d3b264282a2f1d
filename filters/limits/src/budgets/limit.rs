//! Units, limits, and what fits. Pure.

use dgx_gateway_filter::budget::{Amounts, BudgetLimit};
use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};

/// Digits of a cent.
const CENTS: u32 = 2;

/// What a budget counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Cents,
    Requests,
    Tokens,
}

impl Unit {
    /// The part of amounts that this unit counts.
    pub(crate) fn of(self, amounts: Amounts) -> u64 {
        match self {
            Self::Cents => amounts.cents,
            Self::Requests => amounts.requests,
            Self::Tokens => amounts.tokens,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Cents => "cents",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// Unit and size of a limit. Billed amounts are whole cents, so what a limit holds beyond them counts for nothing.
pub(crate) fn units(limit: BudgetLimit) -> (Unit, u64) {
    match limit {
        BudgetLimit::Eur(eur) => (Unit::Cents, cents(eur, RoundingStrategy::ToZero)),
        BudgetLimit::Requests(requests) => (Unit::Requests, requests),
        BudgetLimit::Tokens(tokens) => (Unit::Tokens, tokens),
    }
}

/// Whole cents of an amount, rounded up, as a bill is; none of a negative one.
pub(crate) fn cents_up(eur: Decimal) -> u64 {
    cents(eur, RoundingStrategy::AwayFromZero)
}

fn cents(eur: Decimal, rounding: RoundingStrategy) -> u64 {
    let rounded = eur.round_dp_with_strategy(CENTS, rounding);
    let cents = rounded.checked_mul(Decimal::ONE_HUNDRED).and_then(|cents| cents.to_u64());
    cents.unwrap_or(if eur.is_sign_negative() { 0 } else { u64::MAX })
}

/// Whether `needed` more fits beside what is taken. Nothing fits into a limit of 0, and what needs nothing fits into
/// every other.
pub(crate) fn fits(limit: u64, taken: u64, needed: u64) -> bool {
    limit > 0 && (needed == 0 || taken.checked_add(needed).is_some_and(|sum| sum <= limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_whole_units() {
        let eur = |text: &str| units(BudgetLimit::Eur(text.parse().unwrap()));
        assert_eq!(eur("25.00"), (Unit::Cents, 2500));
        assert_eq!(eur("0.019"), (Unit::Cents, 1));
        assert_eq!(eur("0"), (Unit::Cents, 0));
        assert_eq!(eur("1000000000000000"), (Unit::Cents, 100_000_000_000_000_000));
        assert_eq!(units(BudgetLimit::Tokens(7)), (Unit::Tokens, 7));
    }

    #[test]
    fn costs_are_rounded_up() {
        for (text, cents) in [("0", 0), ("0.000001", 1), ("0.01", 1), ("0.0101", 2), ("-1", 0)] {
            assert_eq!(cents_up(text.parse().unwrap()), cents, "{text}");
        }
        assert_eq!(cents_up(Decimal::MAX), u64::MAX);
    }

    #[test]
    fn what_fits_is_exact_at_the_edge() {
        assert!(fits(10, 9, 1) && !fits(10, 9, 2) && !fits(10, 10, 1));
        assert!(fits(10, 10, 0) && fits(10, 11, 0), "what needs nothing");
        assert!(!fits(0, 0, 0) && !fits(0, 0, 1), "a limit of 0");
        assert!(!fits(u64::MAX, u64::MAX, 1), "no overflow");
    }
}
