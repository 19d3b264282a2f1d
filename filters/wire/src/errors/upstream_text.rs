//! What an upstream says in an error body: its message, and the words that class it.

use serde_json::Value;

/// The text for people: `error.message`, else `message`, else `detail` if a string, else the whole body.
pub(super) fn message(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let found = value.as_ref().and_then(|value| {
        [value.pointer("/error/message"), value.get("message"), value.get("detail")]
            .into_iter()
            .flatten()
            .find_map(Value::as_str)
    });
    found.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

/// What an error body says about its own cause, in lower case.
#[derive(Debug, Default)]
pub(super) struct Statement {
    /// Codes and types: `error.code`, `error.type`, `error.status`, their top-level twins, `innererror.code`.
    pub(super) codes: Vec<String>,
    /// Messages, one per line. Values that only repeat the request are left out.
    pub(super) text: String,
}

/// How many objects and arrays deep an error is looked for: an error in a list, wrapped in another one.
const MAX_NESTING: u8 = 6;

impl Statement {
    pub(super) fn of(body: &[u8]) -> Self {
        let mut statement = Self::default();
        match serde_json::from_slice(body) {
            Ok(value) => statement.read(&value, MAX_NESTING),
            Err(_) => statement.say(&String::from_utf8_lossy(body)),
        }
        statement
    }

    /// Whether one of the codes is `code`.
    pub(super) fn has_code(&self, code: &str) -> bool {
        self.codes.iter().any(|known| known == code)
    }

    fn read(&mut self, value: &Value, nesting: u8) {
        let Some(nesting) = nesting.checked_sub(1) else { return };
        match value {
            Value::Array(values) => values.iter().take(4).for_each(|value| self.read(value, nesting)),
            Value::String(text) => self.say(text),
            Value::Object(members) => {
                for name in ["code", "type", "status"] {
                    if let Some(code) = members.get(name).and_then(Value::as_str) {
                        self.codes.push(code.to_lowercase());
                    }
                }
                for name in ["message", "msg"] {
                    if let Some(text) = members.get(name).and_then(Value::as_str) {
                        self.say(text);
                    }
                }
                if let Some(place) = members.get("loc").or_else(|| members.get("param")) {
                    self.say(&place.to_string());
                }
                for name in ["error", "detail", "innererror"] {
                    if let Some(inner) = members.get(name) {
                        self.read(inner, nesting);
                    }
                }
                if let Some(raw) = value.pointer("/metadata/raw").and_then(Value::as_str) {
                    self.read_wrapped(raw, nesting);
                }
            }
            Value::Bool(_) | Value::Null | Value::Number(_) => {}
        }
    }

    /// An aggregator passes the body of its own upstream on as text.
    fn read_wrapped(&mut self, raw: &str, nesting: u8) {
        match serde_json::from_str(raw) {
            Ok(value) => self.read(&value, nesting),
            Err(_) => self.say(raw),
        }
    }

    fn say(&mut self, text: &str) {
        self.text.push_str(&text.to_lowercase());
        self.text.push('\n');
    }
}
