//! One request from its arrival to its last byte: counted once and logged once, however
//! it ends, without a word of what was asked or answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::door::Shared;
use super::metrics::{Continuation, Kind};
use super::policy::Reason;
use super::recent::Past;

/// Kept as long as the request is; dropping it is the end of the request.
pub(super) struct Journey {
    shared: Arc<Shared>,
    started: Instant,
    path: &'static str,
    key_id: String,
    is_hop: bool,
    model: String,
    upstream: String,
    continued: String,
    reason: &'static str,
    why: String,
    /// What was in `why` before the request waited.
    first_why: Option<String>,
    status: Option<u16>,
    /// When the first of the answer came.
    first: Option<Instant>,
    tokens: Option<u32>,
}

impl Journey {
    /// Begins a request on `path` with the key of that name; `is_hop` where another door has passed it on.
    pub(super) fn begin(shared: &Arc<Shared>, path: &'static str, key_id: &str, is_hop: bool) -> Self {
        shared.metrics.begin();
        Self {
            shared: Arc::clone(shared),
            started: Instant::now(),
            path,
            key_id: key_id.to_owned(),
            is_hop,
            model: "-".to_owned(),
            upstream: "-".to_owned(),
            continued: String::new(),
            reason: "-",
            why: String::new(),
            first_why: None,
            status: None,
            first: None,
            tokens: None,
        }
    }

    /// Notes the route, once it is known that there is one.
    pub(super) fn route(&mut self, model: &str) {
        model.clone_into(&mut self.model);
    }

    /// Notes why somebody did not answer. The first reason is counted.
    pub(super) fn failed(&mut self, upstream: &str, reason: &Reason) {
        if self.why.is_empty() {
            self.reason = reason.label();
        } else {
            self.why.push_str("; ");
        }
        self.why.push_str(upstream);
        self.why.push_str(": ");
        self.why.push_str(&reason.to_string());
    }

    /// Notes that it is tried again after so many seconds: of what went wrong meanwhile, only the first time is told.
    pub(super) fn begin_again(&mut self, seconds: u64) {
        let first = self.first_why.get_or_insert_with(|| std::mem::take(&mut self.why));
        self.why = format!("{first}; waited {seconds} s");
    }

    /// Notes that the answer broke off in the middle, and why; this is counted before why
    /// anybody else did not answer.
    pub(super) fn broke(&mut self, upstream: &str, reason: &Reason) {
        self.failed(upstream, reason);
        self.reason = reason.label();
    }

    /// Notes that `to` goes on with the answer that broke off at `from`.
    pub(super) fn continued(&mut self, from: &str, to: &str, reason: &Reason) {
        if !self.continued.is_empty() {
            self.continued.push_str(", ");
        }
        self.continued.push_str(to);
        self.shared.metrics.continued(Continuation {
            model: self.model.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            reason: reason.label(),
        });
    }

    /// Returns for how long the request has been here.
    pub(super) fn lasts(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the reasons so far: `local: connection refused`.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Notes who answers, and when the first of the answer came.
    pub(super) fn answered_by(&mut self, upstream: &str, began: Instant) {
        upstream.clone_into(&mut self.upstream);
        self.first = Some(began);
        self.shared.metrics.first_token(&self.model, upstream, began - self.started);
    }

    /// Notes how many tokens the answer has so far.
    pub(super) fn tokens(&mut self, tokens: u32) {
        self.tokens = Some(tokens);
    }

    /// Notes what the client was told in the end. Without it, the client went away.
    pub(super) fn ended(&mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        /// What nginx writes for a client that left.
        const CLIENT_LEFT: u16 = 499;
        let status = self.status.unwrap_or(CLIENT_LEFT);
        self.shared.metrics.end(Kind {
            model: self.model.clone(),
            upstream: self.upstream.clone(),
            reason: self.reason,
            status,
        });
        tracing::info!(
            path = self.path,
            key = self.key_id,
            model = self.model,
            upstream = self.upstream,
            continued = self.continued,
            status,
            why = self.why,
            // to the millisecond
            seconds = (self.started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            "request"
        );
        self.shared.recent.add(Past {
            at: self.shared.now(),
            path: self.path,
            key: std::mem::take(&mut self.key_id),
            is_hop: self.is_hop,
            model: std::mem::take(&mut self.model),
            upstream: std::mem::take(&mut self.upstream),
            continued: std::mem::take(&mut self.continued),
            why: std::mem::take(&mut self.why),
            status,
            took: self.started.elapsed(),
            first: self.first.map(|first| first.saturating_duration_since(self.started)),
            tokens: self.tokens,
        });
    }
}
