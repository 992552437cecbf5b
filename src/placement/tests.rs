use proptest::prelude::*;

use super::*;
use crate::estimate::testing::*;
use crate::estimate::{footprint, room};
use crate::facts::planned;
use crate::generation::LoadMode;

fn want() -> Want {
    Want {
        quants: Quants::Auto,
        lean: Lean::Balanced,
        context: 4096,
        slots: 1,
        floor_rate: TokensPerSec(0.5),
        floor_quality: Quant::Q4_0,
    }
}

fn nothing_held(_: Option<Quant>) -> Bytes {
    Bytes::ZERO
}

fn choose_on(widths: Widths, want: &Want, host: &HostFacts) -> Result<Choice, Reason> {
    let model = model(widths);
    let room = Room { memory: room(host), disk: None };
    choose(&model, &candidates(&model), want, host, room, &nothing_held)
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn demand<'a>(name_: &str, model: &'a ModelFacts, candidates: &'a [Candidate], hosts: &[&str]) -> Demand<'a> {
    let hosts = hosts.iter().map(|host| name(host)).collect();
    Demand { name: name(name_), model, candidates, want: want(), hosts, count: None }
}

fn capacity<'a>(name_: &str, facts: &'a HostFacts) -> Capacity<'a> {
    Capacity {
        name: name(name_),
        facts,
        disk_reserved: Bytes::ZERO,
        runs: BTreeSet::new(),
        held: BTreeMap::new(),
    }
}

fn chosen(placement: &Placement) -> Vec<String> {
    let one = |p: &Placed| format!("{} {} {}", p.host, p.model, p.choice.quant.map_or("as is", Quant::name));
    placement.placed.iter().map(one).collect()
}

#[test]
fn only_servings_that_are_chosen_among_are_offered() {
    let mut model = model(SMOLLM2_135M);
    let served = choose_on(SMOLLM2_135M, &want(), &planned("pi5-8gb").unwrap()).unwrap().serving;
    assert!(is_offered(&model, &want(), &served));
    for other in [
        Serving { context: 4097, ..served },
        Serving { slots: 2, ..served },
        Serving { micro_batch: 1 << 30, ..served },
    ] {
        assert!(!is_offered(&model, &want(), &other), "{other:?}");
    }
    // an encoder reads all at once
    model.decoder_layers = Some(model.layers);
    assert!(is_offered(&model, &want(), &Serving { micro_batch: 4096, ..served }));
    assert!(!is_offered(&model, &want(), &served));
}

#[test]
fn where_there_is_room_auto_takes_the_fastest_of_good_quality() {
    let of = |widths, board| choose_on(widths, &want(), &planned(board).unwrap()).unwrap().quant.unwrap();
    assert_eq!(of(MISTRAL_7B, "pi5-8gb"), Quant::Q4KM);
    assert_eq!(of(LLAMA32_3B, "pi4-8gb"), Quant::Q4KM);
    assert_eq!(of(LLAMA32_1B, "pi5-8gb"), Quant::Q5KM);
    assert_eq!(of(SMOLLM2_135M, "pi4-1gb"), Quant::Q8_0);
}

#[test]
fn a_lean_moves_the_choice_one_step() {
    let host = planned("pi5-16gb").unwrap();
    let of = |widths, lean| choose_on(widths, &Want { lean, ..want() }, &host).unwrap().quant.unwrap();
    assert_eq!(of(MISTRAL_7B, Lean::Quality), Quant::Q5KM);
    // as fast as Q4_0 within what can be predicted, and it loses less
    assert_eq!(of(MISTRAL_7B, Lean::Speed), Quant::Q4KS);
    assert_eq!(of(LLAMA32_1B, Lean::Quality), Quant::Q6K);
    assert_eq!(of(LLAMA32_1B, Lean::Speed), Quant::Q4KM);
    // nothing is told from Q8_0
    assert_eq!(of(SMOLLM2_135M, Lean::Quality), Quant::Q8_0);
}

