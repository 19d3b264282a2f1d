//! The arithmetic against the vectors of the specification, and against exact fractions.

use std::time::SystemTime;

use super::*;

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn terms(rate: &str, markup: &str, factor: &str) -> Terms {
    let rate_source = "ecb-2026-05-15".into();
    Terms {
        began: SystemTime::UNIX_EPOCH,
        rate: decimal(rate),
        rate_source,
        fx_markup: decimal(markup),
        factor: decimal(factor),
    }
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

/// The rules in exact fractions, written down a second time.
mod exact {
    use num_bigint::BigInt;
    use num_rational::BigRational;

    /// A fraction from decimal text.
    pub(super) fn of(text: &str) -> BigRational {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits: BigInt = [whole, fraction].concat().parse().unwrap();
        BigRational::new(digits, BigInt::from(10).pow(u32::try_from(fraction.len()).unwrap()))
    }

    pub(super) fn ceil_to(value: &BigRational, digits: u32) -> BigRational {
        let unit = BigRational::from(BigInt::from(10).pow(digits));
        (value * &unit).ceil() / unit
    }

    pub(super) fn half_up(value: &BigRational, digits: u32) -> BigRational {
        let unit = BigRational::from(BigInt::from(10).pow(digits));
        let half = BigRational::new(BigInt::from(1), BigInt::from(2));
        (value * &unit + half).floor() / unit
    }

    /// Euros and dollars that a request is billed.
    pub(super) fn bill(calls: &[String], rate: &str, markup: &str, factor: &str) -> (BigRational, BigRational) {
        let one = BigRational::from(BigInt::from(1));
        let each = |usd: &String| of(usd) * of(rate) * (&one + of(markup)) * of(factor);
        let eur = ceil_to(&calls.iter().map(each).sum(), 2);
        let usd = half_up(&(&eur / of(rate)), 2);
        (eur, usd)
    }
}

use num_bigint::BigInt;
use num_rational::BigRational;
use proptest::prelude::*;

use self::exact::of;

fn fraction(value: Decimal) -> BigRational {
    of(&value.to_string())
}

/// A number with up to so many digits, of which some stand behind the point.
fn digits(most: u64, behind: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = String> {
    (0..most, behind).prop_map(|(digits, behind)| Decimal::from_i128_with_scale(digits.into(), behind).to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Costs as binary numbers print them (17 digits, down to 1e-12 dollars), and terms in their range.
    #[test]
    fn a_bill_is_what_exact_fractions_say(
        calls in prop::collection::vec(prop_oneof![digits(100_000_000_000_000_000, 11..=21), digits(10_000, 0..=4), digits(100_000_000, 4..=8)], 1..6),
        rate in 2000..=50_000_i64, markup in 0..=100_i64, factor in 1..=10_000_i64,
    ) {
        let [rate, markup, factor] = [Decimal::new(rate, 4), Decimal::new(markup, 2), Decimal::new(factor, 2)].map(|value| value.to_string());
        let terms = terms(&rate, &markup, &factor);
        let costs: Vec<CallCost> = calls.iter().map(|usd| CallCost::of_dollars(Source::Upstream, decimal(usd), &terms)).collect();
        let bill = Bill::of(&costs, &terms);
        let (eur, usd) = exact::bill(&calls, &rate, &markup, &factor);
        prop_assert_eq!((fraction(bill.eur), fraction(bill.usd)), (eur, usd), "{:?} {}", calls, bill.eur);
    }

    /// Amounts that lie on a cent, or beside it by less than any backend says.
    #[test]
    fn an_exact_cent_is_not_raised_and_a_trifle_more_is(cents in 1..100_000_000_i64, beyond in 1..1_000_000_000_i64) {
        let one = terms("1", "0", "1");
        let amount = Decimal::new(cents, 2);
        let on = Bill::of(&[CallCost::of_dollars(Source::Upstream, amount, &one)], &one);
        prop_assert_eq!(on.eur, amount);
        let beside = amount + Decimal::new(beyond, 18);
        let above = Bill::of(&[CallCost::of_dollars(Source::Upstream, beside, &one)], &one);
        prop_assert_eq!(above.eur, amount + Decimal::new(1, 2));
    }

    /// Whatever the numbers are: nothing panics, nothing is cut downwards, and what is added is less than a unit of the
    /// last of 28 digits.
    #[test]
    fn a_product_is_exact_or_rounded_up_in_its_last_digit(
        (one, other) in (0..=Decimal::MAX.mantissa(), 0..=Decimal::MAX.mantissa()),
        (short, scales) in (0..20_u32, (0..=28_u32, 0..=28_u32)),
    ) {
        let (one, other) = (Decimal::from_i128_with_scale(one >> (4 * short), scales.0), Decimal::from_i128_with_scale(other >> short, scales.1));
        let true_product = fraction(one) * fraction(other);
        match product(one, other) {
            Some(product) => {
                let over = fraction(product) - &true_product;
                prop_assert!(over >= BigRational::from(BigInt::from(0)));
                let bound = (true_product / BigRational::from(BigInt::from(10).pow(27))).max(of("0.0000000000000000000000000002"));
                prop_assert!(over <= bound);
            }
            None => prop_assert!(true_product > fraction(Decimal::MAX / Decimal::from(11))),
        }
    }

    #[test]
    fn a_price_in_euros_is_what_exact_fractions_say(
        amount in digits(1_000_000_000_000_000, 6..=15), rate in 2000..=50_000_i64, factor in 1..=10_000_i64,
    ) {
        let [rate, factor] = [Decimal::new(rate, 4), Decimal::new(factor, 2)].map(|value| value.to_string());
        let terms = terms(&rate, "0.05", &factor);
        let cost = CallCost::of_euros(Source::Computed, decimal(&amount), &terms);
        prop_assert_eq!(fraction(cost.upstream_usd.unwrap()), exact::half_up(&(of(&amount) / of(&rate)), 6));
        prop_assert_eq!(fraction(cost.eur_exact), of(&amount) * of(&factor));
    }
}

#[test]
fn what_a_backend_reports_is_read_exactly_or_rounded_up() {
    for (text, expected) in [
        ("0", Some("0")),
        ("0.00000000000000000000000001", Some("0.00000000000000000000000001")),
        ("0.12345678901234567890123456789", Some("0.123456789012345678901234568")),
        ("0.00000000000000000000000000000000001", Some("0.0000000000000000000000000001")),
        ("99999999999999999999999999999999", None),
        ("-0", Some("0")),
        ("-0.01", None),
        ("", None),
        ("much", None),
        ("1e3", None),
    ] {
        let read = reported(text);
        match expected {
            // rounded up in the last digit: between what was said and one unit more
            Some(expected) => {
                let unit = Decimal::from_i128_with_scale(2, 28);
                let read = read.unwrap();
                assert!(read >= decimal(expected) - unit && read <= decimal(expected) + unit, "{text}: {read}");
                assert!(fraction(read) >= of(text.trim_start_matches('-')), "{text}: {read}");
            }
            None => assert_eq!(read, None, "{text}"),
        }
    }
}

#[test]
fn an_amount_that_no_decimal_holds_is_unknown_and_nothing_panics() {
    let terms = terms("5", "1", "100");
    let cost = CallCost::of_dollars(Source::Upstream, Decimal::MAX, &terms);
    assert_eq!(cost, CallCost::unknown());
    assert_eq!(CallCost::of_euros(Source::Computed, Decimal::MAX, &terms), CallCost::unknown());
    let much = CallCost { source: Source::Upstream, upstream_usd: Some(Decimal::MAX), eur_exact: Decimal::MAX };
    let bill = Bill::of(&[much, much], &terms);
    assert_eq!((bill.eur, bill.upstream_usd), (Decimal::MAX, Decimal::MAX));
}
