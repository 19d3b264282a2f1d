//! The service. It has no key in the configuration file: its settings are those of the tenants.

use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::tenant_config::{Environment, Process, TenantConfig, Tenants};
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use dgx_gateway_store::Store;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Tenancy;
use crate::shared::{Shared, watch};

/// The service kind; it has no keys of its own.
#[derive(Debug)]
pub struct Service;

/// No settings.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

impl ServiceKind for Service {
    const NAME: &'static str = "tenant-config";
    const KEYS: &'static [&'static str] = &[];
    const TABLES: &'static [(&'static str, usize)] = &[("tenant-config", crate::rows::STEPS.len())];
    type Settings = Settings;
    type Checked = Process;

    fn check(_settings: Settings, ambient: &Ambient) -> Result<Process, Vec<Problem>> {
        let (environment, problems) = Environment::read(ambient);
        if problems.is_empty() { Ok(Process::of(&environment)) } else { Err(problems) }
    }

    fn build(checked: Process, env: &mut BuildEnv) -> Result<(), BuildError> {
        let tenants = env.service::<Arc<dyn Tenants>>()?;
        let shared = match env.previous::<Shared>() {
            Some(shared) => shared,
            None => {
                let store = env.service::<Store>()?;
                let shared = Shared::open(store).map_err(|error| BuildError::Part(Box::new(error)))?;
                let shared = Arc::new(shared);
                env.spawn("look for changes of tenant configuration", watch(Arc::clone(&shared)));
                shared
            }
        };
        let tenancy = Tenancy::build(checked, &**tenants, &shared);
        let tenancy = tenancy.map_err(|error| BuildError::Part(Box::new(error)))?;
        env.provide(shared);
        env.provide::<Arc<dyn TenantConfig>>(Arc::new(Arc::clone(&tenancy) as Arc<dyn TenantConfig>));
        env.provide(tenancy);
        Ok(())
    }
}
