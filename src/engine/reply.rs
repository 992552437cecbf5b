//! Replies out of the events of their jobs: whole or in pieces, of a chat or of a text.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedReceiver;

use super::refusal::Refusal;
use super::thoughts::{Parted, Thoughts};
use super::tools::{Part, Scanner, Syntax};
use super::worker::{Event, Failure};
use crate::openai::{
    AssistantMessage, ChatChoice, ChatChunk, ChatDelta, ChatReply, ChunkChoice, FinishReason, LogProbs,
    TextChoice, TextLogProbs, TextReply, Timings, TokenLogProb, ToolCall, ToolCallDelta, Usage, sse,
};

/// Which of OpenAI's two kinds of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Text,
}

/// The form of a reply: everything about it but what the model says.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) kind: Kind,
    pub(super) model: String,
    pub(super) is_stream: bool,
    pub(super) include_usage: bool,
    /// Answers to the one prompt, each the work of one job.
    pub(super) choices: u32,
    /// How thoughts are found; none where the model has none.
    pub(super) thoughts: Option<Thoughts>,
    /// How calls are found; none where they are not looked for.
    pub(super) calls: Option<Calls>,
    pub(super) has_logprobs: bool,
}

/// Which calls are looked for in an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    pub(super) syntax: Syntax,
    /// Whether it may have more than one.
    pub(super) many: bool,
}

/// Answers with a stream or as a whole. The status waits for the first event, so that what goes wrong before it still
/// is a status, and the router may turn elsewhere.
pub(super) async fn answer(
    mut events: UnboundedReceiver<(u32, Event)>,
    form: Form,
) -> Result<Response, Refusal> {
    let mut reply = Reply::new(form);
    let mut whole = vec![Whole::default(); reply.choices.len()];
    loop {
        let event = events.recv().await.unwrap_or((0, Event::Failed(gone())));
        let pieces = reply.take(event)?;
        if reply.form.is_stream {
            if pieces.is_empty() && !reply.is_over() {
                continue;
            }
            return Ok(reply.stream(pieces, events));
        }
        for piece in pieces {
            whole[piece.choice as usize].add(piece);
        }
        if reply.is_over() {
            return Ok(reply.whole(whole));
        }
    }
}

pub(super) fn gone() -> Failure {
    Failure::Broken("the worker is gone".to_owned())
}

/// A reply as far as it has come.
#[derive(Debug)]
struct Reply {
    form: Form,
    id: String,
    created: u64,
    choices: Vec<Choice>,
    usage: Usage,
    /// How long it took; none where several jobs did it at the same time.
    timings: Option<Timings>,
}

/// One of the answers, as far as it has come.
#[derive(Debug)]
struct Choice {
    thoughts: Option<Thoughts>,
    scanner: Option<Scanner>,
    calls: u32,
    /// Tokens that no piece has told of yet.
    tokens: Vec<TokenLogProb>,
    has_begun: bool,
    has_ended: bool,
    /// Characters of the tokens that were told of.
    told: usize,
}

/// More of one answer.
#[derive(Debug, Default)]
struct Piece {
    choice: u32,
    thought: String,
    text: String,
    /// A call and its number.
    call: Option<(u32, ToolCall)>,
    tokens: Vec<TokenLogProb>,
    finish: Option<FinishReason>,
}

/// All of one answer.
#[derive(Debug, Clone, Default)]
struct Whole {
    thought: String,
    text: String,
    calls: Vec<ToolCall>,
    tokens: Vec<TokenLogProb>,
    finish: Option<FinishReason>,
}

impl Whole {
    fn add(&mut self, piece: Piece) {
        self.thought.push_str(&piece.thought);
        self.text.push_str(&piece.text);
        self.calls.extend(piece.call.map(|(_, call)| call));
        self.tokens.extend(piece.tokens);
        self.finish = self.finish.or(piece.finish);
    }
}

impl Reply {
    fn new(form: Form) -> Self {
        let prefix = if form.kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let number = getrandom::u64().unwrap_or_default();
        let choice = || Choice {
            thoughts: form.thoughts.clone(),
            scanner: form.calls.map(|calls| Scanner::new(calls.syntax)),
            calls: 0,
            tokens: Vec::new(),
            has_begun: false,
            has_ended: false,
            told: 0,
        };
        Self {
            id: format!("{prefix}-{number:016x}"),
            created: crate::clock::unix_seconds(),
            choices: (0..form.choices).map(|_| choice()).collect(),
            usage: Usage::default(),
            timings: None,
            form,
        }
    }

    fn is_over(&self) -> bool {
        self.choices.iter().all(|choice| choice.has_ended)
    }

