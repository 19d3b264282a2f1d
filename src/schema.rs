//! The shapes of the configuration files as JSON Schema, and what is made from them: the reference of all keys and the
//! effective configuration.

mod reference;
pub(crate) mod shape;

use dgx_gateway::config::CoreFile;
use dgx_gateway::plugins::Registry;
use dgx_gateway::registry::{models_file, pricing_file, tokens_file};
use serde_json::{Map, Value, json};

pub(crate) use self::reference::reference;

/// JSON Schema of `gateway.yaml`: the keys of the core and those of every service.
pub(crate) fn gateway(registry: &Registry) -> Value {
    let core = schemars::schema_for!(CoreFile).to_value();
    let sections = registry.services.iter().map(|service| (service.name, (service.schema)().to_value()));
    let mut merged = Merged::default();
    for (owner, schema) in std::iter::once(("core", core)).chain(sections) {
        merged.add(owner, schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gateway.yaml of dgx-gateway",
        "type": "object",
        "additionalProperties": false,
        "properties": merged.properties,
        "$defs": merged.definitions,
    })
}

/// JSON Schema of the models file.
pub(crate) fn models() -> Value {
    titled("models.yaml of dgx-gateway", models_file())
}

/// JSON Schema of the price file.
pub(crate) fn pricing() -> Value {
    titled("pricing.yaml of dgx-gateway", pricing_file())
}

fn titled(title: &str, schema: schemars::Schema) -> Value {
    let mut schema = schema.to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("title".to_owned(), title.into());
        schema.remove("description");
    }
    schema
}

/// JSON Schema of the file with tenants and tokens.
pub(crate) fn tokens() -> Value {
    tokens_file().to_value()
}

/// A schema as the text of a file.
pub(crate) fn text(schema: &Value) -> String {
    format!("{schema:#}\n")
}

#[derive(Default)]
struct Merged {
    properties: Map<String, Value>,
    definitions: Map<String, Value>,
}

impl Merged {
    /// Takes over the members of one file shape. Two shapes may use one name for different definitions; the later
    /// one is then renamed after its owner.
    fn add(&mut self, owner: &str, mut schema: Value) {
        let definitions = schema.get_mut("$defs").map(Value::take).unwrap_or_default();
        for (name, definition) in object(definitions) {
            let taken = self.definitions.get(&name).is_some_and(|known| *known != definition);
            if taken {
                let renamed = format!("{owner}.{name}");
                redirect(&mut schema, &format!("#/$defs/{name}"), &format!("#/$defs/{renamed}"));
                self.definitions.insert(renamed, definition);
            } else {
                self.definitions.insert(name, definition);
            }
        }
        self.properties.extend(object(schema.get_mut("properties").map(Value::take).unwrap_or_default()));
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn redirect(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) if text == from => to.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(|item| redirect(item, from, to)),
        Value::Object(map) => map.values_mut().for_each(|item| redirect(item, from, to)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dgx_gateway::registry::registry;

    use super::*;

    fn is_current(file: &str, wanted: &str, command: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "docs/{file} is not current. Run: cargo run -- config {command} > docs/{file}");
    }

    #[test]
    fn the_reference_in_docs_is_current() {
        is_current("CONFIG.md", &reference(&registry()), "reference");
    }

    #[test]
    fn the_schemas_in_docs_are_current() {
        is_current("gateway.schema.json", &text(&gateway(&registry())), "schema");
        is_current("models.schema.json", &text(&models()), "schema --file models");
        is_current("pricing.schema.json", &text(&pricing()), "schema --file pricing");
        is_current("tokens.schema.json", &text(&tokens()), "schema --file tokens");
    }

    #[test]
    fn every_key_of_every_service_is_in_the_schema() {
        let schema = gateway(&registry());
        for key in registry().keys().into_iter().chain(["server", "log", "data_dir", "routes"]) {
            assert!(schema["properties"][key].is_object(), "{key}");
        }
    }

    #[test]
    fn every_reference_leads_to_a_definition() {
        fn check(value: &Value, root: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        assert!(root.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                    }
                    map.values().for_each(|value| check(value, root));
                }
                Value::Array(items) => items.iter().for_each(|value| check(value, root)),
                _ => {}
            }
        }
        for schema in [gateway(&registry()), models(), pricing(), tokens()] {
            check(&schema, &schema);
        }
    }

    #[test]
    fn every_key_says_what_it_means() {
        for line in reference(&registry()).lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("| – |  |"), "{line}");
        }
    }

    #[test]
    fn shapes_that_share_a_name_do_not_overwrite_each_other() {
        let shape = |of: &str| {
            json!({
                "properties": {of: {"$ref": "#/$defs/Same"}},
                "$defs": {"Same": {"type": "object", "title": of}},
            })
        };
        let mut merged = Merged::default();
        merged.add("a", shape("first"));
        merged.add("b", shape("second"));
        assert_eq!(merged.properties["first"]["$ref"], "#/$defs/Same");
        assert_eq!(merged.properties["second"]["$ref"], "#/$defs/b.Same");
        assert_eq!(merged.definitions["b.Same"]["title"], "second");
    }
}
