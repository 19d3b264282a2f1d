//! Scopes, the patterns that stand for several of them, and the roles that hold them by default.

use std::collections::BTreeSet;

use dgx_gateway_filter::facts::Scopes;

/// What a token is for; fixes its scopes unless the file changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Uses the gateway.
    User,
    /// Also configures its tenant and reads all of it.
    TenantAdmin,
    /// Holds every scope.
    Operator,
}

impl Role {
    /// The word in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::TenantAdmin => "tenant_admin",
            Self::User => "user",
        }
    }

    /// From the word in the file.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "operator" => Some(Self::Operator),
            "tenant_admin" => Some(Self::TenantAdmin),
            "user" => Some(Self::User),
            _ => None,
        }
    }
}

/// Every scope with the lowest role that holds it, in alphabetical order.
const SCOPES: &[(&str, Role)] = &[
    ("agents:chat", Role::User),
    ("agents:read", Role::User),
    ("audio:create", Role::User),
    ("billing:read", Role::TenantAdmin),
    ("chat:create", Role::User),
    ("conversations:read", Role::User),
    ("conversations:write", Role::User),
    ("embeddings:create", Role::User),
    ("images:create", Role::User),
    ("images:delete", Role::User),
    ("images:read", Role::User),
    ("memory:read", Role::User),
    ("memory:write", Role::User),
    ("models:read", Role::User),
    ("models:use:machine", Role::Operator),
    ("rag:delete", Role::User),
    ("rag:read", Role::User),
    ("rag:write", Role::User),
    ("rerank:create", Role::User),
    ("sessions:read", Role::User),
    ("sessions:write", Role::User),
    ("system_prompts:read", Role::User),
    ("system_prompts:write", Role::User),
    ("system_prompts:write:tenant", Role::TenantAdmin),
    ("tenant:read", Role::TenantAdmin),
    ("tenant_config:read", Role::TenantAdmin),
    ("tenant_config:write", Role::TenantAdmin),
    ("tools:execute", Role::User),
    ("tools:read", Role::User),
];

/// A set of scopes: one bit per row of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(u64);

impl ScopeSet {
    /// The scopes of a role.
    #[must_use]
    pub fn of(role: Role) -> Self {
        Self::matching(|_, lowest| lowest <= role)
    }

    /// The scopes that a pattern stands for: a scope, `*`, or a prefix ending in `:*`. `None` when it stands for none.
    #[must_use]
    pub fn of_pattern(pattern: &str) -> Option<Self> {
        let set = match pattern.strip_suffix('*') {
            Some("") => Self::matching(|_, _| true),
            Some(prefix) if prefix.ends_with(':') => Self::matching(|scope, _| scope.starts_with(prefix)),
            _ => Self::matching(|scope, _| scope == pattern),
        };
        (set != Self::default()).then_some(set)
    }

    /// All that one of the two holds.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is left without the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn matching(belongs: impl Fn(&str, Role) -> bool) -> Self {
        let rows = SCOPES.iter().enumerate().filter(|(_, (scope, lowest))| belongs(scope, *lowest));
        Self(rows.fold(0, |bits, (index, _)| bits | 1 << index))
    }
}

impl Scopes for ScopeSet {
    fn allow(&self, scope: &str) -> bool {
        SCOPES.binary_search_by(|(known, _)| (*known).cmp(scope)).is_ok_and(|index| self.0 >> index & 1 == 1)
    }
}

/// Every pattern that stands for a scope, for documents.
pub(crate) fn patterns() -> BTreeSet<String> {
    let above = |scope: &str| -> Vec<String> {
        scope.match_indices(':').filter_map(|(at, _)| Some(format!("{}:*", scope.get(..at)?))).collect()
    };
    let all = SCOPES.iter().flat_map(|(scope, _)| above(scope).into_iter().chain([(*scope).to_owned()]));
    all.chain(["*".to_owned()]).collect()
}

/// Whether there is such a scope. Patterns are none.
pub(crate) fn is_known(scope: &str) -> bool {
    SCOPES.binary_search_by(|(known, _)| (*known).cmp(scope)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_fits_the_bits() {
        assert!(SCOPES.is_sorted_by(|(one, _), (other, _)| one < other));
        assert!(SCOPES.len() <= 64);
    }

    #[test]
    fn roles_hold_what_the_table_of_the_specification_says() {
        let (user, admin, operator) =
            (ScopeSet::of(Role::User), ScopeSet::of(Role::TenantAdmin), ScopeSet::of(Role::Operator));
        assert_eq!(ScopeSet::of_pattern("*"), Some(operator));
        let only_admin: Vec<_> =
            SCOPES.iter().map(|(scope, _)| *scope).filter(|s| admin.allow(s) && !user.allow(s)).collect();
        assert_eq!(
            only_admin,
            ["billing:read", "system_prompts:write:tenant", "tenant:read", "tenant_config:read", "tenant_config:write"]
        );
        let only_operator: Vec<_> =
            SCOPES.iter().map(|(scope, _)| *scope).filter(|s| operator.allow(s) && !admin.allow(s)).collect();
        assert_eq!(only_operator, ["models:use:machine"]);
    }

    #[test]
    fn a_prefix_matches_everything_below_it_and_a_scope_only_itself() {
        let prompts = ScopeSet::of_pattern("system_prompts:*").unwrap();
        assert!(prompts.allow("system_prompts:write:tenant") && prompts.allow("system_prompts:read"));
        assert!(!prompts.allow("memory:read"));
        let write = ScopeSet::of_pattern("system_prompts:write").unwrap();
        assert!(write.allow("system_prompts:write") && !write.allow("system_prompts:write:tenant"));
        assert!(!ScopeSet::of_pattern("tenant:*").unwrap().allow("tenant_config:read"));
    }

    #[test]
    fn every_pattern_of_the_list_stands_for_something() {
        let patterns = patterns();
        assert!(patterns.contains("*") && patterns.contains("system_prompts:write:*"));
        assert!(patterns.iter().all(|pattern| ScopeSet::of_pattern(pattern).is_some()), "{patterns:?}");
    }

    #[test]
    fn a_pattern_that_stands_for_nothing_is_unknown() {
        for pattern in ["", "chat", "chat:", "memory*", "unknown:*", "memory:read:*", "*:read", "**", "chat:create "] {
            assert_eq!(ScopeSet::of_pattern(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn a_scope_that_is_not_in_the_table_is_never_allowed() {
        let all = ScopeSet::of_pattern("*").unwrap();
        assert!(!all.allow("") && !all.allow("*") && !all.allow("memory:*") && !all.allow("zebra:read"));
    }
}
