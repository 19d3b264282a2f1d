//! The key `audit`.

use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::services::Pseudonyms;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::pseudonyms::Keyring;

/// Longest time that files are kept, in days: a century.
const MAX_KEEP_DAYS: u32 = 36_500;

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

    fn build(_checked: AuditSettings, env: &mut BuildEnv) -> Result<(), BuildError> {
        let keyring = match env.previous::<Keyring>() {
            Some(keyring) => keyring,
            None => Arc::new(Keyring::open(&env.data_dir, Arc::clone(&env.clock))?),
        };
        env.provide(Arc::clone(&keyring));
        env.provide::<Arc<dyn Pseudonyms>>(Arc::new(keyring));
        Ok(())
    }
}
