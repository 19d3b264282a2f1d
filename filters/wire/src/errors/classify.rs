//! What an upstream refusal means, told from its status and body.
//!
//! Upstreams agree on few codes, so the usual messages are recognised as well. Texts that repeat the
//! request are not looked at: a prompt that speaks of a context window is no refusal.

use super::upstream_text::Statement;

/// The meaning of a 4xx answer, as far as it changes what the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamRefusal {
    /// The prompt, or prompt and answer together, do not fit the context window.
    ContextLength,
    /// The model demands a larger `max_tokens`.
    MaxTokensTooSmall,
    /// The content was refused.
    Moderation,
    /// A 404: the upstream does not serve this model.
    UnknownModel,
    /// A 404: a file, response or similar object of the request does not exist.
    UnknownObject,
    /// Anything else, a 404 on the path included.
    Other,
}

/// Tells what a refusal means. Statuses outside of 400 to 499 are [`UpstreamRefusal::Other`].
#[must_use]
pub fn classify(status: u16, body: &[u8]) -> UpstreamRefusal {
    if !(400..500).contains(&status) || matches!(status, 401 | 402 | 408 | 429) {
        return UpstreamRefusal::Other;
    }
    let statement = Statement::of(body);
    match status {
        404 if names_an_object(&statement) => UpstreamRefusal::UnknownObject,
        404 if names_a_model(&statement) => UpstreamRefusal::UnknownModel,
        404 => UpstreamRefusal::Other,
        _ if is_moderation(&statement) => UpstreamRefusal::Moderation,
        403 => UpstreamRefusal::Other,
        _ if is_context_length(&statement) => UpstreamRefusal::ContextLength,
        _ if is_max_tokens_too_small(&statement) => UpstreamRefusal::MaxTokensTooSmall,
        _ => UpstreamRefusal::Other,
    }
}

fn is_context_length(statement: &Statement) -> bool {
    const CODES: [&str; 5] = [
        "context_length_exceeded",
        "context_window_exceeded",
        "contextwindowexceedederror",
        "exceed_context_size_error",
        "model_context_window_exceeded",
    ];
    const PHRASES: [&str; 18] = [
        "maximum context length",
        "model's context length",
        "exceeds the context length",
        "exceeds context length",
        "context_length_exceeded",
        "contextwindowexceedederror",
        "context window exceed",
        "exceeds the context window",
        "exceed context limit",
        "exceeds the available context size",
        "maximum model length",
        "maximum prompt length",
        "exceeds the maximum number of tokens allowed",
        "prompt is too long",
        "prompt too long",
        "input is too long",
        "reduce the length of the",
        "too many tokens:",
    ];
    has_one(statement, &CODES, &PHRASES) || is_token_sum(&statement.text)
}

/// A sum of `inputs` and `max_new_tokens` above the limit, as text-generation-inference says it.
fn is_token_sum(text: &str) -> bool {
    text.contains("tokens + `max_new_tokens`") || text.contains("tokens + max_new_tokens")
}

fn is_max_tokens_too_small(statement: &Statement) -> bool {
    const NAMES: [&str; 4] = ["max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens"];
    const BOUNDS: [&str; 11] = [
        "at least",
        "below minimum",
        "below the minimum",
        "greater than",
        "minimum value",
        "must be positive",
        "must be strictly positive",
        ">=",
        "too low",
        "too small",
        "not enough",
    ];
    if statement.has_code("max_tokens_below_minimum") {
        return true;
    }
    let named = has_phrase(&statement.text, &NAMES);
    named && (statement.has_code("integer_below_min_value") || has_phrase(&statement.text, &BOUNDS))
}

fn is_moderation(statement: &Statement) -> bool {
    const CODES: [&str; 6] = [
        "content_filter",
        "content_policy_violation",
        "contentpolicyviolationerror",
        "moderation_blocked",
        "responsibleaipolicyviolation",
        "content_filtered",
    ];
    const PHRASES: [&str; 8] = [
        "content management policy",
        "content policy violation",
        "flagged by",
        "input was flagged",
        "requires moderation",
        "safety system",
        "usage guidelines",
        "violates our usage policies",
    ];
    has_one(statement, &CODES, &PHRASES)
}

fn names_a_model(statement: &Statement) -> bool {
    const CODES: [&str; 3] = ["model_not_found", "deploymentnotfound", "model_not_available"];
    const PHRASES: [&str; 4] = ["model", "deployment", "no endpoints found", "no allowed providers"];
    has_one(statement, &CODES, &PHRASES)
}

fn names_an_object(statement: &Statement) -> bool {
    const CODES: [&str; 2] = ["previous_response_not_found", "file_not_found"];
    const PHRASES: [&str; 13] = [
        "no such file",
        "no file found",
        "file not found",
        "file file-",
        "file with id",
        "response not found",
        "file id",
        "no such response",
        "response with id",
        "previous response",
        "item with id",
        "container with id",
        "conversation with id",
    ];
    has_one(statement, &CODES, &PHRASES)
}

fn has_one(statement: &Statement, codes: &[&str], phrases: &[&str]) -> bool {
    codes.iter().any(|code| statement.has_code(code)) || has_phrase(&statement.text, phrases)
}

fn has_phrase(text: &str, phrases: &[&str]) -> bool {
    phrases.iter().any(|phrase| text.contains(phrase))
}

#[cfg(test)]
mod tests;
