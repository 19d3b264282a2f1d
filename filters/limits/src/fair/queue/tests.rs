mod properties;

use std::collections::BTreeMap;

use super::*;

const ROOMY: Room = Room { per_place: 10_000, per_tenant: 10_000 };

fn share(max: Option<u32>, weight: u32) -> Share {
    Share { max, weight: NonZeroU32::new(weight).unwrap() }
}

fn at(label: &str, slots: u32) -> Candidate {
    (label.into(), NonZeroU32::new(slots))
}

/// A queue whose calls are named by whoever made them.
struct World {
    queue: FairQueue,
    running: BTreeMap<u64, Running>,
    waiting: BTreeMap<Call, u64>,
    /// In the order in which they began to run.
    began: Vec<u64>,
    made: u64,
}

impl World {
    fn new(room: Room) -> Self {
        let queue = FairQueue::new(room);
        Self { queue, running: BTreeMap::new(), waiting: BTreeMap::new(), began: Vec::new(), made: 0 }
    }

    fn took(&mut self, name: u64, entered: Entered) -> Option<u64> {
        match entered {
            Entered::Granted(running) => {
                self.running.insert(name, running);
                self.began.push(name);
            }
            Entered::Waits(call) => drop(self.waiting.insert(call, name)),
            Entered::Full => return None,
        }
        self.deliver();
        Some(name)
    }

    /// `None`: it may not even wait.
    fn enter(&mut self, tenant: &str, share: Share, candidates: &[Candidate]) -> Option<u64> {
        self.made += 1;
        let entered = self.queue.enter(&tenant.into(), share, candidates);
        self.took(self.made, entered)
    }

    fn move_on(&mut self, name: u64, share: Share, candidates: &[Candidate]) {
        let running = self.running.remove(&name).unwrap();
        let entered = self.queue.move_on(running, share, candidates);
        self.took(name, entered);
    }

    fn end(&mut self, name: u64) {
        let running = self.running.remove(&name).unwrap();
        self.queue.end(running);
        self.deliver();
    }

    fn leave(&mut self, name: u64) {
        let (&call, _) = self.waiting.iter().find(|(_, waiting)| **waiting == name).unwrap();
        self.waiting.remove(&call);
        self.queue.leave(call);
        self.deliver();
    }

    fn deliver(&mut self) {
        for (call, running) in self.queue.take_granted() {
            let name = self.waiting.remove(&call).expect("a call is granted once, and only while it waits");
            self.running.insert(name, running);
            self.began.push(name);
        }
    }

    fn runs(&self, name: u64) -> bool {
        self.running.contains_key(&name)
    }

    fn is_empty(&self) -> bool {
        let queue = &self.queue;
        queue.places.is_empty() && queue.tenants.is_empty() && queue.waiting.is_empty() && queue.granted.is_empty()
    }

    /// What must hold between any two operations. `reduced`: limits were lowered while calls ran.
    fn check(&self, reduced: bool) {
        let queue = &self.queue;
        for (label, place) in &queue.places {
            let here = self.running.values().filter(|running| running.place == *label).count();
            assert_eq!(here, place.running() as usize, "{label}");
            assert!(reduced || place.slots().is_none_or(|slots| here <= slots as usize), "{label} runs {here}");
            assert!(!place.has_room() || place.next().is_none(), "{label} has room while a call may run there");
            for (id, tenant) in &queue.tenants {
                assert!(place.is_sound_for(id, tenant.may_run()), "{label} {id}");
                assert_eq!(tenant.waits_at.contains(label), place.waiting_of(id) > 0, "{label} {id}");
            }
        }
        for (id, tenant) in &queue.tenants {
            let of_it = self.running.values().filter(|running| running.tenant == *id).count();
            assert_eq!(of_it, tenant.running as usize, "{id}");
            assert!(reduced || tenant.share.max.is_none_or(|max| of_it <= max as usize), "{id} runs {of_it}");
        }
        assert!(self.waiting.keys().eq(queue.waiting.keys().collect::<BTreeSet<_>>()));
    }
}

/// Which tenants began, in order.
fn order(tenants: &BTreeMap<u64, &str>, began: &[u64]) -> String {
    began.iter().map(|name| tenants[name]).collect()
}

