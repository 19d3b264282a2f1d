//! Windows of time: their edges, calls that cross them, clocks that are set.

use super::*;

const HOUR: u64 = 3600;

fn hourly(limit: u64) -> World {
    World::new(vec![budget("hour", &["*"], Window::Hour, BudgetLimit::Tokens(limit), BudgetMode::Hard)])
}

fn reserved(world: &World, window: Window) -> u64 {
    world.tenant().state().usage.total(window, world.now()).reserved.tokens
}

fn used(world: &World, window: Window) -> u64 {
    world.tenant().state().usage.total(window, world.now()).used.tokens
}

#[tokio::test]
async fn a_window_ends_at_its_edge_and_not_a_second_earlier() {
    let world = hourly(100);
    let mut call = world.admitted("m", 100).await;
    made(&mut call, Some(100));
    call.finish(&OK);
    world.clock.advance(Duration::from_millis(1_799_999));
    let refused = world.refused("m", 1).await;
    assert_eq!(refused.retry_after, Some(Duration::from_millis(1)));
    world.clock.advance(Duration::from_millis(1));
    world.admitted("m", 100).await;
}

#[tokio::test]
async fn a_call_settles_in_the_window_in_which_it_began() {
    let world = hourly(100);
    let mut call = world.admitted("m", 60).await;
    world.clock.advance(Duration::from_secs(HOUR));
    assert_eq!((reserved(&world, Window::Hour), reserved(&world, Window::Day)), (0, 60));
    let _next = world.admitted("m", 100).await;
    made(&mut call, Some(60));
    call.finish(&OK);
    assert_eq!((used(&world, Window::Hour), reserved(&world, Window::Hour)), (0, 100));
    assert_eq!((used(&world, Window::Day), reserved(&world, Window::Day)), (60, 100));
    world.clock.set_wall(wall(NOON));
    assert_eq!((used(&world, Window::Hour), reserved(&world, Window::Hour)), (60, 0));
}

#[tokio::test]
async fn months_have_the_length_of_the_calendar() {
    let month = budget("month", &["*"], Window::Month, BudgetLimit::Requests(1), BudgetMode::Hard);
    for (now, days) in [
        ("2027-02-01T00:00:00Z", 28),
        ("2028-02-01T00:00:00Z", 29),
        ("2026-04-01T00:00:00Z", 30),
        ("2026-12-01T00:00:00Z", 31),
    ] {
        let world = World::new(vec![month.clone()]);
        let now: jiff::Timestamp = now.parse().unwrap();
        world.clock.set_wall(wall(now.as_second().unsigned_abs()));
        let mut call = world.admitted("m", 1).await;
        made(&mut call, Some(1));
        call.finish(&OK);
        assert_eq!(world.refused("m", 1).await.retry_after, Some(Duration::from_secs(days * 24 * HOUR)));
        world.clock.advance(Duration::from_secs(days * 24 * HOUR));
        world.admitted("m", 1).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_over_an_edge_finds_what_was_counted() {
    let world = hourly(100);
    let mut call = world.admitted("m", 90).await;
    made(&mut call, Some(90));
    call.finish(&OK);
    world.clock.advance(Duration::from_secs(HOUR));
    let _next = world.admitted("m", 100).await;
    world.clock.set_wall(wall(NOON));
    world.refused("m", 11).await;
    world.admitted("m", 10).await;
    world.clock.advance(Duration::from_secs(HOUR));
    world.refused("m", 1).await;
}

#[tokio::test]
async fn few_periods_are_kept_and_one_with_an_open_call_stays() {
    let world = hourly(100);
    let mut open = world.admitted("m", 10).await;
    for hour in 1..200 {
        world.clock.set_wall(wall(NOON + hour * HOUR));
        let mut call = world.admitted("m", 10).await;
        made(&mut call, Some(10));
        call.finish(&OK);
    }
    assert!(world.tenant().state().usage.size().0 <= 9);
    made(&mut open, Some(3));
    open.finish(&OK);
    world.clock.set_wall(wall(NOON));
    assert_eq!((used(&world, Window::Hour), reserved(&world, Window::Hour)), (3, 0));
    assert!(world.tenant().state().usage.is_idle());
}
