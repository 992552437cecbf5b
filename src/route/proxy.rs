//! One request: asks the upstreams in the order of the decision until one answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER,
    USER_AGENT,
};
use hyper::{HeaderMap, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::breaker::{Outcome, Ticket};
use super::door::Shared;
use super::health::Queue;
use super::journey::Journey;
use super::policy::{self, Choice, Deadlines, Presence, Reason, Verdict};
use super::relay::{Relay, Rest, Stream};
use super::reply::{self, Reply};
use super::request::{Call, Field, Terms};
use super::rouse::{self, Notice, Turn, Vigil};
use super::source::{Opening, Source};
use super::state::{Kind, Route, Seat, State};
use super::told::Told;
use super::upstream::Driven;
use super::wake::Standing;
use super::{gather, health, upstream};
use crate::openai::{GOES_ON, WITH_PROGRESS};

/// How we call ourselves to upstreams.
pub(super) const AGENT: &str = concat!("bramble/", env!("CARGO_PKG_VERSION"));

/// The header that says that a request came from another router.
pub(super) const HOP: HeaderName = HeaderName::from_static("x-bramble-hop");

const BY_HOST: HeaderName = HeaderName::from_static("x-bramble-host");
const BY_MODEL: HeaderName = HeaderName::from_static("x-bramble-model");
const BY_QUANT: HeaderName = HeaderName::from_static("x-bramble-quant");
const BY_GENERATION: HeaderName = HeaderName::from_static("x-bramble-generation");
const BY_UPSTREAM: HeaderName = HeaderName::from_static("x-bramble-upstream");
const FALLBACK_REASON: HeaderName = HeaderName::from_static("x-bramble-fallback-reason");

/// The largest answer that comes at once: embeddings of a long list are the largest.
const LARGEST_ANSWER: usize = 16 << 20;

/// The largest error that is passed on.
const LARGEST_ERROR: usize = 1 << 20;

/// The largest request that is kept in case that its answer breaks off. It stays for minutes, and a context of 128 Ki
/// tokens is half a MiB.
const LARGEST_KEPT: usize = 1 << 20;

/// Seconds after which to try again when nobody said.
const RETRY_SECONDS: u64 = 5;

/// Leave to make one attempt, and the duty to say how it went.
pub(super) struct Permit {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    ticket: Ticket,
    is_decided: bool,
}

impl Permit {
    pub(super) fn take(shared: &Arc<Shared>, seat: &Arc<Seat>) -> Result<Self, Reason> {
        let ticket = seat.breaker(|breaker| breaker.admit(shared.now()));
        let ticket = ticket.map_err(|wait| Reason::BreakerOpen { wait })?;
        Ok(Self { shared: Arc::clone(shared), seat: Arc::clone(seat), ticket, is_decided: false })
    }

    /// Tells the breaker how it went so far.
    pub(super) fn learn(&mut self, outcome: Outcome) {
        self.is_decided = true;
        self.ticket = self.seat.learn(self.ticket, outcome, self.shared.now());
    }

    /// Returns whom it is for.
    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_decided {
            self.learn(Outcome::Abandoned);
        }
    }
}

/// What came of one attempt that need not be repeated elsewhere.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// When the first of it came.
    began: Instant,
    content: Content,
}

enum Content {
    Whole(Bytes),
    Stream(Box<Source>, Opening),
}

/// How an upstream is asked to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Events,
    Whole,
}

/// What an upstream is asked.
#[derive(Debug, Clone, Copy)]
struct Question<'a> {
    call: &'a Call,
    form: Form,
    /// What the client has of the answer already.
    told: Option<&'a Told>,
    /// Whether each event is to tell how far the answer is, for us to keep.
    is_kept: bool,
}

/// Why an attempt came to nothing, with the upstream's words where they may matter.
struct Failure {
    reason: Reason,
    words: Option<Bytes>,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, words: None }
    }
}

/// A request that nobody could answer, with all that it takes to try again.
pub(super) struct Unanswered {
    pub(super) call: Call,
    pub(super) room: OwnedSemaphorePermit,
    pub(super) journey: Journey,
    /// The choices that were not there, by their places in the route's order.
    pub(super) missed: Vec<usize>,
    failures: Vec<Failure>,
}

impl Unanswered {
    /// Says so to the client.
    pub(super) fn refuse(mut self) -> Reply {
        nobody(self.failures, &mut self.journey)
    }
}

