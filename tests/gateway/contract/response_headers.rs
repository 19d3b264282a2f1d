//! http.md 7 and 9: which headers stand on which kind of answer.

use dgx_gateway_testkit::mock::{MockUpstream, Named, Script, dead_addr};
use http::Method;
use serde_json::json;

use super::{Ask, CALLS, CHAT, COUNT, Findings, MESSAGES, SPEECH, all_types, least, proper, speaks_all, typed};
use crate::harness::{Answer, Setup, backend};

/// What frames an answer, and says how it is to be read.
const FRAME: [&str; 9] = [
    "cache-control",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "transfer-encoding",
    "x-accel-buffering",
    "x-content-type-options",
];
const ID: [&str; 2] = ["spass-request-id", "x-request-id"];
const LIMITED: [&str; 3] =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const RETRY: [&str; 2] = ["retry-after", "retry-after-ms"];
const SERVED: [&str; 3] = ["spass-attempts", "spass-resolved-backend", "spass-resolved-model"];
const COST: [&str; 6] = [
    "spass-cost-available",
    "spass-cost-eur",
    "spass-cost-exchange-rate",
    "spass-cost-exchange-rate-source",
    "spass-cost-source",
    "spass-cost-usd",
];
const AUGMENTED: &str = "spass-augment-applied";
const APPLIED: [&str; 2] = ["spass-applied", "x-rust-api-applied"];

const DRAINED: &str = "secret-that-is-drained-0123456789";
const FAR: &str = "secret-from-elsewhere-0123456789";
const BARE: &str = "secret-without-scopes-0123456789";
const USER: &str = "secret-of-the-user-0123456789";
const BYPASS: &str = "secret-without-limits-0123456789";

/// Names besides those of the frame.
fn names(answer: &Answer) -> Vec<&str> {
    let mut names: Vec<&str> =
        answer.headers.keys().map(http::HeaderName::as_str).filter(|name| !FRAME.contains(name)).collect();
    names.sort_unstable();
    names
}

fn expected<'a>(path: &str, parts: &[&[&'a str]]) -> Vec<&'a str> {
    let mut names: Vec<&str> = ID.iter().copied().chain(parts.iter().flat_map(|part| part.iter().copied())).collect();
    if path.starts_with(MESSAGES) {
        names.push("request-id");
    }
    names.sort_unstable();
    names
}

fn tokens() -> serde_json::Value {
    let token = |secret: &str, more: serde_json::Value| {
        let mut token = json!({"id": secret.get(12..20), "bound_tenant": "acme", "default_user_id": "alice", "role": "user",
            "secrets": [{"value": secret}], "rate_limit": {"per_second": 1000, "burst": 100_000}});
        token.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token
    };
    json!({"version": 1, "tenants": [{"id": "acme"}], "tokens": [
        token(USER, json!({})),
        token(DRAINED, json!({"rate_limit": {"per_second": 0.0001, "burst": 1}})),
        token(FAR, json!({"constraints": {"cidrs": ["192.0.2.0/24"]}})),
        token(BARE, json!({"role": null})),
        token(BYPASS, json!({"rate_limit_bypass": true})),
    ]})
}

