//! The key `audit`.

use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::health::HealthSource;
use dgx_gateway_filter::services::{Audit, Pseudonyms, RequestObserver};
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::log::AuditLog;
use crate::pseudonyms::Keyring;

/// Longest time that files are kept, in days: a century.
const MAX_KEEP_DAYS: u32 = 36_500;
/// How long the end of the process waits for a disk that refuses.
const CLOSE: Duration = Duration::from_secs(5);

/// The service behind the key `audit`.
#[derive(Debug)]
pub struct Service;

/// Top-level keys of this crate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The audit log.
    pub audit: AuditSettings,
}

/// The audit log, `audit/audit.jsonl` in the data directory.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    /// For how many days closed files are kept, 0 to 36500; 0: for ever. Default 400.
    pub keep_days: u32,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { keep_days: 400 }
    }
}

impl ServiceKind for Service {
    const NAME: &'static str = "audit";
    const KEYS: &'static [&'static str] = &["audit"];
    type Settings = Settings;
    type Checked = AuditSettings;

    fn check(settings: Settings, _ambient: &Ambient) -> Result<AuditSettings, Vec<Problem>> {
        if settings.audit.keep_days > MAX_KEEP_DAYS {
            return Err(vec![Problem::at("audit.keep_days", format!("must be at most {MAX_KEEP_DAYS}"))]);
        }
        Ok(settings.audit)
    }

    fn build(checked: AuditSettings, env: &mut BuildEnv) -> Result<(), BuildError> {
        let keyring = match env.previous::<Keyring>() {
            Some(keyring) => keyring,
            None => Arc::new(Keyring::open(&env.data_dir, Arc::clone(&env.clock))?),
        };
        let log = match env.previous::<AuditLog>() {
            Some(log) => {
                let kept = Arc::clone(&log);
                env.when_in_use(move || kept.keep_for(checked.keep_days));
                log
            }
            None => start(&keyring, checked.keep_days, env)?,
        };
        env.health.add(Arc::clone(&log) as Arc<dyn HealthSource>);
        env.provide(Arc::clone(&keyring));
        env.provide::<Arc<dyn Pseudonyms>>(Arc::new(keyring));
        env.provide(Arc::clone(&log));
        env.provide::<Arc<dyn RequestObserver>>(Arc::new(Arc::clone(&log) as Arc<dyn RequestObserver>));
        env.provide::<Arc<dyn Audit>>(Arc::new(log));
        Ok(())
    }
}

fn start(keyring: &Arc<Keyring>, keep_days: u32, env: &mut BuildEnv) -> Result<Arc<AuditLog>, BuildError> {
    let log = Arc::new(AuditLog::start(env, Arc::clone(keyring), keep_days)?);
    let closing = Arc::clone(&log);
    env.at_end(move || {
        closing.close(CLOSE);
    });
    Ok(log)
}
