//! The contract, read as a table and asked over sockets. Each module goes through the rows of some sections.
//!
//! | Section, row | Test |
//! |---|---|
//! | http 1, steps 1, 2, 4 to 12, every pair | `order::the_first_step_that_fails_answers_on_*` |
//! | http 1, step 1 | `response_headers::a_request_id_is_on_every_answer_and_the_same_in_all_its_places` |
//! | http 1, step 2: paths, slash, aliases | `paths::a_slash_at_the_end_and_aliases_mean_the_same`, `paths::what_is_no_path_of_the_contract_is_404` |
//! | http 1, step 2: methods, HEAD | `paths::a_wrong_method_is_405_and_the_right_ones_are_named`, `paths::head_is_get_without_its_body` |
//! | http 1, step 3 | `order::the_first_step_that_fails_answers_on_lists_and_pages` |
//! | http 1, types, codings | `bodies::json_is_taken_under_its_names_and_nothing_else_is`; `codings` |
//! | http 1, 14: lengths | `bodies::lengths_are_looked_at_in_their_place`; `codings::the_limit_holds_for_the_decoded_body`, `early` |
//! | http 1, 14: JSON, members that stand twice | `bodies::what_is_no_json_object_is_told_so`, `bodies::a_member_that_stands_twice_is_refused_however_it_is_written` |
//! | http 1, v1 1, v1 3: checked members | `bodies::members_have_their_types`; `models_plain` for rerank, images, speech |
//! | http 2, `x-api-key` | `paths::the_secret_of_messages_counts_nowhere_else` |
//! | http 2 to 6 | `identity`, `limits::who_guesses_secrets_is_slowed_down_and_nobody_else` |
//! | http 7, requests, tokens | `limits`, `shared_limits` |
//! | http 7, retry hint | `upstream::*`; `limits::a_wait_of_a_minute_may_be_retried_and_a_longer_one_not` |
//! | http 8, 14: what a backend receives | `backend_headers::*`; `headers`, `generic` |
//! | http 9 | `response_headers::each_kind_of_answer_has_its_headers`; `cors`; `augment` |
//! | http 10, 11 | `catalog::*`, and `says` on every error of this suite |
//! | http 11, `openrouter_daily_quota_exhausted` | `catalog::every_code_*`; `models_quota` |
//! | http 12, 400, 409, 413, 415, 422; 404 on an object; prompt too long; max tokens too small | `upstream::what_is_wrong_with_the_request` |
//! | http 12, 401, 403, moderation; 404, 405, 410; 402, 429; 408; other 4xx, 3xx; 5xx, reset | `upstream::what_is_wrong_with_the_backend` |
//! | http 12, the same before a stream begins | `upstream::streams_that_have_not_begun_follow_the_same_rows`; `streams` after it |
//! | http 12, connect, DNS, TLS; first byte; total time | `upstream::nothing_can_be_reached_or_nothing_is_said`; `replay` |
//! | http 12, 14: 200 with an error, or without an answer | `upstream::an_answer_that_is_none`; `models_plain` for images, speech |
//! | http 12, `Retry-After` | `upstream::when_to_come_back` |
//! | http 12, the last attempt | `upstream::the_last_attempt_decides_the_answer`; `replay::a_chain_of_failures_ends_with_the_last_one_and_the_whole_story` |
//! | http 13, examples and steps | `sanitising::the_examples_of_the_contract` |
//! | http 13, nothing leaks | `sanitising::nothing_that_an_upstream_tells_about_itself_gets_out`, `sanitising::no_kind_of_failure_inside_a_stream_gives_the_upstream_away`; `secrets` |
//! | models 6, steps 1 to 3 and their rows | `max_tokens::every_row_of_the_table_on_every_dialect`, `max_tokens::what_is_no_integer_in_its_range_is_refused` |
//! | models 6, both names | `max_tokens::both_names_are_adjusted_and_the_newer_one_is_reported` |
//! | models 6, step 4 with an estimate | `max_tokens::what_is_left_of_the_context_bounds_the_value` |
//! | models 6, step 4 with an exact count (150 left of a floor of 200), repeated calls | `models_context` |
//! | models 6, composites | `models_rules::a_composite_has_its_own_floor_and_that_of_the_member_if_it_is_higher` |
//! | models 7, both tables | `vision::every_url_gets_its_row`, `vision::a_url_that_is_missing_or_no_string` |
//! | models 7, order; URLs that pass; other parts | `vision::the_first_failure_in_order_of_messages_and_parts_answers`, `vision::a_model_that_fetches_gets_urls_and_other_parts_are_not_looked_at` |
//! | models 8 | `arguments::arguments_parse_or_are_named` |
//! | models 9, inputs | `embeddings::inputs_have_forms_and_caps` |
//! | models 9, members, names | `embeddings::members_are_patched_and_nothing_else` |
//!
//! Not asked, as nothing brings it about yet: see `catalog::NOT_YET`, cost headers, `spass-tool-iterations`, `spass-cache`,
//! `spass-budget-warning`, multipart bodies, budgets, `SPASS-Stt-Mode` (docs/DEVIATIONS.md).