#[tokio::test]
async fn each_kind_of_answer_has_its_headers() {
    let named = Named::default();
    let script = Script::default().choose_by_name(move |name| named.behaviour(name)).with_looks_apart();
    let mock = MockUpstream::start(script).await.unwrap();
    let mut floored = typed("floored", "chat", &[("first", "ok")]);
    floored["constraints"] = json!({"min_max_tokens": 200});
    let mut setup = Setup::new()
        .backend(speaks_all("first", mock.addr()))
        .backend(speaks_all("gone", dead_addr().await.unwrap()))
        .backend(backend("plain", mock.addr()))
        .model(floored)
        .model(typed("gone", "chat", &[("gone", "x")]))
        .tokens(tokens());
    for name in ["status-400", "status-409", "status-429", "status-500"] {
        setup = setup.model(typed(name, "chat", &[("first", name)]));
    }
    let gateway = all_types(setup, "", "first", "ok").start().await;
    let mut findings = Findings::default();

    // answers of models
    for (kind, path) in CALLS {
        mock.push(proper(path));
        let answer = Ask::post(path, least(path, kind).to_string()).bearer(USER).of(gateway.addr).await;
        answer.is_ok();
        let augmented: &[&str] = if path == CHAT { &[AUGMENTED] } else { &[] };
        findings.equal(path, names(&answer), expected(path, &[&LIMITED, &SERVED, &COST, augmented]));
        if !matches!(path, super::EMBEDDINGS | super::RERANK | super::IMAGES | SPEECH) {
            let mut body = least(path, kind);
            body["stream"] = json!(true);
            let answer = Ask::post(path, body.to_string()).bearer(USER).of(gateway.addr).await;
            let what = format!("stream of {path}");
            findings.equal(&what, names(answer.is_ok()), expected(path, &[&LIMITED, &SERVED, augmented]));
            findings.equal(&what, answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
            findings.equal(&what, answer.header("cache-control"), Some("no-cache"));
            findings.equal(&what, answer.header("x-accel-buffering"), Some("no"));
        }
        let mut body = least(path, "floored");
        if kind == "chat" {
            body[if path == super::RESPONSES { "max_output_tokens" } else { "max_tokens" }] = json!(1);
            let answer = Ask::post(path, body.to_string()).bearer(USER).of(gateway.addr).await;
            let what = format!("floored on {path}");
            findings.equal(
                &what,
                names(answer.is_ok()),
                expected(path, &[&LIMITED, &SERVED, &COST, augmented, &APPLIED]),
            );
        }
    }

    // refusals, and failures of upstreams, on the text endpoints
    for (path, kind) in [(CHAT, "chat"), (super::RESPONSES, "chat"), (MESSAGES, "chat")] {
        let ask = |secret: &str, model: &str| Ask::post(path, least(path, model).to_string()).bearer(secret);
        ask(DRAINED, kind).of(gateway.addr).await;
        let mut method = ask(USER, kind);
        method.method = Method::GET;
        let attempts: &[&str] = &["spass-attempts"];
        let once: &[&str] = &["x-should-retry"];
        let cases: Vec<(&str, Ask, Vec<&[&str]>)> = vec![
            ("405", method, vec![&["allow"]]),
            ("401", ask("unknown", kind), vec![&["www-authenticate"]]),
            ("401 without", ask(USER, kind).without("authorization"), vec![&["www-authenticate"]]),
            ("401 tenant", ask(USER, kind).header("spass-tenant-id", "other"), vec![&["www-authenticate"]]),
            ("401 user", ask(USER, kind).header("spass-user-id", "bob"), vec![&["www-authenticate"], &LIMITED]),
            ("403 address", ask(FAR, kind), vec![]),
            ("429", ask(DRAINED, kind), vec![&LIMITED, &RETRY, once]),
            ("403 scope", ask(BARE, kind), vec![&LIMITED]),
            ("400 header", ask(USER, kind).header("spass-augment", "x"), vec![&LIMITED]),
            ("415", ask(USER, kind).header("content-type", "text/plain"), vec![&LIMITED]),
            ("400 model", ask(USER, "unknown"), vec![&LIMITED]),
            ("bypass", ask(BYPASS, "unknown"), vec![]),
            ("upstream 400", ask(USER, "status-400"), vec![&LIMITED, attempts]),
            ("upstream 409", ask(USER, "status-409"), vec![&LIMITED, attempts, once]),
            ("upstream 429", ask(USER, "status-429"), vec![&LIMITED, attempts, &RETRY]),
            ("upstream 500", ask(USER, "status-500"), vec![&LIMITED, attempts, once]),
            ("no upstream", ask(USER, "gone"), vec![&LIMITED, attempts, once]),
        ];
        for (what, ask, parts) in cases {
            let answer = ask.of(gateway.addr).await;
            findings.equal(&format!("{path} {what}"), names(&answer), expected(path, &parts));
        }
    }

    // lists, pages, what no route takes
    for (path, parts) in [
        ("/v1/models", vec![&LIMITED[..]]),
        ("/v1/models/chat", vec![&LIMITED[..]]),
        ("/v1/models/unknown", vec![&LIMITED[..]]),
        ("/v1/info", vec![&LIMITED[..]]),
        ("/errors", vec![]),
        ("/healthz", vec![]),
        ("/readyz", vec![]),
        ("/api/version", vec![]),
        ("/nothing", vec![]),
    ] {
        findings.equal(path, names(&Ask::get(path).bearer(USER).of(gateway.addr).await), expected(path, &parts));
    }
    let count = Ask::post(COUNT, least(COUNT, "chat").to_string()).bearer(USER).of(gateway.addr).await;
    findings.equal("count has an id of its dialect", count.header("request-id"), count.header("x-request-id"));
    findings.none();
}

/// Taken over when it is sound, made otherwise; on `/v1/messages` under a third name, too.
#[tokio::test]
async fn a_request_id_is_on_every_answer_and_the_same_in_all_its_places() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = all_types(Setup::new().backend(speaks_all("first", mock.addr())), "", "first", "ok").start().await;
    let mut findings = Findings::default();
    let long = "x".repeat(129);
    for path in [CHAT, MESSAGES, "/nothing"] {
        for (names, taken) in [
            (vec![("spass-request-id", "one")], Some("one")),
            (vec![("x-request-id", "two")], Some("two")),
            (vec![("x-request-id", "two"), ("spass-request-id", "one")], Some("one")),
            (vec![("spass-request-id", "a b"), ("x-request-id", "two")], None),
            (vec![("x-request-id", &*long)], None),
            (vec![("x-request-id", long.get(..128).unwrap())], Some(long.get(..128).unwrap())),
            (vec![("x-request-id", "~!\"#$%&'()*+,-./:;<=>?@[]^_`{|}")], Some("~!\"#$%&'()*+,-./:;<=>?@[]^_`{|}")),
            (vec![("x-request-id", "")], None),
            (vec![], None),
        ] {
            let mut ask = Ask::post(path, least(CHAT, "chat").to_string());
            for (name, value) in &names {
                ask = ask.header(name, *value);
            }
            let answer = ask.of(gateway.addr).await;
            let id = answer.header("x-request-id").unwrap();
            let what = format!("{path} {names:?}");
            // which of a broken first name and a sound second one counts is not said
            if !names.iter().any(|(_, value)| *value == "a b") {
                let made = id.len() == 36 && id.as_bytes()[14] == b'4';
                findings.equal(&what, taken.map_or(made, |taken| taken == id), true);
            }
            findings.equal(&what, answer.header("spass-request-id"), Some(id));
            findings.equal(&what, answer.header("request-id"), (path == MESSAGES).then_some(id));
        }
    }
    for sent in mock.requests() {
        findings.equal("the backend gets one", sent.headers.get_all("x-request-id").iter().count(), 1);
    }
    findings.none();
}
