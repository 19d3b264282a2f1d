//! A tiny driver for the hooks of this crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::{Clock, ManualClock};
use dgx_gateway_filter::exchange::{ExchangeCx, RequestInfo};
use dgx_gateway_filter::facts::{Facts, Principal, Scopes};
use dgx_gateway_filter::upstream::UpstreamPlan;
use dgx_gateway_filter::{BuildEnv, FilterError, FilterKind, Flow, ServiceKind};
use http::HeaderMap;

use crate::Service;

/// The service, a clock that stands still, and one request after the other.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) env: BuildEnv,
    pub(crate) facts: Facts,
    peer: Option<SocketAddr>,
    reply_headers: HeaderMap,
}

impl World {
    pub(crate) fn new(settings: &str) -> Self {
        let clock = Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH));
        let dir = std::path::PathBuf::from("unused");
        let mut env =
            BuildEnv::new(Arc::<ManualClock>::clone(&clock), Ambient::default(), dir, prometheus::Registry::new());
        let checked = Service::check(serde_json::from_str(settings).unwrap(), &env.ambient).unwrap();
        Service::build(checked, &mut env).unwrap();
        Self { clock, env, facts: Facts::default(), peer: None, reply_headers: HeaderMap::new() }
    }

    pub(crate) fn reload(&mut self, settings: &str) -> Vec<&'static str> {
        let mut next = self.env.next(Ambient::default());
        let checked = Service::check(serde_json::from_str(settings).unwrap(), &next.ambient).unwrap();
        Service::build(checked, &mut next).unwrap();
        let restart_needed = next.in_use(Some(&mut self.env));
        self.env = next;
        restart_needed
    }

    pub(crate) fn peer(&mut self, ip: &str) {
        self.peer = Some(SocketAddr::new(ip.parse().unwrap(), 40_000));
    }

    /// One request through a freshly built filter.
    pub(crate) fn run<K: FilterKind>(&mut self, config: &str) -> Result<(), FilterError> {
        let filter = K::build(K::check(serde_json::from_str(config).unwrap()).unwrap(), &self.env).unwrap();
        let (head, ()) = http::Request::new(()).into_parts();
        let request = RequestInfo {
            id: "r1".into(),
            method: http::Method::GET,
            route: "/".into(),
            protected: false,
            peer: self.peer,
            started: self.clock.now(),
            max_body_bytes: 0,
        };
        self.reply_headers.clear();
        let mut cx = ExchangeCx {
            head: &head,
            request: &request,
            facts: &mut self.facts,
            reply_headers: &mut self.reply_headers,
            plan: &mut UpstreamPlan::default(),
            renderer: &mut None,
            ending: &mut None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let flow = runtime.block_on(filter.begin().request_head(&mut cx))?;
        assert!(matches!(flow, Flow::Continue));
        Ok(())
    }

    pub(crate) fn reply_header(&self, name: &str) -> Option<&str> {
        self.reply_headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Value of `dgx_gateway_rate_limited_total`.
    pub(crate) fn refused(&self, tenant: &str, kind: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.env.metrics.gather()).unwrap();
        let series = format!("dgx_gateway_rate_limited_total{{kind=\"{kind}\",tenant=\"{tenant}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |value| value.parse().unwrap())
    }
}

struct AllScopes;

impl Scopes for AllScopes {
    fn allow(&self, _scope: &str) -> bool {
        true
    }
}

/// Somebody of tenant `acme`.
pub(crate) fn principal(token_id: &str) -> Principal {
    Principal {
        tenant_id: "acme".into(),
        token_id: token_id.into(),
        user_id: None,
        bearer_digest: [1; 32],
        rate_limit: None,
        rate_limit_bypass: false,
        models: None,
        max_tokens: None,
        models_allowlist: None,
        models_blacklist: None,
        cost_markup_factor: rust_decimal::Decimal::ONE,
        pseudonymous: false,
        scopes: Arc::new(AllScopes),
    }
}