#[test]
fn a_crowded_pi_4_runs_smollm2_below_the_target_and_not_at_it() {
    let host = host("pi4-1gb", Bytes::mib(220));
    let small = Want { context: 1024, ..want() };
    let choice = choose_on(SMOLLM2_135M, &small, &host).unwrap();
    let quant = choice.quant.unwrap();
    assert!((Quant::Q5KM..=Quant::Q4_0).contains(&quant), "{quant}");
    assert!(choice.estimate.need <= room(&host));
    assert!(choice.step_up.as_ref().is_some_and(|step| !step.fits));
    let forced = Want { quants: Quants::OneOf(vec![Quant::Q8_0]), ..small };
    let refused = choose_on(SMOLLM2_135M, &forced, &host).unwrap_err();
    assert!(matches!(refused, Reason::Memory { quant: Some(Quant::Q8_0), .. }), "{refused:?}");
}

#[test]
fn a_repacking_host_reads_weights_and_gives_up_copies_when_short_of_memory() {
    let llama = model(LLAMA32_1B);
    let weights = vec![candidate(&llama, Quant::Q4KM)];
    let host = planned("pi5-8gb").unwrap();
    let with = |memory| {
        let want = Want { quants: Quants::OneOf(vec![Quant::Q4KM]), ..want() };
        choose(&llama, &weights, &want, &host, Room { memory, disk: None }, &nothing_held)
    };
    let roomy = with(Bytes::gib(4)).unwrap().serving;
    assert_eq!((roomy.load, roomy.repack, roomy.micro_batch), (LoadMode::Read, true, 512));
    let tight = with(Bytes::mib(1040)).unwrap();
    assert_eq!((tight.serving.load, tight.serving.repack), (LoadMode::Mmap, false));
    assert!(
        tight.estimate.speed.prompt.expected < with(Bytes::gib(4)).unwrap().estimate.speed.prompt.expected
    );
    assert!(with(Bytes::mib(900)).is_err());
}

#[test]
fn a_list_takes_its_first_that_fits() {
    let host = planned("pi4-4gb").unwrap();
    let list = |quants: &[Quant]| {
        choose_on(LLAMA31_8B, &Want { quants: Quants::OneOf(quants.to_vec()), ..want() }, &host)
    };
    let refused = list(&[Quant::Q8_0, Quant::Q2K, Quant::Q3KS]).unwrap_err();
    assert!(
        matches!(refused, Reason::Memory { quant: Some(Quant::Q2K), is_floor: false, is_packed: true, .. }),
        "{refused:?}"
    );
    assert_eq!(refused, list(&[Quant::Q2K]).unwrap_err());
    let picked = choose_on(
        LLAMA32_3B,
        &Want { quants: Quants::OneOf(vec![Quant::F16, Quant::Q6K, Quant::Q8_0]), ..want() },
        &host,
    );
    assert_eq!(picked.unwrap().quant, Some(Quant::Q6K));
    assert_eq!(list(&[Quant::Iq4Xs]).unwrap_err(), Reason::NoCandidate);
}

#[test]
fn a_32_bit_system_is_refused_before_anything_else() {
    let mut host = planned("pi4-4gb").unwrap();
    host.userland_bits = Some(32);
    let reason = choose_on(LLAMA32_1B, &want(), &host).unwrap_err();
    let text = Refusal { model: name("chat"), host: name("shed"), reason }.to_string();
    insta::assert_snapshot!(text, @"chat cannot run on shed: its system is 32-bit on a 64-bit kernel (aarch64); install a 64-bit system");
    host.machine = "armv7l".into();
    let reason = choose_on(LLAMA32_1B, &want(), &host).unwrap_err();
    let text = Refusal { model: name("chat"), host: name("shed"), reason }.to_string();
    insta::assert_snapshot!(text, @"chat cannot run on shed: it is armv7l, and Bramble runs on 64-bit aarch64 and x86_64");
}

