//! Numbers as plain decimal text, exact: money does not pass through floating point.

/// Larger exponents are no sums of money.
const MAX_EXPONENT: i32 = 40;

/// More digits than this are no sum of money either.
const MAX_DIGITS: usize = 60;

/// A non-negative JSON number without its exponent; `None` for anything else.
#[must_use]
pub fn plain_decimal(number: &str) -> Option<String> {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let fits = digits.len() <= MAX_DIGITS && (-MAX_EXPONENT..=MAX_EXPONENT).contains(&exponent);
    if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) || !fits {
        return None;
    }
    if exponent == 0 {
        return Some(mantissa.to_owned());
    }
    Some(with_point(&digits, i32::try_from(whole.len()).ok()? + exponent))
}

/// The digits with a point after the first `whole` of them, which may lie outside.
fn with_point(digits: &str, whole: i32) -> String {
    let missing = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let padded = [missing(1 - whole).as_str(), digits, missing(whole - length).as_str()].concat();
    let (whole, fraction) =
        padded.split_at_checked(usize::try_from(whole.max(1)).unwrap_or(1)).unwrap_or((&padded, ""));
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_exponents_out() {
        for (number, expected) in [
            ("0", "0"),
            ("0.0", "0.0"),
            ("12.50", "12.50"),
            ("1e0", "1"),
            ("1e-7", "0.0000001"),
            ("1.95e-05", "0.0000195"),
            ("2.5E+2", "250"),
            ("1.2345e2", "123.45"),
            ("0.5e1", "5"),
            ("0e-9", "0"),
        ] {
            assert_eq!(plain_decimal(number).as_deref(), Some(expected), "{number}");
        }
    }

    #[test]
    fn refuses_what_is_no_sum() {
        for number in ["", "-1", "-0.5", "abc", "1.2.3", "1e99", "1e", ".5", "+1", "null", "{}"] {
            assert_eq!(plain_decimal(number), None, "{number}");
        }
    }
}
