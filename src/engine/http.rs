//! The API on the socket. Checks requests, makes prompts, and turns a job's events into
//! replies; computes nothing itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{OnceCell, Semaphore, oneshot};

use super::arrivals::Room;
use super::constraint::{Constraint, Grammars};
use super::health::Shared;
use super::measure::Measure;
use super::metrics::Now;
use super::refusal::{RETRY_SECONDS, Refusal};
use super::reply::{self, Calls, Form, Kind};
use super::template::{Template, on_deep_stack};
use super::thoughts::Thoughts;
use super::tools::Syntax;
use super::worker::{Event, Failure, Job, Listener, Order, Place};
use super::{Engine, Health, Sampling, Status, Token, dialog};
use crate::causes::with_causes;
use crate::generation::EngineSpec;
use crate::ids::Generation;
use crate::openai::{
    Begun, ChatRequest, DetokenizeRequest, EmbeddingReply, EmbeddingRequest, ErrorBody, Format, GOES_ON,
    Input, ModelList, Parameters, Piece, TextRequest, TokenList, TokenPiece, TokenizeRequest, TokensText,
    Tool, ToolChoice, WITH_PROGRESS,
};

/// The largest body that is read. The longest contexts, 128 Ki tokens, are well under 1 MiB
/// of text; the rest is room for JSON's escapes.
pub(super) const MAX_BODY: usize = 4 << 20;

/// So many prompts and constraints are made at the same time, each in milliseconds; hostile ones take a thread, and some memory, for
/// longer.
const MAKERS: usize = 4;

/// How long a chat template may take. What costs fuel ends within a second; comparing lists that hold each other, and
/// joining them, costs none.
const TEMPLATE_PATIENCE: Duration = Duration::from_secs(15);

/// The most answers to one prompt; each has a place in the queue.
const MAX_CHOICES: u32 = 8;

/// The most of the likeliest tokens that are told of; OpenAI's own limit.
const MAX_LOGPROBS: u32 = 20;

/// Stop strings: how many, and how long each. OpenAI takes four.
const MAX_STOPS: (usize, usize) = (16, 256);

/// Tells of a chat how many of its oldest turns were left out, so that the rest fits.
const DROPPED_TURNS: HeaderName = HeaderName::from_static("x-bramble-dropped-turns");

/// A chat as the model reads it.
struct Prompt {
    text: String,
    /// What the answer has begun with, where that is not the end of the text.
    begun: String,
    /// How calls are found in the answer; none where they are not looked for.
    syntax: Option<Syntax>,
    /// How thoughts are found in it; none where the model has none.
    thoughts: Option<Thoughts>,
}

/// What every handler knows.
#[derive(Debug)]
pub(super) struct Door {
    spec: EngineSpec,
    generation: Generation,
    shared: Arc<Shared>,
    /// The way to the worker; none once no more work is taken.
    orders: Mutex<Option<Sender<Order>>>,
    /// Made at the first chat; the text says why there is none.
    template: OnceLock<Result<Template, String>>,
    /// Made at the first answer that must keep to a form.
    grammars: OnceCell<Arc<Grammars>>,
    makers: Semaphore,
    /// Made at the first long text.
    measure: OnceCell<Measure>,
    /// Whether the template once did not end.
    is_endless: AtomicBool,
    room: Room,
    started: u64,
}

impl Door {
    pub(super) fn new(
        spec: EngineSpec,
        generation: Generation,
        shared: Arc<Shared>,
        orders: Sender<Order>,
        started: u64,
    ) -> Self {
        Self {
            spec,
            generation,
            shared,
            orders: Mutex::new(Some(orders)),
            template: OnceLock::new(),
            grammars: OnceCell::new(),
            makers: Semaphore::new(MAKERS),
            measure: OnceCell::new(),
            is_endless: AtomicBool::new(false),
            room: Room::default(),
            started,
        }
    }

