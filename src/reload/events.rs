//! What a reload logs, counts and audits, together.

use std::collections::BTreeSet;
use std::sync::Arc;

use dgx_gateway_filter::audit::{AdminAction, Audit, AuditEvent, AuditRecord};
use dgx_gateway_filter::files::FileRead;
use dgx_gateway_filter::{BuildEnv, Problem};
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Reloaded, Trigger};

/// Label of problems that belong to no file: a variable, or a part that could not be built.
const NO_FILE: &str = "(none)";

/// Metrics of reloads.
pub(super) struct ReloadEvents {
    generation: IntGaugeVec,
    failures: IntCounterVec,
    certificate_until: IntGauge,
}

impl ReloadEvents {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let generation = Opts::new(
            "dgx_gateway_config_generation",
            "Number of the configuration in use that holds this file; the start is 1.",
        );
        let failures =
            Opts::new("dgx_gateway_config_reload_failures_total", "Reloads that changed nothing because of this file.");
        let events = Self {
            generation: IntGaugeVec::new(generation, &["file"])?,
            failures: IntCounterVec::new(failures, &["file"])?,
            certificate_until: IntGauge::new(
                "dgx_gateway_tls_certificate_not_after_seconds",
                "Unix time at which the certificate of the public listener ends.",
            )?,
        };
        registry.register(Box::new(events.generation.clone()))?;
        registry.register(Box::new(events.failures.clone()))?;
        Ok(events)
    }

    /// The listener speaks TLS with this certificate. Without TLS there is no such number.
    pub(super) fn register_certificate(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.certificate_until.clone()))
    }

    /// The certificate in use ends then.
    pub(super) fn certificate(&self, until: i64) {
        self.certificate_until.set(until);
    }

    /// These files are in use.
    pub(super) fn in_effect(&self, generation: u64, files: &[FileRead]) {
        self.generation.reset();
        for file in files {
            let label = file.path.display().to_string();
            self.generation.with_label_values(&[&label]).set(i64::try_from(generation).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn succeeded(&self, trigger: Trigger, reloaded: &Reloaded, files: &[FileRead], env: &BuildEnv) {
        self.in_effect(reloaded.generation, files);
        let changed = reloaded.changed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        tracing::info!(
            trigger = trigger.as_str(),
            config.generation = reloaded.generation,
            config.changed = changed,
            "the configuration was reloaded"
        );
        for key in &reloaded.restart_needed {
            tracing::warn!(config.key = key, "this key has changed; only a restart puts it into effect");
        }
        let detail = format!("generation {}; changed: {changed}", reloaded.generation);
        audit(env, AdminAction::Reload, true, &detail);
    }

    pub(super) fn failed(&self, trigger: Trigger, problems: &[Problem], env: &BuildEnv) {
        for problem in problems {
            let (trigger, problem) = (trigger.as_str(), problem.to_string());
            tracing::error!(trigger, problem, "the configuration was not reloaded: nothing has changed");
        }
        let file = |problem: &Problem| {
            problem.file.as_ref().map_or_else(|| NO_FILE.to_owned(), |file| file.display().to_string())
        };
        let files: BTreeSet<String> = problems.iter().map(file).collect();
        for file in &files {
            self.failures.with_label_values(&[file.as_str()]).inc();
        }
        let detail = files.into_iter().collect::<Vec<_>>().join(", ");
        audit(env, AdminAction::Reload, false, &detail);
    }
}

/// Writes a record of an act of administration, if there is an audit log.
pub(super) fn audit(env: &BuildEnv, action: AdminAction, ok: bool, detail: &str) {
    if let Ok(audit) = env.service::<Arc<dyn Audit>>() {
        audit.record(&AuditRecord::of(AuditEvent::Admin { action, ok, detail: Some(detail) }));
    }
}