#[test]
fn a_free_slot_is_taken_at_once_and_the_rest_waits_in_order() {
    let mut world = World::new(ROOMY);
    let calls: Vec<u64> = (0..5).map(|_| world.enter("a", share(None, 1), &[at("x", 2)]).unwrap()).collect();
    assert_eq!(calls.iter().filter(|call| world.runs(**call)).count(), 2);
    for ends in 0..3 {
        world.end(calls[ends]);
        assert!(world.runs(calls[ends + 2]) && !calls.get(ends + 3).is_some_and(|next| world.runs(*next)));
    }
    world.end(calls[3]);
    world.end(calls[4]);
    assert!(world.is_empty());
}

#[test]
fn weights_decide_whose_turn_it_is() {
    let mut world = World::new(ROOMY);
    let mut tenants = BTreeMap::new();
    for _ in 0..40 {
        for (tenant, weight) in [("a", 1), ("b", 3)] {
            tenants.insert(world.enter(tenant, share(None, weight), &[at("x", 1)]).unwrap(), tenant);
        }
    }
    for _ in 0..40 {
        let running = *world.running.keys().next().unwrap();
        world.end(running);
    }
    let order = order(&tenants, &world.began);
    // any four in a row hold three of the heavier tenant, but for where two starts meet
    let heavy = order.matches('b').count();
    assert!((29..=31).contains(&heavy), "{order}");
    assert!(!order.contains("aaa") && !order.contains("bbbbbb"), "{order}");
}

#[test]
fn a_flood_does_not_delay_who_comes_now_and_then() {
    let mut world = World::new(ROOMY);
    for _ in 0..500 {
        world.enter("flood", share(None, 1), &[at("x", 4)]);
    }
    for _ in 0..100 {
        let call = world.enter("quiet", share(None, 1), &[at("x", 4)]).unwrap();
        // one turn of the flood may stand before it, no more
        for _ in 0..2 {
            let running = *world.running.keys().next().unwrap();
            world.end(running);
        }
        assert!(world.runs(call));
        world.end(call);
    }
}

#[test]
fn who_was_away_has_saved_nothing_up() {
    let mut world = World::new(ROOMY);
    let first = world.enter("late", share(None, 1), &[at("x", 1)]).unwrap();
    let mut tenants = BTreeMap::from([(first, "l")]);
    for _ in 0..100 {
        tenants.insert(world.enter("early", share(None, 1), &[at("x", 1)]).unwrap(), "e");
    }
    for _ in 0..50 {
        world.end(*world.running.keys().next().unwrap());
    }
    for _ in 0..50 {
        tenants.insert(world.enter("late", share(None, 1), &[at("x", 1)]).unwrap(), "l");
    }
    let before = world.began.len();
    for _ in 0..20 {
        world.end(*world.running.keys().next().unwrap());
    }
    let order = order(&tenants, &world.began[before..]);
    assert_eq!(order.matches('l').count(), 10, "{order}");
}

#[test]
fn a_tenant_at_its_limit_waits_and_holds_up_nobody_else() {
    let mut world = World::new(ROOMY);
    let first = world.enter("a", share(Some(1), 1), &[at("x", 2)]).unwrap();
    let second = world.enter("a", share(Some(1), 1), &[at("x", 2)]).unwrap();
    let elsewhere = world.enter("a", share(Some(1), 1), &[at("y", 0)]).unwrap();
    let other = world.enter("b", share(None, 1), &[at("x", 2)]).unwrap();
    assert!(world.runs(first) && !world.runs(second) && !world.runs(elsewhere) && world.runs(other));
    world.end(first);
    assert!(world.runs(second) && !world.runs(elsewhere), "the older one, wherever it waits");
    world.end(second);
    assert!(world.runs(elsewhere));
    world.end(elsewhere);
    world.end(other);
    assert!(world.is_empty());
}

#[test]
fn a_limit_of_nothing_lets_nothing_run() {
    let mut world = World::new(ROOMY);
    let call = world.enter("a", share(Some(0), 1), &[at("x", 0)]).unwrap();
    assert!(!world.runs(call));
    world.leave(call);
    assert!(world.is_empty());
}

#[test]
fn who_waits_at_several_places_gets_the_first_that_is_free() {
    let mut world = World::new(ROOMY);
    let [at_x, at_y] = ["x", "y"].map(|label| world.enter("a", share(None, 1), &[at(label, 1)]).unwrap());
    let either = world.enter("b", share(None, 1), &[at("x", 1), at("y", 1)]).unwrap();
    let behind = world.enter("b", share(None, 1), &[at("x", 1)]).unwrap();
    assert_eq!((world.queue.depth("x"), world.queue.depth("y")), (2, 1));
    world.end(at_y);
    assert_eq!(&*world.running[&either].place, "y");
    assert_eq!((world.queue.depth("x"), world.queue.depth("y")), (1, 0));
    world.end(at_x);
    assert!(world.runs(behind));
    // a free member is preferred to waiting
    let free = world.enter("c", share(None, 1), &[at("x", 1), at("z", 1)]).unwrap();
    assert_eq!(&*world.running[&free].place, "z");
}

