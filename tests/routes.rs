//! The built-in routes against the table of endpoints, scopes and user ids of the contract.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use dgx_gateway::config::{RouteSpec, parse_routes};
use dgx_gateway::registry::registry;
use serde_yaml::Value;

/// Method, path, scope, and whether a user is required. Rows without a route are not there yet.
const PROTECTED: [(&str, &str, &str, bool); 27] = [
    ("GET", "/v1/models", "models:read", false),
    ("GET", "/v1/models/{*id}", "models:read", false),
    ("GET", "/v1/info", "models:read", false),
    ("POST", "/v1/chat/completions", "chat:create", true),
    ("POST", "/v1/completions", "chat:create", true),
    ("POST", "/v1/responses", "chat:create", true),
    ("POST", "/v1/messages", "chat:create", true),
    ("POST", "/v1/messages/count_tokens", "chat:create", true),
    ("POST", "/v1/embeddings", "embeddings:create", true),
    ("POST", "/v1/rerank", "rerank:create", true),
    ("POST", "/v1/images/generations", "images:create", true),
    ("POST", "/v1/images", "images:create", true),
    ("GET", "/v1/images", "images:read", true),
    ("GET", "/v1/images/{id}", "images:read", true),
    ("GET", "/v1/images/{id}/content", "images:read", true),
    ("DELETE", "/v1/images/{id}", "images:delete", true),
    ("POST", "/v1/audio/transcriptions", "audio:create", true),
    ("POST", "/v1/audio/translations", "audio:create", true),
    ("POST", "/v1/audio/speech", "audio:create", true),
    ("GET", "/v1/tools", "tools:read", false),
    ("POST", "/v1/tools/execute", "tools:execute", true),
    ("GET", "/v1/tenant/config", "tenant_config:read", false),
    ("GET", "/v1/tenant/config/{key}", "tenant_config:read", false),
    ("PUT", "/v1/tenant/config", "tenant_config:write", false),
    ("PUT", "/v1/tenant/config/{key}", "tenant_config:write", false),
    ("DELETE", "/v1/tenant/config/{key}", "tenant_config:write", false),
    ("GET", "/v1/billing/usage", "billing:read", false),
];
/// Paths that need no token, and whether their requests are counted by client address.
const PUBLIC: [(&str, bool); 14] = [
    ("/", true),
    ("/healthz", false),
    ("/readyz", false),
    ("/openapi", true),
    ("/openapi.json", true),
    ("/redoc", true),
    ("/docs/errors", true),
    ("/docs/style.css", true),
    ("/errors", true),
    ("/api/version", true),
    ("/playground", true),
    ("/playground/stt", true),
    ("/docs/{*page}", true),
    ("/assets/{*file}", true),
];
/// Un-prefixed names of `/v1` paths.
const UNPREFIXED: [&str; 5] = ["/chat/completions", "/completions", "/embeddings", "/models", "/responses"];

fn routes() -> Vec<RouteSpec> {
    parse_routes(registry().routes).unwrap()
}

fn names(route: &RouteSpec) -> Vec<&str> {
    route.filters.iter().map(|filter| filter.name.as_str()).collect()
}

#[test]
fn every_protected_route_asks_for_the_scope_and_the_user_of_its_row() {
    let mut seen = 0;
    for route in routes().iter().filter(|route| names(route).contains(&"identity")) {
        assert_eq!(names(route).get(..3), Some(&["identity", "limits", "access"][..]), "{}", route.path);
        let access = &route.filters.iter().find(|filter| filter.name == "access").unwrap().parameters;
        for method in &route.methods {
            let row = PROTECTED.iter().find(|(known, path, ..)| *known == method.as_str() && *path == route.path);
            let (_, path, scope, needs_user) = row.unwrap_or_else(|| panic!("no row for {method} {}", route.path));
            assert_eq!(access.get("scope").and_then(Value::as_str), Some(*scope), "{path}");
            let required = access.get("user_id").and_then(Value::as_str) == Some("required");
            assert_eq!(required, *needs_user, "{path}");
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn every_other_route_is_a_public_page() {
    for route in routes().iter().filter(|route| !names(route).contains(&"identity")) {
        let (path, counted) = PUBLIC.iter().find(|(path, _)| *path == route.path).unwrap_or_else(|| {
            panic!("{} needs no token and stands in no list", route.path);
        });
        assert_eq!(names(route), if *counted { vec!["limits-public"] } else { vec![] }, "{path}");
    }
}

#[test]
fn un_prefixed_paths_are_aliases_and_there_are_no_others() {
    for route in routes().iter().filter(|route| route.path.starts_with("/v1/")) {
        let short = route.path.trim_start_matches("/v1");
        let wanted = UNPREFIXED.contains(&short) || short == "/models/{*id}";
        assert_eq!(route.aliases, if wanted { vec![short.to_owned()] } else { vec![] }, "{}", route.path);
    }
}
