//! Many calls at the same time: no interleaving admits more than fits, and nothing is lost or counted twice.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::budgets::tenant::Reservation;
use crate::budgets::usage::{Call, Share, Ticket, Usage};

fn call<'a>(slug: &'a Arc<str>, tokens: u64, at: i64) -> Call<'a> {
    let worst = Amounts { cents: tokens, requests: 1, tokens };
    Call { slug, alias: slug, worst, priced: true, at }
}

#[test]
fn two_hundred_at_once_against_a_budget_for_ten_admit_ten() {
    for round in 0..20 {
        let limit = if round % 2 == 0 { BudgetLimit::Requests(10) } else { BudgetLimit::Tokens(100) };
        let budgets = of(vec![hard("ten", &["*"], limit)]);
        let tenant = Arc::new(Tenant::new(&"acme".into()));
        let barrier = Barrier::new(20);
        let slug: Arc<str> = "m".into();
        let held: Vec<Reservation> = std::thread::scope(|scope| {
            let one = || {
                barrier.wait();
                let tries = (0..10).filter_map(|_| tenant.reserve(&budgets, &call(&slug, 10, 0), Share::ALL).ok());
                tries.map(|granted| granted.reservation).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(one)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 10);
        drop(held);
        assert!(tenant.state().usage.is_idle());
    }
}

#[test]
fn threads_that_reserve_and_settle_never_pass_the_limit_and_leave_nothing_held() {
    const LIMIT: u64 = 500;
    let budgets = of(vec![
        hard("all", &["*"], BudgetLimit::Tokens(1_000_000)),
        hard("a", &["a*"], BudgetLimit::Tokens(LIMIT)),
        hard("requests", &["*"], BudgetLimit::Requests(100_000)),
    ]);
    let tenant = Arc::new(Tenant::new(&"acme".into()));
    // what is held, seen from outside: noted after a reservation and taken back before its end, so never too much
    let held = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (tenant, budgets, held) = (&tenant, &budgets, &held);
            scope.spawn(move || {
                let slug: Arc<str> = if thread % 2 == 0 { "a-cloud" } else { "a" }.into();
                let mut open = Vec::new();
                for step in 0..1250u64 {
                    let worst = 1 + (thread * 7 + step * 13) % 60;
                    if let Ok(granted) = tenant.reserve(budgets, &call(&slug, worst, 0), Share::ALL) {
                        let now = held.fetch_add(worst, Ordering::SeqCst) + worst;
                        assert!(now <= LIMIT, "{now}");
                        open.push((granted.reservation, worst));
                    }
                    while open.len() > usize::try_from(step % 4).unwrap() {
                        let (mut reservation, worst) = open.swap_remove(0);
                        held.fetch_sub(worst, Ordering::SeqCst);
                        if step % 3 == 0 {
                            drop(reservation);
                        } else {
                            reservation.try_now();
                            reservation.settle(Amounts { cents: 0, requests: 1, tokens: 0 });
                        }
                    }
                }
                held.fetch_sub(open.iter().map(|(_, worst)| worst).sum(), Ordering::SeqCst);
            });
        }
    });
    let row = tenant.state().usage.total(Window::Day, 0);
    assert_eq!((row.reserved, row.used.tokens), (Amounts::default(), 0));
    assert!(tenant.state().usage.is_idle());
}

