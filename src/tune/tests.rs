use super::*;

fn trial(quant: Quant, is_installed: bool, speed: f64, bits: Option<f64>) -> Trial {
    let figures = Figures {
        answer: TokensPerSec(speed),
        prompt: TokensPerSec(speed * 4.0),
        bits_per_byte: bits,
        load_seconds: None,
        memory: None,
    };
    Trial { quant, is_installed, outcome: Outcome::Measured(figures) }
}

fn check(trials: &[Trial], prefer: Prefer, expected: Option<Quant>) {
    let proposed = propose(trials, prefer);
    let quant = match &proposed {
        Proposal::Change { quant, .. } => Some(*quant),
        Proposal::Keep { .. } => None,
        Proposal::Unknown { why } => panic!("{why}"),
    };
    assert_eq!(quant, expected, "{prefer:?}: {proposed:?}");
}

#[test]
fn a_step_is_the_nearest_of_those_that_there_are() {
    let all = || Quant::ALL.iter().copied();
    let of = |now| neighbours(now, all());
    assert_eq!(of(Quant::F32), [Quant::F16]);
    let [better, smaller] = of(Quant::Q5_0)[..] else { panic!() };
    assert!(better < Quant::Q5_0 && Quant::Q5_0 < smaller);
    assert_eq!(
        neighbours(Quant::Q5KM, [Quant::Q4_0, Quant::Q8_0, Quant::Q5KM, Quant::Q6K]),
        [Quant::Q6K, Quant::Q4_0]
    );
    assert_eq!(neighbours(Quant::Q4_0, []), []);
}

#[test]
fn what_is_given_up_has_to_be_worth_what_is_won() {
    let installed = trial(Quant::Q5KM, true, 10.0, Some(1.0));
    let with = |quant, speed, bits| [installed.clone(), trial(quant, false, speed, Some(bits))];
    // much faster, and next to nothing lost
    for prefer in [Prefer::Balanced, Prefer::Speed] {
        check(&with(Quant::Q4_0, 14.0, 1.01), prefer, Some(Quant::Q4_0));
    }
    check(&with(Quant::Q4_0, 14.0, 1.01), Prefer::Quality, None);
    // as fast, and better
    check(&with(Quant::Q6K, 9.9, 0.985), Prefer::Balanced, Some(Quant::Q6K));
    check(&with(Quant::Q6K, 9.9, 0.985), Prefer::Speed, None);
    // what two measurements of one thing differ by is no reason
    check(&with(Quant::Q6K, 10.2, 0.999), Prefer::Balanced, None);
    // of several the best
    let mut all = with(Quant::Q4_0, 14.0, 1.01).to_vec();
    all.push(trial(Quant::Q6K, false, 11.0, Some(0.99)));
    check(&all, Prefer::Balanced, Some(Quant::Q4_0));
    check(&all, Prefer::Quality, Some(Quant::Q6K));
}

#[test]
fn what_was_not_measured_proposes_nothing() {
    let unknown = |trials: &[Trial]| matches!(propose(trials, Prefer::Balanced), Proposal::Unknown { .. });
    let other = trial(Quant::Q4_0, false, 14.0, Some(1.0));
    assert!(unknown(&[]));
    assert!(unknown(std::slice::from_ref(&other)));
    assert!(unknown(&[trial(Quant::Q8_0, true, 9.0, None), other]));
    let failed =
        Trial { quant: Quant::Q4_0, is_installed: false, outcome: Outcome::Failed("no room".to_owned()) };
    assert!(unknown(&[trial(Quant::Q8_0, true, 9.0, Some(1.0)), failed]));
}
