use dgx_gateway_filter::facts::Facts;
use dgx_gateway_testkit::exchange::{ExchangeDriver, attempt_request};
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use super::*;
use crate::testing::{World, principal};

const OK: Outcome = Outcome::Answered { status: StatusCode::OK, code: None };
const WORST: WorstCase = WorstCase { input_bytes: 200, output_tokens: 300, images: 0 };

/// Calls of one tenant with so many tokens per minute.
struct Tenant {
    world: World,
    per_minute: Option<u64>,
}

impl Tenant {
    fn new(per_minute: u64) -> Self {
        Self { world: World::new("{}"), per_minute: Some(per_minute) }
    }

    fn call(&self, worst: WorstCase) -> ExchangeDriver {
        let filter = Tokens::build((), &self.world.env).unwrap();
        let limits = TenantLimits { tokens_per_minute: self.per_minute, ..TenantLimits::default() };
        ExchangeDriver::new(filter.begin(), Request::post("/v1/chat/completions").body(()).unwrap())
            .with_fact(principal("app"))
            .with_fact(limits)
            .with_fact(worst)
    }

    /// A call that was admitted.
    async fn admitted(&self, worst: WorstCase) -> ExchangeDriver {
        let mut call = self.call(worst);
        call.ready(&mut Rope::new()).await.unwrap();
        call
    }

    async fn refused(&self, worst: WorstCase) -> (FilterError, ExchangeDriver) {
        let mut call = self.call(worst);
        let refused = call.ready(&mut Rope::new()).await.unwrap_err();
        (refused, call)
    }

    /// What is left, seen by a call that costs nothing.
    async fn left(&self) -> u64 {
        let mut call = self.admitted(WorstCase::default()).await;
        let left = headers(&call)[1].clone().unwrap().parse().unwrap();
        call.finish(&Outcome::ClientLeft);
        left
    }
}

fn headers(call: &ExchangeDriver) -> [Option<String>; 3] {
    ["limit", "remaining", "reset"].map(|part| {
        let value = call.reply_headers().get(format!("x-ratelimit-{part}-tokens"));
        value.map(|value| value.to_str().unwrap().to_owned())
    })
}

fn texts(limit: &str, remaining: &str, reset: &str) -> [Option<String>; 3] {
    [limit, remaining, reset].map(|text| Some(text.to_owned()))
}

fn attempt(call: &mut ExchangeDriver) {
    call.attempt(&mut attempt_request(0, "/v1/chat/completions", Rope::new())).unwrap();
}

fn answer(call: &mut ExchangeDriver, content_type: &'static str) {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    call.response_head(&mut ResponseHead { status: StatusCode::OK, headers, length: None }).unwrap();
}

#[tokio::test]
async fn reserves_the_worst_case_and_settles_the_usage() {
    let tenant = Tenant::new(1000);
    let mut call = tenant.admitted(WORST).await;
    assert_eq!(headers(&call), texts("1000", "600", "24s"));
    attempt(&mut call);
    call.facts_mut().insert(Usage { prompt_tokens: 30, completion_tokens: 20, cached_tokens: 10, ..Usage::default() });
    call.finish(&OK);
    assert_eq!(tenant.left().await, 950);
}

#[tokio::test]
async fn refuses_when_the_worst_case_does_not_fit_any_more() {
    let tenant = Tenant::new(600); // 10 per second
    let call = tenant.admitted(WORST).await;
    let (refused, second) = tenant.refused(WORST).await;
    assert_eq!((refused.code, refused.param), (ErrorCode::RateLimitExceeded, None));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(20)));
    assert_eq!(headers(&second), texts("600", "200", "40s"));
    assert_eq!(tenant.world.refused("acme", "tokens"), 1);
    drop((call, second));
    tenant.world.clock.advance(Duration::from_secs(20));
    tenant.admitted(WORST).await;
}

#[tokio::test]
async fn a_worst_case_of_exactly_the_capacity_fits_and_one_above_it_reserves_all() {
    for output_tokens in [300, 301, u64::MAX] {
        let tenant = Tenant::new(400);
        let mut call = tenant.admitted(WorstCase { output_tokens, ..WORST }).await;
        assert_eq!(headers(&call), texts("400", "0", "1m0s"));
        let (refused, _) = tenant.refused(WorstCase { input_bytes: 2, output_tokens: 0, images: 0 }).await;
        assert_eq!(refused.retry_after, Some(Duration::from_millis(150)));
        call.finish(&OK);
        assert_eq!(tenant.left().await, 400);
    }
}

#[tokio::test]
async fn one_token_too_many_is_refused() {
    let tenant = Tenant::new(1000);
    let _first = tenant.admitted(WorstCase { input_bytes: 0, output_tokens: 600, images: 0 }).await;
    tenant.refused(WorstCase { input_bytes: 0, output_tokens: 401, images: 0 }).await;
    tenant.admitted(WorstCase { input_bytes: 0, output_tokens: 400, images: 0 }).await;
}

