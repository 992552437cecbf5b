//! What a `bench` changes in the plans after it: no host, unless what is in force would give up what is only slow.

use super::forms::candidates;
use super::testing::{Fleet, generation, name};
use crate::estimate::{self, Serving};
use crate::facts::{Bench, EngineBench, StorageBench};
use crate::generation::{Definition, Pace};
use crate::ids::Generation;
use crate::units::{Bytes, BytesPerSec, TokensPerSec};

/// Has a host measured, so many times as fast as what is in force counts with. Returns what that is.
fn measure(fleet: &mut Fleet, host: &str, times: f64) -> Pace {
    let cpu = fleet.facts(host).cpu.clone();
    let installed = fleet.facts(host).installed.as_ref().unwrap();
    let engine = installed.current.as_ref().unwrap().1.engines[0].clone();
    let facts = fleet.models[&engine.model].as_ref().unwrap();
    let candidates = candidates(facts, &fleet.manifest.models[&engine.model], 1);
    let candidate = candidates.iter().find(|it| it.recipe == Some(engine.weights.recipe)).unwrap();
    let work = estimate::work(facts, candidate, &Serving::from(&engine), &cpu);
    let bench = EngineBench {
        model: engine.model,
        recipe: engine.weights.recipe,
        threads: engine.threads,
        repack: engine.repack,
        prompt_tokens: 54,
        prompt: TokensPerSec(engine.pace.prompt.0 * times),
        answer_tokens: 20,
        answer: TokensPerSec(engine.pace.answer.0 * times),
        work,
        text: None,
    };
    let (format, engines, notes) = (Bench::FORMAT, vec![bench], Vec::new());
    fleet.facts(host).installed.as_mut().unwrap().bench =
        Some(Bench { format, memory: None, storage: None, engines, notes });
    engine.pace
}

#[test]
fn a_bench_alone_changes_no_host() {
    let mut fleet = Fleet::new();
    fleet.apply();
    for times in [0.85, 1.2, 7.0] {
        for host in ["attic", "shed", "desk"] {
            measure(&mut fleet, host, times);
        }
        let plan = fleet.plan();
        assert!(plan.is_empty(), "{times}: {:?}", plan.host(&name("attic")).unwrap().reasons);
        let chosen = &plan.host(&name("attic")).unwrap().choices[0];
        assert!(chosen.speed.contains("measured"), "{}", chosen.speed);
    }
    // whoever changes for something else counts with what was measured, from then on
    fleet.change("context: 1024", "context: 768");
    let in_force =
        fleet.facts("attic").installed.as_ref().unwrap().current.as_ref().unwrap().1.engines[0].pace;
    let wanted = fleet.plan().host(&name("attic")).unwrap().definition.engines[0].pace;
    assert!(wanted.prompt.0 > in_force.prompt.0 * 6.0, "{wanted:?} {in_force:?}");
}

#[test]
fn deadlines_that_count_with_much_more_than_was_measured_are_told_and_mended() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let before = measure(&mut fleet, "attic", 0.5);
    let plan = fleet.plan();
    let host = plan.host(&name("attic")).unwrap();
    let now = host.definition.engines[0].pace;
    let said = format!(
        "chat is slower than its deadlines count with: it reads {} and answers {}, not {} and {}",
        now.prompt, now.answer, before.prompt, before.answer
    );
    assert_eq!(host.reasons, [said]);
    // nobody asks the attic but its own door
    assert_eq!(generation(&plan, "shed"), None);
    fleet.applied(&plan);
    assert!(fleet.plan().is_empty());
    // measured again, a little slower
    measure(&mut fleet, "attic", 0.9);
    assert!(fleet.plan().is_empty());
}

#[test]
fn doors_that_ask_a_host_which_is_slower_than_they_count_with_are_told() {
    let mut fleet = Fleet::new();
    fleet.apply();
    measure(&mut fleet, "desk", 0.3);
    let plan = fleet.plan();
    let reasons = &plan.host(&name("shed")).unwrap().reasons;
    assert!(reasons[0].starts_with("chat on desk is slower than its deadlines count with"), "{reasons:?}");
    assert_eq!(generation(&plan, "desk"), Some(Generation::new(2)));
    assert_eq!(plan.host(&name("desk")).unwrap().reasons.len(), 1);
}

#[test]
fn a_route_that_goes_by_the_wait_counts_with_what_is_faster() {
    let mut fleet =
        Fleet::with("order: [local, desk]", "order: [local, desk], overflow: { wait_seconds: 20 }");
    fleet.apply();
    measure(&mut fleet, "attic", 3.0);
    let plan = fleet.plan();
    let reasons = &plan.host(&name("attic")).unwrap().reasons;
    assert!(reasons[0].starts_with("chat is faster than its route's wait counts with"), "{reasons:?}");
    fleet.applied(&plan);
    assert!(fleet.plan().is_empty());
}

#[test]
fn weights_that_load_longer_than_an_engine_is_given_are_told() {
    let mut fleet = Fleet::new();
    fleet.apply();
    let installed = fleet.facts("attic").installed.as_mut().unwrap();
    let slow = StorageBench { read: BytesPerSec(0.5e6), bytes: Bytes::mib(16) };
    let (format, engines, notes) = (Bench::FORMAT, Vec::new(), Vec::new());
    installed.bench = Some(Bench { format, memory: None, storage: Some(slow), engines, notes });
    let plan = fleet.plan();
    let reasons = &plan.host(&name("attic")).unwrap().reasons;
    assert!(reasons[0].starts_with("chat loads longer than it is given time for"), "{reasons:?}");
}

#[test]
fn what_one_host_says_of_its_speed_leaves_the_definitions_of_others_readable() {
    let mut fleet = Fleet::new();
    fleet.apply();
    for figure in [0.0, 1e-320, 1.7e308] {
        measure(&mut fleet, "desk", 1.0);
        let bench = fleet.facts("desk").installed.as_mut().unwrap().bench.as_mut().unwrap();
        bench.storage = Some(StorageBench { read: BytesPerSec(figure), bytes: Bytes::mib(16) });
        bench.engines[0].answer = TokensPerSec(figure);
        for host in fleet.plan().hosts {
            let text = serde_json::to_string(&host.definition).unwrap();
            assert!(serde_json::from_str::<Definition>(&text).is_ok(), "{figure}: {text}");
        }
    }
}
