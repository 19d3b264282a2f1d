//! http.md 1 and 14: the order of the checks. Every pair of faults of every call is put into one request; the fault
//! that comes first in the contract answers.

use dgx_gateway_testkit::mock::{MockUpstream, Script, dead_addr};
use http::Method;
use serde_json::{Value, json};

use super::{
    Ask, CHAT, COMPLETIONS, COUNT, EMBEDDINGS, Error, Findings, Framing, IMAGES, MESSAGES, RERANK, RESPONSES, SPEECH,
    all_types, least, says, speaks_all,
};
use crate::harness::{Gateway, Setup};

/// Largest body.
const LIMIT: usize = 16 * 1024;

/// What can be wrong with a request, with its place in the order. Those of one place are not asked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    NoPath,
    BadMethod,
    NoSecret,
    WrongSecret,
    TwoTenants,
    OtherTenant,
    Address,
    Drained,
    Scope,
    NoUser,
    BadUser,
    BadScopeId,
    /// Belongs behind `Augment` (see docs/DEVIATIONS.md).
    QueryUser,
    Augment,
    Declared,
    Type,
    Coding,
    Reading,
    Json,
    Duplicate,
    BodyUser,
    Missing,
    Model,
    MaxTokens,
    Image,
    Arguments,
    Inputs,
    Dry,
    Dead,
}

use Fault::*;

const FAULTS: [(u8, Fault); 29] = [
    (20, NoPath),
    (21, BadMethod),
    (40, NoSecret),
    (40, WrongSecret),
    (50, TwoTenants),
    (51, OtherTenant),
    (52, Address),
    (60, Drained),
    (70, Scope),
    (80, NoUser),
    (80, BadUser),
    (80, BadScopeId),
    (81, QueryUser),
    (82, Augment),
    (90, Declared),
    (91, Type),
    (92, Coding),
    (93, Reading),
    (94, Json),
    (94, Duplicate),
    (95, BodyUser),
    (95, Missing),
    (100, Model),
    (101, MaxTokens),
    (102, Image),
    (103, Arguments),
    (104, Inputs),
    (110, Dry),
    (120, Dead),
];

/// Whether an endpoint knows the fault.
fn applies(path: &str, fault: Fault) -> bool {
    match fault {
        MaxTokens => matches!(path, CHAT | COMPLETIONS | RESPONSES | MESSAGES),
        Image => matches!(path, CHAT | RESPONSES | MESSAGES | COUNT),
        Arguments => path == CHAT,
        Inputs => path == EMBEDDINGS,
        Dry | Dead => path != COUNT,
        _ => true,
    }
}

/// Whether one request can have both.
fn together(path: &str, first: Fault, second: Fault) -> bool {
    let both = [first, second];
    let without_content =
        both.contains(&Missing) && [Image, Arguments, Inputs].iter().any(|fault| both.contains(fault));
    let one_framing = both == [Declared, Reading];
    !(without_content || one_framing) && applies(path, first) && applies(path, second)
}

fn expected(path: &str, fault: Fault) -> Error {
    let (authorization, user) = ("headers.authorization", "headers.spass-user-id");
    match fault {
        NoPath => (404, "route_not_found", ""),
        BadMethod => (405, "method_not_allowed", ""),
        NoSecret => (401, "missing_authorization", authorization),
        WrongSecret | OtherTenant => (401, "invalid_authorization", authorization),
        TwoTenants => (400, "invalid_field", "headers.spass-tenant-id"),
        Address | Scope => (403, "forbidden", ""),
        Drained | Dry => (429, "rate_limit_exceeded", ""),
        NoUser => (400, "missing_field", user),
        BadUser => (400, "invalid_field", user),
        BadScopeId => (400, "invalid_field", "headers.spass-scope-id"),
        QueryUser => (400, "invalid_field", "query.user_id"),
        Augment => (400, "invalid_field", "headers.spass-augment"),
        Declared | Reading => (413, "body_too_large", ""),
        Type => (415, "unsupported_media_type", "headers.content-type"),
        Coding => (415, "unsupported_media_type", "headers.content-encoding"),
        Json | Duplicate => (400, "invalid_json", ""),
        BodyUser => (400, "invalid_field", "body.user_id"),
        Missing => (400, "missing_field", missing(path)),
        Model => (400, "model_not_in_allowlist", "model"),
        MaxTokens if path == RESPONSES => (400, "invalid_field", "max_output_tokens"),
        MaxTokens => (400, "invalid_field", "max_tokens"),
        Image => match path {
            CHAT => (400, "image_url_not_supported", "messages[1].content[0].image_url.url"),
            RESPONSES => (400, "image_url_not_supported", "input[0].content[0].image_url"),
            _ => (400, "image_base64_invalid", "messages[0].content[0].source.data"),
        },
        Arguments => (400, "tool_call_arguments_invalid", "messages[0].tool_calls[0].function.arguments"),
        Inputs => (400, "embedding_input_too_large", "input"),
        Dead => (503, "upstream_unavailable", ""),
    }
}