/// Has `call` answered by whoever can do it now.
pub(super) async fn infer(
    shared: &Arc<Shared>,
    state: &Arc<State>,
    call: Call,
    room: OwnedSemaphorePermit,
    mut journey: Journey,
) -> Result<Reply, Box<Unanswered>> {
    let Some(route) = state.routes.get(&call.model) else {
        journey.ended(404);
        return Ok(unknown_model(state, &call.model));
    };
    journey.route(&call.model);
    let choices = look(shared, state, route, &call).await;
    let decision = policy::decide(&route.spec, &choices, &call.features);
    if decision.attempts.is_empty() && decision.passed_over.is_empty() {
        journey.ended(404);
        let message = format!("model {:?} is not served by this host itself", call.model);
        return Ok(reply::refuse(StatusCode::NOT_FOUND, "model_not_found", &message));
    }
    let (mut failures, mut missed) = (Vec::<Failure>::new(), Vec::new());
    let mut passed_over = decision.passed_over.into_iter().peekable();
    let mut attempts = VecDeque::from(decision.attempts);
    let mut waiting = decision.waiting;
    let mut vigil: Option<Vigil> = None;
    loop {
        let next = attempts.pop_front();
        // who comes behind in the order would not have been asked anyway
        let is_due = |(choice, _): &(usize, Reason)| next.is_none_or(|attempt| *choice < attempt.choice);
        while let Some((choice, reason)) = passed_over.next_if(is_due) {
            missed.extend(reason.is_away().then_some(choice));
            journey.failed(&route.seats[choice].name, &reason);
            failures.push(reason.into());
        }
        let turn = match next {
            Some(attempt) => Turn::Ask(attempt),
            None => wait(shared, route, &mut vigil, &mut waiting).await,
        };
        let attempt = match turn {
            Turn::Ask(attempt) => attempt,
            Turn::GiveUp(choice, reason) => {
                journey.failed(&route.seats[choice].name, &reason);
                failures.push(reason.into());
                continue;
            }
            Turn::Over => break,
        };
        let policy::Attempt { choice, deadlines } = attempt;
        let seat = &route.seats[choice];
        let started = Instant::now();
        let is_kept = is_kept(route, &choices, &call, choice);
        let mut permit = Permit::take(shared, seat);
        let outcome = match &mut permit {
            Ok(permit) => tokio::select! {
                outcome = try_once(shared, seat, &call, is_kept, &deadlines, started, permit) => outcome,
                () = shared.stop.cancelled() => Err(Reason::Stopping.into()),
            },
            Err(reason) => Err(reason.clone().into()),
        };
        let failure = match (outcome, permit) {
            (Ok(answer), Ok(permit)) => {
                rouse::notice(shared, state, seat, Presence::There);
                if let Some(vigil) = &vigil {
                    journey.failed(&seat.name, &Reason::Woken { seconds: vigil.waited().as_secs() });
                }
                // a router that asked for it ends the answer itself
                let terms = Terms { is_single: call.terms.is_single && !call.wants_progress, ..call.terms };
                // where nobody will go on with the answer, the request is not needed any more
                let rest = is_kept.then(|| Rest::new(call, room, choice));
                let told = Told::new(terms, rest.is_some());
                let patience = (deadlines.between_tokens, started + deadlines.total);
                return Ok(answered(state, answer, permit, journey, patience, |stream, journey| {
                    Relay::new(shared, state, stream, (told, rest), journey)
                }));
            }
            (Err(failure), Ok(mut permit)) => {
                permit.learn(failure.reason.outcome());
                failure
            }
            (Err(failure), Err(_)) => failure,
            // without a permit there was no attempt
            (Ok(_), Err(reason)) => reason.into(),
        };
        let notice = rouse::notice(shared, state, seat, failure.reason.presence());
        match &mut vigil {
            // it has just come up and is still starting: what it says meanwhile is no news
            Some(vigil) if failure.reason.is_of_starting() && vigil.has_time() => {
                tokio::select! {
                    () = vigil.again(shared, route, attempt) => continue,
                    () = shared.stop.cancelled() => {}
                }
            }
            None if notice == Notice::Waking => waiting.push(attempt),
            _ => {}
        }
        journey.failed(&seat.name, &failure.reason);
        let is_stopping = failure.reason == Reason::Stopping;
        missed.extend(failure.reason.is_away().then_some(choice));
        failures.push(failure);
        if let Notice::LeftAlone(rest) = notice {
            let reason = Reason::NotWoken { seconds: None, retry_after: Some(rest.as_secs() + 1) };
            journey.failed(&seat.name, &reason);
            failures.push(reason.into());
        }
        if is_stopping {
            break;
        }
    }
    Err(Box::new(Unanswered { call, room, journey, missed, failures }))
}

