//! Key `routes`: which filters a path passes, and where it ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::certificates::Authorities;
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
    /// Dialect in which errors of this path, and of paths below it that are unknown, are said: `messages`. Default: that of chat.
    pub dialect: Option<String>,
    /// Largest request body in bytes, 0 to 1099511627776. Default: `server.max_body_bytes`.
    pub max_body_bytes: Option<u64>,
    /// Whether the body is an upload: then `server.max_upload_bytes` is its limit. Default false.
    #[serde(default)]
    pub upload: bool,
    /// PEM file with the authorities that a URL upstream over `https` is checked against, instead of those that the system
    /// trusts. A change of it brings a reload.
    pub ca_file: Option<PathBuf>,
    /// Request headers that a URL upstream receives, besides framing and tracing headers. Credentials (`authorization`,
    /// `cookie`, `x-api-key`), `spass-*` and headers that belong to one connection cannot be listed.
    #[serde(default)]
    pub forward_headers: Vec<String>,
    /// A URL upstream is spoken to in HTTP/2: by prior knowledge at an `http` URL, negotiated at an `https` URL, and
    /// never in HTTP/1.1. gRPC needs it. Default false.
    #[serde(default)]
    pub http2: bool,
    /// Protocols to which a client may switch a connection to a URL upstream; an empty list refuses all. Not with
    /// `http2`.
    #[serde(default)]
    pub upgrade: Vec<UpgradeProtocol>,
    /// Longest silence in seconds, 1 to 86400: of a URL upstream that is to answer, or of both sides of a connection
    /// that was switched to another protocol. Default: `server.total_timeout_seconds`.
    pub idle_timeout_seconds: Option<u64>,
}

/// A protocol to which a connection may be switched.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeProtocol {
    /// WebSocket, RFC 6455.
    Websocket,
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
    Fixed(FixedEnd),
    /// A filter of the route makes the plan.
    Planned,
}

/// An upstream that a route names by URL.
#[derive(Clone, Debug)]
pub struct FixedEnd {
    /// `http` or `https` URL; its path is put before that of the request.
    pub url: http::Uri,
    /// Whom it is checked against, if not against whom the system trusts.
    pub authorities: Option<Arc<Authorities>>,
    /// Request headers that are passed on.
    pub forward_headers: Vec<HeaderName>,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
    /// Whether a connection may be switched to WebSocket.
    pub websocket: bool,
    /// Longest silence, if not the total time of the server.
    pub idle: Option<Duration>,
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
    /// Dialect of errors, if not the default.
    pub dialect: Option<String>,
    /// Largest request body, if not one of the server's.
    pub max_body_bytes: Option<usize>,
    /// Whether the body is an upload.
    pub upload: bool,
    /// Where it ends.
    pub end: RouteEnd,
}

pub(super) fn check_all(
    routes: Vec<RouteFile>,
    key: &str,
    ambient: &Ambient,
    problems: &mut Vec<Problem>,
) -> Vec<RouteSpec> {
    routes
        .into_iter()
        .enumerate()
        .filter_map(|(index, route)| check(route, &format!("{key}[{index}]"), ambient, problems))
        .collect()
}

