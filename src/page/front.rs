use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{
    ALLOW, CONTENT_TYPE, COOKIE, HOST, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER, SET_COOKIE,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::sessions::{IDLE, Sessions};
use super::text::guard;
use crate::generation::Scope;
use crate::ids::Digest;

/// Where a key is exchanged for a session.
pub const SESSION: &str = "/session";

/// More than any key with what is around it, in bytes.
pub const LARGEST_KEY: usize = 4 << 10;

/// What the page shows beside its cookie.
const PROOF: HeaderName = HeaderName::from_static("x-bramble-proof");

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Where browsers find the page.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The names that it is known by, beside every address and `localhost`: a page of somebody else's whose name is
    /// led here by DNS ("rebinding") is none of them.
    pub names: &'a [String],
    /// The port.
    pub port: u16,
    /// Whether it speaks https.
    pub is_secure: bool,
}

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The key's name.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// Knows keys.
pub trait Accounts {
    /// Returns the hash of a key that is shown, and whose it is; none where it is wrong.
    fn open(&self, key: &str) -> Option<(Digest, Account)>;
    /// Returns whose key has this hash, as long as it is good.
    fn account(&self, key: &Digest) -> Option<Account>;
}

/// Lets browsers in. Outlives a reload.
#[derive(Debug, Default)]
pub struct Front(Mutex<Sessions>);

impl Front {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the hash of the key behind the session that a request comes with; none where it comes with none.
    ///
    /// # Errors
    ///
    /// When it does, and is not the page's own: the reply says so.
    pub fn key(
        &self,
        site: Site<'_>,
        head: &Parts,
        now: Duration,
    ) -> Result<Option<Digest>, Box<Response<Bytes>>> {
        let Some(value) = cookie(&head.headers, &site.cookie()) else { return Ok(None) };
        let found = self.sessions().key(value, proof(&head.headers), now);
        if found.is_some() {
            site.check(head).map_err(|why| Box::new(refuse(StatusCode::FORBIDDEN, "wrong_origin", why)))?;
        }
        Ok(found)
    }

    /// Answers what is asked at [`SESSION`], of which the body was read.
    pub fn session(
        &self,
        site: Site<'_>,
        head: &Parts,
        body: &[u8],
        accounts: &dyn Accounts,
        now: Duration,
    ) -> Response<Bytes> {
        if let Err(why) = site.check(head) {
            return refuse(StatusCode::FORBIDDEN, "wrong_origin", why);
        }
        let (name, value) = (site.cookie(), cookie(&head.headers, &site.cookie()));
        match head.method {
            Method::GET => {
                let key = value.and_then(|value| self.sessions().key(value, proof(&head.headers), now));
                reply(StatusCode::OK, &told(key.and_then(|key| accounts.account(&key)).as_ref()))
            }
            Method::DELETE => {
                if let Some(value) = value {
                    self.sessions().end(value);
                }
                with_cookie(reply(StatusCode::OK, &told(None)), &name, "", Duration::ZERO, site.is_secure)
            }
            Method::POST => {
                let is_json = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
                let shown: Option<Value> = serde_json::from_slice(body).ok().filter(|_| is_json);
                let Some(key) = shown.as_ref().and_then(|shown| shown["key"].as_str()) else {
                    return refuse(
                        StatusCode::BAD_REQUEST,
                        "invalid_json",
                        "this takes {\"key\": \"…\"} as JSON",
                    );
                };
                // a good key is let in whatever others have shown: they cannot keep its owner out
                let Some((hash, account)) = accounts.open(key) else {
                    return self.wrong_key(now);
                };
                if !account.scopes.iter().any(|scope| matches!(scope, Scope::Infer | Scope::Status)) {
                    let message = "this key is not for people: it wants the scope `infer` or `status`";
                    return refuse(StatusCode::FORBIDDEN, "scope_missing", message);
                }
                // whoever comes again leaves the session before
                if let Some(value) = value {
                    self.sessions().end(value);
                }
                let Some((value, proof)) = self.sessions().begin(hash, now) else {
                    let message = "the operating system gave no random bytes";
                    return refuse(StatusCode::SERVICE_UNAVAILABLE, "no_random", message);
                };
                let mut told = told(Some(&account));
                told["proof"] = proof.into();
                with_cookie(reply(StatusCode::OK, &told), &name, &value, IDLE, site.is_secure)
            }
            _ => {
                let mut reply = refuse(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    "this takes GET, POST and DELETE",
                );
                reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
                reply
            }
        }
    }

