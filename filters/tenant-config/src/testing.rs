//! A world for the tests: two tenants, some models, and a log of what was recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::{Method, Request, Response};
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord};
use dgx_gateway_filter::clock::{Clock, ManualClock};
use dgx_gateway_filter::error::CarriedError;
use dgx_gateway_filter::facts::{Facts, Principal, Scopes};
use dgx_gateway_filter::services::{Aliases, ModelNames};
use dgx_gateway_filter::tenant_config::{Level, ModelUse, TenantConfig, TenantKey, Tenants, Value};
use dgx_gateway_filter::{BuildEnv, EndpointKind, RequestInfo, ServiceKind};
use dgx_gateway_store::Store;
use rust_decimal::Decimal;
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{ConfigEndpoint, Service, Settings};

/// 2026-05-16T12:00:00Z.
const NOON: Duration = Duration::from_secs(1_778_932_800);

/// Tenants and what their operator set.
pub(crate) struct Operator(pub Vec<(Arc<str>, Arc<Level>)>);

impl Tenants for Operator {
    fn each(&self, see: &mut dyn FnMut(&Arc<str>, &Arc<Level>)) {
        self.0.iter().for_each(|(id, level)| see(id, level));
    }
}

/// Models whose names say what they do, such as `a-chat`.
struct Models;

impl ModelNames for Models {
    fn aliases(&self, which: Aliases) -> Vec<Arc<str>> {
        let all = ["a-chat", "an-embedding", "an-image", "an-audio"];
        let wanted = all.into_iter().filter(|alias| which == Aliases::All || alias.ends_with("embedding"));
        wanted.map(Arc::from).collect()
    }

    fn is_usable(&self, slug: &str, caller: &Principal, wanted_for: ModelUse) -> bool {
        let ending = match wanted_for {
            ModelUse::Chat => "chat",
            ModelUse::Embedding => "embedding",
            ModelUse::Image => "image",
            ModelUse::Transcription => "audio",
        };
        slug.ends_with(ending) && !slug.starts_with(&*caller.tenant_id)
    }
}

struct NoScopes;

impl Scopes for NoScopes {
    fn allow(&self, _scope: &str) -> bool {
        false
    }
}

/// What was recorded: tenant, action, key, old, new.
#[derive(Default)]
pub(crate) struct Recorded(pub Mutex<Vec<String>>);

impl Audit for Recorded {
    fn record(&self, record: &AuditRecord<'_>) {
        let AuditEvent::Config { action, key, old, new } = record.event else { panic!("{record:?}") };
        assert_eq!((record.request_id, record.token_id, record.user_id), (Some("request-1"), Some("admin"), None));
        let text = format!(
            "{} {} {key} {} {}",
            record.tenant_id.unwrap(),
            action.as_str(),
            old.unwrap_or("-"),
            new.unwrap_or("-")
        );
        self.0.lock().unwrap().push(text);
    }
}

/// A gateway that knows nothing but this.
pub(crate) struct World {
    pub dir: TempDir,
    pub env: BuildEnv,
    pub recorded: Arc<Recorded>,
    router: axum::Router,
}

impl World {
    /// Tenant `acme` with a factor of 1.20, and tenant `globex`.
    pub(crate) fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap(), &[])
    }

    /// On a directory, with variables.
    pub(crate) fn with(dir: TempDir, variables: &[(&str, &str)]) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH + NOON));
        let ambient = Ambient::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut env = BuildEnv::new(clock, ambient, dir.path().to_owned(), prometheus::Registry::new());
        let acme = Level::from([(TenantKey::CostMarkupFactor, Value::Decimal(Decimal::new(120, 2)))]);
        let operator = Operator(vec![("acme".into(), Arc::new(acme)), ("globex".into(), Arc::default())]);
        let (tenants, models): (Arc<dyn Tenants>, Arc<dyn ModelNames>) = (Arc::new(operator), Arc::new(Models));
        let recorded = Arc::new(Recorded::default());
        let audit: Arc<dyn Audit> = Arc::<Recorded>::clone(&recorded);
        env.provide(Arc::new(tenants));
        env.provide(Arc::new(models));
        env.provide(Arc::new(audit));
        env.provide(Arc::new(Store::open(&dir.path().join("gateway.sqlite")).unwrap()));
        let checked = Service::check(Settings::default(), &env.ambient).unwrap();
        Service::build(checked, &mut env).unwrap();
        let router = ConfigEndpoint::build(&env).unwrap();
        Self { dir, env, recorded, router }
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        self.env.service().unwrap()
    }

    /// The values that a request of a tenant would work with.
    pub(crate) fn config(&self) -> Arc<dyn TenantConfig> {
        Arc::clone(&*self.env.service::<Arc<dyn TenantConfig>>().unwrap())
    }

    /// Asks for a tenant; gives status and body, of a refusal its code and `param`.
    pub(crate) async fn ask(&self, tenant: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let response = self.router.clone().oneshot(request(tenant, method, path, body)).await.unwrap();
        told(response).await
    }

    /// A request that goes its own way.
    pub(crate) fn begin(&self, tenant: &str, method: &str, path: &str, body: &str) -> tokio::task::JoinHandle<u16> {
        let answer = self.router.clone().oneshot(request(tenant, method, path, body));
        tokio::spawn(async move { told(answer.await.unwrap()).await.0 })
    }

    /// What was recorded so far.
    pub(crate) fn records(&self) -> Vec<String> {
        self.recorded.0.lock().unwrap().clone()
    }
}

fn request(tenant: &str, method: &str, path: &str, body: &str) -> Request<Body> {
    let mut facts = Facts::default();
    facts.insert(Principal {
        tenant_id: tenant.into(),
        token_id: "admin".into(),
        user_id: None,
        bearer_digest: [0; 32],
        rate_limit: None,
        rate_limit_bypass: false,
        models: None,
        max_tokens: None,
        models_allowlist: None,
        models_blacklist: None,
        cost_markup_factor: Decimal::ONE,
        pseudonymous: false,
        scopes: Arc::new(NoScopes),
    });
    let info = RequestInfo {
        id: "request-1".into(),
        method: Method::PUT,
        protected: true,
        route: path.into(),
        peer: None,
        started: Instant::now(),
        max_body_bytes: 1 << 20,
    };
    let path = format!("/v1/tenant/config{path}");
    let request = Request::builder().method(method).uri(path).extension(facts).extension(info);
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn told(response: Response<Body>) -> (u16, String) {
    if let Some(error) = response.extensions().get::<CarriedError>().and_then(CarriedError::take) {
        return (0, format!("{} {}", error.code, error.param.unwrap_or_default()));
    }
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (parts.status.as_u16(), String::from_utf8(bytes.to_vec()).unwrap())
}

/// The members of an object as JSON.
pub(crate) fn members(json: &str) -> BTreeMap<String, serde_json::Value> {
    serde_json::from_str(json).unwrap()
}
