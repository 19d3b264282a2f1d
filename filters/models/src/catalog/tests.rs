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
        ordered(entries, |entry| entry.history.skipped(at))
            .iter()
            .map(|entry| entry.backend.id.to_string())
            .collect::<Vec<_>>()
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
fn members_of_a_group_are_one_choice_while_they_are_equally_well_off() {
    let catalog = catalog();
    let now = Instant::now();
    let entries = catalog.find("llama-4-scout", None).unwrap().entries.clone();
    let numbered = || {
        let rests = |entry: &Entry| entry.history.skipped(now);
        choices(&ordered(entries.clone(), rests), rests)
    };
    assert_eq!(numbered(), [0, 0, 1, 2, 3]);
    entries[1].backend.set_up(false);
    assert_eq!(numbered(), [0, 1, 2, 3, 4]);
    entries[1].backend.set_up(true);
    entries[0].history.rest(now, Duration::from_secs(5));
    assert_eq!(numbered(), [0, 1, 2, 3, 4]);
    entries[1].history.rest(now, Duration::from_secs(5));
    assert_eq!(numbered(), [0, 1, 2, 3, 3], "both rest");
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
        ("models: [{alias: a, route: [{backend: nv, model: m, quantization: gpu2}]}]", "quantization: must differ"),
        (
            "models: [{alias: a, route: [{backend: vllm-a, model: m, quantization: cloud}]}]",
            "models[0].route[0].quantization: must be letters",
        ),
        (
            "models: [{alias: a, route: [{backend: vllm-a, model: m, quantization: cloud-2}]}]",
            "models[0].route[0].quantization: must be letters",
        ),
        (
            "models: [{alias: a, route: [{backend: vllm-a, model: m, quantization: 'f 4'}]}]",
            "models[0].route[0].quantization: must be letters",
        ),
        (
            "models: [{alias: a, route: [{backend: nv, model: m}]}, {alias: a, route: [{backend: nv, model: m}]}]",
            "a stands for two things",
        ),
        ("models: [{alias: a, route: [{alias: a}]}]", "models[0].route: leads back to a"),
        ("models: [{alias: '-a', route: [{backend: nv, model: m}]}]", "models[0].alias: must match"),
        ("models: [{alias: 'a..b', route: [{backend: nv, model: m}]}]", "models[0].alias: must match"),
        (
            "models: [{alias: a, constraints: {max_inputs: 257}, route: [{backend: nv, model: m}]}]",
            "constraints.max_inputs: must be 1 to 256",
        ),
        (
            "models: [{alias: a, constraints: {max_input_bytes: 0}, route: [{backend: nv, model: m}]}]",
            "constraints.max_input_bytes: must be 1 to 8192",
        ),
        (
            "models: [{alias: a, constraints: {max_input_tokens: 2049}, route: [{backend: nv, model: m}]}]",
            "constraints.max_input_tokens: must be 1 to 2048",
        ),
        (
            "models: [{alias: a, route: [{backend: nv, model: m}]}]\npins: {a-cloud: {target: a}}",
            "pins.a-cloud: a-cloud is no slug, or stands for another",
        ),
        (
            "models: [{alias: a, route: [{backend: nv, model: m}]}]\npins: {p: {target: a}}\ntenant_aliases: [{slug: p, target: a, tenants: [t]}]",
            "the slug p stands for two things",
        ),
        (
            "models: [{alias: a, route: [{backend: nv, model: m}]}]\ntenant_aliases: [{slug: x, target: a, tenants: [t], available_fallbacks: [a]}]",
            "tenant_aliases[0].available_fallbacks: needs pinned: true",
        ),
        (
            "models: [{alias: a, route: [{backend: nv, model: m}]}]\ntenant_aliases: [{slug: x, target: a, tenants: [t], pinned: true, available_fallbacks: [a, 'b c']}]",
            "tenant_aliases[0].available_fallbacks[1]: b c is no slug",
        ),
        ("pins: {x: {target: nope}}", "pins.x.target: there is no slug nope"),
        ("tenant_aliases: [{slug: x, target: nope, tenants: []}]", "tenant_aliases[0].target: there is no slug nope"),
    ] {
        assert!(problem(models).contains(expected), "{models}: {}", problem(models));
    }
}

#[test]
fn a_derived_slug_that_gets_too_long_is_a_load_error() {
    let alias = "a".repeat(126);
    let (_, problems) =
        read_catalog(&format!("version: 1\nmodels: [{{alias: {alias}, route: [{{backend: nv, model: m}}]}}]"));
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(
        problems.iter().any(|problem| problem.contains(&format!("the slug {alias}-cloud is too long"))),
        "{problems:?}"
    );
}

