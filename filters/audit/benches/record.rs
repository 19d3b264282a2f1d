//! What a record costs the request that it is about: the time until it stands in the queue.
//!
//! `cargo bench -p dgx-gateway-audit`. The writer runs beside it, as in the process, and keeps up because it is waited
//! for before the queue is full; that wait is not measured.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use dgx_gateway_audit::{AuditLog, AuditSettings, Service};
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord, HttpEvent, RequestObserver};
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_filter::facts::{ClientIp, ModelChoice};
use dgx_gateway_filter::{BuildEnv, Facts, FinishCx, Outcome, RequestInfo, ServiceKind, Traffic};
use divan::Bencher;

/// Records between two waits for the writer: 2 MiB of the 4 MiB that the queue holds.
const BETWEEN: u32 = 4096;

fn main() {
    divan::main();
}

struct Bench {
    _dir: tempfile::TempDir,
    log: Arc<AuditLog>,
    recorded: u32,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().to_owned();
        let mut env = BuildEnv::new(Arc::new(SystemClock), Ambient::default(), data, prometheus::Registry::new());
        Service::build(AuditSettings::default(), &mut env).unwrap();
        Self { _dir: dir, log: env.service().unwrap(), recorded: 0 }
    }

    fn make_room(&mut self) {
        self.recorded += 1;
        if self.recorded.is_multiple_of(BETWEEN) {
            assert!(self.log.flush(Duration::from_secs(60)));
        }
    }
}

fn http() -> AuditEvent<'static> {
    AuditEvent::Http(HttpEvent {
        method: "POST",
        route: "/v1/chat/completions",
        status: Some(200),
        error_code: None,
        duration: Duration::from_millis(912),
        bytes_in: Some(412),
        bytes_out: Some(1890),
        client_ip: "198.51.100.7".parse().ok(),
        model: Some("claude-opus-4.7"),
        stream: Some(false),
        aborted: false,
        depth: 0,
    })
}

fn of_alice(pseudonymous: bool) -> AuditRecord<'static> {
    AuditRecord {
        request_id: Some("4b6c2f0e-8a57-4b1c-9a2f-0d6f5f1f2a11"),
        tenant_id: Some("acme"),
        token_id: Some("acme-app"),
        user_id: Some("alice"),
        pseudonymous,
        ..AuditRecord::of(http())
    }
}

/// A record of a request, with the user as named or under a pseudonym.
#[divan::bench(args = [false, true])]
fn record(bencher: Bencher<'_, '_>, pseudonymous: bool) {
    let (mut bench, record) = (Bench::new(), of_alice(pseudonymous));
    let log = Arc::clone(&bench.log);
    bencher.with_inputs(|| bench.make_room()).bench_local_values(|()| log.record(&record));
}

/// The same from the end of a request: facts are found, then it is recorded.
#[divan::bench]
fn end_of_request(bencher: Bencher<'_, '_>) {
    let mut bench = Bench::new();
    let log = Arc::clone(&bench.log);
    let request = RequestInfo {
        id: "4b6c2f0e-8a57-4b1c-9a2f-0d6f5f1f2a11".into(),
        method: http::Method::POST,
        route: "/v1/chat/completions".into(),
        protected: true,
        peer: None,
        started: Instant::now(),
        max_body_bytes: 0,
    };
    let mut facts = Facts::default();
    facts.insert(ClientIp([198, 51, 100, 7].into()));
    facts.insert(ModelChoice {
        operation: "chat",
        slug: "claude-opus-4.7".into(),
        alias: "claude-opus-4.7".into(),
        stream: false,
        prompt_estimate: 0,
        may_cost: true,
        targets: Arc::from([]),
    });
    let traffic = Traffic { status: Some(http::StatusCode::OK), bytes_in: 412, bytes_out: 1890 };
    let cx =
        FinishCx { request: &request, facts: &facts, duration: Duration::from_millis(912), traffic: Some(traffic) };
    let outcome = Outcome::Answered { status: http::StatusCode::OK, code: None };
    bencher.with_inputs(|| bench.make_room()).bench_local_values(|()| log.ended(&outcome, &cx));
}

/// A refused authentication that gets no line, because its address has just had one.
#[divan::bench]
fn suppressed_refusal(bencher: Bencher<'_, '_>) {
    let bench = Bench::new();
    let event = AuditEvent::Auth {
        reason: dgx_gateway_filter::audit::AuthReason::Unknown,
        client_ip: "198.51.100.7".parse().ok(),
    };
    bencher.bench_local(|| bench.log.record(&AuditRecord::of(event)));
}
