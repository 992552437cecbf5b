//! The paths: who may ask what.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::header::{ALLOW, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::auth::{self, Visitor};
use super::front;
use super::guests::Guest;
use super::health;
use super::hold::{self, Places};
use super::journey::Journey;
use super::limits::{Leave, Meters};
use super::magic::Rouse;
use super::metrics::{self, Metrics};
use super::proxy::HOP;
use super::recent::Recent;
use super::reply::{self, Reply};
use super::request::{Call, Endpoint};
use super::rouse::Dormitory;
use super::state::{self, Kind, State};
use super::status;
use super::upstream::Dial;
use crate::authority::Member;
use crate::generation::{Layout, Scope};
use crate::ids::Digest;
use crate::openai::{Begun, WITH_PROGRESS};
use crate::page::Front;
use crate::vitals;

/// The largest request. A context of 128 Ki tokens is half a MiB of English.
const LARGEST_REQUEST: usize = 8 << 20;

/// KiB of requests held at the same time, so that clients cannot fill a Pi's memory.
const REQUESTS_KIB: usize = 64 << 10;

/// How long a client may take to send its request.
pub(super) const REQUEST_PATIENCE: Duration = Duration::from_mins(1);

/// What outlives a reload.
pub(super) struct Shared {
    /// How upstreams are reached.
    pub(super) dial: Box<dyn Dial>,
    /// What is counted.
    pub(super) metrics: Metrics,
    /// Cancelled when what still runs has to end.
    pub(super) stop: CancellationToken,
    /// What each key with limits has asked.
    pub(super) meters: Meters,
    /// Where requests wait for who is expected back.
    pub(super) places: Places,
    /// The last requests.
    pub(super) recent: Recent,
    /// The sessions of browsers.
    pub(super) front: Front,
    /// Where this machine tells how it is.
    pub(super) vitals: vitals::Host,
    /// The machines that may be asleep.
    pub(super) dormitory: Dormitory,
    started: Instant,
    memory: Arc<Semaphore>,
}

impl Shared {
    /// Returns the time since the start, which breakers live by.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sets so many bytes of memory aside for one request; none where all together have too much.
    pub(super) fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.memory).try_acquire_many_owned(kib(bytes)).ok()
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// The door of one host.
pub(super) struct Door {
    /// What outlives a reload.
    pub(super) shared: Arc<Shared>,
    root: PathBuf,
    credentials: Option<PathBuf>,
    state: RwLock<Arc<State>>,
}

impl Door {
    /// Opens the door of the generation in force under `root`. What it may not read there itself, systemd has put
    /// into `credentials`. Upstreams are reached through `dial`, and their machines woken through `rouse`.
    pub(super) fn open(
        root: &Path,
        credentials: Option<PathBuf>,
        dial: Box<dyn Dial>,
        rouse: Box<dyn Rouse>,
    ) -> Result<Self, Error> {
        let shared = Shared {
            dial,
            metrics: Metrics::default(),
            stop: CancellationToken::new(),
            meters: Meters::default(),
            places: Places::default(),
            recent: Recent::default(),
            front: Front::default(),
            vitals: vitals::Host::default(),
            dormitory: Dormitory::new(rouse),
            started: Instant::now(),
            memory: Arc::new(Semaphore::new(REQUESTS_KIB)),
        };
        let state = RwLock::new(Arc::new(State::load(root, credentials.as_deref())?));
        Ok(Self { shared: Arc::new(shared), root: root.to_owned(), credentials, state })
    }

    /// Returns the generation that new requests see.
    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the program that is to serve now, where that can be read.
    pub(super) fn program_in_force(&self) -> Option<Digest> {
        state::program_in_force(&self.root)
    }

