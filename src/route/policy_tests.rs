use proptest::prelude::*;

use super::*;
use crate::generation::Hop;
use crate::units::TokensPerSec;

fn pace(prompt: f64, answer: f64) -> Pace {
    Pace { prompt: TokensPerSec(prompt), answer: TokensPerSec(answer), load_seconds: 10.0, is_guess: false }
}

fn route(upstreams: &[&str]) -> RouteSpec {
    let hop = |name: &&str| Hop {
        upstream: (*name).to_owned(),
        model: "chat".to_owned(),
        quant: None,
        pace: Some(pace(10.0, 2.0)),
        is_desktop: *name == "desk",
        lacks: Vec::new(),
    };
    RouteSpec {
        model: "chat".parse().unwrap(),
        order: upstreams.iter().map(hop).collect(),
        overflow_queue: Some(2),
        overflow_wait_seconds: None,
        overflow_prompt_tokens: None,
        continue_on: None,
        first_token_seconds: 20.0,
    }
}

const READY: Choice =
    Choice { kind: Kind::Host, is_cordoned: false, wait: None, queued: None, slot_in: None, waking: None };
const LOCAL: Choice = Choice { kind: Kind::Local, ..READY };
const FOREIGN: Choice = Choice { kind: Kind::Foreign, ..READY };
const OPEN: Option<Duration> = Some(Duration::from_secs(3));
const PLAIN: Features =
    Features { prompt_tokens: 100.0, answer_tokens: Some(50.0), is_hop: false, needs: Needs([false; 4]) };

type Case = (&'static str, [Choice; 3], Features, &'static [usize], Vec<(usize, Reason)>);

fn order(decision: &Decision) -> Vec<usize> {
    decision.attempts.iter().map(|attempt| attempt.choice).collect()
}

#[test]
fn choices_are_asked_as_the_route_says_but_for_what_is_known_of_them() {
    let hop = Features { is_hop: true, ..PLAIN };
    let open = Reason::BreakerOpen { wait: Duration::from_secs(3) };
    let full = Reason::Overflow { queued: 3 };
    let cases: [Case; 11] = [
        ("all well", [LOCAL, READY, READY], PLAIN, &[0, 1, 2], vec![]),
        (
            "local breaker open",
            [Choice { wait: OPEN, ..LOCAL }, READY, READY],
            PLAIN,
            &[1, 2],
            vec![(0, open.clone())],
        ),
        (
            "queue at its limit",
            [Choice { queued: Some(2), ..LOCAL }, READY, READY],
            PLAIN,
            &[0, 1, 2],
            vec![],
        ),
        (
            "queue over its limit",
            [Choice { queued: Some(3), ..LOCAL }, READY, READY],
            PLAIN,
            &[1, 2, 0],
            vec![(0, full)],
        ),
        ("a hop stays local", [LOCAL, READY, READY], hop, &[0], vec![]),
        (
            "a hop stays local though local is down",
            [Choice { wait: OPEN, ..LOCAL }, READY, READY],
            hop,
            &[],
            vec![(0, open.clone())],
        ),
        (
            "a machine is being woken, and its breaker is of before",
            [LOCAL, Choice { wait: OPEN, waking: Some(Duration::from_secs(5)), ..READY }, READY],
            PLAIN,
            &[0, 2],
            vec![(1, Reason::Waking { seconds: 5 })],
        ),
        (
            "the host is cordoned",
            [Choice { is_cordoned: true, ..LOCAL }, READY, READY],
            PLAIN,
            &[1, 2],
            vec![(0, Reason::Cordoned)],
        ),
        (
            "so that a hop has to go elsewhere",
            [Choice { is_cordoned: true, ..LOCAL }, READY, READY],
            hop,
            &[],
            vec![(0, Reason::Cordoned)],
        ),
        (
            "a hop waits for no machine",
            [LOCAL, Choice { waking: Some(Duration::ZERO), ..READY }, READY],
            hop,
            &[0],
            vec![],
        ),
        (
            "all open",
            [Choice { wait: OPEN, ..LOCAL }; 3],
            PLAIN,
            &[],
            vec![(0, open.clone()), (1, open.clone()), (2, open)],
        ),
    ];
    for (name, choices, features, attempts, passed_over) in cases {
        let decision = decide(&route(&["local", "desk", "gaming"]), &choices, &features);
        assert_eq!(order(&decision), attempts, "{name}");
        assert_eq!(decision.passed_over, passed_over, "{name}");
        let waking = passed_over.iter().filter(|(_, reason)| matches!(reason, Reason::Waking { .. }));
        let waited: Vec<usize> = decision.waiting.iter().map(|attempt| attempt.choice).collect();
        assert_eq!(waited, waking.map(|(choice, _)| *choice).collect::<Vec<_>>(), "{name}");
    }
}

