//! The configuration of tenants: its keys, what each may hold, and which level counts.
//!
//! The operator's file, the environment and the tenant itself write the same keys. All of them read this one table, so a
//! value is right everywhere or nowhere, and parts that come to use a key find it typed in [`TenantSettings`].
//!
//! | Module | Holds |
//! |---|---|
//! | [`keys`] | the table |
//! | [`kind`] | type and range of a key, and the one check of a value |
//! | [`value`] | a value that passed |
//! | [`cascade`] | the levels, and the value that counts |
//! | [`environment`] | the level of the process |
//! | [`tools`] | names of the tools that the gateway runs itself |

pub mod cascade;
pub mod environment;
pub mod keys;
pub mod kind;
#[cfg(test)]
mod tests;
pub mod tools;
pub mod value;

use std::sync::Arc;

pub use self::cascade::{Cascade, Level, Process, Source};
pub use self::environment::{Environment, Limits};
pub use self::keys::{Group, Key, TenantKey, TenantSettings};
pub use self::kind::{Input, Kind, ModelUse, Wrong};
pub use self::value::Value;

/// Serves the configuration of tenants. Offered as an `Arc<dyn TenantConfig>` by the part that owns it. Requests of a
/// tenant find its values as the fact [`TenantSettings`]; this is for work that no request carries.
pub trait TenantConfig: Send + Sync {
    /// The values of a tenant as they are now; `None` when there is no such tenant. From memory, without a wait.
    fn settings(&self, tenant: &str) -> Option<Arc<TenantSettings>>;

    /// The values where no tenant is known: those of the environment, else of the product.
    fn process(&self) -> Arc<TenantSettings>;
}

/// The tenants there are, and what the operator set for each. Offered as an `Arc<dyn Tenants>` by the part that reads
/// them.
pub trait Tenants: Send + Sync {
    /// Shows each tenant with its level of the configuration.
    fn each(&self, see: &mut dyn FnMut(&Arc<str>, &Arc<Level>));
}
