//! The limit of tokens per minute and tenant.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dgx_gateway_filter::facts::{Principal, TenantLimits, Usage, WorstCase};
use dgx_gateway_filter::upstream::AttemptRequest;
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, FinishCx, Flow, Outcome,
    Problem, ResponseHead, Rope, async_trait,
};
use http::header::CONTENT_TYPE;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::bucket::{Key, Rate, Refused, Taken};
use crate::buckets::{Answer, NotTaken, Reservation, store_is_down};
use crate::events::{LimitKind, RateLimited};
use crate::headers;
use crate::spent::Progress;
use crate::state::Limits;

/// When to come back to a limit of 0, which lets nothing pass: the longest wait that is ever told.
const NEVER: Duration = Duration::from_secs(3600);

/// Filter kind `limits-tokens`: a model call reserves its worst case from the bucket of its tenant, and what it did
/// not use comes back when it ends.
///
/// A worst case above the whole bucket reserves the whole bucket: real calls use far less than they might, and one
/// must not be impossible for ever. What a call used beyond its reservation becomes a debt of the bucket.
#[derive(Debug)]
pub struct Tokens;

/// The entry takes no parameters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {}

impl FilterKind for Tokens {
    const NAME: &'static str = "limits-tokens";
    const AFTER: &'static [&'static str] = &["identity", "models"];
    type Config = TokensConfig;
    type Checked = ();

    fn check(_raw: TokensConfig) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build((): (), env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(TokensFilter(env.service()?)))
    }
}

struct TokensFilter(Arc<Limits>);

impl Filter for TokensFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(TokensExchange { limits: Arc::clone(&self.0), reserved: None })
    }
}

struct TokensExchange {
    limits: Arc<Limits>,
    reserved: Option<Reserved>,
}

/// A call that is counted, from its reservation to its settlement.
struct Reserved {
    reservation: Reservation,
    worst: WorstCase,
    progress: Progress,
}

#[async_trait]
impl Exchange for TokensExchange {
    async fn request_ready(&mut self, _body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let limits = cx.facts.get::<TenantLimits>().ok_or_else(|| FilterError::internal("no limits were stated"))?;
        let Some(per_minute) = limits.tokens_per_minute else { return Ok(Flow::Continue) };
        let principal = cx.facts.get::<Principal>().ok_or_else(|| FilterError::internal("no principal was stated"))?;
        let worst = *cx.facts.get::<WorstCase>().ok_or_else(|| FilterError::internal("no worst case was stated"))?;
        let shows = !principal.rate_limit_bypass;
        let rate = Rate::tokens_per_minute(per_minute);
        let asked = self.limits.asked(key(&principal.tenant_id), rate, &cx.request.route);
        let taken = match per_minute {
            0 => Err(NotTaken::Empty(Refused { remaining: 0, wait: NEVER, full_in: Duration::ZERO })),
            _ => match self.limits.tokens.reserve(worst.tokens(), asked) {
                Answer::Now(taken) => taken,
                Answer::Later(taken) => taken.await,
            },
        };
        let limit = per_minute.min(rate.capacity());
        match taken {
            Ok((Taken { remaining, full_in }, reservation)) => {
                self.reserved = Some(Reserved { reservation, worst, progress: Progress::default() });
                if shows {
                    headers::set(cx.reply_headers, headers::TOKENS, limit, remaining, full_in);
                }
                Ok(Flow::Continue)
            }
            Err(NotTaken::Empty(Refused { remaining, wait, full_in })) => {
                if shows {
                    headers::set(cx.reply_headers, headers::TOKENS, limit, remaining, full_in);
                }
                self.limits.refusals.record(&RateLimited {
                    kind: LimitKind::Tokens,
                    tenant: Some(&principal.tenant_id),
                    token: Some(&principal.token_id),
                    request_id: Some(&cx.request.id),
                });
                let message = "The tokens per minute of this tenant are used up. Wait for the time in Retry-After.";
                Err(FilterError::policy(ErrorCode::RateLimitExceeded, message).retry_after(wait))
            }
            Err(NotTaken::StoreDown) => Err(store_is_down()),
        }
    }

    fn attempt(&mut self, _attempt: &mut AttemptRequest, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        if let Some(reserved) = &mut self.reserved {
            reserved.progress.attempt();
        }
        Ok(())
    }

    fn response_head(&mut self, head: &mut ResponseHead, _cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        if let Some(reserved) = &mut self.reserved {
            let stream = |value: &http::HeaderValue| value.as_bytes().starts_with(b"text/event-stream");
            reserved.progress.head(head.headers.get(CONTENT_TYPE).is_some_and(stream));
        }
        Ok(())
    }

    fn response_chunk(
        &mut self,
        part: &mut Option<Bytes>,
        _end: bool,
        _cx: &mut ExchangeCx<'_>,
    ) -> Result<(), FilterError> {
        if let (Some(reserved), Some(piece)) = (&mut self.reserved, part) {
            reserved.progress.piece(piece);
        }
        Ok(())
    }

    /// Runs before `finish` of the filters that stand before this one: usage has to be stated by then, as it is in
    /// the hooks of the response.
    fn finish(&mut self, outcome: &Outcome, cx: &FinishCx<'_>) {
        let Some(Reserved { reservation, worst, progress }) = self.reserved.take() else { return };
        let spent = progress.spent(outcome, cx.facts.get::<Usage>(), worst);
        self.limits.tokens.settle(&reservation, spent, self.limits.clock.now());
    }
}

/// The bucket of a tenant.
fn key(tenant_id: &str) -> Key {
    Sha256::digest(tenant_id).into()
}

#[cfg(test)]
mod tests;
