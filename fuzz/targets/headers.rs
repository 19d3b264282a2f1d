//! Everything that the gateway reads from request headers: who asks, for whom, which tenant, from where, the request
//! id, the trace context, and structured fields. An input is a list of header lines.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use dgx_gateway::proxy::fuzzing as core;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_filter::facts::{Augmentation, Principal};
use dgx_gateway_filter::services::{AuthFailures, Noted};
use dgx_gateway_filter::tenant_config::{TenantConfig, TenantSettings};
use dgx_gateway_filter::{BuildEnv, ErrorCode, Filter, FilterError, FilterKind, Flow, ServiceKind};
use dgx_gateway_guard::{Headers, HeadersConfig};
use dgx_gateway_identity::config::{AuthSettings, Settings};
use dgx_gateway_identity::{Access, AccessConfig, Authenticate, AuthenticateConfig, Service, UserIdRule};
use dgx_gateway_testkit::exchange::ExchangeDriver;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

const TOKENS: &str = r#"
version: 1
tenants: [{id: acme}, {id: other}]
tokens:
  - {id: bound, role: user, bound_tenant: acme, secrets: [{value: bound}]}
  - {id: free, role: tenant_admin, secrets: [{value: free}]}
  - {id: alice, role: user, bound_tenant: acme, default_user_id: alice, secrets: [{value: alice}]}
  - {id: near, role: user, bound_tenant: acme, constraints: {cidrs: ["192.0.2.0/24"]}, secrets: [{value: near}]}
"#;
const SECRETS: [&[u8]; 4] = [b"bound", b"free", b"alice", b"near"];
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

struct Filters {
    authenticate: [Arc<dyn Filter>; 2],
    access: Arc<dyn Filter>,
    headers: Arc<dyn Filter>,
}

struct Tolerant;

impl AuthFailures for Tolerant {
    fn note<'a>(&'a self, _: Option<IpAddr>, _: &str) -> Noted<'a> {
        Noted::Now(Ok(()))
    }
}

/// Every tenant has the values of the product.
struct Plain;

impl TenantConfig for Plain {
    fn settings(&self, _: &str) -> Option<Arc<TenantSettings>> {
        Some(Arc::default())
    }

    fn process(&self) -> Arc<TenantSettings> {
        Arc::default()
    }
}

static FILTERS: LazyLock<Filters> = LazyLock::new(|| {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), TOKENS).expect("written");
    let settings = Settings { auth: AuthSettings { tokens_file: file.path().to_owned() } };
    let checked = Service::check(settings, &Ambient::default()).expect("valid tokens");
    let mut env = BuildEnv::new(Arc::new(SystemClock), Ambient::default(), "data".into(), prometheus::Registry::new());
    let tolerant: Arc<dyn AuthFailures> = Arc::new(Tolerant);
    env.provide(Arc::new(tolerant));
    let plain: Arc<dyn TenantConfig> = Arc::new(Plain);
    env.provide(Arc::new(plain));
    Service::build(checked, &mut env).expect("built");
    let authenticate =
        [false, true].map(|api_key_header| build::<Authenticate>(AuthenticateConfig { api_key_header }, &env));
    let access = AccessConfig { scope: "chat:create".to_owned(), user_id: UserIdRule::Required };
    Filters {
        authenticate,
        access: build::<Access>(access, &env),
        headers: build::<Headers>(HeadersConfig { augmented: true }, &env),
    }
});

fn build<K: FilterKind>(config: K::Config, env: &BuildEnv) -> Arc<dyn Filter> {
    let checked = K::check(config).unwrap_or_else(|problems| panic!("{problems:?}"));
    K::build(checked, env).expect("built")
}

fuzz_target!(|input: &[u8]| {
    let headers = parse(input);
    whose_address(&headers);
    request_id(&headers);
    trace_context(&headers);
    for (filter, takes_api_key) in FILTERS.authenticate.iter().zip([false, true]) {
        identity(filter, &headers, takes_api_key);
    }
});

