//! Tokens: what a bearer may do, and the secrets that prove it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use dgx_gateway_filter::facts::{RateLimit, Scopes};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::digest::Digest;
use crate::scopes::{Role, ScopeSet};
use crate::tenant::globs;
use crate::tenant::record_id;
use crate::user;
use crate::yaml::{Node, Reader, Section};

/// One token of the file, or an implicit one.
#[derive(Clone)]
pub struct Token {
    /// Unique id.
    pub id: Arc<str>,
    /// Name for people.
    pub label: Option<String>,
    /// Role; `None`: no scopes by default.
    pub role: Option<Role>,
    /// The only tenant it may use; `None`: any.
    pub bound_tenant: Option<Arc<str>>,
    /// The only user it may be used for; `None`: the header names the user.
    pub default_user_id: Option<Arc<str>>,
    /// Effective scopes.
    pub scopes: Arc<dyn Scopes>,
    /// Globs of slugs that it may use; `None`: all.
    pub models: Option<Arc<[String]>>,
    /// Ceiling of `max_tokens`.
    pub max_tokens: Option<u32>,
    /// Networks that it may be used from; `None`: all.
    pub cidrs: Option<Arc<[IpNet]>>,
    /// Its own request limit.
    pub rate_limit: Option<RateLimit>,
    /// Whether the request limit is skipped.
    pub rate_limit_bypass: bool,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("role", &self.role).finish_non_exhaustive()
    }
}

/// One secret of a token: its digest, and when it is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret {
    pub(crate) digest: Digest,
    not_before: Option<SystemTime>,
    expires_at: Option<SystemTime>,
}

impl Secret {
    /// A secret without dates.
    pub(crate) fn lasting(secret: &str) -> Self {
        Self { digest: Digest::of(secret.as_bytes()), not_before: None, expires_at: None }
    }

    /// Valid from `not_before` on, and no longer at `expires_at`.
    pub(crate) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.expires_at.is_none_or(|until| now < until)
    }

    /// When it ends; `None`: never.
    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    fn read(node: Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut section = node.section(reader)?;
        let digest = digest(&mut section, reader);
        let not_before = instant(&mut section, "not_before", reader);
        let expires_at = instant(&mut section, "expires_at", reader);
        if let (Some(from), Some(until)) = (not_before, expires_at)
            && until <= from
        {
            reader.problem(section.path_of("expires_at"), "must be after not_before");
        }
        section.finish(reader);
        Some(Self { digest: digest?, not_before, expires_at })
    }
}

fn digest(section: &mut Section, reader: &mut Reader<'_>) -> Option<Digest> {
    match (section.optional("value"), section.optional("sha256")) {
        (Some(value), None) => {
            value.text_as(reader, VISIBLE, |text| is_sendable(text).then(|| Digest::of(text.as_bytes())))
        }
        (None, Some(sha256)) => sha256.text_as(reader, "64 hexadecimal digits", Digest::from_hex),
        _ => {
            reader.problem(section.path_of("value"), "set exactly one of value and sha256");
            None
        }
    }
}

/// Completes "must be" for a secret.
pub(crate) const VISIBLE: &str = "visible ASCII characters without spaces";

/// Whether a header can carry the secret.
pub(crate) fn is_sendable(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic())
}

fn instant(section: &mut Section, key: &str, reader: &mut Reader<'_>) -> Option<SystemTime> {
    let node = section.optional(key)?;
    let expected = "a time such as \"2027-01-01T00:00:00Z\"";
    node.text_as(reader, expected, |text| text.parse::<Timestamp>().ok()).map(SystemTime::from)
}

impl Token {
    /// A token that no file lists: bound to a tenant, with a role and nothing else.
    pub(crate) fn implicit(id: &str, tenant: &str, role: Role, default_user_id: Option<&str>) -> Self {
        Self {
            id: id.into(),
            label: None,
            role: Some(role),
            bound_tenant: Some(tenant.into()),
            default_user_id: default_user_id.map(Into::into),
            scopes: Arc::new(ScopeSet::of(role)),
            models: None,
            max_tokens: None,
            cidrs: None,
            rate_limit: None,
            rate_limit_bypass: false,
        }
    }

    /// Whether it may be used from an address; `None` is a client without one.
    pub(crate) fn is_usable_from(&self, client: Option<IpAddr>) -> bool {
        let Some(cidrs) = &self.cidrs else { return true };
        client.is_some_and(|ip| cidrs.iter().any(|net| net.contains(&ip)))
    }