    /// Takes no more work: the worker ends when it has done what it has.
    pub(super) fn close(&self) {
        self.shared.drain();
        self.orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
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
            .route("/v1/embeddings", post(embeddings))
            .route("/v1/models", get(models))
            .route("/tokenize", post(tokenize))
            .route("/v1/tokenize", post(tokenize))
            .route("/detokenize", post(detokenize))
            .route("/v1/detokenize", post(detokenize))
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .fallback(async || {
                Refusal::new(StatusCode::NOT_FOUND, ErrorBody::invalid("no such path", None, None))
            })
            .method_not_allowed_fallback(async || {
                let body = ErrorBody::invalid("this path has another method", None, None);
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, body)
            })
            // `Room` has a limit of its own
            .layer(DefaultBodyLimit::disable())
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(self),
                async |State(door): State<Arc<Self>>, request: Request, next: Next| {
                    door.room.pass(request, next).await
                },
            ))
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

    fn check_named(&self, asked: Option<&str>) -> Result<(), Refusal> {
        asked.map_or(Ok(()), |asked| self.check_model(asked))
    }

    fn check_ready(&self) -> Result<(), Refusal> {
        match self.shared.status() {
            Status::Ready => match self.shared.host().scarce() {
                None => Ok(()),
                Some(memory) => {
                    let reason = format!("the host is short of memory: {memory} are left");
                    Err(Refusal::later(reason, "memory", RETRY_SECONDS))
                }
            },
            Status::Loading => {
                let seconds = self.shared.until_loaded();
                Err(Refusal::later("the model is still loading", "loading", seconds))
            }
            Status::Draining => Err(Refusal::draining()),
            Status::Failed => {
                let reason = "the engine has failed and is about to start anew";
                Err(Refusal::later(reason, "failed", RETRY_SECONDS))
            }
        }
    }

    fn template(&self) -> Result<&Template, Refusal> {
        let made = self.template.get_or_init(|| {
            let loaded = self.shared.loaded().ok_or("the model is not loaded")?;
            let own = loaded.chat_template.as_deref().or(loaded.start.map(|_| dialog::TEMPLATE));
            let source =
                own.ok_or("this model came without a chat template, so it cannot chat; use /v1/completions")?;
            Template::new(source, &loaded.bos, &loaded.eos).map_err(|error| with_causes(&error))
        });
        made.as_ref().map_err(|reason| Refusal::bad_request(reason.clone(), Some("messages")))
    }

    /// Makes the prompt of a chat.
    fn prompt(&self, request: &ChatRequest) -> Result<Prompt, Refusal> {
        let template = self.template()?;
        let syntax = self.syntax(request)?;
        if syntax.is_some() && request.parameters.format != Format::Text {
            let message = "'response_format' and 'tools' in one request are not supported yet";
            return Err(Refusal::unsupported(message, "response_format"));
        }
        let shown: &[Tool] = if syntax.is_some() { &request.tools } else { &[] };
        let (read, begun) =
            if self.reads() { dialog::parted(&request.messages) } else { (&*request.messages, "") };
        let text = template.render(read, shown, &request.template_arguments);
        let text = text.map_err(|error| Refusal::bad_request(with_causes(&error), Some("messages")))?;
        let thoughts = Thoughts::behind(&text, self.template_source());
        Ok(Prompt { thoughts, begun: begun.to_owned(), syntax, text })
    }

    /// Makes the prompt of a chat. Where the model reads with an encoder, which takes so many tokens and no more, the
    /// oldest turns are left out until the rest fits; returns how many.
    async fn fitted(
        self: &Arc<Self>,
        mut request: ChatRequest,
    ) -> Result<(ChatRequest, Prompt, usize), Refusal> {
        if !self.reads() {
            let (request, prompt) = self.prompted(request).await?;
            return Ok((request, prompt, 0));
        }
        let all = request.messages.clone();
        // so many have to be left out, at least and at most
        let (mut least, mut most) = (0, dialog::spare_turns(&all));
        let mut turns = 0;
        loop {
            request.messages = dialog::without(&all, turns);
            let (same, prompt) = self.prompted(request).await?;
            request = same;
            if least < most {
                if self.fits(&prompt.text).await? { most = turns } else { least = turns + 1 }
            }
            if least == most && turns == most {
                return Ok((request, prompt, turns));
            }
            turns = least.midpoint(most);
        }
    }

    /// Tells whether an encoder can read `text`.
    async fn fits(&self, text: &str) -> Result<bool, Refusal> {
        let context = self.spec.context as usize;
        if self.least(text).await? > context {
            return Ok(false);
        }
        let text = text.to_owned();
        self.look(move |engine| engine.tokenize(&text, true).len() <= context).await
    }

    /// Tells whether the model reads prompts with an encoder.
    fn reads(&self) -> bool {
        self.shared.loaded().is_some_and(|loaded| loaded.start.is_some())
    }

    fn template_source(&self) -> &str {
        self.shared.loaded().and_then(|loaded| loaded.chat_template.as_deref()).unwrap_or_default()
    }

    /// Returns how the model calls tools; none where the request has none that may be called.
    fn syntax(&self, request: &ChatRequest) -> Result<Option<Syntax>, Refusal> {
        if request.tools.is_empty() || request.tool_choice == ToolChoice::None {
            return Ok(None);
        }
        if let Some(syntax) = self.template()?.syntax() {
            return Ok(Some(syntax));
        }
        let reason = if self.template_source().contains("tools") {
            "the way in which this model calls tools is not supported yet"
        } else {
            "this model's chat template has no tools"
        };
        Err(Refusal::unsupported(reason, "tools"))
    }

    /// Looks at the model between two steps.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Engine) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, seen) = oneshot::channel();
        let look = move |engine: &dyn Engine| {
            // whoever asked may be gone
            let _ = sender.send(look(engine));
        };
        self.send(Order::Look(Box::new(look)))?;
        seen.await.map_err(|_| Refusal::draining())
    }

    fn send(&self, order: Order) -> Result<(), Refusal> {
        let orders = self.orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match orders.as_ref().map(|orders| orders.send(order)) {
            Some(Ok(())) => Ok(()),
            _ => Err(Refusal::draining()),
        }
    }

    /// Refuses a text that cannot fit into the context however it is cut, before the worker cuts it.
    async fn check_length(&self, text: &str) -> Result<(), Refusal> {
        let context = self.spec.context as usize;
        match self.least(text).await? {
            // an encoder leaves no room for the answer
            least if least <= context => Ok(()),
            least => Err(Refusal::too_long(format_args!("at least {least}"), context)),
        }
    }

    /// Returns how many tokens `text` has at least; 0 where it is short enough to be cut.
    async fn least(&self, text: &str) -> Result<usize, Refusal> {
        if text.len() < self.spec.context as usize {
            return Ok(0);
        }
        let look = async || self.look(|engine| Measure::new(&engine.vocabulary())).await;
        Ok(self.measure.get_or_try_init(look).await?.least(text, self.spec.context as usize + 1))
    }

    /// Makes the prompt of `request`, by a thread that may take its time.
    async fn prompted(self: &Arc<Self>, request: ChatRequest) -> Result<(ChatRequest, Prompt), Refusal> {
        let endless = || {
            let reason = "the model's chat template does not end, so it cannot chat; use /v1/completions";
            Refusal::bad_request(reason, Some("messages"))
        };
        let _turn = self.makers.acquire().await;
        // each such thread runs on for ever
        if self.is_endless.load(Ordering::Relaxed) {
            return Err(endless());
        }
        let asked = Arc::clone(self);
        let prompted = on_deep_stack(move || asked.prompt(&request).map(|prompt| (request, prompt)));
        if let Ok(prompted) = tokio::time::timeout(TEMPLATE_PATIENCE, prompted).await {
            return prompted.unwrap_or_else(|| Err(Failure::Broken("no prompt".to_owned()).into()));
        }
        tracing::error!("the model's chat template does not end: it is not used again");
        self.is_endless.store(true, Ordering::Relaxed);
        Err(endless())
    }

    /// Makes the constraint of an answer, by a thread that may take its time.
    async fn constraint(
        &self,
        param: &'static str,
        make: impl FnOnce(&Grammars) -> Result<Option<Constraint>, String> + Send + 'static,
    ) -> Result<Option<Constraint>, Refusal> {
        let failed = |reason: String| {
            let body = ErrorBody::server(format!("constraints cannot be made: {reason}"), "engine_failed");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, body)
        };
        let grammars = self.grammars.get_or_try_init(async || {
            let vocabulary = self.look(|engine| engine.vocabulary()).await?;
            let prepared = tokio::task::spawn_blocking(move || Grammars::new(&vocabulary)).await;
            prepared.map_err(|error| failed(error.to_string()))?.map(Arc::new).map_err(failed)
        });
        let grammars = Arc::clone(grammars.await?);
        let _turn = self.makers.acquire().await;
        let outcome = tokio::task::spawn_blocking(move || make(&grammars)).await;
        let outcome = outcome.map_err(|error| failed(error.to_string()))?;
        outcome.map_err(|reason| {
            Refusal::bad_request(format!("'{param}' cannot be kept to: {reason}"), Some(param))
        })
    }

    async fn formatted(&self, parameters: &Parameters) -> Result<Option<Constraint>, Refusal> {
        if parameters.format == Format::Text {
            return Ok(None);
        }
        let (format, begun) = (parameters.format.clone(), written(parameters).to_owned());
        self.constraint("response_format", move |grammars| {
            grammars.behind(grammars.format(&format)?, &begun, &[])
        })
        .await
    }

    /// Returns the next place in the queue.
    fn place(&self) -> Result<Place, Refusal> {
        let most = self.shared.most_waiting(self.spec.slots);
        Place::take(&self.shared, most).ok_or_else(|| {
            let seconds = self.shared.until_free(self.spec.slots);
            let waiting = self.shared.queued();
            Refusal::later(format!("{waiting} requests are waiting already"), "queue_full", seconds)
        })
    }

    /// Has the model make what it makes of `input`; returns that, and of how many tokens.
    async fn state(&self, input: Input) -> Result<(Vec<f32>, u32), Refusal> {
        let (sender, mut receiver) = unbounded_channel();
        let job = Job::new(input, Listener { choice: 0, sender }, self.place()?);
        self.send(Order::Answer(Box::new(Job { wants_state: true, ..job })))?;
        match receiver.recv().await {
            Some((_, Event::State { values, tokens })) => Ok((values, tokens)),
            Some((_, Event::Failed(failure))) => Err(failure.into()),
            _ => Err(reply::gone().into()),
        }
    }

    /// Hands the jobs of a request to the worker: one for each answer.
    fn submit(
        &self,
        (prompt, begun): (&Input, &str),
        parameters: &Parameters,
        constraint: Option<&Constraint>,
        visible: &[String],
    ) -> Result<UnboundedReceiver<(u32, Event)>, Refusal> {
        let sampling = sampling(parameters)?;
        let places = (0..parameters.n).map(|_| self.place()).collect::<Result<Vec<_>, _>>()?;
        let (sender, receiver) = unbounded_channel();
        for (choice, place) in (0..).zip(places) {
            let job = Job {
                begun: begun.to_owned(),
                resumed: parameters.begun.clone().unwrap_or_default(),
                max_tokens: parameters.max_tokens,
                // the same seed would say the same again
                sampling: Sampling {
                    seed: sampling.seed.map(|seed| seed.wrapping_add(u64::from(choice))),
                    ..sampling.clone()
                },
                stop: parameters.stop.clone(),
                constraint: constraint.cloned(),
                logprobs: parameters.logprobs.map(|top| top as usize),
                visible: visible.to_vec(),
                ..Job::new(prompt.clone(), Listener { choice, sender: sender.clone() }, place)
            };
            self.send(Order::Answer(Box::new(job)))?;
        }
        Ok(receiver)
    }
}

