//! The optimum against every placement there is, on problems small enough for that.

mod fleet;

use proptest::prelude::*;

use super::*;

/// The most placements and the least cost, by trying everything, host by host.
fn brute_force(problem: &Problem) -> (u64, f64) {
    let hosts: Vec<&Class> =
        problem.classes.iter().flat_map(|class| std::iter::repeat_n(class, class.hosts as usize)).collect();
    let mut best = (0, f64::INFINITY);
    let mut left: Vec<u32> = problem
        .quotas
        .iter()
        .map(|quota| match quota {
            Quota::Everywhere => u32::MAX,
            Quota::Count(count) => *count,
        })
        .collect();
    try_hosts(&hosts, &mut left, 0, 0.0, &mut best);
    best
}

fn try_hosts(hosts: &[&Class], left: &mut Vec<u32>, placed: u64, cost: f64, best: &mut (u64, f64)) {
    let Some((class, rest)) = hosts.split_first() else {
        if placed > best.0 || (placed == best.0 && cost < best.1) {
            *best = (placed, cost);
        }
        return;
    };
    let mut sets = Vec::new();
    list_sets(class, 0, &mut Vec::new(), &mut sets);
    for set in sets {
        if set.iter().any(|(demand, _)| left[*demand] == 0) {
            continue;
        }
        for (demand, _) in &set {
            left[*demand] -= 1;
        }
        let own: f64 = set.iter().map(|(_, way)| way.cost).sum();
        let together = set.len().max(1) as f64;
        let (count, shared) = (set.len() as u64, together * together.ln());
        try_hosts(rest, left, placed + count, cost + own + shared, best);
        for (demand, _) in &set {
            left[*demand] += 1;
        }
    }
}