#[tokio::test]
async fn use_beyond_the_reservation_is_a_debt() {
    let tenant = Tenant::new(600);
    let mut call = tenant.admitted(WorstCase { input_bytes: 0, output_tokens: 600, images: 0 }).await;
    attempt(&mut call);
    call.facts_mut().insert(Usage { prompt_tokens: 700, completion_tokens: 100, cached_tokens: 0, ..Usage::default() });
    call.finish(&OK);
    let (refused, call) = tenant.refused(WorstCase { input_bytes: 2, output_tokens: 0, images: 0 }).await;
    assert_eq!(refused.retry_after, Some(Duration::from_millis(20_100)));
    assert_eq!(headers(&call), texts("600", "0", "1m20s"));
}

#[tokio::test]
async fn a_call_that_failed_gives_everything_back() {
    let failed = Outcome::Answered { status: StatusCode::BAD_GATEWAY, code: Some(ErrorCode::UpstreamError) };
    for (attempts, outcome) in [(2, failed), (0, Outcome::ClientLeft), (0, Outcome::Dropped), (0, failed)] {
        let tenant = Tenant::new(1000);
        let mut call = tenant.admitted(WORST).await;
        (0..attempts).for_each(|_| attempt(&mut call));
        call.finish(&outcome);
        assert_eq!(tenant.left().await, 1000, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_counts_its_input_and_its_events() {
    for outcome in [Outcome::ClientLeft, Outcome::Cut(ErrorCode::UpstreamError), Outcome::Dropped] {
        let tenant = Tenant::new(1000);
        let mut call = tenant.admitted(WORST).await;
        attempt(&mut call);
        answer(&mut call, "text/event-stream; charset=utf-8");
        call.response_body(["data: {}\n\n", "data: {}\n\ndata: {}\n\n"]).unwrap();
        call.finish(&outcome);
        assert_eq!(tenant.left().await, 1000 - 100 - 3, "{outcome:?}");
    }
}

#[tokio::test]
async fn an_answer_without_usage_counts_its_input_and_its_length() {
    let tenant = Tenant::new(1000);
    let mut call = tenant.admitted(WORST).await;
    attempt(&mut call);
    answer(&mut call, "application/json");
    assert_eq!(call.response_body(["x".repeat(40)]).unwrap().concat(), "x".repeat(40).as_bytes());
    call.finish(&OK);
    assert_eq!(tenant.left().await, 1000 - 100 - 10);
}

#[tokio::test]
async fn all_tokens_of_a_tenant_share_its_bucket_and_tenants_do_not() {
    let tenant = Tenant::new(400);
    let _first = tenant.admitted(WORST).await;
    let mut other_bearer = tenant.call(WORST).with_fact(Principal { bearer_digest: [9; 32], ..principal("other") });
    other_bearer.ready(&mut Rope::new()).await.unwrap_err();
    let mut other_tenant = tenant.call(WORST).with_fact(Principal { tenant_id: "globex".into(), ..principal("app") });
    other_tenant.ready(&mut Rope::new()).await.unwrap();
}

#[tokio::test]
async fn a_tenant_without_the_limit_pays_and_sees_nothing() {
    let tenant = Tenant { per_minute: None, ..Tenant::new(0) };
    let mut call = tenant.admitted(WORST).await;
    assert_eq!(headers(&call), [None, None, None]);
    call.finish(&OK);
}

#[tokio::test]
async fn a_limit_of_zero_lets_nothing_pass() {
    let tenant = Tenant::new(0);
    let (refused, call) = tenant.refused(WORST).await;
    assert_eq!(refused.retry_after, Some(Duration::from_secs(3600)));
    assert_eq!(headers(&call), texts("0", "0", "0s"));
}

#[tokio::test]
async fn a_token_that_bypasses_the_request_limit_counts_without_headers() {
    let tenant = Tenant::new(400);
    let bypasses = || Principal { rate_limit_bypass: true, ..principal("app") };
    let mut call = tenant.call(WORST).with_fact(bypasses());
    call.ready(&mut Rope::new()).await.unwrap();
    assert_eq!(headers(&call), [None, None, None]);
    let mut second = tenant.call(WORST).with_fact(bypasses());
    second.ready(&mut Rope::new()).await.unwrap_err();
    assert_eq!(headers(&second), [None, None, None]);
}

#[tokio::test]
async fn a_second_finish_gives_nothing_back() {
    let tenant = Tenant::new(1000);
    let mut call = tenant.admitted(WORST).await;
    let _other = tenant.admitted(WORST).await;
    call.finish(&OK);
    call.finish(&OK);
    assert_eq!(tenant.left().await, 600);
}

#[tokio::test]
async fn refuses_when_a_fact_is_missing() {
    let tenant = Tenant::new(400);
    let begin = || Tokens::build((), &tenant.world.env).unwrap().begin();
    let head = || Request::post("/v1/chat/completions").body(()).unwrap();
    let limits = TenantLimits { tokens_per_minute: Some(1), ..TenantLimits::default() };
    for mut call in [
        ExchangeDriver::new(begin(), head()),
        ExchangeDriver::new(begin(), head()).with_fact(limits).with_fact(WORST),
        ExchangeDriver::new(begin(), head()).with_fact(limits).with_fact(principal("app")),
    ] {
        assert_eq!(call.ready(&mut Rope::new()).await.unwrap_err().code, ErrorCode::InternalError);
        assert!(Facts::get::<WorstCase>(call.facts()).is_none() || headers(&call) == [None, None, None]);
    }
}
