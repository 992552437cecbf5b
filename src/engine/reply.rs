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
    Progress, TextChoice, TextLogProbs, TextReply, Timings, TokenLogProb, ToolCall, ToolCallDelta, Usage,
    sse,
};

/// Which of OpenAI's two kinds of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Text,
}

/// The form of a reply: everything about it but what the model says.
#[expect(clippy::struct_excessive_bools, reason = "each is something that a client asks for or does not")]
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
    /// What the model wrote of the answer elsewhere. The client has what comes of that.
    pub(super) begun: Option<String>,
    /// Whether each event of the stream tells how far the answer is.
    pub(super) has_progress: bool,
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
        let piece = reply.take(event)?;
        if reply.form.is_stream {
            if piece.is_none() {
                continue;
            }
            return Ok(reply.stream(piece, events));
        }
        if let Some(piece) = piece {
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
    /// What no piece has told of yet.
    progress: Progress,
    has_begun: bool,
    has_ended: bool,
    /// Characters of the tokens that were told of.
    told: usize,
}

/// More of one answer: all that comes of one event of the worker, so that a stream that breaks off between two
/// pieces ends where the model can go on.
#[derive(Debug, Default)]
struct Piece {
    choice: u32,
    thought: String,
    text: String,
    /// Calls and their numbers.
    calls: Vec<(u32, ToolCall)>,
    tokens: Vec<TokenLogProb>,
    finish: Option<FinishReason>,
    progress: Option<Progress>,
}

impl Piece {
    fn is_silent(&self) -> bool {
        self.thought.is_empty() && self.text.is_empty() && self.calls.is_empty() && self.finish.is_none()
    }
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
        self.calls.extend(piece.calls.into_iter().map(|(_, call)| call));
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
            progress: Progress::default(),
            has_begun: false,
            has_ended: false,
            told: 0,
        };
        let mut reply = Self {
            id: format!("{prefix}-{number:016x}"),
            created: crate::clock::unix_seconds(),
            choices: (0..form.choices).map(|_| choice()).collect(),
            usage: Usage::default(),
            timings: None,
            form,
        };
        reply.catch_up();
        reply
    }

    /// Brings the choice to where the client is.
    fn catch_up(&mut self) {
        let Some(begun) = self.form.begun.take() else { return };
        let many_calls = self.has_many_calls();
        for choice in &mut self.choices {
            let parts = choice.parts(&begun);
            choice.piece(parts, many_calls);
            choice.has_begun = true;
            choice.told = begun.chars().count();
        }
    }

    fn has_many_calls(&self) -> bool {
        self.form.calls.is_some_and(|calls| calls.many)
    }

    fn is_over(&self) -> bool {
        self.choices.iter().all(|choice| choice.has_ended)
    }

    /// Takes the next event, and returns what there is to say.
    fn take(&mut self, (number, event): (u32, Event)) -> Result<Option<Piece>, Failure> {
        let many_calls = self.has_many_calls();
        let Some(choice) = self.choices.get_mut(number as usize) else { return Ok(None) };
        let mut piece = match event {
            Event::Text { text, tokens, told, asked } => {
                choice.tokens.extend(tokens);
                let parts = choice.parts(&text);
                choice.progress.text.push_str(&text);
                (choice.progress.tokens, choice.progress.prompt_tokens) = (told, asked);
                choice.piece(parts, many_calls)
            }
            Event::End { finish, usage, timings } => {
                let parts = choice.last_parts();
                let mut piece = choice.piece(parts, many_calls);
                let calls = choice.calls > 0 && finish == FinishReason::Stop;
                piece.finish = Some(if calls { FinishReason::ToolCalls } else { finish });
                choice.has_ended = true;
                self.usage =
                    Usage::new(usage.prompt_tokens, self.usage.completion_tokens + usage.completion_tokens);
                self.timings = (self.form.choices == 1).then_some(timings);
                piece
            }
            Event::Failed(failure) => return Err(failure),
            // asked of jobs of another kind
            Event::State { .. } => return Ok(None),
        };
        if piece.is_silent() {
            return Ok(None);
        }
        piece.choice = number;
        piece.tokens = std::mem::take(&mut choice.tokens);
        let text = std::mem::take(&mut choice.progress.text);
        piece.progress = self.form.has_progress.then(|| Progress { text, ..choice.progress.clone() });
        Ok(Some(piece))
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
                let progress = None;
                json(&TextReply { id, object, created, model: form.model, choices, usage, timings, progress })
            }
        }
    }

    /// Begins a stream with `piece`.
    fn stream(mut self, piece: Option<Piece>, events: UnboundedReceiver<(u32, Event)>) -> Response {
        let opening = self.chunks(piece);
        let feed = Feed { is_over: self.is_over(), reply: self, events, opening: Some(opening) };
        let body = stream::unfold(feed, async |mut feed| {
            let bytes = feed.next().await?;
            Some((Ok::<Bytes, Infallible>(bytes), feed))
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(body)).into_response()
    }

    /// Makes the event of a piece, and those that end the stream if it is the last.
    fn chunks(&mut self, piece: Option<Piece>) -> Bytes {
        let mut out = Vec::new();
        let is_over = self.is_over();
        if piece.is_some() {
            // the last one tells the timings, unless a chunk for the usage alone does
            let timings = self.timings.filter(|_| is_over && !self.form.include_usage);
            out.extend(self.chunk(piece, None, timings));
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
                let choices = Vec::new();
                let mut chunk =
                    ChatChunk { id, object, created, model, choices, usage, timings, progress: None };
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
                    chunk.progress = piece.progress;
                    let logprobs = LogProbs { content: piece.tokens };
                    chunk.choices.push(ChunkChoice {
                        index: piece.choice,
                        delta: ChatDelta {
                            role: None,
                            content: (!piece.text.is_empty()).then_some(piece.text),
                            reasoning_content: (!piece.thought.is_empty()).then_some(piece.thought),
                            tool_calls: piece.calls.into_iter().map(call_delta).collect(),
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
                let mut progress = None;
                let choice = piece.map(|piece| {
                    progress = piece.progress;
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
                event(&TextReply { id, object, created, model, choices, usage, timings, progress }).into()
            }
        }
    }
}

impl Choice {
    /// Parts more of what the model writes.
    fn parts(&mut self, text: &str) -> Vec<Part> {
        let parted = match &mut self.thoughts {
            Some(thoughts) => thoughts.push(text),
            None => Parted { thought: String::new(), said: text.to_owned() },
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

    /// Makes a piece of `parts`.
    fn piece(&mut self, parts: Vec<Part>, many_calls: bool) -> Piece {
        let mut piece = Piece::default();
        for part in parts {
            match part {
                Part::Thought(part) => piece.thought.push_str(&part),
                Part::Text(part) => piece.text.push_str(&part),
                Part::Call(_) if self.calls > 0 && !many_calls => {}
                Part::Call(part) => {
                    piece.calls.push((self.calls, part));
                    self.calls += 1;
                }
            }
        }
        piece
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
                Ok(piece) => {
                    self.is_over = self.reply.is_over();
                    let bytes = self.reply.chunks(piece);
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

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
