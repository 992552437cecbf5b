//! The API on the socket. Checks requests, makes prompts, and turns a job's events into
//! replies; computes nothing itself.

use std::convert::Infallible;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::health::Shared;
use super::template::Template;
use super::worker::{Event, Failure, Job, Place};
use super::{Health, Sampling, Status};
use crate::causes::with_causes;
use crate::generation::EngineSpec;
use crate::ids::Generation;
use crate::openai::{
    AssistantMessage, ChatChoice, ChatChunk, ChatDelta, ChatReply, ChatRequest, ChunkChoice, ErrorBody,
    FinishReason, Malformed, ModelList, Parameters, TextChoice, TextReply, TextRequest, Timings, Usage, sse,
};

/// The largest body that is read. The longest contexts, 128 Ki tokens, are well under 1 MiB
/// of text; the rest is room for JSON's escapes.
const MAX_BODY: usize = 4 << 20;

/// So many requests may wait for a slot. A Pi answers in tens of seconds, so the last of
/// them waits for minutes already; more are better off elsewhere.
const MAX_WAITING: usize = 8;

/// When to come back after a refusal that will pass: about the time of a short answer.
const RETRY_SECONDS: u64 = 5;

/// Stop strings: how many, and how long each. OpenAI takes four.
const MAX_STOPS: (usize, usize) = (16, 256);

/// What every handler knows.
#[derive(Debug)]
pub(super) struct Door {
    spec: EngineSpec,
    generation: Generation,
    shared: Arc<Shared>,
    /// The way to the worker; none once no more work is taken.
    jobs: Mutex<Option<Sender<Job>>>,
    /// Made at the first chat; the text says why there is none.
    template: OnceLock<Result<Template, String>>,
    started: u64,
}

impl Door {
    pub(super) fn new(
        spec: EngineSpec,
        generation: Generation,
        shared: Arc<Shared>,
        jobs: Sender<Job>,
        started: u64,
    ) -> Self {
        Self { spec, generation, shared, jobs: Mutex::new(Some(jobs)), template: OnceLock::new(), started }
    }

    /// Takes no more work: the worker ends when it has done what it has.
    pub(super) fn close(&self) {
        self.shared.drain();
        self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }

    /// Returns the handlers of all paths.
    pub(super) fn router(self: &Arc<Self>) -> Router {
        let mut headers = HeaderMap::new();
        for (name, text) in [
            ("x-bramble-model", self.spec.model.to_string()),
            ("x-bramble-quant", self.spec.weights.quant_name().to_owned()),
            ("x-bramble-generation", self.generation.to_string()),
        ] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(text))
            .route("/v1/models", get(models))
            .route("/health", get(health))
            .fallback(async || {
                Refusal::new(StatusCode::NOT_FOUND, ErrorBody::invalid("no such path", None, None))
            })
            .method_not_allowed_fallback(async || {
                let body = ErrorBody::invalid("this path has another method", None, None);
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, body)
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(axum::middleware::map_response(move |mut response: Response| {
                response.headers_mut().extend(headers.clone());
                std::future::ready(response)
            }))
            .with_state(Arc::clone(self))
    }

    fn check_model(&self, asked: &str) -> Result<(), Refusal> {
        if asked == self.spec.model.as_str() {
            return Ok(());
        }
        let message = format!("the model '{asked}' is not served here; '{}' is", self.spec.model);
        let body = ErrorBody::invalid(message, Some("model"), Some("model_not_found"));
        Err(Refusal::new(StatusCode::NOT_FOUND, body))
    }

    fn check_ready(&self) -> Result<(), Refusal> {
        match self.shared.status() {
            Status::Ready => Ok(()),
            Status::Loading => Err(Refusal::later("the model is still loading", "loading")),
            Status::Draining => Err(Refusal::later("the engine is about to stop", "draining")),
            Status::Failed => {
                Err(Refusal::later("the engine has failed and is about to start anew", "failed"))
            }
        }
    }

    fn prompt(&self, request: &ChatRequest) -> Result<String, Refusal> {
        let made = self.template.get_or_init(|| {
            let loaded = self.shared.loaded().ok_or("the model is not loaded")?;
            let source = loaded
                .chat_template
                .as_deref()
                .ok_or("this model came without a chat template, so it cannot chat; use /v1/completions")?;
            Template::new(source, &loaded.bos, &loaded.eos).map_err(|error| with_causes(&error))
        });
        let refuse = |message| Refusal::bad_request(message, Some("messages"));
        let template = made.as_ref().map_err(|reason| refuse(reason.clone()))?;
        template.render(&request.messages).map_err(|error| refuse(with_causes(&error)))
    }

