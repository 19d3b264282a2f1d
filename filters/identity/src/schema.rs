//! The shape of `tokens.yaml` as JSON Schema, for editors.
//!
//! The file is read by hand, so this is written by hand, too; keys of `defaults` and scopes come from the tables that the
//! reader uses. What a schema cannot say is left to the reader: ids that must be unique, tenants that must exist, dates in
//! order, networks. A text with `${…}` may become anything, so it is accepted wherever the reader expands it.

use dgx_gateway_filter::budget::MAX_BUDGETS;
use schemars::Schema;
use serde_json::{Map, Value, json};

use crate::defaults;
use crate::scopes;

/// Largest amount of the file.
const MAX_AMOUNT: u64 = 1_000_000_000_000_000;

/// JSON Schema of the file with tenants and tokens.
#[must_use]
pub fn tokens_file_schema() -> Schema {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), "tokens.yaml of dgx-gateway".into());
    let root = mapping(
        &["version"],
        [
            ("version", said(integer(1, 1), "Version of the form: 1.")),
            ("tenants", said(absent_or(list(tenant())), "Who pays.")),
            ("tokens", said(absent_or(list(token())), "Who may use the gateway.")),
        ],
    );
    if let Value::Object(root) = root {
        schema.extend(root);
    }
    schema.into()
}

fn tenant() -> Value {
    mapping(
        &["id"],
        [
            ("id", said(record_id(), "Unique id.")),
            ("name", said(absent_or(text()), "Name for people.")),
            ("defaults", said(absent_or(defaults::schema()), "What the operator sets for the tenant.")),
            ("budgets", said(absent_or(with(list(budget()), "maxItems", MAX_BUDGETS)), "Budgets, all of which hold.")),
            ("limits", said(absent_or(limits()), "Limits over all tokens of the tenant.")),
        ],
    )
}

fn budget() -> Value {
    let budget = mapping(
        &["id", "models", "window", "mode"],
        [
            ("id", said(record_id(), "Id, unique within the tenant.")),
            ("models", said(list(word()), "Globs of the slugs that count.")),
            ("window", said(one_of(["hour", "day", "month"]), "Window in UTC.")),
            ("mode", said(one_of(["hard", "warn"]), "What happens when it is used up.")),
            ("limit_eur", said(absent_or(decimal()), "Billed amount in EUR.")),
            ("limit_tokens", said(absent_or(integer(0, MAX_AMOUNT)), "Tokens in both directions.")),
            ("limit_requests", said(absent_or(integer(0, MAX_AMOUNT)), "Requests.")),
        ],
    );
    with(budget, "oneOf", ["limit_eur", "limit_tokens", "limit_requests"].map(is_set))
}

fn limits() -> Value {
    mapping(
        &[],
        [
            ("tokens_per_minute", said(absent_or(integer(0, MAX_AMOUNT)), "Tokens per minute in both directions.")),
            (
                "max_in_flight",
                said(
                    absent_or(integer(0, 1_000_000)),
                    "Model calls at the same time, over all backends; further ones wait. 0 refuses all.",
                ),
            ),
            (
                "weight",
                said(
                    absent_or(integer(1, 1000)),
                    "Share in the fair queue, in proportion to the weights of other tenants. Default 1.",
                ),
            ),
        ],
    )
}

fn token() -> Value {
    let patterns = || absent_or(list(scope_pattern()));
    mapping(
        &["id", "secrets"],
        [
            ("id", said(record_id(), "Unique id.")),
            ("label", said(absent_or(text()), "Name for people.")),
            ("role", said(absent_or(one_of(["user", "tenant_admin", "operator"])), "Fixes the scopes. Default: none.")),
            ("bound_tenant", said(absent_or(record_id()), "The only tenant that it may use. Default: any.")),
            ("default_user_id", said(absent_or(user_id()), "The only user that it may be used for. Default: any.")),
            ("secrets", said(some(list(secret())), "What proves it; several while one replaces the other.")),
            ("extra_scopes", said(patterns(), "Scopes beside those of the role.")),
            ("deny_scopes", said(patterns(), "Scopes that are taken away.")),
            ("constraints", said(absent_or(constraints()), "What it may be used for.")),
            ("rate_limit", said(absent_or(rate_limit()), "Its own limit of requests.")),
            ("rate_limit_bypass", said(absent_or(flag()), "Whether requests are not limited. Default false.")),
        ],
    )
}

