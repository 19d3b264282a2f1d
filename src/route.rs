//! Matching a request head to a route: once per request, on the parsed path. Pure.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dgx_gateway_filter::render::ErrorRenderer;
use dgx_gateway_filter::{BodyNeed, Filter};
use http::{HeaderName, Method};
use prometheus::Histogram;

use dgx_gateway_filter::upstream::Upstream;

/// A filter of a route.
pub struct RouteFilter {
    /// Name of its kind.
    pub name: &'static str,
    /// The filter.
    pub filter: Arc<dyn Filter>,
}

/// Where a built route ends.
pub enum End {
    /// An endpoint of this process.
    Endpoint(axum::Router),
    /// One upstream.
    Fixed(Fixed),
    /// A filter of the route makes the plan.
    Planned,
}

/// The one upstream of a route.
pub struct Fixed {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Path prefix, without a trailing slash.
    pub prefix: String,
    /// Request headers that are passed on.
    pub forward_headers: Vec<HeaderName>,
    /// Whether a connection may be switched to WebSocket.
    pub websocket: bool,
    /// Longest silence, if not the total time of the server.
    pub idle: Option<Duration>,
}

/// A built route.
pub struct Route {
    /// Path template: its name in logs and metrics.
    pub name: Arc<str>,
    /// Allowed methods.
    pub methods: Vec<Method>,
    /// Whether one of the filters asks who sends the request.
    pub protected: bool,
    /// Filters in order.
    pub filters: Vec<RouteFilter>,
    /// The strongest body need of the filters.
    pub need: BodyNeed,
    /// Largest request body, if not that of the server.
    pub max_body_bytes: Option<usize>,
    /// Dialect of errors, if not the default.
    pub dialect: Option<Arc<dyn ErrorRenderer>>,
    /// Where it ends.
    pub end: End,
    /// Its series of the time that the gateway itself takes, once there is one.
    pub overhead: OnceLock<Histogram>,
}

impl Route {
    /// The one upstream, if it ends at one.
    #[must_use]
    pub fn fixed(&self) -> Option<&Fixed> {
        match &self.end {
            End::Fixed(fixed) => Some(fixed),
            _ => None,
        }
    }
}

/// What matching came to.
pub enum Match<'a> {
    /// The path is known, by a route of this name, but not with this method; these are allowed.
    MethodNotAllowed(&'a Arc<Route>, String),
    /// No such path.
    NotFound,
    /// The route, and the path in its canonical form.
    Route(&'a Arc<Route>, CanonicalPath<'a>),
}

/// The path that a route's own template gives; differs from the request's for aliases and trailing slashes.
pub enum CanonicalPath<'a> {
    /// As requested.
    AsRequested(&'a str),
    /// Rewritten.
    Rewritten(String),
}

impl CanonicalPath<'_> {
    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::AsRequested(path) => path,
            Self::Rewritten(path) => path,
        }
    }
}

struct Leaf {
    routes: Vec<Arc<Route>>,
    alias_of: Option<String>,
}

/// All routes.
#[derive(Default)]
pub struct RouteTable {
    templates: matchit::Router<usize>,
    leaves: Vec<Leaf>,
}

/// A template that the table cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("path {template}: {source}")]
pub struct TemplateError {
    template: String,
    #[source]
    source: matchit::InsertError,
}

impl RouteTable {
    /// Adds a route under its own template and its aliases. Routes with equal templates differ in methods.
    ///
    /// # Errors
    /// The template is malformed or in conflict with another one.
    pub fn add(&mut self, template: &str, aliases: &[String], route: &Arc<Route>) -> Result<(), TemplateError> {
        self.add_template(template, None, route)?;
        aliases.iter().try_for_each(|alias| self.add_template(alias, Some(template), route))
    }

