//! The loop that owns the model: takes jobs, gives them slots, and computes one step for
//! all of them at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::constraint::Constraint;
use super::health::Shared;
use super::metrics::Outcome;
use super::tail::Tail;
use super::{Ask, Engine, Entry, Error, Loaded, Report, Sampled, Sampling, Token, Told};
use crate::openai::{Begun, FinishReason, Input, LogProb, Timings, TokenLogProb, Usage};

/// How long an idle worker sleeps at most before it says that it is alive.
const IDLE: Duration = Duration::from_secs(1);

/// So many steps may fail in a row before the process ends and is started anew.
const FAILURES: u32 = 3;

/// Fewer tokens than this are computed sooner than taken over from another slot.
const WORTH_SHARING: usize = 32;

/// A slot's whole cache is copied, however little of it is wanted: no more than so many times that.
const WHOLE_TO_PART: usize = 32;

/// What comes in.
pub(super) enum Order {
    /// Compute an answer.
    Answer(Box<Job>),
    /// Look at the model, between two steps.
    Look(Look),
}

/// Something that looks at the model.
pub(super) type Look = Box<dyn FnOnce(&dyn Engine) + Send>;

/// An answer to be computed, or what the model makes of a text.
pub(super) struct Job {
    pub(super) prompt: Input,
    /// What the answer has begun with, where the prompt is read by an encoder; else the prompt ends with it.
    pub(super) begun: String,
    /// What was written of the answer elsewhere: it is gone on with, and counted as a part of it.
    pub(super) resumed: Begun,
    /// Whether there is to be no answer: what the model makes of the prompt is wanted.
    pub(super) wants_state: bool,
    pub(super) max_tokens: Option<u32>,
    pub(super) sampling: Sampling,
    pub(super) stop: Vec<String>,
    /// What the answer must look like.
    pub(super) constraint: Option<Constraint>,
    /// How many of the likeliest tokens are told of with each token; none tells of nothing.
    pub(super) logprobs: Option<usize>,
    /// Names of control tokens that are text in this answer.
    pub(super) visible: Vec<String>,
    pub(super) events: Listener,
    /// Its place in the queue, given back when it gets a slot or leaves.
    pub(super) place: Place,
}

impl Job {
    /// A job that leaves everything to us.
    pub(super) fn new(prompt: Input, events: Listener, place: Place) -> Self {
        Self {
            prompt,
            begun: String::new(),
            resumed: Begun::default(),
            wants_state: false,
            max_tokens: None,
            sampling: Sampling::default(),
            stop: Vec::new(),
            constraint: None,
            logprobs: None,
            visible: Vec::new(),
            events,
            place,
        }
    }

    /// Returns how the answer ends and how many tokens it has, where there is nothing to add to what was written of it
    /// elsewhere.
    fn ending(&self) -> Option<(FinishReason, u32)> {
        let tokens = self.resumed.tokens;
        if self.max_tokens.is_some_and(|most| most <= tokens) {
            return Some((FinishReason::Length, tokens));
        }
        // its end is a token, too
        let is_over = self.constraint.as_ref().is_some_and(Constraint::is_over);
        is_over.then_some((FinishReason::Stop, tokens + 1))
    }
}

/// Where an answer goes. Dropping the other end cancels the job. Unbounded, since the context
/// bounds the answer and a slow client must not hold up the others.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    /// Which of a request's answers it is.
    pub(super) choice: u32,
    pub(super) sender: UnboundedSender<(u32, Event)>,
}

impl Listener {
    /// Tells it; a client that is gone is noticed before the next step.
    fn tell(&self, event: Event) {
        let _ = self.sender.send((self.choice, event));
    }

    fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }
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
    /// More of the answer, with its tokens if they were asked for; one of both is not empty. Then how many tokens of the
    /// answer are told, and how many the prompt has.
    Text { text: String, tokens: Vec<TokenLogProb>, told: u32, asked: u32 },
    /// The answer is whole.
    End { finish: FinishReason, usage: Usage, timings: Timings },
    /// What the model has made of the prompt, which had so many tokens.
    State { values: Vec<f32>, tokens: u32 },
    /// There is no answer, or no more of it.
    Failed(Failure),
}

