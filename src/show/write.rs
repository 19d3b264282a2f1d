//! Values as YAML, with words beside those that are null.

use serde_yaml::Value;

use super::Shown;

/// The whole document.
pub(super) fn yaml(shown: &Shown) -> String {
    let mut out = String::new();
    block(&mut out, shown, 0);
    out
}

/// Writes keys or items, each on lines of its own. `depth` counts levels of two spaces.
fn block(out: &mut String, shown: &Shown, depth: usize) {
    match shown {
        Shown::Keys(keys) => {
            for (key, value) in keys {
                out.push_str(&"  ".repeat(depth));
                out.push_str(&inline(&Value::String(key.clone())));
                out.push(':');
                below(out, value, depth);
            }
        }
        Shown::Items(items) => {
            for item in items {
                out.push_str(&"  ".repeat(depth));
                out.push('-');
                below(out, item, depth);
            }
        }
        Shown::Plain(_) | Shown::Words(_) => {}
    }
}

/// Writes what stands behind a colon or a dash.
fn below(out: &mut String, shown: &Shown, depth: usize) {
    match shown {
        Shown::Keys(keys) if keys.is_empty() => out.push_str(" {}\n"),
        Shown::Items(items) if items.is_empty() => out.push_str(" []\n"),
        Shown::Keys(_) | Shown::Items(_) => {
            out.push('\n');
            block(out, shown, depth + 1);
        }
        Shown::Plain(value) => {
            out.push(' ');
            out.push_str(&inline(value));
            out.push('\n');
        }
        Shown::Words(words) if words.is_empty() => out.push_str(" null\n"),
        Shown::Words(words) => {
            out.push_str(" null # ");
            out.push_str(words);
            out.push('\n');
        }
    }
}

/// A value on one line. Text in quotes is JSON, which YAML includes; so are lists and mappings.
fn inline(value: &Value) -> String {
    let bare = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./:+".contains(&byte))
            && !text.ends_with(':')
            && !text.starts_with(['-', ':'])
            && matches!(serde_yaml::from_str(text), Ok(Value::String(again)) if again == text)
    };
    match value {
        Value::String(text) if bare(text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_else(|_| "null".to_owned()),
    }
}