    /// Takes the next event, and returns what there is to say.
    fn take(&mut self, (number, event): (u32, Event)) -> Result<Vec<Piece>, Failure> {
        let Some(choice) = self.choices.get_mut(number as usize) else { return Ok(Vec::new()) };
        let many_calls = self.form.calls.is_some_and(|calls| calls.many);
        let mut pieces = Vec::new();
        match event {
            Event::Text { text, tokens } => {
                choice.tokens.extend(tokens);
                let parts = choice.parts(text);
                choice.put(number, parts, many_calls, &mut pieces);
            }
            Event::End { finish, usage, timings } => {
                let parts = choice.last_parts();
                choice.put(number, parts, many_calls, &mut pieces);
                let calls = choice.calls > 0 && finish == FinishReason::Stop;
                pieces.push(Piece {
                    choice: number,
                    tokens: std::mem::take(&mut choice.tokens),
                    finish: Some(if calls { FinishReason::ToolCalls } else { finish }),
                    ..Piece::default()
                });
                choice.has_ended = true;
                self.usage =
                    Usage::new(usage.prompt_tokens, self.usage.completion_tokens + usage.completion_tokens);
                self.timings = (self.form.choices == 1).then_some(timings);
            }
            Event::Failed(failure) => return Err(failure),
            // asked of jobs of another kind
            Event::State { .. } => {}
        }
        Ok(pieces)
    }

    fn whole(self, answers: Vec<Whole>) -> Response {
        let Self { form, id, created, usage, timings, .. } = self;
        let answers = (0..).zip(answers);
        match form.kind {
            Kind::Chat => {
                let choice = |(index, answer): (u32, Whole)| {
                    let is_blank = !answer.calls.is_empty() && answer.text.trim().is_empty();
                    let message = AssistantMessage {
                        role: "assistant".to_owned(),
                        content: (!is_blank).then_some(answer.text),
                        reasoning_content: (!answer.thought.is_empty()).then_some(answer.thought),
                        tool_calls: answer.calls,
                    };
                    let logprobs = form.has_logprobs.then_some(LogProbs { content: answer.tokens });
                    ChatChoice { index, message, logprobs, finish_reason: answer.finish }
                };
                let choices = answers.map(choice).collect();
                let object = "chat.completion".to_owned();
                json(&ChatReply { id, object, created, model: form.model, choices, usage, timings })
            }
            Kind::Text => {
                let choice = |(index, answer): (u32, Whole)| TextChoice {
                    index,
                    logprobs: form.has_logprobs.then(|| TextLogProbs::arrange(&answer.tokens, 0)),
                    text: answer.text,
                    finish_reason: answer.finish,
                };
                let choices = answers.map(choice).collect();
                let object = "text_completion".to_owned();
                let usage = Some(usage);
                json(&TextReply { id, object, created, model: form.model, choices, usage, timings })
            }
        }
    }

