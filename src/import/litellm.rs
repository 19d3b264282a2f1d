//! The file: backends and routes; what else stands in it is in `settings`.

mod settings;

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::Value;

use super::ImportError;
use super::deployment::{Deployment, Given, Read, read, shown};

/// What was made of a file.
#[derive(Debug, Default)]
pub(crate) struct Imported {
    pub(crate) backends: Vec<Backend>,
    pub(crate) models: Vec<Model>,
    /// Further names, and what they stand for.
    pub(crate) pins: Vec<(String, String)>,
    pub(crate) prices: Vec<Price>,
    /// What could not be carried over, or was decided.
    pub(crate) notes: Vec<String>,
}

/// What a model costs at a backend.
#[derive(Debug)]
pub(crate) struct Price {
    pub(crate) backend: String,
    pub(crate) model: String,
    /// By the names of LiteLLM.
    pub(crate) costs: Vec<(&'static str, f64)>,
}

/// One backend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) local: bool,
    pub(crate) base_url: String,
    pub(crate) api_key: Option<String>,
    pub(crate) max_in_flight: Option<u64>,
    pub(crate) first_byte_timeout: Option<u64>,
    /// What it has to speak; empty: what its kind speaks.
    pub(crate) protocols: BTreeSet<&'static str>,
}

/// One model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) alias: String,
    pub(crate) kind: &'static str,
    pub(crate) window: Option<u64>,
    pub(crate) most_output: Option<u64>,
    pub(crate) vision: bool,
    pub(crate) tools: Option<bool>,
    pub(crate) route: Vec<Step>,
}

/// One step of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Alias(String),
    Backend { backend: String, model: String, group: Option<u64> },
}

/// What LiteLLM calls the use of a model: our type, and the protocols that it takes.
fn mode(word: &str) -> Option<(&'static str, &'static [&'static str])> {
    Some(match word {
        "chat" => ("chat", &["chat"]),
        "completion" => ("chat", &["completions"]),
        "embedding" => ("embedding", &["embeddings"]),
        "image_generation" => ("image", &["images"]),
        "audio_transcription" => ("audio", &["transcription", "translation"]),
        "audio_speech" => ("audio", &["speech"]),
        "rerank" => ("rerank", &["rerank"]),
        "responses" => ("chat", &["responses"]),
        _ => return None,
    })
}

/// What backends of a kind speak unasked.
fn spoken(kind: &str) -> &'static [&'static str] {
    match kind {
        "anthropic" => &["messages"],
        "vllm" => &["chat", "completions", "embeddings", "rerank", "responses"],
        _ => &["chat", "completions", "embeddings"],
    }
}