mod arguments;
mod backend_headers;
mod bodies;
mod catalog;
mod embeddings;
mod max_tokens;
mod order;
mod paths;
mod response_headers;
mod sanitising;
mod upstream;
mod vision;

use std::net::SocketAddr;

use dgx_gateway_testkit::client::RawClient;
use dgx_gateway_testkit::mock::Behaviour;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::harness::{Answer, BEARER, Setup, backend, model, soon};

/// Paths of calls.
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";
const EMBEDDINGS: &str = "/v1/embeddings";
const RERANK: &str = "/v1/rerank";
const IMAGES: &str = "/v1/images/generations";
const SPEECH: &str = "/v1/audio/speech";

/// A request, as it goes over the wire.
#[derive(Clone, Debug)]
struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
}

/// How long a body says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// By its length.
    Sized,
    /// Not at all.
    Chunked,
    /// By this length, and nothing follows the head.
    Declared(usize),
}

impl Ask {
    fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: vec![], body: vec![], framing: Framing::Sized }
    }

    /// A JSON body of the caller of the harness.
    fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut ask = Self::new(Method::POST, path).bearer(BEARER).header("content-type", "application/json");
        ask.body = body.into();
        ask
    }

    fn get(path: &str) -> Self {
        Self::new(Method::GET, path).bearer(BEARER)
    }

    fn bearer(self, secret: &str) -> Self {
        self.header("authorization", format!("Bearer {secret}"))
    }

    /// Takes the place of a header of that name.
    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self
    }

    fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Asks on a connection of its own. A refusal may come before all of the request is sent.
    async fn of(&self, addr: SocketAddr) -> Answer {
        let mut client = RawClient::connect(addr).await.unwrap();
        let mut headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let length = match self.framing {
            Framing::Sized => self.body.len(),
            Framing::Declared(length) => length,
            Framing::Chunked => 0,
        }
        .to_string();
        let without_body = self.body.is_empty() && matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS);
        match self.framing {
            Framing::Chunked => headers.push(("transfer-encoding", "chunked")),
            _ if without_body => {}
            _ => headers.push(("content-length", &length)),
        }
        client.send_head(&self.method, &self.path, &headers).await.unwrap();
        let sent = match self.framing {
            Framing::Declared(_) => Ok(()),
            Framing::Sized => client.send(&self.body).await,
            Framing::Chunked => {
                async {
                    for chunk in self.body.chunks(8 * 1024) {
                        client.send_chunk(chunk).await?;
                    }
                    client.send_chunk(b"").await
                }
                .await
            }
        };
        let answer = soon("the answer", client.read_response()).await;
        answer.unwrap_or_else(|error| panic!("{error}, sent {sent:?}: {self:?}")).into()
    }
}

/// What differs from the contract; all of it is shown at the end.
#[derive(Default)]
struct Findings {
    looked_at: usize,
    found: Vec<String>,
}

impl Findings {
    #[track_caller]
    fn equal<A: PartialEq<B> + std::fmt::Debug, B: std::fmt::Debug>(&mut self, what: &str, seen: A, expected: B) {
        self.looked_at += 1;
        if seen != expected {
            self.found.push(format!("{what}: {seen:?}, expected {expected:?}"));
        }
    }

    fn add(&mut self, what: &str, result: Result<(), String>) {
        self.looked_at += 1;
        if let Err(difference) = result {
            self.found.push(format!("{what}: {difference}"));
        }
    }

    /// Asserts that there are none, and that something was looked at.
    #[track_caller]
    fn none(self) {
        assert!(self.looked_at > 0, "nothing was looked at");
        assert!(self.found.is_empty(), "{} of {}:\n{}", self.found.len(), self.looked_at, self.found.join("\n"));
    }
}

/// An error as the contract says it: status, code, and `param`, where `""` stands for null.
type Error = (u16, &'static str, &'static str);