async fn health(State(door): State<Arc<Door>>) -> Response {
    let status = door.shared.status();
    let host = door.shared.host();
    let code = if status == Status::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = Health {
        status,
        model: door.spec.model.to_string(),
        quant: door.spec.weights.quant_name().to_owned(),
        generation: door.generation.number(),
        cpu: door.shared.loaded().map(|loaded| loaded.cpu.clone()),
        gpu: door.shared.loaded().and_then(|loaded| loaded.gpu.clone()),
        slots: door.spec.slots,
        context: door.spec.context,
        running: door.shared.running(),
        queued: door.shared.queued(),
        wait_seconds: door.shared.wait(door.spec.slots),
        loaded: door.shared.progress(),
        memory_available: host.memory.map(|memory| memory.0),
        throttled: host.throttled.map(|throttled| throttled.0),
    };
    json(code, &health)
}

async fn metrics(State(door): State<Arc<Door>>) -> Response {
    let shared = &door.shared;
    let now = Now {
        running: shared.running(),
        queued: shared.queued(),
        slots: door.spec.slots,
        gpu_layers: shared.loaded().map(|loaded| loaded.gpu.as_ref().map_or(0, |gpu| gpu.layers)),
        host: shared.host(),
    };
    let text = shared.metrics.render(door.spec.model.as_str(), now);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn models(State(door): State<Arc<Door>>) -> Response {
    json(StatusCode::OK, &ModelList::new([door.spec.model.to_string()], door.started))
}

async fn chat(State(door): State<Arc<Door>>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let request = ChatRequest::parse(&body)?;
    door.check_model(&request.model)?;
    check_supported(&request.parameters)?;
    door.check_ready()?;
    let (request, Prompt { text, begun, syntax, thoughts }, dropped) = door.fitted(request).await?;
    door.check_length(&text).await?;
    let parameters = &request.parameters;
    door.check_length(written(parameters)).await?;
    let visible = syntax.map(Syntax::marks).unwrap_or_default();
    let constraint = match syntax {
        Some(syntax) if request.tool_choice != ToolChoice::Auto => {
            let (tools, choice, many) = (request.tools, request.tool_choice, request.parallel_tool_calls);
            let (begun, marks) = (written(parameters).to_owned(), visible.clone());
            let forced = move |grammars: &Grammars| {
                let forced = syntax.grammar(&tools, &choice, many, grammars);
                grammars.behind(forced.map(|it| grammars.compile(it)).transpose()?, &begun, &marks)
            };
            door.constraint("tools", forced).await?
        }
        _ => door.formatted(parameters).await?,
    };
    let events = door.submit((&Input::Text(text), &begun), parameters, constraint.as_ref(), &visible)?;
    let form = Form {
        // whoever must keep to a form cannot think first
        thoughts: thoughts.filter(|_| constraint.is_none()),
        calls: syntax.map(|syntax| Calls { syntax, many: request.parallel_tool_calls }),
        ..form(Kind::Chat, request.model, &request.parameters, &headers)
    };
    let mut response = signed(reply::answer(events, form).await?, &request.parameters);
    if dropped > 0 {
        response.headers_mut().insert(DROPPED_TURNS, dropped.into());
    }
    Ok(response)
}

async fn text(State(door): State<Arc<Door>>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let request = TextRequest::parse(&body)?;
    let parameters = &request.parameters;
    door.check_model(&request.model)?;
    check_supported(parameters)?;
    door.check_ready()?;
    if let Input::Text(text) = &request.prompt {
        door.check_length(text).await?;
    }
    door.check_length(written(parameters)).await?;
    let constraint = door.formatted(parameters).await?;
    let events = door.submit((&request.prompt, ""), parameters, constraint.as_ref(), &[])?;
    let form = form(Kind::Text, request.model, &request.parameters, &headers);
    Ok(signed(reply::answer(events, form).await?, &request.parameters))
}

/// Returns what was written of the answer elsewhere.
fn written(parameters: &Parameters) -> &str {
    parameters.begun.as_ref().map_or("", |begun| &begun.text)
}

/// Says that the answer begins behind what was written elsewhere, where that is so.
fn signed(mut response: Response, parameters: &Parameters) -> Response {
    if parameters.begun.is_some() {
        response.headers_mut().insert(GOES_ON, HeaderValue::from_static("1"));
    }
    response
}

async fn embeddings(State(door): State<Arc<Door>>, body: Bytes) -> Result<Response, Refusal> {
    let mut request = EmbeddingRequest::parse(&body)?;
    door.check_model(&request.model)?;
    door.check_ready()?;
    if door.reads() {
        let message = "embeddings of a model that reads with an encoder are not supported yet";
        return Err(Refusal::unsupported(message, "model"));
    }
    // one after the other: many texts are one request's, and others have their turns between
    let mut states = Vec::new();
    for input in std::mem::take(&mut request.inputs) {
        if let Input::Text(text) = &input {
            door.check_length(text).await?;
        }
        states.push(door.state(input).await?);
    }
    Ok(json(StatusCode::OK, &EmbeddingReply::new(&request, states)))
}

fn form(kind: Kind, model: String, parameters: &Parameters, headers: &HeaderMap) -> Form {
    Form {
        kind,
        model,
        is_stream: parameters.stream,
        include_usage: parameters.include_usage,
        choices: parameters.n,
        thoughts: None,
        calls: None,
        has_logprobs: parameters.logprobs.is_some(),
        begun: parameters.begun.as_ref().map(|begun| begun.text.clone()),
        has_progress: headers.contains_key(WITH_PROGRESS),
    }
}

async fn tokenize(State(door): State<Arc<Door>>, body: Bytes) -> Result<Response, Refusal> {
    let request = TokenizeRequest::parse(&body)?;
    door.check_named(request.model.as_deref())?;
    door.check_ready()?;
    let TokenizeRequest { content, add_special, with_pieces, .. } = request;
    door.check_length(&content).await?;
    let list = door.look(move |engine| {
        let tokens = engine.tokenize(&content, add_special);
        if !with_pieces {
            return TokenList::Numbers { tokens };
        }
        let piece = |token: Token| {
            let mut bytes = Vec::new();
            engine.piece(token, true, &mut bytes);
            let piece =
                String::from_utf8(bytes).map_or_else(|error| Piece::Bytes(error.into_bytes()), Piece::Text);
            TokenPiece { id: token, piece }
        };
        TokenList::Pieces { tokens: tokens.into_iter().map(piece).collect() }
    });
    Ok(json(StatusCode::OK, &list.await?))
}

async fn detokenize(State(door): State<Arc<Door>>, body: Bytes) -> Result<Response, Refusal> {
    let request = DetokenizeRequest::parse(&body)?;
    door.check_named(request.model.as_deref())?;
    door.check_ready()?;
    let bytes = door.look(move |engine| {
        let mut bytes = Vec::new();
        for token in request.tokens {
            engine.piece(token, true, &mut bytes);
        }
        bytes
    });
    let content = String::from_utf8_lossy(&bytes.await?).into_owned();
    Ok(json(StatusCode::OK, &TokensText { content }))
}

fn json(code: StatusCode, value: &impl Serialize) -> Response {
    (code, axum::Json(value)).into_response()
}

fn check_supported(parameters: &Parameters) -> Result<(), Refusal> {
    match parameters.unsupported.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Refusal::unsupported(
            &format!("not supported yet: {}", parameters.unsupported.join(", ")),
            first,
        )),
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
    if !(1..=MAX_CHOICES).contains(&parameters.n) {
        let message = format!("'n' is {}, it must be from 1 to {MAX_CHOICES}", parameters.n);
        return Err(Refusal::bad_request(message, Some("n")));
    }
    if parameters.n > 1 && parameters.begun.is_some() {
        return Err(Refusal::bad_request("only one answer is gone on with", Some(Begun::FIELD)));
    }
    if parameters.logprobs.is_some_and(|top| top > MAX_LOGPROBS) {
        let message = format!("of {MAX_LOGPROBS} tokens at most the log probabilities are told");
        return Err(Refusal::bad_request(message, Some("logprobs")));
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
        logit_bias: parameters.logit_bias.clone(),
    })
}