/// Reads a file.
///
/// # Errors
/// It is no YAML, or every entry that is wrong.
pub(crate) fn import(text: &str) -> Result<Imported, Vec<ImportError>> {
    let file: Value = serde_yaml::from_str(text)
        .map_err(|error| vec![ImportError::NoYaml(error.location().map(|location| location.line()))])?;
    let entries = file.get("model_list").and_then(Value::as_sequence).filter(|entries| !entries.is_empty());
    let Some(entries) = entries else { return Err(vec![ImportError::NoModelList]) };
    let mut importer = Importer::default();
    let mut errors = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let place = format!("model_list[{at}]");
        match read(entry, &place) {
            Read::Deployment(deployment, notes) => {
                importer.out.notes.extend(notes);
                importer.add(*deployment, &place);
            }
            Read::Left(note) => importer.out.notes.push(note),
            Read::Wrong(error) => errors.push(ImportError::Entries(error)),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    importer.routes();
    if let Some(file) = file.as_mapping() {
        importer.settings(file);
    }
    Ok(importer.out)
}

#[derive(Default)]
struct Importer {
    out: Imported,
    /// Steps of each model with their order, in the order of the file.
    steps: BTreeMap<String, Vec<(u64, Step)>>,
    /// Secrets that stand in the file, and the variables that take their place.
    secrets: Vec<(String, String)>,
}

impl Importer {
    fn note(&mut self, note: String) {
        self.out.notes.push(note);
    }

    fn add(&mut self, deployment: Deployment, place: &str) {
        let asked = deployment.mode.as_deref().unwrap_or("chat");
        let Some((kind, protocols)) = mode(asked) else {
            return self.note(format!("{place}: models of the mode {} are not served here", shown(asked)));
        };
        let Some(base_url) = self.base_url(&deployment, place) else { return };
        let api_key = self.api_key(&deployment, place);
        let backends = match deployment.provider.kind {
            // its own API for messages, and the one that it has for clients of OpenAI
            "anthropic" => vec![
                self.backend(&deployment, ("openai", "-chat"), &base_url, api_key.as_ref(), &["chat"]),
                self.backend(&deployment, ("anthropic", ""), &base_url, api_key.as_ref(), &["messages"]),
            ],
            kind => vec![self.backend(&deployment, (kind, ""), &base_url, api_key.as_ref(), protocols)],
        };
        for backend in backends {
            let step = Step::Backend { backend: backend.clone(), model: deployment.model.clone(), group: None };
            let steps = self.steps.entry(deployment.group.clone()).or_default();
            if steps.iter().any(|(_, known)| *known == step) {
                self.note(format!("{place}: is the same as one before"));
            } else {
                steps.push((deployment.order.unwrap_or(1), step));
            }
            if !deployment.costs.is_empty() {
                let (model, costs) = (deployment.model.clone(), deployment.costs.clone());
                self.out.prices.push(Price { backend, model, costs });
            }
        }
        self.model(deployment, kind, place);
    }

    fn model(&mut self, deployment: Deployment, kind: &'static str, place: &str) {
        let Some(model) = self.out.models.iter_mut().find(|model| model.alias == deployment.group) else {
            return self.out.models.push(Model {
                alias: deployment.group,
                kind,
                window: deployment.window,
                most_output: deployment.most_output,
                vision: deployment.vision,
                tools: deployment.tools,
                route: Vec::new(),
            });
        };
        // what all deployments of the model can do
        model.window = [model.window, deployment.window].into_iter().flatten().min();
        model.most_output = [model.most_output, deployment.most_output].into_iter().flatten().min();
        model.vision &= deployment.vision;
        model.tools = model.tools.zip(deployment.tools).map(|(one, other)| one && other);
        if model.kind != kind {
            let note =
                format!("{place}: {} stays of the type {}, that of its first deployment", model.alias, model.kind);
            self.note(note);
        }
    }

    /// Where a deployment is; `None`, with a note, when nobody says it.
    fn base_url(&mut self, deployment: &Deployment, place: &str) -> Option<String> {
        let provider = deployment.provider;
        let version = if provider.name == "azure" { "/openai/v1" } else { "/v1" };
        let url = match &deployment.base {
            None if provider.base_url.is_empty() => {
                self.note(format!("{place}: has no api_base, and {} has none of its own", provider.name));
                return None;
            }
            None => return Some(provider.base_url.to_owned()),
            Some(Given::Variable(name)) => format!("${{{name}}}"),
            Some(Given::Literal(url)) => url.trim_end_matches('/').to_owned(),
        };
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let is_variable = matches!(deployment.base, Some(Given::Variable(_)));
        if !is_variable && (rest.is_empty() || rest.contains(['@', '?', '#', '$', ' ']) || !url.starts_with("http")) {
            self.note(format!("{place}: its api_base is no http or https URL without user and query"));
            return None;
        }
        // LiteLLM puts the version behind it where the provider is one that needs it
        let bare = !is_variable && !rest.contains('/');
        match provider.name {
            "azure" if !url.ends_with(version) => {
                self.note(format!(
                    "{place}: the v1 API of the Azure resource is used; the name of the deployment is the model"
                ));
                Some(format!("{url}{version}"))
            }
            "ollama" | "ollama_chat" | "anthropic" if is_variable || bare => Some(format!("{url}{version}")),
            _ if bare => {
                self.note(format!("{place}: /v1 was put behind its api_base"));
                Some(format!("{url}{version}"))
            }
            _ => Some(url),
        }
    }

    /// What stands for the key of a deployment.
    fn api_key(&mut self, deployment: &Deployment, place: &str) -> Option<String> {
        let provider = deployment.provider;
        match &deployment.key {
            Some(Given::Variable(name)) => Some(format!("${{{name}}}")),
            Some(Given::Literal(secret)) => {
                if let Some((_, reference)) = self.secrets.iter().find(|(known, _)| known == secret) {
                    return Some(reference.clone());
                }
                let base = format!("{}_API_KEY", provider.name.to_ascii_uppercase().replace('-', "_"));
                let taken = |name: &str| {
                    let reference = format!("${{{name}}}");
                    self.secrets.iter().any(|(_, known)| *known == reference)
                        || self.out.backends.iter().any(|backend| backend.api_key.as_ref() == Some(&reference))
                };
                let names = [base.clone()].into_iter().chain((2..).map(|n| format!("{base}_{n}")));
                let name = names.into_iter().find(|name| !taken(name)).unwrap_or(base);
                let reference = format!("${{{name}}}");
                self.secrets.push((secret.clone(), reference.clone()));
                self.note(format!("{place}: its api_key is not printed; set the variable {name} to it"));
                Some(reference)
            }
            // the key of a provider is not for another address
            None if deployment.base.is_some() && !provider.base_url.is_empty() => None,
            None if provider.key.is_empty() => None,
            None => Some(format!("${{{}}}", provider.key)),
        }
    }

    /// The backend of a deployment: one that is there already, or a new one.
    fn backend(
        &mut self,
        deployment: &Deployment,
        (kind, suffix): (&'static str, &str),
        base_url: &str,
        api_key: Option<&String>,
        protocols: &[&'static str],
    ) -> String {
        let timeout = deployment.timeout.map(|seconds| seconds.min(3600));
        let same = |backend: &&mut Backend| {
            backend.kind == kind
                && backend.base_url == base_url
                && backend.api_key.as_ref() == api_key
                && backend.max_in_flight == deployment.max_parallel
                && backend.first_byte_timeout == timeout
                && backend.id.contains("-chat") != suffix.is_empty()
        };
        if let Some(backend) = self.out.backends.iter_mut().find(same) {
            backend.protocols.extend(protocols);
            return backend.id.clone();
        }
        let base = format!("{}{suffix}", deployment.provider.name.replace('_', "-"));
        let taken = |id: &str| self.out.backends.iter().any(|backend| backend.id == id);
        let ids = [base.clone()].into_iter().chain((2..).map(|n| format!("{base}-{n}")));
        let id = ids.into_iter().find(|id| !taken(id)).unwrap_or(base);
        let spoken: &[&str] = if suffix.is_empty() { spoken(kind) } else { &[] };
        self.out.backends.push(Backend {
            id: id.clone(),
            kind,
            local: is_local(base_url, kind),
            base_url: base_url.to_owned(),
            api_key: api_key.cloned(),
            max_in_flight: deployment.max_parallel,
            first_byte_timeout: timeout,
            protocols: protocols.iter().chain(spoken).copied().collect(),
        });
        id
    }

    /// Makes routes of the steps: deployments of one order are one choice.
    fn routes(&mut self) {
        for model in &mut self.out.models {
            let mut steps = self.steps.get(&model.alias).cloned().unwrap_or_default();
            steps.sort_by_key(|(order, _)| *order);
            let several = |order: u64| steps.iter().filter(|(other, _)| *other == order).count() > 1;
            model.route = steps
                .iter()
                .map(|(order, step)| match step {
                    Step::Backend { backend, model, .. } => Step::Backend {
                        backend: backend.clone(),
                        model: model.clone(),
                        group: several(*order).then_some(*order),
                    },
                    Step::Alias(alias) => Step::Alias(alias.clone()),
                })
                .collect();
        }
    }
}

/// Whether an address is one of the operator's own machines.
fn is_local(base_url: &str, kind: &str) -> bool {
    let Some((_, rest)) = base_url.split_once("://") else {
        return matches!(kind, "vllm" | "ollama" | "litellm"); // a variable
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        return match address {
            std::net::IpAddr::V4(address) => address.is_private() || address.is_loopback() || address.is_unspecified(),
            std::net::IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
        };
    }
    !host.contains('.') || [".internal", ".lan", ".local", ".svc"].iter().any(|end| host.ends_with(end))
}