#[test]
fn another_version_is_refused() {
    let (_, problems) = read_catalog("version: 2");
    assert!(problems.iter().any(|problem| problem.to_string().contains("version: must be 1")), "{problems:?}");
}

#[test]
fn two_models_may_not_give_one_derived_slug() {
    // the machine of one model's backend, the quantization of another's alias
    let (_, problems) = read_catalog(
        "version: 1\nmodels: [{alias: a, route: [{backend: vllm-a, model: m}]}, {alias: a-gpu1, route: [{backend: nv, model: m}]}]",
    );
    assert!(
        problems.iter().any(|problem| problem.to_string().contains("a-gpu1 stands for two things")),
        "{problems:?}"
    );
}

#[test]
fn the_provider_selector_follows_its_table() {
    let catalog = catalog();
    let acme = principal("acme", &[]);
    let at =
        |model: &str, provider: &str| catalog.at_provider(model, provider, Some(&acme)).map(|slug| slug.id.to_string());
    for (model, provider, expected) in [
        ("llama-4-scout", "local", Ok("llama-4-scout-local")),
        ("llama-4-scout", "cloud", Ok("llama-4-scout-cloud")),
        ("llama-4-scout", "ollama", Ok("llama-4-scout-cloud-1")),
        ("llama-4-scout", "nvidia", Ok("llama-4-scout-cloud-3")),
        ("llama-4-scout", "openrouter", Err(NoProvider::NotAvailable)),
        ("nano", "local", Err(NoProvider::NotAvailable)),
        ("llama-4-scout", "Local", Err(NoProvider::NotValid)),
        ("llama-4-scout", "openai", Err(NoProvider::NotValid)),
        ("llama-4-scout", "", Err(NoProvider::NotValid)),
        ("llama-4-scout-cloud", "local", Err(NoProvider::NotValid)),
        ("scout-latest", "local", Err(NoProvider::NotValid)),
        ("acme-scout", "ollama", Err(NoProvider::NotValid)),
        ("unknown", "local", Err(NoProvider::NotValid)),
    ] {
        assert_eq!(at(model, provider), expected.map(str::to_owned), "{model} {provider}");
    }
    let mut only_nano = principal("acme", &[]);
    only_nano.models_allowlist = globs(&["nano"]);
    assert_eq!(catalog.at_provider("llama-4-scout", "local", Some(&only_nano)).unwrap_err(), NoProvider::NotAvailable);
}

#[test]
fn openrouter_is_the_second_slot() {
    let (catalog, problems) = testing::read_catalog(
        "[{id: r, kind: openrouter, domain: cloud, base_url: 'https://r.example/v1'}]",
        "version: 1\nmodels: [{alias: m, route: [{backend: r, model: m}]}]",
    );
    assert_eq!(problems, []);
    assert_eq!(&*catalog.at_provider("m", "openrouter", None).unwrap().id, "m-cloud-2");
    assert!(catalog.find("m-ollama", None).is_none(), "there is no first slot");
}

#[test]
fn the_older_form_is_one_of_the_first_slot_only() {
    let catalog = catalog();
    assert_eq!(&*catalog.find("llama-4-scout-ollama", None).unwrap().id, "llama-4-scout-cloud-1");
    assert!(catalog.find("nano-ollama", None).is_none());
    // a model that only happens to be called like a slot
    let (catalog, problems) =
        read_catalog("version: 1\nmodels: [{alias: x-cloud-1, route: [{backend: other, model: m}]}]");
    assert_eq!(problems, []);
    assert!(catalog.find("x-ollama", None).is_none());
}

#[test]
fn names_are_matched_with_their_case() {
    let catalog = catalog();
    assert!(catalog.find("Llama-4-scout", None).is_none());
    assert!(catalog.find("llama-4-scout-LOCAL", None).is_none());
}

#[test]
fn an_embedding_model_has_the_slugs_of_its_domain() {
    let (catalog, problems) = read_catalog(
        "version: 1\nmodels: [{alias: nomic-embed, type: embedding, route: [{backend: vllm-a, model: n}]}]",
    );
    assert_eq!(problems, []);
    let slug = catalog.find("nomic-embed-local", None).unwrap();
    assert_eq!((slug.tier, slug.model.kind), (Tier::Domain, ModelKind::Embedding));
}