/// Waits for machines that are being woken, once nobody else is left to ask.
async fn wait(
    shared: &Shared,
    route: &Route,
    vigil: &mut Option<Vigil>,
    waiting: &mut Vec<policy::Attempt>,
) -> Turn {
    let vigil = if let Some(vigil) = vigil {
        vigil
    } else {
        let Some(first) = waiting.iter().map(|attempt| attempt.choice).min() else { return Turn::Over };
        let Some(begun) = Vigil::begin(shared, route, std::mem::take(waiting)) else {
            return Turn::GiveUp(first, Reason::TooManyWait);
        };
        vigil.insert(begun)
    };
    tokio::select! {
        turn = vigil.turn(shared) => turn,
        () = shared.stop.cancelled() => Turn::Over,
    }
}

/// Returns whether an answer of `choice` is kept in mind for others to go on with.
fn is_kept(route: &Route, choices: &[Choice], call: &Call, choice: usize) -> bool {
    let kinds: Vec<Kind> = choices.iter().map(|choice| choice.kind).collect();
    call.is_stream
        && call.terms.is_single
        && call.body.len() <= LARGEST_KEPT
        && policy::has_heir(&route.spec, &kinds, &call.features, choice)
}

/// Looks at the breakers, and at the engines' queues where the route has a limit for them or
/// for what they make of the wait, and somebody else to ask.
pub(super) async fn look(shared: &Shared, state: &State, route: &Route, call: &Call) -> Vec<Choice> {
    let has_limit = route.spec.overflow_queue.is_some() || route.spec.overflow_wait_seconds.is_some();
    let wants_queue = has_limit && route.seats.len() > 1 && !call.features.is_hop;
    let mut choices = Vec::with_capacity(route.seats.len());
    for seat in &route.seats {
        let is_local = seat.kind == Kind::Local;
        let wait = seat.breaker(|breaker| breaker.wait(shared.now()));
        let Queue { queued, seconds } = if wants_queue && is_local && wait.is_none() {
            health::queue(&*shared.dial, seat).await
        } else {
            Queue::default()
        };
        let standing = seat.wake.map(|wake| shared.dormitory.sleeper(wake).standing());
        let waking = match standing {
            Some(Standing::Waking { since }) => Some(shared.now().saturating_sub(since)),
            _ => None,
        };
        let is_cordoned = is_local && state.is_cordoned;
        choices.push(Choice { kind: seat.kind, is_cordoned, wait, queued, slot_in: seconds, waking });
    }
    choices
}

/// Makes one attempt: to where nothing can go wrong any more that the client would not see.
/// That is the first token where the client wants a stream, and the end otherwise.
async fn try_once(
    shared: &Shared,
    seat: &Seat,
    call: &Call,
    is_kept: bool,
    deadlines: &Deadlines,
    started: Instant,
    permit: &mut Permit,
) -> Result<Answer, Failure> {
    let form = if call.endpoint.has_streams() { Form::Events } else { Form::Whole };
    let question = Question { call, form, told: None, is_kept };
    let mut outcome = ask(shared, seat, question, deadlines, started).await;
    if form == Form::Events && !call.is_stream && seat.kind == Kind::Foreign && refuses(&outcome) {
        // the stream was our wish, not the client's
        let question = Question { form: Form::Whole, ..question };
        outcome = ask(shared, seat, question, deadlines, started).await;
    }
    let Answer { status, headers, began, content } = outcome?;
    permit.learn(Outcome::Answered);
    let content = match content {
        Content::Stream(source, opening) if !call.is_stream => {
            let ends = started + deadlines.total;
            let gathered = gather::gather(source, opening, call.endpoint, deadlines.between_tokens, ends);
            Content::Whole(gathered.await?)
        }
        other => other,
    };
    Ok(Answer { status, headers, began, content })
}