#[test]
fn the_number_of_those_who_wait_is_bounded_for_each_tenant_and_for_all() {
    let mut world = World::new(Room { per_place: 5, per_tenant: 3 });
    assert!(world.enter("a", share(None, 1), &[at("x", 1)]).is_some());
    let mut enters = |tenant: &str| world.enter(tenant, share(None, 1), &[at("x", 1)]).is_some();
    assert_eq!([(); 4].map(|()| enters("a")), [true, true, true, false]);
    assert_eq!([(); 3].map(|()| enters("b")), [true, true, false], "five wait");
    assert!(!enters("c"));
    assert_eq!(world.queue.tenants.len(), 2, "who is turned away is not remembered");
    world.leave(2);
    assert!(world.enter("c", share(None, 1), &[at("x", 1)]).is_some());
    assert!(world.enter("a", share(None, 1), &[at("x", 1), at("y", 1)]).is_some(), "another place has room");
}

#[test]
fn more_slots_are_given_out_at_once_and_fewer_as_calls_end() {
    let mut world = World::new(ROOMY);
    let calls: Vec<u64> = (0..6).map(|_| world.enter("a", share(None, 1), &[at("x", 1)]).unwrap()).collect();
    world.queue.set_slots(&"x".into(), NonZeroU32::new(3));
    world.deliver();
    assert_eq!(world.running.len(), 3);
    world.queue.set_slots(&"x".into(), NonZeroU32::new(1));
    world.end(calls[0]);
    world.end(calls[1]);
    assert_eq!(world.running.len(), 1);
    world.queue.set_slots(&"x".into(), None);
    world.deliver();
    assert_eq!(world.running.len(), 4);
}

#[test]
fn a_higher_limit_of_a_tenant_lets_go_at_once() {
    let mut world = World::new(ROOMY);
    let mut calls = (0..5).map(|_| world.enter("a", share(Some(1), 1), &[at("x", 3)]).unwrap());
    let (first, _) = (calls.next().unwrap(), calls.by_ref().count());
    world.queue.set_share(&"a".into(), share(Some(2), 1));
    world.deliver();
    assert_eq!(world.running.len(), 2);
    world.queue.set_share(&"a".into(), share(Some(1), 1));
    world.end(first);
    assert_eq!(world.running.len(), 1);
    world.queue.set_share(&"a".into(), share(None, 1));
    world.deliver();
    assert_eq!(world.running.len(), 3);
    world.check(false);
}

#[test]
fn a_call_that_goes_on_keeps_what_it_holds_of_its_tenant() {
    let mut world = World::new(ROOMY);
    let limited = share(Some(1), 1);
    let first = world.enter("a", limited, &[at("x", 1)]).unwrap();
    let second = world.enter("a", limited, &[at("x", 1)]).unwrap();
    let other = world.enter("b", share(None, 1), &[at("x", 1)]).unwrap();
    world.move_on(first, limited, &[at("y", 1)]);
    assert!(world.runs(first) && !world.runs(second));
    assert!(world.runs(other), "the slot that it left is given out");
    // while it has to wait, others of its tenant may run
    let blocks = world.enter("c", share(None, 1), &[at("z", 1)]).unwrap();
    world.move_on(first, limited, &[at("z", 1)]);
    assert!(!world.runs(first));
    world.end(other);
    assert!(world.runs(second));
    world.end(blocks);
    assert!(!world.runs(first), "its tenant runs another call by now");
    world.end(second);
    assert!(world.runs(first));
    world.end(first);
    assert!(world.is_empty());
}

#[test]
fn tenants_that_are_gone_are_forgotten() {
    let mut world = World::new(ROOMY);
    let lasting = world.enter("a", share(None, 1), &[at("x", 2)]).unwrap();
    for n in 0..10_000 {
        let call = world.enter(&format!("t{n}"), share(None, 1), &[at("x", 2)]).unwrap();
        world.end(call);
    }
    assert_eq!(world.queue.tenants.len(), 1);
    assert_eq!(format!("{:?}", world.queue.places).matches("Flow ").count(), 0);
    world.end(lasting);
    assert!(world.is_empty());
}
