//! The log as its users see it, on a real directory.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::audit::{
    AdminAction, Audit, AuditEvent, AuditRecord, AuthReason, ConfigAction, Pseudonyms, RequestObserver,
};
use dgx_gateway_filter::clock::{Clock, ManualClock};
use dgx_gateway_filter::facts::{ClientIp, ModelChoice};
use dgx_gateway_filter::health::Severity;
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Facts, FinishCx, Outcome, RequestInfo, ServiceKind, Traffic,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::log::QUEUE_BYTES;
use crate::{AuditLog, AuditSettings, Service, Settings};

/// The longest that anything takes which happens at once.
const SOON: Duration = Duration::from_secs(20);

struct Bench {
    dir: TempDir,
    clock: Arc<ManualClock>,
    env: BuildEnv,
    log: Arc<AuditLog>,
}

impl Bench {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap()).unwrap()
    }

    /// Starts on a directory that is there already.
    fn on(dir: TempDir) -> Result<Self, BuildError> {
        // 2026-05-16T12:00:00Z
        let clock = Arc::new(ManualClock::starting_at(UNIX_EPOCH + Duration::from_secs(1_778_932_800)));
        let mut env = BuildEnv::new(
            Arc::clone(&clock) as Arc<dyn Clock>,
            Ambient::default(),
            dir.path().to_owned(),
            prometheus::Registry::new(),
        );
        Service::build(AuditSettings::default(), &mut env)?;
        let log = env.service()?;
        Ok(Self { dir, clock, env, log })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit/audit.jsonl")
    }

    fn record(&self, event: AuditEvent<'_>) {
        self.log.record(&AuditRecord::of(event));
    }

    fn start(&self) {
        self.record(AuditEvent::Admin { action: AdminAction::Start, ok: true, detail: None });
    }

    fn refuse(&self, address: &str) {
        self.record(AuditEvent::Auth { reason: AuthReason::Unknown, client_ip: address.parse().ok() });
    }

    /// All lines, once what was recorded is on the disk.
    fn lines(&self) -> Vec<Value> {
        assert!(self.log.flush(SOON));
        let text = fs::read_to_string(self.path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.env.metrics.gather();
        let of_name = families.iter().filter(|family| family.name() == name);
        of_name
            .flat_map(|family| family.get_metric())
            .map(|m| m.get_counter().get_value() + m.get_gauge().get_value())
            .sum()
    }

    fn severity(&self) -> Option<Severity> {
        self.env.health.limitations().first().map(|limitation| {
            assert_eq!(limitation.reason, "storage unavailable");
            limitation.severity
        })
    }

    fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + SOON;
        while !condition(self) {
            assert!(Instant::now() < end, "{what} takes too long");
            std::thread::yield_now();
        }
    }
}

/// Puts something in the way of the file.
fn full_disk(bench: &Bench) {
    fs::remove_file(bench.path()).unwrap();
    symlink("/dev/full", bench.path()).unwrap();
}

#[test]
fn a_record_is_a_line() {
    let bench = Bench::new();
    bench.start();
    bench.record(AuditEvent::Config { action: ConfigAction::Put, key: "k", old: None, new: Some("1") });
    let lines = bench.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["ts"], "2026-05-16T12:00:00.000Z");
    assert_eq!((&lines[0]["type"], &lines[1]["type"]), (&json!("admin"), &json!("config")));
    assert_eq!(bench.metric("dgx_gateway_audit_records_total"), 2.0);
}

#[test]
fn the_end_writes_what_waits_and_takes_nothing_more() {
    let mut bench = Bench::new();
    for _ in 0..5000 {
        bench.start();
    }
    bench.refuse("192.0.2.1");
    bench.refuse("192.0.2.1");
    bench.env.end();
    let text = fs::read_to_string(bench.path()).unwrap();
    assert_eq!(text.lines().count(), 5002, "the refusal that had no line got one");
    bench.start();
    assert_eq!(fs::read_to_string(bench.path()).unwrap(), text);
    assert_eq!(bench.metric("dgx_gateway_audit_records_dropped_total"), 1.0);
    assert!(!bench.log.flush(Duration::ZERO));
}

