use std::sync::mpsc::channel;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::engine::fake::Echo;

/// Hears a whole answer: its text, how it ends, and what is counted of it.
pub(in crate::engine) fn hear(
    listener: &mut UnboundedReceiver<(u32, Event)>,
) -> (String, FinishReason, Usage, Timings) {
    let mut text = String::new();
    loop {
        match listener.blocking_recv() {
            Some((_, Event::Text { text: piece, .. })) => text.push_str(&piece),
            Some((_, Event::End { finish, usage, timings })) => return (text, finish, usage, timings),
            other => panic!("{other:?}"),
        }
    }
}

pub(in crate::engine) fn job(shared: &Arc<Shared>, prompt: &str) -> (Order, UnboundedReceiver<(u32, Event)>) {
    let (sender, receiver) = unbounded_channel();
    let prompt = Input::Text(prompt.to_owned());
    let job = Job::new(prompt, Listener { choice: 0, sender }, Place::take(shared, 9).unwrap());
    (Order::Answer(Box::new(job)), receiver)
}

#[test]
fn a_job_that_nobody_waits_for_costs_no_step_after_the_one_in_hand() {
    let shared = Arc::new(Shared::default());
    let (permits, permit) = channel();
    let (jobs, inbox) = channel();
    let (story, mut listener) = job(&shared, "a long story");
    let (next, mut other) = job(&shared, "next");
    jobs.send(story).unwrap();
    let for_worker = Arc::clone(&shared);
    let worker = std::thread::spawn(move || {
        let loaded = Loaded { slots: 1, context: 100, batch: 8, vocabulary: 257, ..Loaded::default() };
        run(&mut Echo::new(&loaded, Some(permit)), &loaded, &inbox, &for_worker, &mut [Vec::new()])
    });
    // two steps for the prompt, the second of which gives a token
    permits.send(()).unwrap();
    permits.send(()).unwrap();
    assert!(matches!(listener.blocking_recv(), Some((_, Event::Text { text, .. })) if text == "a"));
    jobs.send(next).unwrap();
    drop(listener);
    // the step in hand, and one that must be the other's
    permits.send(()).unwrap();
    permits.send(()).unwrap();
    assert!(matches!(other.blocking_recv(), Some((_, Event::Text { text, .. })) if text == "n"));
    assert_eq!((shared.running(), shared.queued()), (1, 0));
    drop((permits, jobs));
    let mut rest = String::new();
    while let Some((_, event)) = other.blocking_recv() {
        match event {
            Event::Text { text, .. } => rest.push_str(&text),
            Event::End { finish, usage, .. } => {
                assert_eq!((finish, usage), (FinishReason::Stop, Usage::new(4, 5)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rest, "ext");
    assert!(worker.join().unwrap().is_ok());
}

#[test]
fn the_beginning_that_two_prompts_share_is_computed_once() {
    let shared = Arc::new(Shared::default());
    let (jobs, inbox) = channel();
    let mut listeners = Vec::new();
    // the second goes on from the first prompt and its answer, as the turns of a chat do
    for prompt in ["abcdef", "abcdefabcdefX", "abQ"] {
        let (job, listener) = job(&shared, prompt);
        jobs.send(job).unwrap();
        listeners.push((prompt, listener));
    }
    drop(jobs);
    let loaded = Loaded { slots: 1, context: 100, batch: 8, vocabulary: 257, ..Loaded::default() };
    run(&mut Echo::new(&loaded, None), &loaded, &inbox, &shared, &mut [Vec::new()]).unwrap();
    let computed: Vec<u32> = listeners
        .into_iter()
        .map(|(prompt, mut listener)| {
            let (text, _, _, timings) = hear(&mut listener);
            assert_eq!(text, prompt);
            timings.prompt_n
        })
        .collect();
    assert_eq!(computed, [6, 1, 1]);
}

#[test]
fn what_another_slot_is_computing_with_is_shared_and_not_computed_again() {
    let system = "a long beginning that all questions have in common: ";
    let computed = |shared_part: &str| {
        let shared = Arc::new(Shared::default());
        let (permits, permit) = channel();
        let (jobs, inbox) = channel();
        let (one, mut first) = job(&shared, &format!("{system}one"));
        jobs.send(one).unwrap();
        let for_worker = Arc::clone(&shared);
        let worker = std::thread::spawn(move || {
            let loaded = Loaded { slots: 2, context: 200, batch: 8, vocabulary: 257, ..Loaded::default() };
            let mut cached = vec![Vec::new(); 2];
            run(&mut Echo::new(&loaded, Some(permit)), &loaded, &inbox, &for_worker, &mut cached)
        });
        (0..system.len().div_ceil(8)).for_each(|_| permits.send(()).unwrap());
        // it speaks, and keeps its slot
        assert!(matches!(first.blocking_recv(), Some((_, Event::Text { .. }))));
        let prompt = format!("{shared_part}two");
        let (two, mut second) = job(&shared, &prompt);
        jobs.send(two).unwrap();
        drop((permits, jobs));
        let (text, _, _, timings) = hear(&mut second);
        assert_eq!(text, prompt);
        let mut rest = String::new();
        while let Some((_, event)) = first.blocking_recv() {
            if let Event::Text { text, .. } = event {
                rest.push_str(&text);
            }
        }
        assert_eq!(
            format!("a{rest}"),
            format!("{system}one"),
            "the one that was copied from is not disturbed"
        );
        assert!(worker.join().unwrap().is_ok());
        timings.prompt_n as usize
    };
    assert_eq!(computed(system), "two".len());
    // so little is computed sooner
    let little = &system[..WORTH_SHARING - 1];
    assert_eq!(computed(little), little.len() + "two".len());
}

#[test]
fn a_token_that_there_is_not_is_never_computed() {
    for token in [-1, 257, Token::MAX] {
        let shared = Arc::new(Shared::default());
        let (jobs, inbox) = channel();
        let (sender, mut listener) = unbounded_channel();
        let (prompt, place) = (Input::Tokens(vec![7, token]), Place::take(&shared, 9).unwrap());
        jobs.send(Order::Answer(Box::new(Job::new(prompt, Listener { choice: 0, sender }, place)))).unwrap();
        drop(jobs);
        let loaded = Loaded { slots: 1, context: 100, batch: 8, vocabulary: 257, ..Loaded::default() };
        run(&mut Echo::new(&loaded, None), &loaded, &inbox, &shared, &mut [Vec::new()]).unwrap();
        let told = listener.blocking_recv();
        assert!(matches!(told, Some((0, Event::Failed(Failure::NoToken(no)))) if no == token), "{told:?}");
    }
}

/// Has an engine do one job, and returns its text, its end, and the tokens of the prompt that it counts.
fn answer(loaded: &Loaded, job: impl FnOnce(&mut Job)) -> (String, FinishReason, Usage, Timings) {
    let shared = Arc::new(Shared::default());
    let (jobs, inbox) = channel();
    let (order, mut listener) = self::job(&shared, "one naïve text\0");
    let Order::Answer(mut boxed) = order else { panic!("no job") };
    job(&mut boxed);
    jobs.send(Order::Answer(boxed)).unwrap();
    drop(jobs);
    run(&mut Echo::new(loaded, None), loaded, &inbox, &shared, &mut [Vec::new()]).unwrap();
    hear(&mut listener)
}

#[test]
fn an_answer_goes_on_behind_what_was_written_elsewhere_with_and_without_an_encoder() {
    let decoder = Loaded { slots: 1, context: 100, batch: 8, vocabulary: 257, ..Loaded::default() };
    let reader = Loaded { start: Some(7), ..decoder.clone() };
    for loaded in [decoder, reader] {
        let (whole, _, usage, _) = answer(&loaded, |_| ());
        assert_eq!((whole.as_str(), usage), ("one naïve text", Usage::new(16, 16)));
        for (at, _) in whole.char_indices().skip(1) {
            let begun = || Begun { text: whole[..at].to_owned(), tokens: u32::try_from(at).unwrap() };
            let (rest, finish, usage, timings) = answer(&loaded, |job| job.resumed = begun());
            assert_eq!((rest.as_str(), finish), (&whole[at..], FinishReason::Stop));
            assert_eq!(usage, Usage::new(16, 16), "what was written elsewhere is of the answer");
            assert_eq!(timings.predicted_n, 16 - begun().tokens, "and took no time here");
            let limited = |job: &mut Job| (job.resumed, job.max_tokens) = (begun(), Some(13));
            let (rest, finish, usage, _) = answer(&loaded, limited);
            let expected = whole.get(at..13).unwrap_or_default();
            assert_eq!((rest.as_str(), finish), (expected, FinishReason::Length));
            assert_eq!(usage.completion_tokens, 13.max(begun().tokens));
        }
    }
}
