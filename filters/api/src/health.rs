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
        let mut told = Vec::with_capacity(all.len()); // one reason may come with several severities
        all.retain(|limitation| {
            let first = !told.contains(&limitation.reason);
            told.push(limitation.reason);
            first
        });
        all
    }

    /// The latest look of any source.
    #[must_use]
    pub fn checked_at(&self) -> Option<std::time::SystemTime> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().filter_map(|source| source.checked_at()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(&'static str, Severity);

    impl HealthSource for Says {
        fn limitations(&self) -> Vec<Limitation> {
            vec![Limitation { reason: self.0, severity: self.1 }]
        }
    }

    #[test]
    fn a_reason_stands_once_with_its_worst_severity() {
        let board = HealthBoard::default();
        for (reason, severity) in [
            ("storage unavailable", Severity::Impaired),
            ("compute capacity limited", Severity::Impaired),
            ("storage unavailable", Severity::Unready),
            ("storage unavailable", Severity::Degraded),
        ] {
            board.add(Arc::new(Says(reason, severity)));
        }
        let told: Vec<_> =
            board.limitations().iter().map(|limitation| (limitation.reason, limitation.severity)).collect();
        let expected = [("storage unavailable", Severity::Unready), ("compute capacity limited", Severity::Impaired)];
        assert_eq!(told, expected);
    }
}
