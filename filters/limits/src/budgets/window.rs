//! Hours, days and months of UTC. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dgx_gateway_filter::budget::Window;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// All windows; every call counts in each of them.
pub(crate) const WINDOWS: [Window; 3] = [Window::Hour, Window::Day, Window::Month];

/// One window in time: from its start, inclusive, to its end, exclusive, in seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

impl Period {
    /// The period of a window that a moment lies in.
    pub(crate) fn at(window: Window, second: i64) -> Self {
        let of_length = |length: i64| {
            let start = second - second.rem_euclid(length);
            Self { start, end: start + length }
        };
        match window {
            Window::Hour => of_length(HOUR),
            Window::Day => of_length(DAY),
            Window::Month => month(second).unwrap_or_else(|| of_length(31 * DAY)),
        }
    }

    pub(crate) fn contains(self, second: i64) -> bool {
        (self.start..self.end).contains(&second)
    }
}

/// The calendar month; `None` beyond the years that the calendar knows.
fn month(second: i64) -> Option<Period> {
    let first = Timestamp::from_second(second).ok()?.to_zoned(TimeZone::UTC).date().first_of_month();
    let next = first.last_of_month().tomorrow().ok()?;
    let second_of = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp().as_second());
    Some(Period { start: second_of(first)?, end: second_of(next)? })
}

/// Whole seconds of Unix time, rounded down.
pub(crate) fn second_of(wall: SystemTime) -> i64 {
    match wall.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 2),
        Err(before) => {
            let before = before.duration();
            let whole = i64::try_from(before.as_secs()).unwrap_or(i64::MAX / 2);
            -whole - i64::from(before.subsec_nanos() > 0)
        }
    }
}

/// The moment of a second of Unix time; the epoch for moments before it.
pub(crate) fn moment(second: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(second).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn period(window: Window, moment: &str) -> [String; 2] {
        let Period { start, end } = Period::at(window, at(moment));
        [start, end].map(|second| Timestamp::from_second(second).unwrap().to_string())
    }

    #[test]
    fn windows_begin_and_end_where_the_calendar_says() {
        for (window, moment, start, end) in [
            (Window::Hour, "2026-05-16T12:59:59Z", "2026-05-16T12:00:00Z", "2026-05-16T13:00:00Z"),
            (Window::Hour, "2026-05-16T13:00:00Z", "2026-05-16T13:00:00Z", "2026-05-16T14:00:00Z"),
            (Window::Day, "2026-12-31T23:59:59Z", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Window::Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Window::Month, "2027-02-28T23:59:59Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"),
            (Window::Month, "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Window::Month, "2000-02-29T12:00:00Z", "2000-02-01T00:00:00Z", "2000-03-01T00:00:00Z"),
            (Window::Month, "2100-02-28T12:00:00Z", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z"),
            (Window::Month, "2026-04-30T23:59:59Z", "2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z"),
            (Window::Month, "2026-05-01T00:00:00Z", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z"),
            (Window::Day, "1969-12-31T23:59:59Z", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(period(window, moment), [start, end], "{window:?} {moment}");
        }
    }

    #[test]
    fn periods_follow_each_other_without_gap_and_without_overlap() {
        for window in WINDOWS {
            let mut period = Period::at(window, at("2023-11-30T23:00:00Z"));
            while period.end < at("2029-03-02T00:00:00Z") {
                assert!(period.contains(period.start) && period.contains(period.end - 1));
                assert_eq!(Period::at(window, period.end - 1), period);
                let next = Period::at(window, period.end);
                assert_eq!(next.start, period.end);
                period = next;
            }
        }
    }

    #[test]
    fn absurd_clocks_have_a_period_too() {
        for second in [i64::MIN / 2, -1, 0, i64::MAX / 4] {
            for window in WINDOWS {
                assert!(Period::at(window, second).contains(second), "{window:?} {second}");
            }
        }
        assert_eq!(second_of(UNIX_EPOCH - Duration::from_millis(1)), -1);
        assert_eq!(moment(-5), UNIX_EPOCH);
    }
}
