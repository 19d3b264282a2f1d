//! The query: from when, to when, in which steps. Pure.

use dgx_gateway_filter::{ErrorCode, FilterError};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Milliseconds of an hour.
pub(super) const HOUR: i64 = 3_600_000;
/// Milliseconds of a day.
const DAY: i64 = 24 * HOUR;
/// Longest period.
const LONGEST: SignedDuration = SignedDuration::from_hours(31 * 24);
/// Nanoseconds of a millisecond.
const MILLI: i128 = 1_000_000;

/// Steps of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Granularity {
    Day,
    #[default]
    Hour,
}

impl Granularity {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }

    /// Milliseconds of a step.
    pub(super) fn length(self) -> i64 {
        match self {
            Self::Day => DAY,
            Self::Hour => HOUR,
        }
    }

    /// The beginning of the step that a moment lies in.
    pub(super) fn begin(self, at: i64) -> i64 {
        at - at.rem_euclid(self.length())
    }
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    /// Inclusive.
    pub from: Timestamp,
    /// Exclusive.
    pub to: Timestamp,
    pub granularity: Granularity,
}

impl Period {
    /// Reads a query.
    pub(super) fn read(query: &str) -> Result<Self, FilterError> {
        let value = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
        };
        let from = moment(value("from"), "query.from")?;
        let to = moment(value("to"), "query.to")?;
        let granularity = match value("granularity").as_deref() {
            None | Some("hour") => Granularity::Hour,
            Some("day") => Granularity::Day,
            Some(_) => return Err(invalid("granularity must be hour or day.").param("query.granularity")),
        };
        let length = from.duration_until(to);
        if length.is_negative() || length > LONGEST {
            let message = "to must not be before from, nor more than 31 days after it.";
            return Err(FilterError::client(ErrorCode::InvalidRange, message).param("query.to"));
        }
        Ok(Self { from, to, granularity })
    }

    /// The first millisecond of it, and the first one behind it.
    pub(super) fn millis(&self) -> (i64, i64) {
        let ceil = |at: Timestamp| {
            let nanos = at.as_nanosecond();
            i64::try_from(nanos.div_euclid(MILLI) + i128::from(nanos.rem_euclid(MILLI) != 0)).unwrap_or(i64::MAX)
        };
        (ceil(self.from), ceil(self.to))
    }
}

fn invalid(message: &'static str) -> FilterError {
    FilterError::client(ErrorCode::InvalidField, message)
}

fn moment(text: Option<String>, param: &'static str) -> Result<Timestamp, FilterError> {
    let missing = || FilterError::client(ErrorCode::MissingField, "from and to are required.").param(param);
    let text = text.filter(|text| !text.is_empty()).ok_or_else(missing)?;
    // a plus that was not encoded has become a space
    parse(&text.replace(' ', "+")).ok_or_else(|| {
        invalid("must be a time as in 2026-05-16T09:00:00Z or 2026-05-16T11:00:00+02:00, or a day as in 2026-05-16.")
            .param(param)
    })
}

