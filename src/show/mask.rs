//! What must not be shown: values of keys that hold secrets, and the parts of URLs that may.

use serde_yaml::Value;

/// What stands in the place of a secret.
pub(super) const SECRET: &str = "[secret]";

/// Whether a key of this name holds a secret, wherever it stands.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ends = [
        "api_key",
        "bearer",
        "credential",
        "credentials",
        "passphrase",
        "password",
        "secret",
        "secrets",
        "sha256",
        "token",
    ];
    ends.iter().any(|end| name.ends_with(end))
}

/// A value without its secrets.
pub(super) fn value(key: &str, value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        _ if is_secret_name(key) => SECRET.into(),
        Value::String(text) => Value::String(url(text)),
        Value::Sequence(items) => Value::Sequence(items.iter().map(|item| self::value(key, item)).collect()),
        Value::Mapping(mapping) => {
            let member =
                |(key, value): (&Value, &Value)| (key.clone(), self::value(key.as_str().unwrap_or_default(), value));
            Value::Mapping(mapping.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

/// A text without user, password and query, if it is a URL.
fn url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{SECRET}@{host}"),
        None => authority.to_owned(),
    };
    let path = match path.split_once(['?', '#']) {
        Some((path, _)) => format!("{path}?{SECRET}"),
        None => path.to_owned(),
    };
    format!("{scheme}://{authority}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_scheme_host_and_path_only() {
        for (raw, shown) in [
            ("redis://user:pw@cache:6379/0", "redis://[secret]@cache:6379/0"),
            ("redis://:p@w@cache", "redis://[secret]@cache"),
            ("https://api.example/v1?key=pw#pw", "https://api.example/v1?[secret]"),
            ("https://api.example#pw", "https://api.example?[secret]"),
            ("https://pw@api.example?key", "https://[secret]@api.example?[secret]"),
            ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
            ("127.0.0.1:3000", "127.0.0.1:3000"),
            ("a@b", "a@b"),
        ] {
            assert_eq!(url(raw), shown);
        }
    }

    #[test]
    fn names_of_secrets_hide_whatever_they_hold() {
        let file: Value =
            serde_yaml::from_str("{a: {api_key: {x: pw}, Password: [pw], b: pw-free}, token: 5, secret: null}")
                .unwrap();
        let shown = serde_yaml::to_string(&value("", &file)).unwrap();
        assert!(!shown.contains("pw\n") && !shown.contains('5'), "{shown}");
        assert!(shown.contains("b: pw-free") && shown.contains("secret: null"), "{shown}");
    }
}
