//! The loop that owns the model: takes jobs, gives them slots, and computes one step for
//! all of them at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::health::Shared;
use super::tail::Tail;
use super::{Engine, Entry, Error, Loaded, Sampling, Token};
use crate::openai::{FinishReason, Timings, Usage};

/// How long an idle worker sleeps at most before it says that it is alive.
const IDLE: Duration = Duration::from_secs(1);

/// So many steps may fail in a row before the process ends and is started anew.
const FAILURES: u32 = 3;

/// A request, ready to be computed.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) prompt: String,
    pub(super) max_tokens: Option<u32>,
    pub(super) sampling: Sampling,
    pub(super) stop: Vec<String>,
    /// Where the answer goes. Dropping the other end cancels the job. Unbounded, since the
    /// context bounds the answer and a slow client must not hold up the others.
    pub(super) events: UnboundedSender<Event>,
    /// Its place in the queue, given back when it gets a slot or leaves.
    pub(super) place: Place,
}

/// A place in the queue; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Shared>);

impl Place {
    /// Takes a place; none when `most` requests wait already.
    pub(super) fn take(shared: &Arc<Shared>, most: usize) -> Option<Self> {
        shared.enqueue(most).then(|| Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.dequeue();
    }
}

/// What comes back for a job: texts, then one end or one failure.
#[derive(Debug)]
pub(super) enum Event {
    /// More of the answer; never empty.
    Text(String),
    /// The answer is whole.
    End { finish: FinishReason, usage: Usage, timings: Timings },
    /// There is no answer, or no more of it.
    Failed(Failure),
}

/// Why a job was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The prompt has no token.
    Empty,
    /// The prompt leaves no room for an answer.
    TooLong { prompt: usize, context: usize },
    /// The engine is about to end.
    Draining,
    /// The model failed.
    Broken(String),
}

/// Works until all senders of `inbox` are gone, or [`Shared::drain`] was called and
/// nothing runs, or [`Shared::stop`] was called.
pub(super) fn run(
    engine: &mut dyn Engine,
    loaded: &Loaded,
    inbox: &Receiver<Job>,
    shared: &Arc<Shared>,
) -> Result<(), Error> {
    let mut worker = Worker {
        engine,
        loaded,
        shared,
        slots: (0..loaded.slots).map(|_| Slot::default()).collect(),
        waiting: VecDeque::new(),
        clock: 0,
        failures: 0,
    };
    while worker.take_jobs(inbox) {
        worker.cancel();
        worker.fill_slots();
        worker.step()?;
        shared.beat();
    }
    worker.give_up(&Failure::Draining);
    Ok(())
}

#[derive(Debug, Default)]
struct Slot {
    /// The tokens whose keys and values are in the cache.
    cached: Vec<Token>,
    task: Option<Task>,
    /// When it was last given out, by the worker's count.
    used: u64,
}

/// A job that has a slot.
#[derive(Debug)]
struct Task {
    events: UnboundedSender<Event>,
    prompt: Vec<Token>,
    /// Prompt tokens that came from the cache.
    reused: usize,
    /// The token that was sampled last and is not computed yet.
    next: Option<Token>,
    answered: u32,
    most: u32,
    tail: Tail,
    began: Instant,
    prompt_ms: f64,
    prompt_ended: Instant,
}

/// A job whose prompt was found to fit.
#[derive(Debug)]
struct Waiting {
    job: Job,
    prompt: Vec<Token>,
}

struct Worker<'a> {
    engine: &'a mut dyn Engine,
    loaded: &'a Loaded,
    shared: &'a Arc<Shared>,
    slots: Vec<Slot>,
    waiting: VecDeque<Waiting>,
    clock: u64,
    failures: u32,
}

