//! The verbs of `brambled` that change or show a host: JSON in, one JSON value out. Whoever changes it has
//! taken its lease before.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::record::Pending;
use super::stand::{self, Stand};
use super::{Error, Process, Supervisor, Systemd};
use crate::generation::Layout;
use crate::lease;

/// What to change on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Subcommand)]
pub enum Verb {
    /// Lay a generation out beside those that are here
    Install,
    /// Bring a generation into force and prove that it works
    Activate,
    /// Keep the generation that was activated
    Confirm,
    /// Go back to an earlier generation
    Rollback,
    /// Start services of the generation in force anew, and prove that they work
    Restart,
    /// Take no new work, or take it again
    Cordon,
    /// Remove what nothing needs any more
    Prune,
    /// Remove everything of Bramble from this host
    Remove,
}

/// Does `verb` with `request`, the JSON of its request type, and returns the JSON of its answer. `lease` is
/// the number of the operator's lease of this host.
pub async fn answer(verb: Verb, layout: &Layout, lease: u64, request: &[u8]) -> Result<Value, Error> {
    match verb {
        Verb::Install => {
            let request: super::InstallRequest = parse("install", request)?;
            let supervisor = supervisor(layout, !request.units.is_empty());
            reply(&super::install(layout, lease, &*supervisor, request).await?)
        }
        Verb::Activate => {
            let request: super::ActivateRequest = parse("activate", request)?;
            let target = Stand::read(layout, request.generation)?;
            reply(&super::activate(layout, lease, &*supervisor(layout, target.has_units()), &request).await?)
        }
        Verb::Rollback => {
            let request: super::RollbackRequest = parse("rollback", request)?;
            reply(&super::rollback(layout, lease, &*of_current(layout), &request).await?)
        }
        Verb::Confirm => {
            let request: super::ConfirmRequest = parse("confirm", request)?;
            super::confirm(layout, lease, &*of_current(layout), request).await?;
            reply(&serde_json::json!({ "confirmed": true }))
        }
        Verb::Restart => {
            let request: super::RestartRequest = parse("restart", request)?;
            reply(&super::restart(layout, lease, &*of_current(layout), &request).await?)
        }
        Verb::Cordon => {
            let request: super::CordonRequest = parse("cordon", request)?;
            reply(&super::cordon(layout, lease, &*of_current(layout), &request).await?)
        }
        Verb::Prune => reply(&super::prune(layout, lease, &parse("prune", request)?)?),
        Verb::Remove => {
            let request: super::RemoveRequest = parse("remove", request)?;
            let mut supervisors: Vec<Box<dyn Supervisor>> = vec![Box::new(Process::new(layout))];
            if is_systemd_here() && (rustix::process::geteuid().is_root() || has_units(layout)?) {
                supervisors.push(Box::new(Systemd::new(layout)));
            }
            reply(&super::remove(layout, lease, &supervisors, &request).await?)
        }
    }
}

/// Returns the JSON of what of Bramble is on this host, and how it differs from what was applied.
pub async fn inspection(layout: &Layout) -> Result<Value, Error> {
    reply(&super::inspect(layout, &*of_current(layout)).await?)
}

/// Returns the JSON of what hashing the weights in force has shown.
pub fn verification(layout: &Layout) -> Result<Value, Error> {
    reply(&super::verify(layout)?)
}

/// Does what the JSON `ask` asks about the lease of this host, and returns the JSON of the answer.
pub fn ask_for_lease(layout: &Layout, ask: &[u8]) -> Result<Value, Error> {
    reply(&lease::answer(layout, parse("lease", ask)?).map_err(Error::Lease)?)
}

/// Returns what supervises a generation: systemd where it has units.
fn supervisor(layout: &Layout, has_units: bool) -> Box<dyn Supervisor> {
    if has_units { Box::new(Systemd::new(layout)) } else { Box::new(Process::new(layout)) }
}

/// Returns what supervises the generation in force, or else the one that was pending.
pub(super) fn of_current(layout: &Layout) -> Box<dyn Supervisor> {
    let pending = || Pending::read(layout).ok().flatten().map(|pending| pending.generation);
    let number = stand::current(layout).or_else(pending);
    let stand = number.and_then(|number| Stand::read(layout, number).ok());
    supervisor(layout, stand.map_or_else(is_systemd_here, |stand| stand.has_units()))
}

/// Returns whether any generation has units: a login may have another Bramble in another folder.
fn has_units(layout: &Layout) -> Result<bool, Error> {
    let stands = stand::numbers(layout)?.into_iter().filter_map(|number| Stand::read(layout, number).ok());
    Ok(stands.into_iter().any(|stand| stand.has_units()))
}

fn is_systemd_here() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn parse<T: DeserializeOwned>(verb: &str, request: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(request)
        .map_err(|source| Error::Json { what: format!("the request of `{verb}`"), source })
}

fn reply<T: serde::Serialize>(value: &T) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|source| Error::Json { what: "the answer".to_owned(), source })
}
