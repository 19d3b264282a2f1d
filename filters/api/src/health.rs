//! What limits the service at the moment, from whoever knows. The readiness page puts it together.

use std::sync::{Arc, Mutex, PoisonError};

/// How much a limitation matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A non-essential capability is limited.
    Degraded,
    /// A core capability is impaired, requests can still be served.
    Impaired,
    /// Requests cannot be served.
    Unready,
}

/// One limitation: a fixed text for the public page, without hosts, counts or component names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limitation {
    /// One of the texts of the readiness page.
    pub reason: &'static str,
    /// How much it matters.
    pub severity: Severity,
}

/// Knows the health of some part. Must answer at once, from memory.
pub trait HealthSource: Send + Sync {
    /// What is limited now.
    fn limitations(&self) -> Vec<Limitation>;

    /// When it last looked; `None` when it always knows.
    fn checked_at(&self) -> Option<std::time::SystemTime> {
        None
    }
}

/// All sources.
#[derive(Default)]
pub struct HealthBoard {
    sources: Mutex<Vec<Arc<dyn HealthSource>>>,
}

impl HealthBoard {
    /// Adds a source.
    pub fn add(&self, source: Arc<dyn HealthSource>) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// What is limited now, worst first, each reason once.
    #[must_use]
    pub fn limitations(&self) -> Vec<Limitation> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Limitation> = sources.iter().flat_map(|source| source.limitations()).collect();
        all.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.reason.cmp(b.reason)));
        all.dedup_by_key(|limitation| limitation.reason);
        all
    }

    /// The latest look of any source.
    #[must_use]
    pub fn checked_at(&self) -> Option<std::time::SystemTime> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().filter_map(|source| source.checked_at()).max()
    }
}
