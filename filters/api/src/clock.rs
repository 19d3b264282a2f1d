//! Time, injected, so that limits and expiries are tested without sleeping.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Reads the clock.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time, for durations.
    fn now(&self) -> Instant;
    /// Wall time, for expiry dates.
    fn wall(&self) -> SystemTime;
}

/// The real clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock {
    origin: (Instant, SystemTime),
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    /// Starts at the given wall time.
    #[must_use]
    pub fn starting_at(wall: SystemTime) -> Self {
        Self { origin: (Instant::now(), wall), elapsed: Mutex::new(Duration::ZERO) }
    }

    /// Moves both readings forward.
    pub fn advance(&self, by: Duration) {
        *self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += by;
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.origin.0 + self.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.origin.1 + self.elapsed()
    }
}
