use std::time::Duration;

use dgx_gateway_filter::facts::{ClientIp, TenantLimits};
use dgx_gateway_filter::{ErrorCode, ServiceKind};
use http::Request;
use http::header::WWW_AUTHENTICATE;
use http::request::Builder;

use super::*;
use crate::testing::{World, read, seen};

const TOKENS: &str = r#"
version: 1
tenants: [{id: acme, defaults: {models_blacklist: ["claude-*"]}}, {id: globex}]
tokens:
  - {id: bound, role: user, bound_tenant: acme, secrets: [{value: bound}]}
  - {id: free, role: user, secrets: [{value: free}]}
  - id: dated
    bound_tenant: acme
    secrets: [{value: dated, not_before: "2026-05-16T12:00:10Z", expires_at: "2026-05-16T12:00:20Z"}]
  - {id: inside, bound_tenant: acme, secrets: [{value: inside}], constraints: {cidrs: ["198.51.100.0/24", "2001:db8::/32", "203.0.113.7"]}}
  - id: full
    bound_tenant: globex
    secrets: [{value: full}]
    constraints: {models: ["llama-*"], max_tokens: 100}
    rate_limit: {per_second: 0.5, burst: 3}
    rate_limit_bypass: true
"#;

fn bearer(secret: &str) -> Builder {
    Request::builder().header("authorization", format!("Bearer {secret}"))
}

fn try_in(world: &mut World, request: Builder) -> Result<(), FilterError> {
    world.step::<Authenticate>(AuthenticateConfig::default(), request)
}

fn run(request: Builder) -> Result<Principal, FilterError> {
    let mut world = World::new(TOKENS);
    try_in(&mut world, request)?;
    Ok(world.principal().clone())
}

#[test]
fn states_who_sends_the_request() {
    let principal = run(bearer("full")).unwrap();
    assert_eq!((&*principal.tenant_id, &*principal.token_id), ("globex", "full"));
    assert_eq!((principal.user_id, principal.max_tokens), (None, Some(100)));
    assert_eq!(principal.models.as_deref(), Some(&["llama-*".to_owned()][..]));
    assert_eq!(principal.rate_limit.map(|limit| (limit.per_second, limit.burst)), Some((0.5, 3)));
    assert!(principal.rate_limit_bypass && !principal.scopes.allow("chat:create"));

    let principal = run(bearer("bound")).unwrap();
    assert_eq!(principal.models_blacklist.as_deref(), Some(&["claude-*".to_owned()][..]));
    assert!(principal.scopes.allow("chat:create"));
    assert_eq!(principal.bearer_digest, crate::digest::Digest::of(b"bound").bytes());
}

#[test]
fn refuses_a_request_without_authorization() {
    let error = run(Request::builder().header("x-api-key", "bound")).unwrap_err();
    assert_eq!(seen(&error), ("missing_authorization", Some("headers.authorization")));
    assert_eq!(error.headers, [(WWW_AUTHENTICATE, "Bearer".parse().unwrap())]);
}

#[test]
fn refuses_other_schemes_and_unknown_secrets() {
    for value in ["Basic bound", "Bearer", "Bearer ", "Bearer BOUND", "Bearer bound bound", "bound", "Bearer bound,"] {
        let error = run(Request::builder().header("authorization", value)).unwrap_err();
        assert_eq!(seen(&error), ("invalid_authorization", Some("headers.authorization")), "{value}");
        assert_eq!(error.headers, [(WWW_AUTHENTICATE, "Bearer".parse().unwrap())]);
        assert!(error.source.is_none() && !error.message.contains("bound"));
    }
}

#[test]
fn accepts_the_api_key_only_where_configured() {
    let mut world = World::new(TOKENS);
    let config = AuthenticateConfig { api_key_header: true };
    world.step::<Authenticate>(config, Request::builder().header("x-api-key", "bound")).unwrap();
    assert_eq!(&*world.principal().token_id, "bound");
}

#[test]
fn a_secret_is_valid_from_not_before_until_just_before_expires_at() {
    let mut world = World::new(TOKENS);
    for (seconds, valid) in [(0, false), (9, false), (10, true), (19, true), (20, false), (1000, false)] {
        let now = crate::testing::NOON + Duration::from_secs(seconds);
        let passed = world.env.clock.wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
        world.clock.advance(now - passed);
        let result = try_in(&mut world, bearer("dated"));
        assert_eq!(result.is_ok(), valid, "{seconds}");
        if let Err(error) = result {
            assert_eq!(seen(&error), ("invalid_authorization", Some("headers.authorization")));
        }
    }
}

#[test]
fn a_bound_token_is_for_its_tenant_only() {
    for request in [
        bearer("bound"),
        bearer("bound").header("spass-tenant-id", "acme"),
        bearer("bound").header("x-tenant-id", "acme"),
        bearer("bound").header("x-tenant-id", "acme").header("spass-tenant-id", "acme"),
    ] {
        assert_eq!(&*run(request).unwrap().tenant_id, "acme");
    }
    for other in ["globex", "nobody", "", "ACME"] {
        let error = run(bearer("bound").header("spass-tenant-id", other)).unwrap_err();
        assert_eq!(seen(&error), ("invalid_authorization", Some("headers.authorization")), "{other}");
    }
}

