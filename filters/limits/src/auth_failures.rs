//! Slows down who guesses secrets: a bucket of failures per client address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::services::AuthFailures;

use crate::address;
use crate::events::{LimitKind, RateLimited};
use crate::state::Limits;

/// The service that the identity filter asks.
pub(crate) struct FailureLimit(pub(crate) Arc<Limits>);

impl AuthFailures for FailureLimit {
    fn note(&self, client: Option<IpAddr>) -> Result<(), Duration> {
        let rate = self.0.settings().auth_failures;
        let taken = self.0.failures.try_take(&address::key(client), 1, rate, self.0.clock.now());
        taken.map(drop).map_err(|refused| {
            let refusal = RateLimited { kind: LimitKind::Auth, tenant: None, token: None, request_id: None };
            self.0.refusals.record(&refusal);
            refused.wait
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::World;

    #[test]
    fn tolerates_ten_failures_at_once_and_one_more_every_two_seconds() {
        let world = World::new("{}");
        let failures = world.env.service::<Arc<dyn AuthFailures>>().unwrap();
        let client = Some("192.0.2.1".parse().unwrap());
        for _ in 0..10 {
            assert_eq!(failures.note(client), Ok(()));
        }
        assert_eq!(failures.note(client), Err(Duration::from_secs(2)));
        world.clock.advance(Duration::from_secs(2));
        assert_eq!(failures.note(client), Ok(()));
        assert_eq!(failures.note(client), Err(Duration::from_secs(2)));
        assert_eq!(failures.note(Some("192.0.2.2".parse().unwrap())), Ok(()));
        assert_eq!(world.refused("(none)", "auth"), 2);
    }

    #[test]
    fn takes_rate_and_burst_from_the_settings() {
        let world = World::new(r#"{"limits": {"auth_failures": {"per_minute": 60, "burst": 1}}}"#);
        let failures = world.env.service::<Arc<dyn AuthFailures>>().unwrap();
        assert_eq!(failures.note(None), Ok(()));
        assert_eq!(failures.note(None), Err(Duration::from_secs(1)));
    }
}
