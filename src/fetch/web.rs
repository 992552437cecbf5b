//! One question to the hub, answered or refused with words: redirects, statuses, waits.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Error;
use super::guard::{Guard, Inside};
use super::pace::Pace;
use super::settings::{Lanes, Machine, Patience, Settings};
use super::waits::{Backoff, random, text, used_up, wait_of};
use crate::events::{Event, Events};
use crate::units::Bytes;

/// The hub redirects once to its CDN; a renamed repository adds one.
const REDIRECTS_MAX: usize = 5;

/// The way to the hub.
#[derive(Debug, Clone)]
pub(super) struct Web {
    client: reqwest::Client,
    endpoint: Url,
    bearer: Option<HeaderValue>,
    /// Whether there is a token that the endpoint does not get, and which nobody was told of yet.
    is_withheld: Arc<AtomicBool>,
    is_offline: bool,
    patience: Patience,
    lanes: Lanes,
    turns: Arc<Semaphore>,
    pace: Option<Arc<Pace>>,
    /// Seconds that the hub asked to wait before the next question.
    rest: Arc<AtomicU64>,
    machine: Machine,
    guard: Guard,
    events: Events,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    /// The address below the endpoint.
    pub path: String,
    /// How messages call it: `ORG/REPO/FILE`.
    pub what: String,
    /// `ORG/REPO`.
    pub repo: String,
    /// The revision, for messages.
    pub revision: String,
    /// The first byte, and the last one.
    pub range: Option<(u64, Option<u64>)>,
    /// The version that the range is of.
    pub if_range: Option<String>,
    /// Where an earlier answer came from: asked first, without the way there.
    pub at: Option<Url>,
}

/// An answer with status 200 or 206, or 416 to a range.
#[derive(Debug)]
pub(super) struct Answer {
    pub response: Response,
    /// Where it came from, behind all redirects.
    pub url: Url,
    /// `X-Repo-Commit`, from the hub itself.
    pub commit: Option<String>,
    /// `X-Linked-Etag`, from the hub itself: the SHA-256 of a large file.
    pub linked_etag: Option<String>,
    /// `X-Linked-Size`, from the hub itself.
    pub linked_size: Option<Bytes>,
}

impl Web {
    pub(super) fn new(settings: &Settings, machine: Machine, events: Events) -> Result<Self, Error> {
        let bad = || Error::BadEndpoint(settings.endpoint.clone());
        let mut endpoint = Url::parse(&settings.endpoint).map_err(|_| bad())?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host().is_none() {
            return Err(bad());
        }
        // below `https://mirror/hub`, `api/…` is `https://mirror/hub/api/…`
        if !endpoint.path().ends_with('/') {
            endpoint.set_path(&format!("{}/", endpoint.path()));
        }
        let is_safe = is_safe(&endpoint);
        let bearer = settings.token.as_ref().filter(|_| is_safe).map(|token| {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", token.reveal())).map_err(|_| Error::BadToken)?;
            value.set_sensitive(true);
            Ok(value)
        });
        let guard = Guard::new(machine.clone(), &settings.proxies);
        guard.name(&endpoint);
        Ok(Self {
            client: client(&endpoint, &settings.patience, &guard)?,
            bearer: bearer.transpose()?,
            is_withheld: Arc::new(AtomicBool::new(settings.token.is_some() && !is_safe)),
            endpoint,
            is_offline: settings.is_offline,
            patience: settings.patience,
            lanes: settings.lanes,
            turns: Arc::new(Semaphore::new(settings.lanes.total.max(1))),
            pace: settings.limit_rate.map(|rate| Arc::new(Pace::new(rate))),
            rest: Arc::default(),
            machine,
            guard,
            events,
        })
    }

    /// Returns the hub's address for messages.
    pub(super) fn endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// Returns the page of a repository, for people.
    pub(super) fn page(&self, repo: &str) -> String {
        format!("{}/{repo}", self.endpoint())
    }

    /// Asks for something small and returns it whole.
    pub(super) async fn ask_whole(&self, ask: &Ask, max: Bytes) -> Result<Vec<u8>, Error> {
        let mut backoff = Backoff::default();
        loop {
            let result = match self.ask_once(ask).await {
                Ok(answer) => self.read_whole(answer.response, ask, max).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(bytes) => return Ok(bytes),
                Err(error) => self.pause_after(&mut backoff, error).await?,
            }
        }
    }