    fn add_template(
        &mut self,
        template: &str,
        alias_of: Option<&str>,
        route: &Arc<Route>,
    ) -> Result<(), TemplateError> {
        // a template that exists resolves to itself only when looked up by its own text
        if let Some(leaf) = self.templates.at(template).ok().and_then(|found| self.leaves.get_mut(*found.value))
            && leaf.routes.first().is_some_and(|known| *known.name == *route.name)
        {
            leaf.routes.push(Arc::clone(route));
            return Ok(());
        }
        let index = self.leaves.len();
        self.templates
            .insert(template, index)
            .map_err(|source| TemplateError { template: template.to_owned(), source })?;
        self.leaves.push(Leaf { routes: vec![Arc::clone(route)], alias_of: alias_of.map(str::to_owned) });
        Ok(())
    }

    /// The dialect of the nearest route above a path that no route matches.
    #[must_use]
    pub fn dialect_above(&self, path: &str) -> Option<&Arc<dyn ErrorRenderer>> {
        let routes = self.leaves.iter().flat_map(|leaf| &leaf.routes);
        let above = routes.filter(|route| is_below(path, &route.name));
        above.max_by_key(|route| route.name.len())?.dialect.as_ref()
    }

    /// Finds the route of a request. A trailing slash is ignored; `HEAD` counts as `GET`.
    #[must_use]
    pub fn find<'a>(&'a self, method: &Method, path: &'a str) -> Match<'a> {
        if has_dot_segment(path) {
            return Match::NotFound;
        }
        let trimmed = match path.strip_suffix('/') {
            Some(trimmed) if !trimmed.is_empty() => trimmed,
            _ => path,
        };
        let Some((found, leaf)) = self.templates.at(trimmed).ok().and_then(|found| {
            let leaf = self.leaves.get(*found.value)?;
            Some((found, leaf))
        }) else {
            return Match::NotFound;
        };
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let Some(route) = leaf.routes.iter().find(|route| route.methods.contains(method)) else {
            return leaf.routes.first().map_or(Match::NotFound, |route| Match::MethodNotAllowed(route, allowed(leaf)));
        };
        let canonical = match &leaf.alias_of {
            Some(template) => CanonicalPath::Rewritten(fill(template, &found.params)),
            None if trimmed.len() == path.len() => CanonicalPath::AsRequested(path),
            None => CanonicalPath::Rewritten(trimmed.to_owned()),
        };
        Match::Route(route, canonical)
    }
}

