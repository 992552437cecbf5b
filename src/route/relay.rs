//! A stream on its way from an upstream to the client.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Body, Frame};
use tokio::time::Instant;

use super::journey::Journey;
use super::policy::Reason;
use super::proxy::Permit;
use super::reply;
use super::source::{Item, Opening, Source};
use crate::openai::sse::{self, DONE};

/// A stream after its first byte: from here on, what goes wrong is said in the stream.
pub(super) struct Relay {
    source: Box<Source>,
    opening: Opening,
    permit: Permit,
    journey: Journey,
    between_tokens: Duration,
    ends: Instant,
}

impl Relay {
    /// Takes over after the opening; the answer has to be whole at `ends`.
    pub(super) fn new(
        source: Box<Source>,
        opening: Opening,
        permit: Permit,
        journey: Journey,
        between_tokens: Duration,
        ends: Instant,
    ) -> Self {
        Self { source, opening, permit, journey, between_tokens, ends }
    }

    /// Returns the body of the reply. Dropping it drops the upstream's connection.
    pub(super) fn into_body(self) -> impl Body<Data = Bytes, Error = Infallible> + Send {
        StreamBody::new(stream::unfold(Some(self), |relay| async move {
            let mut relay = relay?;
            let (event, is_last) = relay.step().await;
            let rest = if is_last { None } else { Some(relay) };
            Some((Ok(Frame::data(event)), rest))
        }))
    }

    /// Returns the next of the stream, and whether it is the last.
    async fn step(&mut self) -> (Bytes, bool) {
        if let Some(event) = self.opening.held.pop_front() {
            return (sse::encode(&event.data), false);
        }
        let next = if self.opening.is_whole { Ok(Item::Done) } else { self.wait().await };
        // whatever comes of it, the client was told 200, and hears the rest in the stream
        match next {
            Ok(Item::Preamble(event) | Item::Data(event)) => (sse::encode(&event.data), false),
            Ok(Item::Done) => {
                self.journey.ended(200);
                (sse::encode(DONE), true)
            }
            Ok(Item::Error(data, reason)) => {
                self.broke(&reason);
                (sse::encode(&data), true)
            }
            Err(reason) => {
                self.broke(&reason);
                let message = format!("the answer broke off: {}: {reason}", self.permit.upstream());
                let error = reply::error_body("server_error", "upstream_failed", &message);
                (sse::encode(&error.to_string()), true)
            }
        }
    }

    async fn wait(&mut self) -> Result<Item, Reason> {
        let stop = self.permit.stop().clone();
        tokio::select! {
            next = self.source.next_within(self.between_tokens, self.ends) => next,
            () = stop.cancelled() => Err(Reason::Stopping),
        }
    }

    fn broke(&mut self, reason: &Reason) {
        self.permit.learn(reason.outcome());
        self.journey.broke(self.permit.upstream(), reason);
        self.journey.ended(200);
    }
}
