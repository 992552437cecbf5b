use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Fleet;
use crate::ids::HostName;
use crate::status::{Door, body};

/// How often a door is asked while somebody looks: as often as the page asks here.
const EVERY: Duration = Duration::from_secs(2);

/// How long after the last look nobody is taken to look any more.
const LOOKING: Duration = Duration::from_secs(10);

/// How long a door may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// More than any door tells, in bytes.
const LARGEST: usize = 1 << 20;

/// What the doors have told last.
pub(super) struct Watch {
    told: Mutex<BTreeMap<HostName, Value>>,
    looked: watch::Sender<Instant>,
}

impl Watch {
    /// Begins to ask all doors of `fleet`. It ends with the tasks' runtime, or when nobody holds it any more.
    pub(super) fn begin(fleet: &Fleet) -> Arc<Self> {
        let unknown = |host: &HostName| (host.clone(), without_status(host, "unknown", None));
        let told = Mutex::new(fleet.doors.keys().map(unknown).collect());
        let this = Arc::new(Self { told, looked: watch::Sender::new(Instant::now()) });
        for (host, door) in &fleet.doors {
            let (host, door, key) = (host.clone(), door.clone(), fleet.key.clone());
            let (weak, mut looked) = (Arc::downgrade(&this), this.looked.subscribe());
            tokio::spawn(async move {
                loop {
                    let value = match ask(&door, &key).await {
                        Ok(status) => of_door(&host, status),
                        Err(Failure { is_open, why }) => {
                            without_status(&host, if is_open { "open" } else { "closed" }, Some(&why))
                        }
                    };
                    let Some(this) = weak.upgrade() else { return };
                    this.told().insert(host.clone(), value);
                    drop(this);
                    tokio::time::sleep(EVERY).await;
                    let is_looking = looked.borrow_and_update().elapsed() < LOOKING;
                    if !is_looking && looked.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
        this
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<HostName, Value>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the hosts as they were last, by name, and has them asked again.
    pub(super) fn look(&self) -> Vec<Value> {
        self.looked.send_replace(Instant::now());
        self.told().values().cloned().collect()
    }
}

/// Why a door did not tell.
struct Failure {
    is_open: bool,
    why: String,
}

/// Returns what lies below all else that went wrong: what the layers above say of it is the same for every cause.
fn innermost(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Asks a door what it tells of its host.
async fn ask(door: &Door, key: &str) -> Result<Map<String, Value>, Failure> {
    let closed = |error: reqwest::Error| {
        let why = if error.is_timeout() {
            format!("it does not answer within {} s", PATIENCE.as_secs())
        } else {
            innermost(&error)
        };
        Failure { is_open: false, why }
    };
    let open = |why: &str| Failure { is_open: true, why: why.to_owned() };
    let client = door.client(PATIENCE, PATIENCE).map_err(closed)?;
    let mut reply =
        client.get(format!("{}/status", door.url)).bearer_auth(key).send().await.map_err(closed)?;
    match reply.status().as_u16() {
        200 => {}
        401 | 403 => {
            return Err(open(
                "it does not know the operator's key of this machine: `bramble apply` brings it",
            ));
        }
        404 => {
            return Err(open("its program is too old to tell how it is: `bramble apply` brings another"));
        }
        status => return Err(open(&format!("it answered {status}"))),
    }
    let said = body(&mut reply, LARGEST).await.map_err(closed)?;
    let Some(said) = said else { return Err(open("it tells more than any host has to tell")) };
    let told: Option<Value> = serde_json::from_slice(&said).ok();
    match told.and_then(|mut told| told.pointer_mut("/hosts/0").map(Value::take)) {
        Some(Value::Object(host)) => Ok(host),
        _ => Err(open("it says nothing that this version understands")),
    }
}

/// Returns what a door has told, under the name of the host that was asked.
fn of_door(host: &HostName, mut told: Map<String, Value>) -> Value {
    told.insert("host".to_owned(), json!(host));
    told.insert("state".to_owned(), "open".into());
    Value::Object(told)
}

fn without_status(host: &HostName, state: &str, why: Option<&str>) -> Value {
    json!({ "host": host, "state": state, "why": why, "engines": [], "upstreams": [], "requests": [] })
}
