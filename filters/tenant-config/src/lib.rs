//! The configuration of tenants: what each sets at run time, and what its requests work with.
//!
//! Owns the tables `tenant_config` and `tenant_config_changes`, the environment variables of the keys, and the endpoint
//! `tenant-config`. The keys themselves stand in [`dgx_gateway_filter::tenant_config`]; the operator's level comes from
//! the part that reads `tokens.yaml`. It has no filter: the part that identifies a request states the values of its tenant,
//! which lie in memory.
//!
//! A change is committed before it is acknowledged, and holds for the next request in this process. Other processes on the
//! same database see it within [`LOOK`], because each looks that often whether something has changed.
//! If the database cannot be written a change is refused (`storage_error`); if it cannot be read the last values stay.
//!
//! | Module | Holds |
//! |---|---|
//! | `service` | reading the environment, building |
//! | `config` | the values of all tenants, as one generation of the configuration has them |
//! | `shared` | what outlives a reload: the database, and who is told of changes |
//! | `rows` | tables and SQL |
//! | `change` | one change, carried out inside its transaction |
//! | `endpoint`, `requests` | the endpoint, and what it does with a request |
//! | `document`, `entry`, `refusal` | requests, answers and errors as JSON |

mod change;
mod config;
mod document;
mod endpoint;
mod entry;
mod refusal;
mod requests;
mod rows;
mod service;
mod shared;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use self::endpoint::ConfigEndpoint;
pub use self::service::{Service, Settings};
pub use self::shared::LOOK;
