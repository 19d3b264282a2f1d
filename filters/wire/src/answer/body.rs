//! Whole answers: chat, completions, embeddings.

use bytes::Bytes;
use dgx_gateway_filter::facts::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chunk::model_edit;
use super::members::{Edit, Members};
use super::usage::Reported;

/// Members of which an answer has at least one that is not empty.
const ANSWERS: [&str; 8] = ["choices", "content", "data", "embedding", "embeddings", "output", "results", "text"];

/// An answer as the client may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewrittenBody {
    /// The answer.
    pub body: Bytes,
    /// Tokens, if the upstream reports them.
    pub usage: Option<Usage>,
    /// What the call cost, as the upstream reports it, in US dollars as plain decimal text.
    pub cost_usd: Option<String>,
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
/// [`NotAnAnswer`] when the body is not a JSON object, or reports an error in place of an answer.
pub fn rewrite_body(body: &[u8], model: &str) -> Result<RewrittenBody, NotAnAnswer> {
    let members = Members::parse(body).ok_or(NotAnAnswer { status: None })?;
    if let Some(status) = error_in_place_of_answer(&members) {
        return Err(NotAnAnswer { status });
    }
    let Reported { usage, cost_usd } = Reported::read(members.value("usage"));
    let edited = members.edited(|member| match &*member.name {
        "model" => model_edit(member.value.get(), model),
        "provider" => Edit::Remove,
        _ => Edit::Keep,
    });
    let body = edited.map_or_else(|| Bytes::copy_from_slice(body), Bytes::from);
    Ok(RewrittenBody { body, usage, cost_usd })
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
