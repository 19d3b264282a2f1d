//! A value that fits its key.

use std::sync::Arc;

use rust_decimal::Decimal;

/// Value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A decimal number, with as many digits as were written.
    Decimal(Decimal),
    /// A truth value.
    Flag(bool),
    /// A whole number.
    Integer(u64),
    /// A list of words.
    List(Arc<[String]>),
    /// No value, where the key allows that.
    Null,
    /// One word.
    Text(Arc<str>),
}

/// How a field of [`TenantSettings`](super::TenantSettings) is read. The type of a field follows from the kind of its
/// key, and values are checked against that kind; anything else becomes the empty value of the type.
pub(super) trait Field {
    fn of(value: &Value) -> Self;
}

impl Field for bool {
    fn of(value: &Value) -> Self {
        matches!(value, Value::Flag(true))
    }
}

impl Field for u64 {
    fn of(value: &Value) -> Self {
        if let Value::Integer(number) = value { *number } else { 0 }
    }
}

impl Field for Decimal {
    fn of(value: &Value) -> Self {
        if let Value::Decimal(number) = value { *number } else { Self::ZERO }
    }
}

impl Field for Arc<str> {
    fn of(value: &Value) -> Self {
        if let Value::Text(text) = value { Self::clone(text) } else { Self::default() }
    }
}

impl Field for Option<Arc<str>> {
    fn of(value: &Value) -> Self {
        if let Value::Text(text) = value { Some(Arc::clone(text)) } else { None }
    }
}

impl Field for Arc<[String]> {
    fn of(value: &Value) -> Self {
        if let Value::List(list) = value { Self::clone(list) } else { Self::default() }
    }
}

impl Field for Option<Arc<[String]>> {
    fn of(value: &Value) -> Self {
        if let Value::List(list) = value { Some(Arc::clone(list)) } else { None }
    }
}
