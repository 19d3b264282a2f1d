//! Looking at backends: whether they live, and, when nothing is configured, which models they offer.
//!
//! Only free requests are made (`GET <base>/models`), never a model call.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dgx_gateway_filter::upstream::Address;
use serde::Deserialize;

use crate::backend::{Backend, BackendKind, Domain};
use crate::catalog::{Catalog, Entry, ModelKind, Slug, discovered, discovered_entry, is_slug};
use crate::service::{Lasting, Models};
use crate::settings::BackendFile;

/// How often backends are looked at.
const EVERY: Duration = Duration::from_secs(10);
/// Longest time for one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest list of models that is read.
const MAX_LIST_BYTES: usize = 1024 * 1024;
/// Most models taken over from one backend.
const MAX_MODELS: usize = 1000;
/// Model servers that are looked for on the loopback when nothing is configured: id, kind, usual port.
const USUAL: [(&str, BackendKind, u16); 3] = [
    ("vllm", BackendKind::Vllm, 8000),
    ("litellm", BackendKind::Litellm, 4000),
    ("ollama", BackendKind::Ollama, 11434),
];

/// The backends of a gateway without configuration.
pub(crate) fn usual(litellm_key: Option<String>, demo: bool) -> Vec<BackendFile> {
    let file = |id: &str, kind, base_url| BackendFile {
        id: id.to_owned(),
        label: Some(id.to_owned()),
        kind,
        domain: Domain::Local,
        base_url,
        api_key: (kind == BackendKind::Litellm).then(|| litellm_key.clone()).flatten(),
        ca_file: None,
        protocols: None,
        http2: None,
        connect_timeout_ms: None,
        first_byte_timeout_seconds: None,
        enabled: None,
        machine: None,
        cloud_slot: None,
        exact_tokens: None,
        max_in_flight: None,
        stt_modes: None,
    };
    let found = USUAL.map(|(id, kind, port)| file(id, kind, Some(format!("http://127.0.0.1:{port}/v1"))));
    found.into_iter().chain(demo.then(|| file("demo", BackendKind::Demo, None))).collect()
}

/// Puts the models of embedded backends into the catalog; they are there from the first moment.
pub(crate) fn offer_embedded(service: &Models) {
    let catalog = service.catalog.load_full();
    for backend in &catalog.backends {
        let embedded = matches!(backend.upstream.address, Address::Embedded(_));
        backend.set_up(embedded);
        if embedded {
            service.catalog.store(Arc::new(with_models(&service.catalog.load(), backend, &demo_models())));
        }
    }
}

fn demo_models() -> Vec<Found> {
    ["demo", "demo-embed"].map(|id| Found { id: id.to_owned(), max_model_len: None }).to_vec()
}

/// Looks at all backends of the configuration in use, again and again, and at once when there is another one. Without
/// configuration their models become the catalog.
///
/// # Cancel safety
/// May be dropped at any await.
pub(crate) async fn watch(lasting: Arc<Lasting>) {
    loop {
        if let Some(service) = lasting.current() {
            let backends = service.catalog.load().backends.clone();
            for backend in &backends {
                look(&service, backend, service.discovers).await;
            }
            *lasting.looked_at.write().unwrap_or_else(PoisonError::into_inner) = Some(service.clock.wall());
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = lasting.changed.notified() => {}
        }
    }
}

async fn look(service: &Models, backend: &Arc<Backend>, take_over: bool) {
    // embedded backends live as long as the process; a look at a provider over TLS is left to live traffic
    if let Some(root) = backend.root().filter(|root| root.starts_with("http://")) {
        let was_up = backend.is_up();
        let listed = list(&service.client, backend, &format!("{root}{}/models", backend.base_path)).await;
        backend.set_up(listed.is_ok());
        match listed {
            Ok(models) if take_over => {
                let models: Vec<Found> =
                    models.into_iter().filter(|model| is_slug(&model.id)).take(MAX_MODELS).collect();
                if !was_up {
                    tracing::info!(backend.label = %backend.label, models = models.len(), "backend found");
                }
                service.catalog.store(Arc::new(with_models(&service.catalog.load(), backend, &models)));
                publish_windows(&service.catalog.load(), backend, &models);
            }
            Ok(models) => {
                if !was_up {
                    tracing::info!(backend.label = %backend.label, "backend is up");
                }
                publish_windows(&service.catalog.load(), backend, &models);
            }
            Err(reason) if was_up => tracing::warn!(backend.label = %backend.label, reason, "backend is down"),
            Err(_) => {}
        }
    }
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    data: Vec<Found>,
}

/// Notes the context lengths that a backend publishes.
fn publish_windows(catalog: &Catalog, backend: &Arc<Backend>, models: &[Found]) {
    let entries = catalog.models().flat_map(|model| &model.route).filter(|entry| Arc::ptr_eq(&entry.backend, backend));
    for entry in entries {
        let found = models.iter().find(|model| *model.id == *entry.model);
        if let Some(length) = found.and_then(|model| model.max_model_len) {
            entry.history.publish_window(length);
        }
    }
}

/// A model that a backend reports.
#[derive(Clone, Deserialize)]
struct Found {
    id: String,
    /// Context length, as vLLM reports it.
    max_model_len: Option<u64>,
}

