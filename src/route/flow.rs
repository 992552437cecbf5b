//! What runs over one connection of HTTP/2, so that nobody keeps a place, or an answer, without taking it.
//!
//! Over HTTP/1.1 the connection itself shows it. Here one stream may stand still while the connection
//! is well, and a body that nobody polls cannot look at a clock of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::reply::Reply;

/// How often it is looked at who takes nothing.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The requests of one connection.
#[derive(Default)]
pub(super) struct Flow {
    requests: watch::Sender<Requests>,
    /// By request: since when its client wants nothing of the answer that there is.
    offered: Mutex<BTreeMap<u64, Instant>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Requests {
    running: usize,
    begun: u64,
}

impl Flow {
    /// Notes that a request has begun. It ends when this is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        let mut number = 0;
        self.requests.send_modify(|requests| {
            requests.running += 1;
            requests.begun += 1;
            number = requests.begun;
        });
        Running { flow: Arc::clone(self), number }
    }

    /// Waits until nothing was asked, and nothing ran, for that long.
    pub(super) async fn idle(&self, patience: Duration) {
        let mut requests = self.requests.subscribe();
        loop {
            let Ok(quiet) = requests.wait_for(|requests| requests.running == 0).await.map(|quiet| *quiet)
            else {
                return;
            };
            let another = requests.wait_for(|requests| requests.begun != quiet.begun);
            if tokio::time::timeout(patience, another).await.is_err() {
                return;
            }
        }
    }

    /// Waits until a client has taken nothing of an answer for that long, though there is something for it.
    pub(super) async fn stalled(&self, patience: Duration) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let since = self.offered().values().min().copied();
            if since.is_some_and(|since| since.elapsed() >= patience) {
                return;
            }
        }
    }

    fn offered(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that runs.
pub(super) struct Running {
    flow: Arc<Flow>,
    number: u64,
}

impl Running {
    /// Returns the reply so that it counts as running, and keeps `place`, until its end.
    pub(super) fn watch(self, reply: Reply, place: Option<OwnedSemaphorePermit>) -> Reply {
        self.offer();
        reply.map(|inner| Watched { inner, running: self, _place: place }.boxed_unsync())
    }

    fn offer(&self) {
        self.flow.offered().insert(self.number, Instant::now());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.flow.offered().remove(&self.number);
        self.flow.requests.send_modify(|requests| requests.running -= 1);
    }
}

/// The body of an answer: asked for its next part, its client has taken the one before.
struct Watched {
    inner: UnsyncBoxBody<Bytes, Infallible>,
    running: Running,
    _place: Option<OwnedSemaphorePermit>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.running.flow.offered().remove(&self.running.number);
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if matches!(polled, Poll::Ready(Some(_))) {
            self.running.offer();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
