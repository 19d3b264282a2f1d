//! http.md 12 and 14, and the hints of 7: every answer of an upstream, with one entry in the route and with a second.

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script, dead_addr};
use serde_json::{Value, json};

use super::{
    Ask, CHAT, COMPLETIONS, EMBEDDINGS, Error, Findings, MESSAGES, RESPONSES, error, least, says, status, typed,
};
use super::{with_headers, with_type};
use crate::harness::{Gateway, Setup};

/// What an upstream does, and what becomes of it.
struct Row {
    name: String,
    behaviour: Behaviour,
    /// In `spass-attempts`.
    attempt: &'static str,
    /// Whether the next entry is tried.
    next: bool,
    error: Error,
    /// `Retry-After` of the answer.
    retry_after: Option<u64>,
}

fn row(name: &str, behaviour: Behaviour, attempt: &'static str, next: bool, error: Error) -> Row {
    let retry_after = (error.0 == 429).then_some(60);
    Row { name: format!("row-{name}"), behaviour, attempt, next, error, retry_after }
}

const BAD: &str = "upstream_bad_request";
const FAILED: Error = (502, "upstream_error", "");
const QUOTA: Error = (429, "model_quota_exhausted", "model");
const LONG: Error = (400, "context_length_exceeded", "messages");
const FEW: Error = (400, "max_tokens_below_minimum", "max_tokens");

fn of_requests() -> Vec<Row> {
    let plain = |code: u16| error(code, "Nothing to add.");
    let mut rows = vec![
        row("400", plain(400), "s=400", false, (400, BAD, "")),
        row("409", plain(409), "s=409", false, (409, BAD, "")),
        row("413", plain(413), "s=413", false, (413, BAD, "")),
        row("415", plain(415), "s=415", false, (415, BAD, "")),
        row("422", plain(422), "s=422", false, (422, BAD, "")),
        row("404-file", error(404, "No such File object: file-abc123"), "s=404", false, (404, BAD, "")),
        row("404-file-2", error(404, "File file-abc123 not found"), "s=404", false, (404, BAD, "")),
        row("404-response", error(404, "Response with id 'resp_123' not found."), "s=404", false, (404, BAD, "")),
        row("400-text", with_type(400, "text/plain", "no"), "s=400", false, (400, BAD, "")),
        row("400-empty", with_type(400, "text/plain", ""), "s=400", false, (400, BAD, "")),
        row("few", error(400, "max_tokens must be at least 16, got 1"), "s=400", false, FEW),
        row(
            "few-output",
            error(400, "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16, but got 1 instead."),
            "s=400",
            false,
            FEW,
        ),
    ];
    for (name, code, message) in [
        (
            "vllm",
            400,
            "This model's maximum context length is 4096 tokens. However, your messages resulted in too many tokens. Please reduce the length of the messages.",
        ),
        ("anthropic", 400, "prompt is too long: 9 tokens > 8 maximum"),
        ("ollama", 400, "the input length exceeds the context length"),
        ("google", 400, "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576)."),
        ("413", 413, "prompt is too long: 9 tokens > 8 maximum"),
        ("422", 422, "This model's maximum context length is 4096 tokens."),
    ] {
        let attempt = match code {
            400 => "s=400",
            413 => "s=413",
            _ => "s=422",
        };
        rows.push(row(&format!("long-{name}"), error(code, message), attempt, false, LONG));
    }
    let by_code =
        json!({"error": {"message": "Too much.", "type": "invalid_request_error", "code": "context_length_exceeded"}});
    rows.push(row("long-code", status(400, by_code.to_string()), "s=400", false, LONG));
    rows
}

