//! A tiny driver for the hooks of this crate.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord};
use dgx_gateway_filter::clock::{Clock, ManualClock};
use dgx_gateway_filter::exchange::{ExchangeCx, RequestInfo};
use dgx_gateway_filter::facts::{Facts, Principal};
use dgx_gateway_filter::services::{AuthFailures, NotTolerated, Noted};
use dgx_gateway_filter::tenant_config::{Cascade, Level, Process, TenantConfig, TenantSettings};
use dgx_gateway_filter::upstream::UpstreamPlan;
use dgx_gateway_filter::{BuildEnv, FilterError, FilterKind, Flow, Problem, ServiceKind};
use http::request::Builder;

use crate::catalog::{CheckedTokens, Tokens};
use crate::{Service, file};

/// 2026-05-16T12:00:00Z.
pub(crate) const NOON: Duration = Duration::from_secs(1_778_932_800);

/// The example of the specification.
pub(crate) const EXAMPLE: &str = r#"
version: 1
tenants:
  - id: acme
    name: Acme Ltd
    defaults: {cost_markup_factor: "1.20", models_allowlist: ["llama-4-scout", "claude-*", "nomic-embed"]}
    budgets:
      - {id: cloud-day, models: ["claude-*", "*-cloud*"], window: day, limit_eur: "25.00", mode: hard}
      - {id: tokens-month, models: ["*"], window: month, limit_tokens: 50000000, mode: warn}
    limits: {tokens_per_minute: 200000, max_in_flight: 32, weight: 1}
tokens:
  - id: acme-app
    label: Acme web shop
    role: user
    bound_tenant: acme
    secrets:
      - {sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", expires_at: "2027-01-01T00:00:00Z"}
    extra_scopes: ["billing:read"]
    deny_scopes: ["rag:delete"]
    constraints: {models: ["llama-4-scout*", "nomic-embed"], max_tokens: 4096, cidrs: ["198.51.100.0/24"]}
    rate_limit: {per_second: 5, burst: 60}
    rate_limit_bypass: false
  - id: alice-laptop
    role: user
    bound_tenant: acme
    default_user_id: alice
    secrets: [{value: "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"}]
"#;

pub(crate) fn ambient(variables: &[(&str, &str)]) -> Ambient {
    Ambient::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// Reads the text of a tokens file.
pub(crate) fn read(yaml: &str, variables: &[(&str, &str)]) -> Result<CheckedTokens, Vec<Problem>> {
    file::read(Path::new("auth/tokens.yaml"), Some(yaml), &ambient(variables))
}

/// Counts failures, and refuses from the given number on.
#[derive(Default)]
pub(crate) struct CountingFailures {
    pub(crate) clients: Mutex<Vec<Option<IpAddr>>>,
    pub(crate) tolerated: usize,
}

impl AuthFailures for CountingFailures {
    fn note<'a>(&'a self, client: Option<IpAddr>, _route: &str) -> Noted<'a> {
        let mut clients = self.clients.lock().unwrap();
        clients.push(client);
        let tolerated = clients.len() <= self.tolerated;
        Noted::Now(if tolerated { Ok(()) } else { Err(NotTolerated::TooOften(Duration::from_secs(2))) })
    }
}

/// Keeps reason, token and tenant of what was refused.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<String>>);

impl Audit for Told {
    fn record(&self, record: &AuditRecord<'_>) {
        let AuditEvent::Auth { reason, .. } = record.event else { panic!("{record:?}") };
        assert_eq!(record.request_id, Some("r1"));
        let (token, tenant) = (record.token_id.unwrap_or("-"), record.tenant_id.unwrap_or("-"));
        let shown = if record.pseudonymous { "hidden" } else { "shown" };
        self.0.lock().unwrap().push(format!("{} {token} {tenant} {shown}", reason.as_str()));
    }
}

/// Knows the level of the operator alone.
struct OperatorsLevel(Arc<Tokens>);

impl TenantConfig for OperatorsLevel {
    fn settings(&self, tenant: &str) -> Option<Arc<TenantSettings>> {
        let tenant = self.0.tenant(tenant)?;
        let cascade = Cascade { db: &Level::new(), yaml: &tenant.defaults, process: &Process::default() };
        Some(Arc::new(TenantSettings::of(&cascade)))
    }

    fn process(&self) -> Arc<TenantSettings> {
        Arc::default()
    }
}

/// The service with some tokens, and a clock that stands still.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) failures: Arc<CountingFailures>,
    pub(crate) told: Arc<Told>,
    pub(crate) env: BuildEnv,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) facts: Facts,
    _data: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(yaml: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::starting_at(std::time::SystemTime::UNIX_EPOCH + NOON));
        let failures = Arc::new(CountingFailures { tolerated: 1000, ..CountingFailures::default() });
        let handle: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let mut env = BuildEnv::new(handle, Ambient::default(), data.path().to_path_buf(), prometheus::Registry::new());
        let limit: Arc<dyn AuthFailures> = Arc::<CountingFailures>::clone(&failures);
        env.provide(Arc::new(limit));
        let told = Arc::new(Told::default());
        env.provide::<Arc<dyn Audit>>(Arc::new(Arc::<Told>::clone(&told)));
        Service::build(read(yaml, &[]).unwrap(), &mut env).unwrap();
        let config: Arc<dyn TenantConfig> = Arc::new(OperatorsLevel(env.service().unwrap()));
        env.provide(Arc::new(config));
        let peer = Some("192.0.2.1".parse().unwrap());
        Self { clock, failures, told, env, peer, facts: Facts::default(), _data: data }
    }

    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        self.env.service().unwrap()
    }

    /// One filter on a request; facts stay for the next one.
    pub(crate) fn step<K: FilterKind>(&mut self, config: K::Config, request: Builder) -> Result<(), FilterError> {
        let filter = K::build(K::check(config).unwrap(), &self.env).unwrap();
        let (head, ()) = request.body(()).unwrap().into_parts();
        let peer = self.peer.map(|ip| SocketAddr::new(ip, 40_000));
        let info = RequestInfo {
            id: "r1".into(),
            method: head.method.clone(),
            route: "/".into(),
            protected: true,
            peer,
            started: self.clock.now(),
            max_body_bytes: 0,
        };
        let mut cx = ExchangeCx {
            head: &head,
            request: &info,
            facts: &mut self.facts,
            reply_headers: &mut http::HeaderMap::new(),
            plan: &mut UpstreamPlan::default(),
            renderer: &mut None,
            ending: &mut None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let flow = runtime.block_on(filter.begin().request_head(&mut cx))?;
        assert!(matches!(flow, Flow::Continue));
        Ok(())
    }

    pub(crate) fn principal(&self) -> &Principal {
        self.facts.get().unwrap()
    }
}

impl World {
    /// What the audit log was told so far.
    pub(crate) fn told(&self) -> Vec<String> {
        self.told.0.lock().unwrap().clone()
    }
}

/// What a client sees of a refusal.
pub(crate) fn seen(error: &FilterError) -> (&'static str, Option<&str>) {
    (error.code.as_str(), error.param.as_deref())
}
