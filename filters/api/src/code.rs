//! The closed set of error codes. Their status, texts and anchors stand in one table in `wire`.

macro_rules! codes {
    ($($variant:ident = $name:literal,)*) => {
        /// A stable word for one way a request can end. Never reused, never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "each variant is described by its row of the catalog")]
        pub enum ErrorCode { $($variant,)* }

        impl ErrorCode {
            /// Every code, in the order of the catalog.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that clients, metrics and documents use.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

codes! {
    MissingAuthorization = "missing_authorization",
    InvalidAuthorization = "invalid_authorization",
    Forbidden = "forbidden",
    RateLimitExceeded = "rate_limit_exceeded",
    ModelQuotaExhausted = "model_quota_exhausted",
    OpenrouterDailyQuotaExhausted = "openrouter_daily_quota_exhausted",
    BodyTooLarge = "body_too_large",
    InvalidJson = "invalid_json",
    MissingField = "missing_field",
    InvalidField = "invalid_field",
    ModelNotInAllowlist = "model_not_in_allowlist",
    MaxTokensBelowMinimum = "max_tokens_below_minimum",
    ContextLengthExceeded = "context_length_exceeded",
    ImageUrlNotSupported = "image_url_not_supported",
    ImageDecodeError = "image_decode_error",
    ImageBase64Invalid = "image_base64_invalid",
    ToolCallArgumentsInvalid = "tool_call_arguments_invalid",
    EmbeddingInputTooLarge = "embedding_input_too_large",
    UpstreamBadRequest = "upstream_bad_request",
    ToolNotAllowed = "tool_not_allowed",
    ToolExecutionFailed = "tool_execution_failed",
    TenantConfigKeyReadonly = "tenant_config_key_readonly",
    TenantConfigKeyUnknown = "tenant_config_key_unknown",
    TenantConfigValueInvalid = "tenant_config_value_invalid",
    InvalidRange = "invalid_range",
    CallerDepthExceeded = "caller_depth_exceeded",
    StorageLimitExceeded = "storage_limit_exceeded",
    Conflict = "conflict",
    MethodNotAllowed = "method_not_allowed",
    UnsupportedMediaType = "unsupported_media_type",
    RouteNotFound = "route_not_found",
    ConversationNotFound = "conversation_not_found",
    AgentNotFound = "agent_not_found",
    SessionNotFound = "session_not_found",
    RagIndexNotFound = "rag_index_not_found",
    RagDocumentNotFound = "rag_document_not_found",
    MemoryNotFound = "memory_not_found",
    SystemPromptNotFound = "system_prompt_not_found",
    ImageNotFound = "image_not_found",
    ToolNotFound = "tool_not_found",
    ModelNotFound = "model_not_found",
    UpstreamError = "upstream_error",
    UpstreamTimeout = "upstream_timeout",
    UpstreamUnavailable = "upstream_unavailable",
    ServiceOverloaded = "service_overloaded",
    InternalError = "internal_error",
    StorageError = "storage_error",
    ToolLoopMaxIterations = "tool_loop_max_iterations",
    ToolLoopAntiLoopSynthesised = "tool_loop_anti_loop_synthesised",
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
