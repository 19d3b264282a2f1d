use serde_json::{Value, json};

use super::*;
use crate::catalog::testing::{globs, principal, read_catalog};

const BACKENDS: &str = "
- {id: vllm-a, label: local-1, kind: vllm, domain: local, base_url: 'http://10.0.0.11:8000/v1', machine: gpu1}
- {id: vllm-b, kind: vllm, domain: local, base_url: 'http://10.0.0.12:8000/v1', machine: gpu2}
- {id: ollama-cloud, kind: ollama, domain: cloud, base_url: 'https://upstream-one.example/v1'}
- {id: openrouter, kind: openrouter, domain: cloud, base_url: 'https://upstream-two.example/v1'}
- {id: spare, kind: openai, domain: cloud, enabled: false, base_url: 'https://upstream-three.example/v1'}
";

const MODELS: &str = "
version: 1
models:
  - alias: llama-4-scout
    type: chat
    family: Meta Llama 4
    vendor: meta
    description: General chat with vision
    created: 1743811200
    context_window: 10000000
    max_output_tokens: null
    modalities: {input: [text, image], output: [text]}
    tools: true
    reasoning: \"no\"
    license: {name: Llama 4 Community License, url: null}
    constraints: {min_max_tokens: null, accepts_image_url: false, typical_response_seconds: 8}
    notes: null
    route:
      - {backend: vllm-a, model: llama-4-scout-nvfp4, quantization: fp4, group: 1}
      - {backend: vllm-b, model: llama-4-scout-fp8, quantization: fp8, group: 1, max_model_len: 131072}
      - {backend: ollama-cloud, model: 'llama4:scout'}
      - {backend: openrouter, model: meta-llama/llama-4-scout, enabled: false}
      - {backend: spare, model: scout}
  - alias: claude-opus-4.7
    family: Anthropic Claude 4.7
    vendor: anthropic
    context_window: 1000000
    modalities: {input: [text, image]}
    tools: true
    reasoning: \"yes\"
    constraints: {typical_response_seconds: 5}
    route: [{backend: openrouter, model: anthropic/claude-opus-4.7}]
  - alias: image-gen
    type: image
    modalities: {input: [text, image], output: [text, image]}
    route: [{alias: claude-opus-4.7}, {backend: openrouter, model: other}]
  - alias: nomic-embed
    type: embedding
    constraints: {dimensions: 768}
    route: [{backend: vllm-b, model: nomic}]
  - alias: plain
    json_mode: false
    modalities: {input: [text, audio, video]}
    reasoning: configurable
    route: [{backend: vllm-a, model: plain}]
