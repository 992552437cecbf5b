use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::bench::kept_bench;
use super::record::Pending;
use super::stand::{self, Stand};
use super::{Error, Service, Supervisor, cordon, files, process};
use crate::causes::with_causes;
use crate::facts::{Installed, Measured, Receipt, ServiceState};
use crate::generation::Layout;
use crate::ids::{Digest, Generation};
use crate::store;
use crate::unit::engine_service;
use crate::units::Bytes;

/// Looks at what of ours is on this host, and how it differs from what was applied.
///
/// Changes nothing and takes no lock, so that it works while an activation runs, and as
/// far as they may see for others than root.
pub async fn inspect(layout: &Layout, supervisor: &dyn Supervisor) -> Result<Installed, Error> {
    let mut drift = Vec::new();
    let current = match (stand::current(layout), Stand::current(layout)) {
        (_, Ok(stand)) => stand,
        (number, Err(error)) => {
            let number = number.map(|number| number.to_string()).unwrap_or_default();
            drift
                .push(format!("generation {number} is in force and cannot be read: {}", with_causes(&error)));
            None
        }
    };
    let blobs = sizes(&layout.root().join("blobs/sha256"))?;
    let is_touched =
        |digest: &&Digest| fs::metadata(layout.blob(digest)).is_ok_and(|blob| store::is_touched(&blob));
    let touched: BTreeSet<Digest> = blobs.keys().filter(is_touched).copied().collect();
    let programs = digests(&layout.root().join("programs"))?;
    let names = current.as_ref().map(Stand::services).unwrap_or_default();
    let found = supervisor.services(&names).await?;
    if let Some(stand) = &current {
        drift.extend(contents_drift(stand, &blobs, &touched, &programs));
        let again =
            |name: &String| format!("{name} may run weights that were sent again since it was started");
        drift.extend(stand.replaced(layout).iter().map(again));
        drift.extend(supervisor.drift(&stand.units).await);
        for (name, service) in &found {
            match service.state {
                ServiceState::Running | ServiceState::Starting => {
                    let program = Layout::brambled(&layout.generation(stand.number));
                    if service.pid.is_some_and(|pid| process::runs(pid, &program) == Some(false)) {
                        drift.push(format!("{name} runs another program"));
                    }
                }
                ServiceState::Failed => drift.push(format!("{name} has failed")),
                ServiceState::Stopped => drift.push(format!("{name} does not run")),
            }
        }
    }
    drift.extend(taken_back(layout));
    Ok(Installed {
        pending: Pending::read(layout)?.map(|pending| pending.generation),
        generations: stand::numbers(layout)?,
        reserved: reserved(layout)?,
        partials: partials(layout)?,
        services: found.iter().map(|(name, service)| (name.clone(), service.state)).collect(),
        memory: found.values().filter_map(|service| process::anonymous_memory(service.pid?)).sum(),
        bench: kept_bench(layout),
        measured: current.as_ref().map(|stand| measured(layout, stand, &found)).unwrap_or_default(),
        cordon: cordon::kept(layout),
        secrets: current.as_ref().and_then(|stand| Some(stand.secrets.as_ref()?.digest())),
        current: current.map(|stand| (stand.number, stand.definition)),
        blobs,
        touched,
        programs,
        drift,
    })
}

/// Returns what the diary knows of the engines in force, with the memory that they have held until now.
fn measured(layout: &Layout, stand: &Stand, found: &BTreeMap<String, Service>) -> Vec<Measured> {
    let receipt = Receipt::read(layout);
    let entry = receipt.of(stand.number);
    let is_ours = |known: &Measured| stand.definition.engines.iter().any(|spec| spec.model == known.model);
    let until_now = |known: Measured| {
        let pid = found.get(&engine_service(&known.model)).and_then(|service| service.pid);
        Measured { memory: pid.and_then(process::peak_memory).or(known.memory), ..known }
    };
    entry.into_iter().flat_map(|entry| entry.measured.clone()).filter(is_ours).map(until_now).collect()
}

fn contents_drift(
    stand: &Stand,
    blobs: &BTreeMap<Digest, Bytes>,
    touched: &BTreeSet<Digest>,
    programs: &BTreeSet<Digest>,
) -> Vec<String> {
    let mut drift = Vec::new();
    for spec in &stand.definition.engines {
        let Some(digest) = spec.weights.digest else { continue };
        match blobs.get(&digest) {
            Some(bytes) if *bytes == spec.weights.bytes && !touched.contains(&digest) => {}
            Some(bytes) if *bytes == spec.weights.bytes => drift.push(format!(
                "the blob {} of {} may be damaged: it was written to after it was sealed, or a check found it changed",
                digest.short(),
                spec.model
            )),
            Some(bytes) => drift.push(format!(
                "the blob {} of {} has {} bytes instead of {}",
                digest.short(),
                spec.model,
                bytes.0,
                spec.weights.bytes.0
            )),
            None => drift.push(format!("the blob {} of {} is missing", digest.short(), spec.model)),
        }
    }
    let program = &stand.definition.program.digest;
    if !programs.contains(program) {
        drift.push(format!("the program {} is missing", program.short()));
    }
    drift
}

/// Says what the guard did, until the next activation.
fn taken_back(layout: &Layout) -> Option<String> {
    let Some((number, _)) = guards(layout) else {
        // what it went back from could not be read
        let is_there = layout.root().join("taken-back").exists();
        return is_there.then(|| {
            "a generation was taken back by the host itself: it was not confirmed in time".to_owned()
        });
    };
    Some(format!("generation {number} was taken back by the host itself: it was not confirmed in time"))
}

/// Returns the generation that the guard took back, and the one that it went back to, until the next activation.
pub(super) fn guards(layout: &Layout) -> Option<(Generation, Option<Generation>)> {
    let bytes = files::read(&layout.root().join("taken-back")).ok().flatten()?;
    let text = String::from_utf8_lossy(&bytes);
    let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key))?.parse().ok();
    Some((number("generation=")?, number("previous=")))
}

fn sizes(dir: &std::path::Path) -> Result<BTreeMap<Digest, Bytes>, Error> {
    let with_size = |digest: Digest| {
        let metadata = fs::symlink_metadata(dir.join(digest.to_string())).ok()?;
        metadata.is_file().then_some((digest, Bytes(metadata.len())))
    };
    Ok(digests(dir)?.into_iter().filter_map(with_size).collect())
}

/// Returns how much of each unfinished upload has arrived.
fn partials(layout: &Layout) -> Result<BTreeMap<Digest, Bytes>, Error> {
    let mut partials = sizes(&layout.root().join("partial"))?;
    for (digest, size) in &mut partials {
        let path = layout.partial(digest);
        // a bundle arrives from its start to its end, without a journal
        if store::has_journal(&path) {
            *size = store::arrived(&path);
        }
    }
    Ok(partials)
}

/// Returns what unfinished uploads have taken of the disk, whether it has arrived or not.
fn reserved(layout: &Layout) -> Result<BTreeMap<Digest, Bytes>, Error> {
    let uploads = digests(&layout.root().join("partial"))?;
    Ok(uploads.into_iter().map(|digest| (digest, store::taken(&layout.partial(&digest)))).collect())
}

pub(super) fn digests(dir: &std::path::Path) -> Result<BTreeSet<Digest>, Error> {
    Ok(files::names(dir)?.iter().filter_map(|name| name.parse().ok()).collect())
}
