//! Changing `tokens.yaml` without writing it anew: from text to text, every other byte as it was.
//!
//! A change is spliced in at the places that a YAML parser reports. Afterwards the new text is read with the parser
//! that the gateway uses, and must say exactly what was meant; else the change is refused. So a form of YAML that is
//! not foreseen here leads to [`EditError::Unforeseen`], never to a wrong file.

mod splice;
#[cfg(test)]
mod tests;
mod tree;

use std::time::{Duration, SystemTime};

use dgx_gateway_filter::yaml;
use jiff::Timestamp;
use serde_yaml::{Mapping, Value};

use self::splice::Splices;
use self::tree::{Node, tree};
use crate::digest::Digest;
use crate::tenant::DEFAULT_TENANT;
use crate::tokens_file::EditError;

/// Head of a file that is made here.
const HEAD: &str = "# Tenants and tokens. Only the account that runs the gateway may read this file (mode 0600).";

/// A token to be added.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// Unique id.
    pub id: String,
    /// Tenant that it is bound to; `None`: any.
    pub tenant: Option<String>,
    /// Role word of the file.
    pub role: Option<String>,
    /// Name for people.
    pub label: Option<String>,
    /// User whose personal token it is.
    pub user: Option<String>,
    /// When its secret ends.
    pub expires: Option<SystemTime>,
}

/// Adds a token with one secret. A file that is made here lists the tenant of its first token, too, or `default`.
///
/// # Errors
/// The id is taken, or the text cannot be changed safely.
pub(crate) fn add(text: Option<&str>, token: &NewToken, secret: &Digest) -> Result<String, EditError> {
    let old = text.unwrap_or_default();
    let value = parsed(old)?;
    if position(&value, &token.id).is_some() {
        return Err(EditError::Exists(token.id.clone()));
    }
    let lines = token_lines(token, secret);
    let item: Value = parsed(&lines.join("\n"))?;
    let item = item.get(0).cloned().ok_or(EditError::Unforeseen)?;
    let mut splices = Splices::new(old);
    let expected = if value.is_null() {
        let mut all = if old.is_empty() { vec![HEAD.to_owned()] } else { Vec::new() };
        all.push("version: 1".to_owned());
        all.push("tenants:".to_owned());
        all.push(format!("  - id: {}", scalar(token.tenant.as_deref().unwrap_or(DEFAULT_TENANT))));
        all.extend(tokens_lines(&lines));
        splices.lines_at_end(&all);
        parsed(&all.join("\n"))?
    } else {
        splice_token(old, &mut splices, &lines, &item)?;
        let mut expected = value;
        list(&mut expected)?.push(item);
        expected
    };
    checked(splices, &expected)
}

/// Adds a secret to a token and lets its others end at `end`, unless they end earlier.
///
/// # Errors
/// There is no such token, or the text cannot be changed safely.
pub(crate) fn rotate(text: &str, id: &str, secret: &Digest, end: SystemTime) -> Result<String, EditError> {
    let mut expected = parsed(text)?;
    let index = position(&expected, id).ok_or_else(|| EditError::Unknown(id.to_owned()))?;
    let tree = tree(text).ok_or(EditError::Unforeseen)?;
    let secrets = tree.key("tokens").and_then(Node::items).and_then(|items| items.get(index));
    let secrets = secrets.and_then(|token| token.key("secrets")).ok_or(EditError::Unforeseen)?;
    let nodes = secrets.items().ok_or(EditError::Unforeseen)?;
    let values = list(&mut expected)?.get_mut(index).and_then(|token| token.get_mut("secrets"));
    let values = values.and_then(Value::as_sequence_mut).ok_or(EditError::Unforeseen)?;
    let mut splices = Splices::new(text);
    let end_text = timestamp(end)?;
    for (node, value) in nodes.iter().zip(values.iter_mut()) {
        let known = value.get("expires_at").and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
        if known.is_none_or(|known| SystemTime::from(known) > end) {
            expire(&mut splices, text, node, &end_text)?;
            let mapping = value.as_mapping_mut().ok_or(EditError::Unforeseen)?;
            mapping.insert("expires_at".into(), end_text.as_str().into());
        }
    }
    let item = secret_item(secret, None)?;
    values.push(parsed(&item)?);
    match nodes.last() {
        Some(last) if !secrets.is_flow(text) => {
            splices.block_item(last, &[format!("- {item}")]).ok_or(EditError::Unforeseen)?;
        }
        _ => splices.flow_item(secrets, &item),
    }
    checked(splices, &expected)
}