#[test]
fn a_refusal_names_numbers_and_the_nearest_that_would_fit() {
    let mistral = model(MISTRAL_7B);
    let forms = candidates(&mistral);
    let (kitchen, shed) = (planned("pi5-8gb").unwrap(), planned("pi4-4gb").unwrap());
    let demands = [demand("chat", &mistral, &forms, &["kitchen", "shed"])];
    let placement = solve(&demands, &[capacity("kitchen", &kitchen), capacity("shed", &shed)]);
    assert_eq!(chosen(&placement), ["kitchen chat Q4_K_M"]);
    insta::assert_snapshot!(placement.refused[0], @"chat needs 4.1 GiB on shed, which has 3.1 GiB, even at its floor Q4_0 with keys and values in Q8_0; fits on kitchen, or on shed at Q2_K, below the floor");
    let mut short = demand("chat", &mistral, &forms, &["shed"]);
    short.want.context = 1024;
    let placement = solve(&[short], &[capacity("kitchen", &kitchen), capacity("shed", &shed)]);
    insta::assert_snapshot!(placement.refused[0], @"chat needs 3.9 GiB on shed, which has 3.1 GiB, even at its floor Q4_0 with keys and values in Q8_0; fits on kitchen, or on shed at Q2_K, below the floor");
    // alone, and with nothing that would help
    let tiny = planned("pi-zero2w").unwrap();
    let placement = solve(&[demand("chat", &mistral, &forms, &["shed"])], &[capacity("shed", &tiny)]);
    insta::assert_snapshot!(placement.refused[0], @"chat needs 4.1 GiB on shed, which has 219 MiB, even at its floor Q4_0 with keys and values in Q8_0; nothing smaller would fit there");
}

#[test]
fn a_shorter_context_is_offered() {
    let llama = model(LLAMA31_8B);
    let forms = candidates(&llama);
    let host = planned("pi5-8gb").unwrap();
    let mut wanted = demand("chat", &llama, &forms, &["shed"]);
    wanted.want.context = 131_072;
    let placement = solve(&[wanted], &[capacity("shed", &host)]);
    insta::assert_snapshot!(placement.refused[0], @"chat needs 12.9 GiB on shed, which has 6.8 GiB, even at its floor Q4_0 with keys and values in Q8_0; fits on shed with context 36096");
}

#[test]
fn a_full_disk_is_refused_with_both_numbers_unless_the_weights_are_there() {
    let llama = model(LLAMA32_1B);
    let forms = candidates(&llama);
    let mut host = planned("pi4-4gb").unwrap();
    host.disk = Some(crate::facts::Disk {
        path: "/var/lib".into(),
        filesystem: None,
        free: Bytes::mib(500),
        total: Bytes::gib(16),
        medium: None,
        inodes_free: None,
    });
    let demands = [demand("chat", &llama, &forms, &["shed"])];
    let mut shed = capacity("shed", &host);
    shed.disk_reserved = Bytes::mib(40);
    let placement = solve(&demands, std::slice::from_ref(&shed));
    insta::assert_snapshot!(placement.refused[0], @"chat needs 732 MiB more on the disk of shed at Q4_0, and /var/lib has room for 460 MiB");
    shed.held.insert((name("chat"), Some(Quant::Q5KM)), Bytes::gib(1));
    assert_eq!(chosen(&solve(&demands, &[shed])), ["shed chat Q5_K_M"]);
}

#[test]
fn a_host_too_slow_for_the_floor_is_refused() {
    let host = planned("pi4-8gb").unwrap();
    let reason = choose_on(LLAMA31_8B, &Want { floor_rate: TokensPerSec(2.0), ..want() }, &host).unwrap_err();
    let text = Refusal { model: name("chat"), host: name("shed"), reason }.to_string();
    insta::assert_snapshot!(text, @"chat may answer with only 0.62 tok/s on shed, even at Q4_0, and its floor, the slowest that is allowed, is 2 tok/s; `floor: { tokens_per_second: 0.62 }` at the model allows it");
}

