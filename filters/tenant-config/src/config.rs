//! The values of all tenants, as one generation of the configuration has them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dgx_gateway_filter::tenant_config::{Cascade, Level, Process, TenantConfig, TenantSettings, Tenants};
use dgx_gateway_store::StoreError;

use crate::rows::OwnLevel;
use crate::shared::Shared;

/// The tenants of one generation. Its tenants and the two lower levels never change; what tenants set themselves does.
pub(crate) struct Tenancy {
    pub process: Arc<Process>,
    of_process: Arc<TenantSettings>,
    tenants: HashMap<Arc<str>, Tenant>,
    pub shared: Arc<Shared>,
}

struct Tenant {
    yaml: Arc<Level>,
    now: ArcSwap<Now>,
}

/// The values of a tenant as they are now.
struct Now {
    own: Arc<OwnLevel>,
    settings: Arc<TenantSettings>,
}

impl Tenant {
    fn of(yaml: &Arc<Level>, own: OwnLevel, process: &Process) -> Self {
        let now = Now::of(yaml, own, process);
        Self { yaml: Arc::clone(yaml), now: ArcSwap::from_pointee(now) }
    }
}

impl Now {
    fn of(yaml: &Level, own: OwnLevel, process: &Process) -> Self {
        let settings = TenantSettings::of(&Cascade { db: &own.values, yaml, process });
        Self { own: Arc::new(own), settings: Arc::new(settings) }
    }
}

impl Tenancy {
    /// Reads what the tenants have set, and has itself told of what they set from now on. Blocks.
    pub(crate) fn build(
        process: Process,
        tenants: &dyn Tenants,
        shared: &Arc<Shared>,
    ) -> Result<Arc<Self>, StoreError> {
        let process = Arc::new(process);
        let nothing = (Level::new(), Level::new());
        let of_process = TenantSettings::of(&Cascade { db: &nothing.0, yaml: &nothing.1, process: &process });
        shared.register(|read| {
            let mut map = HashMap::new();
            let mut failed = None;
            tenants.each(&mut |id, yaml| match read(id, process.limits) {
                Ok(own) => drop(map.insert(Arc::clone(id), Tenant::of(yaml, own, &process))),
                Err(error) => failed = Some(error),
            });
            match failed {
                Some(error) => Err(error),
                None => Ok(Arc::new(Self {
                    of_process: Arc::new(of_process),
                    process: Arc::clone(&process),
                    tenants: map,
                    shared: Arc::clone(shared),
                })),
            }
        })
    }

    /// What a tenant has set, and what its operator has; `None` when there is no such tenant.
    pub(crate) fn levels(&self, tenant: &str) -> Option<(Arc<OwnLevel>, &Arc<Level>)> {
        let tenant = self.tenants.get(tenant)?;
        Some((Arc::clone(&tenant.now.load().own), &tenant.yaml))
    }

    /// Whether the tenant is one of this generation.
    pub(crate) fn knows(&self, tenant: &str) -> bool {
        self.tenants.contains_key(tenant)
    }

    /// Takes over what a tenant has set.
    pub(crate) fn replace(&self, tenant: &str, own: OwnLevel) {
        if let Some(tenant) = self.tenants.get(tenant) {
            tenant.now.store(Arc::new(Now::of(&tenant.yaml, own, &self.process)));
        }
    }
}

impl TenantConfig for Tenancy {
    fn settings(&self, tenant: &str) -> Option<Arc<TenantSettings>> {
        self.tenants.get(tenant).map(|tenant| Arc::clone(&tenant.now.load().settings))
    }

    fn process(&self) -> Arc<TenantSettings> {
        Arc::clone(&self.of_process)
    }
}