/// Takes a token out. Comments above it stay; those inside it go with it.
///
/// # Errors
/// There is no such token, or the text cannot be changed safely.
pub(crate) fn revoke(text: &str, id: &str) -> Result<String, EditError> {
    let mut expected = parsed(text)?;
    let index = position(&expected, id).ok_or_else(|| EditError::Unknown(id.to_owned()))?;
    let tree = tree(text).ok_or(EditError::Unforeseen)?;
    let tokens = tree.key("tokens").ok_or(EditError::Unforeseen)?;
    let mut splices = Splices::new(text);
    splices.remove_item(tokens, index).ok_or(EditError::Unforeseen)?;
    list(&mut expected)?.remove(index);
    checked(splices, &expected)
}

fn parsed(text: &str) -> Result<Value, EditError> {
    serde_yaml::from_str(text).map_err(|error| EditError::Invalid(vec![yaml::syntax_problem(&error)]))
}

/// Index of a token.
fn position(document: &Value, id: &str) -> Option<usize> {
    let tokens = document.get("tokens")?.as_sequence()?;
    tokens.iter().position(|token| token.get("id").and_then(Value::as_str) == Some(id))
}

/// The tokens of a document; an absent list becomes an empty one.
fn list(document: &mut Value) -> Result<&mut Vec<Value>, EditError> {
    let root = document.as_mapping_mut().ok_or(EditError::Unforeseen)?;
    let tokens = root.entry("tokens".into()).or_insert_with(|| Value::Sequence(Vec::new()));
    if tokens.is_null() {
        *tokens = Value::Sequence(Vec::new());
    }
    tokens.as_sequence_mut().ok_or(EditError::Unforeseen)
}

/// The new text, if it says what was meant.
fn checked(splices: Splices<'_>, expected: &Value) -> Result<String, EditError> {
    let text = splices.finish().ok_or(EditError::Unforeseen)?;
    let mut found: Value = serde_yaml::from_str(&text).map_err(|_| EditError::Unforeseen)?;
    let mut expected = expected.clone();
    list(&mut found)?;
    list(&mut expected)?;
    if found == expected { Ok(text) } else { Err(EditError::Unforeseen) }
}

fn splice_token(text: &str, splices: &mut Splices<'_>, lines: &[String], item: &Value) -> Result<(), EditError> {
    let root = tree(text).ok_or(EditError::Unforeseen)?;
    let flow = || flow(item).ok_or(EditError::Unforeseen);
    let Some(tokens) = root.key("tokens") else {
        if root.is_flow(text) {
            let end = match &root.shape {
                tree::Shape::Mapping(entries) => entries.last().map(|(_, last)| last.span.end),
                _ => None,
            };
            let end = end.ok_or(EditError::Unforeseen)?;
            splices.replace(end..end, format!(", tokens: [{}]", flow()?));
        } else {
            splices.lines_at_end(&tokens_lines(lines));
        }
        return Ok(());
    };
    match tokens.items() {
        Some([.., last]) if !tokens.is_flow(text) => {
            splices.block_item(last, lines).ok_or(EditError::Unforeseen)?;
        }
        Some(_) => splices.flow_item(tokens, &flow()?),
        None if tokens.span.is_empty() => {
            splices.lines_behind(tokens.span.end, 2, lines);
        }
        None => splices.replace(tokens.span.clone(), format!("[{}]", flow()?)),
    }
    Ok(())
}

/// Sets the end of a secret.
fn expire(splices: &mut Splices<'_>, text: &str, secret: &Node, end: &str) -> Result<(), EditError> {
    let tree::Shape::Mapping(entries) = &secret.shape else { return Err(EditError::Unforeseen) };
    let (_, last) = entries.last().ok_or(EditError::Unforeseen)?;
    match secret.key("expires_at") {
        Some(known) if known.span.is_empty() => splices.replace(known.span.clone(), format!(" \"{end}\"")),
        Some(known) => splices.replace(known.span.clone(), format!("\"{end}\"")),
        None if secret.is_flow(text) => {
            splices.replace(last.span.end..last.span.end, format!(", expires_at: \"{end}\""));
        }
        None => {
            let column = splices.column(secret.span.start);
            splices.lines_behind(last.span.end, column, &[format!("expires_at: \"{end}\"")]);
        }
    }
    Ok(())
}