#[test]
fn a_choice_explains_itself_and_its_neighbours() {
    let choice = choose_on(LLAMA32_3B, &want(), &planned("pi5-4gb").unwrap()).unwrap();
    insta::assert_snapshot!(choice.why, @"Q4_K_M: the fastest that loses no more than Q4_K_M; needs 2.8 GiB of 3.2 GiB, repacked; answers 4.7 tok/s (3.4 to 6.4, calibrated on this board), prompts 23 tok/s, loss ~0.042");
    insta::assert_snapshot!(choice.step_up.unwrap().text, @"Q5_K_S: -0.5 tok/s, +239 MiB, loss ~0.042 -> ~0.022");
    insta::assert_snapshot!(choice.step_down.unwrap().text, @"Q4_K_S: +0.2 tok/s, -87.0 MiB, loss ~0.042 -> ~0.057");
    let low = choose_on(SMOLLM2_135M, &Want { context: 1024, ..want() }, &host("pi4-1gb", Bytes::mib(220)))
        .unwrap();
    insta::assert_snapshot!(low.why, @"Q5_K_M: the best that fits; Q8_0 does not, Q4_0 is the floor; needs 164 MiB of 165 MiB, keys and values in Q8_0 (~0.0008 more loss); answers 24 tok/s (18.9 to 26.2, calibrated on this board), prompts 63 tok/s, loss ~0.038");
}

#[test]
fn two_models_on_one_host_leave_each_other_room() {
    let (small, big) = (model(LLAMA32_1B), model(LLAMA32_3B));
    let (small_forms, big_forms) = (candidates(&small), candidates(&big));
    let host = planned("pi5-4gb").unwrap();
    let mut demands =
        [demand("a", &big, &big_forms, &["shed"]), demand("b", &small, &small_forms, &["shed"])];
    for demand in &mut demands {
        demand.want.context = 2048;
    }
    let placement = solve(&demands, &[capacity("shed", &host)]);
    assert_eq!(placement.placed.len(), 2, "{:?}", placement.refused);
    let alone = solve(&demands[..1], &[capacity("shed", &host)]);
    let need = |placement: &Placement| placement.placed[0].choice.estimate.need;
    assert!(need(&placement) <= need(&alone));
    let sum: Bytes = placement.placed.iter().map(|p| p.choice.estimate.need).sum();
    assert!(sum <= room(&host));
}

#[test]
fn a_number_of_hosts_gets_the_fastest_ones() {
    let llama = model(LLAMA32_1B);
    let forms = candidates(&llama);
    let (pi4, pi5, tiny) =
        (planned("pi4-4gb").unwrap(), planned("pi5-4gb").unwrap(), planned("pi-zero2w").unwrap());
    let mut wanted = demand("chat", &llama, &forms, &["a", "b", "c", "d"]);
    let hosts = [capacity("a", &pi4), capacity("b", &pi5), capacity("c", &pi5), capacity("d", &tiny)];
    wanted.count = Some(2);
    assert_eq!(chosen(&solve(&[wanted.clone()], &hosts)), ["b chat Q5_K_M", "c chat Q5_K_M"]);
    wanted.count = Some(4);
    let placement = solve(&[wanted], &hosts);
    assert_eq!(placement.short, [Short { model: name("chat"), wanted: 4, placed: 3 }]);
    assert_eq!(placement.refused.len(), 1);
    assert_eq!(placement.refused[0].host, name("d"));
}

#[test]
fn a_file_that_is_used_as_it_is_has_no_choice() {
    let llama = model(LLAMA32_1B);
    let mut form = candidate(&llama, Quant::Q2K);
    form.quant = None;
    let host = planned("pi4-4gb").unwrap();
    let want = Want { quants: Quants::AsIs, ..want() };
    let room = Room { memory: room(&host), disk: None };
    let choice = choose(&llama, &[form], &want, &host, room, &nothing_held).unwrap();
    assert_eq!((choice.quant, choice.loss, choice.step_up), (None, None, None));
}

