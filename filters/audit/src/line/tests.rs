use dgx_gateway_filter::audit::{AdminAction, AuthReason, ConfigAction, ToolOutcome};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// 2026-05-16T09:12:03Z
const SECOND: u64 = 1_778_922_723;

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(SECOND * 1000 + millis)
}

fn line_of(record: &AuditRecord<'_>, millis: u64, suppressed: u64) -> String {
    let mut out = Vec::new();
    let added = Added { now: at(millis), user_id: record.user_id, suppressed };
    write(&mut out, &mut Stamp::default(), record, added);
    String::from_utf8(out).unwrap()
}

fn of_acme(event: AuditEvent<'_>) -> AuditRecord<'_> {
    AuditRecord {
        request_id: Some("4b6c2f0e-8a57-4b1c-9a2f-0d6f5f1f2a11"),
        tenant_id: Some("acme"),
        token_id: Some("acme-app"),
        user_id: Some("alice"),
        ..AuditRecord::of(event)
    }
}

fn http_event() -> HttpEvent<'static> {
    HttpEvent {
        method: "POST",
        route: "/v1/chat/completions",
        status: Some(200),
        error_code: None,
        duration: Duration::from_micros(912_900),
        bytes_in: Some(412),
        bytes_out: Some(1890),
        client_ip: Some("198.51.100.7".parse().unwrap()),
        model: Some("claude-opus-4.7"),
        stream: Some(false),
        aborted: false,
        depth: 0,
    }
}

/// The examples of the specification; spaces between members do not count.
fn same(line: &str, example: &str) {
    assert_eq!(line.strip_suffix('\n').unwrap(), example.replace("\": ", "\":").replace(", \"", ",\""));
}

#[test]
fn a_record_of_a_request_is_the_example_of_the_specification() {
    let event = http_event();
    same(
        &line_of(&of_acme(AuditEvent::Http(event)), 114, 0),
        r#"{"ts": "2026-05-16T09:12:03.114Z", "type": "http", "request_id": "4b6c2f0e-8a57-4b1c-9a2f-0d6f5f1f2a11", "parent_request_id": null, "tenant_id": "acme", "token_id": "acme-app", "user_id": "alice", "method": "POST", "route": "/v1/chat/completions", "status": 200, "error_code": null, "duration_ms": 912, "bytes_in": 412, "bytes_out": 1890, "client_ip": "198.51.100.7", "model": "claude-opus-4.7", "stream": false, "aborted": false, "depth": 0}"#,
    );
}

#[test]
fn a_record_of_a_cost_is_the_example_of_the_specification() {
    let event = CostEvent {
        model: Some("claude-opus-4.7"),
        resolved_model: Some("claude-opus-4.7"),
        backend: Some("cloud-2"),
        calls: 2,
        prompt_tokens: 1100,
        completion_tokens: 236,
        cached_tokens: 0,
        source: "upstream",
        available: true,
        billed_eur: "0.02",
        billed_usd: "0.02",
        upstream_usd: "0.0114",
        exchange_rate: "0.8546",
        exchange_rate_source: "ecb-2026-05-15",
        status: "ok",
    };
    same(
        &line_of(&of_acme(AuditEvent::Cost(event)), 115, 0),
        r#"{"ts": "2026-05-16T09:12:03.115Z", "type": "cost", "request_id": "4b6c2f0e-8a57-4b1c-9a2f-0d6f5f1f2a11", "parent_request_id": null, "tenant_id": "acme", "token_id": "acme-app", "user_id": "alice", "model": "claude-opus-4.7", "resolved_model": "claude-opus-4.7", "backend": "cloud-2", "calls": 2, "prompt_tokens": 1100, "completion_tokens": 236, "cached_tokens": 0, "source": "upstream", "available": true, "billed_eur": "0.02", "billed_usd": "0.02", "upstream_usd": "0.0114", "exchange_rate": "0.8546", "exchange_rate_source": "ecb-2026-05-15", "status": "ok"}"#,
    );
}

