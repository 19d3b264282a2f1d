//! Who sends a request: bearer tokens, tenants, scopes, user ids.