#[test]
fn a_free_token_names_its_tenant() {
    assert_eq!(&*run(bearer("free").header("x-tenant-id", "globex")).unwrap().tenant_id, "globex");
    let unknown = run(bearer("free").header("spass-tenant-id", "nobody")).unwrap_err();
    assert_eq!(seen(&unknown), ("invalid_authorization", Some("headers.authorization")));
    let unnamed = run(bearer("free")).unwrap_err();
    assert_eq!(seen(&unnamed), ("missing_field", Some("headers.spass-tenant-id")));
    assert_eq!(unnamed.message, "Header SPASS-Tenant-Id is required.");
}

#[test]
fn a_free_token_falls_back_to_the_tenant_default_where_it_exists() {
    let mut world = World::new("version: 1\ntenants: [{id: default}]\ntokens: [{id: free, secrets: [{value: free}]}]");
    try_in(&mut world, bearer("free")).unwrap();
    assert_eq!(&*world.principal().tenant_id, "default");
}

#[test]
fn contradicting_tenant_headers_are_told_before_any_refusal_about_them() {
    for secret in ["bound", "free"] {
        let request = bearer(secret).header("spass-tenant-id", "nobody").header("x-tenant-id", "other");
        assert_eq!(seen(&run(request).unwrap_err()), ("invalid_field", Some("headers.spass-tenant-id")));
    }
    let twice = bearer("bound").header("spass-tenant-id", "acme").header("spass-tenant-id", "globex");
    assert_eq!(seen(&run(twice).unwrap_err()), ("invalid_field", Some("headers.spass-tenant-id")));
}

#[test]
fn a_token_with_networks_is_refused_elsewhere() {
    let mut world = World::new(TOKENS);
    for (ip, allowed) in [
        ("198.51.100.200", true),
        ("::ffff:198.51.100.200", true),
        ("203.0.113.7", true),
        ("2001:db8:ffff::1", true),
        ("198.51.101.1", false),
        ("2001:db9::1", false),
    ] {
        world.peer = Some(ip.parse().unwrap());
        let result = try_in(&mut world, bearer("inside"));
        assert_eq!(result.is_ok(), allowed, "{ip}");
        if let Err(error) = result {
            assert_eq!(seen(&error), ("forbidden", None));
            assert!(!error.message.contains(ip));
        }
    }
    world.peer = None;
    assert_eq!(seen(&try_in(&mut world, bearer("inside")).unwrap_err()), ("forbidden", None));
    world.facts.insert(ClientIp("198.51.100.1".parse().unwrap()));
    try_in(&mut world, bearer("inside")).unwrap();
}

#[test]
fn the_tenant_is_resolved_before_the_address_is_checked() {
    let error = run(bearer("inside").header("x-tenant-id", "globex")).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidAuthorization);
}

#[test]
fn a_refused_request_states_no_principal() {
    let mut world = World::new(TOKENS);
    for request in [bearer("wrong"), bearer("inside"), bearer("bound").header("x-tenant-id", "globex"), bearer("free")]
    {
        try_in(&mut world, request).unwrap_err();
        assert!(world.facts.get::<Principal>().is_none());
    }
}

#[test]
fn failed_attempts_are_noted_with_the_address_of_the_client() {
    let mut world = World::new(TOKENS);
    let peer = world.peer;
    try_in(&mut world, Request::builder()).unwrap_err();
    try_in(&mut world, bearer("wrong")).unwrap_err();
    try_in(&mut world, bearer("dated")).unwrap_err();
    let stated = "198.51.100.9".parse().unwrap();
    world.facts.insert(ClientIp(stated));
    try_in(&mut world, bearer("wrong")).unwrap_err();
    assert_eq!(*world.failures.clients.lock().unwrap(), [peer, peer, peer, Some(stated)]);
}

#[test]
fn a_valid_secret_takes_nothing_from_the_failures_whatever_follows() {
    let mut world = World::new(TOKENS);
    try_in(&mut world, bearer("bound")).unwrap();
    try_in(&mut world, bearer("bound").header("x-tenant-id", "globex")).unwrap_err();
    try_in(&mut world, bearer("free")).unwrap_err();
    try_in(&mut world, bearer("inside")).unwrap_err();
    assert!(world.failures.clients.lock().unwrap().is_empty());
}

#[test]
fn too_many_failures_turn_the_401_into_a_429_and_leave_valid_secrets_alone() {
    let mut world = World::new(TOKENS);
    let none: Arc<dyn AuthFailures> = Arc::new(crate::testing::CountingFailures::default());
    world.env.provide(Arc::new(none));
    for request in [Request::builder(), bearer("wrong"), bearer("dated")] {
        let error = try_in(&mut world, request).unwrap_err();
        assert_eq!(seen(&error), ("rate_limit_exceeded", None));
        assert_eq!(error.retry_after, Some(Duration::from_secs(2)));
    }
    try_in(&mut world, bearer("bound")).unwrap();
}