    async fn read_whole(&self, mut response: Response, ask: &Ask, max: Bytes) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next_piece(&mut response, &ask.what).await? {
            if (whole.len() + piece.len()) as u64 > max.0 {
                let why = format!("it is longer than {max}");
                return Err(Error::BadAnswer { what: ask.what.clone(), why });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// Returns the next bytes of an answer; none at its end.
    pub(super) async fn next_piece(
        &self,
        response: &mut Response,
        what: &str,
    ) -> Result<Option<bytes::Bytes>, Error> {
        let piece = response.chunk().await;
        let piece = piece.map_err(|e| Error::Broken { what: what.to_owned(), source: e.without_url() })?;
        if let (Some(pace), Some(piece)) = (&self.pace, &piece) {
            pace.spend(Bytes(piece.len() as u64)).await;
        }
        Ok(piece)
    }

    /// Returns how many connections fetch what.
    pub(super) fn lanes(&self) -> Lanes {
        self.lanes
    }

    /// Waits until one more connection may be used; it is free again when the answer is dropped.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // it is never closed
        self.turns.acquire().await.ok()
    }

    /// Waits.
    pub(super) async fn pause(&self, wait: Duration) {
        (self.machine.pause)(wait).await;
    }

    /// Says something to know.
    pub(super) fn note(&self, text: &str) {
        self.events.send(Event::Note { host: None, text: text.to_owned() });
    }

    /// Waits as long as it makes sense after `error`.
    ///
    /// # Errors
    /// Gives `error` back when trying again makes no sense.
    pub(super) async fn pause_after(&self, backoff: &mut Backoff, error: Error) -> Result<(), Error> {
        let Some(wait) = backoff.after(&error, &self.patience, random()) else { return Err(error) };
        if error.wanted_wait().is_some() {
            self.note(&format!("the hub asks to wait {} s", wait.as_secs()));
        }
        tracing::debug!(%error, ?wait, "trying again");
        self.pause(wait).await;
        Ok(())
    }

    /// Keeps to what the hub has said: no more questions in this window.
    async fn rest(&self) {
        let wait = Duration::from_secs(self.rest.swap(0, Ordering::Relaxed)).min(self.patience.longest_wait);
        if !wait.is_zero() {
            self.note(&format!("the hub asks to wait {} s", wait.as_secs()));
            self.pause(wait).await;
        }
    }

    /// Asks once, following redirects. The token goes to the endpoint and nowhere else, and not there either once
    /// somebody else has sent us, or where others could read it on its way.
    pub(super) async fn ask_once(&self, ask: &Ask) -> Result<Answer, Error> {
        if self.is_offline {
            return Err(Error::Offline { what: ask.what.clone() });
        }
        let bad = |why: &str| Error::BadAnswer { what: ask.what.clone(), why: why.to_owned() };
        let named = || self.endpoint.join(&ask.path).map_err(|_| bad("its address is malformed"));
        let mut url = if let Some(at) = &ask.at {
            at.clone()
        } else {
            let url = named()?;
            self.guard.name(&url);
            url
        };
        let mut is_hub = true;
        let (mut commit, mut linked_etag, mut linked_size) = (None, None, None);
        for _ in 0..=REDIRECTS_MAX {
            is_hub &= url.origin() == self.endpoint.origin();
            if is_hub {
                self.rest().await;
            }
            let response = self.send(ask, &url, is_hub).await?;
            let headers = response.headers();
            if is_hub {
                if let Some(rest) = used_up(headers) {
                    self.rest.store(rest.as_secs(), Ordering::Relaxed);
                }
                commit = text(headers, "x-repo-commit").or(commit);
                linked_etag = text(headers, "x-linked-etag").or(linked_etag);
                linked_size = text(headers, "x-linked-size")
                    .and_then(|size| size.parse().ok().map(Bytes))
                    .or(linked_size);
            }
            let status = response.status();
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                let place = headers.get(LOCATION).and_then(|place| place.to_str().ok());
                let next = place
                    .and_then(|place| url.join(place).ok())
                    .ok_or_else(|| bad("it redirects to nowhere"))?;
                self.guard.check(&url, &next).map_err(bad)?;
                url = next;
                continue;
            }
            let is_answer = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
                || (status == StatusCode::RANGE_NOT_SATISFIABLE && ask.range.is_some());
            if is_answer {
                return Ok(Answer { response, url, commit, linked_etag, linked_size });
            }
            return Err(self.refusal(ask, status, headers, is_hub));
        }
        Err(bad("it redirects in circles"))
    }