    /// Hands a job to the worker.
    fn submit(&self, prompt: String, parameters: &Parameters) -> Result<UnboundedReceiver<Event>, Refusal> {
        let (events, receiver) = unbounded_channel();
        let sampling = sampling(parameters)?;
        let Some(place) = Place::take(&self.shared, MAX_WAITING) else {
            return Err(Refusal::later(format!("{MAX_WAITING} requests are waiting already"), "queue_full"));
        };
        let job = Job {
            prompt,
            max_tokens: parameters.max_tokens,
            sampling,
            stop: parameters.stop.clone(),
            events,
            place,
        };
        let jobs = self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match jobs.as_ref().map(|jobs| jobs.send(job)) {
            Some(Ok(())) => Ok(receiver),
            _ => Err(Refusal::later("the engine is about to stop", "draining")),
        }
    }
}

async fn health(State(door): State<Arc<Door>>) -> Response {
    let status = door.shared.status();
    let code = if status == Status::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = Health {
        status,
        model: door.spec.model.to_string(),
        quant: door.spec.weights.quant_name().to_owned(),
        generation: door.generation.number(),
        cpu: door.shared.loaded().map(|loaded| loaded.cpu.clone()),
        slots: door.spec.slots,
        context: door.spec.context,
        running: door.shared.running(),
        queued: door.shared.queued(),
        loaded: door.shared.progress(),
    };
    json(code, &health)
}

async fn models(State(door): State<Arc<Door>>) -> Response {
    json(StatusCode::OK, &ModelList::new([door.spec.model.to_string()], door.started))
}

async fn chat(
    State(door): State<Arc<Door>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let request = ChatRequest::parse(&body?)?;
    door.check_model(&request.model)?;
    check_supported(&request.parameters)?;
    door.check_ready()?;
    let prompt = door.prompt(&request)?;
    let events = door.submit(prompt, &request.parameters)?;
    answer(events, Form::new(Kind::Chat, request.model, &request.parameters)).await
}

async fn text(
    State(door): State<Arc<Door>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let request = TextRequest::parse(&body?)?;
    door.check_model(&request.model)?;
    check_supported(&request.parameters)?;
    door.check_ready()?;
    let events = door.submit(request.prompt, &request.parameters)?;
    answer(events, Form::new(Kind::Text, request.model, &request.parameters)).await
}

