//! http.md 1, step 2: paths, methods, aliases, HEAD.

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use http::Method;

use super::{
    Ask, CALLS, CHAT, COMPLETIONS, COUNT, EMBEDDINGS, Findings, MESSAGES, RESPONSES, all_types, least, proper, says,
    speaks_all,
};
use crate::harness::{Gateway, Setup};

const PAGES: [&str; 6] = ["/errors", "/api/version", "/healthz", "/readyz", "/docs/errors", "/docs/style.css"];
const LISTS: [&str; 3] = ["/v1/models", "/v1/models/chat", "/v1/info"];

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let setup = all_types(Setup::new().backend(speaks_all("first", mock.addr())), "", "first", "ok");
    (setup.start().await, mock)
}

fn call(path: &str) -> Ask {
    let (kind, path) = CALLS.iter().find(|(_, found)| *found == path).copied().unwrap_or(("chat", COUNT));
    Ask::post(path, least(path, kind).to_string())
}

#[tokio::test]
async fn a_slash_at_the_end_and_aliases_mean_the_same() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    for (_, path) in CALLS {
        mock.push(proper(path));
        let mut ask = call(path);
        ask.path.push('/');
        findings.equal(&ask.path, ask.of(gateway.addr).await.status, 200);
        findings.equal(&ask.path, mock.requests().last().unwrap().path.clone(), path);
    }
    for path in [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES] {
        for end in ["", "/", "?x=1", "/?x=1"] {
            let mut ask = call(path);
            ask.path = format!("{}{end}", ask.path.replace("/v1", ""));
            findings.equal(&ask.path, ask.of(gateway.addr).await.status, 200);
            findings.equal(&ask.path, mock.requests().last().unwrap().path.clone(), path);
        }
    }
    let same = async |path: &str| Ask::get(path).of(gateway.addr).await.is_ok().body.clone();
    for (path, other) in [
        ("/v1/models", "/models"),
        ("/v1/models", "/v1/models/"),
        ("/v1/models", "/models/"),
        ("/v1/models/chat", "/models/chat"),
        ("/v1/models/chat", "/v1/models/chat/"),
        ("/v1/models/chat", "/v1/models/%63hat"),
        ("/v1/info", "/v1/info/"),
        ("/errors", "/errors/"),
        ("/healthz", "/healthz/"),
    ] {
        findings.equal(other, same(other).await, same(path).await);
    }
    findings.none();
}

#[tokio::test]
async fn what_is_no_path_of_the_contract_is_404() {
    let (gateway, _mock) = started().await;
    let mut findings = Findings::default();
    for path in [
        "/v1",
        "/v1/",
        "/v2/models",
        "/V1/models",
        "/v1/chat",
        "/v1/chat/completion",
        "/v1/chat/completionsx",
        "/v1/chat/completions/x",
        "/v1/chat/Completions",
        "/chat",
        "/messages",
        "/rerank",
        "/info",
        "/v1/messages/x",
        "/v1/responses/resp_1",
        "/v1/files",
        "/metrics",
        "/debug/pprof",
        "/reload",
        "/.env",
        "/api/v1/chat",
        "/favicon.ico",
    ] {
        for ask in [Ask::get(path), Ask::new(Method::POST, path), Ask::new(Method::DELETE, path)] {
            let what = format!("{} {path}", ask.method);
            findings.add(&what, says(&ask.of(gateway.addr).await, path, (404, "route_not_found", "")));
        }
    }
    findings.none();
}

#[tokio::test]
async fn a_wrong_method_is_405_and_the_right_ones_are_named() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    let calls = CALLS.iter().map(|(_, path)| (*path, "POST")).chain([(COUNT, "POST"), ("/chat/completions", "POST")]);
    let lists = PAGES.iter().chain(&LISTS).map(|path| (*path, "GET, HEAD"));
    for (path, allow) in calls.chain(lists) {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            if allow.contains(method) {
                continue;
            }
            // without authorization: the method comes first
            let answer = Ask::new(method.parse().unwrap(), path).of(gateway.addr).await;
            let what = format!("{method} {path}");
            findings.equal(&what, (answer.status, answer.header("allow")), (405, Some(allow)));
            if method != "HEAD" {
                findings.add(&what, says(&answer, path, (405, "method_not_allowed", "")));
            }
        }
    }
    assert!(mock.requests().is_empty());
    findings.none();
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let (gateway, _mock) = started().await;
    let mut findings = Findings::default();
    let some = PAGES.iter().chain(&LISTS).chain(&["/v1/models/unknown", "/nothing", "/v1/models/"]);
    for path in some {
        let get = Ask::get(path).of(gateway.addr).await;
        let head = Ask { method: Method::HEAD, ..Ask::get(path) }.of(gateway.addr).await;
        findings.equal(path, head.status, get.status);
        findings.equal(path, head.body.len(), 0);
        let of = |name: &str| (head.header(name).map(str::to_owned), get.header(name).map(str::to_owned));
        for name in ["content-type", "content-length"] {
            let (head, get) = of(name);
            findings.equal(&format!("{name} of {path}"), head, get);
        }
    }
    for path in LISTS {
        let head = Ask::new(Method::HEAD, path).of(gateway.addr).await;
        findings.equal(path, (head.status, head.header("www-authenticate")), (401, Some("Bearer")));
    }
    findings.none();
}

#[tokio::test]
async fn the_secret_of_messages_counts_nowhere_else() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    let secret = crate::harness::BEARER;
    for (_, path) in CALLS {
        let keyed = call(path).without("authorization").header("x-api-key", secret);
        let answer = keyed.of(gateway.addr).await;
        if path == MESSAGES {
            findings.equal(path, answer.status, 200);
        } else {
            findings.add(path, says(&answer, path, (401, "missing_authorization", "headers.authorization")));
            findings.equal(path, answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    // the header of the standard counts where both are there
    let both = call(MESSAGES).bearer("wrong").header("x-api-key", secret).of(gateway.addr).await;
    findings.add("both", says(&both, MESSAGES, (401, "invalid_authorization", "headers.authorization")));
    let both = call(MESSAGES).header("x-api-key", "wrong").of(gateway.addr).await;
    findings.equal("both", both.status, 200);
    assert_eq!(mock.requests().len(), 2);
    findings.none();
}
