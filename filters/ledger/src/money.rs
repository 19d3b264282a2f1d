//! What calls cost and what is billed for a request. Decimal arithmetic; rounding happens once per request.

use dgx_gateway_filter::money::Terms;
use rust_decimal::{Decimal, RoundingStrategy};

/// Digits of a billed amount behind the point.
const CENTS: u32 = 2;
/// Digits of a reported upstream amount behind the point.
const MICROS: u32 = 6;

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
        let eur_exact = upstream_usd * terms.rate * (Decimal::ONE + terms.fx_markup) * terms.factor;
        Self { source, upstream_usd: Some(upstream_usd), eur_exact: eur_exact.normalize() }
    }

    /// The cost of a call that costs `amount` euros by the price table.
    #[must_use]
    pub fn of_euros(source: Source, amount: Decimal, terms: &Terms) -> Self {
        let dollars = amount.checked_div(terms.rate).unwrap_or_default();
        Self { source, upstream_usd: Some(half_up(dollars, MICROS)), eur_exact: (amount * terms.factor).normalize() }
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
        const LEAST_CERTAIN_FIRST: [Source; 6] =
            [Source::Unknown, Source::Estimated, Source::Computed, Source::Upstream, Source::Cached, Source::Zero];
        let has = |source: &Source| calls.iter().any(|call| call.source == *source);
        let exact: Decimal = calls.iter().map(|call| call.eur_exact).sum();
        let eur = exact.round_dp_with_strategy(CENTS, RoundingStrategy::AwayFromZero);
        Self {
            source: LEAST_CERTAIN_FIRST.into_iter().find(has).unwrap_or(Source::Zero),
            available: !has(&Source::Unknown),
            eur,
            usd: half_up(eur.checked_div(terms.rate).unwrap_or_default(), CENTS),
            upstream_usd: calls.iter().filter_map(|call| call.upstream_usd).sum(),
        }
    }
}

fn half_up(amount: Decimal, digits: u32) -> Decimal {
    amount.round_dp_with_strategy(digits, RoundingStrategy::MidpointAwayFromZero)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn terms(rate: &str, markup: &str, factor: &str) -> Terms {
        let rate_source = "ecb-2026-05-15".into();
        Terms { rate: decimal(rate), rate_source, fx_markup: decimal(markup), factor: decimal(factor) }
    }

    #[test]
    fn the_vectors_of_the_specification() {
        for (calls, rate, markup, factor, exact, eur, usd) in [
            (&["0"][..], "0.8546", "0.05", "1.00", "0", "0.00", "0.00"),
            (&["0.000001"], "0.8546", "0.05", "1.00", "0.00000089733", "0.01", "0.01"),
            (&["0.012345"], "0.8546", "0.05", "1.00", "0.01107753885", "0.02", "0.02"),
            (&["0.981052"], "0.8546", "0.05", "1.00", "0.88032739116", "0.89", "1.04"),
            (&["0.981052"], "0.8546", "0.05", "1.20", "1.056392869392", "1.06", "1.24"),
            (&["12.5"], "0.8546", "0.05", "0.90", "10.0949625", "10.10", "11.82"),
            (&["0.25"], "0.80", "0.05", "1.00", "0.21", "0.21", "0.26"),
            (&["0.250000000001"], "0.80", "0.05", "1.00", "0.21000000000084", "0.22", "0.28"),
            (&["0.02"], "0.80", "0.05", "1.00", "0.0168", "0.02", "0.03"),
            (&["0.5"], "0.9000", "0", "1.00", "0.45", "0.45", "0.50"),
            (&["0.004", "0.004", "0.004"], "0.8546", "0.05", "1.00", "0.01076796", "0.02", "0.02"),
            (&["0.004", "0.004"], "0.8546", "0.05", "1.00", "0.00717864", "0.01", "0.01"),
        ] {
            let terms = terms(rate, markup, factor);
            let costs: Vec<CallCost> =
                calls.iter().map(|usd| CallCost::of_dollars(Source::Upstream, decimal(usd), &terms)).collect();
            let bill = Bill::of(&costs, &terms);
            let sum: Decimal = costs.iter().map(|cost| cost.eur_exact).sum();
            assert_eq!((sum, bill.eur, bill.usd), (decimal(exact), decimal(eur), decimal(usd)), "{calls:?}");
        }
    }

    #[test]
    fn a_price_in_euros_goes_without_exchange_and_its_markup() {
        let terms = terms("0.8546", "0.05", "1.20");
        let cost = CallCost::of_euros(Source::Computed, decimal("0.0038"), &terms);
        assert_eq!((cost.upstream_usd, cost.eur_exact), (Some(decimal("0.004447")), decimal("0.00456")));
        let bill = Bill::of(&[cost], &terms);
        assert_eq!((bill.eur, bill.usd), (decimal("0.01"), decimal("0.01")));
    }

    #[test]
    fn the_least_certain_source_counts() {
        let terms = terms("0.8546", "0.05", "1.00");
        let upstream = CallCost::of_dollars(Source::Upstream, decimal("0.02"), &terms);
        for (calls, source, available) in [
            (vec![], Source::Zero, true),
            (vec![CallCost::free(Source::Zero), CallCost::free(Source::Cached)], Source::Cached, true),
            (vec![CallCost::free(Source::Zero), upstream], Source::Upstream, true),
            (vec![upstream, CallCost::unknown()], Source::Unknown, false),
        ] {
            let bill = Bill::of(&calls, &terms);
            assert_eq!((bill.source, bill.available), (source, available));
        }
        assert_eq!(Bill::of(&[upstream, CallCost::unknown()], &terms).eur, decimal("0.02"), "the known part is billed");
    }
}