    /// Begins a stream with `pieces`.
    fn stream(mut self, pieces: Vec<Piece>, events: UnboundedReceiver<(u32, Event)>) -> Response {
        let opening = self.chunks(pieces);
        let feed = Feed { is_over: self.is_over(), reply: self, events, opening: Some(opening) };
        let body = stream::unfold(feed, async |mut feed| {
            let bytes = feed.next().await?;
            Some((Ok::<Bytes, Infallible>(bytes), feed))
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(body)).into_response()
    }

    /// Makes the events of `pieces`, and those that end the stream if they are the last.
    fn chunks(&mut self, pieces: Vec<Piece>) -> Bytes {
        let mut out = Vec::new();
        let is_over = self.is_over();
        let last = pieces.len();
        for (nth, piece) in (1..).zip(pieces) {
            // the last one tells the timings, unless a chunk for the usage alone does
            let timings = self.timings.filter(|_| is_over && nth == last && !self.form.include_usage);
            out.extend(self.chunk(Some(piece), None, timings));
        }
        if is_over {
            if self.form.include_usage {
                out.extend(self.chunk(None, Some(self.usage), self.timings));
            }
            out.extend(sse::encode(sse::DONE));
        }
        out.into()
    }

    /// Makes one chunk: of a piece, or of the usage alone.
    fn chunk(&mut self, piece: Option<Piece>, usage: Option<Usage>, timings: Option<Timings>) -> Vec<u8> {
        let (id, created, model) = (self.id.clone(), self.created, self.form.model.clone());
        match self.form.kind {
            Kind::Chat => {
                let object = "chat.completion.chunk".to_owned();
                let mut chunk = ChatChunk { id, object, created, model, choices: Vec::new(), usage, timings };
                let mut out = Vec::new();
                if let Some(piece) = piece {
                    let choice = &mut self.choices[piece.choice as usize];
                    if !std::mem::replace(&mut choice.has_begun, true) {
                        let delta = ChatDelta {
                            role: Some("assistant".to_owned()),
                            content: Some(String::new()),
                            ..ChatDelta::default()
                        };
                        let first =
                            ChunkChoice { index: piece.choice, delta, logprobs: None, finish_reason: None };
                        out.extend(event(&ChatChunk {
                            choices: vec![first],
                            timings: None,
                            ..chunk.clone()
                        }));
                    }
                    let logprobs = LogProbs { content: piece.tokens };
                    chunk.choices.push(ChunkChoice {
                        index: piece.choice,
                        delta: ChatDelta {
                            role: None,
                            content: (!piece.text.is_empty()).then_some(piece.text),
                            reasoning_content: (!piece.thought.is_empty()).then_some(piece.thought),
                            tool_calls: piece.call.map(call_delta).into_iter().collect(),
                        },
                        logprobs: (self.form.has_logprobs && !logprobs.content.is_empty())
                            .then_some(logprobs),
                        finish_reason: piece.finish,
                    });
                }
                out.extend(event(&chunk));
                out
            }
            Kind::Text => {
                let object = "text_completion".to_owned();
                let choice = piece.map(|piece| {
                    let choice = &mut self.choices[piece.choice as usize];
                    let logprobs = TextLogProbs::arrange(&piece.tokens, choice.told);
                    choice.told += logprobs.tokens.iter().map(|token| token.chars().count()).sum::<usize>();
                    TextChoice {
                        index: piece.choice,
                        text: piece.text,
                        logprobs: (self.form.has_logprobs && !logprobs.tokens.is_empty()).then_some(logprobs),
                        finish_reason: piece.finish,
                    }
                });
                let choices = choice.into_iter().collect();
                event(&TextReply { id, object, created, model, choices, usage, timings }).into()
            }
        }
    }
}

impl Choice {
    /// Parts more of what the model writes.
    fn parts(&mut self, text: String) -> Vec<Part> {
        let parted = match &mut self.thoughts {
            Some(thoughts) => thoughts.push(&text),
            None => Parted { thought: String::new(), said: text },
        };
        let mut parts = vec![Part::Thought(parted.thought)];
        match &mut self.scanner {
            Some(scanner) => parts.extend(scanner.push(&parted.said)),
            None => parts.push(Part::Text(parted.said)),
        }
        parts
    }

    /// Parts what was kept back when the model is at its end.
    fn last_parts(&mut self) -> Vec<Part> {
        let rest = self.thoughts.take().map(Thoughts::finish).unwrap_or_default();
        let mut parts = vec![Part::Thought(rest.thought)];
        match self.scanner.take() {
            Some(mut scanner) => {
                parts.extend(scanner.push(&rest.said));
                parts.extend(scanner.finish());
            }
            None => parts.push(Part::Text(rest.said)),
        }
        parts
    }

    /// Makes pieces of `parts`; the first has the tokens that are not told of.
    fn put(&mut self, choice: u32, parts: Vec<Part>, many_calls: bool, pieces: &mut Vec<Piece>) {
        for part in parts {
            let (mut thought, mut text, mut call) = (String::new(), String::new(), None);
            match part {
                Part::Thought(part) => thought = part,
                Part::Text(part) => text = part,
                Part::Call(_) if self.calls > 0 && !many_calls => continue,
                Part::Call(part) => {
                    call = Some((self.calls, part));
                    self.calls += 1;
                }
            }
            if !thought.is_empty() || !text.is_empty() || call.is_some() {
                let tokens = std::mem::take(&mut self.tokens);
                pieces.push(Piece { choice, thought, text, call, tokens, finish: None });
            }
        }
    }
}

fn call_delta((index, call): (u32, ToolCall)) -> ToolCallDelta {
    ToolCallDelta { index, id: Some(call.id), kind: Some(call.kind), function: call.function }
}

/// A stream on its way. Dropping it cancels the jobs.
#[derive(Debug)]
struct Feed {
    reply: Reply,
    events: UnboundedReceiver<(u32, Event)>,
    opening: Option<Bytes>,
    is_over: bool,
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        while !self.is_over {
            let next = self.events.recv().await.unwrap_or((0, Event::Failed(gone())));
            match self.reply.take(next) {
                Ok(pieces) => {
                    self.is_over = self.reply.is_over();
                    let bytes = self.reply.chunks(pieces);
                    if !bytes.is_empty() {
                        return Some(bytes);
                    }
                }
                Err(failure) => {
                    // no mark of the end: half an answer must not look like a whole one
                    self.is_over = true;
                    return Some(event(&Refusal::from(failure).body));
                }
            }
        }
        None
    }
}

fn event(value: &impl Serialize) -> Bytes {
    sse::encode_json(value).unwrap_or_default()
}

fn json(value: &impl Serialize) -> Response {
    (StatusCode::OK, axum::Json(value)).into_response()
}
