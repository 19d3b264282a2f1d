//! Time, injected, so that limits and expiries are tested without sleeping.

use std::sync::{Mutex, PoisonError};
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
    origin: Instant,
    /// Time since the origin, and the wall time.
    reading: Mutex<(Duration, SystemTime)>,
}

impl ManualClock {
    /// Starts at the given wall time.
    #[must_use]
    pub fn starting_at(wall: SystemTime) -> Self {
        Self { origin: Instant::now(), reading: Mutex::new((Duration::ZERO, wall)) }
    }

    /// Moves both readings forward.
    pub fn advance(&self, by: Duration) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.0 += by;
        reading.1 += by;
    }

    /// Sets the wall time, as an operator or a time server would; monotonic time goes on.
    pub fn set_wall(&self, wall: SystemTime) {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).1 = wall;
    }

    fn reading(&self) -> (Duration, SystemTime) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.origin + self.reading().0
    }

    fn wall(&self) -> SystemTime {
        self.reading().1
    }
}
