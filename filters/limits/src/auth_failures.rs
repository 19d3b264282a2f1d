//! Slows down who guesses secrets: a bucket of failures per client address.

use std::net::IpAddr;
use std::sync::Arc;

use dgx_gateway_filter::services::{AuthFailures, NotTolerated, Noted};

use crate::bucket::Taken;
use crate::buckets::{Answer, NotTaken, store_is_down};
use crate::events::{LimitKind, RateLimited};
use crate::state::Limits;

/// The service that the identity filter asks.
pub(crate) struct FailureLimit(pub(crate) Arc<Limits>);

impl AuthFailures for FailureLimit {
    fn note<'a>(&'a self, client: Option<IpAddr>, route: &str) -> Noted<'a> {
        let asked = self.0.asked_of(client, self.0.settings().auth_failures, route);
        match self.0.failures.take(asked) {
            Answer::Now(taken) => Noted::Now(self.tell(taken)),
            Answer::Later(taken) => Noted::Later(Box::pin(async { self.tell(taken.await) })),
        }
    }
}

impl FailureLimit {
    fn tell(&self, taken: Result<Taken, NotTaken>) -> Result<(), NotTolerated> {
        match taken {
            Ok(_) => Ok(()),
            Err(NotTaken::Empty(refused)) => {
                let refusal = RateLimited { kind: LimitKind::Auth, tenant: None, token: None, request_id: None };
                self.0.refusals.record(&refusal);
                Err(NotTolerated::TooOften(refused.wait))
            }
            Err(NotTaken::StoreDown) => Err(NotTolerated::NotCounted(Box::new(store_is_down()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::World;

    /// The wait, where the failure is not tolerated.
    fn note(failures: &Arc<dyn AuthFailures>, client: Option<IpAddr>) -> Option<Duration> {
        match failures.note(client, "/v1/models") {
            Noted::Now(Ok(())) => None,
            Noted::Now(Err(NotTolerated::TooOften(wait))) => Some(wait),
            _ => panic!("without a store it is known at once"),
        }
    }

    #[test]
    fn tolerates_ten_failures_at_once_and_one_more_every_two_seconds() {
        let world = World::new("{}");
        let failures = world.env.service::<Arc<dyn AuthFailures>>().unwrap();
        let client = Some("192.0.2.1".parse().unwrap());
        for _ in 0..10 {
            assert_eq!(note(&failures, client), None);
        }
        assert_eq!(note(&failures, client), Some(Duration::from_secs(2)));
        world.clock.advance(Duration::from_secs(2));
        assert_eq!(note(&failures, client), None);
        assert_eq!(note(&failures, client), Some(Duration::from_secs(2)));
        assert_eq!(note(&failures, Some("192.0.2.2".parse().unwrap())), None);
        assert_eq!(world.refused("(none)", "auth"), 2);
    }

    #[test]
    fn takes_rate_and_burst_from_the_settings() {
        let world = World::new(r#"{"limits": {"auth_failures": {"per_minute": 60, "burst": 1}}}"#);
        let failures = world.env.service::<Arc<dyn AuthFailures>>().unwrap();
        assert_eq!(note(&failures, None), None);
        assert_eq!(note(&failures, None), Some(Duration::from_secs(1)));
    }
}
