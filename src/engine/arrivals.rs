//! Requests on their way in: how many, how large, and how long they may take. Whoever is slow gives way to whoever
//! comes next, so that a crowd that says nothing keeps nobody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::MAX_BODY;
use super::refusal::Refusal;
use crate::openai::ErrorBody;

/// Connections at the same time. The door of a host has 256 at most; a service may have 1024 descriptors open unless
/// told otherwise.
const MOST: usize = 900;

/// How long the head of a request may take, and then its body. The door has the whole of a request before it comes
/// here.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest head of a request.
const LARGEST_HEAD: usize = 32 << 10;

/// Bytes of bodies held at the same time.
const BODIES: usize = 4 * MAX_BODY;

/// The most values in a body. Each takes up to 250 bytes once it is read, so that 4 MiB of `{"":1},` take 270; the
/// longest contexts have 128 Ki tokens, which may come as numbers.
const MOST_VALUES: usize = 200_000;

/// How long to wait after a connection could not be accepted: without descriptors, the next one cannot be either.
const PAUSE: Duration = Duration::from_millis(100);

/// Requests that are not here whole, the oldest first. Each can be told to give way.
#[derive(Debug, Default)]
struct Arriving {
    /// By number, which only grows.
    known: Mutex<(u64, BTreeMap<u64, CancellationToken>)>,
}

impl Arriving {
    fn known(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, CancellationToken>)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one.
    fn add(self: &Arc<Self>) -> Arrival {
        let give_way = CancellationToken::new();
        let mut known = self.known();
        let number = known.0;
        known.0 += 1;
        known.1.insert(number, give_way.clone());
        Arrival { among: Arc::clone(self), number, give_way, has_head: AtomicBool::new(false) }
    }

    /// Has the oldest give way. Returns whether there is one.
    fn drop_oldest(&self) -> bool {
        let oldest = self.known().1.pop_first();
        oldest.map(|(_, give_way)| give_way.cancel()).is_some()
    }
}

/// One request that is not here whole.
#[derive(Debug)]
struct Arrival {
    among: Arc<Arriving>,
    number: u64,
    give_way: CancellationToken,
    /// Whether it can be given a reply.
    has_head: AtomicBool,
}

impl Arrival {
    /// It is here, and gives way to nobody any more.
    fn is_whole(&self) {
        self.among.known().1.remove(&self.number);
    }

    /// Waits until it has to go without a reply.
    async fn is_cut_off(&self) {
        self.give_way.cancelled().await;
        if self.has_head.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.is_whole();
    }
}

/// Answers whoever comes to `listener`, until `closing`; then lets what runs finish.
pub(super) async fn serve(listener: UnixListener, router: Router, closing: CancellationToken) {
    let arriving = Arc::new(Arriving::default());
    let places = Arc::new(Semaphore::new(MOST));
    let connections = TaskTracker::new();
    let admit = async || {
        let accepted = listener.accept().await;
        if places.available_permits() == 0 {
            arriving.drop_oldest();
        }
        (accepted, Arc::clone(&places).acquire_owned().await)
    };
    while let Some((accepted, place)) = closing.run_until_cancelled(admit()).await {
        match accepted {
            Ok((stream, _)) => {
                let conversation = converse(stream, router.clone(), arriving.add(), closing.clone());
                connections.spawn(async move {
                    conversation.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Takes one request from `stream` and answers it.
async fn converse(stream: UnixStream, router: Router, arrival: Arrival, closing: CancellationToken) {
    let (arrival, router) = (Arc::new(arrival), TowerToHyperService::new(router));
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        arrival.has_head.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(Arc::clone(&arrival));
        router.call(request)
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(LARGEST_HEAD)
            // each request is a new arrival, so that none can wait on a connection that was quick once
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = arrival.is_cut_off() => return,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// What bodies may take of the memory, all together.
#[derive(Debug)]
pub(super) struct Room(Semaphore);

impl Default for Room {
    fn default() -> Self {
        Self(Semaphore::new(BODIES))
    }
}

impl Room {
    /// Passes `request` on once its body is here.
    pub(super) async fn pass(&self, request: Request, next: Next) -> Result<Response, Refusal> {
        let (head, body) = request.into_parts();
        let arrival = head.extensions.get::<Arc<Arrival>>();
        let (body, _held) = self.read(body, arrival.map(AsRef::as_ref)).await?;
        Ok(next.run(Request::from_parts(head, body.into())).await)
    }

    /// Reads a body, within bounds of size, time, and memory for all together.
    async fn read(
        &self,
        body: Body,
        arrival: Option<&Arrival>,
    ) -> Result<(Bytes, SemaphorePermit<'_>), Refusal> {
        if body.size_hint().lower() > MAX_BODY as u64 {
            return Err(Refusal::too_large());
        }
        let give_way = arrival.map(|arrival| arrival.give_way.clone()).unwrap_or_default();
        let whole = tokio::time::timeout(PATIENCE, self.collect(body, arrival));
        match give_way.run_until_cancelled(whole).await {
            Some(Ok(whole)) => whole,
            Some(Err(_)) => {
                let body = ErrorBody::invalid("the request took too long to arrive", None, None);
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, body))
            }
            None => Err(busy()),
        }
    }

    async fn collect(
        &self,
        mut body: Body,
        arrival: Option<&Arrival>,
    ) -> Result<(Bytes, SemaphorePermit<'_>), Refusal> {
        let mut held = self.0.try_acquire_many(0).map_err(|_| busy())?;
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::bad_request("the request ended in the middle", None))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > MAX_BODY {
                return Err(Refusal::too_large());
            }
            let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let more = match self.0.try_acquire_many(bytes) {
                // whoever was here first and is not whole yet gives its room up
                Err(_) if arrival.is_some_and(|arrival| arrival.among.drop_oldest()) => {
                    self.0.acquire_many(bytes).await.map_err(|_| busy())?
                }
                more => more.map_err(|_| busy())?,
            };
            held.merge(more);
            whole.extend_from_slice(&data);
        }
        if let Some(arrival) = arrival {
            arrival.is_whole();
        }
        if values(&whole) > MOST_VALUES {
            let reason = format!("the body has more than {MOST_VALUES} values");
            return Err(Refusal::bad_request(reason, None));
        }
        Ok((whole.into(), held))
    }
}

fn busy() -> Refusal {
    Refusal::later("too many requests are being read", "busy", 1)
}

/// Returns about how many values are in `json`, without reading them.
fn values(json: &[u8]) -> usize {
    let (mut is_text, mut is_escaped, mut values) = (false, false, 0);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b',' | b'[' | b'{' if !is_text => values += 1,
            _ => (),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts() {
        for (json, count) in [
            (r#"{"model":"a,b[{","n":1}"#, 2),
            (r#"{"a":"\\",",":"\",[{"}"#, 2),
            ("[[],[],{}]", 6),
            ("", 0),
            ("\"[,", 0),
        ] {
            assert_eq!(values(json.as_bytes()), count, "{json}");
        }
    }

    #[test]
    fn the_oldest_gives_way_and_whoever_is_whole_never_does() {
        let arriving = Arc::new(Arriving::default());
        let [whole, gone, old, young] = std::array::from_fn(|_| arriving.add());
        whole.is_whole();
        drop(gone);
        assert!(arriving.drop_oldest());
        let told = [&whole, &old, &young].map(|arrival| arrival.give_way.is_cancelled());
        assert_eq!(told, [false, true, false]);
        assert!(arriving.drop_oldest() && young.give_way.is_cancelled());
        assert!(!arriving.drop_oldest());
    }
}