impl Worker<'_> {
    fn running(&self) -> usize {
        self.slots.iter().filter(|slot| slot.task.is_some()).count()
    }

    /// Takes what came in, and waits for it if there is nothing else to do. Returns
    /// whether to go on.
    fn take_jobs(&mut self, inbox: &Receiver<Job>) -> bool {
        let mut is_idle = self.running() == 0 && self.waiting.is_empty();
        loop {
            if self.shared.is_stopping() || (self.shared.is_draining() && self.running() == 0) {
                return false;
            }
            if is_idle {
                match inbox.recv_timeout(IDLE) {
                    Ok(job) => {
                        self.admit(job);
                        is_idle = false;
                    }
                    Err(RecvTimeoutError::Timeout) => self.shared.beat(),
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            } else {
                match inbox.try_recv() {
                    Ok(job) => self.admit(job),
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return self.running() > 0 || !self.waiting.is_empty(),
                }
            }
        }
    }

    /// Puts a job into the queue, or says at once why it never can be done.
    fn admit(&mut self, job: Job) {
        let prompt = self.engine.tokenize(&job.prompt);
        let context = self.loaded.context;
        let failure = if self.shared.is_draining() {
            Failure::Draining
        } else if prompt.is_empty() {
            Failure::Empty
        } else if prompt.len() >= context {
            Failure::TooLong { prompt: prompt.len(), context }
        } else {
            self.waiting.push_back(Waiting { job, prompt });
            return;
        };
        // whoever asked may be gone
        let _ = job.events.send(Event::Failed(failure));
    }

    /// Drops the jobs whose clients are gone, and, when draining, those that wait.
    fn cancel(&mut self) {
        for slot in &mut self.slots {
            if let Some(task) = slot.task.take_if(|task| task.events.is_closed()) {
                tracing::info!(answered = task.answered, "the client is gone, its slot is free");
            }
        }
        self.shared.set_running(self.running());
        let is_draining = self.shared.is_draining();
        self.waiting.retain(|waiting| {
            if is_draining {
                let _ = waiting.job.events.send(Event::Failed(Failure::Draining));
            }
            !is_draining && !waiting.job.events.is_closed()
        });
    }

    fn fill_slots(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            // the free slot that remembers most of this prompt, else the longest unused
            let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.task.is_none());
            let best = free.max_by_key(|(_, slot)| {
                (common_prefix(&slot.cached, &waiting.prompt), std::cmp::Reverse(slot.used))
            });
            let Some((index, _)) = best else {
                self.waiting.push_front(waiting);
                return;
            };
            self.start(index, waiting);
        }
    }

    fn start(&mut self, index: usize, waiting: Waiting) {
        let Waiting { job, prompt } = waiting;
        let slot = &mut self.slots[index];
        self.clock += 1;
        slot.used = self.clock;
        // The last token is computed again always: its scores are not in the cache.
        let common = common_prefix(&slot.cached, &prompt).min(prompt.len() - 1);
        let reused = self.engine.keep(index, common).min(common);
        slot.cached.truncate(reused);
        let window = usize::from(Sampling::PENALTY_WINDOW);
        self.engine.begin(index, &job.sampling, &prompt[prompt.len().saturating_sub(window)..]);
        let room = u32::try_from(self.loaded.context - prompt.len()).unwrap_or(u32::MAX);
        let now = Instant::now();
        slot.task = Some(Task {
            events: job.events,
            reused,
            next: None,
            answered: 0,
            most: job.max_tokens.unwrap_or(room).min(room),
            tail: Tail::new(job.stop),
            began: now,
            prompt_ms: 0.0,
            prompt_ended: now,
            prompt,
        });
        self.shared.set_running(self.running());
        drop(job.place);
    }

    /// Computes one step for every slot: first one token for each that answers, then as
    /// much of the prompts as there is room for.
    fn step(&mut self) -> Result<(), Error> {
        let mut batch = Vec::with_capacity(self.loaded.batch);
        for (slot, state) in self.slots.iter().enumerate() {
            if let Some(token) = state.task.as_ref().and_then(|task| task.next) {
                batch.push(Entry { slot, token, position: state.cached.len(), sample: true });
            }
        }
        for (slot, state) in self.slots.iter().enumerate() {
            let Some(task) = state.task.as_ref().filter(|task| task.next.is_none()) else { continue };
            let done = state.cached.len();
            let room = self.loaded.batch.saturating_sub(batch.len());
            for (position, &token) in task.prompt.iter().enumerate().skip(done).take(room) {
                batch.push(Entry { slot, token, position, sample: position + 1 == task.prompt.len() });
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        match self.engine.step(&batch) {
            Ok(sampled) => {
                self.failures = 0;
                for entry in &batch {
                    self.slots[entry.slot].cached.push(entry.token);
                }
                let slots = batch.iter().filter(|entry| entry.sample).map(|entry| entry.slot);
                for (slot, token) in slots.zip(sampled) {
                    self.take_token(slot, token);
                }
                Ok(())
            }
            Err(reason) => {
                tracing::error!(reason, "the model failed");
                self.failures += 1;
                self.give_up_running(&Failure::Broken(reason.clone()));
                if self.failures < FAILURES {
                    return Ok(());
                }
                self.shared.fail();
                self.give_up(&Failure::Broken(reason.clone()));
                Err(Error::Failing { times: self.failures, reason })
            }
        }
    }

    /// Takes the token that was sampled for `slot`, and ends the answer where it ends.
    fn take_token(&mut self, slot: usize, token: Token) {
        let state = &mut self.slots[slot];
        let Some(task) = state.task.as_mut() else { return };
        let now = Instant::now();
        if task.next.is_none() {
            task.prompt_ms = millis(now - task.began);
            task.prompt_ended = now;
        }
        task.answered += 1;
        task.next = Some(token);
        let mut finish = None;
        if self.engine.is_end(token) {
            finish = Some(FinishReason::Stop);
        } else {
            let mut piece = Vec::new();
            self.engine.piece(token, &mut piece);
            let pushed = task.tail.push(&piece);
            if !pushed.text.is_empty() {
                // a client that is gone is noticed before the next step
                let _ = task.events.send(Event::Text(pushed.text));
            }
            if pushed.is_stopped {
                finish = Some(FinishReason::Stop);
            } else if task.answered >= task.most {
                finish = Some(FinishReason::Length);
            }
        }
        if let Some(finish) = finish
            && let Some(task) = state.task.take()
        {
            // told before the answer is, so that nobody who has it sees it running still
            self.shared.set_running(self.running());
            task.end(finish);
        }
    }

    /// Ends every running job without an answer; the caches are empty then.
    fn give_up_running(&mut self, failure: &Failure) {
        self.shared.set_running(0);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(task) = slot.task.take() {
                let _ = task.events.send(Event::Failed(failure.clone()));
            }
            self.engine.keep(index, 0);
            slot.cached.clear();
        }
    }

    fn give_up(&mut self, failure: &Failure) {
        self.give_up_running(failure);
        for waiting in self.waiting.drain(..) {
            let _ = waiting.job.events.send(Event::Failed(failure.clone()));
        }
    }
}

