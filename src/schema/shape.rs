//! Reading a JSON Schema: references, alternatives, and what the text of a key says of its default.

use serde_json::Value;

/// Depth at which a schema that refers to itself is cut.
pub(super) const MAX_DEPTH: usize = 8;

pub(crate) fn members(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// Reads a schema with its definitions at hand.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub(crate) root: &'a Value,
}

impl<'a> Shape<'a> {
    /// The definition behind a reference, and the schema that is not `null` among alternatives.
    pub(crate) fn resolve(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..MAX_DEPTH {
            let of_option = schema.get("anyOf").and_then(Value::as_array).and_then(|any| match any.as_slice() {
                [inner, null] if null.get("type").is_some_and(|kind| kind == "null") => Some(inner),
                _ => None,
            });
            let named = schema.get("$ref").and_then(Value::as_str);
            let next = of_option.or_else(|| self.root.pointer(named?.strip_prefix('#')?));
            match next {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }
}

/// The sentence `Default …` of a text, and the text without it.
pub(crate) fn split_default(text: &str) -> (Option<String>, String) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut default, mut rest) = (None, Vec::new());
    for sentence in text.split_inclusive(". ") {
        let sentence = sentence.trim();
        match sentence.strip_prefix("Default: ").or_else(|| sentence.strip_prefix("Default ")) {
            Some(said) if default.is_none() => default = Some(said.trim_end_matches('.').to_owned()),
            _ => rest.push(sentence.to_owned()),
        }
    }
    (default, rest.join(" "))
}

/// The default that the schema states, when it is a plain value.
pub(crate) fn stated_default(schema: &Value) -> String {
    match schema.get("default") {
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        Some(Value::String(text)) if !text.is_empty() => format!("`{text}`"),
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_leaves_the_text_for_its_own_column() {
        let (default, rest) = split_default("Worker threads; 1 to 1024. Default: the number of processors.");
        assert_eq!(
            (default.as_deref(), rest.as_str()),
            (Some("the number of processors"), "Worker threads; 1 to 1024.")
        );
        let (default, rest) = split_default("Listens. Default `127.0.0.1:3000`. Environment: `X`.");
        assert_eq!((default.as_deref(), rest.as_str()), (Some("`127.0.0.1:3000`"), "Listens. Environment: `X`."));
    }
}
