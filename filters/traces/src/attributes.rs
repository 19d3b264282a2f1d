//! What spans tell, in the messages of OTLP.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};

/// Attributes of one span.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<KeyValue>);

impl Attributes {
    pub(crate) fn with_room(entries: usize) -> Self {
        Self(Vec::with_capacity(entries))
    }

    pub(crate) fn text(&mut self, key: &'static str, value: impl Into<String>) {
        self.add(key, Value::StringValue(value.into()));
    }

    pub(crate) fn number(&mut self, key: &'static str, value: impl TryInto<i64>) {
        self.add(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
    }

    pub(crate) fn yes(&mut self, key: &'static str) {
        self.add(key, Value::BoolValue(true));
    }

    /// A list; nothing when it is empty.
    pub(crate) fn texts(&mut self, key: &'static str, values: impl Iterator<Item = &'static str>) {
        let values = values.map(|value| AnyValue { value: Some(Value::StringValue(value.to_owned())) });
        let values: Vec<_> = values.collect();
        if !values.is_empty() {
            self.add(key, Value::ArrayValue(ArrayValue { values }));
        }
    }

    fn add(&mut self, key: &'static str, value: Value) {
        self.0.push(pair(key.to_owned(), value));
    }

    pub(crate) fn into_pairs(self) -> Vec<KeyValue> {
        self.0
    }
}

/// One attribute that is a text.
pub(crate) fn text(key: String, value: String) -> KeyValue {
    pair(key, Value::StringValue(value))
}

fn pair(key: String, value: Value) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
