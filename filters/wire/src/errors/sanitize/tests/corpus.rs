//! Error bodies in the shapes of the upstreams, each with a part that a client has to be able to read.

/// What no message may contain, in lower case.
pub(super) const HIDDEN: [&str; 20] = [
    "://",
    "/root",
    "sk-",
    "gsk_",
    "hf_",
    "nvapi-",
    "aiza",
    "bearer",
    "10.0.",
    "192.168.",
    "172.17.",
    "2001:db8",
    "fe80",
    ".com",
    ".internal",
    ".lab",
    "gpu-a",
    "localhost",
    "cloud-2",
    "0123456789abcdef",
];

/// Body, and what stays of it.
pub(super) const BODIES: [(&str, &str); 25] = [
    // vLLM
    (
        r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.","type":"BadRequestError","param":null,"code":400}}"#,
        "maximum context length is 4096 tokens",
    ),
    (
        r#"{"object":"error","message":"The model `meta-llama/Llama-4-Scout` does not exist on gpu-a:8000.","type":"NotFoundError","param":null,"code":404}"#,
        "The model `llama-4-scout` does not exist on [host].",
    ),
    (
        r#"{"detail":[{"loc":["body","max_tokens"],"msg":"Input should be greater than 0","ctx":{"host":"10.0.3.4"}}]}"#,
        "Input should be greater than 0",
    ),
    (
        r#"{"error":{"message":"OSError: /root/.cache/huggingface/hub/models--meta-llama does not appear to have a file named config.json.","code":400}}"#,
        "[path] does not appear to have a file named config.json.",
    ),
    // LiteLLM
    (
        r#"{"error":{"message":"litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key provided: sk-proj-********************wxyz. You can find your API key at https://platform.openai.com/account/api-keys.","type":"None","param":"None","code":"401"}}"#,
        "Incorrect API key provided: [secret].",
    ),
    (
        r#"{"error":{"message":"litellm.APIConnectionError: Cannot connect to host llm.lab:8000 ssl:default [Connect call failed ('192.168.1.20', 8000)]","type":null}}"#,
        "Cannot connect to host [host]",
    ),
    (
        r#"{"error":{"message":"No deployments available for selected model, cooldown_list=[('0123456789abcdef0123456789abcdef', {'api_base': 'http://10.0.0.7:8000/v1'})]","code":"429"}}"#,
        "No deployments available",
    ),
    // OpenAI
    (
        r#"{"error":{"message":"Incorrect API key provided: sk-abcdefghijklmnopqrst. Contact us at help.openai.com.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
        "Incorrect API key provided: [secret].",
    ),
    (
        r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-0123456789abcdefABCDEFGHIJKLMNOP on tokens per min.","type":"tokens","code":"rate_limit_exceeded"}}"#,
        "Rate limit reached for gpt-4o",
    ),
    // Anthropic
    (
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"},"request_id":"req_0123456789abcdef01234567"}"#,
        "prompt is too long: 210000 tokens > 200000 maximum",
    ),
    (
        r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key, see https://docs.anthropic.com"}}"#,
        "invalid x-api-key, see [url]",
    ),
    // OpenRouter
    (
        r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"bad host gpu-a\"}}","provider_name":"OpenAI"}}}"#,
        "Provider returned error",
    ),
    (
        r#"{"error":{"message":"This request requires more credits. To increase, visit https://openrouter.ai/settings/credits and add credits","code":402}}"#,
        "visit [url] and add credits",
    ),
    // Ollama
    (
        r#"{"error":"model 'meta-llama/Llama-4-Scout' not found, try pulling it first"}"#,
        "model 'llama-4-scout' not found",
    ),
    (
        r#"{"error":{"message":"dial tcp [2001:db8::7]:11434: connect: connection refused (localhost:11434)","type":"api_error"}}"#,
        "dial tcp [address]: connect: connection refused",
    ),
    // Azure
    (
        r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment at https://my-east-us.openai.azure.com/ does not exist."}}"#,
        "The API deployment at [url] does not exist.",
    ),
    (
        r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","code":"content_filter","status":400}}"#,
        "triggering upstream upstream's content management policy.",
    ),
    // Gemini
    (
        r#"[{"error":{"code":400,"message":"API key not valid: AIzaSyA0123456789abcdef. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"domain":"googleapis.com"}]}}]"#,
        "API key not valid: [secret].",
    ),
    (
        r#"{"error":{"code":400,"message":"Invalid value at 'tools.0.function.name' for generativelanguage.googleapis.com","status":"INVALID_ARGUMENT"}}"#,
        "Invalid value at 'tools.0.function.name' for [host]",
    ),
    // Groq, Hugging Face, NVIDIA
    (
        r#"{"error":{"message":"Invalid API Key gsk_abcdefgh12345678","type":"invalid_request_error","code":"invalid_api_key"}}"#,
        "Invalid API Key [secret]",
    ),
    (
        r#"{"error":"Authorization header is correct, but the token hf_AbCdEfGhIjKl seems invalid","error_type":"auth"}"#,
        "the token [secret] seems invalid",
    ),
    (
        r#"{"status":403,"title":"Forbidden","detail":"Account 'nvapi-AbCd-1234_efgh' on integrate.api.nvidia.com: no access"}"#,
        "on [host]: no access",
    ),
    // Proxies and crashes
    (
        "<html><head><title>502 Bad Gateway</title></head><body><center>nginx at gpu-a.internal (172.17.0.2)</center></body></html>",
        "<title>502 Bad Gateway</title>",
    ),
    (
        "upstream connect error or disconnect/reset before headers. remote address: fe80::1%eth0, header 'authorization: Bearer abc123'",
        "remote address: [address], header",
    ),
    (
        r#"{"detail":"requests.exceptions.ConnectionError: HTTPConnectionPool(host='gpu-a', port=8000): Max retries exceeded for cloud-2"}"#,
        "Max retries exceeded for upstream",
    ),
];