    async fn send(&self, ask: &Ask, url: &Url, is_hub: bool) -> Result<Response, Error> {
        // no compression: offsets and sizes are those of the file
        let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let (Some(bearer), true) = (&self.bearer, is_hub) {
            request = request.header(AUTHORIZATION, bearer.clone());
        }
        if let Some((first, last)) = ask.range {
            let last = last.map(|last| last.to_string()).unwrap_or_default();
            request = request.header(RANGE, format!("bytes={first}-{last}"));
            if let Some(etag) = &ask.if_range {
                request = request.header(IF_RANGE, etag);
            }
        }
        // a signed address is a secret for as long as it is valid: it stays out of messages
        request.send().await.map_err(|error| {
            if let Some(Inside { host, address }) = Inside::among(&error) {
                return Error::Astray { what: ask.what.clone(), host: host.clone(), address: *address };
            }
            let endpoint =
                if is_hub { self.endpoint().to_owned() } else { url.origin().ascii_serialization() };
            Error::Unreachable { endpoint, source: error.without_url() }
        })
    }

    /// Puts a status that is no answer into words. The hub says more in `X-Error-Code`.
    fn refusal(&self, ask: &Ask, status: StatusCode, headers: &HeaderMap, is_hub: bool) -> Error {
        let (what, repo) = (ask.what.clone(), ask.repo.clone());
        let code = text(headers, "x-error-code").unwrap_or_default();
        let message = text(headers, "x-error-message").unwrap_or_default();
        let said = if message.is_empty() { String::new() } else { format!(": {message}") };
        let had_token = self.bearer.is_some();
        if is_hub && matches!(status.as_u16(), 401 | 403) && self.is_withheld.swap(false, Ordering::Relaxed) {
            let endpoint = self.endpoint();
            self.note(&format!(
                "the hub's token was not sent to {endpoint}: without https anybody on the way could read it; set HF_ENDPOINT to an address with https"
            ));
        }
        let page = if repo.is_empty() { what.clone() } else { self.page(&repo) };
        let not_found =
            || Error::RepoNotFound { repo: repo.clone(), endpoint: self.endpoint().to_owned(), had_token };
        match (status.as_u16(), code.as_str()) {
            (429, _) => Error::TooManyRequests { wait: wait_of(headers) },
            // 408 and 425 are said by proxies that want the same again
            (408 | 425 | 500..=599, _) => Error::Server { what, status: status.as_u16(), said },
            // behind the hub, and behind any redirect, there are only addresses that were signed
            (status @ (400..=404 | 410), _) if !is_hub && (ask.at.is_some() || !repo.is_empty()) => {
                Error::Expired { what, status }
            }
            (status, _) if repo.is_empty() => Error::LinkRefused { what, status },
            (_, "GatedRepo") if !had_token => Error::NoToken { what, page },
            // the form was sent: the owner has not answered yet, or has answered with no
            (_, "GatedRepo") if is_decided_by_owner(&message) => {
                Error::Denied { what, status: status.as_u16(), said, page }
            }
            (_, "GatedRepo") => Error::LicenceNotAccepted { what, page },
            (_, "RepoNotFound") => not_found(),
            (_, "RevisionNotFound") => Error::RevisionNotFound { repo, revision: ask.revision.clone() },
            (_, "EntryNotFound") => Error::EntryNotFound { what },
            (401, _) if had_token => Error::TokenRefused { endpoint: self.endpoint().to_owned() },
            // a repository that strangers may not see does not exist for them
            (401, _) => not_found(),
            (404, _) if ask.path.starts_with("api/") => not_found(),
            (404, _) => Error::EntryNotFound { what },
            (other, _) => Error::Denied { what, status: other, said, page },
        }
    }
}

