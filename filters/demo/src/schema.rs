//! A value that fits a JSON schema, with words and numbers of the prompt in it where they fit.
//!
//! Understood are `type`, `enum`, `const`, `properties`, `required`, `items`, `prefixItems`, `anyOf`, `oneOf`,
//! `allOf` (its first member), local `$ref`, and the bounds of numbers, texts and arrays. Patterns are not.

use serde_json::{Map, Number, Value};

/// Schemas may refer to themselves; below this depth a value is `null`.
const MAX_DEPTH: usize = 16;

/// Values that are made for one schema; those after them are `null`. Keeps branching recursion small.
const MAX_VALUES: usize = 1000;

/// Longest array that `minItems` can ask for.
const MAX_ITEMS: u64 = 64;

/// Longest text, in characters, that is taken from the prompt.
const MAX_TEXT: usize = 200;

/// Where values come from: one user message. Numbers, quoted texts and names are used up in order; the last
/// text serves again.
pub(crate) struct Source<'a> {
    text: &'a str,
    numbers: Vec<f64>,
    texts: Vec<String>,
}

impl<'a> Source<'a> {
    /// Looks for numbers, quoted texts and names. The lists are kept in reverse, to be popped.
    pub(crate) fn new(text: &'a str) -> Self {
        let bare = |word: &'a str| word.trim_matches(|c: char| !c.is_ascii_digit() && c != '-');
        let numbers = text.split_whitespace().rev().filter_map(|word| bare(word).parse().ok()).collect();
        let quoted = text.split('"').skip(1).step_by(2).filter(|text| !text.is_empty()).map(str::to_owned);
        let mut texts: Vec<String> = quoted.collect();
        texts.extend(text.split('"').step_by(2).flat_map(names));
        texts.reverse();
        Self { text, numbers, texts }
    }

    /// A quoted text, else a name, else the whole message.
    fn text(&mut self) -> String {
        let text = match self.texts.as_slice() {
            [] => self.text.trim(),
            [.., text] => text,
        };
        let text = text.chars().take(MAX_TEXT).collect();
        if self.texts.len() > 1 {
            self.texts.pop();
        }
        text
    }

    fn mentions(&self, value: &Value) -> bool {
        value.as_str().is_some_and(|value| self.text.to_lowercase().contains(&value.to_lowercase()))
    }
}

/// A value that fits the schema.
pub(crate) fn fill(schema: &Map<String, Value>, source: &mut Source<'_>) -> Value {
    Filler { root: schema, source, left: MAX_VALUES }.object_or_other(schema, 0)
}

struct Filler<'a, 'b, 'c> {
    root: &'a Map<String, Value>,
    source: &'b mut Source<'c>,
    left: usize,
}

impl Filler<'_, '_, '_> {
    fn any(&mut self, schema: Option<&Value>, depth: usize) -> Value {
        match schema.and_then(Value::as_object) {
            Some(schema) if depth < MAX_DEPTH && self.left > 0 => {
                self.left -= 1;
                self.object_or_other(schema, depth)
            }
            _ => Value::Null,
        }
    }

    fn object_or_other(&mut self, schema: &Map<String, Value>, depth: usize) -> Value {
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            let mentioned = values.iter().find(|value| self.source.mentions(value));
            return mentioned.or(values.first()).cloned().unwrap_or_default();
        }
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            return self.any(resolve(self.root, name), depth + 1);
        }
        let alternatives = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema.get(*key)?.as_array()?.first());
        if let (Some(first), false) = (alternatives, schema.contains_key("properties")) {
            return self.any(Some(first), depth + 1);
        }
        match kind(schema) {
            "array" => self.array(schema, depth),
            "boolean" => Value::Bool(true),
            "integer" => self.number(schema, true),
            "null" => Value::Null,
            "number" => self.number(schema, false),
            "object" => self.object(schema, depth),
            _ => Value::String(self.text(schema)),
        }
    }

    /// The required members; all members where nothing is said about required ones.
    fn object(&mut self, schema: &Map<String, Value>, depth: usize) -> Value {
        let properties = schema.get("properties").and_then(Value::as_object);
        let names: Vec<&str> = match schema.get("required").and_then(Value::as_array) {
            Some(required) => required.iter().filter_map(Value::as_str).collect(),
            None => properties.into_iter().flat_map(Map::keys).map(String::as_str).collect(),
        };
        let value = |name: &str| {
            let schema = properties.and_then(|properties| properties.get(name));
            (name.to_owned(), self.any(schema, depth + 1))
        };
        Value::Object(names.into_iter().map(value).collect())
    }

    fn array(&mut self, schema: &Map<String, Value>, depth: usize) -> Value {
        if let Some(prefix) = schema.get("prefixItems").and_then(Value::as_array) {
            return prefix.iter().map(|item| self.any(Some(item), depth + 1)).collect();
        }
        let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(1).min(MAX_ITEMS);
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0).min(MAX_ITEMS);
        (0..least.max(most.min(1))).map(|_| self.any(schema.get("items"), depth + 1)).collect()
    }

    fn number(&mut self, schema: &Map<String, Value>, whole: bool) -> Value {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let least = bound("minimum").or(bound("exclusiveMinimum").map(|bound| bound + 1.0));
        let most = bound("maximum").or(bound("exclusiveMaximum").map(|bound| bound - 1.0));
        let mut value = self.source.numbers.pop().unwrap_or(1.0);
        if whole {
            value = value.trunc();
        }
        value = least.map_or(value, |least| value.max(least));
        value = most.map_or(value, |most| value.min(most));
        // A whole number is written without a fraction; its text is the shortest way to an exact integer.
        let number = if whole { format!("{value:.0}").parse().ok().map(|value: i64| value.into()) } else { None };
        number.or_else(|| Number::from_f64(value)).map_or(Value::Null, Value::Number)
    }

    fn text(&mut self, schema: &Map<String, Value>) -> String {
        let fixed = match schema.get("format").and_then(Value::as_str) {
            Some("date") => Some("2025-01-01"),
            Some("date-time") => Some("2025-01-01T00:00:00Z"),
            Some("email") => Some("demo@example.com"),
            Some("time") => Some("00:00:00Z"),
            Some("uri") => Some("https://example.com/"),
            Some("uuid") => Some("00000000-0000-4000-8000-000000000000"),
            _ => None,
        };
        let text = fixed.map_or_else(|| self.source.text(), str::to_owned);
        let limit = |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let text: String = text.chars().take(limit("maxLength").unwrap_or(MAX_TEXT)).collect();
        let missing = limit("minLength").unwrap_or(0).min(MAX_TEXT).saturating_sub(text.chars().count());
        text + &"x".repeat(missing)
    }
}

