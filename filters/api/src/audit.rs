//! The audit log as others see it: who did what, never what was said.

use std::net::IpAddr;
use std::time::Duration;

use crate::exchange::{FinishCx, Outcome, RequestInfo};
use crate::facts::{Caller, Principal};

/// Writes the audit log. Offered as an `Arc<dyn Audit>`; a part that finds none records nothing.
pub trait Audit: Send + Sync {
    /// Takes a record; its time is that of the call. Does not wait: a log that cannot be written shows in the health of
    /// the service and in metrics, and stops nothing.
    fn record(&self, record: &AuditRecord<'_>);
}

/// Gives users names that nobody can trace back without a key. Offered as an `Arc<dyn Pseudonyms>`.
pub trait Pseudonyms: Send + Sync {
    /// The name of a user where [`Principal::pseudonymous`] is set: `u_` and 32 hex digits, the same for the same user of
    /// the same tenant for as long as the key is kept. `None` while the key can neither be read nor made: the user is
    /// left out then, for the true name must not take its place.
    fn pseudonym(&self, tenant_id: &str, user_id: &str) -> Option<String>;
}

/// Sees every request once more when it has ended, after its filters. Offered as an `Arc<dyn RequestObserver>`; the core
/// asks for one when it is built.
pub trait RequestObserver: Send + Sync {
    /// Exactly once per request, whatever happened. Must not block.
    fn ended(&self, outcome: &Outcome, cx: &FinishCx<'_>);
}

/// One record of the audit log. What is not known is null in it.
#[derive(Clone, Copy, Debug)]
pub struct AuditRecord<'a> {
    /// Request it belongs to.
    pub request_id: Option<&'a str>,
    /// Request that caused that request.
    pub parent_request_id: Option<&'a str>,
    /// Tenant.
    pub tenant_id: Option<&'a str>,
    /// Token.
    pub token_id: Option<&'a str>,
    /// User as the client named it.
    pub user_id: Option<&'a str>,
    /// Whether the log holds a pseudonym in place of the user, and no address.
    pub pseudonymous: bool,
    /// What happened.
    pub event: AuditEvent<'a>,
}

impl<'a> AuditRecord<'a> {
    /// A record that belongs to no request.
    #[must_use]
    pub const fn of(event: AuditEvent<'a>) -> Self {
        Self {
            request_id: None,
            parent_request_id: None,
            tenant_id: None,
            token_id: None,
            user_id: None,
            pseudonymous: false,
            event,
        }
    }

    /// A record of a request and of who sent it, as far as that is known.
    #[must_use]
    pub fn of_request(
        request: &'a RequestInfo,
        caller: Option<&'a Caller>,
        principal: Option<&'a Principal>,
        event: AuditEvent<'a>,
    ) -> Self {
        Self {
            request_id: Some(&request.id),
            parent_request_id: caller.map(|caller| &*caller.parent_request_id),
            tenant_id: principal.map(|principal| &*principal.tenant_id),
            token_id: principal.map(|principal| &*principal.token_id),
            user_id: principal.and_then(|principal| principal.user_id.as_deref()),
            pseudonymous: principal.is_some_and(|principal| principal.pseudonymous),
            event,
        }
    }
}

/// What happened. The fields are the members of the line, in its order.
#[derive(Clone, Copy, Debug)]
pub enum AuditEvent<'a> {
    /// The process began, ended or changed.
    Admin {
        /// What it did.
        action: AdminAction,
        /// Whether that worked.
        ok: bool,
        /// A few words of ours; never a secret.
        detail: Option<&'a str>,
    },
    /// An authentication was refused. The log writes at most one per address and second and adds how many it left out.
    Auth {
        /// Why.
        reason: AuthReason,
        /// Address of the client.
        client_ip: Option<IpAddr>,
    },
    /// The configuration of a tenant was changed.
    Config {
        /// How.
        action: ConfigAction,
        /// Key.
        key: &'a str,
        /// Value before, as JSON.
        old: Option<&'a str>,
        /// Value afterwards, as JSON.
        new: Option<&'a str>,
    },
    /// A request was settled in the ledger.
    Cost(CostEvent<'a>),
    /// A protected request ended.
    Http(HttpEvent<'a>),
    /// A tool was called.
    Tool(ToolEvent<'a>),
}

/// What the process did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAction {
    /// It read its configuration again.
    Reload,
    /// It writes its audit log again, after records had to be left out.
    Resume,
    /// It began to serve.
    Start,
    /// It stopped.
    Stop,
    /// It handed over to another binary.
    Upgrade,
}

/// Why an authentication was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthReason {
    /// The client's address is not one of the token's.
    Address,
    /// The secret is outside its dates.
    Expired,
    /// No secret was sent.
    Missing,
    /// The token lacks the scope.
    Scope,
    /// The token is not for this tenant.
    Tenant,
    /// The secret is not known, or not in the form of one.
    Unknown,
    /// The token is not for this user.
    User,
}

/// How a configuration was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigAction {
    /// A value was removed.
    Delete,
    /// A value was set.
    Put,
}