#[test]
fn types_fit_their_endpoints() {
    use Protocol::{
        Chat, Completions, Embeddings, Images, Messages, Rerank, Responses, Speech, Transcription, Translation,
    };
    const TEXT: [Protocol; 4] = [Chat, Completions, Messages, Responses];
    let all = [Chat, Completions, Embeddings, Images, Messages, Rerank, Responses, Speech, Transcription, Translation];
    let names =
        "[chat, completions, embeddings, images, messages, rerank, responses, speech, transcription, translation]";
    let backends = format!("[{{id: b, kind: openai, domain: local, base_url: 'http://b/v1', protocols: {names}}}]");
    let route = "route: [{backend: b, model: m}]";
    let models = format!(
        "version: 1\nmodels: [{{alias: chat, {route}}}, {{alias: draws, modalities: {{output: [text, image]}}, {route}}}, {{alias: image, type: image, {route}}}, {{alias: embedding, type: embedding, {route}}}, {{alias: rerank, type: rerank, {route}}}, {{alias: audio, type: audio, modalities: {{output: [image]}}, {route}}}]"
    );
    let (catalog, problems) = testing::read_catalog(&backends, &models);
    assert_eq!(problems, []);
    let with_images = [TEXT.as_slice(), &[Images]].concat();
    for (model, expected) in [
        ("chat", TEXT.to_vec()),
        ("draws", with_images.clone()),
        ("image", with_images),
        ("embedding", vec![Embeddings]),
        ("rerank", vec![Rerank]),
        ("audio", vec![Speech, Transcription, Translation]),
    ] {
        for protocol in all {
            let fits = catalog.resolve(model, None, protocol);
            assert_eq!(fits.is_ok(), expected.contains(&protocol), "{model} {protocol:?}");
            if let Err(unusable) = fits {
                assert_eq!(unusable, Unusable::NotAvailable, "{model} {protocol:?}");
            }
        }
    }
}

#[test]
fn lists_hold_for_pins_and_tenant_aliases_as_the_contract_says() {
    let catalog = catalog();
    let mut caller = principal("acme", &[MACHINE_SCOPE]);
    caller.models_allowlist = globs(&["nothing"]);
    let usable = |caller: &Principal, slug: &str| catalog.find(slug, Some(caller)).is_some();
    assert!(usable(&caller, "acme-scout"), "a tenant alias needs no entry");
    assert!(!usable(&caller, "scout-latest"));
    caller.models_allowlist = globs(&["scout-latest"]);
    assert!(usable(&caller, "scout-latest") && !usable(&caller, "llama-4-scout"));
    caller.models_allowlist = globs(&["llama-4-scout-gpu1"]);
    assert!(usable(&caller, "llama-4-scout-gpu1") && !usable(&caller, "llama-4-scout-gpu2"));
    caller.models_allowlist = None;
    for list in ["acme-scout", "llama-4-scout"] {
        caller.models_blacklist = globs(&[list]);
        assert!(!usable(&caller, "acme-scout"), "the blacklist {list} holds for tenant aliases");
    }
    assert!(!usable(&caller, "scout-latest") && !usable(&caller, "llama-4-scout-gpu1"));
    caller.models_blacklist = None;
    caller.models = globs(&["acme-*"]);
    assert!(usable(&caller, "acme-scout") && !usable(&caller, "llama-4-scout"));
}

#[test]
fn entries_that_all_rest_are_tried_anyway_and_those_that_are_down_come_after_those_that_are_up() {
    let catalog = catalog();
    let now = Instant::now();
    let entries = catalog.find("llama-4-scout-cloud", None).unwrap().entries.clone();
    let order = || {
        ordered(entries.clone(), |entry| entry.history.skipped(now))
            .iter()
            .map(|entry| entry.backend.id.to_string())
            .collect::<Vec<_>>()
    };
    entries[0].backend.set_up(false);
    assert_eq!(order(), ["nv", "other", "ollama-cloud"]);
    entries[0].backend.set_up(true);
    entries.iter().for_each(|entry| entry.history.rest(now, Duration::from_secs(5)));
    assert_eq!(order(), ["ollama-cloud", "nv", "other"]);
}

#[test]
fn an_entry_is_tried_once_however_many_members_lead_to_it_and_groups_of_members_stay_apart() {
    let (catalog, problems) = read_catalog(
        "version: 1
models:
  - {alias: one, route: [{backend: vllm-a, model: m, group: 1}, {backend: nv, model: m, group: 1}]}
  - {alias: two, route: [{backend: other, model: m, group: 1}, {backend: vllm-b, model: m, group: 1}]}
  - {alias: both, route: [{alias: one}, {alias: two}, {alias: one}]}
",
    );
    assert_eq!(problems, []);
    assert_eq!(route(&catalog, "both"), ["vllm-a", "nv", "other", "vllm-b"]);
    let entries = catalog.find("both", None).unwrap().entries.clone();
    let busy: Vec<_> = [&entries[0], &entries[0], &entries[2]].map(|entry| entry.backend.enter()).into();
    let order: Vec<_> = ordered(entries, |_| false).iter().map(|entry| entry.backend.id.to_string()).collect();
    assert_eq!(order, ["nv", "vllm-a", "vllm-b", "other"]);
    drop(busy);
}