    /// Answers who has shown a key that opens nothing.
    fn wrong_key(&self, now: Duration) -> Response<Bytes> {
        let mut sessions = self.sessions();
        let Some(seconds) = sessions.wait(now) else {
            sessions.wrong(now);
            return refuse(StatusCode::UNAUTHORIZED, "invalid_api_key", "this key opens nothing here");
        };
        let message = format!("too many wrong keys were shown here; try again in {seconds} s");
        let mut reply = refuse(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", &message);
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        reply
    }
}

impl Site<'_> {
    /// Returns the name of its cookie. Cookies do not know ports: a name for each keeps two apart. A browser takes one
    /// that begins with `__Host-` only over https, for this very name and for all paths.
    fn cookie(&self) -> String {
        let prefix = if self.is_secure { "__Host-" } else { "" };
        format!("{prefix}bramble-{}", self.port)
    }

    /// Says why a request is not the page's own, where it is not.
    ///
    /// # Errors
    ///
    /// When its `Host` is none of the names, or another site has sent it.
    pub fn check(&self, head: &Parts) -> Result<(), &'static str> {
        let asked = authority(head).ok_or("the request has no Host")?;
        if !self.is_known(asked) {
            return Err("nobody is known by that name here: ask by the host's own name, or by its address");
        }
        let scheme = if self.is_secure { "https" } else { "http" };
        let own = format!("{scheme}://{asked}");
        let origin = text(&head.headers, &ORIGIN)?;
        let site = text(&head.headers, &FETCH_SITE)?;
        let is_reading = head.method == Method::GET || head.method == Method::HEAD;
        // a browser says where a request comes from in one of these; reading may come without them over plain HTTP, and
        // what is read so is shown to nobody else
        let is_own = match (origin, site) {
            (Some(origin), site) => {
                origin.eq_ignore_ascii_case(&own) && site.is_none_or(|site| site == "same-origin")
            }
            (None, Some(site)) => site == "same-origin" || (is_reading && site == "none"),
            (None, None) => is_reading,
        };
        if is_own { Ok(()) } else { Err("this request comes from another site") }
    }

    /// Returns whether `asked`, `NAME[:PORT]`, leads here and nowhere else.
    fn is_known(&self, asked: &str) -> bool {
        let name = match asked.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => asked,
        };
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        address.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || self.names.iter().any(|known| known.eq_ignore_ascii_case(&name))
    }
}

/// Returns whom a request asks: HTTP/2 has that beside the path.
fn authority(head: &Parts) -> Option<&str> {
    if let Some(authority) = head.uri.authority() {
        return Some(authority.as_str());
    }
    let mut values = head.headers.get_all(HOST).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    value.to_str().ok()
}

/// Returns the one value of a header; one that comes twice, or is no text, is nobody's.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, &'static str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| "this request comes from nowhere"),
        (Some(_), Some(_)) => Err("this request comes from two sites"),
    }
}

/// Returns what is shown beside a cookie.
fn proof(headers: &HeaderMap) -> &str {
    text(headers, &PROOF).ok().flatten().unwrap_or_default()
}

/// Returns the value of a cookie. HTTP/2 sends each in a header of its own.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, value)| *found == name && !value.is_empty()).map(|(_, value)| value)
}

fn with_cookie(
    mut reply: Response<Bytes>,
    name: &str,
    value: &str,
    lasts: Duration,
    is_secure: bool,
) -> Response<Bytes> {
    let secure = if is_secure { "; Secure" } else { "" };
    let line =
        format!("{name}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{secure}", lasts.as_secs());
    if let Ok(mut line) = HeaderValue::from_str(&line) {
        line.set_sensitive(true);
        reply.headers_mut().insert(SET_COOKIE, line);
    }
    reply
}

fn told(account: Option<&Account>) -> Value {
    match account {
        Some(Account { name, scopes }) => json!({ "key": name, "scopes": scopes }),
        None => json!({ "key": null, "scopes": [] }),
    }
}

fn reply(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut reply = Response::new(Bytes::from(body.to_string()));
    *reply.status_mut() = status;
    guard(&mut reply);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response<Bytes> {
    reply(status, &json!({ "error": { "message": message, "type": "invalid_request_error", "code": code } }))
}
