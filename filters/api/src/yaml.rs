//! Reading configuration files: YAML, with `${NAME}` and `${NAME:-default}` expanded per scalar after parsing, so
//! that a value can never change the structure of the document.

pub mod locate;
pub mod scalar;

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_yaml::Value;

use crate::ambient::Ambient;
use crate::filter::Problem;

/// Parses a file's text and expands it.
///
/// # Errors
/// The syntax error with its line, or every variable that is not set, each with its key.
pub fn parse(text: &str, file: &Path, ambient: &Ambient) -> Result<Value, Vec<Problem>> {
    let mut document: Value = serde_yaml::from_str(text).map_err(|error| vec![syntax_problem(&error).in_file(file)])?;
    let mut problems = Vec::new();
    expand(&mut document, "", ambient, &mut problems);
    if problems.is_empty() { Ok(document) } else { Err(located(problems, file, text)) }
}

/// Parses a file's text and expands the value of one top-level key; `None` when it is not there.
///
/// # Errors
/// The syntax error with its line, or every variable of the key that is not set.
pub fn parse_key(text: &str, file: &Path, key: &str, ambient: &Ambient) -> Result<Option<Value>, Vec<Problem>> {
    let document: Value = serde_yaml::from_str(text).map_err(|error| vec![syntax_problem(&error).in_file(file)])?;
    let mut problems = Vec::new();
    let value = document.get(key).filter(|value| !value.is_null()).cloned().map(|mut value| {
        expand(&mut value, key, ambient, &mut problems);
        value
    });
    if problems.is_empty() { Ok(value) } else { Err(located(problems, file, text)) }
}

/// Reads a parsed document into its file shape.
///
/// # Errors
/// What does not fit, with its key.
pub fn read<T: DeserializeOwned>(document: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." { String::new() } else { path };
        Problem::at(key, error.into_inner().to_string())
    })
}

/// Fills in the lines of problems that have a key in this file.
#[must_use]
pub fn located(problems: Vec<Problem>, file: &Path, text: &str) -> Vec<Problem> {
    let locate = |mut problem: Problem| {
        if problem.line.is_none() && problem.file.as_deref().is_none_or(|named| named == file) {
            problem.line = locate::line(text, &problem.key);
            problem.file = Some(file.to_owned());
        }
        problem
    };
    problems.into_iter().map(locate).collect()
}

/// The problem of a text that is no YAML. The parser's own words are not told: some of them quote the file, and
/// files hold secrets.
#[must_use]
pub fn syntax_problem(error: &serde_yaml::Error) -> Problem {
    let message = "is not valid YAML here or shortly before: indentation, brackets, quotes, tags, or a key given twice";
    let mut problem = Problem::at("", message);
    problem.line = error.location().map(|location| location.line());
    problem
}

/// Expands every string scalar below `value`. A scalar that is one reference as a whole takes the type that
/// its value has in YAML; inside a longer string the value stays text.
fn expand(value: &mut Value, path: &str, ambient: &Ambient, problems: &mut Vec<Problem>) {
    match value {
        Value::String(text) if scalar::needed(text) => match scalar::expand(text, ambient) {
            Ok(new) => *value = typed(text, new.into_owned()),
            Err(error) => problems.push(Problem::at(path, error.to_string())),
        },
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand(item, &format!("{path}[{index}]"), ambient, problems);
            }
        }
        Value::Mapping(mapping) => {
            for (key, item) in mapping.iter_mut() {
                let key = key.as_str().unwrap_or("?");
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                expand(item, &path, ambient, problems);
            }
        }
        _ => {}
    }
}

fn typed(original: &str, new: String) -> Value {
    let whole = original.starts_with("${") && original.find('}') == Some(original.len() - 1);
    match serde_yaml::from_str::<Value>(&new) {
        Ok(scalar @ (Value::Bool(_) | Value::Number(_))) if whole => scalar,
        Ok(Value::Null) if whole && new.is_empty() => Value::Null,
        _ => Value::String(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(yaml: &str) -> (Value, Vec<Problem>) {
        let ambient = Ambient::new([("PORT".to_owned(), "8000".to_owned()), ("KEY".to_owned(), "a: \"b\"".to_owned())]);
        let mut value = serde_yaml::from_str(yaml).unwrap();
        let mut problems = Vec::new();
        expand(&mut value, "", &ambient, &mut problems);
        (value, problems)
    }

    #[test]
    fn a_whole_scalar_takes_its_type_and_a_part_stays_text() {
        let (value, _) =
            run("{port: '${PORT}', url: 'http://h:${PORT}/', none: '${MISSING:-}', text: '${MISSING:-x}'}");
        assert_eq!(value["port"], Value::from(8000));
        assert_eq!(value["url"], Value::from("http://h:8000/"));
        assert_eq!(value["none"], Value::Null);
        assert_eq!(value["text"], Value::from("x"));
    }

    #[test]
    fn a_value_cannot_change_the_document() {
        assert_eq!(run("{key: '${KEY}'}").0["key"], Value::from("a: \"b\""));
    }

    #[test]
    fn a_missing_variable_is_a_problem_at_its_key() {
        let (_, problems) = run("{list: [{key: '${MISSING}'}]}");
        assert_eq!(problems[0].key, "list[0].key");
        assert!(problems[0].message.contains("MISSING"));
    }
}
