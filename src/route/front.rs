//! The page at the door: who may have it, and what of the rest a browser's session opens.

use std::error::Error as StdError;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};

use super::auth::Visitor;
use super::door::{Door, REQUEST_PATIENCE};
use super::reply::{self, Reply};
use super::state::State;
use crate::generation::Scope;
use crate::ids::Digest;
use crate::page::{self, Account, Accounts, LARGEST_KEY, SESSION, Site};

/// What a session opens: what the page asks for. Everything else wants the key itself.
const FOR_SESSIONS: [&str; 3] = ["/v1/chat/completions", "/v1/models", "/status"];

impl Accounts for State {
    fn open(&self, key: &str) -> Option<(Digest, Account)> {
        let visitor = self.keys.shown(key.as_bytes())?;
        Some((Digest::of(key.as_bytes()), account(visitor)))
    }

    fn account(&self, key: &Digest) -> Option<Account> {
        self.keys.hashed(key).map(account)
    }
}

fn account(visitor: Visitor) -> Account {
    let scopes = [Scope::Infer, Scope::Status].into_iter().filter(|scope| visitor.may(*scope)).collect();
    Account { name: visitor.key_id, scopes }
}

fn site(state: &State) -> Site<'_> {
    Site { names: &state.names, port: state.port, is_secure: state.tls.is_some() }
}

fn whole(reply: Response<Bytes>) -> Reply {
    reply.map(|body| Full::new(body).boxed_unsync())
}

/// Answers what is asked without a key: the page, and for a session. Gives the request back where it is neither.
pub(super) async fn answer<B>(door: &Door, state: &State, request: Request<B>) -> Result<Reply, Request<B>>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let path = request.uri().path();
    if path == "/" && (request.method() == Method::GET || request.method() == Method::HEAD) {
        return Ok(whole(page::page()));
    }
    if path != SESSION {
        return Err(request);
    }
    let (head, body) = request.into_parts();
    let body = if head.method == Method::POST {
        let reading = http_body_util::Limited::new(body, LARGEST_KEY).collect();
        let Ok(Ok(body)) = tokio::time::timeout(REQUEST_PATIENCE, reading).await else {
            let message = "the request is too large, or ended in the middle";
            return Ok(reply::refuse(StatusCode::BAD_REQUEST, "request_incomplete", message));
        };
        body.to_bytes()
    } else {
        Bytes::new()
    };
    let shared = &door.shared;
    Ok(whole(shared.front.session(site(state), &head, &body, state, shared.now())))
}

/// Returns who has a session, where the request is one of the page's own; none where it has none that is good.
pub(super) fn visitor(door: &Door, state: &State, head: &Parts) -> Result<Option<Visitor>, Box<Reply>> {
    // who shows a key as well is held to that
    if !FOR_SESSIONS.contains(&head.uri.path()) || head.headers.contains_key(AUTHORIZATION) {
        return Ok(None);
    }
    let key = door.shared.front.key(site(state), head, door.shared.now());
    // the key may have been taken back since
    key.map(|key| state.keys.hashed(&key?)).map_err(|refusal| Box::new(whole(*refusal)))
}
