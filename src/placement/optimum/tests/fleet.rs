//! Seeded fleets of thousands of hosts, and how fast and how well they are placed.

#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seeded figures of known size")]

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;

/// Usable memory in MiB and the rate at which weights are read in GB/s, as measured or
/// published for boards from a Pi with 1 GB to a desktop.
const BOARDS: [(f64, f64); 9] = [
    (650.0, 3.6),
    (1550.0, 3.6),
    (3400.0, 3.6),
    (7300.0, 3.6),
    (1650.0, 9.3),
    (3550.0, 9.3),
    (7450.0, 9.3),
    (15400.0, 9.3),
    (30000.0, 25.0),
];

/// Bytes per weight and expected loss of quants, best first.
const QUANTS: [(f64, f64); 7] = [
    (1.06, 0.0014),
    (0.82, 0.0055),
    (0.71, 0.0108),
    (0.69, 0.0166),
    (0.61, 0.031),
    (0.58, 0.043),
    (0.56, 0.072),
];

const MICRO_BATCHES: [f64; 4] = [512.0, 256.0, 128.0, 64.0];

/// Hosts whose rate or memory differs by less than this part are alike.
const BUCKET: f64 = 0.08;

/// Models that a host may serve together.
const MOST_TOGETHER: f64 = 4.0;

struct Seeded(TestRng);

impl Seeded {
    fn new(seed: u8) -> Self {
        Self(TestRng::from_seed(RngAlgorithm::XorShift, &[seed; 16]))
    }

    /// Between 0 and 1.
    fn next(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() * end as f64) as usize
    }
}

/// Makes a fleet of `hosts` and `demands`, all of which together want `load` times two
/// models per host.
pub(super) fn fleet(hosts: u32, demands: usize, load: f64, seed: u8) -> Problem {
    let mut seeded = Seeded::new(seed);
    // from 0.1 to 13 thousand million parameters
    let sizes: Vec<f64> = (0..demands).map(|_| 0.1 * 130.0_f64.powf(seeded.next())).collect();
    let labels: Vec<Option<usize>> = (0..demands).map(|d| (d % 4 == 0).then(|| seeded.below(3))).collect();
    let mut kinds: BTreeMap<(usize, i64, i64, usize), u32> = BTreeMap::new();
    for _ in 0..hosts {
        let board = seeded.below(BOARDS.len());
        let bucket = |part: f64| (part.ln() / BUCKET).floor() as i64;
        let rate = bucket(1.0 + 0.3 * (seeded.next() - 0.5));
        let memory = bucket(1.0 + 0.4 * (seeded.next() - 0.5));
        *kinds.entry((board, rate, memory, seeded.below(3))).or_default() += 1;
    }
    let classes = kinds.into_iter().map(|((board, rate, memory, label), hosts)| {
        let part = |bucket: i64| (bucket as f64 * BUCKET).exp();
        let (memory, rate) = (BOARDS[board].0 * part(memory), BOARDS[board].1 * part(rate));
        let offers = (0..demands).filter(|d| labels[*d].is_none_or(|wanted| wanted == label));
        let offers = offers.map(|demand| Offer { demand, ways: ways(sizes[demand], rate) });
        let offers = offers.filter(|offer| !offer.ways.is_empty()).collect();
        Class { hosts, memory: mib(memory), disk: Some(mib(30_000.0)), offers }
    });
    let classes: Vec<Class> = classes.collect();
    let weights: Vec<f64> = (0..demands).map(|_| seeded.next().powi(2) + 0.02).collect();
    let wanted = f64::from(hosts) * 2.0 * load / weights.iter().sum::<f64>();
    let quotas = weights.iter().map(|weight| Quota::Count((weight * wanted).round() as u32)).collect();
    Problem { classes, quotas }
}

fn mib(n: f64) -> Bytes {
    Bytes((n * 1_048_576.0) as u64)
}