#[test]
fn ten_thousand_aborts_leave_nothing_reserved() {
    let budgets = of(vec![hard("day", &["*"], BudgetLimit::Tokens(100_000)), hard("m", &["m*"], eur("1000"))]);
    let tenant = Arc::new(Tenant::new(&"acme".into()));
    let slugs: Vec<Arc<str>> = ["m", "m-cloud", "n"].map(Into::into).to_vec();
    let expected = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (tenant, budgets, slugs, expected) = (&tenant, &budgets, &slugs, &expected);
            scope.spawn(move || {
                for step in 0..2500u64 {
                    let seed = (thread << 32 | step).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                    let slug = &slugs[usize::try_from(seed % 3).unwrap()];
                    let at = i64::try_from(seed % 5).unwrap() * 1800;
                    let Ok(granted) = tenant.reserve(budgets, &call(slug, seed % 20, at), Share::ALL) else { continue };
                    let mut reservation = granted.reservation;
                    match seed % 4 {
                        0 => drop(reservation),
                        1 => {
                            reservation.try_now();
                            drop(reservation); // nobody knows what it used
                            expected.fetch_add(seed % 20, Ordering::Relaxed);
                        }
                        _ => {
                            reservation.try_now();
                            expected.fetch_add(seed % 7, Ordering::Relaxed);
                            reservation.settle(Amounts { cents: 0, requests: 1, tokens: seed % 7 });
                        }
                    }
                }
            });
        }
    });
    let month = tenant.state().usage.total(Window::Month, 0);
    assert_eq!(month.reserved, Amounts::default());
    assert_eq!(month.used.tokens, expected.into_inner(), "the sum of all settlements is what is used");
    assert!(tenant.state().usage.is_idle());
}

