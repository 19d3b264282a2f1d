//! Key `routes`: which filters a path passes, and where it ends.

use dgx_gateway_filter::Problem;
use http::{HeaderName, Method};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_yaml::Value;

/// File shape of one route.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteFile {
    /// Path template: literal segments, `{name}` for one segment, `{*name}` for the rest.
    pub path: String,
    /// Further templates with the same parameters; they mean the same route.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Methods; `GET` includes `HEAD`.
    pub methods: Vec<String>,
    /// Filters in order: a name, or a mapping of one name to its parameters.
    #[serde(default)]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub filters: Vec<Value>,
    /// Name of the endpoint that answers. Exactly one of `endpoint` and `upstream` is set.
    pub endpoint: Option<String>,
    /// `planned` (a filter of the route chooses), or the URL of one upstream.
    pub upstream: Option<String>,
    /// Largest request body in bytes, 0 to 1099511627776. Default: `server.max_body_bytes`.
    pub max_body_bytes: Option<u64>,
    /// Request headers that a URL upstream receives, besides framing and tracing headers. `Authorization`, `X-API-Key`
    /// and `SPASS-*` are for the gateway alone and refused here.
    #[serde(default)]
    pub forward_headers: Vec<String>,
}

/// A filter as a route lists it.
#[derive(Clone, Debug)]
pub struct FilterEntry {
    /// Name of the kind.
    pub name: String,
    /// Its parameters, raw.
    pub parameters: Value,
}

/// Where a route ends.
#[derive(Clone, Debug)]
pub enum RouteEnd {
    /// An endpoint answers.
    Endpoint(String),
    /// One upstream, always the same.
    Fixed {
        /// `http` or `https` URL; its path is put before that of the request.
        url: http::Uri,
        /// Request headers that are passed on.
        forward_headers: Vec<HeaderName>,
    },
    /// A filter of the route makes the plan.
    Planned,
}

/// A checked route.
#[derive(Clone, Debug)]
pub struct RouteSpec {
    /// Path template: also its name.
    pub path: String,
    /// Further templates.
    pub aliases: Vec<String>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Filters in order.
    pub filters: Vec<FilterEntry>,
    /// Largest request body, if not that of the server.
    pub max_body_bytes: Option<usize>,
    /// Where it ends.
    pub end: RouteEnd,
}

pub(super) fn check_all(routes: Vec<RouteFile>, key: &str, problems: &mut Vec<Problem>) -> Vec<RouteSpec> {
    routes
        .into_iter()
        .enumerate()
        .filter_map(|(index, route)| check(route, &format!("{key}[{index}]"), problems))
        .collect()
}

fn check(route: RouteFile, key: &str, problems: &mut Vec<Problem>) -> Option<RouteSpec> {
    let before = problems.len();
    if !route.path.starts_with('/') {
        problems.push(Problem::at(format!("{key}.path"), "must begin with /"));
    }
    let methods: Vec<Method> =
        route.methods.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect();
    if methods.is_empty() || methods.len() != route.methods.len() {
        problems.push(Problem::at(format!("{key}.methods"), "must list one or several HTTP methods"));
    }
    let mut filters = Vec::new();
    for (index, entry) in route.filters.into_iter().enumerate() {
        match filter_entry(entry) {
            Some(entry) => filters.push(entry),
            None => problems.push(Problem::at(
                format!("{key}.filters[{index}]"),
                "must be a name, or a mapping of one name to its parameters",
            )),
        }
    }
    let max_body_bytes = route.max_body_bytes.map(|bytes| usize::try_from(bytes).ok().filter(|_| bytes <= 1 << 40));
    if max_body_bytes == Some(None) {
        problems.push(Problem::at(format!("{key}.max_body_bytes"), "must be 0 to 1099511627776"));
    }
    let end = route_end(route.endpoint, route.upstream, &route.forward_headers, key, problems);
    let end = end.filter(|_| problems.len() == before)?;
    Some(RouteSpec {
        path: route.path,
        aliases: route.aliases,
        methods,
        filters,
        max_body_bytes: max_body_bytes.flatten(),
        end,
    })
}

fn filter_entry(value: Value) -> Option<FilterEntry> {
    match value {
        Value::String(name) => Some(FilterEntry { name, parameters: Value::Null }),
        Value::Mapping(mapping) if mapping.len() == 1 => {
            let (name, parameters) = mapping.into_iter().next()?;
            Some(FilterEntry { name: name.as_str()?.to_owned(), parameters })
        }
        _ => None,
    }
}

fn route_end(
    endpoint: Option<String>,
    upstream: Option<String>,
    forward_headers: &[String],
    key: &str,
    problems: &mut Vec<Problem>,
) -> Option<RouteEnd> {
    match (endpoint, upstream) {
        (Some(name), None) => Some(RouteEnd::Endpoint(name)),
        (None, Some(word)) if word == "planned" => Some(RouteEnd::Planned),
        (None, Some(url)) => {
            let url: Option<http::Uri> = url.parse().ok();
            let url = url.filter(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
            let forward_headers = forward(forward_headers, key, problems);
            if url.is_none() {
                problems.push(Problem::at(format!("{key}.upstream"), "must be `planned` or an http or https URL"));
            }
            url.map(|url| RouteEnd::Fixed { url, forward_headers })
        }
        _ => {
            problems.push(Problem::at(key, "needs exactly one of `endpoint` and `upstream`"));
            None
        }
    }
}

/// Header names that may pass. Framing and hop-by-hop headers are the core's own: a second source of them would let
/// a client say where its request ends. Credentials of the caller and `SPASS-*` are for the gateway alone.
fn forward(names: &[String], key: &str, problems: &mut Vec<Problem>) -> Vec<HeaderName> {
    const OURS: [&str; 14] = [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-request-id",
    ];
    let mut found = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        match name.parse::<HeaderName>() {
            Ok(name) if is_for_the_gateway(&name) => problems.push(Problem::at(
                format!("{key}.forward_headers[{index}]"),
                "is for the gateway alone and cannot be passed on",
            )),
            Ok(name) if !OURS.contains(&name.as_str()) => found.push(name),
            Ok(_) => problems.push(Problem::at(
                format!("{key}.forward_headers[{index}]"),
                "is set by the gateway and cannot be passed on",
            )),
            Err(_) => problems.push(Problem::at(format!("{key}.forward_headers[{index}]"), "is no header name")),
        }
    }
    found
}

fn is_for_the_gateway(name: &HeaderName) -> bool {
    matches!(name.as_str(), "authorization" | "x-api-key") || name.as_str().starts_with("spass-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_for_the_gateway_alone_are_never_passed_on() {
        let mut problems = Vec::new();
        let names = ["x-wanted", "Authorization", "x-api-key", "SPASS-User-Id", "spass-caller-depth", "host", "a b"];
        let found = forward(&names.map(str::to_owned), "routes[0]", &mut problems);
        assert_eq!(found, ["x-wanted"]);
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, [1, 2, 3, 4, 5, 6].map(|index| format!("routes[0].forward_headers[{index}]")));
    }
}