#[test]
fn a_full_disk_impairs_the_service_and_the_log_goes_on_by_itself() {
    let bench = Bench::new();
    bench.start();
    bench.lines();
    full_disk(&bench);
    bench.start();
    bench.until("the failure shows", |bench| bench.severity() == Some(Severity::Impaired));
    assert_eq!(bench.metric("dgx_gateway_audit_failing"), 1.0);
    bench.start();
    assert!(!bench.log.flush(Duration::from_millis(1)), "nothing is said to be written");
    fs::remove_file(bench.path()).unwrap();
    bench.until("the log is written again", |bench| bench.severity().is_none());
    let lines = bench.lines();
    let details: Vec<&Value> = lines.iter().map(|line| &line["detail"]).collect();
    assert!(details.contains(&&json!("0 records were left out")), "{details:?}");
    assert_eq!(lines.len(), 3, "both records and that one: {lines:?}");
    assert_eq!(bench.metric("dgx_gateway_audit_failing"), 0.0);
    assert_eq!(bench.metric("dgx_gateway_audit_records_dropped_total"), 0.0);
}

#[test]
fn a_queue_that_is_full_drops_counts_and_says_so_later() {
    let bench = Bench::new();
    full_disk(&bench);
    bench.start();
    bench.until("the failure shows", |bench| bench.severity().is_some());
    let one = json!("x".repeat(10_000)).to_string();
    let sent = u32::try_from(3 * QUEUE_BYTES / one.len()).unwrap();
    for _ in 0..sent {
        bench.record(AuditEvent::Config { action: ConfigAction::Put, key: "k", old: None, new: Some(&one) });
    }
    let dropped = bench.metric("dgx_gateway_audit_records_dropped_total");
    assert!(dropped > 0.0 && dropped < f64::from(sent));
    fs::remove_file(bench.path()).unwrap();
    bench.until("the log is written again", |bench| bench.severity().is_none());
    let lines = bench.lines();
    let told = lines.iter().find(|line| line["action"] == "resume").unwrap();
    assert_eq!(told["detail"], json!(format!("{dropped} records were left out")));
    let written = lines.iter().filter(|line| line["type"] == "config").fold(0.0, |count, _| count + 1.0);
    assert!((written + dropped - f64::from(sent)).abs() < 0.5, "what is missing was counted");
}

#[test]
fn what_cannot_be_written_at_the_end_is_counted() {
    let mut bench = Bench::new();
    full_disk(&bench);
    bench.start();
    bench.env.end();
    assert_eq!(bench.metric("dgx_gateway_audit_records_dropped_total"), 1.0);
}

#[test]
fn a_directory_that_cannot_be_used_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("audit"), "no directory").unwrap();
    assert!(matches!(Bench::on(dir), Err(BuildError::Io { .. })));
}

#[test]
fn a_start_after_a_kill_mends_the_last_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("audit")).unwrap();
    let left = "{\"ts\":\"2026-05-16T11:00:00.000Z\",\"type\":\"admin\"}\n{\"ts\":\"2026-05-16T11:00:0";
    fs::write(dir.path().join("audit/audit.jsonl"), left).unwrap();
    let bench = Bench::on(dir).unwrap();
    bench.start();
    assert_eq!(bench.lines().len(), 2);
}

#[test]
fn a_day_that_is_over_closes_the_file() {
    let bench = Bench::new();
    bench.start();
    bench.lines();
    bench.clock.advance(Duration::from_secs(43_200));
    assert!(bench.log.flush(SOON));
    assert!(bench.dir.path().join("audit/audit-2026-05-16-1.jsonl").exists());
    assert_eq!(bench.lines(), Vec::<Value>::new());
}

#[test]
fn refused_authentications_are_written_once_a_second_and_address() {
    let bench = Bench::new();
    for _ in 0..5 {
        bench.refuse("192.0.2.1");
    }
    bench.refuse("192.0.2.2");
    let seen = |lines: &[Value]| -> Vec<(Value, Value)> {
        lines.iter().map(|line| (line["client_ip"].clone(), line["suppressed"].clone())).collect()
    };
    let first = [(json!("192.0.2.1"), json!(0)), (json!("192.0.2.2"), json!(0))];
    assert_eq!(seen(&bench.lines()), first);
    bench.clock.advance(Duration::from_secs(1));
    let all = bench.lines();
    assert_eq!(seen(&all[2..]), [(json!("192.0.2.1"), json!(3))], "the last of the four stands for the others");
}