/// Whether `path` lies below the path that a template without parameters means.
fn is_below(path: &str, template: &str) -> bool {
    path.strip_prefix(template).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a segment is `.` or `..`, percent-encoded or not. An upstream would resolve it, and so leave the paths
/// that the route was matched for.
fn has_dot_segment(path: &str) -> bool {
    let dots = |segment: &str| {
        let mut rest = segment;
        let mut count = 0;
        while let Some(after) =
            rest.strip_prefix('.').or_else(|| rest.strip_prefix("%2e")).or_else(|| rest.strip_prefix("%2E"))
        {
            (rest, count) = (after, count + 1);
        }
        rest.is_empty() && (1..=2).contains(&count)
    };
    path.split('/').any(dots)
}

fn allowed(leaf: &Leaf) -> String {
    let mut names: Vec<&str> = Vec::new();
    for method in leaf.routes.iter().flat_map(|route| &route.methods) {
        names.push(method.as_str());
        if *method == Method::GET {
            names.push("HEAD");
        }
    }
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn fill(template: &str, params: &matchit::Params<'_, '_>) -> String {
    params.iter().fold(template.to_owned(), |path, (name, value)| {
        path.replace(&format!("{{{name}}}"), value).replace(&format!("{{*{name}}}"), value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::Bytes;
    use dgx_gateway_filter::FilterError;
    use dgx_gateway_filter::render::Rendered;
    use http::{HeaderMap, StatusCode};

    fn table(routes: &[(&str, &[&str], &[Method])]) -> RouteTable {
        let mut table = RouteTable::default();
        for (path, aliases, methods) in routes {
            let route = Route {
                name: (*path).into(),
                methods: methods.to_vec(),
                protected: false,
                filters: vec![],
                need: BodyNeed::None,
                max_body_bytes: None,
                dialect: None,
                end: End::Planned,
                overhead: OnceLock::new(),
            };
            let aliases: Vec<String> = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            table.add(path, &aliases, &Arc::new(route)).unwrap();
        }
        table
    }

    fn name(table: &RouteTable, method: &Method, path: &str) -> String {
        match table.find(method, path) {
            Match::Route(route, canonical) => format!("{} {}", route.name, canonical.as_str()),
            Match::MethodNotAllowed(_, allow) => format!("405 {allow}"),
            Match::NotFound => "404".to_owned(),
        }
    }

    #[test]
    fn matches_paths_aliases_and_trailing_slashes() {
        let table = table(&[
            ("/", &[], &[Method::GET]),
            ("/v1/models", &["/models"], &[Method::GET]),
            ("/v1/models/{*id}", &["/models/{*id}"], &[Method::GET]),
            ("/v1/chat", &["/chat"], &[Method::POST]),
        ]);
        assert_eq!(name(&table, &Method::GET, "/"), "/ /");
        assert_eq!(name(&table, &Method::GET, "/v1/models"), "/v1/models /v1/models");
        assert_eq!(name(&table, &Method::HEAD, "/v1/models/"), "/v1/models /v1/models");
        assert_eq!(name(&table, &Method::GET, "/models"), "/v1/models /v1/models");
        assert_eq!(name(&table, &Method::GET, "/models/a/b"), "/v1/models/{*id} /v1/models/a/b");
        assert_eq!(name(&table, &Method::GET, "/v1/chat"), "405 POST");
        assert_eq!(name(&table, &Method::DELETE, "/models"), "405 GET, HEAD");
        assert_eq!(name(&table, &Method::GET, "/v1"), "404");
        assert_eq!(name(&table, &Method::GET, "//v1/models"), "404");
        for dots in ["/v1/models/..", "/v1/models/a/%2e%2E/b", "/v1/models/./b", "/v1/models/.%2e"] {
            assert_eq!(name(&table, &Method::GET, dots), "404", "{dots}");
        }
        assert_eq!(name(&table, &Method::GET, "/v1/models/a..b"), "/v1/models/{*id} /v1/models/a..b");
    }

    #[test]
    fn a_path_below_a_route_takes_its_dialect() {
        struct Silent;
        impl ErrorRenderer for Silent {
            fn render(&self, error: &FilterError, _request_id: &str) -> Rendered {
                Rendered { status: self.status(error), headers: HeaderMap::new(), body: Bytes::new() }
            }
            fn stream_event(&self, _error: &FilterError, _request_id: &str) -> Option<Bytes> {
                None
            }
            fn status(&self, _error: &FilterError) -> StatusCode {
                StatusCode::BAD_REQUEST
            }
        }
        let mut table = RouteTable::default();
        let known: Arc<dyn ErrorRenderer> = Arc::new(Silent);
        for (path, dialect) in [("/v1/a", Some(&known)), ("/v1/a/b", None), ("/v1", None)] {
            let route = Route {
                name: path.into(),
                methods: vec![Method::GET],
                protected: false,
                filters: vec![],
                need: BodyNeed::None,
                max_body_bytes: None,
                dialect: dialect.cloned(),
                end: End::Planned,
                overhead: OnceLock::new(),
            };
            table.add(path, &[], &Arc::new(route)).unwrap();
        }
        for (path, expected) in [
            ("/v1/a/c", true),
            ("/v1/a/", true),
            ("/v1/ab", false),
            ("/v1/a/b/c", false),
            ("/v1/c", false),
            ("/", false),
        ] {
            assert_eq!(table.dialect_above(path).is_some(), expected, "{path}");
        }
    }

    #[test]
    fn one_path_may_have_a_route_per_method() {
        let table = table(&[("/x", &[], &[Method::GET]), ("/x", &[], &[Method::POST])]);
        assert_eq!(name(&table, &Method::POST, "/x"), "/x /x");
        assert_eq!(name(&table, &Method::PUT, "/x"), "405 GET, HEAD, POST");
    }
}
