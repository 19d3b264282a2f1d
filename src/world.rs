//! The world: everything a request needs, built from one configuration. A request keeps the world it began with.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::render::ErrorRenderer;
use dgx_gateway_filter::services::RequestObserver;
use dgx_gateway_filter::trace::Tracer;
use dgx_gateway_filter::upstream::{Address, HttpVersion, Upstream};
use dgx_gateway_filter::views::Views;
use dgx_gateway_filter::{BodyNeed, BuildEnv, BuildError, Problem};

use crate::config::{Config, FilterEntry, FixedEnd, RouteEnd, RouteSpec, Server, parse_routes};
use crate::plugins::{BuildFilter, BuildService, FilterKindEntry, Registry};
use crate::route::{End, Fixed, Route, RouteFilter, RouteTable};

/// Longest time for the connection to an upstream that a route names by URL.
const FIXED_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Routes with their filters, and the settings of the core.
pub struct World {
    /// Routes.
    pub routes: RouteTable,
    /// Default dialect of errors.
    pub renderer: Arc<dyn ErrorRenderer>,
    /// Settings of the core.
    pub server: Server,
    /// Endpoints by the name of their kind.
    pub endpoints: HashMap<&'static str, axum::Router>,
    /// Sees requests that have ended.
    pub observer: Option<Arc<dyn RequestObserver>>,
    /// Follows requests, where an operator wants traces.
    pub tracer: Option<Arc<dyn Tracer>>,
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// A part could not be built.
    #[error("{part}: {source}")]
    Build {
        /// Which part.
        part: String,
        /// Why.
        #[source]
        source: BuildError,
    },
    /// The configuration is wrong.
    #[error("the configuration has {} problem(s)", .0.len())]
    Config(Vec<Problem>),
}