/// Answers with a stream or as a whole. The status waits for the first event, so that
/// what goes wrong before it still is a status, and the router may turn elsewhere.
async fn answer(mut events: UnboundedReceiver<Event>, form: Form) -> Result<Response, Refusal> {
    let mut text = String::new();
    loop {
        match events.recv().await {
            Some(Event::Text(piece)) if form.is_stream => return Ok(form.stream(piece, None, events)),
            Some(Event::Text(piece)) => text.push_str(&piece),
            Some(Event::End { finish, usage, timings }) => {
                let end = End { finish, usage, timings };
                return Ok(if form.is_stream {
                    form.stream(String::new(), Some(end), events)
                } else {
                    form.whole(text, end)
                });
            }
            Some(Event::Failed(failure)) => return Err(failure.into()),
            None => return Err(Failure::Broken("the worker is gone".to_owned()).into()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Chat,
    Text,
}

#[derive(Debug, Clone, Copy)]
struct End {
    finish: FinishReason,
    usage: Usage,
    timings: Timings,
}

/// The form of an answer: everything about it but its text.
#[derive(Debug)]
struct Form {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    is_stream: bool,
    include_usage: bool,
}

impl Form {
    fn new(kind: Kind, model: String, parameters: &Parameters) -> Self {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let number = getrandom::u64().unwrap_or_default();
        Self {
            kind,
            id: format!("{prefix}-{number:016x}"),
            created: crate::clock::unix_seconds(),
            model,
            is_stream: parameters.stream,
            include_usage: parameters.include_usage,
        }
    }

    fn whole(self, text: String, end: End) -> Response {
        let Self { kind, id, created, model, .. } = self;
        let End { finish, usage, timings } = end;
        match kind {
            Kind::Chat => {
                let message = AssistantMessage { role: "assistant".to_owned(), content: Some(text) };
                let choice = ChatChoice { index: 0, message, finish_reason: Some(finish) };
                let object = "chat.completion".to_owned();
                let choices = vec![choice];
                let reply = ChatReply { id, object, created, model, choices, usage, timings: Some(timings) };
                json(StatusCode::OK, &reply)
            }
            Kind::Text => {
                let choices = vec![TextChoice { index: 0, text, finish_reason: Some(finish) }];
                let (object, usage, timings) = ("text_completion".to_owned(), Some(usage), Some(timings));
                json(StatusCode::OK, &TextReply { id, object, created, model, choices, usage, timings })
            }
        }
    }

    /// Begins a stream with `first`; `end` is there if that was all.
    fn stream(self, first: String, end: Option<End>, events: UnboundedReceiver<Event>) -> Response {
        let mut opening = Vec::new();
        if self.kind == Kind::Chat {
            let role = ChatDelta { role: Some("assistant".to_owned()), content: Some(String::new()) };
            opening.extend(self.chat_chunk(Some((role, None)), None, None));
        }
        if !first.is_empty() {
            opening.extend(self.chunk(Some((first, None)), None, None));
        }
        let mut is_over = false;
        if let Some(end) = end {
            opening.extend(self.last_chunks(end));
            is_over = true;
        }
        let feed = Feed { form: self, events, opening: Some(opening.into()), is_over };
        let body = stream::unfold(feed, async |mut feed| {
            let bytes = feed.next().await?;
            Some((Ok::<Bytes, Infallible>(bytes), feed))
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(body)).into_response()
    }

    /// Returns what ends a stream: the reason, the usage if it was asked for, and the mark.
    fn last_chunks(&self, end: End) -> Bytes {
        let timings = Some(end.timings);
        let finish = Some((String::new(), Some(end.finish)));
        let mut out = Vec::new();
        if self.include_usage {
            out.extend(self.chunk(finish, None, None));
            out.extend(self.chunk(None, Some(end.usage), timings));
        } else {
            out.extend(self.chunk(finish, None, timings));
        }
        out.extend(sse::encode(sse::DONE));
        out.into()
    }

    /// Makes one chunk: of text and the reason of the end, or of the usage alone.
    fn chunk(
        &self,
        choice: Option<(String, Option<FinishReason>)>,
        usage: Option<Usage>,
        timings: Option<Timings>,
    ) -> Bytes {
        match self.kind {
            Kind::Chat => {
                let content = |text: String| (!text.is_empty()).then_some(text);
                let choice =
                    choice.map(|(text, finish)| (ChatDelta { role: None, content: content(text) }, finish));
                self.chat_chunk(choice, usage, timings)
            }
            Kind::Text => {
                let choice = choice.map(|(text, finish_reason)| TextChoice { index: 0, text, finish_reason });
                event(&TextReply {
                    id: self.id.clone(),
                    object: "text_completion".to_owned(),
                    created: self.created,
                    model: self.model.clone(),
                    choices: choice.into_iter().collect(),
                    usage,
                    timings,
                })
            }
        }
    }

    fn chat_chunk(
        &self,
        choice: Option<(ChatDelta, Option<FinishReason>)>,
        usage: Option<Usage>,
        timings: Option<Timings>,
    ) -> Bytes {
        let choice = choice.map(|(delta, finish_reason)| ChunkChoice { index: 0, delta, finish_reason });
        event(&ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices: choice.into_iter().collect(),
            usage,
            timings,
        })
    }
}

/// A stream on its way. Dropping it cancels the job.
#[derive(Debug)]
struct Feed {
    form: Form,
    events: UnboundedReceiver<Event>,
    opening: Option<Bytes>,
    is_over: bool,
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        if self.is_over {
            return None;
        }
        let failure = match self.events.recv().await {
            Some(Event::Text(text)) => return Some(self.form.chunk(Some((text, None)), None, None)),
            Some(Event::End { finish, usage, timings }) => {
                self.is_over = true;
                return Some(self.form.last_chunks(End { finish, usage, timings }));
            }
            Some(Event::Failed(failure)) => failure,
            None => Failure::Broken("the worker is gone".to_owned()),
        };
        // no mark of the end: half an answer must not look like a whole one
        self.is_over = true;
        Some(event(&Refusal::from(failure).body))
    }
}

fn event(value: &impl Serialize) -> Bytes {
    sse::encode_json(value).unwrap_or_default()
}

fn json(code: StatusCode, value: &impl Serialize) -> Response {
    (code, axum::Json(value)).into_response()
}

fn check_supported(parameters: &Parameters) -> Result<(), Refusal> {
    match parameters.unsupported.as_slice() {
        [] => Ok(()),
        [first, ..] => {
            let message = format!("not supported yet: {}", parameters.unsupported.join(", "));
            let body = ErrorBody::invalid(message, Some(first), Some("unsupported_parameter"));
            Err(Refusal::new(StatusCode::BAD_REQUEST, body))
        }
    }
}

/// Checks the values, and fills in what the client left to us.
fn sampling(parameters: &Parameters) -> Result<Sampling, Refusal> {
    let within = |name: &str, value: Option<f32>, least: f32, most: f32, ours: f32| match value {
        None => Ok(ours),
        Some(value) if (least..=most).contains(&value) => Ok(value),
        Some(value) => Err(Refusal::bad_request(
            format!("'{name}' is {value}, it must be from {least} to {most}"),
            Some(name),
        )),
    };
    if parameters.max_tokens == Some(0) {
        return Err(Refusal::bad_request("'max_tokens' must be 1 or more", Some("max_tokens")));
    }
    let (count, length) = MAX_STOPS;
    if parameters.stop.len() > count
        || parameters.stop.iter().any(|stop| stop.is_empty() || stop.len() > length)
    {
        let message = format!("'stop' may hold {count} texts of 1 to {length} bytes each");
        return Err(Refusal::bad_request(message, Some("stop")));
    }
    let ours = Sampling::default();
    Ok(Sampling {
        temperature: within("temperature", parameters.temperature, 0.0, 2.0, ours.temperature)?,
        top_p: within("top_p", parameters.top_p, 0.0, 1.0, ours.top_p)?,
        top_k: parameters.top_k.unwrap_or(ours.top_k),
        min_p: within("min_p", parameters.min_p, 0.0, 1.0, ours.min_p)?,
        seed: parameters.seed,
        repeat_penalty: within("repeat_penalty", parameters.repeat_penalty, 0.1, 10.0, ours.repeat_penalty)?,
        presence_penalty: within("presence_penalty", parameters.presence_penalty, -2.0, 2.0, 0.0)?,
        frequency_penalty: within("frequency_penalty", parameters.frequency_penalty, -2.0, 2.0, 0.0)?,
    })
}

/// A request that is not done.
#[derive(Debug)]
struct Refusal {
    code: StatusCode,
    body: ErrorBody,
    retry: bool,
}

impl Refusal {
    fn new(code: StatusCode, body: ErrorBody) -> Self {
        Self { code, body, retry: false }
    }

    fn bad_request(message: impl Into<String>, param: Option<&str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorBody::invalid(message, param, None))
    }

    /// For what will pass.
    fn later(message: impl Into<String>, code: &str) -> Self {
        let body = ErrorBody::server(message, code);
        Self { code: StatusCode::SERVICE_UNAVAILABLE, body, retry: true }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::bad_request(malformed.to_string(), malformed.param())
    }
}

impl From<BytesRejection> for Refusal {
    fn from(rejection: BytesRejection) -> Self {
        let code = rejection.status();
        let message = if code == StatusCode::PAYLOAD_TOO_LARGE {
            format!("the body is larger than {MAX_BODY} bytes")
        } else {
            rejection.body_text()
        };
        Self::new(code, ErrorBody::invalid(message, None, None))
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Empty => Self::bad_request("the prompt is empty", None),
            Failure::TooLong { prompt, context } => {
                let message = format!(
                    "the prompt has {prompt} tokens, but this model's context holds {context}, the answer included"
                );
                let code = Some("context_length_exceeded");
                Self::new(StatusCode::BAD_REQUEST, ErrorBody::invalid(message, Some("messages"), code))
            }
            Failure::Draining => Self::later("the engine is about to stop", "draining"),
            Failure::Broken(reason) => {
                let message = format!("the model failed: {reason}");
                let body = ErrorBody::server(message, "engine_failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, body)
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json(self.code, &self.body);
        if self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        response
    }
}
