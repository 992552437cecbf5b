use super::*;
use crate::catalog;
use crate::facts::planned;
use crate::source::Pinned;

fn on(board: &str, name: &str, quants: &[Quant]) -> OnBoard {
    let known = catalog::find(name).unwrap();
    let source = Pinned { uri: format!("catalog:{name}"), files: vec![], license: None };
    let question = Question { context: 2048, quants: quants.to_vec(), is_only: false };
    let boards = [(board.to_owned(), planned(board).unwrap())];
    fit(name, &known.figures.facts(source), true, &question, &boards).boards.remove(0)
}

/// What a survey of 2023 said of models at 4 bits on Pis of 8 GB, the word that this is here,
/// and whether the numbers of today agree.
struct Survey {
    model: &'static str,
    said: &'static str,
    /// Our verdicts on a Pi 4 and a Pi 5 of 8 GB.
    pi4: Verdict,
    pi5: Verdict,
}

const SURVEY: &[Survey] = &[
    Survey {
        model: "llama-2-7b-chat",
        said: "feasible, slowly",
        pi4: Verdict::Borderline,
        pi5: Verdict::Slow,
    },
    Survey { model: "alpaca-7b", said: "feasible, slowly", pi4: Verdict::Borderline, pi5: Verdict::Slow },
    Survey {
        model: "vicuna-7b-v1.5",
        said: "feasible, slowly",
        pi4: Verdict::Borderline,
        pi5: Verdict::Slow,
    },
    Survey {
        model: "mistral-7b-instruct-v0.2",
        said: "feasible, slowly",
        pi4: Verdict::Borderline,
        pi5: Verdict::Slow,
    },
    Survey { model: "llama-2-13b-chat", said: "no, use a desktop", pi4: Verdict::No, pi5: Verdict::No },
    Survey { model: "gpt-j-6b", said: "borderline", pi4: Verdict::Slow, pi5: Verdict::Slow },
    Survey { model: "bloom-560m", said: "only very small ones", pi4: Verdict::Good, pi5: Verdict::Good },
    Survey { model: "bloom-7b1", said: "only very small ones", pi4: Verdict::Borderline, pi5: Verdict::Slow },
    Survey { model: "flan-t5-small", said: "feasible with ease", pi4: Verdict::Good, pi5: Verdict::Good },
];

#[test]
fn the_survey_of_models_on_pis_is_judged_by_numbers() {
    let mut differs = Vec::new();
    for Survey { model, said, pi4, pi5 } in SURVEY {
        for (board, expected) in [("pi4-8gb", pi4), ("pi5-8gb", pi5)] {
            let on = on(board, model, &[Quant::Q4_0]);
            let form = on.forms.iter().find(|form| form.quant == "Q4_0").unwrap();
            println!(
                "{model:<20} {board}: the survey says \"{said}\"; here {}: {} of {}, {:.0} % left, {:.2} tok/s ({:.2} to {:.2})",
                form.verdict,
                form.need,
                on.room,
                100.0 * form.left,
                form.speed.answer.expected.0,
                form.speed.answer.low.0,
                form.speed.answer.high.0
            );
            if form.verdict != *expected {
                differs.push(format!("{model} on {board}: {} for {expected}", form.verdict));
            }
        }
    }
    assert!(differs.is_empty(), "{differs:#?}");
}

#[test]
fn what_auto_takes_is_among_the_forms_and_fits() {
    for (board, name) in [("pi5-8gb", "mistral-7b-instruct-v0.2"), ("pi4-4gb", "smollm2-135m-instruct")] {
        let on = on(board, name, &LADDER);
        let pick = on.pick.expect("something fits");
        let form = on.forms.iter().find(|form| form.quant == pick).expect("it is shown");
        assert_ne!(form.verdict, Verdict::No, "{board}: {pick}");
        assert!(form.need <= on.room);
    }
}

#[test]
fn a_model_that_does_not_fit_has_no_pick_and_a_reason_with_numbers() {
    let on = on("pi4-4gb", "llama-2-13b-chat", &LADDER);
    assert_eq!(on.pick, None);
    assert!(on.why.contains("GiB") && on.why.contains("there is"), "{}", on.why);
    assert!(on.forms.iter().all(|form| form.verdict == Verdict::No));
    // it is told all the same how fast it would be
    assert!(on.forms.iter().all(|form| form.speed.answer.expected.0 > 0.0));
}

#[test]
fn only_what_is_asked_for_is_shown_and_the_pick() {
    let on = on("pi5-8gb", "mistral-7b-instruct-v0.2", &[Quant::Q2K]);
    let names: Vec<&str> = on.forms.iter().map(|form| form.quant.as_str()).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&"Q2_K") && names.contains(&on.pick.as_deref().unwrap()));
}
