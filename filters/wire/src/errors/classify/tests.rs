//! Refusals in the words of the upstreams.

use super::UpstreamRefusal::{ContextLength, MaxTokensTooSmall, Moderation, Other, UnknownModel, UnknownObject};
use super::*;

fn check(status: u16, expected: UpstreamRefusal, bodies: &[&str]) {
    for body in bodies {
        assert_eq!(classify(status, body.as_bytes()), expected, "{status} {body}");
    }
}

#[test]
fn a_prompt_that_does_not_fit() {
    check(
        400,
        ContextLength,
        &[
            r#"{"error":{"message":"Too long.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the messages, 100 in the completion).","type":"BadRequestError","code":400}}"#,
            r#"{"object":"error","message":"The decoder prompt (length 9000) is longer than the maximum model length of 8192.","code":400}"#,
            r#"{"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: too long","code":"400"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"}}"#,
            r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"prompt is too long\"}}"}}}"#,
            r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"Input is too long for requested model."}}}"#,
            r#"[{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}]"#,
            r#"{"error":"the input length exceeds the context length"}"#,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error"}}"#,
            r#"{"error":{"message":"Please reduce the length of the messages or completion.","type":"invalid_request_error"}}"#,
            r#"{"message":"too many tokens: total number of tokens in the prompt exceeds the limit"}"#,
            r#"{"code":"x","error":"This model's maximum prompt length is 131072 but the request contains 537812 tokens."}"#,
            r#"{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096","error_type":"validation"}"#,
            "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        ],
    );
    check(413, ContextLength, &[r#"{"error":{"message":"prompt is too long"}}"#]);
    check(422, ContextLength, &[r#"{"detail":"maximum context length is 10"}"#]);
}

#[test]
fn an_answer_that_may_not_be_that_short() {
    check(
        400,
        MaxTokensTooSmall,
        &[
            r#"{"error":{"message":"max_tokens must be at least 16","code":400}}"#,
            r#"{"error":{"message":"Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 1 instead.","param":"max_output_tokens","code":"integer_below_min_value"}}"#,
            r#"{"error":{"message":"Out of range.","param":"max_completion_tokens","code":"integer_below_min_value"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: Input should be greater than or equal to 1"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"`max_tokens` must be greater than `thinking.budget_tokens`."}}"#,
            r#"{"detail":[{"type":"greater_than","loc":["body","max_tokens"],"msg":"Input should be greater than 0","input":0}]}"#,
        ],
    );
}

#[test]
fn content_that_was_refused() {
    check(
        403,
        Moderation,
        &[
            r#"{"error":{"code":403,"message":"openai/gpt-4o requires moderation on OpenAI. Your input was flagged for \"violence\".","metadata":{"reasons":["violence"],"flagged_input":"..."}}}"#,
            r#"{"error":{"message":"no","code":"content_policy_violation"}}"#,
        ],
    );
    check(
        400,
        Moderation,
        &[
            r#"{"error":{"message":"The response was filtered due to the prompt triggering our content management policy.","code":"content_filter","status":400}}"#,
            r#"{"error":{"message":"Filtered","code":null,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            r#"{"error":{"message":"Your request was rejected as a result of our safety system.","code":"moderation_blocked"}}"#,
        ],
    );
}

#[test]
fn a_404_on_a_model_or_on_an_object() {
    check(
        404,
        UnknownModel,
        &[
            r#"{"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.","code":"model_not_found"}}"#,
            r#"{"error":"model 'x' not found, try pulling it first"}"#,
            r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#,
            r#"{"error":{"message":"No endpoints found for acme/x.","code":404}}"#,
            r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"}}"#,
        ],
    );
    check(
        404,
        UnknownObject,
        &[
            r#"{"error":{"message":"No such File object: file-abc","type":"invalid_request_error","param":"id"}}"#,
            r#"{"error":{"message":"Previous response with id 'resp_1' not found.","code":"previous_response_not_found"}}"#,
            r#"{"error":{"message":"Item with id 'rs_1' not found.","type":"invalid_request_error"}}"#,
        ],
    );
    check(404, Other, &[r#"{"detail":"Not Found"}"#, "404 page not found", ""]);
}

#[test]
fn anything_else() {
    check(
        400,
        Other,
        &[
            "",
            "{}",
            "null",
            r#"{"error":{"message":"Invalid schema for function 'f'"}}"#,
            r#"{"error":{"message":"temperature must be at least 0"}}"#,
            r#"{"error":{"message":"max_tokens is too large: 999999."}}"#,
            // The words of the prompt are not those of the upstream.
            r#"{"detail":[{"type":"missing","loc":["body","messages",0,"role"],"msg":"Field required","input":{"content":"maximum context length"}}]}"#,
        ],
    );
    let context = r#"{"error":{"code":"context_length_exceeded","message":"prompt is too long"}}"#;
    for status in [200, 401, 402, 403, 408, 429, 500, 503] {
        check(status, Other, &[context]);
    }
}
