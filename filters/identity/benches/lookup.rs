//! What it costs to find out who sends a request, with one token and with ten thousand.
//!
//! `cargo bench -p dgx-gateway-identity`

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_filter::services::{AuthFailures, Noted};
use dgx_gateway_filter::tenant_config::{TenantConfig, TenantSettings};
use dgx_gateway_filter::{BuildEnv, Filter, FilterKind, ServiceKind};
use dgx_gateway_identity::config::{AuthSettings, Settings};
use dgx_gateway_identity::{Authenticate, AuthenticateConfig, Service};
use dgx_gateway_testkit::exchange::ExchangeDriver;
use divan::Bencher;
use http::Request;

fn main() {
    divan::main();
}

/// Lets everybody guess.
struct Patient;

impl AuthFailures for Patient {
    fn note<'a>(&'a self, _client: Option<IpAddr>, _route: &str) -> Noted<'a> {
        Noted::Now(Ok(()))
    }
}

/// One set of values for all.
struct Same(Arc<TenantSettings>);

impl TenantConfig for Same {
    fn settings(&self, _tenant: &str) -> Option<Arc<TenantSettings>> {
        Some(Arc::clone(&self.0))
    }

    fn process(&self) -> Arc<TenantSettings> {
        Arc::clone(&self.0)
    }
}

fn secret(index: usize) -> String {
    format!("{index:064x}")
}

/// The filter, with so many tokens.
fn filter(tokens: usize) -> Arc<dyn Filter> {
    let dir = tempfile::tempdir().unwrap();
    let mut yaml = "version: 1\ntenants: [{id: acme}]\ntokens:\n".to_owned();
    for index in 0..tokens {
        let secret = secret(index);
        writeln!(yaml, "  - {{id: token-{index}, role: user, bound_tenant: acme, secrets: [{{value: \"{secret}\"}}]}}")
            .unwrap();
    }
    let tokens_file = dir.path().join("tokens.yaml");
    std::fs::write(&tokens_file, yaml).unwrap();
    let settings = Settings { auth: AuthSettings { tokens_file } };
    let checked = Service::check(settings, &Ambient::default()).unwrap();
    let data = dir.path().to_owned();
    let mut env = BuildEnv::new(Arc::new(SystemClock), Ambient::default(), data, prometheus::Registry::new());
    env.provide::<Arc<dyn AuthFailures>>(Arc::new(Arc::new(Patient)));
    env.provide::<Arc<dyn TenantConfig>>(Arc::new(Arc::new(Same(Arc::default()))));
    Service::build(checked, &mut env).unwrap();
    Authenticate::build(AuthenticateConfig::default(), &env).unwrap()
}

fn run(bencher: Bencher<'_, '_>, tokens: usize, secret: impl Fn(usize) -> String, is_known: bool) {
    let (filter, runtime) = (filter(tokens), tokio::runtime::Builder::new_current_thread().build().unwrap());
    let mut next = 0;
    let request = || {
        next = (next + 7919) % tokens;
        let head = Request::get("/v1/models").header("authorization", format!("Bearer {}", secret(next)));
        ExchangeDriver::new(filter.begin(), head.body(()).unwrap())
    };
    bencher.with_inputs(request).bench_local_values(|mut exchange| {
        let outcome = runtime.block_on(exchange.head());
        assert_eq!(outcome.is_ok(), is_known);
    });
}

#[divan::bench(args = [1, 10_000])]
fn known_secret(bencher: Bencher<'_, '_>, tokens: usize) {
    run(bencher, tokens, secret, true);
}

#[divan::bench(args = [1, 10_000])]
fn unknown_secret(bencher: Bencher<'_, '_>, tokens: usize) {
    run(bencher, tokens, |index| secret(index + 1_000_000), false);
}
