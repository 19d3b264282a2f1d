//! The rows of the catalog. One macro makes the array and the lookup of them, so that a code without
//! a row does not compile.

use dgx_gateway_filter::ErrorCode;

use super::{Entry, Kind};

macro_rules! rows {
    ($($code:ident: $status:literal $kind:ident $title:literal, $cause:literal, $remediation:literal, $param:expr;)*) => {
        /// Every row, in the order in which `GET /errors` lists them.
        pub const CATALOG: [Entry; 49] = [$(*entry(ErrorCode::$code),)*];

        /// The row of a code.
        #[must_use]
        pub const fn entry(code: ErrorCode) -> &'static Entry {
            match code {
                $(ErrorCode::$code => {
                    const ROW: Entry = Entry {
                        code: ErrorCode::$code,
                        status: $status,
                        kind: Kind::$kind,
                        title: $title,
                        cause: $cause,
                        remediation: $remediation,
                        typical_param: $param,
                    };
                    &ROW
                })*
            }
        }
    };
}

rows! {
    MissingAuthorization: 401 Authentication "Authorization header is missing",
        "no bearer sent",
        "send `Authorization: Bearer <token>`", Some("headers.authorization");
    InvalidAuthorization: 401 Authentication "Authorization is not valid",
        "unknown or expired secret, tenant not bound, user id not that of the personal token",
        "check secret, tenant and user header", Some("headers.authorization");
    Forbidden: 403 Permission "Permission is missing",
        "scope missing or client address not allowed",
        "ask the operator; the scope is in the log", None;
    RateLimitExceeded: 429 RateLimit "Rate limit reached",
        "bucket empty",
        "wait `Retry-After`", None;
    ModelQuotaExhausted: 429 RateLimit "Model quota used up",
        "tenant budget or upstream quota used up",
        "other model, or wait", Some("model");
    OpenrouterDailyQuotaExhausted: 429 RateLimit "Daily quota used up",
        "pinned tenant alias hit the day limit of its provider",
        "use `available_fallbacks`, or wait for 00:00 UTC", Some("model");
    BodyTooLarge: 413 InvalidRequest "Body too large",
        "over `MAX_BODY_BYTES` or `MAX_UPLOAD_BYTES`",
        "send less", None;
    InvalidJson: 400 InvalidRequest "Body is not valid JSON",
        "parse error or not an object",
        "see `/openapi.json`", None;
    MissingField: 400 InvalidRequest "Required field is missing",
        "field or header absent",
        "add `param`", Some("messages");
    InvalidField: 400 InvalidRequest "Field value is not valid",
        "type, range, enum; forbidden `user_id`",
        "correct `param`", Some("max_tokens");
    ModelNotInAllowlist: 400 InvalidRequest "Model is not available",
        "unknown slug, or not allowed for tenant or token",
        "use a slug of `/v1/models`", Some("model");
    MaxTokensBelowMinimum: 400 InvalidRequest "max_tokens too small",
        "upstream refused the floored value",
        "raise `max_tokens`", Some("max_tokens");
    ContextLengthExceeded: 400 InvalidRequest "Context length exceeded",
        "prompt does not fit the context window",
        "shorten the input", Some("messages");
    ImageUrlNotSupported: 400 InvalidRequest "Image URL not supported",
        "http or https image URL",
        "send a base64 data URI", Some("messages[0].content[1].image_url.url");
    ImageDecodeError: 400 InvalidRequest "Image cannot be decoded",
        "malformed data URI, wrong MIME type, bytes not the declared image",
        "send jpeg, png, webp or gif", Some("messages[0].content[1].image_url.url");
    ImageBase64Invalid: 400 InvalidRequest "Base64 of image is not valid",
        "payload is not standard base64",
        "encode without line breaks, with padding", Some("messages[0].content[1].image_url.url");
    ToolCallArgumentsInvalid: 400 InvalidRequest "Tool call arguments are not JSON",
        "`function.arguments` does not parse",
        "send a JSON string", Some("messages[1].tool_calls[0].function.arguments");
    EmbeddingInputTooLarge: 400 InvalidRequest "Embedding input too large",
        "over 256 elements or 8192 bytes in one",
        "split the input", Some("input[3]");
    UpstreamBadRequest: 400 InvalidRequest "Upstream refused the request",
        "upstream 400, 404 (files), 409, 413, 415, 422; that status is used",
        "correct the request", None;
    ToolNotAllowed: 403 Permission "Tool is not allowed",
        "excluded by tenant, scope or configuration",
        "choose a tool of `/v1/tools`", Some("name");
    ToolExecutionFailed: 422 InvalidRequest "Tool failed",
        "the tool reported an error",
        "see message", Some("arguments");
    TenantConfigKeyReadonly: 400 InvalidRequest "Key is read-only",
        "key of group A or B",
        "edit `tokens.yaml` and reload", Some("path.key");
    TenantConfigKeyUnknown: 400 InvalidRequest "Key is unknown",
        "no such key",
        "see `GET /v1/tenant/config`", Some("path.key");
    TenantConfigValueInvalid: 400 InvalidRequest "Value is not valid",
        "wrong type or range",
        "see the key table", Some("value");
    InvalidRange: 400 InvalidRequest "Time range is not valid",
        "`to` before `from`, or over 31 days",
        "shorten the range", Some("query.to");
    CallerDepthExceeded: 400 InvalidRequest "Nesting too deep",
        "self-call depth above 3",
        "flatten the agents", None;
    StorageLimitExceeded: 400 InvalidRequest "Storage limit reached",
        "memory bucket, image quota or RAG limit full",
        "delete entries", Some("text");
    Conflict: 409 InvalidRequest "Conflict",
        "id exists, key reused, session archived, or work in progress",
        "see message", None;
    MethodNotAllowed: 405 InvalidRequest "Method not allowed",
        "path exists, method does not",
        "see `Allow`", None;
    UnsupportedMediaType: 415 InvalidRequest "Media type not supported",
        "content type or encoding",
        "send JSON or multipart as documented", Some("headers.content-type");
    RouteNotFound: 404 NotFound "Route not found",
        "unknown path",
        "see `/openapi.json`", None;
    ConversationNotFound: 404 NotFound "Conversation not found",
        "unknown, deleted or of another user",
        "omit `conversation_id`, or list", Some("conversation_id");
    AgentNotFound: 404 NotFound "Agent not found",
        "unknown or not for this tenant",
        "`GET /a1/agents`", Some("path.name");
    SessionNotFound: 404 NotFound "Session not found",
        "unknown, deleted or of another user",
        "list sessions", Some("path.sid");
    RagIndexNotFound: 404 NotFound "Index not found",
        "unknown index",
        "list indices", Some("path.id");
    RagDocumentNotFound: 404 NotFound "Document not found",
        "unknown document",
        "list documents", Some("path.doc_id");
    MemoryNotFound: 404 NotFound "Memory entry not found",
        "unknown or of another user",
        "list memory", Some("path.id");
    SystemPromptNotFound: 404 NotFound "System prompt not found",
        "no prompt at this level or version",
        "list prompts", Some("path.level");
    ImageNotFound: 404 NotFound "Image not found",
        "unknown, expired or of another user",
        "list images", Some("path.id");
    ToolNotFound: 404 NotFound "Tool not found",
        "unknown name",
        "`GET /v1/tools`", Some("name");
    ModelNotFound: 404 NotFound "Model not found",
        "`GET /v1/models/{id}` of an unknown slug",
        "`GET /v1/models`", Some("path.id");
    UpstreamError: 502 Upstream "Upstream failed",
        "upstream 5xx or unusable answer",
        "retry later", None;
    UpstreamTimeout: 504 Upstream "Upstream timed out",
        "first byte or total time exceeded",
        "longer client timeout, smaller task", None;
    UpstreamUnavailable: 503 Upstream "Upstream not reachable",
        "no connection to any backend of the route",
        "check `/readyz`", None;
    ServiceOverloaded: 503 Upstream "Service overloaded",
        "queue deadline passed",
        "wait `Retry-After`", None;
    InternalError: 500 Internal "Internal error",
        "bug",
        "report the request id", None;
    StorageError: 500 Internal "Storage error",
        "database or file system failed",
        "operator: check owner and space of the data directory", None;
    ToolLoopMaxIterations: 200 Diagnostic "Tool iteration cap reached",
        "the loop reached its cap; the answer is a synthesis",
        "none needed", None;
    ToolLoopAntiLoopSynthesised: 200 Diagnostic "Repeated tool call stopped",
        "same call twice in a row; the answer is a synthesis",
        "none needed", None;
}
