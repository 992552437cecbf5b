//! A stream on its way from an upstream to the client, and on from the next where one breaks off.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::door::Shared;
use super::journey::Journey;
use super::policy::{self, Broken, Presence, Reason};
use super::proxy::{self, Permit};
use super::reply;
use super::request::Call;
use super::rouse;
use super::source::{Event, Item, Opening, Source};
use super::state::{Kind, Seat, State};
use super::told::Told;
use crate::openai::sse::{self, DONE};

/// Bytes that are set aside at a time for an answer that is kept in mind.
const KEPT_STEP: usize = 16 << 10;

/// What one upstream sends.
pub(super) struct Stream {
    /// Its events.
    pub(super) source: Box<Source>,
    /// The first of them.
    pub(super) opening: Opening,
    /// The leave to have asked it.
    pub(super) permit: Permit,
    /// How long it may be silent.
    pub(super) between_tokens: Duration,
    /// When its answer has to be whole.
    pub(super) ends: Instant,
}

/// What it takes to have somebody else go on with an answer.
pub(super) struct Rest {
    call: Call,
    /// What the request, and the answer so far, take of the memory for all.
    room: OwnedSemaphorePermit,
    /// Bytes of it that are for the answer.
    kept: usize,
    /// Who answers now, by the place in the route.
    choice: usize,
    /// Where it broke off already.
    broken: Vec<usize>,
}

impl Rest {
    /// Keeps what `choice` was asked, with the room that it takes.
    pub(super) fn new(call: Call, room: OwnedSemaphorePermit, choice: usize) -> Self {
        Self { call, room, kept: 0, choice, broken: Vec::new() }
    }
}

/// A stream after its first byte: from here on, what goes wrong is mended without a word repeated or lost, or said in
/// the stream.
pub(super) struct Relay {
    shared: Arc<Shared>,
    state: Arc<State>,
    /// None only while somebody is sought who goes on.
    stream: Option<Stream>,
    told: Told,
    /// None where nobody will go on.
    rest: Option<Rest>,
    journey: Journey,
}

impl Relay {
    /// Takes over after the opening.
    pub(super) fn new(
        shared: &Arc<Shared>,
        state: &Arc<State>,
        stream: Stream,
        (told, rest): (Told, Option<Rest>),
        journey: Journey,
    ) -> Self {
        let (shared, state) = (Arc::clone(shared), Arc::clone(state));
        Self { shared, state, stream: Some(stream), told, rest, journey }
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
        loop {
            // whatever comes of it, the client was told 200, and hears the rest in the stream
            match self.next().await {
                Ok(Item::Preamble(event) | Item::Data(event)) => {
                    if let Some(data) = self.tell(event) {
                        return (sse::encode(&data), false);
                    }
                }
                Ok(Item::Done) => {
                    self.journey.ended(200);
                    return (sse::encode(DONE), true);
                }
                Ok(Item::Error(data, reason)) => return self.mend(&reason, Some(data)).await,
                Err(reason) => return self.mend(&reason, None).await,
            }
        }
    }

    async fn next(&mut self) -> Result<Item, Reason> {
        // never none here: whoever leaves none returns the last of the stream
        let Some(stream) = &mut self.stream else { return Err(Reason::Died) };
        if let Some(event) = stream.opening.held.pop_front() {
            return Ok(Item::Data(event));
        }
        if stream.opening.is_whole {
            return Ok(Item::Done);
        }
        tokio::select! {
            next = stream.source.next_within(stream.between_tokens, stream.ends) => next,
            () = self.shared.stop.cancelled() => Err(Reason::Stopping),
        }
    }

    /// Takes note of what the client is told, as long as there is room for that.
    fn tell(&mut self, event: Event) -> Option<String> {
        let data = self.told.tell(event);
        self.journey.tokens(self.told.tokens());
        while let Some(rest) = self.rest.as_mut().filter(|rest| rest.kept < self.told.kept()) {
            let Some(more) = self.shared.room(KEPT_STEP) else {
                self.rest = None;
                self.told.forget();
                break;
            };
            rest.room.merge(more);
            rest.kept += KEPT_STEP;
        }
        data
    }

