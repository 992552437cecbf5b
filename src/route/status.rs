//! What this host tells of itself to who looks after it: one host in the form that `bramble ui` puts a fleet together from.

use std::fs;

use serde_json::{Value, json};

use super::door::Shared;
use super::health;
use super::state::{Kind, State};
use crate::facts::{Foretold, Measured, Receipt};
use crate::generation::{EngineSpec, Layout};

/// Returns the fleet as far as this door knows it: itself.
pub(super) async fn report(shared: &Shared, state: &State, layout: &Layout) -> Value {
    json!({
        "format": 1,
        "fleet": state.fleet,
        "at": state.host,
        "hosts": [host(shared, state, layout).await],
        "apply": null,
    })
}

async fn host(shared: &Shared, state: &State, layout: &Layout) -> Value {
    let mut health = health::report(shared, state).await;
    let vitals = shared.vitals.look();
    let mut upstreams = health["upstreams"].take();
    let told = |model: &str| {
        let entries = upstreams.as_array()?.iter();
        entries.filter(|entry| entry["model"] == model).find_map(|entry| entry.get("engine").cloned())
    };
    let measured = measured(layout, state);
    let engines: Vec<Value> = state
        .engines
        .iter()
        .map(|spec| {
            engine(
                spec,
                measured.iter().find(|measured| measured.model == spec.model),
                told(spec.model.as_str()),
            )
        })
        .collect();
    // what an engine says of itself stands with the engines
    for entry in upstreams.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        entry.remove("engine");
        let (model, upstream) = (entry["model"].as_str(), entry["upstream"].as_str());
        let seats =
            model.and_then(|model| state.routes.get(model)).into_iter().flat_map(|route| &route.seats);
        let seat = seats.into_iter().find(|seat| Some(seat.name.as_str()) == upstream);
        let kind = seat.map(|seat| match seat.kind {
            Kind::Local => "local",
            Kind::Host => "host",
            Kind::Foreign => "foreign",
        });
        entry.insert("kind".to_owned(), kind.into());
    }
    json!({
        "host": state.host,
        "state": "open",
        "why": null,
        "program": env!("CARGO_PKG_VERSION"),
        "generation": state.generation.number(),
        "cordoned": state.is_cordoned,
        "memory": { "total": vitals.total, "available": vitals.memory },
        "celsius": vitals.celsius,
        "throttled": vitals.throttled.map(|throttled| json!({
            "bits": throttled.0,
            "under_voltage_now": throttled.is_under_voltage_now(),
            "under_voltage": throttled.is_under_voltage(),
            "slowed_now": throttled.is_slowed_now(),
            "slowed": throttled.is_slowed(),
        })),
        "engines": engines,
        "upstreams": upstreams,
        "in_flight": shared.metrics.in_flight(),
        "held": shared.places.taken(),
        "requests": shared.recent.to_json(shared.now()),
    })
}

/// Puts together what the plan wants of an engine, what it was measured at, and what it says itself.
fn engine(spec: &EngineSpec, measured: Option<&Measured>, told: Option<Value>) -> Value {
    // an engine without a route here is not asked
    let health = told.unwrap_or_default();
    json!({
        "model": spec.model,
        "quant": spec.weights.quant_name(),
        "context": spec.context,
        "need": spec.need,
        // of a host of whose kind nothing is known, nothing is foretold
        "predicted": Foretold::from(spec).tokens_per_second,
        "measured": measured.and_then(|measured| measured.tokens_per_second),
        "status": health.get("status"),
        "error": health.get("error"),
        "loaded": health.get("loaded"),
        "slots": spec.slots,
        "running": health.get("running"),
        "queued": health.get("queued"),
        "wait_seconds": health.get("wait_seconds"),
        "cpu": health.get("cpu"),
        "gpu": health.get("gpu"),
    })
}

/// Returns what the engines of the generation in force were measured at as it was activated. The diary is read each
/// time: it is written after the door has read its generation.
fn measured(layout: &Layout, state: &State) -> Vec<Measured> {
    let diary =
        fs::read(layout.receipt()).ok().and_then(|text| serde_json::from_slice::<Receipt>(&text).ok());
    let entry = diary.as_ref().and_then(|diary| diary.of(state.generation));
    entry.map(|entry| entry.measured.clone()).unwrap_or_default()
}
