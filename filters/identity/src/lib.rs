//! Who sends a request: bearer tokens, tenants, scopes, user ids.
//!
//! Owns the key `auth` of the configuration file, `auth/tokens.yaml` and the bootstrap token. How often a client may
//! ask, and what a budget allows, is checked elsewhere; this crate only reads those numbers.
//!
//! Both filters work in `request_head`, once per request, read no file and never wait. They fail closed. A secret is
//! known here by its SHA-256 only, apart from the bootstrap secret, which an operator has to be shown.
//!
//! | Module | Holds |
//! |---|---|
//! | `service`, [`config`] | the service behind `auth` and its settings |
//! | `file`, `yaml`, `expand`, `locate` | reading `tokens.yaml` with all its problems at once |
//! | `schema` | the shape of `tokens.yaml` for editors |
//! | [`token`], [`tenant`], `defaults`, [`scopes`] | what the file says, checked and typed |
//! | [`catalog`], `bootstrap` | the tokens in use, and the one that is made when there is none |
//! | [`edit`], [`tokens_file`], `random` | changing `tokens.yaml` for the command line: text, file, new secrets |
//! | `authenticate`, `credential`, `tenant_choice` | filter `identity`: secret, tenant, client address |
//! | `access`, `user` | filter `access`: scope and user id |
//! | `header`, `refusal`, `told` | single header values, and how a refusal is said to the client and to the audit log |

mod access;
mod authenticate;
mod bootstrap;
pub mod catalog;
pub mod config;
mod credential;
mod defaults;
mod digest;
pub mod edit;
mod file;
mod header;
mod random;
mod refusal;
mod schema;
pub mod scopes;
mod service;
pub mod tenant;
mod tenant_choice;
#[cfg(test)]
mod testing;
pub mod token;
pub mod tokens_file;
mod told;
mod user;
mod yaml;

pub use self::access::{Access, AccessConfig, CheckedAccess, UserIdRule};
pub use self::authenticate::{Authenticate, AuthenticateConfig};
pub use self::catalog::{CheckedTokens, Tokens};
pub use self::edit::NewToken;
pub use self::schema::tokens_file_schema;
pub use self::service::Service;
pub use self::tokens_file::{EditError, Listed, TokensFile};