#[test]
fn a_reload_holds_for_the_next_request() {
    let mut world = World::new(TOKENS);
    let new = "version: 1\ntenants: [{id: acme}]\ntokens: [{id: new, bound_tenant: acme, secrets: [{value: new}]}]";
    crate::Service::build(read(new, &[]).unwrap(), &mut world.env).unwrap();
    try_in(&mut world, bearer("bound")).unwrap_err();
    try_in(&mut world, bearer("new")).unwrap();
}

#[test]
fn is_not_built_without_the_limit_of_failures() {
    let world = World::new(TOKENS);
    let dir = world.env.data_dir.clone();
    let mut env =
        BuildEnv::new(Arc::clone(&world.env.clock), world.env.ambient.clone(), dir, prometheus::Registry::new());
    crate::Service::build(read(TOKENS, &[]).unwrap(), &mut env).unwrap();
    assert!(matches!(Authenticate::build(AuthenticateConfig::default(), &env), Err(BuildError::MissingService(_))));
}

#[test]
fn states_the_limits_of_the_tenant() {
    let limits = "{tokens_per_minute: 5000, max_in_flight: 3, weight: 2}";
    let mut world = World::new(&TOKENS.replace("{id: globex}", &format!("{{id: globex, limits: {limits}}}")));
    try_in(&mut world, bearer("bound")).unwrap();
    assert_eq!(world.facts.get(), Some(&TenantLimits::default()));
    try_in(&mut world, bearer("full")).unwrap();
    let stated = TenantLimits { tokens_per_minute: Some(5000), max_in_flight: Some(3), weight: 2 };
    assert_eq!(world.facts.get(), Some(&stated));
}

/// Cannot count, and knows that only after a while.
struct CannotCount;

impl AuthFailures for CannotCount {
    fn note<'a>(&'a self, _client: Option<std::net::IpAddr>, route: &str) -> Noted<'a> {
        let message = format!("{route} is closed");
        Noted::Later(Box::pin(async {
            tokio::task::yield_now().await;
            let answer = FilterError::policy(ErrorCode::ServiceOverloaded, message);
            Err(NotTolerated::NotCounted(Box::new(answer)))
        }))
    }
}

#[test]
fn a_failure_that_cannot_be_counted_has_the_answer_of_the_limits() {
    let mut world = World::new(TOKENS);
    let failures: Arc<dyn AuthFailures> = Arc::new(CannotCount);
    world.env.provide(Arc::new(failures));
    let refused = try_in(&mut world, bearer("unknown")).unwrap_err();
    assert_eq!((seen(&refused), &*refused.message), (("service_overloaded", None), "/ is closed"));
    try_in(&mut world, bearer("bound")).unwrap();
    let foreign = try_in(&mut world, bearer("bound").header("spass-tenant-id", "globex")).unwrap_err();
    assert_eq!(seen(&foreign), ("invalid_authorization", Some("headers.authorization")));
}

#[test]
fn the_audit_log_is_told_of_each_refusal_and_of_nothing_else() {
    let mut world = World::new(TOKENS);
    let requests = [
        Request::builder(),
        bearer("wrong"),
        Request::builder().header("authorization", "Basic bound"),
        bearer("dated"),
        bearer("bound").header("x-tenant-id", "globex"),
        bearer("free").header("x-tenant-id", "nobody"),
        bearer("inside"),
    ];
    for request in requests {
        try_in(&mut world, request).unwrap_err();
    }
    let expected = [
        "missing - - shown",
        "unknown - - shown",
        "unknown - - shown",
        "expired dated acme shown",
        "tenant bound acme shown",
        "tenant free - shown",
        "address inside acme shown",
    ];
    assert_eq!(world.told(), expected);
    // what is wrong with the request is no refused authentication
    try_in(&mut world, bearer("free")).unwrap_err();
    try_in(&mut world, bearer("free").header("spass-tenant-id", "acme").header("x-tenant-id", "globex")).unwrap_err();
    try_in(&mut world, bearer("bound")).unwrap();
    assert_eq!(world.told().len(), expected.len());
}

#[test]
fn the_address_of_a_token_of_a_pseudonymous_tenant_is_hidden() {
    let mut world = World::new(
        "version: 1\ntenants: [{id: acme, defaults: {audit_user_id_pseudonymize: true}}]\ntokens: [{id: dated, bound_tenant: acme, secrets: [{value: dated, expires_at: \"2020-01-01T00:00:00Z\"}]}]",
    );
    try_in(&mut world, bearer("dated")).unwrap_err();
    try_in(&mut world, bearer("wrong")).unwrap_err();
    assert_eq!(world.told(), ["expired dated acme hidden", "unknown - - shown"]);
}
