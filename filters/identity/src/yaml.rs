//! Reading a YAML tree so that all problems are told at once, each with its key.
//!
//! References to the environment are expanded per scalar, after parsing: a value can't change the document around it,
//! and it becomes a number or a truth value only where one is expected.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::tenant_config::Input;
use dgx_gateway_filter::yaml::scalar;
use rust_decimal::Decimal;
use serde_yaml::Value;

/// Collects what is wrong while a tree is read.
pub(crate) struct Reader<'a> {
    ambient: &'a Ambient,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(ambient: &'a Ambient) -> Self {
        Self { ambient, problems: Vec::new() }
    }

    pub(crate) fn problem(&mut self, key: impl Into<String>, message: impl Display) {
        self.problems.push(Problem::at(key, message.to_string()));
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// A value and where it stands.
pub(crate) struct Node {
    pub(crate) path: String,
    value: Value,
}

impl Node {
    pub(crate) fn root(value: Value) -> Self {
        Self { path: String::new(), value }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.value.is_null()
    }

    fn refuse<T>(&self, reader: &mut Reader<'_>, message: impl Display) -> Option<T> {
        reader.problem(self.path.clone(), message);
        None
    }

    /// Text with references expanded.
    pub(crate) fn text(&self, reader: &mut Reader<'_>) -> Option<String> {
        let Value::String(text) = &self.value else {
            return self.refuse(reader, "must be text; put it into quotes");
        };
        match scalar::expand(text, reader.ambient) {
            Ok(text) => Some(text.into_owned()),
            Err(error) => self.refuse(reader, error),
        }
    }

    /// Text that one of the readers accepts; `expected` completes "must be".
    pub(crate) fn text_as<T>(
        &self,
        reader: &mut Reader<'_>,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(reader)?;
        read(&text).or_else(|| self.refuse(reader, format_args!("must be {expected}")))
    }

    pub(crate) fn boolean(&self, reader: &mut Reader<'_>) -> Option<bool> {
        match &self.value {
            Value::Bool(value) => Some(*value),
            Value::String(text) if scalar::needed(text) => {
                self.text_as(reader, "true or false", |text| text.parse().ok())
            }
            _ => self.refuse(reader, "must be true or false"),
        }
    }

    /// A number in a range.
    pub(crate) fn number<T>(&self, reader: &mut Reader<'_>, min: T, max: T) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let expected = format!("a number from {min} to {max}");
        let in_range = |text: &str| text.parse().ok().filter(|number| (&min..=&max).contains(&number));
        match &self.value {
            Value::Number(number) => {
                in_range(&number.to_string()).or_else(|| self.refuse(reader, format_args!("must be {expected}")))
            }
            Value::String(text) if scalar::needed(text) => self.text_as(reader, &expected, in_range),
            _ => self.refuse(reader, format_args!("must be {expected}")),
        }
    }

    /// A decimal in a range, written as a number or as text.
    pub(crate) fn decimal(&self, reader: &mut Reader<'_>, min: Decimal, max: Decimal) -> Option<Decimal> {
        let text = match &self.value {
            Value::Number(number) => Cow::Owned(number.to_string()),
            Value::String(_) => Cow::Owned(self.text(reader)?),
            _ => Cow::Borrowed(""),
        };
        let decimal = Decimal::from_str_exact(&text).ok().filter(|decimal| (min..=max).contains(decimal));
        decimal.or_else(|| self.refuse(reader, format_args!("must be a decimal from {min} to {max}")))
    }

    /// What is written there, with references expanded, for a check that knows what it wants. A text with a reference
    /// becomes what is wanted; any other text stays one.
    pub(crate) fn input(self, reader: &mut Reader<'_>) -> Option<Input> {
        Some(match self.value {
            Value::Null => Input::Null,
            Value::Bool(flag) => Input::Flag(flag),
            Value::Number(number) => Input::Number(number.to_string()),
            Value::String(ref text) if scalar::needed(text) => Input::Bare(self.text(reader)?),
            Value::String(text) => Input::Text(text),
            Value::Sequence(_) => Input::List(self.list_of(reader, Self::input)?),
            Value::Mapping(_) | Value::Tagged(_) => Input::Other,
        })
    }

    pub(crate) fn list(self, reader: &mut Reader<'_>) -> Option<Vec<Self>> {
        let Value::Sequence(values) = self.value else {
            return self.refuse(reader, "must be a list");
        };
        let at = |(index, value)| Self { path: format!("{}[{index}]", self.path), value };
        Some(values.into_iter().enumerate().map(at).collect())
    }

    /// A list whose items are all read, so that every bad one is told; `None` if one is bad.
    pub(crate) fn list_of<T>(
        self,
        reader: &mut Reader<'_>,
        mut read: impl FnMut(Self, &mut Reader<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items: Vec<_> = self.list(reader)?.into_iter().map(|node| read(node, reader)).collect();
        items.into_iter().collect()
    }

    /// A mapping. Its keys are taken one by one; [`Section::finish`] tells those that nobody took.
    pub(crate) fn section(self, reader: &mut Reader<'_>) -> Option<Section> {
        let Value::Mapping(mapping) = self.value else {
            return self.refuse(reader, "must be a mapping");
        };
        let mut entries = Vec::with_capacity(mapping.len());
        for (key, value) in mapping {
            match key {
                Value::String(key) => entries.push((key, value)),
                _ => reader.problem(self.path.clone(), "keys must be text"),
            }
        }
        Some(Section { path: self.path, entries })
    }
}

/// A mapping that is being read.
pub(crate) struct Section {
    path: String,
    entries: Vec<(String, Value)>,
}

impl Section {
    /// Path of a key, whether it is there or not.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A value, null included.
    pub(crate) fn take(&mut self, key: &str) -> Option<Node> {
        let index = self.entries.iter().position(|(known, _)| known == key)?;
        let (_, value) = self.entries.swap_remove(index);
        Some(Node { path: self.path_of(key), value })
    }

    /// A value that may be left out; null is the same as absent.
    pub(crate) fn optional(&mut self, key: &str) -> Option<Node> {
        self.take(key).filter(|node| !node.is_null())
    }

    /// A value that must be there.
    pub(crate) fn required(&mut self, key: &str, reader: &mut Reader<'_>) -> Option<Node> {
        let node = self.optional(key);
        if node.is_none() {
            reader.problem(self.path_of(key), "is required");
        }
        node
    }

    /// Tells every key that nobody took.
    pub(crate) fn finish(mut self, reader: &mut Reader<'_>) {
        self.entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (key, _) in &self.entries {
            reader.problem(self.path_of(key), "unknown key");
        }
    }
}