/// The ways of a model of `size` thousand million parameters, on a host that reads weights
/// at `rate`; the faster the cheaper, dear below the loss that is aimed at.
fn ways(size: f64, rate: f64) -> Vec<Way> {
    let target = match size {
        3.0.. => 0.031,
        0.5.. => 0.0108,
        _ => 0.0014,
    };
    let mut ways = Vec::new();
    for (bytes, loss) in QUANTS {
        let file = bytes * size * 1000.0;
        let speed = 1.0 / (file / 1000.0 / rate + 0.01);
        // half a token per second is the floor, 15 % are the prediction's error
        let together = (speed * 0.85 / 0.5).min(MOST_TOGETHER) as u32;
        if together == 0 {
            continue;
        }
        let below = if loss > target * 1.1 { 20.0 + 5.0 * (loss / target).ln() } else { 0.0 };
        let cost = 10.0 - (speed.ln() / 0.03).floor() * 0.03 + below + loss * 0.01;
        for (at, batch) in MICRO_BATCHES.into_iter().enumerate() {
            let buffers = 40.0 + batch * (0.05 + 0.02 * file / 1000.0) + 30.0 * size.sqrt();
            let cost = cost + 1e-4 * at as f64;
            ways.push(Way { memory: mib(file + buffers), disk: mib(file), cost, most_together: together });
        }
    }
    ways
}

/// More classes than are solved in whole numbers.
#[test]
fn a_large_fleet_is_placed_near_its_bound() {
    let problem = fleet(600, 12, 0.6, 3);
    assert!(problem.classes.len() > 200, "{} classes", problem.classes.len());
    let optimum = solve(&problem);
    check(&problem, &optimum);
    assert_eq!(optimum.placed, optimum.placed_bound);
    let gap = 1.0 - optimum.cost_bound / optimum.cost;
    assert!(gap < 1e-4, "{gap:e}");
    assert_eq!(optimum, solve(&problem));
}

/// Prints `place.…` figures, one a line, of loads that the fleet can nearly carry and, apart, of
/// one that it cannot; takes seconds, and only tells something in release.
#[test]
#[ignore = "a measurement"]
fn figures() {
    for hosts in [10, 100, 1000, 10_000] {
        let (slowest, gap) = [0.3, 0.6, 0.9, 1.2]
            .map(|load| measure(hosts, load))
            .into_iter()
            .fold((0.0_f64, 0.0_f64), |worst, one| (worst.0.max(one.0), worst.1.max(one.1)));
        println!("place.{hosts}x50.seconds = {slowest:.3}");
        println!("place.{hosts}x50.gap = {gap:.1e}");
        let (seconds, gap) = measure(hosts, 1.8);
        println!("place.{hosts}x50_overfull.seconds = {seconds:.3}");
        println!("place.{hosts}x50_overfull.gap = {gap:.1e}");
    }
    println!("place.classes = {}", fleet(10_000, 50, 0.9, 1).classes.len());
}

/// Solves, and returns the seconds and the wider of the two gaps.
fn measure(hosts: u32, load: f64) -> (f64, f64) {
    let problem = fleet(hosts, 50, load, 1);
    let begun = Instant::now();
    let optimum = solve(&problem);
    let seconds = begun.elapsed().as_secs_f64();
    check(&problem, &optimum);
    let gap = |value: f64, best: f64| (best - value).abs() / best.abs().max(1.0);
    let placed = gap(optimum.placed as f64, optimum.placed_bound as f64);
    let cost = gap(optimum.cost_bound, optimum.cost);
    let wanted = problem.quotas.iter().map(|q| if let Quota::Count(n) = q { u64::from(*n) } else { 0 });
    eprintln!(
        "{hosts} hosts, load {load}: {seconds:.3} s, placed {} of {} (bound {}), cost {:.3} (bound {:.3}), gaps {placed:.1e} {cost:.1e}",
        optimum.placed,
        wanted.sum::<u64>(),
        optimum.placed_bound,
        optimum.cost,
        optimum.cost_bound
    );
    (seconds, placed.max(cost))
}