fn list_sets<'a>(
    class: &'a Class,
    at: usize,
    now: &mut Vec<(usize, &'a Way)>,
    sets: &mut Vec<Vec<(usize, &'a Way)>>,
) {
    let Some(offer) = class.offers.get(at) else {
        if is_possible(class, now) {
            sets.push(now.clone());
        }
        return;
    };
    list_sets(class, at + 1, now, sets);
    for way in &offer.ways {
        now.push((offer.demand, way));
        list_sets(class, at + 1, now, sets);
        now.pop();
    }
}

fn is_possible(class: &Class, set: &[(usize, &Way)]) -> bool {
    let memory: u64 = set.iter().map(|(_, way)| way.memory.0).sum();
    let disk: u64 = set.iter().map(|(_, way)| way.disk.0).sum();
    memory <= class.memory.0
        && class.disk.is_none_or(|room| disk <= room.0)
        && set.iter().all(|(_, way)| way.most_together as usize >= set.len())
}

/// Asserts that an optimum is a placement of the problem, with its figures right.
fn check(problem: &Problem, optimum: &Optimum) {
    let (mut placed, mut cost) = (vec![0_u64; problem.quotas.len()], 0.0);
    assert_eq!(optimum.patterns.len(), problem.classes.len());
    for (class, patterns) in problem.classes.iter().zip(&optimum.patterns) {
        assert_eq!(patterns.iter().map(|pattern| pattern.hosts).sum::<u32>(), class.hosts);
        for pattern in patterns {
            let ways: Vec<(usize, &Way)> = pattern
                .items
                .iter()
                .map(|(demand, way)| {
                    let offer = class.offers.iter().find(|offer| offer.demand == *demand).unwrap();
                    (*demand, &offer.ways[*way])
                })
                .collect();
            assert!(is_possible(class, &ways), "{pattern:?} on {class:?}");
            assert!(ways.windows(2).all(|pair| pair[0].0 < pair[1].0), "each demand once, by demand");
            let together = ways.len().max(1) as f64;
            cost += (ways.iter().map(|(_, way)| way.cost).sum::<f64>() + together * together.ln())
                * f64::from(pattern.hosts);
            for (demand, _) in &ways {
                placed[*demand] += u64::from(pattern.hosts);
            }
        }
    }
    for (placed, quota) in placed.iter().zip(&problem.quotas) {
        assert!(!matches!(quota, Quota::Count(count) if *placed > u64::from(*count)), "beyond its quota");
    }
    assert_eq!(placed.iter().sum::<u64>(), optimum.placed);
    assert!((cost - optimum.cost).abs() <= 1e-9 * cost.max(1.0), "{cost} is not {}", optimum.cost);
    assert!(optimum.placed <= optimum.placed_bound);
    assert!(optimum.cost_bound <= optimum.cost);
}

fn is_proven(optimum: &Optimum) -> bool {
    let gap = optimum.cost - optimum.cost_bound;
    optimum.placed == optimum.placed_bound && gap <= 1e-9 * optimum.cost.max(1.0)
}

prop_compose! {
    fn way()(memory in 1_u64..60, disk in 1_u64..60, cost in 0_u32..40, most_together in 1_u32..4) -> Way {
        Way { memory: Bytes(memory), disk: Bytes(disk), cost: f64::from(cost) / 4.0, most_together }
    }
}

fn class(demands: usize, hosts: u32, ways: usize) -> impl Strategy<Value = Class> {
    let offer = proptest::option::weighted(0.8, proptest::collection::vec(way(), 1..=ways));
    let offers = proptest::collection::vec(offer, demands);
    (1..=hosts, 20_u64..120, proptest::option::of(20_u64..120), offers).prop_map(
        |(hosts, memory, disk, offers)| {
            let offers = offers.into_iter().enumerate();
            let offers = offers.filter_map(|(demand, ways)| Some(Offer { demand, ways: ways? })).collect();
            Class { hosts, memory: Bytes(memory), disk: disk.map(Bytes), offers }
        },
    )
}

fn problem(demands: usize, classes: usize, hosts: u32, ways: usize) -> impl Strategy<Value = Problem> {
    let most = u32::try_from(classes).unwrap() * hosts;
    let quota = prop_oneof![1 => Just(Quota::Everywhere), 4 => (0..=most).prop_map(Quota::Count)];
    let quotas = proptest::collection::vec(quota, demands);
    let classes = proptest::collection::vec(class(demands, hosts, ways), 1..=classes);
    (classes, quotas).prop_map(|(classes, quotas)| Problem { classes, quotas })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn small_fleets_are_placed_as_well_as_by_trying_everything(problem in problem(3, 2, 2, 2)) {
        let optimum = solve(&problem);
        check(&problem, &optimum);
        let (placed, cost) = brute_force(&problem);
        prop_assert_eq!(optimum.placed, placed);
        prop_assert!((optimum.cost - cost).abs() <= 1e-9 * cost.max(1.0), "{} is not {}", optimum.cost, cost);
        prop_assert!(is_proven(&optimum), "{:?}", optimum);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn fleets_of_a_home_are_proven(problem in problem(8, 10, 4, 6)) {
        let optimum = solve(&problem);
        check(&problem, &optimum);
        prop_assert!(is_proven(&optimum), "{:?}", (optimum.placed, optimum.placed_bound, optimum.cost, optimum.cost_bound));
    }

    #[test]
    fn more_memory_never_places_less(problem in problem(5, 4, 3, 3), more in 0_u64..60) {
        let before = solve(&problem);
        let mut larger = problem.clone();
        for class in &mut larger.classes {
            class.memory += Bytes(more);
        }
        let after = solve(&larger);
        prop_assert!(after.placed >= before.placed);
        prop_assert!(after.placed > before.placed || after.cost <= before.cost * (1.0 + 1e-9));
    }

    #[test]
    fn the_same_fleet_is_placed_alike(problem in problem(6, 5, 4, 3)) {
        prop_assert_eq!(solve(&problem), solve(&problem));
    }
}