fn missing(path: &str) -> &'static str {
    match path {
        CHAT | MESSAGES | COUNT => "messages",
        COMPLETIONS | IMAGES => "prompt",
        RERANK => "documents",
        _ => "input",
    }
}

fn kind(path: &str) -> &'static str {
    super::CALLS.iter().find(|(_, found)| *found == path).map_or("chat", |(kind, _)| kind)
}

/// The body with its faults. What is wrong with images stands behind what is wrong with arguments.
fn body(path: &str, faults: &[Fault]) -> Vec<u8> {
    let has = |fault| faults.contains(&fault);
    let model = match () {
        () if has(Model) => "nobody-knows-it".to_owned(),
        () if has(Dead) => format!("dead-{}", kind(path)),
        () => kind(path).to_owned(),
    };
    let mut body = least(path, &model);
    if path == CHAT {
        let first = if has(Arguments) {
            json!({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]})
        } else {
            json!({"role": "assistant", "content": "Ready."})
        };
        let url = if has(Image) { "http://192.0.2.1/a.png" } else { "data:image/png;base64,iVBORw0KGgo=" };
        body["messages"] =
            json!([first, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]);
    } else if has(Image) && path == RESPONSES {
        let image = json!({"type": "input_image", "image_url": "http://192.0.2.1/a.png"});
        body["input"] = json!([{"role": "user", "content": [image]}]);
    } else if has(Image) {
        let source = json!({"type": "base64", "media_type": "image/png", "data": "@@@"});
        body["messages"] = json!([{"role": "user", "content": [{"type": "image", "source": source}]}]);
    }
    if has(Inputs) {
        body["input"] = json!(vec!["a"; 257]);
    }
    if has(MaxTokens) {
        body[if path == RESPONSES { "max_output_tokens" } else { "max_tokens" }] = json!(0);
    }
    if has(BodyUser) {
        body["user_id"] = json!("bob");
    }
    if has(Missing) {
        body.as_object_mut().unwrap().remove(missing(path));
    }
    if has(Reading) {
        body["a_pad"] = json!("x".repeat(LIMIT));
    }
    let mut bytes = body.to_string();
    if has(Duplicate) {
        bytes.insert_str(1, r#""\u006dodel":"chat","#);
    }
    if has(Json) {
        bytes.push('}');
    }
    bytes.into_bytes()
}

/// The secret of the token with these properties.
fn secret(faults: &[Fault]) -> String {
    let letter = |fault, letter| if faults.contains(&fault) { letter } else { '-' };
    [letter(Address, 'a'), letter(Drained, 'd'), letter(Scope, 's'), letter(Dry, 't')].iter().collect::<String>()
        + "-secret-of-the-order-0123456789"
}

fn ask(path: &str, faults: &[Fault], number: usize) -> Ask {
    let has = |fault| faults.contains(&fault);
    // failed logins are counted by address
    let from = format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255);
    let mut ask = Ask::post(path, body(path, faults))
        .bearer(&secret(faults))
        .header("x-forwarded-for", from)
        .header("spass-user-id", "alice");
    for (fault, name, value) in [
        (OtherTenant, "spass-tenant-id", "globex"),
        (BadUser, "spass-user-id", "a b"),
        (BadScopeId, "spass-scope-id", "a b"),
        (Augment, "spass-augment", "memory=on"),
        (Type, "content-type", "text/plain"),
        (Coding, "content-encoding", "br"),
        (WrongSecret, "authorization", "Bearer nobody-has-this-secret"),
    ] {
        if has(fault) {
            ask = ask.header(name, value);
        }
    }
    if has(TwoTenants) {
        ask = ask.header("spass-tenant-id", "globex").header("x-tenant-id", "acme");
    }
    for (fault, name) in [(NoSecret, "authorization"), (NoUser, "spass-user-id")] {
        if has(fault) {
            ask = ask.without(name);
        }
    }
    if has(BadMethod) {
        ask.method = Method::PATCH;
    }
    if has(NoPath) {
        ask.path.push_str("/nothing");
    }
    if has(QueryUser) {
        ask.path.push_str("?user_id=bob");
    }
    match () {
        () if has(Declared) => ask.framed(Framing::Declared(LIMIT + 1)),
        () if has(Reading) => ask.framed(Framing::Chunked),
        () => ask,
    }
}

