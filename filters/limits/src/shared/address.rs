//! The URL of the store. It may hold a password, so nothing prints it.

use std::borrow::Cow;

use redis::{Client, ConnectionAddr};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

/// URL of a Redis server: `redis://` or, with TLS, `rediss://`. `Debug` does not show it.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct StoreAddress(String);

/// The URL is none of a Redis server. Says what would be right and never what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a URL redis://[user:password@]host[:port][/database], or rediss:// for TLS")]
pub(crate) struct NotAnAddress;

impl StoreAddress {
    /// From any source. Whether it is valid is found out by the check of the settings.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// What connects to it. Connects to nothing yet.
    ///
    /// # Errors
    /// The URL is not valid.
    pub(crate) fn client(&self) -> Result<Client, NotAnAddress> {
        let known = ["redis://", "rediss://"].iter().any(|scheme| self.0.starts_with(scheme));
        if !known {
            return Err(NotAnAddress);
        }
        let client = Client::open(self.0.as_str()).map_err(|_| NotAnAddress)?;
        match client.get_connection_info().addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => Err(NotAnAddress), // a store behind nobody's certificate
            _ => Ok(client),
        }
    }
}

impl std::fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreAddress(..)")
    }
}

impl JsonSchema for StoreAddress {
    fn schema_name() -> Cow<'static, str> {
        "StoreAddress".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_urls_of_redis_servers() {
        for url in [
            "redis://localhost",
            "redis://127.0.0.1:6380/3",
            "redis://:secret@cache.internal:6379/0",
            "rediss://user:secret@cache.internal:6380",
            "redis://[::1]:6379",
        ] {
            assert!(StoreAddress::new(url).client().is_ok(), "{url}");
        }
    }

    #[test]
    fn refuses_everything_else_without_repeating_it() {
        for url in [
            "",
            "localhost:6379",
            "http://localhost",
            "redis:secret",
            "redis://",
            "redis://host:port",
            "redis://user:secret@host:99999",
            "redis://host/secret",
            "rediss://host/#insecure",
            "unix:///run/secret",
        ] {
            let refused = StoreAddress::new(url).client().unwrap_err();
            assert!(!refused.to_string().contains("secret"), "{url}");
        }
    }

    #[test]
    fn shows_nothing_of_itself() {
        let shown = format!("{:?}", StoreAddress::new("redis://user:secret@host"));
        assert_eq!(shown, "StoreAddress(..)");
    }
}
