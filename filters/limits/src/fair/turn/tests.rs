use std::net::SocketAddr;
use std::num::NonZeroU32;

use dgx_gateway_filter::upstream::{HttpVersion, Target, Upstream};
use dgx_gateway_testkit::exchange::{ExchangeDriver, upstream};
use futures_util::FutureExt;
use http::Method;

use super::*;
use crate::testing::{World, principal};

const LIMITS: TenantLimits = TenantLimits { tokens_per_minute: None, max_in_flight: None, weight: 1 };

/// A world whose requests wait for at most this many milliseconds.
fn world(timeout: u64) -> (World, Arc<dyn Filter>) {
    let world = World::new(&format!(r#"{{"limits": {{"queue_timeout_ms": {timeout}}}}}"#));
    let filter = Turn::build((), &world.env).unwrap();
    (world, filter)
}

fn backend(label: &str, slots: u32) -> Arc<Upstream> {
    let made = upstream(label, SocketAddr::from(([127, 0, 0, 1], 9)), HttpVersion::Http1);
    Arc::new(Upstream { slots: NonZeroU32::new(slots), ..Arc::into_inner(made).unwrap() })
}

fn request(filter: &Arc<dyn Filter>, limits: TenantLimits, plan: &[(&str, u32)]) -> ExchangeDriver {
    let driver = ExchangeDriver::of(filter.begin(), Method::POST, "/", &[]).unwrap();
    let driver = driver.with_fact(limits).with_fact(principal("t"));
    plan.iter().fold(driver, |driver, (label, slots)| driver.with_target(backend(label, *slots)))
}

fn wait(admission: Result<Admission, FilterError>) -> impl Future<Output = ()> {
    match admission.unwrap() {
        Admission::Wait(wait) => wait,
        Admission::Granted => panic!("it was let through"),
    }
}

fn is_granted(admission: Result<Admission, FilterError>) -> bool {
    matches!(admission.unwrap(), Admission::Granted)
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_slot_and_gives_it_back_with_the_end_of_the_answer() {
    let (_world, filter) = world(30_000);
    let [mut first, mut second, mut third] = [(); 3].map(|()| request(&filter, LIMITS, &[("x", 1)]));
    assert!(is_granted(first.before_attempt(0)));
    assert!(is_granted(first.before_attempt(0)), "the same target once more keeps its slot");
    let waiting = wait(second.before_attempt(0));
    first.response_chunk(&mut Some(Bytes::from_static(b"x")), false).unwrap();
    let mut waiting = Box::pin(waiting);
    assert!((&mut waiting).now_or_never().is_none());
    first.response_chunk(&mut None, true).unwrap();
    waiting.await;
    assert!(is_granted(second.before_attempt(0)));
    let waiting = wait(third.before_attempt(0));
    second.finish(&Outcome::ClientLeft);
    waiting.await;
    assert!(is_granted(third.before_attempt(0)));
}

#[tokio::test(start_paused = true)]
async fn all_waits_of_a_request_together_have_one_limit() {
    let (world, filter) = world(10_000);
    let mut holds = request(&filter, LIMITS, &[("x", 1), ("y", 1)]);
    let mut also = request(&filter, LIMITS, &[("y", 1)]);
    assert!(is_granted(holds.before_attempt(0)) && is_granted(also.before_attempt(0)));
    let mut waits = request(&filter, LIMITS, &[("x", 1), ("y", 1)]);
    let first = wait(waits.before_attempt(0));
    tokio::time::advance(Duration::from_secs(6)).await;
    world.clock.advance(Duration::from_secs(6));
    drop(holds);
    first.await;
    assert!(is_granted(waits.before_attempt(0)));
    let began = Instant::now();
    wait(waits.before_attempt(1)).await;
    assert_eq!(began.elapsed().as_secs(), 4);
    let refused = waits.before_attempt(1).unwrap_err();
    assert_eq!((refused.code, refused.param), (ErrorCode::ServiceOverloaded, None));
    assert_eq!(refused.retry_after, Some(AFTER_QUEUE));
}

#[tokio::test(start_paused = true)]
async fn a_free_member_of_a_choice_comes_before_one_that_is_taken() {
    let (_world, filter) = world(30_000);
    let plan = |driver: &mut ExchangeDriver| {
        let targets = driver.plan().targets.iter();
        targets.map(|target: &Target| target.upstream.label.to_string()).collect::<Vec<_>>()
    };
    let mut holds = request(&filter, LIMITS, &[("x", 1)]);
    assert!(is_granted(holds.before_attempt(0)));
    let in_choice = |numbers: [usize; 3]| {
        let mut driver = request(&filter, LIMITS, &[("x", 1), ("y", 1), ("z", 1)]);
        driver.plan_mut().targets.iter_mut().zip(numbers).for_each(|(target, choice)| target.choice = choice);
        driver
    };
    let mut first = in_choice([0, 0, 1]);
    assert!(is_granted(first.before_attempt(0)));
    assert_eq!(plan(&mut first), ["y", "x", "z"]);
    let mut second = in_choice([0, 0, 1]);
    let waiting = wait(second.before_attempt(0));
    drop(first);
    waiting.await;
    assert!(is_granted(second.before_attempt(0)));
    assert_eq!(plan(&mut second), ["y", "x", "z"]);
    let mut strict = in_choice([0, 1, 2]);
    drop(second);
    drop(wait(strict.before_attempt(0)));
    assert_eq!(plan(&mut strict), ["x", "y", "z"]);
}

#[tokio::test]
async fn who_meets_no_limit_passes() {
    let (_world, filter) = world(1);
    let mut all = [(); 100].map(|()| request(&filter, LIMITS, &[("x", 0)]));
    assert!(all.iter_mut().all(|request| is_granted(request.before_attempt(0))));
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_tenant_counts_over_all_backends_and_waits() {
    let (_world, filter) = world(1000);
    let two = TenantLimits { max_in_flight: Some(2), ..LIMITS };
    let mut running = [("x", 0), ("y", 5)].map(|backend| request(&filter, two, &[backend]));
    assert!(running.iter_mut().all(|request| is_granted(request.before_attempt(0))));
    let mut third = request(&filter, two, &[("z", 0)]);
    let waiting = wait(third.before_attempt(0));
    drop(running);
    waiting.await;
    assert!(is_granted(third.before_attempt(0)));
}

#[tokio::test]
async fn a_limit_of_nothing_refuses_at_once() {
    let (_world, filter) = world(30_000);
    let none = TenantLimits { max_in_flight: Some(0), ..LIMITS };
    let refused = request(&filter, none, &[("x", 0)]).before_attempt(0).unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (ErrorCode::ServiceOverloaded, Some(NEVER)));
}

#[tokio::test]
async fn fails_closed_without_the_facts_it_needs() {
    let (_world, filter) = world(1);
    let driver = || ExchangeDriver::of(filter.begin(), Method::POST, "/", &[]).unwrap().with_target(backend("x", 1));
    assert_eq!(driver().before_attempt(0).unwrap_err().code, ErrorCode::InternalError);
    assert_eq!(driver().with_fact(LIMITS).before_attempt(0).unwrap_err().code, ErrorCode::InternalError);
}