/// Header lines; what is no header is left out.
fn parse(input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().and_then(|name| HeaderName::from_bytes(name).ok());
        let value = parts.next().and_then(|value| HeaderValue::from_bytes(value.trim_ascii()).ok());
        if let (Some(name), Some(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fn whose_address(headers: &HeaderMap) {
    let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().expect("a network")).to_vec();
    let client = core::client_ip(PEER, headers, &trusted);
    assert_eq!(client, client.to_canonical());
    assert_eq!(core::client_ip(PEER, headers, &[]), PEER);
    let stranger = IpAddr::from([192, 0, 2, 1]);
    assert_eq!(core::client_ip(stranger, headers, &trusted), stranger);
    // whoever it is was written there, or is the peer
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    let written = lines.join(",");
    let mut named = written.split(',').map(str::trim).filter_map(|entry| {
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
    });
    let is_ascii = headers.get_all("x-forwarded-for").iter().all(|line| line.to_str().is_ok());
    assert!(!is_ascii || client == PEER || named.any(|ip: IpAddr| ip.to_canonical() == client), "{client}: {written}");
}

fn request_id(headers: &HeaderMap) {
    let id = core::request_id(headers);
    assert!((1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id:?}");
}

fn trace_context(headers: &HeaderMap) {
    let sent = core::to_upstream(headers).expect("a head");
    for name in ["traceparent", "tracestate"] {
        assert_eq!(sent.get(name), headers.get(name));
    }
    let allowed =
        ["host", "user-agent", "accept-encoding", "x-request-id", "traceparent", "tracestate", "content-length"];
    assert!(sent.keys().all(|name| allowed.contains(&name.as_str())), "{sent:?}");
    assert!(sent.keys().all(|name| sent.get_all(name).iter().count() == 1), "{sent:?}");
}

fn identity(authenticate: &Arc<dyn Filter>, headers: &HeaderMap, takes_api_key: bool) {
    let mut request = Request::builder().uri("/v1/chat/completions").method("POST").body(()).expect("a request");
    *request.headers_mut() = headers.clone();
    let mut driver = ExchangeDriver::new(authenticate.begin(), request).with_peer(SocketAddr::new(PEER, 4000));
    let refused = run(&mut driver).err();
    assert_eq!(
        refused.as_ref().is_none_or(|error| !is_about_the_secret(error)),
        knows(headers, takes_api_key),
        "{refused:?}"
    );
    if let Some(error) = refused {
        use ErrorCode::{Forbidden, InvalidAuthorization, InvalidField, MissingAuthorization, MissingField};
        assert!(matches!(
            error.code,
            Forbidden | InvalidAuthorization | InvalidField | MissingAuthorization | MissingField
        ));
        return;
    }
    let principal = driver.facts().get::<Principal>().expect("stated").clone();
    assert!(["acme", "other"].contains(&&*principal.tenant_id));
    let mut driver = driver.followed_by(FILTERS.access.begin());
    match run(&mut driver) {
        Err(error) => {
            assert!(matches!(
                error.code,
                ErrorCode::InvalidField | ErrorCode::MissingField | ErrorCode::InvalidAuthorization
            ));
        }
        Ok(()) => {
            let user =
                driver.facts().get::<Principal>().and_then(|principal| principal.user_id.clone()).expect("a user");
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@+~-".contains(&byte);
            assert!((1..=128).contains(&user.len()) && user.bytes().all(fits), "{user:?}");
            assert!(&*principal.token_id != "alice" || &*user == "alice");
        }
    }
    let mut driver = driver.followed_by(FILTERS.headers.begin());
    match run(&mut driver) {
        Ok(()) => assert!(driver.facts().get::<Augmentation>().is_some()),
        Err(error) => {
            assert_eq!((error.code, error.param.as_deref()), (ErrorCode::InvalidField, Some("headers.spass-augment")));
        }
    }
}

fn run(driver: &mut ExchangeDriver) -> Result<(), FilterError> {
    let flow = driver.head().now_or_never().expect("no header makes a filter wait")?;
    assert!(matches!(flow, Flow::Continue));
    Ok(())
}

/// Whether the refusal says that no valid secret was sent, and not that it is for another tenant.
fn is_about_the_secret(error: &FilterError) -> bool {
    error.code == ErrorCode::MissingAuthorization
        || error.code == ErrorCode::InvalidAuthorization && !error.message.contains("tenant")
}

/// Whether a secret of the file was sent in the way it must be sent.
fn knows(headers: &HeaderMap, takes_api_key: bool) -> bool {
    let one = |name: HeaderName| {
        let mut values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        values.dedup();
        values
    };
    let (authorization, api_key) = (one(header::AUTHORIZATION), one(HeaderName::from_static("x-api-key")));
    let secret = match (&authorization[..], &api_key[..]) {
        ([value], _) => {
            let text = value.trim_ascii();
            let is_bearer = text.len() > 7 && text[..7].eq_ignore_ascii_case(b"bearer ");
            is_bearer.then(|| text[7..].trim_ascii())
        }
        ([], [value]) if takes_api_key => Some(value.trim_ascii()),
        _ => None,
    };
    secret.is_some_and(|secret| SECRETS.contains(&secret))
}
