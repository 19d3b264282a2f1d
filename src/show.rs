//! `dgx-gateway config show`: every key with the value that is in effect, as YAML, without secrets.
//!
//! Which keys there are, and what stands in for an absent one, comes from the schemas: what the text of a key says of its
//! environment variable and its default. A key whose default is no plain value is null, with the words beside it.

use dgx_gateway::config::{Config, Overrides, document};
use dgx_gateway::plugins::Registry;
use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use serde_json::Value as Schema;
use serde_yaml::Value;

use crate::schema;
use crate::schema::shape::{Shape, members, split_default};

mod mask;
mod write;

/// A value in effect.
#[derive(Clone, Debug)]
enum Shown {
    /// Keys in order.
    Keys(Vec<(String, Self)>),
    /// Items of a list.
    Items(Vec<Self>),
    /// Anything that no schema describes further.
    Plain(Value),
    /// No value; the words say what happens then.
    Words(String),
}

/// The effective configuration as YAML.
///
/// # Errors
/// The file cannot be read, is no YAML, or a variable is not set.
pub(crate) fn effective(overrides: &Overrides, ambient: &Ambient, registry: &Registry) -> Result<String, Vec<Problem>> {
    let file = document(overrides, ambient)?;
    let schema = schema::gateway(registry);
    let mut shown = Keys { shape: Shape { root: &schema }, ambient }.section(&schema, Some(&Value::Mapping(file)));
    resolve_references(&mut shown);
    let (config, _) = Config::load(overrides, ambient, &registry.keys())?;
    if let Some(threads @ Shown::Words(_)) = shown.key_mut("server").and_then(|server| server.key_mut("threads")) {
        *threads = Shown::Plain(config.server.threads.into()); // depends on the machine
    }
    Ok(write::yaml(&shown))
}

/// Reads values by the schema of their keys.
#[derive(Clone, Copy)]
struct Keys<'a> {
    shape: Shape<'a>,
    ambient: &'a Ambient,
}

impl<'a> Keys<'a> {
    /// All keys of a mapping, and further ones that its schema leaves open.
    fn section(self, schema: &'a Schema, file: Option<&Value>) -> Shown {
        let given = file.and_then(Value::as_mapping);
        let mut keys: Vec<(String, Shown)> = members(schema)
            .map(|(key, schema)| (key.clone(), self.key(key, schema, given.and_then(|given| given.get(key.as_str())))))
            .collect();
        let open = given.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str()?, value)));
        for (key, value) in open {
            if !keys.iter().any(|(known, _)| known == key) {
                keys.push((key.to_owned(), Shown::Plain(mask::value(key, value))));
            }
        }
        Shown::Keys(keys)
    }

    fn key(self, key: &str, schema: &'a Schema, file: Option<&Value>) -> Shown {
        let inner = self.shape.resolve(schema);
        let text = [schema, inner].iter().find_map(|schema| schema.get("description")?.as_str()).unwrap_or_default();
        let from_environment = variables(text).find_map(|name| self.ambient.var(name)).map(scalar);
        let value = from_environment.as_ref().or(file.filter(|value| !value.is_null()));
        if is_secret(schema) || is_secret(inner) || mask::is_secret_name(key) {
            return match value {
                Some(_) => Shown::Plain(mask::SECRET.into()),
                None => Shown::Words("none".to_owned()),
            };
        }
        match value {
            Some(Value::Sequence(items)) if inner.get("items").is_some_and(Schema::is_object) => {
                let item = inner.get("items").map_or(inner, |items| self.shape.resolve(items));
                Shown::Items(items.iter().map(|value| self.item(key, item, value)).collect())
            }
            Some(value @ Value::Mapping(_)) if members(inner).next().is_some() => self.section(inner, Some(value)),
            Some(value) => Shown::Plain(mask::value(key, value)),
            None if members(inner).next().is_some() && !is_whole(inner) => self.section(inner, None),
            None => match default(schema, inner, text) {
                // shown like a list that stands in a file
                Shown::Plain(Value::Sequence(items)) if !items.is_empty() => {
                    Shown::Items(items.into_iter().map(Shown::Plain).collect())
                }
                shown => shown,
            },
        }
    }

    fn item(self, key: &str, schema: &'a Schema, value: &Value) -> Shown {
        if value.is_mapping() && members(schema).next().is_some() {
            self.section(schema, Some(value))
        } else {
            Shown::Plain(mask::value(key, value))
        }
    }
}

/// A schema says of a key that its value is never given back.
fn is_secret(schema: &Schema) -> bool {
    schema.get("writeOnly").is_some_and(|write_only| write_only == true)
}

/// A section with a member that has no default is there as a whole or not at all.
fn is_whole(schema: &Schema) -> bool {
    schema.get("required").and_then(Schema::as_array).is_some_and(|required| !required.is_empty())
}

/// Environment variables that a text names: capitals with underscores between backticks.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    let is_variable = |word: &&str| {
        word.contains('_')
            && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    text.split('`').skip(1).step_by(2).filter(is_variable)
}

/// A variable is text unless it is a number or a truth value.
fn scalar(text: &str) -> Value {
    match serde_yaml::from_str(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

/// What stands in for an absent value: the sentence of the text, else the default of the schema.
fn default(schema: &Schema, inner: &Schema, text: &str) -> Shown {
    let is_list = inner
        .get("type")
        .is_some_and(|kind| kind == "array" || kind.as_array().is_some_and(|kinds| kinds.contains(&"array".into())));
    let stated =
        || schema.get("default").filter(|value| !value.is_null()).and_then(|value| serde_yaml::to_value(value).ok());
    match split_default(text).0 {
        Some(words) => match plain_default(&words) {
            Some(value) => Shown::Plain(value),
            None if words == "none" && is_list => Shown::Plain(Value::Sequence(Vec::new())),
            None => Shown::Words(words),
        },
        None => match stated() {
            Some(value) => Shown::Plain(value),
            None if is_list => Shown::Plain(Value::Sequence(Vec::new())),
            None => Shown::Words(String::new()),
        },
    }
}

/// The value that the words begin with: a number or truth value, or what stands between the only backticks, up to a colon,
/// comma or semicolon.
fn plain_default(words: &str) -> Option<Value> {
    let first = words.split([';', ',']).next().unwrap_or(words);
    let first = first.split(": ").next().unwrap_or(first).trim();
    match first.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
        Some(code) if !code.contains('`') => serde_yaml::from_str(code).ok(),
        Some(_) => None,
        None => match serde_yaml::from_str(first).ok()? {
            value @ (Value::Bool(_) | Value::Number(_)) => Some(value),
            _ => None,
        },
    }
}

/// A default that names another key takes its value.
fn resolve_references(shown: &mut Shown) {
    let all = shown.clone();
    visit(shown, &mut |value| {
        let Shown::Plain(Value::String(text)) = value else { return };
        if let Some((section, key)) = text.split_once('.')
            && let Some(found @ Shown::Plain(_)) = all.key(section).and_then(|section| section.key(key))
        {
            *value = found.clone();
        }
    });
}

fn visit(shown: &mut Shown, change: &mut impl FnMut(&mut Shown)) {
    match shown {
        Shown::Keys(keys) => keys.iter_mut().for_each(|(_, value)| visit(value, change)),
        Shown::Items(items) => items.iter_mut().for_each(|value| visit(value, change)),
        Shown::Plain(_) | Shown::Words(_) => change(shown),
    }
}

impl Shown {
    fn key(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Keys(keys) => keys.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    fn key_mut(&mut self, name: &str) -> Option<&mut Self> {
        match self {
            Self::Keys(keys) => keys.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