/// Members of a `cost` record. Amounts are decimal text.
#[derive(Clone, Copy, Debug)]
pub struct CostEvent<'a> {
    /// Requested slug.
    pub model: Option<&'a str>,
    /// Base alias that served.
    pub resolved_model: Option<&'a str>,
    /// Label of the backend that served.
    pub backend: Option<&'a str>,
    /// Model calls of the request.
    pub calls: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Part of the prompt that came from a cache.
    pub cached_tokens: u64,
    /// Source of the cost.
    pub source: &'a str,
    /// Whether all of the cost is known.
    pub available: bool,
    /// Billed amount in EUR.
    pub billed_eur: &'a str,
    /// Billed amount in USD.
    pub billed_usd: &'a str,
    /// What the upstreams cost, in USD.
    pub upstream_usd: &'a str,
    /// EUR per USD.
    pub exchange_rate: &'a str,
    /// Where the rate comes from.
    pub exchange_rate_source: &'a str,
    /// `ok`, `aborted` or `failed`.
    pub status: &'a str,
}

/// Members of an `http` record.
#[derive(Clone, Copy, Debug)]
pub struct HttpEvent<'a> {
    /// Method.
    pub method: &'a str,
    /// Path template.
    pub route: &'a str,
    /// Status; 499 when the client left before there was one.
    pub status: Option<u16>,
    /// Code of the error that was answered.
    pub error_code: Option<&'a str>,
    /// Time from the head to the end.
    pub duration: Duration,
    /// Bytes of the request body.
    pub bytes_in: Option<u64>,
    /// Bytes of the answer's body.
    pub bytes_out: Option<u64>,
    /// Address of the client.
    pub client_ip: Option<IpAddr>,
    /// Requested slug; known to the catalog.
    pub model: Option<&'a str>,
    /// Whether the answer was to be a stream.
    pub stream: Option<bool>,
    /// Whether the answer is not complete.
    pub aborted: bool,
    /// How many requests of the gateway's own it is away from a client.
    pub depth: u8,
}

/// Members of a `tool` record.
#[derive(Clone, Copy, Debug)]
pub struct ToolEvent<'a> {
    /// Name of the tool.
    pub tool: &'a str,
    /// Round of the tool loop, from 1; `None` for a direct call.
    pub iteration: Option<u64>,
    /// What came of it.
    pub outcome: ToolOutcome,
    /// Code of the error.
    pub error_code: Option<&'a str>,
    /// How long it took.
    pub duration: Duration,
    /// SHA-256 of the arguments.
    pub arguments_sha256: [u8; 32],
    /// Bytes of the result.
    pub result_bytes: u64,
    /// Whether the call was confirmed.
    pub confirmed: bool,
}

/// What came of a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolOutcome {
    /// It failed.
    Error,
    /// It ran.
    Ok,
    /// It showed what it would do.
    Preview,
}

/// Words of the log.
macro_rules! words {
    ($($kind:ident { $($variant:ident = $word:literal,)* })*) => {$(
        impl $kind {
            /// The word in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    )*};
}

words! {
    AdminAction { Reload = "reload", Resume = "resume", Start = "start", Stop = "stop", Upgrade = "upgrade", }
    AuthReason {
        Address = "address", Expired = "expired", Missing = "missing", Scope = "scope", Tenant = "tenant",
        Unknown = "unknown", User = "user",
    }
    ConfigAction { Delete = "delete", Put = "put", }
    ToolOutcome { Error = "error", Ok = "ok", Preview = "preview", }
}