/// Asks for the rest of a stream of which the client has `told`, and waits for its first token.
pub(super) async fn ask_on(
    shared: &Shared,
    seat: &Seat,
    call: &Call,
    told: &Told,
    deadlines: &Deadlines,
) -> Result<(Box<Source>, Opening), Reason> {
    let question = Question { call, form: Form::Events, told: Some(told), is_kept: true };
    let started = Instant::now();
    let answer = ask(shared, seat, question, deadlines, started).await;
    match answer.map_err(|failure| failure.reason)?.content {
        Content::Stream(mut source, opening) => {
            let said = told.written(seat.kind).filter(|_| seat.kind == Kind::Foreign).unwrap_or_default();
            let ends = started + deadlines.total;
            let opening = source.behind(said, opening, deadlines.between_tokens, ends).await?;
            Ok((source, opening))
        }
        // what the client asked was answered before: it is the rest that is refused
        Content::Whole(_) => Err(Reason::NotContinued),
    }
}

/// Returns whether a server may have refused to answer with a stream, or to tell the usage
/// in one. Mistral's says 422 (<https://github.com/openai/openai-agents-python/issues/442>),
/// and llama-server said 500 where tools were named, until May 2025
/// (<https://github.com/simonw/llm-llama-server/issues/3>).
fn refuses(outcome: &Result<Answer, Failure>) -> bool {
    match outcome {
        Ok(answer) => !answer.status.is_success(),
        Err(failure) => matches!(failure.reason, Reason::Status(500 | 501)),
    }
}

/// Asks once, and waits for the first token of a stream or for the end of another answer.
async fn ask(
    shared: &Shared,
    seat: &Seat,
    question: Question<'_>,
    deadlines: &Deadlines,
    started: Instant,
) -> Result<Answer, Failure> {
    let Question { call, form, .. } = question;
    let whole = (started + deadlines.total, Reason::TotalLate);
    let (soon, late) = match form {
        Form::Events => (started + deadlines.first_token, Reason::FirstTokenLate),
        Form::Whole => whole.clone(),
    };
    let begun = begun(seat, question)?;
    let must_go_on = !begun.is_empty() && seat.kind != Kind::Foreign;
    let request = request(seat, question, begun)?;
    let response = upstream::send(&*shared.dial, &seat.target, request, deadlines.connect);
    let response = timeout_at(soon, response).await.unwrap_or_else(|_| Err(late.clone()))?;
    let rename = (seat.model.as_bytes() != call.model.as_bytes()).then(|| call.model.clone());
    let is_success = response.status().is_success();
    if is_success && must_go_on && !response.headers().contains_key(GOES_ON) {
        // an older one, which would say the whole answer again
        return Err(Reason::NotContinued.into());
    }
    let is_events = is_success && has_events(response.headers());
    match form {
        Form::Events if is_events => {
            let takes_progress = question.is_kept && seat.kind != Kind::Foreign;
            let opened = timeout_at(soon, open(response, rename, takes_progress)).await;
            opened.unwrap_or(Err(late)).map_err(Failure::from)
        }
        Form::Events if is_success && call.is_stream => Err(Reason::Malformed.into()),
        Form::Events | Form::Whole => {
            // one that sends no stream though it was asked for one has the time for a whole answer
            let (by, late) = if is_success { whole } else { (soon, late) };
            timeout_at(by, receive(response, rename)).await.unwrap_or_else(|_| Err(late.into()))
        }
    }
}

/// Returns the fields that tell an upstream what the client has of the answer; none where that is nothing.
fn begun(seat: &Seat, question: Question<'_>) -> Result<Vec<Field>, Reason> {
    let Some(told) = question.told else { return Ok(Vec::new()) };
    match (told.written(seat.kind), seat.kind) {
        (None, _) => Err(Reason::NotContinued),
        (Some(""), _) => Ok(Vec::new()),
        (Some(text), Kind::Foreign) => {
            question.call.going_on_elsewhere(text, told.tokens()).ok_or(Reason::NotContinued)
        }
        (Some(text), Kind::Local | Kind::Host) => {
            Call::going_on(text, told.tokens()).map_err(|_| Reason::Malformed)
        }
    }
}

