use http::Request;
use http::header::WWW_AUTHENTICATE;
use http::request::Builder;

use super::*;
use crate::authenticate::{Authenticate, AuthenticateConfig};
use crate::testing::{World, seen};

const TOKENS: &str = r#"
version: 1
tenants: [{id: acme}]
tokens:
  - {id: user, role: user, bound_tenant: acme, secrets: [{value: user}]}
  - {id: admin, role: tenant_admin, bound_tenant: acme, secrets: [{value: admin}]}
  - {id: alice, role: tenant_admin, bound_tenant: acme, default_user_id: alice, secrets: [{value: alice}]}
  - {id: bare, bound_tenant: acme, secrets: [{value: bare}]}
  - {id: denied, role: operator, deny_scopes: ["chat:*"], bound_tenant: acme, secrets: [{value: denied}]}
  - {id: extra, extra_scopes: ["chat:create"], bound_tenant: acme, secrets: [{value: extra}]}
"#;

fn request(method: Method, uri: &str) -> Builder {
    Request::builder().method(method).uri(uri)
}

fn post() -> Builder {
    request(Method::POST, "/v1/chat/completions")
}

fn config(scope: &str, user_id: UserIdRule) -> AccessConfig {
    AccessConfig { scope: scope.to_owned(), user_id }
}

/// The user that a request with this secret ends up with.
fn run(secret: &str, config: AccessConfig, request: Builder) -> Result<Option<String>, FilterError> {
    let mut world = World::new(TOKENS);
    let credential = Request::builder().header("authorization", format!("Bearer {secret}"));
    world.step::<Authenticate>(AuthenticateConfig::default(), credential).unwrap();
    world.step::<Access>(config, request)?;
    Ok(world.principal().user_id.as_deref().map(str::to_owned))
}

fn chat(secret: &str, request: Builder) -> Result<Option<String>, FilterError> {
    run(secret, config("chat:create", UserIdRule::Required), request)
}

#[test]
fn refuses_a_token_without_the_scope_and_does_not_name_it() {
    for secret in ["bare", "denied"] {
        let error = chat(secret, post().header("spass-user-id", "alice")).unwrap_err();
        assert_eq!(seen(&error), ("forbidden", None));
        assert!(!error.to_string().contains("chat"), "{error}");
    }
    for secret in ["user", "admin", "extra"] {
        chat(secret, post().header("spass-user-id", "alice")).unwrap();
    }
}

#[test]
fn the_scope_is_checked_before_the_headers() {
    assert_eq!(seen(&chat("bare", post()).unwrap_err()), ("forbidden", None));
}

#[test]
fn a_required_user_id_comes_from_the_header() {
    assert_eq!(
        chat("user", post().header("SPASS-User-Id", "Alice.B_:@+~-9")).unwrap().as_deref(),
        Some("Alice.B_:@+~-9")
    );
    for missing in [post(), post().header("spass-user-id", "")] {
        let error = chat("user", missing).unwrap_err();
        assert_eq!(seen(&error), ("missing_field", Some("headers.spass-user-id")));
        assert_eq!(error.message, "Header SPASS-User-Id is required.");
    }
}

#[test]
fn a_user_id_that_breaks_the_pattern_is_refused_for_every_token() {
    for secret in ["user", "alice"] {
        for bad in ["a b", "a/b", &"x".repeat(129), "a,b", "\u{e9}"] {
            let error = chat(secret, post().header("spass-user-id", bad)).unwrap_err();
            assert_eq!(seen(&error), ("invalid_field", Some("headers.spass-user-id")), "{bad}");
        }
    }
    let two = post().header("spass-user-id", "alice").header("spass-user-id", "bob");
    assert_eq!(seen(&chat("user", two).unwrap_err()), ("invalid_field", Some("headers.spass-user-id")));
}

#[test]
fn a_personal_token_stands_for_its_user_only() {
    for request in [post(), post().header("spass-user-id", ""), post().header("spass-user-id", "alice")] {
        assert_eq!(chat("alice", request).unwrap().as_deref(), Some("alice"));
    }
    let error = chat("alice", post().header("spass-user-id", "bob")).unwrap_err();
    assert_eq!(seen(&error), ("invalid_authorization", Some("headers.authorization")));
    assert_eq!(error.headers, [(WWW_AUTHENTICATE, "Bearer".parse().unwrap())]);
}

#[test]
fn who_may_read_the_tenant_can_leave_the_user_out_on_get() {
    let images =
        |secret, method| run(secret, config("images:read", UserIdRule::Required), request(method, "/v1/images"));
    assert_eq!(images("admin", Method::GET).unwrap(), None);
    assert_eq!(images("admin", Method::HEAD).unwrap(), None);
    assert_eq!(images("alice", Method::GET).unwrap().as_deref(), Some("alice"), "a personal token reads its own");
    for (secret, method) in [("admin", Method::POST), ("admin", Method::DELETE), ("user", Method::GET)] {
        assert_eq!(seen(&images(secret, method).unwrap_err()), ("missing_field", Some("headers.spass-user-id")));
    }
    let one_user = request(Method::GET, "/v1/images").header("spass-user-id", "bob");
    let read = run("admin", config("images:read", UserIdRule::Required), one_user);
    assert_eq!(read.unwrap().as_deref(), Some("bob"));
}

