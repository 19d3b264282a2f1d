//! What holds whatever happens.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Enter { tenant: usize, places: Vec<usize> },
    End(usize),
    Leave(usize),
    MoveOn(usize, Vec<usize>),
    Slots(usize, u32),
    Max(usize, Option<u32>),
}

const TENANTS: [(&str, u32); 4] = [("a", 1), ("b", 2), ("c", 5), ("d", 1)];
const PLACES: [(&str, u32); 3] = [("x", 1), ("y", 3), ("z", 0)];

fn some_places() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..PLACES.len(), 1..=3)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..TENANTS.len(), some_places()).prop_map(|(tenant, places)| Act::Enter { tenant, places }),
        4 => any::<usize>().prop_map(Act::End),
        2 => any::<usize>().prop_map(Act::Leave),
        1 => (any::<usize>(), some_places()).prop_map(|(which, places)| Act::MoveOn(which, places)),
        1 => (0..PLACES.len(), 0..4_u32).prop_map(|(place, slots)| Act::Slots(place, slots)),
        1 => (0..TENANTS.len(), prop::option::of(0..4_u32)).prop_map(|(tenant, max)| Act::Max(tenant, max)),
    ]
}

fn nth<T: Clone>(all: impl ExactSizeIterator<Item = T>, n: usize) -> Option<T> {
    let len = all.len();
    all.into_iter().nth(n.checked_rem(len)?)
}

proptest! {
    /// Never more than the slots, no lost wake-up, nothing left behind, whoever comes, goes, leaves and moves on.
    #[test]
    fn holds_whatever_happens(acts in prop::collection::vec(act(), 1..200), reload in any::<bool>()) {
        let mut world = World::new(Room { per_place: 20, per_tenant: 8 });
        let mut slots = PLACES.map(|(_, slots)| slots);
        let mut max = [Some(2), None, Some(3), Some(1)];
        let mut of = BTreeMap::new();
        for act in acts {
            let candidates = |places: &[usize]| places.iter().map(|n| at(PLACES[*n].0, slots[*n])).collect::<Vec<_>>();
            match act {
                Act::Enter { tenant, places } => {
                    let (id, weight) = TENANTS[tenant];
                    if let Some(name) = world.enter(id, share(max[tenant], weight), &candidates(&places)) {
                        of.insert(name, tenant);
                    }
                }
                Act::End(n) => if let Some(name) = nth(world.running.keys().copied(), n) { world.end(name) },
                Act::Leave(n) => if let Some(name) = nth(world.waiting.values().copied(), n) { world.leave(name) },
                Act::MoveOn(n, places) => if let Some(name) = nth(world.running.keys().copied(), n) {
                    let (tenant, candidates) = (of[&name], candidates(&places));
                    world.move_on(name, share(max[tenant], TENANTS[tenant].1), &candidates);
                },
                Act::Slots(place, now) if reload => {
                    // with and without a limit are two kinds of places; a running one does not change its kind
                    let now = if slots[place] == 0 { 0 } else { now.max(1) };
                    slots[place] = now;
                    world.queue.set_slots(&PLACES[place].0.into(), NonZeroU32::new(now));
                    world.deliver();
                }
                Act::Max(tenant, now) if reload => {
                    max[tenant] = now;
                    let (id, weight) = TENANTS[tenant];
                    world.queue.set_share(&id.into(), share(now, weight));
                    world.deliver();
                }
                Act::Slots(..) | Act::Max(..) => {}
            }
            world.check(reload);
        }
        for (id, weight) in TENANTS {
            world.queue.set_share(&id.into(), share(None, weight));
            world.deliver();
        }
        while let Some(&name) = world.running.keys().next() {
            world.end(name);
            world.check(reload);
        }
        prop_assert!(world.waiting.is_empty(), "somebody waits although nobody runs");
        prop_assert!(world.is_empty(), "something is left behind");
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Who always has something to do gets a share by weight, whatever the number of slots, however calls end, and
    /// whatever others do that come and go.
    #[test]
    fn shares_follow_the_weights(
        weights in prop::collection::vec(1..20_u32, 2..5),
        slots in 1..6_u32,
        ends in prop::collection::vec(any::<usize>(), 2000),
        visits in prop::collection::vec(any::<bool>(), 2000),
    ) {
        let mut world = World::new(ROOMY);
        let names: Vec<String> = (0..weights.len()).map(|n| format!("t{n}")).collect();
        let mut of = BTreeMap::new();
        let enter = |world: &mut World, of: &mut BTreeMap<u64, usize>, tenant: usize| {
            let (id, weight) = names.get(tenant).map_or(("visitor", 1), |id| (id.as_str(), weights[tenant]));
            let name = world.enter(id, share(None, weight), &[at("x", slots)]).unwrap();
            of.insert(name, tenant);
        };
        for tenant in 0..weights.len() {
            for _ in 0..10 {
                enter(&mut world, &mut of, tenant);
            }
        }
        let warm = world.began.len();
        let mut began = warm;
        for (n, visits) in ends.iter().zip(visits) {
            let name = nth(world.running.keys().copied(), *n).unwrap();
            world.end(name);
            if visits && world.queue.tenants.get("visitor").is_none_or(|visitor| visitor.waits_at.is_empty()) {
                enter(&mut world, &mut of, weights.len());
            }
            // whoever began is followed by another of its tenant, so that none of these is ever idle
            let fresh: Vec<u64> = world.began[began..].to_vec();
            began = world.began.len();
            for name in fresh {
                let tenant = of[&name];
                if tenant < weights.len() {
                    enter(&mut world, &mut of, tenant);
                }
            }
        }
        let total: u32 = weights.iter().sum();
        let busy: Vec<usize> = world.began[warm..].iter().map(|name| of[name]).filter(|t| *t < weights.len()).collect();
        for (tenant, weight) in weights.iter().enumerate() {
            let got = busy.iter().filter(|of| **of == tenant).count() as f64;
            let due = busy.len() as f64 * f64::from(*weight) / f64::from(total);
            prop_assert!((got - due).abs() <= due * 0.1 + 2.0, "tenant {} of {:?}: {} of {}", tenant, weights, got, due);
        }
    }

    /// Nobody starves: before a call runs, every other tenant gets at most what its weight is worth to that of the
    /// call, for each call of its own tenant that stands before it, and what was running.
    #[test]
    fn nobody_waits_longer_than_its_share(
        weights in prop::collection::vec(1..10_u32, 2..6),
        mine in 1..6_usize,
        flood in 20..200_usize,
        slots in 1..5_u32,
    ) {
        let mut world = World::new(ROOMY);
        let mut queue: VecDeque<u64> = VecDeque::new();
        for _ in 0..flood {
            for (n, weight) in weights.iter().enumerate().skip(1) {
                world.enter(&format!("t{n}"), share(None, *weight), &[at("x", slots)]);
            }
        }
        for _ in 0..mine {
            queue.push_back(world.enter("t0", share(None, weights[0]), &[at("x", slots)]).unwrap());
        }
        let mut ended = 0_usize;
        for (before, name) in queue.into_iter().enumerate() {
            while !world.runs(name) {
                let first = *world.running.keys().next().unwrap();
                world.end(first);
                ended += 1;
            }
            let others: u32 = weights.iter().skip(1).map(|weight| weight.div_ceil(weights[0])).sum();
            let worth = (before + 1) * (others as usize + weights.len()) + slots as usize;
            prop_assert!(ended <= worth, "{ended} ended before call {before}, {worth} were due");
        }
    }
}
