//! What operators learn of the log itself: metrics and log lines together.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why a record was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The disk refused for so long that the queue filled up.
    Disk,
    /// It came after the end of the log, or could not be written before it.
    End,
    /// More came than could be written.
    Queue,
}

impl Cause {
    const ALL: [Self; 3] = [Self::Disk, Self::End, Self::Queue];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::End => "end",
            Self::Queue => "queue",
        }
    }
}

/// Counters of the log, and whether it can be written.
pub(crate) struct Events {
    written: IntCounter,
    dropped: [IntCounter; Cause::ALL.len()],
    failing_gauge: IntGauge,
    failing: AtomicBool,
}

impl Events {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let written = IntCounter::new("dgx_gateway_audit_records_total", "Records written to the audit log.")?;
        let dropped = Opts::new("dgx_gateway_audit_records_dropped_total", "Records left out of the audit log.");
        let dropped = IntCounterVec::new(dropped, &["cause"])?;
        let failing_gauge = IntGauge::new("dgx_gateway_audit_failing", "1 while the audit log cannot be written.")?;
        registry.register(Box::new(written.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        registry.register(Box::new(failing_gauge.clone()))?;
        let dropped = Cause::ALL.map(|cause| dropped.with_label_values(&[cause.as_str()]));
        Ok(Self { written, dropped, failing_gauge, failing: AtomicBool::new(false) })
    }

    pub(crate) fn written(&self, records: u64) {
        self.written.inc_by(records);
    }

    pub(crate) fn dropped(&self, cause: Cause, records: u64) {
        for (counter, _) in self.dropped.iter().zip(Cause::ALL).filter(|(_, counted)| *counted == cause) {
            counter.inc_by(records);
        }
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The disk refuses.
    pub(crate) fn refused(&self, path: &Path, error: &std::io::Error) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            self.failing_gauge.set(1);
            tracing::error!(file.path = %path.display(), %error, "the audit log cannot be written; trying again");
        }
    }

    /// The disk takes lines; whether it had refused before.
    pub(crate) fn accepted(&self) -> bool {
        let had_refused = self.failing.swap(false, Ordering::Relaxed);
        if had_refused {
            self.failing_gauge.set(0);
        }
        had_refused
    }
}