#[derive(Clone, Debug)]
enum Act {
    Adopt(usize),
    Ask(usize, u64),
    Reserve(usize, u64),
    Settle(usize, u64),
    Wait(i64),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (0usize..3).prop_map(Act::Adopt),
        2 => (0usize..4, 0u64..60).prop_map(|(slug, worst)| Act::Ask(slug, worst)),
        5 => (0usize..4, 0u64..60).prop_map(|(slug, worst)| Act::Reserve(slug, worst)),
        5 => (0usize..20, 0u64..80).prop_map(|(index, used)| Act::Settle(index, used)),
        2 => (-4000i64..90_000).prop_map(Act::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Usage against a model that keeps every call: what is held is the sum of the open calls, what is used the sum of
    /// the settled ones, in every window and for every budget; asking changes nothing.
    #[test]
    fn usage_is_the_sum_of_its_calls(steps in prop::collection::vec(acts(), 1..120)) {
        let slugs: Vec<Arc<str>> = ["a", "a-cloud", "b", "b-local"].map(Into::into).to_vec();
        let files = [
            of(vec![hard("all", &["*"], BudgetLimit::Tokens(300)), hard("a", &["a*"], BudgetLimit::Tokens(100))]),
            of(vec![hard("cloud", &["*-cloud"], eur("1")), budget("h", &["*"], Window::Hour, BudgetLimit::Requests(4), BudgetMode::Hard)]),
            of(vec![budget("m", &["b*"], Window::Month, BudgetLimit::Tokens(200), BudgetMode::Hard)]),
        ];
        let mut usage = Usage::default();
        let mut file = &files[0];
        usage.adopt(file);
        let mut now = i64::try_from(NOON).unwrap();
        let mut open: Vec<(Ticket, usize, u64, i64)> = Vec::new();
        let mut settled: Vec<(usize, u64, i64)> = Vec::new();
        for step in steps {
            match step {
                Act::Adopt(index) => {
                    file = &files[index];
                    usage.adopt(file);
                }
                Act::Ask(slug, worst) => {
                    let call = call(&slugs[slug], worst, now);
                    prop_assert_eq!(usage.ask(&call, Share::ALL), usage.ask(&call, Share::ALL));
                }
                Act::Reserve(slug, worst) => {
                    let call = call(&slugs[slug], worst, now);
                    if usage.ask(&call, Share::ALL).refused_until.is_none() {
                        open.push((usage.reserve(&call), slug, worst, now));
                    }
                }
                Act::Settle(index, used) if !open.is_empty() => {
                    let (ticket, slug, _, at) = open.swap_remove(index % open.len());
                    usage.settle(&ticket, Amounts { cents: used, requests: 1, tokens: used });
                    settled.push((slug, used, at));
                }
                Act::Settle(..) => {}
                // forward by up to a day, or a little back
                Act::Wait(seconds) => now += seconds,
            }
            let total = usage.total(Window::Hour, now);
            let hour = |at: i64| at.div_euclid(3600) == now.div_euclid(3600);
            let held: u64 = open.iter().filter(|(.., at)| hour(*at)).map(|(_, _, worst, _)| worst).sum();
            prop_assert_eq!(total.reserved.tokens, held);
            let counts = open.iter().filter(|(.., at)| hour(*at)).count() as u64;
            prop_assert_eq!(total.reserved.requests, counts);
            // a window that was left for long may have been forgotten; the current one never is while it is current
            let used: u64 = settled.iter().filter(|(.., at)| hour(*at)).map(|(_, used, _)| used).sum();
            prop_assert!(total.used.tokens == used || total.used.tokens < used && total.reserved.tokens == held);
        }
        for (ticket, ..) in open {
            usage.settle(&ticket, Amounts::default());
        }
        prop_assert!(usage.is_idle());
    }

    /// As long as calls use no more than their worst case, a hard budget is never passed.
    #[test]
    fn what_is_used_and_held_never_passes_a_hard_limit(
        limit in 0u64..200,
        steps in prop::collection::vec((0u64..60, 0u64..=100, 0usize..8), 1..100),
    ) {
        let mut usage = Usage::default();
        usage.adopt(&of(vec![hard("day", &["*"], BudgetLimit::Tokens(limit))]));
        let (slug, mut open, mut used_up) = (Arc::<str>::from("m"), Vec::new(), 0);
        for (worst, percent, keep) in steps {
            let call = call(&slug, worst, 0);
            if usage.ask(&call, Share::ALL).refused_until.is_none() {
                open.push((usage.reserve(&call), worst * percent / 100));
            } else {
                let total = usage.total(Window::Day, 0);
                prop_assert!(limit == 0 || total.used.tokens + total.reserved.tokens + worst > limit, "refused too early");
            }
            while open.len() > keep {
                let (ticket, used) = open.remove(0);
                used_up += used;
                usage.settle(&ticket, Amounts { cents: 0, requests: 1, tokens: used });
            }
            let total = usage.total(Window::Day, 0);
            prop_assert!(total.used.tokens + total.reserved.tokens <= limit);
            prop_assert_eq!(total.used.tokens, used_up);
        }
    }

    /// All or none: a call that one of several budgets refuses changes none of them.
    #[test]
    fn overlapping_budgets_reserve_together(
        limits in prop::collection::vec(1u64..100, 2..8),
        calls in prop::collection::vec((0usize..3, 1u64..40), 1..60),
    ) {
        let globs = [&["*"][..], &["a*"], &["*-cloud"], &["a", "b"]];
        let budgets = limits.iter().enumerate().map(|(index, limit)| {
            hard(&format!("b{index}"), globs[index % globs.len()], BudgetLimit::Tokens(*limit))
        });
        let budgets = of(budgets.collect());
        let tenant = Arc::new(Tenant::new(&"acme".into()));
        let slugs: Vec<Arc<str>> = ["a", "a-cloud", "b"].map(Into::into).to_vec();
        let mut held = Vec::new();
        for (slug, worst) in calls {
            let before = tenant.state().usage.total(Window::Day, 0);
            match tenant.reserve(&budgets, &call(&slugs[slug], worst, 0), Share::ALL) {
                Ok(granted) => held.push(granted.reservation),
                Err(_) => prop_assert_eq!(tenant.state().usage.total(Window::Day, 0), before),
            }
            let state = tenant.state();
            for (index, limit) in limits.iter().enumerate() {
                let start = state.usage.period(Window::Day, 0).start;
                let (used, reserved) =
                    state.usage.taken(index, crate::budgets::limit::Unit::Tokens, Window::Day, start);
                prop_assert!(used + reserved <= *limit);
            }
        }
    }
}