fn secret() -> Value {
    let at = || absent_or(matching("^[-+0-9:.TtZz \\[\\]A-Za-z/_]*[0-9][Tt ][0-9][-+0-9:.TtZz \\[\\]A-Za-z/_=!]*$"));
    let secret = mapping(
        &[],
        [
            ("value", said(absent_or(matching("^[!-~]+$")), "The secret in plain text.")),
            ("sha256", said(absent_or(matching("^[0-9A-Fa-f]{64}$")), "SHA-256 of the secret, 64 hexadecimal digits.")),
            ("not_before", said(at(), "When it begins, such as 2027-01-01T00:00:00Z. Default: it is valid.")),
            ("expires_at", said(at(), "When it ends, such as 2027-01-01T00:00:00Z. Default: never.")),
        ],
    );
    with(secret, "oneOf", ["value", "sha256"].map(is_set))
}

fn constraints() -> Value {
    mapping(
        &[],
        [
            ("models", said(absent_or(some(list(word()))), "Globs of slugs that it may use. Default: all.")),
            ("max_tokens", said(absent_or(integer(1, u32::MAX.into())), "Ceiling of `max_tokens`.")),
            ("cidrs", said(absent_or(some(list(text()))), "Networks that it may be used from. Default: all.")),
        ],
    )
}

fn rate_limit() -> Value {
    let per_second = or_reference(json!({"type": "number", "minimum": 0.000_001, "maximum": 1_000_000}));
    mapping(
        &["per_second", "burst"],
        [
            ("per_second", said(per_second, "Requests that flow back per second.")),
            ("burst", said(integer(1, 1_000_000), "Requests at once.")),
        ],
    )
}

fn scope_pattern() -> Value {
    or_reference(json!({"type": "string", "enum": scopes::patterns()}))
}

/// The member is there and not null: null is the same as absent.
fn is_set(name: &str) -> Value {
    json!({"required": [name], "properties": {name: {"not": {"type": "null"}}}})
}

pub(crate) fn mapping<'a>(required: &[&str], properties: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let properties: Map<String, Value> =
        properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties})
}

pub(crate) fn absent_or(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

/// The schema with one more keyword.
pub(crate) fn with(mut schema: Value, keyword: &str, value: impl Into<Value>) -> Value {
    if let Some(keywords) = schema.as_object_mut() {
        keywords.insert(keyword.to_owned(), value.into());
    }
    schema
}

fn said(schema: Value, meaning: &str) -> Value {
    with(schema, "description", meaning)
}

pub(crate) fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn some(list: Value) -> Value {
    with(list, "minItems", 1)
}

/// The value, or a text that the environment completes.
fn or_reference(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "string", "pattern": "\\$\\{"}]})
}

pub(crate) fn flag() -> Value {
    or_reference(json!({"type": "boolean"}))
}

pub(crate) fn integer(min: u64, max: u64) -> Value {
    or_reference(json!({"type": "integer", "minimum": min, "maximum": max}))
}

/// A decimal may stand in quotes, too.
pub(crate) fn decimal() -> Value {
    or_reference(
        json!({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^\\+?[0-9_]*\\.?[0-9_]*$"}]}),
    )
}

pub(crate) fn text() -> Value {
    json!({"type": "string"})
}

fn matching(pattern: &str) -> Value {
    or_reference(json!({"type": "string", "pattern": pattern}))
}

pub(crate) fn one_of<const N: usize>(words: [&str; N]) -> Value {
    or_reference(json!({"type": "string", "enum": words.as_slice()}))
}

fn record_id() -> Value {
    matching("^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
}

fn user_id() -> Value {
    matching("^[A-Za-z0-9._:@+~-]{1,128}$")
}

/// A slug, glob, tool name or domain.
pub(crate) fn word() -> Value {
    matching("^[!-~]{1,256}$")
}

#[cfg(test)]
mod tests;