/// Runs of capitalised words, such as `New York`; the first word of a sentence does not begin one.
fn names(text: &str) -> Vec<String> {
    let (mut runs, mut run, mut after_stop) = (Vec::new(), Vec::new(), true);
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let named = bare.starts_with(char::is_uppercase) && bare != "I" && !after_stop;
        if named {
            run.push(bare);
        }
        after_stop = word.ends_with(['.', '!', '?', ':']);
        if !named || bare.len() < word.trim_start_matches(|c: char| !c.is_alphanumeric()).len() {
            runs.extend((!run.is_empty()).then(|| std::mem::take(&mut run).join(" ")));
        }
    }
    runs.extend((!run.is_empty()).then(|| run.join(" ")));
    runs
}

/// The type to fill: the first that is not `null`, guessed from other keys where none is named.
fn kind(schema: &Map<String, Value>) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.contains_key("properties") => "object",
        _ if schema.contains_key("items") => "array",
        _ => "string",
    }
}

/// A local reference, `#` or `#/$defs/name`.
fn resolve<'a>(root: &'a Map<String, Value>, reference: &str) -> Option<&'a Value> {
    let mut parts = reference.strip_prefix("#/")?.split('/');
    let first = root.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(schema: Value, text: &str) -> Value {
        fill(schema.as_object().unwrap(), &mut Source::new(text))
    }

    #[test]
    fn an_object_has_its_required_members_in_their_types() {
        let schema = json!({
            "type": "object", "required": ["name", "age", "score", "ok", "tags", "unit", "home"],
            "properties": {
                "name": {"type": "string"}, "age": {"type": "integer", "minimum": 18}, "score": {"type": "number"},
                "ok": {"type": "boolean"}, "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "unit": {"enum": ["celsius", "kelvin"]}, "extra": {"type": "string"},
                "home": {"type": "object", "properties": {"city": {"type": ["null", "string"]}}, "required": ["city"]}
            }
        });
        let value = filled(schema, r#"call her "Ada", 7 years, 2.5 points, in "kelvin" from Paris"#);
        assert_eq!(
            value,
            json!({"name": "Ada", "age": 18, "score": 2.5, "ok": true, "tags": ["kelvin", "Paris"], "unit": "kelvin",
                "home": {"city": "Paris"}})
        );
    }

    #[test]
    fn names_are_runs_of_capitalised_words() {
        assert_eq!(names("Is it warm in New York, Paris or Rome? In celsius, I hope."), ["New York", "Paris", "Rome"]);
        assert!(names("Say hello.").is_empty());
    }

    #[test]
    fn references_are_followed_and_recursion_ends() {
        let schema = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
            "properties": {"a": {"$ref": "#/$defs/node"}, "b": {"$ref": "#/$defs/node"}}, "required": ["a", "b"]}}});
        let value = filled(schema, "x");
        assert!(value["a"]["a"].is_object() && value.to_string().len() < 20 * MAX_VALUES);
    }

    #[test]
    fn bounds_hold() {
        assert_eq!(filled(json!({"type": "integer", "maximum": 3}), "take 9"), json!(3));
        assert_eq!(filled(json!({"type": "string", "maxLength": 2}), "hello"), json!("he"));
        assert_eq!(filled(json!({"type": "string", "minLength": 4}), "hi"), json!("hixx"));
        assert_eq!(filled(json!({"type": "array", "maxItems": 0, "items": {}}), "hi"), json!([]));
        assert_eq!(filled(json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}), "hi"), json!(true));
    }
}