/// Writes the request anew, with these fields in it: of the client's headers, none goes on.
fn request(
    seat: &Seat,
    question: Question<'_>,
    mut fields: Vec<Field>,
) -> Result<Request<Full<Bytes>>, Reason> {
    let Question { call, form, is_kept, .. } = question;
    if seat.model.as_bytes() != call.model.as_bytes() || seat.kind == Kind::Foreign {
        let name = seat.model.to_str().map_err(|_| Reason::Malformed)?;
        fields.push(("model", to_raw_value(name).map_err(|_| Reason::Malformed)?));
    }
    if form == Form::Events && !call.is_stream {
        let options = json!({ "include_usage": true });
        fields.push(("stream", to_raw_value(&true).map_err(|_| Reason::Malformed)?));
        fields.push(("stream_options", to_raw_value(&options).map_err(|_| Reason::Malformed)?));
    }
    let body = if fields.is_empty() {
        call.body.clone()
    } else {
        call.body_with(&fields).map_err(|_| Reason::Malformed)?
    };
    let accept = match form {
        Form::Events if call.is_stream => "text/event-stream",
        Form::Events => "text/event-stream, application/json",
        Form::Whole => "application/json",
    };
    let mut request = Request::post(format!("{}{}", seat.target.path, call.endpoint.path()))
        .header(HOST, &seat.target.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, accept)
        .header(USER_AGENT, AGENT);
    if let Some(bearer) = &seat.target.bearer {
        request = request.header(AUTHORIZATION, bearer);
    }
    if seat.kind == Kind::Host {
        request = request.header(HOP, "1");
    }
    if (is_kept || call.wants_progress) && seat.kind != Kind::Foreign {
        request = request.header(WITH_PROGRESS, "1");
    }
    request.body(Full::new(body)).map_err(|_| Reason::Malformed)
}

fn has_events(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Waits for the first token of a stream.
async fn open(
    response: Response<Driven>,
    rename: Option<String>,
    takes_progress: bool,
) -> Result<Answer, Reason> {
    let headers = response.headers().clone();
    let mut source = Box::new(Source::new(response.into_body(), rename, takes_progress));
    let opening = source.open().await?;
    let content = Content::Stream(source, opening);
    Ok(Answer { status: StatusCode::OK, headers, began: Instant::now(), content })
}

/// Reads an answer that comes at once.
async fn receive(response: Response<Driven>, rename: Option<String>) -> Result<Answer, Failure> {
    let status = response.status();
    let headers = response.headers().clone();
    let limit = if status.is_success() { LARGEST_ANSWER } else { LARGEST_ERROR };
    let body = upstream::read_whole(response.into_body(), limit).await;
    let code = body.as_ref().ok().and_then(error_code);
    let began = Instant::now();
    match policy::judge(status.as_u16(), code.as_deref(), retry_after(&headers)) {
        Verdict::Next(reason) => Err(Failure { reason, words: body.ok() }),
        Verdict::ClientsOwn => Ok(Answer { status, headers, began, content: Content::Whole(body?) }),
        Verdict::Answer => {
            let content = Content::Whole(whole(body?, rename)?);
            Ok(Answer { status: StatusCode::OK, headers, began, content })
        }
    }
}

/// Checks that an answer is a whole JSON object, and gives the model its name back.
fn whole(body: Bytes, rename: Option<String>) -> Result<Bytes, Reason> {
    let text = std::str::from_utf8(&body).map_err(|_| Reason::Malformed)?;
    let Some(model) = rename else {
        let is_object =
            text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok();
        return if is_object { Ok(body) } else { Err(Reason::Malformed) };
    };
    let mut answer: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|_| Reason::Malformed)?;
    if let Some(name) = answer.get_mut("model") {
        *name = Value::String(model);
    }
    serde_json::to_vec(&answer).map(Bytes::from).map_err(|_| Reason::Malformed)
}

fn error_code(body: &Bytes) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error")?;
    // llama-server repeats the status as the code, and says in the type what it is
    let code = error.get("code").and_then(Value::as_str).or_else(|| error.get("type")?.as_str());
    code.map(str::to_owned)
}

/// Reads `Retry-After` in seconds; longer than a minute is somebody else's idea of soon.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(seconds.clamp(1, 60))
}

