//! What holds while the shared store is down: one rule for all paths, or one per path prefix.

use crate::config::{OnStoreFailure, StoreFailure};

/// The rules, longest prefix first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureRules {
    by_prefix: Vec<(String, StoreFailure)>,
    otherwise: StoreFailure,
}

impl FailureRules {
    /// From the configuration. A path without a rule of its own shares locally.
    #[must_use]
    pub fn new(raw: &OnStoreFailure) -> Self {
        match raw {
            OnStoreFailure::All(rule) => Self { by_prefix: Vec::new(), otherwise: *rule },
            OnStoreFailure::ByPrefix(rules) => {
                let trimmed = |prefix: &String| prefix.trim_end_matches('/').to_owned();
                let mut by_prefix: Vec<_> = rules.iter().map(|(prefix, rule)| (trimmed(prefix), *rule)).collect();
                by_prefix.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
                Self { by_prefix, otherwise: StoreFailure::LocalShare }
            }
        }
    }

    /// The rule of a route, by its path: the longest prefix of whole segments.
    #[must_use]
    pub fn of(&self, route: &str) -> StoreFailure {
        let is_under =
            |prefix: &str| route.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.by_prefix.iter().find(|(prefix, _)| is_under(prefix)).map_or(self.otherwise, |(_, rule)| *rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreFailure::{Closed, LocalShare};

    fn rules(json: &str) -> FailureRules {
        FailureRules::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn one_value_holds_everywhere() {
        assert_eq!(rules(r#""closed""#).of("/v1/models"), Closed);
        assert_eq!(rules(r#""local_share""#).of("/v1/models"), LocalShare);
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_counts() {
        let rules = rules(r#"{"/v1": "closed", "/v1/models/": "local_share", "/v1/models/{*id}/x": "closed"}"#);
        for (route, rule) in [
            ("/v1", Closed),
            ("/v1/chat/completions", Closed),
            ("/v1/models", LocalShare),
            ("/v1/models/{*id}", LocalShare),
            ("/v1/modelsx", Closed),
            ("/v10", LocalShare),
            ("/errors", LocalShare),
        ] {
            assert_eq!(rules.of(route), rule, "{route}");
        }
    }

    #[test]
    fn the_root_is_the_prefix_of_all() {
        let rules = rules(r#"{"/": "closed", "/errors": "local_share"}"#);
        assert_eq!((rules.of("/v1/models"), rules.of("/errors")), (Closed, LocalShare));
    }
}