fn check(mut route: RouteFile, key: &str, ambient: &Ambient, problems: &mut Vec<Problem>) -> Option<RouteSpec> {
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
    for (index, entry) in std::mem::take(&mut route.filters).into_iter().enumerate() {
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
    if route.upload && max_body_bytes.is_some() {
        problems.push(Problem::at(format!("{key}.max_body_bytes"), "an upload is limited by server.max_upload_bytes"));
    }
    let end = route_end(&route, key, ambient, problems);
    let end = end.filter(|_| problems.len() == before)?;
    Some(RouteSpec {
        path: route.path,
        aliases: route.aliases,
        methods,
        filters,
        dialect: route.dialect,
        max_body_bytes: max_body_bytes.flatten(),
        upload: route.upload,
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

fn route_end(route: &RouteFile, key: &str, ambient: &Ambient, problems: &mut Vec<Problem>) -> Option<RouteEnd> {
    let end = match (&route.endpoint, &route.upstream) {
        (Some(name), None) => RouteEnd::Endpoint(name.clone()),
        (None, Some(word)) if word == "planned" => RouteEnd::Planned,
        (None, Some(url)) => return fixed_end(route, url, key, ambient, problems).map(RouteEnd::Fixed),
        _ => {
            problems.push(Problem::at(key, "needs exactly one of `endpoint` and `upstream`"));
            return None;
        }
    };
    let given = [
        ("ca_file", route.ca_file.is_some()),
        ("http2", route.http2),
        ("upgrade", !route.upgrade.is_empty()),
        ("idle_timeout_seconds", route.idle_timeout_seconds.is_some()),
    ];
    for (name, _) in given.iter().filter(|(_, given)| *given) {
        problems.push(Problem::at(format!("{key}.{name}"), "needs an `upstream` that is a URL"));
    }
    Some(end)
}

fn fixed_end(
    route: &RouteFile,
    url: &str,
    key: &str,
    ambient: &Ambient,
    problems: &mut Vec<Problem>,
) -> Option<FixedEnd> {
    let url: Option<http::Uri> = url.parse().ok();
    let url = url.filter(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
    let forward_headers = forward(&route.forward_headers, key, problems);
    if url.is_none() {
        problems.push(Problem::at(format!("{key}.upstream"), "must be `planned` or an http or https URL"));
    }
    let ca_key = format!("{key}.ca_file");
    let authorities = match &route.ca_file {
        Some(_) if url.as_ref().is_some_and(|url| url.scheme_str() == Some("http")) => {
            problems.push(Problem::at(ca_key, "needs an `upstream` that is an https URL"));
            None
        }
        Some(path) => Authorities::load(path, &ca_key, ambient, problems),
        None => None,
    };
    let websocket = route.upgrade.contains(&UpgradeProtocol::Websocket);
    if websocket && route.http2 {
        problems.push(Problem::at(format!("{key}.upgrade"), "is for HTTP/1.1 and excludes `http2`"));
    }
    if route.idle_timeout_seconds.is_some_and(|seconds| !(1..=86_400).contains(&seconds)) {
        problems.push(Problem::at(format!("{key}.idle_timeout_seconds"), "must be a whole number from 1 to 86400"));
    }
    let idle = route.idle_timeout_seconds.map(Duration::from_secs);
    Some(FixedEnd { url: url?, authorities, forward_headers, http2: route.http2, websocket, idle })
}

/// Header names that may pass. Framing and hop-by-hop headers are the core's own: a second source of them would let
/// a client say where its request ends. Credentials are meant for the gateway.
fn forward(names: &[String], key: &str, problems: &mut Vec<Problem>) -> Vec<HeaderName> {
    let mut found = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let problem = match name.parse::<HeaderName>() {
            Ok(name) if OURS.contains(&name.as_str()) || name.as_str().starts_with("sec-websocket-") => {
                "is set by the gateway and cannot be passed on"
            }
            Ok(name) if FOR_US.contains(&name.as_str()) || name.as_str().starts_with("spass-") => {
                "is meant for the gateway and never passed on"
            }
            Ok(name) => {
                found.push(name);
                continue;
            }
            Err(_) => "is no header name",
        };
        problems.push(Problem::at(format!("{key}.forward_headers[{index}]"), problem));
    }
    found
}

/// Headers that the core sets.
const OURS: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-request-id",
];
/// Headers that say who the client is.
const FOR_US: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(yaml: &str) -> Vec<String> {
        let mut problems = Vec::new();
        check_all(serde_yaml::from_str(yaml).unwrap(), "routes", &Ambient::default(), &mut problems);
        problems.into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn a_url_upstream_may_speak_http2_or_be_switched_but_not_both() {
        let route = |more: &str| keys(&format!("[{{path: /a, methods: [GET], upstream: 'http://h', {more}}}]"));
        assert_eq!(route("http2: true, idle_timeout_seconds: 1"), [""; 0]);
        assert_eq!(route("upgrade: [websocket], idle_timeout_seconds: 86400"), [""; 0]);
        assert_eq!(route("upgrade: [websocket], http2: true"), ["routes[0].upgrade"]);
        for seconds in ["0", "86401"] {
            assert_eq!(route(&format!("idle_timeout_seconds: {seconds}")), ["routes[0].idle_timeout_seconds"]);
        }
        let planned = "[{path: /a, methods: [GET], upstream: planned, http2: true, upgrade: [websocket]}]";
        assert_eq!(keys(planned), ["routes[0].http2", "routes[0].upgrade"]);
    }

    #[test]
    fn authorities_are_for_https_alone() {
        let route = |upstream: &str| {
            keys(&format!("[{{path: /a, methods: [GET], upstream: '{upstream}', ca_file: /nonexistent/ca.pem}}]"))
        };
        for upstream in ["http://h", "https://h", "planned"] {
            assert_eq!(route(upstream), ["routes[0].ca_file"], "{upstream}");
        }
    }

    #[test]
    fn credentials_and_headers_of_the_core_cannot_be_passed_on() {
        for name in ["authorization", "Cookie", "x-api-key", "SPASS-User-Id", "te", "sec-websocket-key", "b d"] {
            let yaml =
                format!("[{{path: /a, methods: [GET], upstream: 'http://h', forward_headers: [x-a, '{name}']}}]");
            assert_eq!(keys(&yaml), ["routes[0].forward_headers[1]"], "{name}");
        }
    }
}