    /// Reads the generation that is in force now. Requests that run keep theirs; when it
    /// cannot be read, all keep it. Breakers begin anew: the engines do too.
    pub(super) fn reload(&self) -> Result<Arc<State>, Error> {
        let state = Arc::new(State::load(&self.root, self.credentials.as_deref())?);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state);
        Ok(state)
    }

    /// Answers one request.
    pub(super) async fn handle<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        if request.uri().path() == "/healthz" && request.method() == Method::GET {
            return reply::bytes(StatusCode::OK, "text/plain", "ok");
        }
        let state = self.state();
        let (head, body) = match front::answer(self, &state, request).await {
            Ok(reply) => return reply,
            Err(request) => request.into_parts(),
        };
        let path = head.uri.path();
        // who came in by certificate may have been revoked since
        let member = head.extensions.get::<Arc<Member>>();
        let trusted = member.filter(|member| state.tls.as_ref().is_some_and(|tls| tls.trust.holds(member)));
        let visitor = trusted.map(|member| Visitor::host(member));
        let visitor = match visitor.or_else(|| state.keys.admit(&head.headers)) {
            None => match front::visitor(self, &state, &head) {
                Ok(visitor) => visitor,
                Err(refusal) => return *refusal,
            },
            shown => shown,
        };
        let Some(visitor) = visitor else {
            let message = auth::refusal(&head.headers);
            let mut reply = reply::refuse(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
            reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return reply;
        };
        if let Some(guest) = head.extensions.get::<Arc<Guest>>() {
            guest.let_in();
        }
        let (method, scopes, endpoint) = match path {
            "/v1/chat/completions" => (Method::POST, INFER, Some(Endpoint::Chat)),
            "/v1/completions" => (Method::POST, INFER, Some(Endpoint::Completions)),
            "/v1/embeddings" => (Method::POST, INFER, Some(Endpoint::Embeddings)),
            "/tokenize" | "/v1/tokenize" => (Method::POST, INFER, Some(Endpoint::Tokenize)),
            "/detokenize" | "/v1/detokenize" => (Method::POST, INFER, Some(Endpoint::Detokenize)),
            "/v1/models" => (Method::GET, INFER, None),
            "/status" | "/health" | "/metrics" => (Method::GET, STATUS, None),
            _ => return reply::refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"),
        };
        if !scopes.iter().any(|scope| visitor.may(*scope)) {
            let wanted = if scopes.contains(&Scope::Infer) { "infer" } else { "status" };
            let message =
                format!("the key {:?} is not for this path, which wants the scope {wanted}", visitor.key_id);
            return reply::refuse(StatusCode::FORBIDDEN, "scope_missing", &message);
        }
        if head.method != method {
            let message = format!("this path takes {method}");
            let mut reply = reply::refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
            let allowed = if method == Method::POST { "POST" } else { "GET" };
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return reply;
        }
        let leave = match endpoint {
            Some(_) => match Leave::take(&self.shared, &visitor) {
                Ok(leave) => leave,
                Err(refusal) => return refusal.reply(&visitor.key_id),
            },
            None => None,
        };
        let is_hop = visitor.may(Scope::Peer) || head.headers.contains_key(HOP);
        match (endpoint, path) {
            (Some(endpoint), _) => {
                let reply = self.infer(&visitor, endpoint, is_hop, Request::from_parts(head, body)).await;
                leave.into_iter().fold(reply, |reply, leave| leave.watch(reply))
            }
            (None, "/v1/models") => models(&state, is_hop),
            (None, "/status") => {
                let report = status::report(&self.shared, &state, &Layout::new(&self.root)).await;
                reply::json(StatusCode::OK, &report)
            }
            (None, "/health") => reply::json(StatusCode::OK, &health::report(&self.shared, &state).await),
            (None, _) => {
                let engines = health::metrics(&self.shared, &state).await;
                let shared = &self.shared;
                let own = metrics::held(shared.places.taken())
                    + &shared.metrics.render(&state)
                    + &metrics::machines(&state, &shared.dormitory);
                reply::bytes(StatusCode::OK, "text/plain; version=0.0.4", own + &grouped(&engines))
            }
        }
    }

    async fn infer<B>(
        &self,
        visitor: &Visitor,
        endpoint: Endpoint,
        is_hop: bool,
        request: Request<B>,
    ) -> Reply
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let mut journey = Journey::begin(&self.shared, endpoint.path(), &visitor.key_id, is_hop);
        let wants_progress = is_hop && request.headers().contains_key(WITH_PROGRESS);
        let body = self.read(request.into_body()).await;
        let call = body.and_then(|(body, room)| match Call::parse(endpoint, body, is_hop) {
            Ok(call) if call.is_begun && !is_hop => {
                let message = format!("'{}' is for routers among themselves", Begun::FIELD);
                Err(Box::new(reply::refuse(StatusCode::BAD_REQUEST, "unsupported_parameter", &message)))
            }
            Ok(call) => Ok((Call { wants_progress, ..call }, room)),
            Err(error) => {
                let message = format!("the request is not understood: {error}");
                Err(Box::new(reply::refuse(StatusCode::BAD_REQUEST, "invalid_json", &message)))
            }
        });
        match call {
            Ok((call, room)) => hold::infer(self, call, room, journey).await,
            Err(reply) => {
                journey.ended(reply.status().as_u16());
                *reply
            }
        }
    }

    /// Reads a request's body, within bounds of size, time, and memory for all together.
    async fn read<B>(&self, body: B) -> Result<(Bytes, OwnedSemaphorePermit), Box<Reply>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let too_large = || {
            let message = format!("the request is larger than {} MiB", LARGEST_REQUEST >> 20);
            Box::new(reply::refuse(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", &message))
        };
        let hint = body.size_hint();
        if hint.lower() > LARGEST_REQUEST as u64 {
            return Err(too_large());
        }
        let most =
            hint.exact().map_or(LARGEST_REQUEST, |exact| usize::try_from(exact).unwrap_or(LARGEST_REQUEST));
        let Some(mut room) = self.shared.room(most) else {
            let message = "too many requests are being read; try again";
            let reply = reply::unable(StatusCode::SERVICE_UNAVAILABLE, "router_busy", message, 1);
            return Err(Box::new(reply));
        };
        match tokio::time::timeout(REQUEST_PATIENCE, Limited::new(body, LARGEST_REQUEST).collect()).await {
            Ok(Ok(body)) => {
                let body = body.to_bytes();
                // one that did not say its length had as much as there may be
                let spare = room.num_permits().saturating_sub(kib(body.len()) as usize);
                drop(room.split(spare));
                Ok((body, room))
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => {
                let message = "the request ended in the middle";
                Err(Box::new(reply::refuse(StatusCode::BAD_REQUEST, "request_incomplete", message)))
            }
            Err(_) => {
                let message = "the request took too long to arrive";
                Err(Box::new(reply::refuse(StatusCode::REQUEST_TIMEOUT, "request_late", message)))
            }
        }
    }
}

/// Joins what several engines count: all lines of one name together, under one word of its kind, as Prometheus wants it.
fn grouped(engines: &[String]) -> String {
    let mut series: BTreeMap<&str, (Option<&str>, Vec<&str>)> = BTreeMap::new();
    for line in engines.iter().flat_map(|text| text.lines()) {
        let (comment, rest) = match line.strip_prefix("# TYPE ") {
            Some(rest) => (Some(line), rest),
            None => (None, line),
        };
        if !rest.starts_with(ENGINES) {
            continue;
        }
        let end = rest.find(['{', ' ']).unwrap_or(rest.len());
        let (kind, lines) = series.entry(&rest[..end]).or_default();
        match comment {
            Some(comment) => *kind = Some(comment),
            None => lines.push(line),
        }
    }
    let lines = series.into_values().flat_map(|(kind, lines)| kind.into_iter().chain(lines));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// What the names of all that engines count begin with.
const ENGINES: &str = "bramble_engine_";

const INFER: &[Scope] = &[Scope::Infer, Scope::Peer];
const STATUS: &[Scope] = &[Scope::Status];

fn models(state: &State, is_hop: bool) -> Reply {
    let is_served =
        |route: &&state::Route| !is_hop || route.seats.iter().any(|seat| seat.kind == Kind::Local);
    let data: Vec<_> = state
        .routes
        .values()
        .filter(is_served)
        .map(
            |route| json!({ "id": route.spec.model, "object": "model", "created": 0, "owned_by": "bramble" }),
        )
        .collect();
    reply::json(StatusCode::OK, &json!({ "object": "list", "data": data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_count_is_grouped_by_name_and_nothing_else_is_let_in() {
        let engine = |model: &str| {
            format!(
                "# TYPE bramble_engine_running gauge\nbramble_engine_running{{model=\"{model}\"}} 1\n\
                 # TYPE bramble_engine_slots gauge\nbramble_engine_slots{{model=\"{model}\"}} 2\nbramble_generation 9\n"
            )
        };
        assert_eq!(
            grouped(&[engine("a"), engine("b")]),
            "# TYPE bramble_engine_running gauge\nbramble_engine_running{model=\"a\"} 1\n\
             bramble_engine_running{model=\"b\"} 1\n# TYPE bramble_engine_slots gauge\n\
             bramble_engine_slots{model=\"a\"} 2\nbramble_engine_slots{model=\"b\"} 2\n",
        );
    }
}
