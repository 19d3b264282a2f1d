//! Type erasure for plug-ins: turns the generic kinds of `filters/api` into entries of a table.
//!
//! A plug-in is checked first (pure, all problems at once) and built later; the checked value waits in a closure.

use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::filter::CrossCheck;
use dgx_gateway_filter::render::ErrorRenderer;
use dgx_gateway_filter::views::Views;
use dgx_gateway_filter::yaml;
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind, Filter, FilterKind, Problem, ServiceKind};
use serde_yaml::{Mapping, Value};

/// Builds a service that was checked.
pub type BuildService = Box<dyn FnOnce(&mut BuildEnv) -> Result<(), BuildError>>;
/// Builds a filter that was checked.
pub type BuildFilter = Box<dyn FnOnce(&BuildEnv) -> Result<Arc<dyn Filter>, BuildError>>;
type CheckService = fn(&Mapping, &Ambient, &mut Views) -> Result<BuildService, Vec<Problem>>;
type CheckFilter = fn(Value) -> Result<BuildFilter, Vec<Problem>>;
type BuildEndpoint = fn(&BuildEnv) -> Result<axum::Router, BuildError>;

/// A service kind in the table.
pub struct ServiceEntry {
    /// Name for logs.
    pub name: &'static str,
    /// Its top-level keys.
    pub keys: &'static [&'static str],
    /// Tables that it keeps: owner and newest version.
    pub tables: &'static [(&'static str, usize)],
    /// Checks its section of the file, and offers what it read to cross checks.
    pub check: CheckService,
    /// JSON Schema of its section.
    pub schema: fn() -> schemars::Schema,
}

/// A filter kind in the table.
pub struct FilterKindEntry {
    /// Name in routes.
    pub name: &'static str,
    /// Kinds that must stand before it.
    pub after: &'static [&'static str],
    /// Checks the parameters of one route entry.
    pub check: CheckFilter,
    /// JSON Schema of its parameters.
    pub schema: fn() -> schemars::Schema,
}

/// An endpoint kind in the table.
pub struct EndpointEntry {
    /// Name in routes.
    pub name: &'static str,
    /// Builds the router.
    pub build: BuildEndpoint,
}

/// Everything the binary was built with. Filled in `registry.rs` and, with fewer parts, in tests.
pub struct Registry {
    /// Services, in the order in which they are built.
    pub services: Vec<ServiceEntry>,
    /// Checks over what several services have read.
    pub cross_checks: Vec<CrossCheck>,
    /// Filter kinds.
    pub filters: Vec<FilterKindEntry>,
    /// Endpoint kinds.
    pub endpoints: Vec<EndpointEntry>,
    /// Default dialect of errors.
    pub renderer: Arc<dyn ErrorRenderer>,
    /// Further dialects, by the name that a route gives.
    pub dialects: Vec<(&'static str, Arc<dyn ErrorRenderer>)>,
    /// Built-in routes, in the form of the configuration file.
    pub routes: &'static str,
    /// The route of the metrics on the public listener, for operators that want it there.
    pub metrics_route: &'static str,
}

impl Registry {
    /// A registry without plug-ins.
    #[must_use]
    pub fn new(renderer: Arc<dyn ErrorRenderer>, routes: &'static str) -> Self {
        Self {
            services: Vec::new(),
            cross_checks: Vec::new(),
            filters: Vec::new(),
            endpoints: Vec::new(),
            renderer,
            dialects: Vec::new(),
            routes,
            metrics_route: "[]",
        }
    }

    /// Adds a service; it may use those added before.
    #[must_use]
    pub fn service<S: ServiceKind>(mut self) -> Self {
        self.services.push(ServiceEntry {
            name: S::NAME,
            keys: S::KEYS,
            tables: S::TABLES,
            check: check_service::<S>,
            schema: || schemars::schema_for!(S::Settings),
        });
        self
    }

    /// Adds a check over what several services have read.
    #[must_use]
    pub fn cross_check(mut self, check: CrossCheck) -> Self {
        self.cross_checks.push(check);
        self
    }

    /// Adds a filter kind.
    #[must_use]
    pub fn filter<F: FilterKind>(mut self) -> Self {
        self.filters.push(FilterKindEntry {
            name: F::NAME,
            after: F::AFTER,
            check: check_filter::<F>,
            schema: || schemars::schema_for!(F::Config),
        });
        self
    }

    /// Adds an endpoint kind.
    #[must_use]
    pub fn endpoint<E: EndpointKind>(mut self) -> Self {
        self.endpoints.push(EndpointEntry { name: E::NAME, build: E::build });
        self
    }

    /// Sets the route of the metrics on the public listener.
    #[must_use]
    pub fn metrics_route(mut self, route: &'static str) -> Self {
        self.metrics_route = route;
        self
    }

    /// Adds a dialect of errors.
    #[must_use]
    pub fn dialect(mut self, name: &'static str, renderer: Arc<dyn ErrorRenderer>) -> Self {
        self.dialects.push((name, renderer));
        self
    }

    /// A further dialect of errors.
    #[must_use]
    pub fn dialect_named(&self, name: &str) -> Option<Arc<dyn ErrorRenderer>> {
        self.dialects.iter().find(|(known, _)| *known == name).map(|(_, renderer)| Arc::clone(renderer))
    }

    /// Owners of tables, and the newest versions of their schemas.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.services.iter().flat_map(|service| service.tables.iter().copied())
    }

    /// The top-level keys of all services.
    #[must_use]
    pub fn keys(&self) -> Vec<&'static str> {
        self.services.iter().flat_map(|service| service.keys.iter().copied()).collect()
    }
}

fn check_service<S: ServiceKind>(
    sections: &Mapping,
    ambient: &Ambient,
    views: &mut Views,
) -> Result<BuildService, Vec<Problem>> {
    let own: Mapping = sections
        .iter()
        .filter(|(key, _)| key.as_str().is_some_and(|key| S::KEYS.contains(&key)))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let settings = if own.is_empty() { S::Settings::default() } else { parse(Value::Mapping(own))? };
    let checked = S::check(settings, ambient)?;
    S::view(&checked, views);
    Ok(Box::new(move |env| S::build(checked, env)))
}

fn check_filter<F: FilterKind>(parameters: Value) -> Result<BuildFilter, Vec<Problem>> {
    let config = if parameters.is_null() { F::Config::default() } else { parse(parameters)? };
    let checked = F::check(config)?;
    Ok(Box::new(move |env| F::build(checked, env)))
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Vec<Problem>> {
    yaml::read(value).map_err(|problem| vec![problem])
}