async fn list(client: &reqwest::Client, backend: &Backend, url: &str) -> Result<Vec<Found>, &'static str> {
    let mut request = client.get(url).timeout(LOOK_TIMEOUT);
    if let Some((name, value)) = &backend.credential {
        request = request.header(name, value);
    }
    let mut response = request.send().await.map_err(|_| "no connection")?;
    match response.status().as_u16() {
        200..=299 => {}
        // alive, but it wants a credential that we do not have
        401 | 403 => return Ok(Vec::new()),
        _ => return Err("unexpected status"),
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|_| "the list broke off")? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_LIST_BYTES {
            return Err("the list is too long");
        }
    }
    serde_json::from_slice::<List>(&body).map(|list| list.data).map_err(|_| "the list is not JSON")
}

/// The catalog with exactly these models of a backend. A model that several backends offer has a route over all of
/// them, in their order. Entries that stay are the same ones: they know their failures and until when they rest.
fn with_models(catalog: &Catalog, backend: &Arc<Backend>, found: &[Found]) -> Catalog {
    let of_backend = |entry: &&Arc<Entry>| Arc::ptr_eq(&entry.backend, backend);
    let place = |entry: &Arc<Entry>| catalog.backends.iter().position(|known| Arc::ptr_eq(known, &entry.backend));
    let mut slugs: Vec<Arc<Slug>> = Vec::new();
    for slug in catalog.slugs() {
        let offered = found.iter().any(|model| *model.id == *slug.id);
        if slug.entries.iter().any(|entry| of_backend(&entry)) == offered {
            slugs.push(Arc::clone(slug));
            continue;
        }
        let mut entries: Vec<Arc<Entry>> = slug.entries.iter().filter(|entry| !of_backend(entry)).cloned().collect();
        if let Some(model) = found.iter().find(|model| *model.id == *slug.id) {
            entries.push(Arc::new(discovered_entry(&model.id, backend)));
        }
        entries.sort_by_key(place);
        if !entries.is_empty() {
            slugs.push(Arc::new(discovered(&slug.id, slug.model.kind, entries)));
        }
    }
    for model in found.iter().filter(|model| !catalog.slugs().iter().any(|slug| *slug.id == *model.id)) {
        let entry = Arc::new(discovered_entry(&model.id, backend));
        slugs.push(Arc::new(discovered(&model.id, kind_of(&model.id), vec![entry])));
    }
    // backends keep their order in the list, whoever was found first
    slugs.sort_by_key(|slug| slug.entries.first().and_then(place));
    Catalog::new(slugs, catalog.listed.clone())
}

/// Model lists do not say what a model does; names of embedding and rerank models mostly do.
fn kind_of(id: &str) -> ModelKind {
    let id = id.to_ascii_lowercase();
    if id.contains("rerank") {
        ModelKind::Rerank
    } else if id.contains("embed") || id.contains("bge-") || id.contains("e5-") {
        ModelKind::Embedding
    } else {
        ModelKind::Chat
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dgx_gateway_filter::upstream::EmbeddedUpstreams;

    fn backends() -> Vec<Arc<Backend>> {
        let files = usual(None, false);
        let build =
            |file| crate::backend::check(file, "b", 1, &EmbeddedUpstreams::default(), None, &mut Vec::new()).unwrap();
        files.iter().map(|file| Arc::new(build(file))).collect()
    }

    fn found(ids: &[&str]) -> Vec<Found> {
        ids.iter().map(|id| Found { id: (*id).to_owned(), max_model_len: None }).collect()
    }

    fn shape(catalog: &Catalog) -> String {
        let slug = |slug: &Arc<Slug>| {
            let labels: Vec<&str> = slug.entries.iter().map(|entry| &*entry.backend.label).collect();
            format!("{}: {}", slug.id, labels.join(" "))
        };
        catalog.slugs().iter().map(slug).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_model_of_several_backends_has_a_route_over_all_of_them_in_their_order() {
        let backends = backends();
        let [vllm, litellm, _] = &backends[..] else { panic!() };
        let catalog = with_models(&Catalog::new(Vec::new(), backends.clone()), litellm, &found(&["m", "canned"]));
        assert_eq!(shape(&catalog), "m: litellm, canned: litellm");
        let catalog = with_models(&catalog, vllm, &found(&["m"]));
        assert_eq!(shape(&catalog), "m: vllm litellm, canned: litellm");
        let catalog = with_models(&catalog, litellm, &found(&["canned"]));
        assert_eq!(shape(&catalog), "m: vllm, canned: litellm");
        assert_eq!(shape(&with_models(&catalog, vllm, &[])), "canned: litellm");
    }

    #[test]
    fn names_tell_what_a_model_does() {
        for (id, kind) in [
            ("nomic-embed-text", ModelKind::Embedding),
            ("BAAI/bge-m3", ModelKind::Embedding),
            ("BAAI/bge-reranker-v2-m3", ModelKind::Rerank),
            ("Qwen3-Reranker-8B", ModelKind::Rerank),
            ("llama-4-scout", ModelKind::Chat),
        ] {
            assert_eq!(kind_of(id), kind, "{id}");
        }
    }

    #[test]
    fn an_entry_that_stays_keeps_its_history() {
        let backends = backends();
        let catalog = with_models(&Catalog::new(Vec::new(), backends.clone()), &backends[1], &found(&["m"]));
        let entry = Arc::clone(&catalog.slugs()[0].entries[0]);
        let catalog = with_models(&catalog, &backends[0], &found(&["m"]));
        assert!(Arc::ptr_eq(&entry, &catalog.slugs()[0].entries[1]));
    }
}
