//! How the engines of this host are, asked when somebody wants to know.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::door::Shared;
use super::policy::Reason;
use super::proxy::AGENT;
use super::state::{Kind, Seat, State};
use super::upstream::{self, Dial};

/// An engine that answers no health question within a second hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// More than any health report.
const LARGEST: usize = 64 << 10;

/// Asks an engine for what is at `path`.
async fn get(dial: &dyn Dial, seat: &Seat, path: &str) -> Result<(StatusCode, Bytes), Reason> {
    let question = async {
        let request = Request::get(path)
            .header(HOST, &seat.target.authority)
            .header(USER_AGENT, AGENT)
            .body(Full::<Bytes>::default())
            .map_err(|_| Reason::Malformed)?;
        let response = upstream::send(dial, &seat.target, request, PATIENCE).await?;
        let (parts, body) = response.into_parts();
        Ok((parts.status, upstream::read_whole(body, LARGEST).await?))
    };
    tokio::time::timeout(PATIENCE, question).await.unwrap_or(Err(Reason::TotalLate))
}

/// Asks an engine for its health.
async fn ask(dial: &dyn Dial, seat: &Seat) -> Result<Value, Reason> {
    let (status, body) = get(dial, seat, "/health").await?;
    match serde_json::from_slice(&body) {
        Ok(report @ Value::Object(_)) => Ok(report),
        _ if status.is_success() => Ok(json!({})),
        _ => Err(Reason::Status(status.as_u16())),
    }
}

/// Returns whether an engine is ready.
pub(super) async fn is_ready(dial: &dyn Dial, seat: &Seat) -> bool {
    get(dial, seat, "/health").await.is_ok_and(|(status, _)| status.is_success())
}

/// Returns what each engine of this host counts, of those that say so.
pub(super) async fn metrics(shared: &Shared, state: &State) -> Vec<String> {
    let seats = state.routes.values().flat_map(|route| &route.seats).filter(|seat| seat.kind == Kind::Local);
    let asked = seats.map(|seat| get(&*shared.dial, seat, "/metrics"));
    let answers = futures_util::future::join_all(asked).await.into_iter().flatten();
    let told = answers.filter(|(status, _)| status.is_success());
    told.map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).collect()
}

/// How long a new request waits at an engine, as far as that says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// How many wait there.
    pub(super) queued: Option<u32>,
    /// In how many seconds there is a slot for another.
    pub(super) seconds: Option<u64>,
}

/// Asks an engine how long a new request waits.
pub(super) async fn queue(dial: &dyn Dial, seat: &Seat) -> Queue {
    let Ok(report) = ask(dial, seat).await else { return Queue::default() };
    let number = |key: &str| report.get(key).and_then(Value::as_u64);
    Queue {
        queued: number("queued").and_then(|queued| u32::try_from(queued).ok()),
        seconds: number("wait_seconds"),
    }
}

/// Returns everything that is known of the upstreams, with the engines' own reports.
pub(super) async fn report(shared: &Shared, state: &State) -> Value {
    let now = shared.now();
    let seats =
        state.routes.iter().flat_map(|(model, route)| route.seats.iter().map(move |seat| (model, seat)));
    let upstreams = futures_util::future::join_all(seats.map(|(model, seat)| async move {
        let breaker = seat.breaker(|breaker| {
            json!({
                "state": breaker.state().name(),
                "wait_seconds": breaker.wait(now).map(|wait| wait.as_secs_f64()),
            })
        });
        let mut entry = json!({ "model": model, "upstream": seat.name, "breaker": breaker });
        if let Some(wake) = seat.wake {
            let standing = shared.dormitory.sleeper(wake).standing();
            let seconds = standing.since().map(|since| now.saturating_sub(since).as_secs());
            entry["machine"] = json!({ "state": standing.name(), "since_seconds": seconds });
        }
        if seat.kind == Kind::Local {
            entry["engine"] = match ask(&*shared.dial, seat).await {
                Ok(report) => report,
                Err(reason) => json!({ "error": reason.to_string() }),
            };
        }
        entry
    }));
    json!({
        "host": state.host,
        "generation": state.generation.number(),
        "cordoned": state.is_cordoned,
        "upstreams": upstreams.await,
    })
}
