//! The error catalog: status, type and texts of every code, in one table.
//!
//! `GET /errors` and the envelopes read it; nothing else states a status for a code. Codes are never
//! reused or renamed, their anchors are `/docs/errors#<code>`.

use dgx_gateway_filter::ErrorCode;
use serde_json::{Value, json};

mod table;

pub use self::table::{CATALOG, entry};

/// Version of the document that `GET /errors` answers with.
const DOCUMENT_VERSION: u32 = 1;

/// The class of an error, the `type` member of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Who sends the request is not known.
    Authentication,
    /// A marker in a successful answer, not an error.
    Diagnostic,
    /// The gateway failed.
    Internal,
    /// The request is wrong.
    InvalidRequest,
    /// The thing named by the path or a field does not exist.
    NotFound,
    /// The sender is known and may not do this.
    Permission,
    /// Too much in too short a time, or a budget is used up.
    RateLimit,
    /// Something behind the gateway failed.
    Upstream,
}

impl Kind {
    /// The word in the `type` member of the default dialect.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authentication => "authentication_error",
            Self::Diagnostic => "diagnostic",
            Self::Internal => "internal_error",
            Self::InvalidRequest => "invalid_request_error",
            Self::NotFound => "not_found",
            Self::Permission => "permission_denied",
            Self::RateLimit => "rate_limit_error",
            Self::Upstream => "upstream_error",
        }
    }

    /// Other words that clients know for the same class.
    #[must_use]
    pub const fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::RateLimit => &["rate_limit_exceeded"],
            _ => &[],
        }
    }
}

/// One row of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: ErrorCode,
    /// HTTP status, unless the error carries another one.
    pub status: u16,
    /// Class of the error.
    pub kind: Kind,
    /// A headline.
    pub title: &'static str,
    /// What led to it; the `description` of `GET /errors`.
    pub cause: &'static str,
    /// What to do about it.
    pub remediation: &'static str,
    /// What `param` usually names.
    pub typical_param: Option<&'static str>,
}

/// The document that `GET /errors` answers with.
#[must_use]
pub fn catalog_json() -> Value {
    let entries: Vec<Value> = CATALOG.iter().map(entry_json).collect();
    json!({ "version": DOCUMENT_VERSION, "count": entries.len(), "entries": entries })
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "code": entry.code.as_str(),
        "type": entry.kind.as_str(),
        "http_status": entry.status,
        "title": entry.title,
        "description": entry.cause,
        "remediation": entry.remediation,
        "typical_param": entry.typical_param,
        "type_aliases": entry.kind.aliases(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows as the documentation writes them.
    const DOCUMENTED: &str = include_str!("../../tests/fixtures/error_catalog.md");

    #[test]
    fn every_code_has_one_row_in_order() {
        let codes: Vec<ErrorCode> = CATALOG.iter().map(|entry| entry.code).collect();
        assert_eq!(codes, ErrorCode::ALL);
        for code in ErrorCode::ALL {
            assert_eq!(entry(*code).code, *code);
        }
    }

    #[test]
    fn the_rows_are_the_documented_ones() {
        let documented: Vec<&str> = DOCUMENTED.lines().skip(2).collect();
        let rows: Vec<String> = CATALOG.iter().map(documented_row).collect();
        assert_eq!(rows, documented);
    }

    fn documented_row(entry: &Entry) -> String {
        let kind = match entry.kind {
            Kind::Authentication => "AUT",
            Kind::Diagnostic => "DIA",
            Kind::Internal => "INT",
            Kind::InvalidRequest => "IRE",
            Kind::NotFound => "NOT",
            Kind::Permission => "PER",
            Kind::RateLimit => "RAT",
            Kind::Upstream => "UPS",
        };
        let param = entry.typical_param.map_or("null".to_owned(), |param| format!("`{param}`"));
        let Entry { code, status, title, cause, remediation, .. } = entry;
        format!("| `{code}` | {status} | {kind} | {title} | {cause} | {remediation} | {param} |")
    }

    #[test]
    fn the_document_counts_its_entries() {
        let document = catalog_json();
        assert_eq!(document["version"], 1);
        assert_eq!(document["count"], 49);
        assert_eq!(document["entries"].as_array().unwrap().len(), 49);
    }

    #[test]
    fn an_entry_has_all_members() {
        let document = catalog_json();
        assert_eq!(
            document["entries"][3],
            json!({
                "code": "rate_limit_exceeded",
                "type": "rate_limit_error",
                "http_status": 429,
                "title": "Rate limit reached",
                "description": "bucket empty",
                "remediation": "wait `Retry-After`",
                "typical_param": null,
                "type_aliases": ["rate_limit_exceeded"],
            })
        );
        assert_eq!(document["entries"][0]["type_aliases"], json!([]));
    }
}
