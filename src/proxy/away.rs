//! How long a request has been elsewhere: its body on the way from the client, its attempts at upstreams. What is left of
//! its time is what the gateway itself took.

use std::time::{Duration, Instant};

/// Time that is not the gateway's own.
#[derive(Debug, Default)]
pub(super) struct Away {
    since: Option<Instant>,
    before: Duration,
}

impl Away {
    /// The request goes elsewhere, or stays there.
    pub(super) fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// It is back, if it was away.
    pub(super) fn end(&mut self) {
        if let Some(since) = self.since.take() {
            self.before += since.elapsed();
        }
    }

    /// All the time that it has been away.
    pub(super) fn total(&mut self) -> Duration {
        self.end();
        self.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_an_end_without_a_beginning_is_none() {
        let mut away = Away::default();
        away.end();
        assert_eq!(away.total(), Duration::ZERO);
        away.since = Instant::now().checked_sub(Duration::from_secs(2));
        away.begin(); // another attempt
        away.end();
        away.since = Instant::now().checked_sub(Duration::from_secs(3));
        let total = away.total();
        assert!(total >= Duration::from_secs(5) && away.total() == total);
    }
}
