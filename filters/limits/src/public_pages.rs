//! The limit of pages that need no token.

use std::sync::Arc;

use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem, async_trait,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::bucket::Rate;
use crate::buckets::{Answer, NotTaken, store_is_down};
use crate::events::{LimitKind, RateLimited};
use crate::state::Limits;

/// Requests at once and per second that a client address (IPv6: a /64) may send to public pages.
const BURST: u32 = 50;
const PER_SECOND: f64 = 10.0;

/// Filter kind `limits-public`: one request takes one unit from the bucket of its client address.
#[derive(Debug)]
pub struct PublicPages;

/// The entry takes no parameters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PublicPagesConfig {}

impl FilterKind for PublicPages {
    const NAME: &'static str = "limits-public";
    type Config = PublicPagesConfig;
    type Checked = ();

    fn check(_raw: PublicPagesConfig) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build((): (), env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(PublicPagesFilter(env.service()?)))
    }
}

struct PublicPagesFilter(Arc<Limits>);

impl Filter for PublicPagesFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(PublicPagesExchange(Arc::clone(&self.0)))
    }
}

struct PublicPagesExchange(Arc<Limits>);

#[async_trait]
impl Exchange for PublicPagesExchange {
    async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let asked = self.0.asked_of(cx.client_ip(), Rate::new(BURST, PER_SECOND), &cx.request.route);
        let taken = match self.0.public.take(asked) {
            Answer::Now(taken) => taken,
            Answer::Later(taken) => taken.await,
        };
        match taken {
            Ok(_) => Ok(Flow::Continue),
            Err(NotTaken::Empty(refused)) => {
                let request_id = Some(&*cx.request.id);
                self.0.refusals.record(&RateLimited { kind: LimitKind::Public, tenant: None, token: None, request_id });
                let message = "Too many requests from this address. Wait for the time in Retry-After.";
                Err(FilterError::policy(ErrorCode::RateLimitExceeded, message).retry_after(refused.wait))
            }
            Err(NotTaken::StoreDown) => Err(store_is_down()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dgx_gateway_filter::facts::ClientIp;

    use super::*;
    use crate::testing::World;

    #[test]
    fn an_address_gets_fifty_at_once_and_ten_per_second() {
        let mut world = World::new("{}");
        world.peer("192.0.2.1");
        for _ in 0..50 {
            world.run::<PublicPages>("{}").unwrap();
        }
        let refused = world.run::<PublicPages>("{}").unwrap_err();
        assert_eq!(
            (refused.code, refused.retry_after),
            (ErrorCode::RateLimitExceeded, Some(Duration::from_millis(100)))
        );
        assert_eq!(world.refused("(none)", "public"), 1);
        world.peer("192.0.2.2");
        world.run::<PublicPages>("{}").unwrap();
        world.peer("192.0.2.1");
        world.clock.advance(Duration::from_millis(100));
        world.run::<PublicPages>("{}").unwrap();
        world.run::<PublicPages>("{}").unwrap_err();
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        let mut world = World::new("{}");
        for last in 0..50 {
            world.peer(&format!("2001:db8::{last:x}"));
            world.run::<PublicPages>("{}").unwrap();
        }
        world.peer("2001:db8::ffff");
        world.run::<PublicPages>("{}").unwrap_err();
    }

    #[test]
    fn the_stated_client_address_counts_before_the_peer() {
        let mut world = World::new("{}");
        world.peer("192.0.2.1");
        for last in 0..60 {
            world.facts.insert(ClientIp(format!("198.51.100.{last}").parse().unwrap()));
            world.run::<PublicPages>("{}").unwrap();
        }
    }
}
