//! The request limit per bearer.

use std::sync::Arc;

use dgx_gateway_filter::facts::{Principal, RateLimit};
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem, async_trait,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::bucket::{Rate, Refused, Taken};
use crate::buckets::{Answer, NotTaken, store_is_down};
use crate::events::{LimitKind, RateLimited};
use crate::headers;
use crate::state::Limits;

/// Filter kind `limits`: one request takes one unit from the bucket of its bearer, whatever address it comes from.
#[derive(Debug)]
pub struct Requests;

/// The entry takes no parameters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestsConfig {}

impl FilterKind for Requests {
    const NAME: &'static str = "limits";
    const AFTER: &'static [&'static str] = &["identity"];
    type Config = RequestsConfig;
    type Checked = ();

    fn check(_raw: RequestsConfig) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build((): (), env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(RequestsFilter(env.service()?)))
    }
}

struct RequestsFilter(Arc<Limits>);

impl Filter for RequestsFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(RequestsExchange(Arc::clone(&self.0)))
    }
}

struct RequestsExchange(Arc<Limits>);

#[async_trait]
impl Exchange for RequestsExchange {
    async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let principal = cx.facts.get::<Principal>().ok_or_else(|| FilterError::internal("no principal was stated"))?;
        if principal.rate_limit_bypass {
            return Ok(Flow::Continue);
        }
        let rate = principal.rate_limit.map_or_else(|| self.0.settings().requests, own_rate);
        let asked = self.0.asked(principal.bearer_digest, rate, &cx.request.route);
        let taken = match self.0.requests.take(asked) {
            Answer::Now(taken) => taken,
            Answer::Later(taken) => taken.await,
        };
        match taken {
            Ok(Taken { remaining, full_in }) => {
                headers::set(cx.reply_headers, headers::REQUESTS, rate.capacity(), remaining, full_in);
                Ok(Flow::Continue)
            }
            Err(NotTaken::Empty(Refused { remaining, wait, full_in })) => {
                headers::set(cx.reply_headers, headers::REQUESTS, rate.capacity(), remaining, full_in);
                self.0.refusals.record(&RateLimited {
                    kind: LimitKind::Requests,
                    tenant: Some(&principal.tenant_id),
                    token: Some(&principal.token_id),
                    request_id: Some(&cx.request.id),
                });
                let message = "The request limit of this token is reached. Wait for the time in Retry-After.";
                Err(FilterError::policy(ErrorCode::RateLimitExceeded, message).retry_after(wait))
            }
            Err(NotTaken::StoreDown) => Err(store_is_down()),
        }
    }
}

fn own_rate(limit: RateLimit) -> Rate {
    Rate::new(limit.burst, limit.per_second)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{World, principal};

    fn headers(world: &World) -> [Option<&str>; 3] {
        ["limit", "remaining", "reset"].map(|part| world.reply_header(&format!("x-ratelimit-{part}-requests")))
    }

    #[test]
    fn follows_the_table_of_the_specification() {
        let mut world = World::new("{}");
        world.facts.insert(principal("app"));
        world.run::<Requests>("{}").unwrap();
        assert_eq!(headers(&world), [Some("30"), Some("29"), Some("1s")]);
        for _ in 0..29 {
            world.run::<Requests>("{}").unwrap();
        }
        let refused = world.run::<Requests>("{}").unwrap_err();
        assert_eq!((refused.code, refused.param), (ErrorCode::RateLimitExceeded, None));
        assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
        assert_eq!(headers(&world), [Some("30"), Some("0"), Some("30s")]);
        world.clock.advance(Duration::from_millis(400));
        assert_eq!(world.run::<Requests>("{}").unwrap_err().retry_after, Some(Duration::from_millis(600)));
        assert_eq!(headers(&world), [Some("30"), Some("0"), Some("30s")]);
        assert_eq!(world.refused("acme", "requests"), 2);
    }

    #[test]
    fn a_token_with_its_own_limit_uses_that() {
        let mut world = World::new("{}");
        world.facts.insert(Principal { rate_limit: Some(RateLimit { per_second: 5.0, burst: 2 }), ..principal("app") });
        world.run::<Requests>("{}").unwrap();
        assert_eq!(headers(&world), [Some("2"), Some("1"), Some("200ms")]);
        world.run::<Requests>("{}").unwrap();
        assert_eq!(world.run::<Requests>("{}").unwrap_err().retry_after, Some(Duration::from_millis(200)));
    }

    #[test]
    fn a_token_that_bypasses_the_limit_gets_no_headers() {
        let mut world = World::new(r#"{"limits": {"burst": 1}}"#);
        world.facts.insert(Principal { rate_limit_bypass: true, ..principal("app") });
        for _ in 0..5 {
            world.run::<Requests>("{}").unwrap();
        }
        assert_eq!(headers(&world), [None; 3]);
    }

    #[test]
    fn the_bucket_belongs_to_the_bearer_and_not_to_the_address_or_route_entry() {
        let mut world = World::new(r#"{"limits": {"burst": 1}}"#);
        world.facts.insert(principal("one"));
        world.run::<Requests>("{}").unwrap();
        world.peer("192.0.2.77");
        world.run::<Requests>("{}").unwrap_err();
        world.facts.insert(Principal { bearer_digest: [9; 32], ..principal("one") });
        world.run::<Requests>("{}").unwrap();
    }

    #[test]
    fn a_reload_changes_the_limit_and_keeps_what_was_taken() {
        let mut world = World::new(r#"{"limits": {"burst": 2}}"#);
        world.facts.insert(principal("app"));
        world.run::<Requests>("{}").unwrap();
        world.reload(r#"{"limits": {"burst": 5, "per_second": 2}}"#);
        world.run::<Requests>("{}").unwrap();
        assert_eq!(headers(&world), [Some("5"), Some("0"), Some("3s")]);
        world.run::<Requests>("{}").unwrap_err();
    }

    #[test]
    fn refuses_when_nobody_stated_who_asks() {
        let mut world = World::new("{}");
        assert_eq!(world.run::<Requests>("{}").unwrap_err().code, ErrorCode::InternalError);
    }

    #[test]
    fn is_not_built_without_the_service() {
        let world = World::new("{}");
        let env = BuildEnv::new(
            world.env.clock.clone(),
            world.env.ambient.clone(),
            world.env.data_dir.clone(),
            prometheus::Registry::new(),
        );
        assert!(matches!(Requests::build((), &env), Err(BuildError::MissingService(_))));
    }
}
