//! The key `storage`.

use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::health::{HealthSource, Limitation, Severity};
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::store::Store;

/// How long the end of the process waits for a disk that refuses.
const CLOSE: Duration = Duration::from_secs(5);

/// The service behind the key `storage`.
#[derive(Debug)]
pub struct Service;

/// Top-level keys of this crate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where state is kept.
    pub storage: StorageSettings,
}

/// Where state is kept.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StorageSettings {
    /// Address of a shared database. Default null: SQLite in the data directory, the only choice of this version.
    /// Environment: `DGX_GATEWAY_DATABASE_URL`.
    pub url: Option<String>,
}

impl ServiceKind for Service {
    const NAME: &'static str = "storage";
    const KEYS: &'static [&'static str] = &["storage"];
    type Settings = Settings;
    type Checked = ();

    fn check(settings: Settings, ambient: &Ambient) -> Result<(), Vec<Problem>> {
        match ambient.var("DGX_GATEWAY_DATABASE_URL").map(str::to_owned).or(settings.storage.url) {
            None => Ok(()),
            Some(_) => Err(vec![Problem::at("storage.url", "must be null: this version keeps its state in SQLite")]),
        }
    }

    fn build((): (), env: &mut BuildEnv) -> Result<(), BuildError> {
        let store = match env.previous::<Store>() {
            Some(store) => store,
            None => open(env)?,
        };
        env.health.add(Arc::clone(&store) as Arc<dyn HealthSource>);
        env.provide(store);
        Ok(())
    }
}

fn open(env: &mut BuildEnv) -> Result<Arc<Store>, BuildError> {
    let path = env.data_dir.join("sqlite/gateway.sqlite");
    let open = if env.is_first { Store::open_alone } else { Store::open };
    let store = Arc::new(open(&path).map_err(|error| BuildError::Part(Box::new(error)))?);
    let closing = Arc::clone(&store);
    env.at_end(move || {
        if !closing.close(CLOSE) {
            tracing::error!("what was left to write could not be written");
        }
    });
    Ok(store)
}

impl HealthSource for Store {
    fn limitations(&self) -> Vec<Limitation> {
        let unavailable = Limitation { reason: "storage unavailable", severity: Severity::Unready };
        self.is_failing().then_some(unavailable).into_iter().collect()
    }
}