pins:
  anthropic-claude-opus-latest: {target: claude-opus-4.7, notes: \"pinned 2026-05-03\"}
  on-one-machine: {target: llama-4-scout-gpu2}
tenant_aliases:
  - {slug: acme-premium-gpt-text, target: llama-4-scout-cloud-1, tenants: [acme]}
";

fn info(principal: Option<&Principal>) -> Value {
    let (catalog, problems) = read_catalog(BACKENDS, MODELS);
    assert_eq!(problems, []);
    catalog.backends[1].set_up(false);
    serde_json::to_value(Info::of(&catalog, principal)).unwrap()
}

fn entry(info: &Value, alias: &str) -> Value {
    let models = info["models"].as_array().unwrap();
    models.iter().find(|model| model["alias"] == alias).unwrap_or_else(|| panic!("no {alias} in {info}")).clone()
}

#[test]
fn a_base_alias_is_described_with_all_members() {
    let user = principal("acme", &[]);
    assert_eq!(
        entry(&info(Some(&user)), "llama-4-scout"),
        json!({"alias": "llama-4-scout", "tier": "T1", "target": null, "type": "chat",
            "family": "Meta Llama 4", "vendor": "meta", "description": "General chat with vision",
            "context_window": 10_000_000, "max_output_tokens": null,
            "tools": true, "vision": true, "reasoning": "no",
            "modalities": {"input": ["text", "image"], "output": ["text"]},
            "capabilities": ["streaming", "tools", "vision", "json_mode"],
            "license": {"name": "Llama 4 Community License", "url": null},
            "constraints": {"min_max_tokens": null, "accepts_image_url": false, "typical_response_seconds": 8},
            "slugs": ["llama-4-scout", "llama-4-scout-local", "llama-4-scout-cloud", "llama-4-scout-fp4",
                "llama-4-scout-fp8", "llama-4-scout-cloud-1"],
            "backends": [
                {"label": "local-1", "domain": "local", "quantization": "fp4", "status": "available", "notes": null},
                {"label": "local-2", "domain": "local", "quantization": "fp8", "status": "unavailable", "notes": null},
                {"label": "cloud-1", "domain": "cloud", "quantization": null, "status": "available", "notes": null},
                {"label": "cloud-2", "domain": "cloud", "quantization": null, "status": "catalog", "notes": null},
                {"label": "cloud-3", "domain": "cloud", "quantization": null, "status": "catalog", "notes": null}]})
    );
}

#[test]
fn a_pin_is_an_entry_of_its_own() {
    let user = principal("acme", &[]);
    assert_eq!(
        entry(&info(Some(&user)), "anthropic-claude-opus-latest"),
        json!({"alias": "anthropic-claude-opus-latest", "tier": "T5", "target": "claude-opus-4.7", "type": "chat",
            "family": "Anthropic Claude 4.7", "vendor": "anthropic", "description": null,
            "context_window": 1_000_000, "max_output_tokens": null,
            "tools": true, "vision": true, "reasoning": "yes",
            "modalities": {"input": ["text", "image"], "output": ["text"]},
            "capabilities": ["streaming", "tools", "vision", "reasoning", "json_mode"],
            "license": null,
            "constraints": {"min_max_tokens": null, "accepts_image_url": false, "typical_response_seconds": 5},
            "slugs": ["anthropic-claude-opus-latest"],
            "backends": [{"label": "cloud-2", "domain": "cloud", "quantization": null, "status": "available",
                "notes": "pinned 2026-05-03"}]})
    );
}

#[test]
fn the_document_names_the_tenant_all_backends_and_entries_in_the_order_of_the_list() {
    let user = principal("acme", &[]);
    let info = info(Some(&user));
    assert_eq!((&info["object"], &info["tenant_id"]), (&json!("info"), &json!("acme")));
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    let aliases: Vec<&Value> = info["models"].as_array().unwrap().iter().map(|model| &model["alias"]).collect();
    assert_eq!(
        aliases,
        [
            "llama-4-scout",
            "claude-opus-4.7",
            "image-gen",
            "nomic-embed",
            "plain",
            "anthropic-claude-opus-latest",
            "on-one-machine",
            "acme-premium-gpt-text"
        ]
    );
    assert_eq!(
        info["backends"],
        json!([{"label": "local-1", "domain": "local", "status": "available"},
            {"label": "local-2", "domain": "local", "status": "unavailable"},
            {"label": "cloud-1", "domain": "cloud", "status": "available"},
            {"label": "cloud-2", "domain": "cloud", "status": "available"},
            {"label": "cloud-3", "domain": "cloud", "status": "catalog"}])
    );
    let text = info.to_string();
    for hidden in ["10.0.0.1", "upstream-", "vllm", "gpu", "nvfp4", "openrouter"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
}

#[test]
fn targets_of_tenant_aliases_and_machines_are_for_callers_who_may_use_machines() {
    let (user, operator) = (principal("acme", &[]), principal("acme", &[MACHINE_SCOPE]));
    for (caller, alias, machine) in
        [(&user, json!(null), json!(null)), (&operator, json!("llama-4-scout-cloud-1"), json!("llama-4-scout-gpu2"))]
    {
        let info = info(Some(caller));
        assert_eq!(entry(&info, "acme-premium-gpt-text")["target"], alias);
        assert_eq!(entry(&info, "acme-premium-gpt-text")["tier"], "tenant");
        assert_eq!(entry(&info, "on-one-machine")["target"], machine);
        assert_eq!(entry(&info, "anthropic-claude-opus-latest")["target"], "claude-opus-4.7");
    }
    assert!(entry(&info(Some(&operator)), "llama-4-scout")["slugs"].to_string().contains("llama-4-scout-gpu1"));
    let other = info(Some(&principal("other", &[])));
    assert!(!other.to_string().contains("acme-premium"));
}

#[test]
fn a_base_alias_appears_with_those_slugs_that_the_caller_may_use() {
    let caller = Principal { models_allowlist: globs(&["llama-4-scout-fp8"]), ..principal("acme", &[]) };
    let info = info(Some(&caller));
    let scout = entry(&info, "llama-4-scout");
    assert_eq!(scout["tier"], "T1");
    assert_eq!(scout["slugs"], json!(["llama-4-scout-fp8"]));
    assert_eq!(scout["backends"].as_array().unwrap().len(), 1, "{scout}");
    assert_eq!(info["models"].as_array().unwrap().len(), 2, "that, and the alias of the tenant: {info}");
}

#[test]
fn capabilities_and_constraints_follow_type_and_modalities() {
    let info = info(None);
    assert_eq!(info["tenant_id"], json!(null));
    let embedding = entry(&info, "nomic-embed");
    assert_eq!(embedding["capabilities"], json!(["embeddings"]));
    assert_eq!(
        embedding["constraints"],
        json!({"min_max_tokens": null, "accepts_image_url": false, "typical_response_seconds": null,
            "dimensions": 768, "max_inputs": 256, "max_input_bytes": 8192, "max_input_tokens": 2048})
    );
    for unknown in ["family", "vendor", "description", "context_window", "tools", "reasoning", "license"] {
        assert_eq!(embedding[unknown], json!(null), "{unknown}");
    }
    let plain = entry(&info, "plain");
    assert_eq!(plain["capabilities"], json!(["streaming", "reasoning", "audio_input", "video_input"]));
    let image = entry(&info, "image-gen");
    assert_eq!(image["capabilities"], json!(["streaming", "vision", "image_output"]));
    assert_eq!(image["backends"].as_array().unwrap().len(), 1, "two steps that look alike: {image}");
}