fn boards() -> impl Strategy<Value = HostFacts> {
    let names: Vec<_> = crate::facts::planned_names().collect();
    (prop::sample::select(names), 0.05f64..1.0, prop::option::of(0u64..20_000)).prop_map(
        |(board, share, disk)| {
            let mut host = planned(board).unwrap();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a size")]
            let available = (host.memory.total.0 as f64 * share) as u64;
            host.memory.available = Bytes(available);
            host.disk = disk.map(|mib| crate::facts::Disk {
                path: "/".into(),
                filesystem: None,
                free: Bytes::mib(mib),
                total: Bytes::mib(mib),
                medium: None,
                inodes_free: None,
            });
            host
        },
    )
}

fn sizes() -> impl Strategy<Value = Widths> {
    prop::sample::select(vec![SMOLLM2_135M, TINYLLAMA, LLAMA32_1B, LLAMA32_3B, MISTRAL_7B])
}

fn leans() -> impl Strategy<Value = Lean> {
    prop::sample::select(vec![Lean::Balanced, Lean::Quality, Lean::Speed])
}

/// A fleet for the laws: hosts, and for each model its sizes, context, lean and number of hosts.
type Drawn = (Vec<HostFacts>, Vec<(Widths, u32, Lean, Option<u32>)>);

fn fleets() -> impl Strategy<Value = Drawn> {
    let wants = (sizes(), 512u32..16384, leans(), prop::option::of(1u32..4));
    (proptest::collection::vec(boards(), 1..4), proptest::collection::vec(wants, 1..4))
}

/// One change to what is wanted of a model.
#[derive(Debug)]
enum Relaxation {
    Context(ModelName, u32),
    Quality(ModelName, Quant),
    Rate(ModelName, f64),
}

/// Returns what a refusal offers, each to be tried alone.
fn offers(refusal: &Refusal) -> Vec<Relaxation> {
    let model = || refusal.model.clone();
    match &refusal.reason {
        Reason::Memory { remedies, .. } => {
            let context = remedies.context.map(|context| Relaxation::Context(model(), context));
            let quality = remedies.below_floor.map(|quant| Relaxation::Quality(model(), quant));
            context.into_iter().chain(quality).collect()
        }
        Reason::Slow { answer, .. } => vec![Relaxation::Rate(model(), refusal::floor_at(*answer))],
        Reason::Shared { slow, answer, .. } => {
            vec![Relaxation::Rate(slow.clone(), refusal::floor_at(*answer))]
        }
        Reason::Disk { .. } | Reason::Userland { .. } | Reason::NoCandidate => Vec::new(),
    }
}

/// A drawn fleet, owned.
#[derive(Clone)]
struct Drawing {
    hosts: Vec<(HostName, HostFacts)>,
    models: Vec<ModelFacts>,
    forms: Vec<Vec<Candidate>>,
    wants: Vec<(Want, Option<u32>)>,
}

impl Drawing {
    fn new((hosts, wanted): Drawn) -> Self {
        let models: Vec<_> = wanted.iter().map(|(widths, ..)| model(*widths)).collect();
        let want = |(_, context, lean, count): &(Widths, u32, Lean, Option<u32>)| {
            (Want { context: *context, lean: *lean, ..want() }, *count)
        };
        Self {
            hosts: hosts.into_iter().enumerate().map(|(n, host)| (name(&format!("h{n}")), host)).collect(),
            forms: models.iter().map(candidates).collect(),
            wants: wanted.iter().map(want).collect(),
            models,
        }
    }

    fn solve(&self) -> Placement {
        let demands: Vec<_> = (0..self.models.len())
            .map(|n| Demand {
                name: name(&format!("m{n}")),
                model: &self.models[n],
                candidates: &self.forms[n],
                want: self.wants[n].0.clone(),
                hosts: self.hosts.iter().map(|(host, _)| host.clone()).collect(),
                count: self.wants[n].1,
            })
            .collect();
        let capacities: Vec<_> =
            self.hosts.iter().map(|(host, facts)| capacity(host.as_str(), facts)).collect();
        solve(&demands, &capacities)
    }

    fn relax(&mut self, relaxation: &Relaxation) {
        match relaxation {
            Relaxation::Context(model, context) => self.want(model).context = *context,
            Relaxation::Quality(model, quant) => self.want(model).floor_quality = *quant,
            Relaxation::Rate(model, rate) => self.want(model).floor_rate = TokensPerSec(*rate),
        }
    }