/// Why a job was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The prompt has no token.
    Empty,
    /// The prompt has a token that there is not.
    NoToken(Token),
    /// The prompt leaves no room for an answer.
    TooLong { prompt: usize, context: usize },
    /// The engine is about to end.
    Draining,
    /// The model failed.
    Broken(String),
    /// The constraint of the answer failed.
    Constraint(String),
}

/// Works until all senders of `inbox` are gone, or [`Shared::drain`] was called and
/// nothing runs, or [`Shared::stop`] was called. `cached` are the tokens in each slot's cache, before and after.
pub(super) fn run(
    engine: &mut dyn Engine,
    loaded: &Loaded,
    inbox: &Receiver<Order>,
    shared: &Arc<Shared>,
    cached: &mut [Vec<Token>],
) -> Result<(), Error> {
    let mut worker = Worker {
        engine,
        loaded,
        shared,
        slots: cached.iter_mut().map(Slot::holding).collect(),
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
    cached.iter_mut().zip(worker.slots).for_each(|(cached, slot)| *cached = slot.cached);
    Ok(())
}

#[derive(Default)]
struct Slot {
    /// The tokens whose keys and values are in the cache.
    cached: Vec<Token>,
    task: Option<Task>,
    /// When it was last given out, by the worker's count.
    used: u64,
}

impl Slot {
    fn holding(tokens: &mut Vec<Token>) -> Self {
        Self { cached: std::mem::take(tokens), ..Self::default() }
    }
}

/// A job that has a slot.
struct Task {
    events: Listener,
    /// What is computed before the first token of the answer.
    prompt: Vec<Token>,
    /// Tokens that an encoder has read.
    read: usize,
    /// Tokens of what the client asked; what was written of the answer elsewhere is not among them.
    asked: usize,
    /// Tokens of the answer from elsewhere.
    resumed: u32,
    /// Whether the answer is a text of its own, and goes on with none.
    begins_text: bool,
    wants_state: bool,
    /// Prompt tokens that came from the cache.
    reused: usize,
    /// The token that was sampled last and is not computed yet.
    next: Option<Token>,
    answered: u32,
    most: u32,
    constraint: Option<Constraint>,
    logprobs: Option<usize>,
    visible: Vec<Token>,
    tail: Tail,
    /// Tokens whose text is not given out yet.
    untold: Untold,
    began: Instant,
    prompt_ms: f64,
    prompt_ended: Instant,
}

/// A job whose prompt was found to fit.
struct Waiting {
    job: Box<Job>,
    tokens: Prompt,
}

/// What stands before the first new token of an answer.
struct Prompt {
    /// What an encoder has to read first; empty where there is none.
    read: Vec<Token>,
    /// What is computed.
    computed: Vec<Token>,
    /// Tokens of what the client asked.
    asked: usize,
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
    fn take_jobs(&mut self, inbox: &Receiver<Order>) -> bool {
        let mut is_idle = self.running() == 0 && self.waiting.is_empty();
        loop {
            if self.shared.is_stopping() || (self.shared.is_draining() && self.running() == 0) {
                return false;
            }
            if is_idle {
                match inbox.recv_timeout(IDLE) {
                    Ok(order) => {
                        self.admit(order);
                        is_idle = self.waiting.is_empty();
                    }
                    Err(RecvTimeoutError::Timeout) => self.shared.beat(),
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            } else {
                match inbox.try_recv() {
                    Ok(order) => self.admit(order),
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return self.running() > 0 || !self.waiting.is_empty(),
                }
            }
        }
    }

    /// Puts a job into the queue, or says at once why it never can be done.
    fn admit(&mut self, order: Order) {
        let job = match order {
            Order::Answer(job) => job,
            Order::Look(look) => return look(self.engine),
        };
        match (self.tokens(&job), job.ending()) {
            (Ok(tokens), None) => self.waiting.push_back(Waiting { job, tokens }),
            (Ok(tokens), Some((finish, answered))) => {
                self.shared.metrics.ended(finish.into());
                let usage = Usage::new(count(tokens.asked), answered);
                job.events.tell(Event::End { finish, usage, timings: Timings::default() });
            }
            (Err(failure), _) => job.events.tell(Event::Failed(failure)),
        }
    }

    /// Returns what is read and computed before the answer of a job.
    fn tokens(&self, job: &Job) -> Result<Prompt, Failure> {
        let (context, vocabulary) = (self.loaded.context, self.loaded.vocabulary);
        if self.shared.is_draining() {
            return Err(Failure::Draining);
        }
        let prompt = match &job.prompt {
            Input::Text(text) => self.engine.tokenize(text, true),
            Input::Tokens(tokens) => tokens.clone(),
        };
        let is_token = |token: &Token| usize::try_from(*token).is_ok_and(|token| token < vocabulary);
        if let Some(token) = prompt.iter().find(|token| !is_token(token)) {
            return Err(Failure::NoToken(*token));
        }
        let too_long = |tokens: usize| Err(Failure::TooLong { prompt: tokens, context });
        match self.loaded.start {
            _ if prompt.is_empty() => Err(Failure::Empty),
            Some(_) if prompt.len() > context => too_long(prompt.len()),
            Some(start) => {
                let mut begins = vec![start];
                begins.extend(self.engine.tokenize(&(job.begun.clone() + &job.resumed.text), false));
                let asked = prompt.len();
                if begins.len() < context {
                    Ok(Prompt { read: prompt, computed: begins, asked })
                } else {
                    too_long(begins.len())
                }
            }
            None => {
                let asked = prompt.len();
                let prompt = self.going_on(job, prompt);
                // there has to be room for an answer
                if prompt.len() + usize::from(!job.wants_state) > context {
                    return too_long(prompt.len());
                }
                Ok(Prompt { read: Vec::new(), computed: prompt, asked })
            }
        }
    }

    /// Puts what was written of the answer elsewhere behind the prompt.
    fn going_on(&self, job: &Job, mut prompt: Vec<Token>) -> Vec<Token> {
        let written = job.resumed.text.as_str();
        match &job.prompt {
            _ if written.is_empty() => prompt,
            // cut as one text, since a text of its own begins with a blank in some vocabularies
            Input::Text(text) => self.engine.tokenize(&(text.clone() + written), true),
            Input::Tokens(_) => {
                let cut = |text: &str| {
                    let tokens = self.engine.tokenize(text, false);
                    let mut bytes = Vec::new();
                    for &token in &tokens {
                        self.engine.piece(token, true, &mut bytes);
                    }
                    (tokens, bytes)
                };
                let (tokens, bytes) = cut(written);
                let without = written.strip_prefix(' ').filter(|_| bytes != written.as_bytes());
                let bare = without.map(cut).filter(|(_, bytes)| bytes == written.as_bytes());
                prompt.extend(bare.map_or(tokens, |(tokens, _)| tokens));
                prompt
            }
        }
    }

    /// Drops the jobs whose clients are gone, and, when draining, those that wait.
    fn cancel(&mut self) {
        for slot in &mut self.slots {
            if let Some(task) = slot.task.take_if(|task| task.events.is_gone()) {
                self.shared.metrics.ended(Outcome::Cancelled);
                tracing::info!(answered = task.answered, "the client is gone, its slot is free");
            }
        }
        self.shared.set_running(self.running());
        let is_draining = self.shared.is_draining();
        self.waiting.retain(|waiting| {
            if is_draining {
                waiting.job.events.tell(Event::Failed(Failure::Draining));
            }
            !is_draining && !waiting.job.events.is_gone()
        });
    }

    fn fill_slots(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            // the free slot that remembers most of this prompt, else the longest unused
            let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.task.is_none());
            let best = free.max_by_key(|(_, slot)| {
                (common_prefix(&slot.cached, &waiting.tokens.computed), std::cmp::Reverse(slot.used))
            });
            let Some((index, _)) = best else {
                self.waiting.push_front(waiting);
                return;
            };
            self.start(index, waiting);
        }
    }

    fn start(&mut self, index: usize, waiting: Waiting) {
        let Waiting { job, tokens: Prompt { read, computed: prompt, asked } } = waiting;
        let now = Instant::now();
        if read.is_empty() {
            self.share(index, &prompt);
        }
        let slot = &mut self.slots[index];
        self.clock += 1;
        slot.used = self.clock;
        if !read.is_empty() {
            slot.cached.clear();
            if let Err(reason) = self.engine.read(index, &read) {
                tracing::error!(reason, "the encoder failed");
                self.shared.metrics.ended(Outcome::Failed);
                return job.events.tell(Event::Failed(Failure::Broken(reason)));
            }
            // it may have taken a while
            self.shared.beat();
        }
        // The last token is computed again always: its scores are not in the cache.
        let common = common_prefix(&slot.cached, &prompt).min(prompt.len() - 1);
        let reused = self.engine.keep(index, common).min(common);
        slot.cached.truncate(reused);
        let window = usize::from(Sampling::PENALTY_WINDOW);
        self.engine.begin(index, &job.sampling, &prompt[prompt.len().saturating_sub(window)..]);
        let room = u32::try_from(self.loaded.context - prompt.len()).unwrap_or(u32::MAX);
        let visible =
            job.visible.iter().filter_map(|name| match self.engine.tokenize(name, false).as_slice() {
                [token] => Some(*token),
                _ => None,
            });
        slot.task = Some(Task {
            visible: visible.collect(),
            constraint: job.constraint,
            logprobs: job.logprobs,
            untold: Untold::default(),
            events: job.events,
            reused,
            next: None,
            answered: 0,
            most: job.max_tokens.map_or(room, |most| most.saturating_sub(job.resumed.tokens)).min(room),
            tail: Tail::new(job.stop),
            began: now,
            prompt_ms: 0.0,
            prompt_ended: now,
            read: read.len(),
            begins_text: !read.is_empty() && job.begun.is_empty() && job.resumed.text.is_empty(),
            asked,
            resumed: job.resumed.tokens,
            wants_state: job.wants_state,
            prompt,
        });
        self.shared.set_running(self.running());
        drop(job.place);
    }

    /// Takes over from another slot what that has of `prompt`, where it is so much more than `slot` itself has that
    /// copying a cache is worth it.
    fn share(&mut self, slot: usize, prompt: &[Token]) {
        let has = |slot: &Slot| common_prefix(&slot.cached, prompt);
        let others = self.slots.iter().enumerate().filter(|(other, _)| *other != slot);
        let Some((most, from)) = others.map(|(other, slot)| (has(slot), other)).max() else { return };
        let more = most.saturating_sub(has(&self.slots[slot]));
        if more >= WORTH_SHARING.max(self.loaded.context / WHOLE_TO_PART) {
            let shared = self.engine.share(from, slot, most).min(most);
            self.slots[slot].cached = prompt[..shared].to_vec();
        }
    }

    /// Computes one step for every slot: first one token for each that answers, then as
    /// much of the prompts as there is room for.
    fn step(&mut self) -> Result<(), Error> {
        let batch = self.batch();
        if batch.is_empty() {
            return Ok(());
        }
        match self.engine.step(&batch) {
            Ok(told) => {
                self.failures = 0;
                self.shared.metrics.step(batch.len());
                for entry in &batch {
                    self.slots[entry.slot].cached.push(entry.token);
                }
                let slots = batch.iter().filter(|entry| entry.ask.is_some()).map(|entry| entry.slot);
                for (slot, told) in slots.zip(told) {
                    match told {
                        Told::Next(sampled) => self.take_token(slot, sampled),
                        Told::State(values) => self.take_state(slot, values),
                    }
                }
                Ok(())
            }
            Err(reason) => {
                tracing::error!(reason, "the model failed");
                self.failures += 1;
                self.slots.iter_mut().for_each(|slot| slot.cached.clear());
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

    /// Returns what the next step computes.
    fn batch(&mut self) -> Vec<Entry> {
        let mut batch = Vec::with_capacity(self.loaded.batch);
        for slot in 0..self.slots.len() {
            let position = self.slots[slot].cached.len();
            let Some(token) = self.slots[slot].task.as_ref().and_then(|task| task.next) else { continue };
            if let Some(ask) = self.ask(slot) {
                batch.push(Entry { slot, token, position, ask: Some(ask) });
            }
        }
        for slot in 0..self.slots.len() {
            let Some(task) = self.slots[slot].task.as_ref().filter(|task| task.next.is_none()) else {
                continue;
            };
            let done = self.slots[slot].cached.len();
            let room = self.loaded.batch.saturating_sub(batch.len());
            let ends = done + room >= task.prompt.len();
            let tokens: Vec<Token> = task.prompt.iter().skip(done).take(room).copied().collect();
            let mut ask = if ends { self.ask(slot) } else { None };
            if ends && ask.is_none() {
                continue;
            }
            let last = tokens.len().wrapping_sub(1);
            for (nth, token) in tokens.into_iter().enumerate() {
                let ask = if nth == last { ask.take() } else { None };
                batch.push(Entry { slot, token, position: done + nth, ask });
            }
        }
        batch
    }

    /// Returns what is asked of the newest token of `slot`. A constraint that fails ends the answer.
    fn ask(&mut self, slot: usize) -> Option<Ask> {
        let task = self.slots[slot].task.as_mut()?;
        if task.wants_state {
            return Some(Ask::State);
        }
        let report = task.logprobs;
        match task.constraint.as_mut().map(Constraint::allowed).transpose() {
            Ok(allowed) => Some(Ask::Next { allowed, report }),
            Err(reason) => {
                self.fail(slot, &Failure::Constraint(reason));
                None
            }
        }
    }

    fn fail(&mut self, slot: usize, failure: &Failure) {
        if let Some(task) = self.slots[slot].task.take() {
            self.shared.metrics.ended(Outcome::Failed);
            self.shared.set_running(self.running());
            task.events.tell(Event::Failed(failure.clone()));
        }
    }

    /// Takes the token that was sampled for `slot`, and ends the answer where it ends.
    fn take_token(&mut self, slot: usize, sampled: Sampled) {
        let Sampled { token, report } = sampled;
        let state = &mut self.slots[slot];
        let Some(task) = state.task.as_mut() else { return };
        let now = Instant::now();
        if task.next.is_none() {
            task.end_prompt(now, self.shared);
        }
        task.answered += 1;
        task.next = Some(token);
        let mut finish = None;
        if self.engine.is_end(token) {
            finish = Some(FinishReason::Stop);
        } else {
            if let Some(Err(reason)) = task.constraint.as_mut().map(|constraint| constraint.take(token)) {
                return self.fail(slot, &Failure::Constraint(reason));
            }
            let mut piece = Vec::new();
            self.engine.piece(token, task.visible.contains(&token), &mut piece);
            // what a decoder beside an encoder writes begins with the blank that these vocabularies put before a word
            if task.answered == 1 && task.begins_text && piece.first() == Some(&b' ') {
                piece.remove(0);
            }
            let pushed = task.tail.push(&piece);
            task.untold.push(piece.len(), report.map(|report| named(&*self.engine, token, &report)));
            task.tell(pushed.text, pushed.is_stopped);
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
            self.shared.took(task.began.elapsed());
            self.shared.metrics.answer(task.answered, task.prompt_ended.elapsed());
            self.shared.metrics.ended(finish.into());
            task.end(finish);
        }
    }

    /// Takes what the model has made of the prompt of `slot`, which is all that was wanted.
    fn take_state(&mut self, slot: usize, values: Vec<f32>) {
        let Some(mut task) = self.slots[slot].task.take() else { return };
        self.shared.set_running(self.running());
        task.end_prompt(Instant::now(), self.shared);
        self.shared.took(task.began.elapsed());
        self.shared.metrics.ended(Outcome::Stop);
        let tokens = count(task.asked);
        task.events.tell(Event::State { values, tokens });
    }

    /// Ends every running job without an answer.
    fn give_up_running(&mut self, failure: &Failure) {
        self.shared.set_running(0);
        for task in self.slots.iter_mut().filter_map(|slot| slot.task.take()) {
            self.shared.metrics.ended(Outcome::Failed);
            task.events.tell(Event::Failed(failure.clone()));
        }
    }

    fn give_up(&mut self, failure: &Failure) {
        self.give_up_running(failure);
        for waiting in self.waiting.drain(..) {
            waiting.job.events.tell(Event::Failed(failure.clone()));
        }
    }
}

impl Task {
    /// Returns how many tokens stand before the first new one.
    fn prompt_tokens(&self) -> usize {
        if self.read > 0 { self.read } else { self.prompt.len() }
    }

    /// Takes note that the prompt is computed.
    fn end_prompt(&mut self, now: Instant, shared: &Shared) {
        let took = now - self.began;
        self.prompt_ms = millis(took);
        shared.metrics.prompt(self.prompt_tokens() - self.reused, self.reused, took);
        self.prompt_ended = now;
    }

    /// Gives out `text`, and the tokens that it is of.
    fn tell(&mut self, text: String, is_all: bool) {
        let tokens = self.untold.give_out(self.tail.kept(), is_all);
        if !text.is_empty() || !tokens.is_empty() {
            let told = self.resumed + self.untold.told;
            self.events.tell(Event::Text { text, tokens, told, asked: count(self.asked) });
        }
    }

    fn end(mut self, finish: FinishReason) {
        let rest = self.tail.finish();
        self.tell(rest, true);
        let answer_ms = millis(self.prompt_ended.elapsed());
        self.events.tell(Event::End {
            finish,
            usage: Usage::new(count(self.asked), self.resumed + self.answered),
            timings: Timings::new(
                count(self.prompt_tokens() - self.reused),
                self.prompt_ms,
                self.answered,
                answer_ms,
            ),
        });
    }
}

/// Tokens of an answer that go out with the text that they begin. Those of a stop string never do.
#[derive(Debug, Default)]
struct Untold {
    /// Each with where its text begins, in bytes of the answer.
    tokens: VecDeque<(usize, Option<TokenLogProb>)>,
    /// Bytes of the answer.
    length: usize,
    /// Tokens that were given out.
    told: u32,
}

impl Untold {
    /// Adds the next token, with what is to be told of it, if anything, and so many bytes of text.
    fn push(&mut self, bytes: usize, token: Option<TokenLogProb>) {
        self.tokens.push_back((self.length, token));
        self.length += bytes;
    }

    /// Takes the tokens out whose text is given out but for the last `kept` bytes: those whose text is out to its end,
    /// or, where that `is_all`, has begun.
    fn give_out(&mut self, kept: usize, is_all: bool) -> Vec<TokenLogProb> {
        let out = self.length - kept.min(self.length);
        let mut ready = Vec::new();
        while let Some(&(start, _)) = self.tokens.front() {
            let end = self.tokens.get(1).map_or(self.length, |&(next, _)| next);
            if end > out && !(is_all && start < out) {
                break;
            }
            self.told += 1;
            ready.extend(self.tokens.pop_front().and_then(|(_, token)| token));
        }
        ready
    }
}

/// Puts the texts of tokens to how likely they were.
fn named(engine: &dyn Engine, token: Token, report: &Report) -> TokenLogProb {
    let named = |token: Token, logprob: f32| {
        let mut bytes = Vec::new();
        engine.piece(token, true, &mut bytes);
        LogProb { token: String::from_utf8_lossy(&bytes).into_owned(), logprob, bytes: Some(bytes) }
    };
    TokenLogProb {
        taken: named(token, report.logprob),
        top_logprobs: report.top.iter().map(|&(token, logprob)| named(token, logprob)).collect(),
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn common_prefix(one: &[Token], other: &[Token]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
#[path = "worker_tests.rs"]
pub(super) mod tests;