/// What an answer says of itself where it came at once.
#[derive(Deserialize)]
struct Whole {
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Used {
    completion_tokens: Option<u32>,
}

fn answered(
    state: &State,
    answer: Answer,
    permit: Permit,
    mut journey: Journey,
    (between_tokens, ends): (Duration, Instant),
    relay: impl FnOnce(Stream, Journey) -> Relay,
) -> Reply {
    let seat = Arc::clone(&permit.seat);
    journey.answered_by(&seat.name, answer.began);
    let why = HeaderValue::from_str(journey.why()).ok().filter(|why| !why.is_empty());
    let mut reply = match answer.content {
        Content::Whole(body) => {
            // not what the upstream calls it: a browser shall not take it for a page
            let whole = serde_json::from_slice::<Whole>(&body);
            let is_json = whole.is_ok() || serde_json::from_slice::<IgnoredAny>(&body).is_ok();
            if let Ok(Whole { usage: Some(Used { completion_tokens: Some(tokens) }) }) = whole {
                journey.tokens(tokens);
            }
            journey.ended(answer.status.as_u16());
            let kind = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
            reply::bytes(answer.status, kind, body)
        }
        Content::Stream(source, opening) => {
            let relay = relay(Stream { source, opening, permit, between_tokens, ends }, journey);
            let mut reply = Reply::new(relay.into_body().boxed_unsync());
            let headers = reply.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            reply
        }
    };
    let headers = reply.headers_mut();
    sign(headers, state, &seat, &answer.headers);
    if let Some(why) = why {
        headers.insert(FALLBACK_REASON, why);
    }
    reply
}

/// Says who answered.
fn sign(headers: &mut HeaderMap, state: &State, seat: &Seat, theirs: &HeaderMap) {
    let upstream = HeaderValue::from_str(&seat.name).unwrap_or(HeaderValue::from_static("-"));
    let mut ours = |name: HeaderName, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    };
    ours(BY_UPSTREAM, Some(upstream.clone()));
    // a host of the fleet knows best who it is and what it runs; nobody else is believed
    let told = |name: &HeaderName| {
        let value = theirs.get(name).filter(|_| seat.kind == Kind::Host)?;
        (value.len() <= 100 && value.to_str().is_ok()).then(|| value.clone())
    };
    let (host, generation) = match seat.kind {
        Kind::Local => (HeaderValue::from_str(&state.host).ok(), Some(state.generation.number().into())),
        Kind::Host | Kind::Foreign => (Some(upstream), None),
    };
    let goes_on = theirs.get(GOES_ON).filter(|_| seat.kind != Kind::Foreign);
    ours(HeaderName::from_static(GOES_ON), goes_on.cloned());
    ours(BY_HOST, told(&BY_HOST).or(host));
    ours(BY_MODEL, Some(told(&BY_MODEL).unwrap_or_else(|| seat.model.clone())));
    ours(BY_QUANT, told(&BY_QUANT).or_else(|| seat.quant.clone()));
    ours(BY_GENERATION, told(&BY_GENERATION).or(generation));
}

/// Says that nobody answered, and why each did not.
fn nobody(failures: Vec<Failure>, journey: &mut Journey) -> Reply {
    let why = journey.why().to_owned();
    let all = |is: fn(&Reason) -> bool| failures.iter().all(|failure| is(&failure.reason));
    let soonest = failures.iter().filter_map(|failure| failure.reason.retry_after()).min();
    let is_too_long = all(|reason| *reason == Reason::ContextExceeded);
    if all(Reason::is_clients_own) {
        // it is the client's own after all: nobody here has a context that long, or can do that at all
        let words = failures.into_iter().rev().find_map(|failure| failure.words);
        journey.ended(400);
        if let Some(words) = words {
            return reply::bytes(StatusCode::BAD_REQUEST, "application/json", words);
        }
        let code = if is_too_long { "context_length_exceeded" } else { "unsupported_parameter" };
        return reply::refuse(StatusCode::BAD_REQUEST, code, &format!("nobody here can answer this: {why}"));
    }
    let (status, code) = if all(Reason::is_deadline) {
        (StatusCode::GATEWAY_TIMEOUT, "upstreams_late")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "upstreams_unavailable")
    };
    journey.ended(status.as_u16());
    reply::unable(status, code, &format!("nobody could answer: {why}"), soonest.unwrap_or(RETRY_SECONDS))
}

fn unknown_model(state: &State, model: &str) -> Reply {
    let shown: String = model.chars().take(80).collect();
    let known: Vec<&str> = state.routes.keys().map(String::as_str).collect();
    let message = format!("there is no model {shown:?} here; there are: {}", known.join(", "));
    reply::refuse(StatusCode::NOT_FOUND, "model_not_found", &message)
}