fn of_backends() -> Vec<Row> {
    let plain = |code: u16| error(code, "Nothing to add.");
    let moderation = json!({"error": {"code": 403, "message": "Your input was flagged.",
        "metadata": {"reasons": ["violence"], "flagged_input": "x", "provider_name": "y"}}});
    let redirect = |code: u16| with_headers(code, &[("location", "http://127.0.0.1:1/elsewhere")], "");
    vec![
        row("401", plain(401), "s=401", false, FAILED),
        row("403", plain(403), "s=403", false, FAILED),
        row("403-moderation", status(403, moderation.to_string()), "s=403", false, (400, BAD, "")),
        row("404", error(404, "The model `x` does not exist."), "s=404", true, FAILED),
        row("404-path", with_type(404, "text/plain", "404 page not found"), "s=404", true, FAILED),
        row("404-path-2", status(404, r#"{"detail":"Not Found"}"#), "s=404", true, FAILED),
        row("405", plain(405), "s=405", true, FAILED),
        row("410", plain(410), "s=410", true, FAILED),
        row("402", plain(402), "s=402", true, QUOTA),
        row("429", plain(429), "s=429", true, QUOTA),
        row("408", plain(408), "s=408", false, (504, "upstream_timeout", "")),
        row("406", plain(406), "s=406", false, FAILED),
        row("411", plain(411), "s=411", false, FAILED),
        row("418", plain(418), "s=418", false, FAILED),
        row("426", plain(426), "s=426", false, FAILED),
        row("431", plain(431), "s=431", false, FAILED),
        row("451", plain(451), "s=451", false, FAILED),
        row("499", plain(499), "s=499", false, FAILED),
        row("300", redirect(300), "s=300", false, FAILED),
        row("301", redirect(301), "s=301", false, FAILED),
        row("302", redirect(302), "s=302", false, FAILED),
        row("303", redirect(303), "s=303", false, FAILED),
        row("307", redirect(307), "s=307", false, FAILED),
        row("308", redirect(308), "s=308", false, FAILED),
        row("500", plain(500), "s=500", true, FAILED),
        row("501", plain(501), "s=501", true, FAILED),
        row("502", with_type(502, "text/html", "<html>Bad Gateway</html>"), "s=502", true, FAILED),
        row("503", plain(503), "s=503", true, FAILED),
        row("504", plain(504), "s=504", true, FAILED),
        row("529", plain(529), "s=529", true, FAILED),
        row("reset", Behaviour::ResetOnHeaders, "e=reset", true, FAILED),
        row("reset-after-request", Behaviour::ResetAfterRequestBytes(usize::MAX), "e=reset", true, FAILED),
    ]
}

/// An answer that is 200 and none.
fn of_answers() -> Vec<Row> {
    let said = |error: Value| status(200, json!({"error": error}).to_string());
    vec![
        row("200-bare", said(json!({"message": "x"})), "s=200", true, FAILED),
        row("200-503", said(json!({"message": "x", "code": 503})), "s=200", true, FAILED),
        row("200-500", said(json!({"message": "x", "status": 500})), "s=200", true, FAILED),
        row("200-429", said(json!({"message": "x", "code": 429})), "s=200", true, QUOTA),
        row("200-402", said(json!({"message": "x", "code": 402})), "s=200", true, QUOTA),
        row("200-status-429", said(json!({"message": "x", "status": 429})), "s=200", true, QUOTA),
        row("200-word", said(json!({"message": "x", "code": "weird"})), "s=200", true, FAILED),
        row("200-text", said(json!("broken")), "s=200", true, FAILED),
        row("200-empty", status(200, ""), "s=200", true, FAILED),
        row("200-object", status(200, "{}"), "s=200", true, FAILED),
        row("200-html", with_type(200, "text/html", "<html>login</html>"), "s=200", true, FAILED),
        row("200-half", status(200, r#"{"choices":[{"index":0"#), "s=200", true, FAILED),
        row("200-null", status(200, "null"), "s=200", true, FAILED),
    ]
}

fn of_hints() -> Vec<Row> {
    let later = |name: &str, code: u16, value: &str, seconds: u64| {
        let behaviour = with_headers(
            code,
            &[("retry-after", value), ("content-type", "application/json")],
            r#"{"error":{"message":"x"}}"#,
        );
        let attempt = if code == 429 { "s=429" } else { "s=402" };
        Row { retry_after: Some(seconds), ..row(&format!("later-{name}"), behaviour, attempt, true, QUOTA) }
    };
    vec![
        later("7", 429, "7", 7),
        later("60", 429, "60", 60),
        later("61", 429, "61", 61),
        later("3600", 429, "3600", 3600),
        later("3601", 429, "3601", 3600),
        later("huge", 429, "99999999999999999999999", 3600),
        later("word", 429, "soon", 60),
        later("empty", 429, "", 60),
        later("negative", 429, "-5", 60),
        later("402", 402, "9", 9),
    ]
}

/// Every row has backends of its own, as one that has failed is left alone for a while.
async fn started(rows: &[Row]) -> (Gateway, MockUpstream) {
    let behaviours: Vec<(String, Behaviour)> =
        rows.iter().map(|row| (row.name.clone(), row.behaviour.clone())).collect();
    let script = Script::default().choose_by_name(move |name| {
        behaviours.iter().find(|(found, _)| found == name).map(|(_, behaviour)| behaviour.clone())
    });
    let mock = MockUpstream::start(script.with_looks_apart()).await.unwrap();
    let mut setup = Setup::new().backend(super::speaks_all("spare", mock.addr()));
    for (index, row) in rows.iter().enumerate() {
        for alone in [true, false] {
            let id = format!("{}{index}", if alone { "a" } else { "b" });
            setup = setup.backend(super::speaks_all(&id, mock.addr()));
            let route: &[(&str, &str)] = if alone { &[(&id, &row.name)] } else { &[(&id, &row.name), ("spare", "ok")] };
            for kind in ["chat", "embedding"] {
                setup = setup.model(typed(&format!("{id}-{kind}"), kind, route));
            }
        }
    }
    (setup.start().await, mock)
}

/// The third rule of hints in section 7.
fn should_not_retry(row: &Row, all_tried: bool) -> bool {
    match row.error.0 {
        409 => true,
        429 => row.retry_after.is_some_and(|seconds| seconds > 60),
        502..=504 => all_tried,
        _ => false,
    }
}

async fn check(rows: &[Row], paths: &[(&str, &str)]) {
    let mut findings = Findings::default();
    for (kind, path) in paths {
        let (gateway, mock) = started(rows).await;
        for (index, row) in rows.iter().enumerate() {
            let what = format!("{path} {}", row.name);
            let before = mock.requests().len();
            let answer = Ask::post(path, least(path, &format!("a{index}-{kind}")).to_string()).of(gateway.addr).await;
            let error = match (row.error, *path) {
                ((status, code, "messages"), RESPONSES) => (status, code, "input"),
                ((status, code, "max_tokens"), RESPONSES) => (status, code, "max_output_tokens"),
                (error, _) => error,
            };
            findings.add(&what, says(&answer, path, error));
            findings.equal(
                &what,
                answer.header("spass-attempts").map(str::to_owned),
                Some(format!("a{index};{}", row.attempt)),
            );
            let hint = should_not_retry(row, true).then_some("false");
            findings.equal(&format!("{what}: x-should-retry"), answer.header("x-should-retry"), hint);
            let after = row.retry_after.map(|seconds| seconds.to_string());
            let millis = row.retry_after.map(|seconds| (seconds * 1000).to_string());
            findings.equal(&format!("{what}: retry-after"), answer.header("retry-after"), after.as_deref());
            findings.equal(&format!("{what}: retry-after-ms"), answer.header("retry-after-ms"), millis.as_deref());
            findings.equal(&format!("{what}: calls"), mock.requests().len() - before, 1);
            findings.equal(&format!("{what}: location"), answer.header("location"), None);

            let what = format!("{what}, two entries");
            let before = mock.requests().len();
            let answer = Ask::post(path, least(path, &format!("b{index}-{kind}")).to_string()).of(gateway.addr).await;
            if row.next {
                findings.equal(&what, answer.status, 200);
                let attempts = format!("b{index};{}, spare;s=200", row.attempt);
                findings.equal(&what, answer.header("spass-attempts"), Some(&*attempts));
                findings.equal(&what, answer.header("spass-resolved-backend"), Some("spare"));
                findings.equal(&format!("{what}: x-should-retry"), answer.header("x-should-retry"), None);
                findings.equal(&format!("{what}: calls"), mock.requests().len() - before, 2);
            } else {
                findings.add(&what, says(&answer, path, error));
                let hint = should_not_retry(row, false).then_some("false");
                findings.equal(&format!("{what}: x-should-retry"), answer.header("x-should-retry"), hint);
                findings.equal(&format!("{what}: calls"), mock.requests().len() - before, 1);
            }
        }
    }
    findings.none();
}

#[tokio::test]
async fn what_is_wrong_with_the_request() {
    check(&of_requests(), &[("chat", CHAT), ("chat", COMPLETIONS), ("chat", RESPONSES), ("chat", MESSAGES)]).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_backend() {
    check(&of_backends(), &[("chat", CHAT), ("chat", RESPONSES), ("chat", MESSAGES), ("embedding", EMBEDDINGS)]).await;
}

#[tokio::test]
async fn an_answer_that_is_none() {
    check(
        &of_answers(),
        &[("chat", CHAT), ("chat", COMPLETIONS), ("chat", RESPONSES), ("chat", MESSAGES), ("embedding", EMBEDDINGS)],
    )
    .await;
}

#[tokio::test]
async fn when_to_come_back() {
    check(&of_hints(), &[("chat", CHAT), ("chat", MESSAGES)]).await;
}

/// A call of a stream that fails before its first word is answered like any other.
#[tokio::test]
async fn streams_that_have_not_begun_follow_the_same_rows() {
    let rows: Vec<Row> = of_requests().into_iter().chain(of_backends()).collect();
    let (gateway, _mock) = started(&rows).await;
    let mut findings = Findings::default();
    for (index, row) in rows.iter().enumerate() {
        let mut body = least(CHAT, &format!("a{index}-chat"));
        body["stream"] = json!(true);
        let answer = Ask::post(CHAT, body.to_string()).of(gateway.addr).await;
        findings.add(&row.name, says(&answer, CHAT, row.error));
        body["model"] = json!(format!("b{index}-chat"));
        let answer = Ask::post(CHAT, body.to_string()).of(gateway.addr).await;
        findings.equal(&row.name, answer.status, if row.next { 200 } else { row.error.0 });
    }
    findings.none();
}

#[tokio::test]
async fn the_last_attempt_decides_the_answer() {
    let mock = MockUpstream::start(
        Script::default()
            .choose_by_name(|name| {
                let code: u16 = name.parse().ok()?;
                Some(error(code, "Nothing to add."))
            })
            .with_looks_apart(),
    )
    .await
    .unwrap();
    let dead = dead_addr().await.unwrap();
    let rows: Vec<(&[u16], Error, Option<&str>)> = vec![
        (&[500, 429], QUOTA, None),
        (&[429, 500], FAILED, Some("false")),
        (&[429, 402], QUOTA, None),
        (&[500, 400], (400, BAD, ""), None),
        (&[404, 422], (422, BAD, ""), None),
        (&[503, 408, 200], (504, "upstream_timeout", ""), None),
        (&[503, 408], (504, "upstream_timeout", ""), Some("false")),
        (&[500, 401, 500], FAILED, None),
        (&[500, 0], (503, "upstream_unavailable", ""), Some("false")),
        (&[0, 0], (503, "upstream_unavailable", ""), Some("false")),
        (&[500, 502, 503, 504], FAILED, Some("false")),
    ];
    let mut setup = Setup::new();
    for (index, (codes, ..)) in rows.iter().enumerate() {
        let mut route = vec![];
        for (at, code) in codes.iter().enumerate() {
            let id = format!("e{index}-{at}");
            setup = setup.backend(crate::harness::backend(&id, if *code == 0 { dead } else { mock.addr() }));
            route.push(json!({"backend": id, "model": code.to_string()}));
        }
        setup = setup.model(json!({"alias": format!("m{index}"), "route": route}));
    }
    let gateway = setup.start().await;
    let mut findings = Findings::default();
    for (index, (codes, error, hint)) in rows.iter().enumerate() {
        let answer = Ask::post(CHAT, least(CHAT, &format!("m{index}")).to_string()).of(gateway.addr).await;
        let what = format!("{codes:?}");
        findings.add(&what, says(&answer, CHAT, *error));
        findings.equal(&format!("{what}: x-should-retry"), answer.header("x-should-retry"), *hint);
    }
    findings.none();
}

#[tokio::test]
async fn nothing_can_be_reached_or_nothing_is_said() {
    let named = dgx_gateway_testkit::mock::Named::default();
    let script = Script::default().choose_by_name(move |name| named.behaviour(name)).with_looks_apart();
    let mock = MockUpstream::start(script).await.unwrap();
    let with = |id: &str, name: &str, value: Value| {
        let mut backend = crate::harness::backend(id, mock.addr());
        backend[name] = value;
        backend
    };
    let gateway = Setup::new()
        .variable("HTTP_TOTAL_TIMEOUT_SECS", "2")
        .backend(with("spare", "connect_timeout_ms", json!(2000)))
        .backend(crate::harness::backend("dead", dead_addr().await.unwrap()))
        .backend(with("nowhere", "base_url", json!("http://nowhere.invalid/v1")))
        .backend(with("tls", "base_url", json!(format!("https://{}/v1", mock.addr()))))
        .backend(with("silent", "first_byte_timeout_seconds", json!(1)))
        .model(json!({"alias": "dead", "route": [{"backend": "dead", "model": "ok"}]}))
        .model(json!({"alias": "nowhere", "route": [{"backend": "nowhere", "model": "ok"}]}))
        .model(json!({"alias": "tls", "route": [{"backend": "tls", "model": "ok"}]}))
        .model(json!({"alias": "silent", "route": [{"backend": "silent", "model": "hang"}]}))
        .model(json!({"alias": "dead2", "route": [{"backend": "dead", "model": "ok"}, {"backend": "spare", "model": "ok"}]}))
        .model(json!({"alias": "nowhere2", "route": [{"backend": "nowhere", "model": "ok"}, {"backend": "spare", "model": "ok"}]}))
        .model(json!({"alias": "tls2", "route": [{"backend": "tls", "model": "ok"}, {"backend": "spare", "model": "ok"}]}))
        .model(json!({"alias": "silent2", "route": [{"backend": "silent", "model": "hang"}, {"backend": "spare", "model": "ok"}]}))
        .start()
        .await;
    let unavailable: Error = (503, "upstream_unavailable", "");
    let late: Error = (504, "upstream_timeout", "");
    // name, stream, error, attempt, whether the next entry is tried
    let cases = [
        ("dead", false, unavailable, "e=connect", true),
        ("nowhere", false, unavailable, "e=connect", true),
        ("tls", false, unavailable, "e=tls", true),
        ("silent", true, late, "e=timeout", true),
        // the first byte bounds streams alone; the whole time ends the rest, and nothing follows
        ("silent", false, late, "e=timeout", false),
    ];
    let one = async |(name, stream, error, attempt, next): (&str, bool, Error, &str, bool)| {
        let mut findings = Findings::default();
        for (model, two) in [(name.to_owned(), false), (format!("{name}2"), true)] {
            let mut body = least(CHAT, &model);
            body["stream"] = json!(stream);
            let answer = Ask::post(CHAT, body.to_string()).of(gateway.addr).await;
            let what = format!("{model}, stream: {stream}");
            if two && next {
                findings.equal(&what, answer.status, 200);
                // a backend whose probe has failed by now is tried after the other one
                let attempts = [format!("{name};{attempt}, spare;s=200"), "spare;s=200".to_owned()];
                let seen = answer.header("spass-attempts").unwrap_or_default();
                findings.equal(&format!("{what}: {seen}"), attempts.iter().any(|attempts| attempts == seen), true);
            } else {
                findings.add(&what, says(&answer, CHAT, error));
                findings.equal(&what, answer.header("spass-attempts"), Some(&*format!("{name};{attempt}")));
                findings.equal(&what, answer.header("x-should-retry"), (!two).then_some("false"));
            }
        }
        findings
    };
    let all = tokio::join!(one(cases[0]), one(cases[1]), one(cases[2]), one(cases[3]), one(cases[4]));
    for findings in <[Findings; 5]>::from(all) {
        findings.none();
    }
}