#[test]
fn a_record_of_a_tool_is_the_example_of_the_specification() {
    let digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"; // that of {}
    let mut arguments_sha256 = [0; 32];
    for (byte, pair) in arguments_sha256.iter_mut().zip(digest.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    let event = ToolEvent {
        tool: "calculator",
        iteration: Some(1),
        outcome: ToolOutcome::Ok,
        error_code: None,
        duration: Duration::from_millis(1),
        arguments_sha256,
        result_bytes: 58,
        confirmed: false,
    };
    let mut line = line_of(&of_acme(AuditEvent::Tool(event)), 871, 0);
    line = line.replace("03.871", "02.871");
    same(
        &line,
        r#"{"ts": "2026-05-16T09:12:02.871Z", "type": "tool", "request_id": "4b6c2f0e-8a57-4b1c-9a2f-0d6f5f1f2a11", "parent_request_id": null, "tenant_id": "acme", "token_id": "acme-app", "user_id": "alice", "tool": "calculator", "iteration": 1, "outcome": "ok", "error_code": null, "duration_ms": 1, "arguments_sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "result_bytes": 58, "confirmed": false}"#,
    );
}

#[test]
fn the_other_kinds_have_all_their_members() {
    let parsed =
        |event: AuditEvent<'_>| -> Value { serde_json::from_str(&line_of(&AuditRecord::of(event), 0, 7)).unwrap() };
    let nobody = json!({"ts": "2026-05-16T09:12:03.000Z", "request_id": null, "parent_request_id": null,
        "tenant_id": null, "token_id": null, "user_id": null});
    let expect = |event: AuditEvent<'_>, own: Value| {
        let mut expected = nobody.clone();
        expected.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        assert_eq!(parsed(event), expected);
    };
    expect(
        AuditEvent::Config {
            action: ConfigAction::Put,
            key: "tts_voice",
            old: Some("null"),
            new: Some("{\n\"a\": 1}"),
        },
        json!({"type": "config", "action": "put", "key": "tts_voice", "old": null, "new": {"a": 1}}),
    );
    expect(
        AuditEvent::Config { action: ConfigAction::Delete, key: "k", old: Some("1"), new: None },
        json!({"type": "config", "action": "delete", "key": "k", "old": 1, "new": null}),
    );
    expect(
        AuditEvent::Auth { reason: AuthReason::Unknown, client_ip: Some("2001:db8::1".parse().unwrap()) },
        json!({"type": "auth", "reason": "unknown", "client_ip": "2001:db8::1", "suppressed": 7}),
    );
    expect(
        AuditEvent::Admin { action: AdminAction::Start, ok: true, detail: Some("1.0.0") },
        json!({"type": "admin", "action": "start", "ok": true, "detail": "1.0.0"}),
    );
}

#[test]
fn what_is_not_known_is_null_and_no_member_is_missing() {
    let event = HttpEvent {
        status: None,
        bytes_in: None,
        bytes_out: None,
        client_ip: None,
        model: None,
        stream: None,
        aborted: true,
        ..http_event()
    };
    let line: Value = serde_json::from_str(&line_of(&AuditRecord::of(AuditEvent::Http(event)), 0, 0)).unwrap();
    assert_eq!(line.as_object().unwrap().len(), 19);
    for name in ["status", "error_code", "bytes_in", "bytes_out", "client_ip", "model", "stream", "user_id"] {
        assert_eq!(line.get(name), Some(&Value::Null), "{name}");
    }
}

#[test]
fn a_pseudonymous_record_has_no_address() {
    for event in [
        AuditEvent::Http(http_event()),
        AuditEvent::Auth { reason: AuthReason::Scope, client_ip: Some("198.51.100.7".parse().unwrap()) },
    ] {
        let record = AuditRecord { pseudonymous: true, ..of_acme(event) };
        assert!(line_of(&record, 0, 0).contains("\"client_ip\":null"));
    }
}

#[test]
fn the_second_is_made_anew_when_it_changes() {
    let mut stamp = Stamp::default();
    let mut said = |now| {
        let mut out = Vec::new();
        stamp.push(now, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(said(at(999)), "2026-05-16T09:12:03.999Z");
    assert_eq!(said(at(7)), "2026-05-16T09:12:03.007Z");
    assert_eq!(said(at(1000)), "2026-05-16T09:12:04.000Z");
    assert_eq!(said(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    assert_eq!(said(UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00.000Z");
}

proptest! {
    /// Whatever a client writes into its headers, a line stays one line of JSON that says just that.
    #[test]
    fn any_text_is_one_line_that_reads_back(id in ".{0,40}", user in any::<String>(), model in "[\"\\\\\n\r\t\u{0}-\u{1f}é😀a]{0,12}") {
        let record = AuditRecord {
            request_id: Some(&id),
            user_id: Some(&user),
            ..AuditRecord::of(AuditEvent::Http(HttpEvent { model: Some(&model), ..http_event() }))
        };
        let line = line_of(&record, 5, 0);
        prop_assert_eq!(line.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(read["request_id"].as_str(), Some(&*id));
        prop_assert_eq!(read["user_id"].as_str(), Some(&*user));
        prop_assert_eq!(read["model"].as_str(), Some(&*model));
    }
}
