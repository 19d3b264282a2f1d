//! Whole answers: chat, completions, embeddings.

use bytes::Bytes;
use dgx_gateway_filter::facts::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chunk::name_edit;
use super::dialects::error_edit;
use super::members::Members;
use super::usage::{Reported, seconds};

/// Members of which an answer has at least one that is not empty.
const ANSWERS: [&str; 8] = ["choices", "content", "data", "embedding", "embeddings", "output", "results", "text"];

/// The one member of a count of tokens.
const COUNT: &str = "input_tokens";

/// An answer as the client may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewrittenBody {
    /// The answer.
    pub body: Bytes,
    /// Tokens, if the upstream reports them.
    pub usage: Option<Usage>,
    /// What the call cost, as the upstream reports it, in US dollars as plain decimal text.
    pub cost_usd: Option<String>,
    /// Seconds of audio, if the upstream reports them, as plain decimal text.
    pub seconds: Option<String>,
}

/// A successful status came with something that is no answer. The upstream is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is no answer")]
pub struct NotAnAnswer {
    /// The status that the body itself names, from 400 to 599.
    pub status: Option<u16>,
}

/// Makes `model` the model of the answer and removes a top-level `provider`. All other bytes stay.
///
/// One pass over the body, and one more over what is small: the elements of an array are not looked at.
///
/// # Errors
///
/// [`NotAnAnswer`] when the body is not a JSON object, reports an error in place of an answer, or has no answer.
pub fn rewrite_body(body: &[u8], model: &str) -> Result<RewrittenBody, NotAnAnswer> {
    let members = Members::parse(body).ok_or(NotAnAnswer { status: None })?;
    if let Some(status) = error_in_place_of_answer(&members) {
        return Err(NotAnAnswer { status });
    }
    // words of an upstream about itself, most of the time
    if ANSWERS.iter().chain([&COUNT]).all(|name| members.value(name).is_none()) {
        return Err(NotAnAnswer { status: None });
    }
    let Reported { usage, cost_usd, seconds: reported } = Reported::read(members.value("usage"));
    // a transcript that is told in detail says how long the recording is
    let seconds = reported.or_else(|| members.value("duration").and_then(seconds));
    let edited = members.edited(|member| match &*member.name {
        "error" if is_response(&members) => error_edit(member),
        _ => name_edit(member, model),
    });
    let body = edited.map_or_else(|| Bytes::copy_from_slice(body), Bytes::from);
    Ok(RewrittenBody { body, usage, cost_usd, seconds })
}

/// The status of the error that stands where an answer should; `None` when there is no error.
fn error_in_place_of_answer(members: &Members<'_>) -> Option<Option<u16>> {
    let is_error_object = members.value("object").is_some_and(|object| object.get() == r#""error""#);
    let error = members.value("error");
    if error.is_none() && !is_error_object || ANSWERS.iter().any(|name| members.value(name).is_some_and(has_content)) {
        return None;
    }
    let inner: Option<Status<'_>> = error.and_then(|error| serde_json::from_str(error.get()).ok());
    let outer = || Status { code: members.value("code"), status: members.value("status") };
    Some(inner.unwrap_or_else(outer).number())
}

/// Whether it is an answer of `/v1/responses`, which may say why it is not complete.
fn is_response(members: &Members<'_>) -> bool {
    members.value("object").is_some_and(|object| object.get() == r#""response""#)
}

fn has_content(value: &RawValue) -> bool {
    !matches!(value.get(), "[]" | "{}" | "\"\"")
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    status: Option<&'a RawValue>,
}

impl Status<'_> {
    fn number(&self) -> Option<u16> {
        let numbers = [self.code, self.status].into_iter().flatten().filter_map(|value| value.get().parse().ok());
        numbers.into_iter().find(|number| (400..=599).contains(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(body: &str) -> RewrittenBody {
        rewrite_body(body.as_bytes(), "my-model").unwrap()
    }

    #[test]
    fn a_chat_answer_names_the_slug() {
        let answer = rewritten(
            r#"{"id":"gen-1", "provider":"P", "model":"up/x","choices":[{"message":{"content":"a","model":"k"}}],"usage":{"prompt_tokens":12,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3},"cost":1e-3}}"#,
        );
        assert_eq!(
            answer.body,
            r#"{"id":"gen-1", "model":"my-model","choices":[{"message":{"content":"a","model":"k"}}],"usage":{"prompt_tokens":12,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3},"cost":1e-3}}"#
        );
        assert_eq!(
            answer.usage,
            Some(Usage { prompt_tokens: 12, completion_tokens: 2, cached_tokens: 3, ..Usage::default() })
        );
        assert_eq!(answer.cost_usd.as_deref(), Some("0.001"));
    }

    #[test]
    fn an_answer_that_is_right_keeps_every_byte() {
        for body in [r#" {"model":"my-model" ,"choices":[ ]} "#, r#"{"input_tokens":7}"#, r#"{"text":"spoken"}"#] {
            assert_eq!(rewritten(body).body, body);
        }
    }

    #[test]
    fn megabytes_of_numbers_pass_unread() {
        let numbers = vec!["-0.012345678"; 300_000].join(",");
        let body = format!(
            r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":[{numbers}]}}],"model":"m","usage":{{"prompt_tokens":4,"total_tokens":4}}}}"#
        );
        let answer = rewritten(&body);
        assert_eq!(answer.body, body.replace("\"m\"", "\"my-model\""));
        assert_eq!(answer.usage, Some(Usage { prompt_tokens: 4, ..Usage::default() }));
    }

    #[test]
    fn an_error_is_no_answer() {
        for (body, status) in [
            ("", None),
            ("<html>", None),
            ("[]", None),
            (r#"{"choices":[}"#, None),
            (r#"{"error":{"code":429,"message":"x"}}"#, Some(429)),
            (r#"{"error":{"code":"rate_limit","status":503}}"#, Some(503)),
            (r#"{"error":{"code":200,"status":"UNAVAILABLE"},"choices":[]}"#, None),
            (r#"{"error":{"code":600}}"#, None),
            (r#"{"error":{"code":400.0}}"#, None),
            (r#"{"error":"x","choices":null}"#, None),
            (r#"{"object":"error","message":"x","code":404}"#, Some(404)),
            ("{}", None),
            (r#"{"detail":"x at host.internal"}"#, None),
            (r#"{"error":null}"#, None),
        ] {
            assert_eq!(rewrite_body(body.as_bytes(), "m"), Err(NotAnAnswer { status }), "{body}");
        }
    }

    #[test]
    fn a_response_that_failed_half_way_does_not_tell_why() {
        let answer = rewritten(
            r#"{"object":"response","status":"failed","error":{"code":"x","message":"at host.internal"},"model":"up","output":[{"type":"message"}]}"#,
        );
        assert_eq!(
            answer.body,
            r#"{"object":"response","status":"failed","error":{"code":"server_error","message":"The upstream failed."},"model":"my-model","output":[{"type":"message"}]}"#
        );
        let whole = r#"{"object":"response","error":null,"model":"my-model","output":[{}]}"#;
        assert_eq!(rewritten(whole).body, whole);
    }

    #[test]
    fn an_answer_may_mention_an_error() {
        for body in [
            r#"{"error":null,"choices":[]}"#,
            r#"{"error":{"code":500},"choices":[{}]}"#,
            r#"{"error":"x","data":[1]}"#,
        ] {
            assert_eq!(rewritten(body).body, body);
        }
    }
}
