use super::testing::{globs, principal};
use super::*;
use dgx_gateway_filter::Problem;
use std::time::{Duration, Instant};

const BACKENDS: &str = "
- {id: vllm-a, kind: vllm, domain: local, base_url: 'http://10.0.0.11:8000/v1', machine: gpu1}
- {id: vllm-b, kind: vllm, domain: local, base_url: 'http://10.0.0.12:8000/v1', machine: gpu2}
- {id: nv, kind: nvidia, domain: cloud, base_url: 'https://nv.example/v1'}
- {id: ollama-cloud, kind: ollama, domain: cloud, base_url: 'https://one.example/v1'}
- {id: other, kind: openai, domain: cloud, base_url: 'https://two.example/v1'}
";

const MODELS: &str = "
version: 1
models:
  - alias: llama-4-scout
    vendor: meta
    route:
      - {backend: vllm-a, model: scout-nvfp4, quantization: fp4, group: 1}
      - {backend: vllm-b, model: scout-fp8, quantization: fp8, group: 1}
      - {backend: other, model: scout}
      - {backend: nv, model: scout}
      - {backend: ollama-cloud, model: 'llama4:scout'}
  - {alias: nano, type: image, constraints: {min_max_tokens: 300}, route: [{backend: other, model: nano}]}
  - {alias: image-gen, type: image, route: [{alias: nano}, {backend: vllm-a, model: flux}]}
pins:
  scout-latest: {target: llama-4-scout}
tenant_aliases:
  - {slug: acme-scout, target: llama-4-scout-cloud-1, tenants: [acme]}
";

fn read_catalog(models: &str) -> (Catalog, Vec<Problem>) {
    testing::read_catalog(BACKENDS, models)
}

fn catalog() -> Catalog {
    let (catalog, problems) = read_catalog(MODELS);
    assert_eq!(problems, []);
    catalog
}

fn route(catalog: &Catalog, slug: &str) -> Vec<String> {
    let operator = principal("acme", &[MACHINE_SCOPE]);
    let slug = catalog.find(slug, Some(&operator)).expect(slug);
    slug.entries.iter().map(|entry| entry.backend.id.to_string()).collect()
}

#[test]
fn slugs_are_derived_from_the_route_and_listed_in_the_order_of_the_contract() {
    let catalog = catalog();
    let ids: Vec<&str> = catalog.slugs().iter().map(|slug| &*slug.id).collect();
    assert_eq!(
        ids,
        [
            "llama-4-scout",
            "llama-4-scout-local",
            "llama-4-scout-cloud",
            "llama-4-scout-fp4",
            "llama-4-scout-fp8",
            "llama-4-scout-cloud-1",
            "llama-4-scout-cloud-3",
            "llama-4-scout-gpu1",
            "llama-4-scout-gpu2",
            "nano",
            "nano-cloud",
            "image-gen",
            "image-gen-local",
            "image-gen-cloud",
            "image-gen-gpu1",
            "scout-latest",
            "acme-scout"
        ]
    );
}

#[test]
fn each_slug_has_its_part_of_the_route() {
    let catalog = catalog();
    assert_eq!(route(&catalog, "llama-4-scout"), ["vllm-a", "vllm-b", "other", "nv", "ollama-cloud"]);
    assert_eq!(route(&catalog, "llama-4-scout-local"), ["vllm-a", "vllm-b"]);
    assert_eq!(route(&catalog, "llama-4-scout-cloud"), ["ollama-cloud", "nv", "other"]);
    assert_eq!(route(&catalog, "llama-4-scout-fp8"), ["vllm-b"]);
    assert_eq!(route(&catalog, "llama-4-scout-ollama"), ["ollama-cloud"]);
    assert_eq!(route(&catalog, "acme-scout"), ["ollama-cloud"]);
    assert_eq!(route(&catalog, "image-gen"), ["other", "vllm-a"]);
}

#[test]
fn a_composite_knows_the_member_that_serves_and_its_floor() {
    let catalog = catalog();
    let slug = catalog.find("image-gen", None).unwrap();
    assert_eq!((&*slug.entries[0].alias, slug.entries[0].floor), ("nano", Some(300)));
    assert_eq!((&*slug.entries[1].alias, slug.entries[1].floor), ("image-gen", None));
}