fn tokens() -> Value {
    let mut tokens = vec![];
    for number in 0..16_u8 {
        let faults: Vec<Fault> = [Address, Drained, Scope, Dry]
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| number >> bit & 1 == 1)
            .map(|(_, fault)| fault)
            .collect();
        let has = |fault| faults.contains(&fault);
        let mut token = json!({"id": format!("token-{number}"), "secrets": [{"value": secret(&faults)}],
            "bound_tenant": if has(Dry) { "dry" } else { "acme" }, "rate_limit": {"per_second": 1000, "burst": 100_000}});
        if !has(Scope) {
            token["role"] = json!("user");
        }
        if has(Address) {
            token["constraints"] = json!({"cidrs": ["192.0.2.0/24"]});
        }
        if has(Drained) {
            token["rate_limit"] = json!({"per_second": 0.0001, "burst": 1});
        }
        tokens.push(token);
    }
    json!({"version": 1, "tenants": [{"id": "acme"}, {"id": "globex"}, {"id": "dry", "limits": {"tokens_per_minute": 1}}],
        "tokens": tokens})
}

/// A gateway whose drained tokens and whose dry tenant have nothing left.
async fn started(mock: &MockUpstream) -> Gateway {
    let setup = Setup::new()
        .backend(speaks_all("first", mock.addr()))
        .backend(speaks_all("gone", dead_addr().await.unwrap()))
        .server("trusted_proxies", json!(["127.0.0.1/32"]))
        .variable("MAX_BODY_BYTES", LIMIT.to_string())
        .tokens(tokens());
    let gateway = all_types(all_types(setup, "", "first", "ok"), "dead-", "gone", "ok").start().await;
    ask(CHAT, &[Dry], 0).of(gateway.addr).await.is_ok();
    for others in [vec![], vec![Scope], vec![Dry], vec![Scope, Dry]] {
        let faults = [vec![Drained], others].concat();
        assert_ne!(ask(CHAT, &faults, 0).of(gateway.addr).await.status, 401, "{faults:?}");
    }
    gateway.idle().await;
    gateway
}

async fn all_pairs(paths: &[&str]) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = started(&mock).await;
    let calls = mock.requests().len();
    let mut findings = Findings::default();
    let mut number = 1;
    for path in paths {
        for (place, first) in FAULTS {
            let later = FAULTS.iter().filter(|(other, second)| *other > place && together(path, first, *second));
            let mut requests: Vec<Vec<Fault>> = later.map(|(_, second)| vec![first, *second]).collect();
            if applies(path, first) {
                requests.push(vec![first]);
            }
            for faults in requests {
                number += 1;
                let answer = ask(path, &faults, number).of(gateway.addr).await;
                findings.add(&format!("{path} {faults:?}"), says(&answer, path, expected(path, first)));
            }
        }
    }
    assert_eq!(mock.requests().len(), calls, "nothing that was refused reaches a backend");
    findings.none();
}

#[tokio::test]
async fn the_first_step_that_fails_answers_on_chat_and_completions() {
    all_pairs(&[CHAT, COMPLETIONS]).await;
}

#[tokio::test]
async fn the_first_step_that_fails_answers_on_responses_and_messages() {
    all_pairs(&[RESPONSES, MESSAGES, COUNT]).await;
}

#[tokio::test]
async fn the_first_step_that_fails_answers_on_the_other_calls() {
    all_pairs(&[EMBEDDINGS, RERANK, IMAGES, SPEECH]).await;
}

/// Steps 4 to 7 on lists, and step 3: public pages look at the address, after path and method.
#[tokio::test]
async fn the_first_step_that_fails_answers_on_lists_and_pages() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    let gateway = started(&mock).await;
    let mut findings = Findings::default();
    let mut number = 1 << 18;
    for path in ["/v1/models", "/v1/models/chat", "/v1/info"] {
        for (index, (_, first)) in FAULTS[..9].iter().enumerate() {
            for (_, second) in &FAULTS[index..9] {
                if matches!((first, second), (NoSecret, WrongSecret)) {
                    continue;
                }
                number += 1;
                let faults = [*first, *second];
                let mut ask = ask(CHAT, &faults, number);
                ask.path = ask.path.replace(CHAT, path);
                // below a list a further segment may be the id of a model
                ask.path = ask
                    .path
                    .replace("/nothing", "")
                    .replace("/v1/", if faults.contains(&NoPath) { "/v9/" } else { "/v1/" });
                ask.body.clear();
                if !faults.contains(&BadMethod) {
                    ask.method = Method::GET;
                }
                let answer = ask.of(gateway.addr).await;
                findings.add(&format!("{path} {faults:?}"), says(&answer, path, expected(path, *first)));
            }
        }
    }
    // the bucket of the pages is empty for this address, and the method is looked at all the same
    let page = |method| Ask::new(method, "/errors").header("x-forwarded-for", "192.0.2.77");
    let mut limited = 0;
    for _ in 0..400 {
        let answer = page(Method::GET).of(gateway.addr).await;
        if answer.status == 429 {
            limited += 1;
            findings.add("GET /errors", says(&answer, "", (429, "rate_limit_exceeded", "")));
            let answer = page(Method::POST).of(gateway.addr).await;
            findings.add("POST /errors", says(&answer, "", (405, "method_not_allowed", "")));
        }
        if limited == 3 {
            break;
        }
    }
    assert_eq!(limited, 3, "the limit of the pages was never reached");
    findings.none();
}