/// A day in UTC, or a time with its offset; the parsers know more forms than these.
fn parse(text: &str) -> Option<Timestamp> {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c.to_ascii_uppercase() }).collect();
    if shape == "0000-00-00" {
        return text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    }
    let mut rest = shape.strip_prefix("0000-00-00T00:00:00")?;
    if let Some(fraction) = rest.strip_prefix('.') {
        let behind = fraction.trim_start_matches('0');
        if behind.len() == fraction.len() {
            return None;
        }
        rest = behind;
    }
    matches!(rest, "Z" | "+00:00" | "-00:00").then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<(String, String, &'static str), (String, String)> {
        let told = |error: FilterError| (error.code.to_string(), error.param.unwrap_or_default().into_owned());
        let period = Period::read(query).map_err(told)?;
        Ok((period.from.to_string(), period.to.to_string(), period.granularity.as_str()))
    }

    #[test]
    fn days_and_times_with_offsets_are_read() {
        for (query, from, to, granularity) in [
            ("from=2026-05-16&to=2026-05-17", "2026-05-16T00:00:00Z", "2026-05-17T00:00:00Z", "hour"),
            ("to=2026-05-17&granularity=day&from=2026-05-16", "2026-05-16T00:00:00Z", "2026-05-17T00:00:00Z", "day"),
            (
                "from=2026-05-16T09:30:00Z&to=2026-05-16T09:30:00Z",
                "2026-05-16T09:30:00Z",
                "2026-05-16T09:30:00Z",
                "hour",
            ),
            (
                "from=2026-05-16T02:00:00%2B02:00&to=2026-05-16T02:00:00+02:00",
                "2026-05-16T00:00:00Z",
                "2026-05-16T00:00:00Z",
                "hour",
            ),
            (
                "from=2026-05-16T02:00:00%20%30%32:00&to=2026-05-16T02:00:00-02:00",
                "2026-05-16T00:00:00Z",
                "2026-05-16T04:00:00Z",
                "hour",
            ),
            (
                "from=2026-05-16t00:00:00.25z&to=2026-05-17&x=1",
                "2026-05-16T00:00:00.25Z",
                "2026-05-17T00:00:00Z",
                "hour",
            ),
            ("from=2026-05-01&to=2026-06-01", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z", "hour"),
        ] {
            assert_eq!(read(query), Ok((from.to_owned(), to.to_owned(), granularity)), "{query}");
        }
    }

    #[test]
    fn what_is_missing_wrong_or_too_long_is_told_with_its_place() {
        for (query, code, param) in [
            ("", "missing_field", "query.from"),
            ("to=2026-05-17", "missing_field", "query.from"),
            ("from=&to=2026-05-17", "missing_field", "query.from"),
            ("from=2026-05-16", "missing_field", "query.to"),
            ("from=yesterday&to=2026-05-17", "invalid_field", "query.from"),
            ("from=2026-05-16&to=2026-02-30", "invalid_field", "query.to"),
            ("from=2026-05-16T00:00:00&to=2026-05-17", "invalid_field", "query.from"),
            ("from=2026-05-16%2000:00:00Z&to=2026-05-17", "invalid_field", "query.from"),
            ("from=2026-05-16T00:00Z&to=2026-05-17", "invalid_field", "query.from"),
            ("from=2026-05-16T25:00:00Z&to=2026-05-17", "invalid_field", "query.from"),
            ("from=2026-05-16T00:00:00.Z&to=2026-05-17", "invalid_field", "query.from"),
            ("from=2026-05-16T00:00:00Z[UTC]&to=2026-05-17", "invalid_field", "query.from"),
            ("from=1778889600&to=2026-05-17", "invalid_field", "query.from"),
            ("from=%FF&to=2026-05-17", "invalid_field", "query.from"),
            ("from=2026-05-16&to=9999-12-31", "invalid_field", "query.to"),
            ("from=2026-05-16&to=2026-05-17&granularity=week", "invalid_field", "query.granularity"),
            ("from=2026-05-16&to=2026-05-17&granularity=", "invalid_field", "query.granularity"),
            ("from=2026-05-16&to=2026-05-15T23:59:59.999Z", "invalid_range", "query.to"),
            ("from=2026-05-01&to=2026-06-01T00:00:00.000000001Z", "invalid_range", "query.to"),
            ("from=0001-01-01&to=2026-06-01", "invalid_range", "query.to"),
        ] {
            assert_eq!(read(query), Err((code.to_owned(), param.to_owned())), "{query}");
        }
    }

    #[test]
    fn parts_of_a_millisecond_count() {
        let period = Period::read("from=1970-01-01T00:00:01.0001Z&to=1970-01-01T00:00:02.000Z").unwrap();
        assert_eq!(period.millis(), (1001, 2000));
        assert_eq!(Granularity::Hour.begin(-1), -HOUR);
        assert_eq!(Granularity::Day.begin(DAY), DAY);
    }
}
