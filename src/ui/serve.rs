use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::Fleet;
use super::watch::Watch;
use crate::causes::with_causes;
use crate::generation::Scope;
use crate::ids::{Digest, HostName};
use crate::page::{self, Account, Accounts, Front, LARGEST_KEY, SESSION, Site};
use crate::{clock, live};

/// The largest question, as doors have it.
const LARGEST_REQUEST: usize = 8 << 20;

/// A door that is there takes a connection at once.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest answer: the door's own deadlines are shorter.
const ANSWER: Duration = Duration::from_hours(1);

/// What the page says which door it wants to ask.
const AT: &str = "x-bramble-at";

struct Shared {
    fleet: Fleet,
    watch: Arc<Watch>,
    front: Front,
    port: u16,
    started: Instant,
    /// What is good once.
    token: Mutex<String>,
    invite: Box<dyn Fn(&str) + Send + Sync>,
}

/// Serves the page of `fleet` until `end` is over. Each link that lets a browser in is given to `invite`: the next one
/// as soon as one was used.
///
/// # Errors
///
/// When nothing can be served on `listener`, or the system has no random bytes.
pub async fn serve(
    listener: TcpListener,
    fleet: Fleet,
    invite: impl Fn(&str) + Send + Sync + 'static,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let shared = Arc::new(Shared {
        watch: Watch::begin(&fleet),
        fleet,
        front: Front::default(),
        port: listener.local_addr()?.port(),
        started: Instant::now(),
        token: Mutex::new(
            page::secret().ok_or_else(|| io::Error::other("the system gives no random bytes"))?,
        ),
        invite: Box::new(invite),
    });
    let link = shared.link(&shared.token());
    (shared.invite)(&link);
    let router = Router::new().fallback(answer).with_state(shared);
    // what still streams is the browser's to ask again: nobody waits for it
    tokio::select! {
        served = axum::serve(listener, router) => served,
        () = end => Ok(()),
    }
}

impl Shared {
    fn token(&self) -> MutexGuard<'_, String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands behind `#` a browser sends to nobody by itself, and keeps in no log.
    fn link(&self, token: &str) -> String {
        format!("http://127.0.0.1:{}/#token={token}", self.port)
    }

    fn site(&self) -> Site<'_> {
        Site { names: &[], port: self.port, is_secure: false }
    }
}

/// The name of the one account, as doors have it for the key that is asked with.
const OPERATOR: &str = "operator";

impl Accounts for Shared {
    fn open(&self, key: &str) -> Option<(Digest, Account)> {
        let mut token = self.token();
        if !bool::from(token.as_bytes().ct_eq(key.as_bytes())) {
            return None;
        }
        // used up, also where there is no chance for another
        *token = page::secret().unwrap_or_default();
        let link = (!token.is_empty()).then(|| self.link(&token));
        drop(token);
        if let Some(link) = link {
            (self.invite)(&link);
        }
        let hash = Digest::of(OPERATOR.as_bytes());
        Some((hash, self.account(&hash)?))
    }

    fn account(&self, _: &Digest) -> Option<Account> {
        Some(Account { name: OPERATOR.to_owned(), scopes: vec![Scope::Infer, Scope::Status] })
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let now = shared.started.elapsed();
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path == "/" && head.method == Method::GET {
        return page::page().map(Body::from);
    }
    if path == SESSION {
        let Ok(body) = to_bytes(body, LARGEST_KEY).await else {
            return refuse(StatusCode::BAD_REQUEST, "the request is too large, or ended in the middle");
        };
        return shared.front.session(shared.site(), &head, &body, &*shared, now).map(Body::from);
    }
    match shared.front.key(shared.site(), &head, now) {
        Err(refusal) => return refusal.map(Body::from),
        Ok(None) => {
            return refuse(StatusCode::UNAUTHORIZED, "this needs a session: open the link that was printed");
        }
        Ok(Some(_)) => {}
    }
    match (&head.method, path) {
        (&Method::GET, "/status") => status(&shared).await,
        (&Method::POST, "/v1/chat/completions") => chat(&shared, &head, body).await,
        _ => refuse(StatusCode::NOT_FOUND, "there is nothing at this path"),
    }
}

async fn status(shared: &Shared) -> Response {
    let (folder, now) = (shared.fleet.folder.clone(), clock::unix_seconds());
    let doing = tokio::task::spawn_blocking(move || live::read(&folder, now)).await.ok().flatten();
    let apply = doing.map(|doing| {
        json!({
            "verb": doing.verb, "by": doing.by, "began_ago_seconds": doing.began_ago(now), "state": doing.state,
            "works": doing.works, "notes": doing.notes,
        })
    });
    let hosts = shared.watch.look();
    let told = json!({ "format": 1, "fleet": shared.fleet.name, "at": null, "hosts": hosts, "apply": apply });
    reply(StatusCode::OK, "application/json", Body::from(told.to_string()))
}

/// Passes a question on to the door that was chosen, and its answer back as it comes.
async fn chat(shared: &Shared, head: &Parts, body: Body) -> Response {
    let at = head.headers.get(AT).and_then(|at| at.to_str().ok()?.parse::<HostName>().ok());
    let Some((host, door)) = at.and_then(|at| shared.fleet.doors.get_key_value(&at)) else {
        return refuse(StatusCode::BAD_REQUEST, "say which host is asked");
    };
    let Ok(body) = to_bytes(body, LARGEST_REQUEST).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the question is too large, or ended in the middle");
    };
    let asked = async {
        let client = door.client(CONNECT, ANSWER)?;
        let url = format!("{}/v1/chat/completions", door.url);
        let request = client.post(url).bearer_auth(&*shared.fleet.key);
        request.header(CONTENT_TYPE, "application/json").body::<Bytes>(body).send().await
    };
    let told = match asked.await {
        Ok(told) => told,
        Err(error) => {
            let why = with_causes(&error.without_url());
            return refuse(StatusCode::BAD_GATEWAY, &format!("the door of {host} does not answer: {why}"));
        }
    };
    let is_stream = told.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let kind = if is_stream { "text/event-stream" } else { "application/json" };
    let headers = told.headers().clone();
    // dropping it, where the browser has left, is what cancels the work there
    let mut reply = reply(told.status(), kind, Body::from_stream(told.bytes_stream()));
    for (name, value) in headers.iter().filter(|(name, _)| name.as_str().starts_with("x-bramble-")) {
        reply.headers_mut().insert(name.clone(), value.clone());
    }
    reply
}

fn reply(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    page::guard(&mut reply);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

fn refuse(status: StatusCode, message: &str) -> Response {
    let told = json!({ "error": { "message": message, "type": "invalid_request_error", "code": null } });
    reply(status, "application/json", Body::from(told.to_string()))
}
