//! What the prefixes of LiteLLM's model names mean here. Addresses and variables are those that LiteLLM uses when a
//! deployment names none.

/// A provider that can be called here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Provider {
    /// Its prefix.
    pub(crate) name: &'static str,
    /// The kind of backend.
    pub(crate) kind: &'static str,
    /// Where it is; empty: a deployment has to say so.
    pub(crate) base_url: &'static str,
    /// The variable with its key; empty: it needs none.
    pub(crate) key: &'static str,
}

const fn provider(name: &'static str, kind: &'static str, base_url: &'static str, key: &'static str) -> Provider {
    Provider { name, kind, base_url, key }
}

const PROVIDERS: [Provider; 36] = [
    provider("anthropic", "anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    provider("azure", "openai", "", "AZURE_API_KEY"),
    provider("cerebras", "openai", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    provider("cohere", "openai", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    provider("cohere_chat", "openai", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    provider("custom_openai", "openai", "", ""),
    provider("dashscope", "openai", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    provider("deepinfra", "openai", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    provider("deepseek", "openai", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    provider("fireworks_ai", "openai", "https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    provider("gemini", "openai", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    provider("groq", "openai", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    provider("hosted_vllm", "vllm", "", ""),
    provider("hyperbolic", "openai", "https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    provider("jina_ai", "openai", "https://api.jina.ai/v1", "JINA_AI_API_KEY"),
    provider("litellm_proxy", "litellm", "", ""),
    provider("llamafile", "openai", "http://127.0.0.1:8080/v1", ""),
    provider("lm_studio", "openai", "", ""),
    provider("meta_llama", "openai", "https://api.llama.com/compat/v1", "LLAMA_API_KEY"),
    provider("mistral", "openai", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    provider("moonshot", "openai", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    provider("nebius", "openai", "https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
    provider("novita", "openai", "https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    provider("nvidia_nim", "nvidia", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    provider("ollama", "ollama", "http://localhost:11434/v1", ""),
    provider("ollama_chat", "ollama", "http://localhost:11434/v1", ""),
    provider("openai", "openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    provider("openai_like", "openai", "", ""),
    provider("openrouter", "openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    provider("perplexity", "openai", "https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    provider("sambanova", "openai", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    provider("text-completion-openai", "openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    provider("together_ai", "openai", "https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    provider("vllm", "vllm", "", ""),
    provider("voyage", "openai", "https://api.voyageai.com/v1", "VOYAGE_API_KEY"),
    provider("xai", "openai", "https://api.x.ai/v1", "XAI_API_KEY"),
];

/// Providers that LiteLLM translates for and whose own APIs are not spoken here.
const OTHERS: [&str; 27] = [
    "ai21",
    "aleph_alpha",
    "assemblyai",
    "aws_polly",
    "azure_ai",
    "azure_text",
    "baseten",
    "bedrock",
    "bedrock_converse",
    "bytez",
    "cloudflare",
    "databricks",
    "deepgram",
    "elevenlabs",
    "github_copilot",
    "huggingface",
    "nlp_cloud",
    "oci",
    "petals",
    "predibase",
    "replicate",
    "sagemaker",
    "sagemaker_chat",
    "triton",
    "vertex_ai",
    "vertex_ai_beta",
    "watsonx",
];

/// What a model name says about where it is served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// By this provider, under this name there.
    At(&'static Provider, &'a str),
    /// By one that is not spoken to here.
    NotSpoken(&'static str),
    /// By nobody that is known.
    Unknown(&'a str),
}

/// Beginnings of names that LiteLLM knows without a prefix.
const BARE: [(&str, &str); 12] = [
    ("chatgpt-", "openai"),
    ("claude-", "anthropic"),
    ("dall-e-", "openai"),
    ("davinci-", "openai"),
    ("gpt-", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("omni-moderation", "openai"),
    ("text-embedding-", "openai"),
    ("tts-", "openai"),
    ("whisper-", "openai"),
];

/// Takes a name apart. `provider` is what the deployment says beside it, `custom_llm_provider`.
pub(crate) fn named<'a>(model: &'a str, provider: Option<&'a str>) -> Named<'a> {
    if let Some(prefix) = provider {
        return with_prefix(
            prefix,
            model.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).unwrap_or(model),
        );
    }
    if let Some((prefix, name)) = model.split_once('/') {
        return with_prefix(prefix, name);
    }
    match BARE.iter().find(|(beginning, _)| model.starts_with(beginning)) {
        Some((_, provider)) => with_prefix(provider, model),
        None => Named::Unknown(model),
    }
}

fn with_prefix<'a>(prefix: &'a str, name: &'a str) -> Named<'a> {
    if let Some(provider) = PROVIDERS.iter().find(|provider| provider.name == prefix) {
        return Named::At(provider, name);
    }
    match OTHERS.iter().find(|other| **other == prefix) {
        Some(other) => Named::NotSpoken(other),
        None => Named::Unknown(prefix),
    }
}
