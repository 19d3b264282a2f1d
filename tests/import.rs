//! `dgx-gateway import litellm …` as an operator meets it: what it prints loads, says what is lost, and holds no secret.

#![expect(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_yaml::Value;

/// Stands in every secret of the files.
const CANARY: &str = "canary";

fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).current_dir(folder);
    command.output().unwrap()
}

/// What was printed, and what was said beside it.
struct Printed {
    text: String,
    notes: String,
    backends: Value,
    models: Value,
}

/// Imports a file of this folder, and loads what is printed.
fn imported(name: &str, variables: &[(&str, &str)]) -> Printed {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(name);
    let folder = tempfile::tempdir().unwrap();
    let print = |more: &[&str]| {
        let arguments = [&["import", "litellm", file.to_str().unwrap()], more].concat();
        let output = run(folder.path(), &arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (text, notes) = print(&[]);
    assert!(!text.contains(CANARY) && !notes.contains(CANARY), "a secret is printed: {text}{notes}");
    for note in notes.lines() {
        assert!(text.contains(note), "the comments lack: {note}");
    }
    fs::create_dir(folder.path().join("conf")).unwrap();
    let (backends, models) = text.split_once("\n---\n").unwrap();
    fs::write(folder.path().join("conf/gateway.yaml"), backends).unwrap();
    fs::write(folder.path().join("conf/models.yaml"), models).unwrap();
    loads(folder.path(), variables, &text);
    // part by part it is the same, and the prices can be used
    for (part, name) in [("backends", "gateway"), ("models", "models"), ("pricing", "pricing")] {
        fs::write(folder.path().join(format!("conf/{name}.yaml")), print(&["--part", part]).0).unwrap();
    }
    loads(folder.path(), variables, &text);
    let value = |text: &str| serde_yaml::from_str(text).unwrap();
    Printed { backends: value(backends), models: value(models), text, notes }
}

fn loads(folder: &Path, variables: &[(&str, &str)], text: &str) {
    let checked = run(folder, &["check"], variables);
    assert_eq!(checked.status.code(), Some(0), "{}\n{text}", String::from_utf8_lossy(&checked.stderr));
}

impl Printed {
    fn backend(&self, id: &str) -> &Value {
        let mut backends = self.backends["backends"].as_sequence().unwrap().iter();
        backends.find(|backend| backend["id"] == id).unwrap_or_else(|| panic!("no backend {id}: {}", self.text))
    }

    fn model(&self, alias: &str) -> &Value {
        let mut models = self.models["models"].as_sequence().unwrap().iter();
        models.find(|model| model["alias"] == alias).unwrap_or_else(|| panic!("no model {alias}: {}", self.text))
    }

    /// The steps of a route as `backend=model@group`, or an alias.
    fn route(&self, alias: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let step = |step: &Value| match (step.get("alias"), step.get("group").and_then(Value::as_u64)) {
            (Some(alias), _) => text(alias),
            (None, Some(group)) => format!("{}={}@{group}", text(&step["backend"]), text(&step["model"])),
            (None, None) => format!("{}={}", text(&step["backend"]), text(&step["model"])),
        };
        self.model(alias)["route"].as_sequence().unwrap().iter().map(step).collect()
    }

    fn says(&self, note: &str) {
        assert!(self.notes.contains(note), "it does not say {note:?}: {}", self.notes);
    }
}

#[test]
fn a_file_with_load_balancing_and_fallbacks_is_carried_over() {
    let keys = ["AZURE_API_KEY_EU", "AZURE_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"].map(|name| (name, "k"));
    let printed = imported("load-balanced.yaml", &keys);
    assert_eq!(printed.route("gpt-4o"), ["azure=gpt-4o-eu@1", "azure-2=gpt-4o-ca@1", "openai=gpt-4o", "claude"]);
    let claude = ["anthropic-chat=claude-3-5-sonnet-20241022@1", "anthropic=claude-3-5-sonnet-20241022@1"];
    // it falls back to a model that falls back to it, so to that one's own deployments
    let own = ["azure=gpt-4o-eu", "azure-2=gpt-4o-ca", "openai=gpt-4o"];
    assert_eq!(printed.route("claude"), [&claude[..], &own[..]].concat());
    assert_eq!(printed.backend("azure")["base_url"], "https://my-endpoint-europe.openai.azure.com/openai/v1");
    assert_eq!(printed.backend("azure")["api_key"], "${AZURE_API_KEY_EU}");
    assert_eq!(printed.backend("azure-2")["api_key"], "${AZURE_API_KEY}");
    let openai = printed.backend("openai");
    assert_eq!((&openai["domain"], &openai["max_in_flight"]), (&Value::from("cloud"), &Value::from(20)));
    assert_eq!(openai["first_byte_timeout_seconds"], 61);
    assert_eq!(printed.models["pins"]["gpt-4"]["target"], "gpt-4o");
    assert_eq!(printed.models["pins"]["hidden-name"]["target"], "claude");
    assert!(
        printed.text.contains("#   - {backend: openai, model: gpt-4o, input: \"2.5\", output: \"10\"}"),
        "{}",
        printed.text
    );
    for note in [
        "model_list[0]: not carried over: litellm_params.api_version, litellm_params.rpm",
        "model_list[1]: its api_key is not printed; set the variable AZURE_API_KEY to it",
        "model_list[1]: not carried over: litellm_params.rpm, litellm_params.weight",
        "model_list[2]: not carried over: litellm_params.timeout, model_info.id",
        "model_list[4]: the API of bedrock is not spoken here",
        "model_list[5]: names with *",
        "litellm_settings.drop_params: not carried over",
        "litellm_settings.context_window_fallbacks: not carried over",
        "litellm_settings.fallbacks: claude to unknown is left out",
        "litellm_settings.success_callback: not carried over",
        "router_settings.routing_strategy: not carried over",
        "router_settings.redis_password: not carried over; see limits.store",
        "general_settings.master_key: not carried over; tokens are made with `dgx-gateway token new`",
        "general_settings.database_url: not carried over",
        "environment_variables.LANGFUSE_SECRET_KEY: not carried over",
    ] {
        printed.says(note);
    }
}

#[test]
fn servers_of_ones_own_are_local_and_speak_what_their_models_need() {
    let variables = [
        ("HOSTED_VLLM_API_KEY", "k"),
        ("OPENAI_API_KEY", "k"),
        ("JINA_AI_API_KEY", "k"),
        ("LITELLM_PROXY_API_KEY", "k"),
        ("OLLAMA_BASE", "http://127.0.0.1:11434"),
    ];
    let printed = imported("local.yaml", &variables);
    assert_eq!(
        printed.route("llama-4-scout"),
        ["hosted-vllm=meta-llama/Llama-4-Scout@1", "openai=meta-llama/Llama-4-Scout@1", "qwen",]
    );
    assert_eq!(printed.route("qwen"), ["ollama-chat=qwen3:8b"], "it is the last resort of the others");
    for (id, kind, domain, url) in [
        ("hosted-vllm", "vllm", "local", "http://10.0.0.5:8000/v1"),
        ("openai", "openai", "local", "http://10.0.0.6:8000/v1"),
        ("ollama-chat", "ollama", "local", "http://localhost:11434/v1"),
        ("ollama", "ollama", "local", "${OLLAMA_BASE}/v1"),
        ("openai-2", "openai", "cloud", "https://api.openai.com/v1"),
        ("jina-ai", "openai", "cloud", "https://api.jina.ai/v1"),
        ("litellm-proxy", "litellm", "local", "http://litellm:4000/v1"),
    ] {
        let backend = printed.backend(id);
        assert_eq!(
            (&backend["kind"], &backend["domain"], &backend["base_url"]),
            (&kind.into(), &domain.into(), &url.into())
        );
    }
    let speaks =
        |id: &str, protocol: &str| printed.backend(id)["protocols"].as_sequence().unwrap().contains(&protocol.into());
    for (alias, kind, id, protocol) in [
        ("vectors", "embedding", "ollama", "embeddings"),
        ("whisper", "audio", "openai-2", "transcription"),
        ("dall-e-3", "image", "openai-2", "images"),
        ("ranks", "rerank", "jina-ai", "rerank"),
    ] {
        assert_eq!(printed.model(alias)["type"], kind);
        assert!(speaks(id, protocol), "{id} {protocol}");
    }
    for note in [
        "model_list[1]: /v1 was put behind its api_base",
        "model_list[7]: models of the mode moderation are not served here",
        "model_list[9]: has no api_base",
        "model_list[10]: its model_name is no slug",
    ] {
        printed.says(note);
    }
}

#[test]
fn providers_have_their_addresses_and_each_key_its_variable() {
    let names = [
        "OPENROUTER_API_KEY",
        "NVIDIA_NIM_API_KEY",
        "GROQ_API_KEY",
        "GEMINI_API_KEY",
        "MISTRAL_API_KEY",
        "DEEPSEEK_API_KEY",
        "DEEPSEEK_API_KEY_2",
    ];
    let printed = imported("providers.yaml", &names.map(|name| (name, "k")));
    for (id, kind, key) in [
        ("openrouter", "openrouter", "${OPENROUTER_API_KEY}"),
        ("nvidia-nim", "nvidia", "${NVIDIA_NIM_API_KEY}"),
        ("groq", "openai", "${GROQ_API_KEY}"),
        ("deepseek", "openai", "${DEEPSEEK_API_KEY}"),
        ("deepseek-2", "openai", "${DEEPSEEK_API_KEY_2}"),
    ] {
        assert_eq!((&printed.backend(id)["kind"], &printed.backend(id)["api_key"]), (&kind.into(), &key.into()));
    }
    assert_eq!(printed.route("router/any"), ["openrouter=mistralai/mistral-small-3.2-24b-instruct"]);
    assert_eq!(printed.route("deepseek-3"), ["deepseek=deepseek-chat"], "the same key is the same backend");
    printed.says("model_list[4]: not carried over: litellm_params.temperature, litellm_params.max_tokens");
}

#[test]
fn what_is_no_configuration_of_litellm_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (text, said) in [
        ("model_list: [", "is not valid YAML at or before line 2"),
        ("general_settings: {master_key: sk-canary}", "has no model_list"),
        ("", "has no model_list"),
        ("model_list: []", "has no model_list"),
        (
            "model_list: [{model_name: a, litellm_params: {model: nonsense/b, api_key: canary}}]",
            "the provider nonsense is not known",
        ),
        ("model_list: [{model_name: a, litellm_params: {model: my-model}}]", "the provider my-model is not known"),
        ("model_list: [{litellm_params: {model: gpt-4o}}]", "model_list[0] has no model_name"),
        ("a: 1\na: canary\nmodel_list: [{}]", "is not valid YAML"),
    ] {
        fs::write(folder.path().join("file.yaml"), text).unwrap();
        let output = run(folder.path(), &["import", "litellm", "file.yaml"], &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{text}: {stderr}");
        assert!(
            stderr.contains("file.yaml: ") && stderr.contains(said) && !stderr.contains(CANARY),
            "{text}: {stderr}"
        );
    }
    let output = run(folder.path(), &["import", "litellm", "nothing.yaml"], &[]);
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("cannot be read"));
}