#[test]
fn an_endpoint_that_uses_no_user_ignores_the_header_and_the_query() {
    let models = request(Method::GET, "/v1/models?user_id=x").header("spass-user-id", "not a user");
    for secret in ["user", "alice"] {
        let request = request(Method::GET, "/v1/models?user_id=x").header("spass-user-id", "bob");
        assert_eq!(run(secret, config("models:read", UserIdRule::NotUsed), request).unwrap(), None);
    }
    run("user", config("models:read", UserIdRule::NotUsed), models).unwrap();
}

#[test]
fn a_bad_scope_id_is_refused_everywhere() {
    for (rule, scope) in [(UserIdRule::Required, "chat:create"), (UserIdRule::NotUsed, "models:read")] {
        for bad in ["a b", "", "a/b"] {
            let error = run("alice", config(scope, rule), post().header("spass-scope-id", bad)).unwrap_err();
            assert_eq!(seen(&error), ("invalid_field", Some("headers.spass-scope-id")), "{bad:?}");
        }
        run("alice", config(scope, rule), post().header("spass-scope-id", "project:1")).unwrap();
    }
}

#[test]
fn a_user_id_in_the_query_is_refused_where_a_user_is_required() {
    for query in ["user_id=alice", "a=b&user_id", "user%5Fid=x", "user_id=", "%75ser_id=1"] {
        let uri = format!("/v1/chat/completions?{query}");
        let error = chat("alice", request(Method::POST, &uri)).unwrap_err();
        assert_eq!(seen(&error), ("invalid_field", Some("query.user_id")), "{query}");
    }
    for query in ["user=alice", "metadata.user_id=1", "x=user_id", ""] {
        chat("alice", request(Method::POST, &format!("/v1/chat/completions?{query}"))).unwrap();
    }
}

#[test]
fn headers_are_told_before_the_query() {
    let error = chat("user", request(Method::POST, "/v1/chat/completions?user_id=x")).unwrap_err();
    assert_eq!(seen(&error), ("missing_field", Some("headers.spass-user-id")));
}

#[test]
fn keeps_what_the_identity_filter_stated() {
    let mut world = World::new(TOKENS);
    let credential = Request::builder().header("authorization", "Bearer user");
    world.step::<Authenticate>(AuthenticateConfig::default(), credential).unwrap();
    let before = world.principal().clone();
    world.step::<Access>(config("chat:create", UserIdRule::Required), post().header("spass-user-id", "bob")).unwrap();
    let after = world.principal();
    assert_eq!((&after.tenant_id, &after.token_id), (&before.tenant_id, &before.token_id));
    assert_eq!((after.bearer_digest, after.user_id.as_deref()), (before.bearer_digest, Some("bob")));
}

#[test]
fn refuses_when_nobody_stated_who_asks() {
    let mut world = World::new(TOKENS);
    let error = world.step::<Access>(config("chat:create", UserIdRule::NotUsed), post()).unwrap_err();
    assert_eq!(seen(&error), ("internal_error", None));
}

#[test]
fn the_scope_of_an_entry_must_exist() {
    for scope in ["", "chat", "chat:*", "*", "chat:make"] {
        let problems = Access::check(config(scope, UserIdRule::NotUsed)).unwrap_err();
        assert_eq!(problems.iter().map(|problem| &*problem.key).collect::<Vec<_>>(), ["scope"], "{scope}");
    }
    assert_eq!(Access::AFTER, ["identity"]);
}

#[test]
fn the_audit_log_is_told_of_a_missing_scope_and_a_foreign_user() {
    let mut world = World::new(TOKENS);
    let mut asked = |secret: &str, request: Builder| {
        let credential = Request::builder().header("authorization", format!("Bearer {secret}"));
        world.step::<Authenticate>(AuthenticateConfig::default(), credential).unwrap();
        let refused = world.step::<Access>(config("chat:create", UserIdRule::Required), request).is_err();
        (refused, world.told().len())
    };
    assert_eq!(asked("user", post().header("spass-user-id", "bob")), (false, 0));
    assert_eq!(asked("user", post()), (true, 0), "a header that is missing is no refused authentication");
    assert_eq!(asked("bare", post().header("spass-user-id", "bob")), (true, 1));
    assert_eq!(asked("alice", post().header("spass-user-id", "bob")), (true, 2));
    assert_eq!(world.told(), ["scope bare acme shown", "user alice acme shown"]);
}