#[test]
fn machines_and_tenant_aliases_are_unknown_to_others() {
    let catalog = catalog();
    let (acme, globex) = (principal("acme", &[]), principal("globex", &[]));
    assert!(catalog.find("llama-4-scout-gpu1", Some(&acme)).is_none());
    assert!(catalog.find("acme-scout", Some(&acme)).is_some());
    assert!(catalog.find("acme-scout", Some(&globex)).is_none());
    assert!(catalog.find("scout-latest", Some(&globex)).is_some());
}

#[test]
fn lists_of_tenant_and_token_decide() {
    let catalog = catalog();
    let usable = |principal: &Principal, slug: &str| catalog.find(slug, Some(principal)).is_some();
    let mut caller = principal("acme", &[MACHINE_SCOPE]);
    caller.models_allowlist = globs(&["llama-4-*"]);
    assert!(usable(&caller, "llama-4-scout-cloud") && usable(&caller, "scout-latest") && !usable(&caller, "nano"));
    caller.models_allowlist = globs(&["llama-4-scout-local"]);
    assert!(
        usable(&caller, "llama-4-scout-local") && !usable(&caller, "llama-4-scout") && usable(&caller, "acme-scout")
    );
    caller.models_allowlist = globs(&["llama-4-scout"]);
    assert!(!usable(&caller, "llama-4-scout-gpu1"), "a machine needs its own entry");
    caller.models_allowlist = None;
    caller.models_blacklist = globs(&["nano"]);
    assert!(!usable(&caller, "nano-cloud") && usable(&caller, "image-gen"));
    caller.models_blacklist = None;
    caller.models = globs(&["nano*"]);
    assert!(usable(&caller, "nano") && !usable(&caller, "llama-4-scout"));
}

#[test]
fn a_slug_has_to_fit_the_endpoint() {
    let catalog = catalog();
    assert_eq!(catalog.resolve("llama-4-scout", None, Protocol::Embeddings).unwrap_err(), Unusable::NotAvailable);
    assert_eq!(catalog.resolve("llama-4-scout-cloud", None, Protocol::Responses).unwrap_err(), Unusable::NoBackend);
    assert!(catalog.resolve("llama-4-scout", None, Protocol::Responses).is_ok());
}

#[test]
fn within_a_group_the_least_loaded_is_first_and_what_rests_is_last() {
    let catalog = catalog();
    let now = Instant::now();
    let order = |at| {
        let entries = catalog.find("llama-4-scout", None).unwrap().entries.clone();
        ordered(entries, at).iter().map(|entry| entry.backend.id.to_string()).collect::<Vec<_>>()
    };
    let first = Arc::clone(&catalog.find("llama-4-scout", None).unwrap().entries[0]);
    let running = first.backend.enter();
    assert_eq!(order(now), ["vllm-b", "vllm-a", "other", "nv", "ollama-cloud"]);
    drop(running);
    assert_eq!(order(now)[0], "vllm-a");
    for _ in 0..3 {
        first.history.unreachable(now);
    }
    assert_eq!(order(now).last().unwrap(), "vllm-a");
    assert_eq!(order(now + Duration::from_secs(11))[0], "vllm-a");
    first.history.rest(now, Duration::from_secs(3600));
    assert_eq!(order(now + Duration::from_secs(61))[0], "vllm-a");
}

#[test]
fn load_errors() {
    let problem = |models: &str| {
        read_catalog(&format!("version: 1\n{models}")).1.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    for (models, expected) in [
        ("models: [{alias: a, route: []}]", "models[0].route: must not be empty"),
        (
            "models: [{alias: a, route: [{backend: nope, model: m}]}]",
            "models[0].route[0].backend: there is no backend nope",
        ),
        ("models: [{alias: a, route: [{alias: b}]}]", "models[0].route[0].alias: there is no model b"),
        ("models: [{alias: a, route: [{alias: b}]}, {alias: b, route: [{alias: a}]}]", "leads back to a"),
        ("models: [{alias: 'a//b', route: [{backend: nv, model: m}]}]", "models[0].alias: must match"),
        (
            "models: [{alias: a, route: [{backend: nv, model: m}]}, {alias: a-cloud, route: [{backend: nv, model: m}]}]",
            "a-cloud stands for two things",
        ),
        ("models: [{alias: a, route: [{backend: vllm-a, model: m, quantization: gpu1}]}]", "quantization: must differ"),
        ("pins: {x: {target: nope}}", "pins.x.target: there is no slug nope"),
        ("tenant_aliases: [{slug: x, target: nope, tenants: []}]", "tenant_aliases[0].target: there is no slug nope"),
    ] {
        assert!(problem(models).contains(expected), "{models}: {}", problem(models));
    }
}