    /// Does what can be done about a stream that broke off for `reason`, with these words of the upstream's own.
    async fn mend(&mut self, reason: &Reason, words: Option<String>) -> (Bytes, bool) {
        let Some(Stream { source, mut permit, .. }) = self.stream.take() else {
            return (Bytes::new(), true);
        };
        // whatever it still does for us is for nobody
        drop(source);
        permit.learn(reason.outcome());
        let from = permit.seat().name.clone();
        self.journey.broke(&from, reason);
        let mut why = format!("{from}: {reason}");
        let can_go_on = !reason.is_final() && self.told.is_known();
        let is_spent = can_go_on && self.told.is_spent();
        if self.told.is_finished() || is_spent {
            self.journey.ended(200);
            return (self.told.ending().into(), true);
        }
        let (mut words, alone) = (words, why.len());
        if let Some(mut rest) = self.rest.take().filter(|_| can_go_on) {
            if let Some(stream) = self.go_on(&mut rest, &mut why).await {
                let to = stream.permit.seat().name.clone();
                self.told.go_on(stream.permit.seat().kind);
                self.journey.continued(&from, &to, reason);
                (self.stream, self.rest) = (Some(stream), Some(rest));
                return (format!(": continued on {to} ({from}: {reason})\n\n").into(), false);
            }
            // whoever was asked in vain has to be named as well
            words = words.filter(|_| why.len() == alone);
        }
        self.journey.ended(200);
        let error = words.unwrap_or_else(|| {
            let message = format!("the answer broke off: {why}");
            reply::error_body("server_error", "upstream_failed", &message).to_string()
        });
        (sse::encode(&error), true)
    }

    /// Has the next upstream that may go on with the answer do so; adds to `why` what the others did.
    async fn go_on(&mut self, rest: &mut Rest, why: &mut String) -> Option<Stream> {
        let (state, shared) = (Arc::clone(&self.state), Arc::clone(&self.shared));
        let route = state.routes.get(&rest.call.model)?;
        rest.broken.push(rest.choice);
        let choices = proxy::look(&shared, &state, route, &rest.call).await;
        let is_plain = self.told.written(Kind::Foreign).is_some();
        let broken = Broken { at: &rest.broken, tokens: self.told.tokens(), is_plain };
        let decision = policy::decide_rest(&route.spec, &choices, &rest.call.features, &broken);
        let mut failed = |seat: &Seat, reason: &Reason| {
            self.journey.failed(&seat.name, reason);
            *why += "; ";
            *why += &seat.name;
            *why += ": ";
            *why += &reason.to_string();
        };
        for (choice, reason) in &decision.passed_over {
            failed(&route.seats[*choice], reason);
        }
        for policy::Attempt { choice, deadlines } in decision.attempts {
            let seat = &route.seats[choice];
            let mut permit = match Permit::take(&shared, seat) {
                Ok(permit) => permit,
                Err(reason) => {
                    failed(seat, &reason);
                    continue;
                }
            };
            // each upstream has the time that its pace and the rest of the answer take
            let started = Instant::now();
            let outcome = tokio::select! {
                outcome = proxy::ask_on(&shared, seat, &rest.call, &self.told, &deadlines) => outcome,
                () = shared.stop.cancelled() => Err(Reason::Stopping),
            };
            match outcome {
                Ok((source, opening)) => {
                    rouse::notice(&shared, &state, seat, Presence::There);
                    permit.learn(super::breaker::Outcome::Answered);
                    rest.choice = choice;
                    return Some(Stream {
                        source,
                        opening,
                        permit,
                        between_tokens: deadlines.between_tokens,
                        ends: started + deadlines.total,
                    });
                }
                Err(reason) => {
                    permit.learn(reason.outcome());
                    rouse::notice(&shared, &state, seat, reason.presence());
                    failed(seat, &reason);
                    if reason == Reason::Stopping {
                        return None;
                    }
                }
            }
        }
        None
    }
}
