//! One entry of `model_list`.

use serde_yaml::{Mapping, Value};

use super::providers::{Named, Provider, named};

/// Parameters that say where and how, and are carried over.
const CARRIED: [&str; 10] = [
    "model",
    "api_base",
    "base_url",
    "api_key",
    "custom_llm_provider",
    "max_parallel_requests",
    "timeout",
    "stream_timeout",
    "order",
    "input_cost_per_token",
];
/// Costs per unit, and what they are called in a price table here; those of tokens are given for a million.
pub(crate) const COSTS: [(&str, &str, bool); 7] = [
    ("input_cost_per_token", "input", true),
    ("output_cost_per_token", "output", true),
    ("cache_read_input_token_cost", "cached_input", true),
    ("cache_creation_input_token_cost", "cache_write", true),
    ("output_cost_per_image", "image", false),
    ("input_cost_per_second", "second", false),
    ("input_cost_per_request", "request", false),
];
/// Members of `model_info` that are carried over, beside costs.
const INFO: [&str; 6] =
    ["mode", "max_input_tokens", "max_output_tokens", "max_tokens", "supports_vision", "supports_function_calling"];

/// A value that may be a variable, and never a secret in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// `os.environ/NAME`.
    Variable(String),
    /// The value itself.
    Literal(String),
}

impl Given {
    fn of(value: &Value) -> Option<Self> {
        let text = value.as_str()?.trim();
        Some(match text.strip_prefix("os.environ/") {
            Some(name) if is_variable(name) => Self::Variable(name.to_owned()),
            _ if text.is_empty() => return None,
            _ => Self::Literal(text.to_owned()),
        })
    }
}

/// Whether a name can be written as `${NAME}`.
fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first == b'_' || first.is_ascii_alphabetic())
        && bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// What a deployment is, as far as it means something here.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) group: String,
    pub(crate) provider: &'static Provider,
    /// The name at the provider.
    pub(crate) model: String,
    pub(crate) base: Option<Given>,
    pub(crate) key: Option<Given>,
    pub(crate) max_parallel: Option<u64>,
    /// Seconds until the first byte.
    pub(crate) timeout: Option<u64>,
    pub(crate) order: Option<u64>,
    pub(crate) mode: Option<String>,
    pub(crate) window: Option<u64>,
    pub(crate) most_output: Option<u64>,
    pub(crate) vision: bool,
    pub(crate) tools: Option<bool>,
    /// Costs by the name of LiteLLM.
    pub(crate) costs: Vec<(&'static str, f64)>,
}

/// What came of an entry.
pub(crate) enum Read {
    /// It can be called, and these notes say what is lost.
    Deployment(Box<Deployment>, Vec<String>),
    /// It cannot be carried over.
    Left(String),
    /// It is wrong.
    Wrong(String),
}

/// Reads an entry; `place` names it.
pub(crate) fn read(entry: &Value, place: &str) -> Read {
    let Some(group) = entry.get("model_name").and_then(Value::as_str) else {
        return Read::Wrong(format!("{place} has no model_name"));
    };
    let Some(params) = entry.get("litellm_params").and_then(Value::as_mapping) else {
        return Read::Wrong(format!("{place} has no litellm_params"));
    };
    let Some(model) = params.get("model").and_then(Value::as_str) else {
        return Read::Wrong(format!("{place} has no litellm_params.model"));
    };
    let (provider, name) = match named(model, params.get("custom_llm_provider").and_then(Value::as_str)) {
        Named::At(provider, name) => (provider, name),
        Named::NotSpoken(provider) => {
            return Read::Left(format!(
                "{place}: the API of {provider} is not spoken here; keep a LiteLLM in front of it, as a backend of kind litellm"
            ));
        }
        Named::Unknown(provider) => {
            return Read::Wrong(format!("{place}: the provider {} is not known", shown(provider)));
        }
    };
    if group.contains('*') || name.contains('*') {
        return Read::Left(format!("{place}: names with * stand for many models, and routes name each"));
    }
    if !is_slug(group) {
        return Read::Left(format!("{place}: its model_name is no slug (letters, digits and ._:/-)"));
    }
    if name.is_empty() || name.contains("${") {
        return Read::Wrong(format!("{place} names no model behind its provider"));
    }
    let empty = Mapping::new();
    let info = entry.get("model_info").and_then(Value::as_mapping).unwrap_or(&empty);
    let number = |key: &str| params.get(key).and_then(whole);
    let of_info = |key: &str| info.get(key);
    let deployment = Deployment {
        group: group.to_owned(),
        provider,
        model: name.to_owned(),
        base: params.get("api_base").or_else(|| params.get("base_url")).and_then(Given::of),
        key: params.get("api_key").and_then(Given::of),
        max_parallel: number("max_parallel_requests"),
        timeout: number("stream_timeout").or_else(|| number("timeout")),
        order: number("order"),
        mode: of_info("mode").and_then(Value::as_str).map(str::to_owned),
        window: of_info("max_input_tokens").or_else(|| of_info("max_tokens")).and_then(whole),
        most_output: of_info("max_output_tokens").and_then(whole),
        vision: of_info("supports_vision").and_then(Value::as_bool).unwrap_or(false),
        tools: of_info("supports_function_calling").and_then(Value::as_bool),
        costs: costs(params, info),
    };
    let notes = left_over(entry, params, info, place);
    Read::Deployment(Box::new(deployment), notes)
}

fn costs(params: &Mapping, info: &Mapping) -> Vec<(&'static str, f64)> {
    let cost = |name: &'static str| {
        let value = params.get(name).or_else(|| info.get(name))?;
        // YAML reads 3e-6 as text
        let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
        (number.is_finite() && number >= 0.0).then_some((name, number))
    };
    COSTS.iter().filter_map(|(name, ..)| cost(name)).collect()
}

/// Names everything of an entry that means nothing here.
fn left_over(entry: &Value, params: &Mapping, info: &Mapping, place: &str) -> Vec<String> {
    let is_cost = |key: &str| COSTS.iter().any(|(name, ..)| *name == key);
    let of_entry = entry.as_mapping().into_iter().flat_map(Mapping::keys).filter_map(Value::as_str);
    let of_entry = of_entry.filter(|key| !["model_name", "litellm_params", "model_info"].contains(key));
    let both = params.contains_key("timeout") && params.contains_key("stream_timeout");
    let of_params = params.keys().filter_map(Value::as_str);
    let of_params = of_params.filter(|key| !(CARRIED.contains(key) || is_cost(key)) || *key == "timeout" && both);
    let of_info = info.keys().filter_map(Value::as_str).filter(|key| !(INFO.contains(key) || is_cost(key)));
    let names: Vec<String> = of_entry
        .map(shown)
        .chain(of_params.map(|key| format!("litellm_params.{}", shown(key))))
        .chain(of_info.map(|key| format!("model_info.{}", shown(key))))
        .collect();
    if names.is_empty() { Vec::new() } else { vec![format!("{place}: not carried over: {}", names.join(", "))] }
}

/// A number of at least 1; parts of one are rounded up.
fn whole(value: &Value) -> Option<u64> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it lies between 1 and 2^32")]
    (number > 0.0 && number <= f64::from(u32::MAX)).then(|| number.ceil() as u64)
}

/// Whether a name may be an alias.
pub(crate) fn is_slug(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte))
        && !text.contains("..")
        && !text.contains("//")
}

/// A word of the file as it may stand in a line.
pub(crate) fn shown(word: &str) -> String {
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    word.chars().map(plain).take(64).collect()
}