fn tokens_lines(lines: &[String]) -> Vec<String> {
    std::iter::once("tokens:".to_owned()).chain(lines.iter().map(|line| format!("  {line}"))).collect()
}

/// A token as an item of a block list.
fn token_lines(token: &NewToken, secret: &Digest) -> Vec<String> {
    let mut lines = vec![format!("- id: {}", scalar(&token.id))];
    let members = [
        ("label", &token.label),
        ("role", &token.role),
        ("bound_tenant", &token.tenant),
        ("default_user_id", &token.user),
    ];
    for (key, value) in members {
        lines.extend(value.as_deref().map(|value| format!("  {key}: {}", scalar(value))));
    }
    lines.push("  secrets:".to_owned());
    let expires = token.expires.and_then(|at| timestamp(at).ok());
    lines.push(format!("    - {}", secret_text(secret, expires.as_deref())));
    lines
}

fn secret_item(secret: &Digest, expires: Option<SystemTime>) -> Result<String, EditError> {
    let expires = expires.map(timestamp).transpose()?;
    Ok(secret_text(secret, expires.as_deref()))
}

fn secret_text(secret: &Digest, expires: Option<&str>) -> String {
    let expires = expires.map(|at| format!(", expires_at: \"{at}\"")).unwrap_or_default();
    format!("{{sha256: \"{}\"{expires}}}", secret.hex())
}

/// A time in UTC with whole seconds, rounded up: a secret does not end earlier than was promised.
fn timestamp(at: SystemTime) -> Result<String, EditError> {
    let at = Timestamp::try_from(at).map_err(|_| EditError::Time)?;
    let whole = if at.subsec_nanosecond() > 0 { at.as_second() + 1 } else { at.as_second() };
    Timestamp::from_second(whole).map(|at| at.to_string()).map_err(|_| EditError::Time)
}

/// A value in one line. Only what a token made here can hold: text, lists and mappings.
fn flow(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(scalar(text)),
        Value::Sequence(items) => {
            let items: Option<Vec<_>> = items.iter().map(flow).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Value::Mapping(mapping) => {
            let entry = |(key, value): (&Value, &Value)| Some(format!("{}: {}", key.as_str()?, flow(value)?));
            let entries: Option<Vec<_>> = Mapping::iter(mapping).map(entry).collect();
            Some(format!("{{{}}}", entries?.join(", ")))
        }
        _ => None,
    }
}

/// A text as a scalar: bare when it stays a text then, else in double quotes.
fn scalar(text: &str) -> String {
    let simple = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let begins = text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic());
    if simple && begins && serde_yaml::from_str::<Value>(text).is_ok_and(|value| value.as_str() == Some(text)) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            character if character.is_control() || !(' '..='\u{d7ff}').contains(&character) => {
                out.push_str(&format!("\\U{:08X}", u32::from(character)));
            }
            character => out.push(character),
        }
    }
    out.push('"');
    out
}

/// The end of a secret as it is written.
#[must_use]
pub fn expiry_text(at: SystemTime) -> Option<String> {
    timestamp(at).ok()
}

/// Reads a length of time such as `24h`: a whole number with `s`, `m`, `h` or `d`; at most ten years.
#[must_use]
pub fn grace(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let digits = text.strip_suffix(unit)?;
    let number: u64 = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    number.checked_mul(seconds).filter(|seconds| *seconds <= 3650 * 86_400).map(Duration::from_secs)
}

/// Reads the end of a secret: a day such as `2027-01-01`, which begins at midnight UTC, or a time such as
/// `2027-01-01T12:00:00Z`.
#[must_use]
pub fn expiry(text: &str) -> Option<SystemTime> {
    let whole = format!("{text}T00:00:00Z");
    text.parse::<Timestamp>().or_else(|_| whole.parse::<Timestamp>()).ok().map(SystemTime::from)
}