/// Whether the hub says of a gated repository that accepting its licence is not what is
/// missing. The words are those of the hub's messages.
fn is_decided_by_owner(message: &str) -> bool {
    let message = message.to_lowercase();
    ["awaiting a review", "rejected"].iter().any(|words| message.contains(words))
}

/// Returns whether an address is on this machine, which nobody else is on the way to.
fn is_here(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns whether nobody on the way to an address can read what it is told.
fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || is_here(url)
}

fn client(endpoint: &Url, patience: &Patience, guard: &Guard) -> Result<reqwest::Client, Error> {
    // reqwest is built without a provider of its own; installing twice is no harm
    drop(rustls::crypto::ring::default_provider().install_default());
    let is_here = is_here(endpoint);
    let begin = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("bramble/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .dns_resolver(Arc::new(guard.clone()))
            .connect_timeout(patience.connect)
            .read_timeout(patience.idle);
        // a proxy cannot reach what listens on this machine only
        if is_here { builder.no_proxy() } else { builder }
    };
    // The system's roots (or SSL_CERT_FILE). A machine without any can still use a hub of
    // its own over plain HTTP.
    match begin().build() {
        Err(_) if endpoint.scheme() == "http" => {
            begin().tls_certs_only(Vec::new()).build().map_err(Error::Client)
        }
        result => result.map_err(Error::Client),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::settings::Token;
    use super::*;

    /// The way to a hub, with a token, and what it says.
    fn web(endpoint: &str) -> (Web, Arc<Mutex<Vec<Event>>>) {
        let said: Arc<Mutex<Vec<Event>>> = Arc::default();
        let events = Arc::clone(&said);
        let events = Events::new(move |event| events.lock().unwrap().push(event));
        let settings = Settings {
            endpoint: endpoint.to_owned(),
            token: Token::new("hf_secret"),
            ..Settings::read(|_| None)
        };
        (Web::new(&settings, Machine::default(), events).unwrap(), said)
    }

    #[test]
    fn a_token_goes_over_https_and_within_this_machine_only() {
        for safe in [
            "https://huggingface.co/",
            "https://mirror.lan:8443/hub/",
            "http://127.0.0.1:8080/",
            "http://127.8.9.1/",
            "http://[::1]:8080/",
            "http://localhost:8080/",
            "http://LOCALHOST/",
        ] {
            assert!(is_safe(&Url::parse(safe).unwrap()), "{safe}");
        }
        for overheard in [
            "http://huggingface.co/",
            "http://mirror.lan/",
            "http://192.168.1.9:8080/",
            "http://[fd00::1]/",
            "http://127.example/",
            "http://127.0.0.1.example/",
            "http://localhost.example/",
            "http://localhost@mirror.lan/",
        ] {
            assert!(!is_safe(&Url::parse(overheard).unwrap()), "{overheard}");
        }
    }

    #[test]
    fn whoever_has_a_token_that_is_not_sent_is_told_so_once_it_is_missed() {
        let ask = Ask { repo: "org/tiny".to_owned(), what: "org/tiny".to_owned(), ..Ask::default() };
        let headers = HeaderMap::new();
        let (mirror, said) = web("http://mirror.lan");
        assert!(mirror.bearer.is_none());
        mirror.refusal(&ask, StatusCode::NOT_FOUND, &headers, true);
        assert!(said.lock().unwrap().is_empty());
        for _ in 0..2 {
            let error = mirror.refusal(&ask, StatusCode::UNAUTHORIZED, &headers, true);
            assert!(matches!(error, Error::RepoNotFound { had_token: false, .. }), "{error}");
        }
        let said = said.lock().unwrap();
        let [Event::Note { text, .. }] = &said[..] else { panic!("{said:?}") };
        assert!(text.starts_with("the hub's token was not sent to http://mirror.lan: "), "{text}");

        let (here, said) = web("http://127.0.0.1:1");
        let error = here.refusal(&ask, StatusCode::UNAUTHORIZED, &headers, true);
        assert!(here.bearer.is_some() && matches!(error, Error::TokenRefused { .. }), "{error}");
        assert!(said.lock().unwrap().is_empty());
    }
}