/// A configuration that was checked as a whole; what it takes to build its world.
pub struct Prepared {
    builders: Vec<(&'static str, BuildService)>,
    plans: Vec<RoutePlan>,
    max_upload_bytes: usize,
    server: Server,
}

impl Prepared {
    /// Checks all plug-ins and routes and reports every problem. Each file is read once.
    ///
    /// # Errors
    /// Every problem.
    pub fn check(
        config: &Config,
        registry: &Registry,
        ambient: &Ambient,
        now: SystemTime,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let builders = check_services(config, registry, ambient, now, &mut problems);
        let plans = plan_routes(config, registry, &mut problems);
        if !problems.is_empty() {
            return Err(located(problems, config));
        }
        let max_upload_bytes = config.server.max_upload_bytes;
        Ok(Self { builders, plans, max_upload_bytes, server: config.server.clone() })
    }
}

impl World {
    /// Builds the world of a checked configuration.
    ///
    /// # Errors
    /// The surroundings do not allow it.
    pub fn build(prepared: Prepared, registry: &Registry, env: &mut BuildEnv) -> Result<Self, WorldError> {
        let Prepared { builders, plans, max_upload_bytes, server } = prepared;
        for (name, build) in builders {
            build(env).map_err(|source| WorldError::Build { part: name.to_owned(), source })?;
        }
        let endpoints = build_endpoints(registry, env)?;
        let routes = build_routes(plans, max_upload_bytes, registry, &endpoints, env)?;
        let observer = env.service::<Arc<dyn RequestObserver>>().ok().map(|observer| Arc::clone(&*observer));
        let tracer = env.service::<Arc<dyn Tracer>>().ok().map(|tracer| Arc::clone(&*tracer));
        Ok(Self { endpoints, routes, renderer: Arc::clone(&registry.renderer), server, observer, tracer })
    }
}

/// Checks each service, and then what only several of them together can tell.
fn check_services(
    config: &Config,
    registry: &Registry,
    ambient: &Ambient,
    now: SystemTime,
    problems: &mut Vec<Problem>,
) -> Vec<(&'static str, BuildService)> {
    let mut views = Views::default();
    let mut builders = Vec::new();
    for service in &registry.services {
        match (service.check)(&config.sections, ambient, &mut views) {
            Ok(build) => builders.push((service.name, build)),
            Err(found) => problems.extend(found),
        }
    }
    problems.extend(registry.cross_checks.iter().flat_map(|check| check(&views, now)));
    builders
}

fn located(problems: Vec<Problem>, config: &Config) -> Vec<Problem> {
    match &config.file {
        Some(file) => file.located(problems),
        None => problems,
    }
}

struct RoutePlan {
    spec: RouteSpec,
    filters: Vec<(&'static str, BuildFilter)>,
}

/// Routes of the file first; a built-in one gives way to one of the file with the same path and a common method.
fn plan_routes(config: &Config, registry: &Registry, problems: &mut Vec<Problem>) -> Vec<RoutePlan> {
    let mut built_in = Vec::new();
    let further = config.server.metrics_on_public.then_some(registry.metrics_route);
    for routes in [registry.routes].into_iter().chain(further) {
        match parse_routes(routes) {
            Ok(routes) => built_in.extend(routes),
            Err(found) => problems.extend(found),
        }
    }
    let replaced = |built_in: &RouteSpec| {
        config
            .routes
            .iter()
            .any(|own| own.path == built_in.path && own.methods.iter().any(|method| built_in.methods.contains(method)))
    };
    let own = config.routes.iter().cloned();
    let all: Vec<RouteSpec> = own.chain(built_in.into_iter().filter(|route| !replaced(route))).collect();
    all.into_iter().filter_map(|spec| plan_route(spec, registry, problems)).collect()
}

fn plan_route(spec: RouteSpec, registry: &Registry, problems: &mut Vec<Problem>) -> Option<RoutePlan> {
    let before = problems.len();
    let mut problem = |key: String, message: String| problems.push(Problem::at(key, message));
    let mut filters: Vec<(&'static str, BuildFilter)> = Vec::new();
    for entry in &spec.filters {
        let key = format!("routes[{}].filters.{}", spec.path, entry.name);
        let Some(kind) = registry.filters.iter().find(|kind| kind.name == entry.name) else {
            problem(key, format!("unknown filter; known are {}", names(registry)));
            continue;
        };
        for earlier in kind.after {
            if !filters.iter().any(|(name, _)| earlier.split('|').any(|one| one == *name)) {
                problem(key.clone(), format!("must stand after {}", earlier.replace('|', " or ")));
            }
        }
        match check_entry(kind, entry) {
            Ok(build) => filters.push((kind.name, build)),
            Err(found) => found.into_iter().for_each(|p| problem(format!("{key}.{}", p.key), p.message)),
        }
    }
    if let RouteEnd::Endpoint(name) = &spec.end
        && !registry.endpoints.iter().any(|endpoint| endpoint.name == name)
    {
        problem(format!("routes[{}].endpoint", spec.path), format!("unknown endpoint {name}"));
    }
    if let Some(name) = &spec.dialect
        && registry.dialect_named(name).is_none()
    {
        problem(format!("routes[{}].dialect", spec.path), format!("unknown dialect {name}"));
    }
    (problems.len() == before).then_some(RoutePlan { spec, filters })
}

fn check_entry(kind: &FilterKindEntry, entry: &FilterEntry) -> Result<BuildFilter, Vec<Problem>> {
    (kind.check)(entry.parameters.clone())
}

fn names(registry: &Registry) -> String {
    registry.filters.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

fn build_endpoints(registry: &Registry, env: &BuildEnv) -> Result<HashMap<&'static str, axum::Router>, WorldError> {
    let mut endpoints = HashMap::new();
    for endpoint in &registry.endpoints {
        let router =
            (endpoint.build)(env).map_err(|source| WorldError::Build { part: endpoint.name.to_owned(), source })?;
        endpoints.insert(endpoint.name, router);
    }
    Ok(endpoints)
}

fn build_routes(
    plans: Vec<RoutePlan>,
    max_upload_bytes: usize,
    registry: &Registry,
    endpoints: &HashMap<&'static str, axum::Router>,
    env: &BuildEnv,
) -> Result<RouteTable, WorldError> {
    let mut table = RouteTable::default();
    for RoutePlan { spec, filters } in plans {
        let mut built = Vec::with_capacity(filters.len());
        for (name, build) in filters {
            let filter = build(env)
                .map_err(|source| WorldError::Build { part: format!("{} on {}", name, spec.path), source })?;
            built.push(RouteFilter { name, filter });
        }
        let need = built.iter().map(|entry| entry.filter.body_need()).max().unwrap_or(BodyNeed::None);
        let need = match (&spec.end, need) {
            (RouteEnd::Endpoint(_), BodyNeed::Start) => BodyNeed::Whole, // only an upstream takes a body half read
            _ => need,
        };
        let end = match spec.end {
            RouteEnd::Endpoint(name) => End::Endpoint(endpoints.get(name.as_str()).cloned().unwrap_or_default()),
            RouteEnd::Fixed(end) => End::Fixed(fixed(end)),
            RouteEnd::Planned => End::Planned,
        };
        let dialect = spec.dialect.as_deref().and_then(|name| registry.dialect_named(name));
        let route = Arc::new(Route {
            name: spec.path.as_str().into(),
            methods: spec.methods,
            protected: built.iter().any(|entry| entry.filter.authenticates()),
            filters: built,
            need,
            max_body_bytes: spec.max_body_bytes.or(spec.upload.then_some(max_upload_bytes)),
            dialect,
            end,
            overhead: OnceLock::new(),
        });
        table.add(&spec.path, &spec.aliases, &route).map_err(|error| {
            WorldError::Config(vec![Problem::at(format!("routes[{}]", spec.path), error.to_string())])
        })?;
    }
    Ok(table)
}

fn fixed(end: FixedEnd) -> Fixed {
    let FixedEnd { url, authorities, forward_headers, http2, websocket, idle } = end;
    let tls = url.scheme_str() == Some("https");
    let host: Arc<str> = url.host().unwrap_or_default().into();
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let upstream = Arc::new(Upstream {
        label: host.clone(),
        address: Address::Tcp { host, port, tls },
        version: if http2 { HttpVersion::Http2 } else { HttpVersion::Http1 },
        authorities,
        connect_timeout: FIXED_CONNECT_TIMEOUT,
        slots: None,
    });
    Fixed { upstream, prefix: url.path().trim_end_matches('/').to_owned(), forward_headers, websocket, idle }
}
