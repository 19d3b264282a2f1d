use std::time::SystemTime;

use dgx_gateway_filter::clock::ManualClock;
use futures_util::FutureExt;
use prometheus::Registry;

use super::*;
use crate::fair::lingering::LOOK;

/// What a timer may be late.
const TICK: Duration = Duration::from_millis(2);
const LIMITS: TenantLimits = TenantLimits { tokens_per_minute: None, max_in_flight: None, weight: 1 };

fn slots(room: Room) -> Arc<Slots> {
    let clock = Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH));
    Arc::new(Slots::with_room(room, clock, Waits::register(&Registry::new()).unwrap()))
}

fn roomy() -> Arc<Slots> {
    slots(Room { per_place: 10_000, per_tenant: 10_000 })
}

fn enter(slots: &Arc<Slots>, tenant: &str, limits: TenantLimits) -> Entry {
    slots.enter(&tenant.into(), limits, vec![("x".into(), NonZeroU32::new(1))], None)
}

fn granted(entry: Entry) -> Permit {
    match entry {
        Entry::Granted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn waits(entry: Entry) -> Ticket {
    match entry {
        Entry::Waits(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn is_empty(slots: &Slots) -> bool {
    let state = slots.state();
    state.granted.is_empty() && state.wakers.is_empty() && !format!("{:?}", state.queue).contains("Share")
}

#[tokio::test]
async fn a_waiting_call_is_woken_by_the_end_of_the_one_before_it() {
    let slots = roomy();
    let first = granted(enter(&slots, "a", LIMITS));
    let mut second = waits(enter(&slots, "a", LIMITS));
    let mut wait = Box::pin(second.granted());
    assert!(second.take().is_none() && wait.as_mut().now_or_never().is_none());
    let woken = tokio::spawn(wait);
    tokio::task::yield_now().await;
    drop(first);
    woken.await.unwrap();
    let permit = second.take().unwrap();
    assert_eq!(permit.label(), "x");
    drop((second, permit));
    assert!(is_empty(&slots));
}

#[test]
fn a_granted_slot_that_nobody_takes_goes_to_the_next() {
    let slots = roomy();
    let first = granted(enter(&slots, "a", LIMITS));
    let second = waits(enter(&slots, "a", LIMITS));
    let mut third = waits(enter(&slots, "a", LIMITS));
    drop(first);
    assert!(third.take().is_none());
    drop(second); // granted, and gone before it knew
    drop(third.take().unwrap());
    drop(third);
    assert!(is_empty(&slots));
}

#[test]
fn who_waits_no_longer_is_passed_over() {
    let slots = roomy();
    let first = granted(enter(&slots, "a", LIMITS));
    let gone = waits(enter(&slots, "a", LIMITS));
    let mut stays = waits(enter(&slots, "a", LIMITS));
    drop(gone);
    drop(first);
    assert!(stays.take().is_some());
}

#[test]
fn a_full_room_refuses_at_once() {
    let slots = slots(Room { per_place: 2, per_tenant: 1 });
    let _runs = granted(enter(&slots, "a", LIMITS));
    let _waits = waits(enter(&slots, "a", LIMITS));
    assert!(matches!(enter(&slots, "a", LIMITS), Entry::Full));
    let _other = waits(enter(&slots, "b", LIMITS));
    assert!(matches!(enter(&slots, "c", LIMITS), Entry::Full));
}

#[test]
fn what_the_configuration_in_use_says_goes_before_what_a_request_brings_along() {
    let slots = roomy();
    slots.backends(vec![("x".into(), NonZeroU32::new(2)), ("y".into(), None)]);
    slots.tenants(vec![("a".into(), TenantLimits { max_in_flight: Some(3), ..LIMITS })]);
    let one = TenantLimits { max_in_flight: Some(1), ..LIMITS };
    let _running = (granted(enter(&slots, "a", one)), granted(enter(&slots, "a", one)));
    let mut at_x = waits(enter(&slots, "a", one));
    let elsewhere = slots.enter(&"a".into(), one, vec![("y".into(), NonZeroU32::new(1))], None);
    let _running_elsewhere = granted(elsewhere);
    let mut depths = slots.depths();
    depths.sort();
    assert_eq!(depths, [("x".into(), 1), ("y".into(), 0)]);
    // more slots are of no use while the tenant may not run more
    slots.backends(vec![("x".into(), NonZeroU32::new(5))]);
    assert!(at_x.take().is_none());
    slots.tenants(vec![("a".into(), LIMITS)]);
    assert!(at_x.take().is_some());
}

/// Thousands of tasks that come and are aborted at any point, on several threads: all slots are there in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_random_aborts_leave_nothing_behind() {
    let slots = roomy();
    let call = async |slots: Arc<Slots>, n: usize| {
        let tenant: Arc<str> = format!("t{}", n % 7).into();
        let (max, weight) = (n.is_multiple_of(3).then_some(2), [1, 2, 3, 4, 5][n % 5]);
        let limits = TenantLimits { max_in_flight: max, weight, ..LIMITS };
        let mut candidates = vec![("x".into(), NonZeroU32::new(3))];
        if n.is_multiple_of(2) {
            candidates.push(("y".into(), NonZeroU32::new(1)));
        }
        let permit = match slots.enter(&tenant, limits, candidates, None) {
            Entry::Granted(permit) => permit,
            Entry::Waits(mut ticket) => loop {
                ticket.granted().await;
                if let Some(permit) = ticket.take() {
                    break permit;
                }
            },
            Entry::Full => return,
        };
        for _ in 0..n % 4 {
            tokio::task::yield_now().await;
        }
        drop(permit);
    };
    let mut finished = 0;
    for round in 0..100 {
        let tasks: Vec<_> = (0..100).map(|n| tokio::spawn(call(Arc::clone(&slots), round + n))).collect();
        for (n, task) in tasks.iter().enumerate() {
            if !(n + round).is_multiple_of(3) {
                task.abort();
            }
            if n.is_multiple_of(8) {
                tokio::task::yield_now().await;
            }
        }
        for task in tasks {
            finished += usize::from(task.await.is_ok());
        }
    }
    assert!(finished > 3000, "those that were not aborted all came to their turn");
    assert!(is_empty(&slots));
}

#[tokio::test(start_paused = true)]
async fn a_call_about_to_end_keeps_its_slot_for_a_moment_and_no_longer() {
    let slots = roomy();
    let lingers = granted(enter(&slots, "a", LIMITS)).linger();
    let mut second = waits(enter(&slots, "a", LIMITS));
    let began = tokio::time::Instant::now();
    second.granted().await;
    assert!(began.elapsed() >= LOOK && began.elapsed() <= 2 * LOOK + TICK, "{:?}", began.elapsed());
    let ends = second.take().unwrap().linger();
    let mut third = waits(enter(&slots, "a", LIMITS));
    drop(ends);
    assert!(third.take().is_some(), "the end of the request is the end");
    assert!(lingers.take().is_none());
}

/// One task looks after all of them. It is there when it is needed, also after its runtime has ended.
#[test]
fn calls_about_to_end_are_looked_after_in_every_runtime() {
    let slots = roomy();
    // of a request that does not end
    let lingers = |backend: &str| {
        let entry = slots.enter(&"a".into(), LIMITS, vec![(backend.into(), NonZeroU32::new(1))], None);
        std::mem::forget(granted(entry).linger());
    };
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            for backend in ["x", "y"] {
                lingers(backend);
                tokio::time::sleep(LOOK / 2).await;
            }
            assert!(!is_empty(&slots));
            tokio::time::sleep(2 * LOOK).await;
            assert!(is_empty(&slots));
            lingers("left behind");
        });
        drop(runtime);
        assert!(!is_empty(&slots));
        let other = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        other.block_on(async {
            lingers("x");
            tokio::time::sleep(4 * LOOK).await;
            assert!(is_empty(&slots));
        });
    }
}