    pub(crate) fn read(node: Node, reader: &mut Reader<'_>) -> Option<(Self, Vec<Secret>)> {
        let mut section = node.section(reader)?;
        let id = section.required("id", reader).and_then(|node| record_id(&node, reader));
        let label = section.optional("label").and_then(|node| node.text(reader));
        let role = section.optional("role");
        let role = role.and_then(|node| node.text_as(reader, "user, tenant_admin or operator", Role::parse));
        let bound_tenant = section.optional("bound_tenant").and_then(|node| record_id(&node, reader));
        let user_id = section.optional("default_user_id").and_then(|node| user_id(&node, reader));
        let secrets = secrets(&mut section, reader);
        let extra = patterns(&mut section, "extra_scopes", reader);
        let deny = patterns(&mut section, "deny_scopes", reader);
        let constraints = section.optional("constraints").and_then(|node| Constraints::read(node, reader));
        let constraints = constraints.unwrap_or_default();
        let rate_limit = section.optional("rate_limit").and_then(|node| rate_limit(node, reader));
        let bypass = section.optional("rate_limit_bypass").and_then(|node| node.boolean(reader));
        section.finish(reader);
        let token = Self {
            id: id?,
            label,
            role,
            bound_tenant,
            default_user_id: user_id,
            scopes: Arc::new(role.map(ScopeSet::of).unwrap_or_default().and(extra).without(deny)),
            models: constraints.models,
            max_tokens: constraints.max_tokens,
            cidrs: constraints.cidrs,
            rate_limit,
            rate_limit_bypass: bypass.unwrap_or(false),
        };
        Some((token, secrets))
    }
}

fn user_id(node: &Node, reader: &mut Reader<'_>) -> Option<Arc<str>> {
    let expected = "1 to 128 letters, digits and . _ : @ + ~ -";
    node.text_as(reader, expected, |text| user::is_id(text.as_bytes()).then(|| text.into()))
}

fn secrets(section: &mut Section, reader: &mut Reader<'_>) -> Vec<Secret> {
    let Some(node) = section.required("secrets", reader) else { return Vec::new() };
    let path = node.path.clone();
    match node.list(reader) {
        Some(nodes) if nodes.is_empty() => reader.problem(path, "needs at least one secret"),
        Some(nodes) => return nodes.into_iter().filter_map(|node| Secret::read(node, reader)).collect(),
        None => {}
    }
    Vec::new()
}

fn patterns(section: &mut Section, key: &str, reader: &mut Reader<'_>) -> ScopeSet {
    let nodes = section.optional(key).and_then(|node| node.list(reader)).unwrap_or_default();
    nodes.into_iter().fold(ScopeSet::default(), |set, node| {
        let expected = "a known scope, a prefix of one ending in :*, or *";
        set.and(node.text_as(reader, expected, ScopeSet::of_pattern).unwrap_or_default())
    })
}

fn rate_limit(node: Node, reader: &mut Reader<'_>) -> Option<RateLimit> {
    let mut section = node.section(reader)?;
    let per_second = section.required("per_second", reader);
    let per_second = per_second.and_then(|node| node.number(reader, 0.000_001, 1_000_000.0));
    let burst = section.required("burst", reader).and_then(|node| node.number(reader, 1, 1_000_000));
    section.finish(reader);
    Some(RateLimit { per_second: per_second?, burst: burst? })
}

#[derive(Default)]
struct Constraints {
    models: Option<Arc<[String]>>,
    max_tokens: Option<u32>,
    cidrs: Option<Arc<[IpNet]>>,
}

impl Constraints {
    fn read(node: Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut section = node.section(reader)?;
        let models = section.optional("models").and_then(|node| globs(node, reader));
        let max_tokens = section.optional("max_tokens").and_then(|node| node.number(reader, 1, u32::MAX));
        let cidrs =
            section.optional("cidrs").and_then(|node| node.list_of(reader, |node, reader| network(&node, reader)));
        if models.as_ref().is_some_and(|models| models.is_empty()) {
            reader.problem(section.path_of("models"), "an empty list would allow no model; leave it out to allow all");
        }
        if cidrs.as_ref().is_some_and(Vec::is_empty) {
            reader.problem(section.path_of("cidrs"), "an empty list would allow no address; leave it out to allow all");
        }
        section.finish(reader);
        Some(Self { models, max_tokens, cidrs: cidrs.map(Into::into) })
    }
}

/// A network, or an address, which is the network of just that address. IPv4 in IPv6 form is IPv4, as for clients.
fn network(node: &Node, reader: &mut Reader<'_>) -> Option<IpNet> {
    node.text_as(reader, "a network such as 198.51.100.0/24", |text| {
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical().into()))
    })
}