/// What is known of the choices, of the request, who is asked, and why others are asked later or not at all.
type LateCase = (&'static str, [Choice; 3], Features, &'static [usize], Vec<(usize, Reason)>);

#[test]
fn who_would_begin_too_late_or_is_too_small_for_the_prompt_is_asked_after_others() {
    let mut spec = route(&["local", "shed", "desk"]);
    (spec.overflow_wait_seconds, spec.overflow_prompt_tokens) = (Some(30), Some(150));
    spec.order[2].pace = Some(pace(1000.0, 50.0));
    let slot_in = |seconds| Choice { slot_in: Some(seconds), ..LOCAL };
    let tokens = |prompt_tokens| Features { prompt_tokens, ..PLAIN };
    let late = |index, seconds| (index, Reason::WaitTooLong { seconds });
    let long = |index| (index, Reason::LongPrompt { tokens: 151 });
    let asleep = Choice { wait: OPEN, ..READY };
    let open = Reason::BreakerOpen { wait: Duration::from_secs(3) };
    let cases: [LateCase; 7] = [
        // 100 tokens take 10 s at 10 tok/s
        ("in time to the second", [slot_in(20), READY, READY], PLAIN, &[0, 1, 2], vec![]),
        ("a second late", [slot_in(21), READY, READY], PLAIN, &[1, 2, 0], vec![late(0, 31)]),
        ("what is not known does not count", [LOCAL, READY, READY], PLAIN, &[0, 1, 2], vec![]),
        ("a prompt of just that length", [slot_in(0), READY, READY], tokens(150.0), &[0, 1, 2], vec![]),
        (
            "a longer one is for the desktop",
            [slot_in(0), READY, READY],
            tokens(150.1),
            &[2, 0, 1],
            vec![long(0), long(1)],
        ),
        (
            "which is not there, so that the wait decides",
            [slot_in(16), READY, asleep],
            tokens(150.1),
            &[1, 0],
            vec![late(0, 32), (2, open)],
        ),
        (
            "a hop is answered as it is",
            [slot_in(500), READY, READY],
            Features { is_hop: true, ..tokens(9000.0) },
            &[0],
            vec![],
        ),
    ];
    for (name, choices, features, attempts, passed_over) in cases {
        let decision = decide(&spec, &choices, &features);
        assert_eq!(order(&decision), attempts, "{name}");
        assert_eq!(decision.passed_over, passed_over, "{name}");
    }
}

#[test]
fn who_cannot_do_what_the_request_needs_is_not_asked() {
    let mut spec = route(&["local", "desk", "gaming"]);
    spec.order[2].lacks = vec![Capability::Logprobs, Capability::Tools];
    let choices = [LOCAL, Choice { waking: OPEN, ..READY }, FOREIGN];
    for capability in Capability::ALL {
        let needs = Needs::default().with(capability, true).with(Capability::JsonSchema, false);
        let decision = decide(&spec, &choices, &Features { needs, ..PLAIN });
        let lacks = spec.order[2].lacks.contains(&capability);
        let expected: &[usize] = if lacks { &[0] } else { &[0, 2] };
        assert_eq!(order(&decision), expected, "{capability:?}");
        let unable = (2, Reason::Unable(Some(capability)));
        assert_eq!(decision.passed_over.contains(&unable), lacks);
        let broken = Broken { at: &[0], tokens: 1, is_plain: true };
        spec.continue_on = Some(vec!["gaming".to_owned()]);
        let rest = decide_rest(&spec, &choices, &Features { needs, ..PLAIN }, &broken);
        assert_eq!(order(&rest), if lacks { &[][..] } else { &[2] }, "{capability:?}");
    }
}

#[test]
fn the_only_upstream_is_passed_over_too_while_its_breaker_is_open() {
    let decision = decide(&route(&["local"]), &[Choice { wait: OPEN, ..LOCAL }], &PLAIN);
    assert!(decision.attempts.is_empty());
}