#[test]
fn a_pseudonymous_record_names_nobody() {
    let bench = Bench::new();
    let event = AuditEvent::Auth { reason: AuthReason::Scope, client_ip: "192.0.2.1".parse().ok() };
    let record =
        AuditRecord { tenant_id: Some("acme"), user_id: Some("alice"), pseudonymous: true, ..AuditRecord::of(event) };
    bench.log.record(&record);
    let line = bench.lines().remove(0);
    let pseudonyms = bench.env.service::<Arc<dyn Pseudonyms>>().unwrap();
    assert_eq!(line["user_id"].as_str().map(str::to_owned), pseudonyms.pseudonym("acme", "alice"));
    assert_eq!((&line["client_ip"], &line["tenant_id"]), (&Value::Null, &json!("acme")));
    // without a key the user is unknown, never the true one
    fs::remove_dir_all(bench.dir.path().join("keys")).unwrap();
    let other = Bench::new();
    fs::write(other.dir.path().join("keys"), "no directory").unwrap();
    other.log.record(&record);
    assert_eq!(other.lines()[0]["user_id"], Value::Null);
}

#[test]
fn settings_out_of_range_are_refused() {
    let checked = |keep_days| Service::check(Settings { audit: AuditSettings { keep_days } }, &Ambient::default());
    assert!(checked(0).is_ok() && checked(36_500).is_ok());
    assert_eq!(checked(36_501).unwrap_err()[0].key, "audit.keep_days");
    assert_eq!(AuditSettings::default().keep_days, 400);
}

fn request(protected: bool) -> RequestInfo {
    RequestInfo {
        id: "r1".into(),
        method: http::Method::POST,
        route: "/v1/chat/completions".into(),
        protected,
        peer: Some(SocketAddr::from(([192, 0, 2, 7], 4000))),
        started: Instant::now(),
        max_body_bytes: 0,
    }
}

fn ended(bench: &Bench, request: &RequestInfo, facts: &Facts, outcome: Outcome, traffic: Option<Traffic>) {
    let observer = bench.env.service::<Arc<dyn RequestObserver>>().unwrap();
    observer.ended(&outcome, &FinishCx { request, facts, duration: Duration::from_millis(12), traffic });
}

#[test]
fn requests_of_protected_routes_are_recorded_however_they_end() {
    let bench = Bench::new();
    let mut facts = Facts::default();
    facts.insert(ClientIp("::ffff:198.51.100.7".parse().unwrap()));
    let answered = Outcome::Answered { status: http::StatusCode::OK, code: None };
    let traffic = Traffic { status: Some(http::StatusCode::OK), bytes_in: 3, bytes_out: 5 };
    ended(&bench, &request(false), &facts, answered, Some(traffic));
    let (ok, left) = (Some(traffic), Some(Traffic { status: None, ..traffic }));
    for (outcome, traffic) in [
        (answered, ok),
        (Outcome::Cut(ErrorCode::UpstreamError), ok),
        (Outcome::ClientLeft, left),
        (Outcome::Dropped, None),
    ] {
        ended(&bench, &request(true), &facts, outcome, traffic);
    }
    let seen: Vec<_> = bench
        .lines()
        .iter()
        .map(|line| {
            assert_eq!((&line["client_ip"], &line["duration_ms"]), (&json!("198.51.100.7"), &json!(12)));
            assert_eq!((&line["model"], &line["stream"], &line["depth"]), (&Value::Null, &Value::Null, &json!(0)));
            json!([line["status"], line["error_code"], line["aborted"], line["bytes_in"], line["bytes_out"]])
        })
        .collect();
    assert_eq!(
        seen,
        [
            json!([200, null, false, 3, 5]),
            json!([200, "upstream_error", true, 3, 5]),
            json!([499, null, true, 3, 5]),
            json!([null, null, true, null, null]),
        ]
    );
}

#[test]
fn a_request_that_chose_a_model_says_which() {
    let bench = Bench::new();
    let mut facts = Facts::default();
    facts.insert(ModelChoice {
        operation: "chat",
        slug: "m-long".into(),
        alias: "m".into(),
        stream: true,
        prompt_estimate: 0,
        may_cost: false,
        targets: Arc::from([]),
    });
    ended(&bench, &request(true), &facts, Outcome::Dropped, None);
    let line = bench.lines().remove(0);
    assert_eq!((&line["model"], &line["stream"]), (&json!("m-long"), &json!(true)));
}

#[test]
fn the_clock_of_records_is_that_of_the_process() {
    let bench = Bench::new();
    bench.clock.advance(Duration::from_millis(1_234));
    bench.start();
    assert_eq!(bench.lines()[0]["ts"], "2026-05-16T12:00:01.234Z");
    assert!(bench.clock.wall() > SystemTime::UNIX_EPOCH);
}
