//! Names of providers, and what is wrong with entries.

use super::ImportError;
use super::litellm::{Imported, Step, import};
use super::providers::{Named, named};

fn imported(text: &str) -> Imported {
    import(text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn at(model: &str, provider: Option<&str>) -> (&'static str, String) {
    match named(model, provider) {
        Named::At(provider, name) => (provider.name, name.to_owned()),
        other => panic!("{model}: {other:?}"),
    }
}

#[test]
fn a_prefix_names_the_provider_and_the_rest_the_model() {
    for (model, provider, expected) in [
        ("openai/gpt-4o", None, ("openai", "gpt-4o")),
        ("gpt-4o", None, ("openai", "gpt-4o")),
        ("claude-3-5-sonnet-20241022", None, ("anthropic", "claude-3-5-sonnet-20241022")),
        ("openrouter/anthropic/claude-3.5-sonnet", None, ("openrouter", "anthropic/claude-3.5-sonnet")),
        ("meta/llama", Some("hosted_vllm"), ("hosted_vllm", "meta/llama")),
        ("openai/facebook/opt-125m", Some("openai"), ("openai", "facebook/opt-125m")),
        ("ollama_chat/llama3:8b", None, ("ollama_chat", "llama3:8b")),
    ] {
        let (provider, name) = (at(model, provider), expected);
        assert_eq!((provider.0, &*provider.1), name, "{model}");
    }
    assert_eq!(named("bedrock/anthropic.claude-v2", None), Named::NotSpoken("bedrock"));
    assert_eq!(named("nonsense/x", None), Named::Unknown("nonsense"));
    assert_eq!(named("my-model", None), Named::Unknown("my-model"));
}

#[test]
fn models_that_fall_back_to_each_other_lead_nowhere_back() {
    let imported = imported(
        "model_list:\n\
         - {model_name: a, litellm_params: {model: openai/a}}\n\
         - {model_name: b, litellm_params: {model: groq/b}}\n\
         - {model_name: c, litellm_params: {model: groq/c}}\n\
         router_settings: {fallbacks: [{a: [b, c]}, {b: [a]}, {c: [c]}]}\n",
    );
    let own = |backend: &str, model: &str| Step::Backend { backend: backend.into(), model: model.into(), group: None };
    let routes: Vec<_> = imported.models.iter().map(|model| model.route.clone()).collect();
    assert_eq!(routes[0], [own("openai", "a"), Step::Alias("b".into()), Step::Alias("c".into())]);
    assert_eq!(routes[1], [own("groq", "b"), own("openai", "a")]);
    assert_eq!(routes[2], [own("groq", "c")]);
}

#[test]
fn every_wrong_entry_is_named() {
    let wrong = import(
        "model_list:\n- {}\n- {model_name: a}\n- {model_name: a, litellm_params: {}}\n\
         - {model_name: a, litellm_params: {model: \"no\\nsense/x\"}}\n- 7\n",
    );
    let said: Vec<String> = wrong.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "model_list: model_list[0] has no model_name",
            "model_list: model_list[1] has no litellm_params",
            "model_list: model_list[2] has no litellm_params.model",
            "model_list: model_list[3]: the provider no sense is not known",
            "model_list: model_list[4] has no model_name",
        ]
    );
    for text in ["", "model_list: []", "model_list: 7", "[]", "just text"] {
        assert!(matches!(import(text).unwrap_err()[..], [ImportError::NoModelList]), "{text}");
    }
    assert!(matches!(import("a: [").unwrap_err()[..], [ImportError::NoYaml(Some(_))]));
}