/// `continue_on`, what is known of the choices, where the answer broke off, whether it is plain text, and who is asked.
type RestCase<'a> = (Option<&'a [&'a str]>, [Choice; 4], &'a [usize], bool, &'a [usize]);

/// A route to an engine, two hosts and a server that is not ours.
const ALL: [Choice; 4] = [LOCAL, READY, READY, FOREIGN];

#[test]
fn an_answer_is_continued_on_the_next_that_the_route_allows() {
    let allowing = |names: Option<&[&str]>| {
        let names = names.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        RouteSpec { continue_on: names, ..route(&["local", "desk", "attic", "gaming"]) }
    };
    let full = [Choice { queued: Some(3), ..LOCAL }, READY, READY, FOREIGN];
    let down = [LOCAL, Choice { wait: OPEN, ..READY }, READY, FOREIGN];
    let cases: [RestCase<'_>; 12] = [
        // without a word, every engine and host of the fleet, and no other
        (None, ALL, &[0], true, &[1, 2]),
        (None, ALL, &[1], true, &[0, 2]),
        (None, ALL, &[0, 1, 2], true, &[]),
        (None, full, &[1], true, &[2, 0]),
        (None, down, &[0], true, &[2]),
        // with one, those and no others, but in the order of the route
        (Some(&["gaming", "desk"]), ALL, &[0], true, &[1, 3]),
        (Some(&["gaming", "desk"]), ALL, &[0, 1], true, &[3]),
        (Some(&["local"]), ALL, &[1], true, &[0]),
        (Some(&[]), ALL, &[0], true, &[]),
        // what a model writes beside plain text is for engines of ours
        (Some(&["gaming", "desk"]), ALL, &[0], false, &[1]),
        (Some(&["gaming"]), ALL, &[0], false, &[]),
        (Some(&["desk"]), down, &[0], true, &[]),
    ];
    for (names, choices, at, is_plain, expected) in cases {
        let broken = Broken { at, tokens: 0, is_plain };
        let decision = decide_rest(&allowing(names), &choices, &PLAIN, &broken);
        assert_eq!(order(&decision), expected, "{names:?} {at:?} {is_plain}");
        let is_worth_it = has_heir(&allowing(names), &choices.map(|choice| choice.kind), &PLAIN, at[0]);
        assert!(is_worth_it || expected.is_empty(), "{names:?} {at:?}");
    }
    // why somebody who may was not asked is for the client; who may not, is not
    let broken = Broken { at: &[0], tokens: 0, is_plain: true };
    let decision = decide_rest(&allowing(Some(&["desk"])), &down, &PLAIN, &broken);
    assert_eq!(decision.passed_over, [(1, Reason::BreakerOpen { wait: Duration::from_secs(3) })]);
    let kinds = ALL.map(|choice| choice.kind);
    assert!(!has_heir(&allowing(Some(&[])), &kinds, &PLAIN, 0));
    assert!(!has_heir(&allowing(Some(&["local"])), &kinds, &PLAIN, 0));
    assert!(!has_heir(&allowing(None), &kinds, &Features { is_hop: true, ..PLAIN }, 0));
}

#[test]
fn the_text_already_sent_is_read_as_a_part_of_the_prompt_and_is_not_written_again() {
    let broken = Broken { at: &[0], tokens: 20, is_plain: true };
    let decision = decide_rest(&route(&["local", "desk"]), &[LOCAL, READY], &PLAIN, &broken);
    let Deadlines { first_token, total, .. } = decision.attempts[0].deadlines;
    // 20 s of the route, 120 tokens at 10 tok/s, 5 s of grace; 30 tokens at 2 tok/s, twice
    assert_eq!((first_token.as_secs(), total.as_secs()), (37, 67));
}

#[test]
fn deadlines_follow_the_planned_pace_and_the_length_of_the_prompt() {
    let decision = decide(&route(&["local", "desk"]), &[LOCAL, READY], &PLAIN);
    // 20 s of the route, 100 tokens at 10 tok/s, 5 s of grace; 15 s and 20 tokens at 2 tok/s;
    // 50 tokens at 2 tok/s, twice
    let expected = Deadlines {
        connect: Duration::from_secs(1),
        first_token: Duration::from_secs(35),
        between_tokens: Duration::from_secs(25),
        total: Duration::from_secs(85),
    };
    assert_eq!(decision.attempts[0].deadlines, expected);
    assert_eq!(decision.attempts[1].deadlines.connect, Duration::from_secs(3));
}

#[test]
fn statuses_are_judged_by_whose_fault_they_are() {
    let busy = |status| Verdict::Next(Reason::Busy { status, retry_after: Some(7) });
    let cases = [
        (200, None, Verdict::Answer),
        (400, None, Verdict::ClientsOwn),
        (400, Some("context_length_exceeded"), Verdict::Next(Reason::ContextExceeded)),
        (400, Some("invalid_request"), Verdict::ClientsOwn),
        (400, Some("unsupported_parameter"), Verdict::Next(Reason::Unable(None))),
        (401, Some("invalid_api_key"), Verdict::Next(Reason::KeyRefused(401))),
        (403, None, Verdict::Next(Reason::KeyRefused(403))),
        (404, None, Verdict::ClientsOwn),
        (404, Some("model_not_found"), Verdict::Next(Reason::NoModel)),
        (422, None, Verdict::ClientsOwn),
        (429, None, busy(429)),
        (500, None, Verdict::Next(Reason::Status(500))),
        (502, None, Verdict::Next(Reason::Status(502))),
        (503, None, busy(503)),
        (301, None, Verdict::Next(Reason::Status(301))),
    ];
    for (status, code, verdict) in cases {
        assert_eq!(judge(status, code, Some(7)), verdict, "{status} {code:?}");
    }
}

fn choice() -> impl Strategy<Value = Choice> {
    let kind = prop::sample::select(vec![Kind::Local, Kind::Host, Kind::Foreign]);
    let seconds = || prop::option::of((1u64..60).prop_map(Duration::from_secs));
    let slot_in = prop::option::of(0u64..600);
    (kind, seconds(), prop::option::of(0u32..9), slot_in, seconds()).prop_map(
        |(kind, wait, queued, slot_in, waking)| Choice {
            kind,
            is_cordoned: false,
            wait,
            queued,
            slot_in,
            waking,
        },
    )
}

proptest! {
    #[test]
    fn nobody_is_asked_twice_and_nobody_is_forgotten(
        choices in prop::collection::vec(choice(), 0..6), is_hop: bool,
    ) {
        let mut spec = route(&["upstream"; 6][..choices.len()]);
        (spec.overflow_wait_seconds, spec.overflow_prompt_tokens) = (Some(60), Some(50));
        spec.order.iter_mut().step_by(2).for_each(|hop| hop.is_desktop = true);
        let decision = decide(&spec, &choices, &Features { is_hop, ..PLAIN });
        let mut asked = order(&decision);
        asked.extend(decision.waiting.iter().map(|attempt| attempt.choice));
        asked.sort_unstable();
        let may_be = |choice: &Choice| choice.wait.is_none() || choice.waking.is_some();
        let expected: Vec<usize> = (0..choices.len())
            .filter(|i| may_be(&choices[*i]) && (choices[*i].is_local() || !is_hop))
            .collect();
        prop_assert_eq!(asked, expected);
        if is_hop {
            prop_assert!(decision.attempts.iter().all(|attempt| choices[attempt.choice].is_local()));
        }
    }

    #[test]
    fn deadlines_are_bounded_and_in_order_whatever_the_numbers(
        prompt in any::<f64>(), answer in any::<f64>(), base in any::<f64>(),
        tokens in 0.0f64..1e9, wanted in prop::option::of(0.0f64..1e12),
    ) {
        let mut spec = route(&["local"]);
        spec.order[0].pace = Some(pace(prompt, answer));
        spec.first_token_seconds = base;
        let features = Features { prompt_tokens: tokens, answer_tokens: wanted, is_hop: false, ..PLAIN };
        let deadlines = decide(&spec, &[LOCAL], &features).attempts[0].deadlines;
        prop_assert!(deadlines.first_token <= deadlines.total);
        prop_assert!(deadlines.total.as_secs_f64() <= LONGEST);
        prop_assert!(deadlines.between_tokens >= Duration::from_secs(15));
    }

    #[test]
    fn a_longer_prompt_never_has_a_shorter_deadline(tokens in 0.0f64..1e6, more in 0.0f64..1e6) {
        let first = |prompt_tokens| {
            let features = Features { prompt_tokens, ..PLAIN };
            decide(&route(&["local"]), &[LOCAL], &features).attempts[0].deadlines.first_token
        };
        prop_assert!(first(tokens) <= first(tokens + more));
    }

    #[test]
    fn every_status_has_a_verdict_and_only_success_is_an_answer(status: u16) {
        prop_assert_eq!(judge(status, None, None) == Verdict::Answer, (200..300).contains(&status));
    }
}