    fn want(&mut self, model: &ModelName) -> &mut Want {
        let at: usize = model.as_str()[1..].parse().unwrap();
        &mut self.wants[at].0
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_a_refusal_offers_lets_one_more_be_placed(fleet in fleets()) {
        let fleet = Drawing::new(fleet);
        let before = fleet.solve();
        for refusal in before.refused.iter().take(3) {
            for offer in offers(refusal) {
                let mut relaxed = fleet.clone();
                relaxed.relax(&offer);
                let after = relaxed.solve();
                prop_assert!(
                    after.placed.len() > before.placed.len(),
                    "{refusal}: {:?} then {:?}", chosen(&before), chosen(&after)
                );
            }
        }
    }

    #[test]
    fn more_memory_never_places_less(fleet in fleets(), which in 0usize..4, more in 1u64..4000) {
        let mut fleet = Drawing::new(fleet);
        let before = fleet.solve();
        let at = which % fleet.hosts.len();
        let memory = &mut fleet.hosts[at].1.memory;
        memory.available += Bytes::mib(more);
        memory.total = memory.total.max(memory.available);
        // a larger board keeps a larger margin: what counts is what models may have
        prop_assume!(room(&fleet.hosts[at].1) >= room(&{
            let mut host = fleet.hosts[at].1.clone();
            host.memory.available = host.memory.available - Bytes::mib(more);
            host
        }));
        prop_assert!(fleet.solve().placed.len() >= before.placed.len());
    }

    #[test]
    fn the_order_of_what_is_asked_changes_nothing(fleet in fleets()) {
        let fleet = Drawing::new(fleet);
        let mut turned = fleet.clone();
        turned.hosts.reverse();
        prop_assert_eq!(fleet.solve(), turned.solve());
        prop_assert_eq!(fleet.solve(), fleet.solve());
    }

    #[test]
    fn one_model_on_one_host_is_what_is_chosen_for_it_alone(host in boards(), widths in sizes(), lean in leans()) {
        let mut fleet = Drawing::new((vec![host.clone()], vec![(widths, 2048, lean, None)]));
        let placement = fleet.solve();
        let want = fleet.want(&name("m0")).clone();
        let disk = host.disk.as_ref().map(|disk| disk.free);
        let alone = choose(
            &fleet.models[0], &fleet.forms[0], &want, &host, Room { memory: room(&host), disk }, &nothing_held,
        );
        match alone {
            Ok(choice) => prop_assert_eq!(&placement.placed[0].choice, &choice),
            Err(reason) => {
                let mut refused = placement.refused[0].reason.clone();
                if let Reason::Memory { remedies, .. } = &mut refused { remedies.elsewhere.clear(); }
                prop_assert_eq!(refused, reason);
            }
        }
    }

    #[test]
    fn what_is_placed_together_never_exceeds_a_host(
        hosts in proptest::collection::vec(boards(), 1..4),
        wanted in proptest::collection::vec((sizes(), 512u32..16384, leans(), prop::option::of(1u32..4)), 1..4),
    ) {
        let models: Vec<_> = wanted.iter().map(|(widths, ..)| model(*widths)).collect();
        let forms: Vec<_> = models.iter().map(candidates).collect();
        let names: Vec<String> = (0..hosts.len()).map(|n| format!("h{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let demands: Vec<_> = wanted.iter().enumerate().map(|(n, (_, context, lean, count))| Demand {
            want: Want { context: *context, lean: *lean, ..want() },
            count: *count,
            ..demand(&format!("m{n}"), &models[n], &forms[n], &names)
        }).collect();
        let capacities: Vec<_> = names.iter().zip(&hosts).map(|(name, host)| capacity(name, host)).collect();
        let placement = solve(&demands, &capacities);
        for capacity in &capacities {
            let here = || placement.placed.iter().filter(|placed| placed.host == capacity.name);
            prop_assert!(here().map(|p| p.choice.estimate.need).sum::<Bytes>() <= room(capacity.facts));
            if let Some(disk) = &capacity.facts.disk {
                prop_assert!(here().map(|p| p.choice.estimate.file).sum::<Bytes>() <= disk.free);
            }
        }
        // each pair is placed or refused, once
        for demand in demands.iter().filter(|demand| demand.count.is_none()) {
            let placed = placement.placed.iter().filter(|p| p.model == demand.name).count();
            let refused = placement.refused.iter().filter(|r| r.model == demand.name).count();
            prop_assert_eq!(placed + refused, hosts.len());
        }
        // the order of what comes in does not matter
        let (mut demands, mut capacities) = (demands, capacities);
        demands.reverse();
        capacities.reverse();
        prop_assert_eq!(solve(&demands, &capacities), placement.clone());
        // and the estimate of a choice is that of what it says
        for placed in &placement.placed {
            let demand = demands.iter().find(|demand| demand.name == placed.model).unwrap();
            let facts = capacities.iter().find(|c| c.name == placed.host).unwrap().facts;
            let form = demand.candidates.iter().find(|c| c.quant == placed.choice.quant).unwrap();
            let again = footprint(demand.model, form, &placed.choice.serving, facts);
            prop_assert_eq!(again, placed.choice.estimate);
        }
    }

    #[test]
    fn more_memory_never_makes_quality_worse(host in boards(), widths in sizes(), lean in leans(), extra in 0u64..8000) {
        let model = model(widths);
        let forms = candidates(&model);
        let want = Want { lean, ..want() };
        let with = |memory| choose(&model, &forms, &want, &host, Room { memory, disk: None }, &nothing_held);
        let less = with(room(&host));
        let more = with(room(&host) + Bytes::mib(extra));
        if let Ok(less) = less {
            let more = more.unwrap();
            prop_assert!(more.loss.unwrap().divergence <= less.loss.unwrap().divergence);
            // nor prompts slower, for the same quality: keys and values that are not packed come before faster prompts
            if (more.quant, more.serving.kv) == (less.quant, less.serving.kv) {
                prop_assert!(more.estimate.speed.prompt.expected >= less.estimate.speed.prompt.expected);
            }
        }
    }

    #[test]
    fn auto_never_goes_below_its_floors(host in boards(), widths in sizes(), rate in 0.1f64..20.0) {
        let model = model(widths);
        let forms = candidates(&model);
        let want = Want { floor_rate: TokensPerSec(rate), ..want() };
        let room = Room { memory: room(&host), disk: None };
        if let Ok(choice) = choose(&model, &forms, &want, &host, room, &nothing_held) {
            let floor = candidate(&model, Quant::Q4_0).loss(&model).unwrap();
            prop_assert!(choice.loss.unwrap().is_within(&floor));
            prop_assert!(choice.estimate.speed.answer.low >= want.floor_rate);
        }
    }
}

#[test]
fn an_encoder_reads_a_prompt_at_once_and_each_slot_has_a_context_of_its_own() {
    let known = crate::catalog::find("flan-t5-base").unwrap();
    let source =
        crate::source::Pinned { uri: "catalog:flan-t5-base".to_owned(), files: vec![], license: None };
    let model = known.figures.facts(source);
    let candidates = candidates(&model);
    let host = planned("pi4-4gb").unwrap();
    let with = |slots: u32| {
        let want = Want { context: 512, slots, ..want() };
        let room = Room { memory: room(&host), disk: None };
        choose(&model, &candidates, &want, &host, room, &nothing_held).unwrap()
    };
    let (one, three) = (with(1), with(3));
    assert_eq!((one.serving.micro_batch, three.serving.micro_batch), (512, 512));
    let working = |choice: &Choice| {
        let parts = choice.estimate.parts;
        [parts.kv, parts.compute, parts.output]
    };
    assert_eq!(working(&three), working(&one).map(|bytes| bytes * 3));
    // logits of every token that is read, of 32128 words each
    assert!(one.estimate.parts.output >= Bytes(512 * 32_128 * 4));
}