/// Whether an answer says an error, with the type of its code and all members in the dialect of the path.
fn says(answer: &Answer, path: &str, (status, code, param): (u16, &str, &str)) -> Result<(), String> {
    let body: Value = serde_json::from_slice(&answer.body)
        .map_err(|_| format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))?;
    let kind = catalog::CODES.iter().find(|entry| entry.0 == code).unwrap_or_else(|| panic!("no code {code}")).2;
    let messages = path.starts_with(MESSAGES);
    let kind = match (messages, kind, code) {
        (false, kind, _) => kind,
        (true, "permission_denied", _) => "permission_error",
        (true, "not_found", _) => "not_found_error",
        (true, _, "service_overloaded") => "overloaded_error",
        (true, "upstream_error" | "internal_error", _) => "api_error",
        (true, kind, _) => kind,
    };
    let param = if param.is_empty() { Value::Null } else { json!(param) };
    let error = &body["error"];
    let seen = (answer.status, error["code"].clone(), error["param"].clone(), error["type"].clone());
    let expected = (status, json!(code), param, json!(kind));
    let message = error["message"].as_str().is_some_and(|message| !message.is_empty());
    let members = error.as_object().map_or(0, serde_json::Map::len);
    let id = &body["request_id"];
    let id_as_told =
        if messages || status >= 500 { id == answer.header("x-request-id").unwrap() } else { id.is_null() };
    let dialect = messages == (body["type"] == "error");
    let json = answer.header("content-type") == Some("application/json");
    if seen != expected {
        return Err(format!("{seen:?} instead of {expected:?}: {body}"));
    }
    if !(message && members == 4 && id_as_told && dialect && json) {
        return Err(format!("not the envelope: {body} {:?}", answer.headers));
    }
    Ok(())
}

/// A backend that speaks everything.
fn speaks_all(id: &str, addr: SocketAddr) -> Value {
    let mut backend = backend(id, addr);
    backend["protocols"] =
        json!(["chat", "completions", "responses", "messages", "embeddings", "rerank", "images", "speech"]);
    backend
}

/// A model of a type; chat models see and draw.
fn typed(alias: &str, kind: &str, route: &[(&str, &str)]) -> Value {
    let mut model = model(alias, route);
    model["type"] = json!(kind);
    if kind == "chat" {
        model["modalities"] = json!({"input": ["text", "image"], "output": ["text"]});
    }
    model
}

/// The types of models and the paths that call them.
const CALLS: [(&str, &str); 8] = [
    ("chat", CHAT),
    ("chat", COMPLETIONS),
    ("chat", RESPONSES),
    ("chat", MESSAGES),
    ("embedding", EMBEDDINGS),
    ("rerank", RERANK),
    ("image", IMAGES),
    ("audio", SPEECH),
];

/// Models `TYPE` of all types at the backend of that id, under their upstream names.
fn all_types(mut setup: Setup, prefix: &str, backend: &str, upstream: &str) -> Setup {
    for kind in ["chat", "embedding", "rerank", "image", "audio"] {
        setup = setup.model(typed(&format!("{prefix}{kind}"), kind, &[(backend, upstream)]));
    }
    setup
}

/// The least that an endpoint takes.
fn least(path: &str, model: &str) -> Value {
    let messages = json!([{"role": "user", "content": "hi"}]);
    match path {
        CHAT | COUNT => json!({"model": model, "messages": messages}),
        COMPLETIONS => json!({"model": model, "prompt": "hi"}),
        RESPONSES => json!({"model": model, "input": "hi"}),
        MESSAGES => json!({"model": model, "max_tokens": 64, "messages": messages}),
        EMBEDDINGS => json!({"model": model, "input": "hi"}),
        RERANK => json!({"model": model, "query": "q", "documents": ["a"]}),
        IMAGES => json!({"model": model, "prompt": "a dog"}),
        SPEECH => json!({"model": model, "input": "hi", "voice": "alloy"}),
        _ => panic!("no call: {path}"),
    }
}

/// An answer of a backend that a call of this path takes.
fn proper(path: &str) -> Behaviour {
    match path {
        RERANK => Behaviour::json(r#"{"id":"r","model":"x","results":[{"index":0,"relevance_score":0.5}]}"#),
        IMAGES => Behaviour::json(r#"{"created":1,"data":[{"b64_json":"iVBORw0KGgo="}]}"#),
        SPEECH => with_type(200, "audio/wav", "RIFF"),
        _ => Behaviour::default(),
    }
}

/// A status with a JSON body.
fn status(status: u16, body: impl Into<String>) -> Behaviour {
    with_type(status, "application/json", body)
}

fn with_type(status: u16, content_type: &str, body: impl Into<String>) -> Behaviour {
    with_headers(status, &[("content-type", content_type)], body)
}

fn with_headers(status: u16, more: &[(&str, &str)], body: impl Into<String>) -> Behaviour {
    let mut headers = HeaderMap::new();
    for (name, value) in more {
        headers.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    Behaviour::Status { status: StatusCode::from_u16(status).unwrap(), headers, body: body.into().into() }
}

/// An error in the form of most upstreams.
fn error(code: u16, message: &str) -> Behaviour {
    status(code, json!({"error": {"message": message, "type": "x", "param": null, "code": null}}).to_string())
}