impl Task {
    fn end(self, finish: FinishReason) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let rest = self.tail.finish();
        if !rest.is_empty() {
            let _ = self.events.send(Event::Text(rest));
        }
        let answer_ms = millis(self.prompt_ended.elapsed());
        let _ = self.events.send(Event::End {
            finish,
            usage: Usage::new(count(self.prompt.len()), self.answered),
            timings: Timings::new(
                count(self.prompt.len() - self.reused),
                self.prompt_ms,
                self.answered,
                answer_ms,
            ),
        });
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn common_prefix(one: &[Token], other: &[Token]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::engine::fake::Echo;

    fn job(shared: &Arc<Shared>, prompt: &str) -> (Job, UnboundedReceiver<Event>) {
        let (events, receiver) = unbounded_channel();
        let job = Job {
            prompt: prompt.to_owned(),
            max_tokens: None,
            sampling: Sampling::default(),
            stop: Vec::new(),
            events,
            place: Place::take(shared, 9).unwrap(),
        };
        (job, receiver)
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
            let loaded = Loaded { slots: 1, context: 100, batch: 8, ..Loaded::default() };
            run(&mut Echo::new(&loaded, Some(permit)), &loaded, &inbox, &for_worker)
        });
        // two steps for the prompt, the second of which gives a token
        permits.send(()).unwrap();
        permits.send(()).unwrap();
        assert!(matches!(listener.blocking_recv(), Some(Event::Text(text)) if text == "a"));
        jobs.send(next).unwrap();
        drop(listener);
        // the step in hand, and one that must be the other's
        permits.send(()).unwrap();
        permits.send(()).unwrap();
        assert!(matches!(other.blocking_recv(), Some(Event::Text(text)) if text == "n"));
        assert_eq!((shared.running(), shared.queued()), (1, 0));
        drop((permits, jobs));
        let mut rest = String::new();
        while let Some(event) = other.blocking_recv() {
            match event {
                Event::Text(text) => rest.push_str(&text),
                Event::End { finish, usage, .. } => {
                    assert_eq!((finish, usage), (FinishReason::Stop, Usage::new(4, 5)));
                }
                Event::Failed(failure) => panic!("{failure:?}"),
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
        let loaded = Loaded { slots: 1, context: 100, batch: 8, ..Loaded::default() };
        run(&mut Echo::new(&loaded, None), &loaded, &inbox, &shared).unwrap();
        let computed: Vec<u32> = listeners
            .into_iter()
            .map(|(prompt, mut listener)| {
                let mut text = String::new();
                loop {
                    match listener.blocking_recv() {
                        Some(Event::Text(piece)) => text.push_str(&piece),
                        Some(Event::End { timings, .. }) => {
                            assert_eq!(text, prompt);
                            return timings.prompt_n;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            })
            .collect();
        assert_eq!(computed, [6, 1, 1]);
    }
}
