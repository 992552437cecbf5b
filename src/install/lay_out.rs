use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::Owner;
use super::lock::Lock;
use super::marker::Marker;
use super::record::Pending;
use super::stand::{self, Stand};
use super::{Error, Supervisor, files, guard, inspect, program};
use crate::generation::{Definition, FORMAT, Layout, Secrets};
use crate::ids::Generation;
use crate::store;
use crate::unit::Unit;

/// What `install` needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstallRequest {
    /// Its number, higher than any that is in use.
    pub generation: Generation,
    /// What it runs.
    pub definition: Definition,
    /// Its units; empty on a host without systemd.
    pub units: Vec<Unit>,
    /// Its secrets.
    pub secrets: Secrets,
    /// The generation that was in force when this was decided.
    pub from: Option<Generation>,
    /// Take the host over from another fleet.
    #[serde(default)]
    pub adopt: bool,
}

/// What `install` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The generation.
    pub generation: Generation,
    /// Whether it was laid out already, just so.
    pub was_there: bool,
}

/// Lays a generation out beside those that are there. What runs is not touched.
///
/// Everything that it names must be here already: blobs of the right size, the program.
pub async fn install(
    layout: &Layout,
    lease: u64,
    supervisor: &dyn Supervisor,
    request: InstallRequest,
) -> Result<Installation, Error> {
    let InstallRequest { generation, definition, units, secrets, from, adopt } = request;
    if definition.format != FORMAT {
        return Err(Error::Format { what: "definition", found: definition.format, known: FORMAT });
    }
    // before the folder is made or touched
    Marker::check(layout, &definition.fleet, adopt)?;
    files::make_dir(layout.root())?;
    let _lock = Lock::take(layout, lease, "install")?;
    let marker = Marker::check(layout, &definition.fleet, adopt)?;
    check_unmoved(layout, from)?;
    check_contents(layout, &definition)?;
    check_names(&units)?;

    let (owner, made_user) = service_user(supervisor).await?;
    let made_user = made_user || marker.as_ref().is_some_and(|marker| marker.made_user);
    let made_linger = supervisor.linger().await? || marker.as_ref().is_some_and(|marker| marker.made_linger);
    let wanted_marker = Marker { fleet: definition.fleet.clone(), made_user, made_linger };
    if marker.as_ref() != Some(&wanted_marker) {
        wanted_marker.write(layout)?;
    }
    make_run_dir(layout, owner)?;
    guard::lay_down(layout)?;

    let wanted = Stand { number: generation, definition, units, secrets: Some(secrets) };
    let there = Stand::read(layout, generation).ok();
    let was_there = there.is_some_and(|there| there == wanted);
    if was_there {
        return Ok(Installation { generation, was_there });
    }
    let dir = layout.generation(generation);
    if dir.exists() && is_in_use(layout, generation)? {
        return Err(Error::InUse(generation));
    }
    check_first_use(layout, &wanted.definition)?;
    let made = lay_out(layout, &wanted)?;
    if let Err(error) = supervisor.verify(&wanted.units, &made).await {
        files::remove_tree(&made)?;
        return Err(error);
    }
    files::remove_tree(&dir)?;
    files::rename(&made, &dir)?;
    Ok(Installation { generation, was_there })
}

/// Writes everything of a generation to a folder beside its place, synced.
fn lay_out(layout: &Layout, wanted: &Stand) -> Result<PathBuf, Error> {
    let generations = layout.root().join("generations");
    files::make_dir(&generations)?;
    let made = generations.join(format!(".new-{}", wanted.number));
    files::remove_tree(&made)?;
    for dir in [made.clone(), made.join("units"), made.join("models")] {
        files::make_dir(&dir)?;
    }
    files::write(&Layout::definition(&made), &files::json("the definition", &wanted.definition)?, 0o644)?;
    files::write(&Layout::secrets(&made), &files::json("the secrets", &wanted.secrets)?, 0o600)?;
    for unit in &wanted.units {
        files::write(&made.join("units").join(&unit.name), unit.text.as_bytes(), 0o644)?;
    }
    let link =
        |target: PathBuf, link: PathBuf| symlink(target, &link).map_err(Error::io("make the link", &link));
    link(layout.program(&wanted.definition.program.digest), made.join("program"))?;
    for spec in &wanted.definition.engines {
        let digest = spec.weights.digest.ok_or_else(|| Error::NoDigest { model: spec.model.to_string() })?;
        link(layout.blob(&digest), Layout::weights(&made, &spec.model))?;
    }
    let inodes = stand::inodes(layout, &wanted.definition);
    files::write(&Layout::inodes(&made), &files::json("the inodes", &inodes)?, 0o644)?;
    for dir in [made.join("models"), made.join("units"), made.clone()] {
        files::sync_dir(&dir)?;
    }
    Ok(made)
}

/// Checks that what is in force is what it was when the installation was decided. Whoever slept over a change that
/// somebody else began and ended has the lease now, and knows nothing of it.
fn check_unmoved(layout: &Layout, planned: Option<Generation>) -> Result<(), Error> {
    // as whoever decides sees it: what cannot be read counts as none, or, where its program was lost, by its name
    let found = Stand::current(layout).ok().flatten().map(|stand| stand.number);
    let is_named = planned.is_some() && planned == stand::current(layout);
    // the host itself, since nobody confirmed, and nobody has changed it since
    let is_back =
        inspect::guards(layout).is_some_and(|(taken, back)| planned == Some(taken) && found == back);
    if found == planned || is_named || is_back { Ok(()) } else { Err(Error::Moved { planned, found }) }
}

/// Checks that blobs and program are here: sealed, and of the right size.
fn check_contents(layout: &Layout, definition: &Definition) -> Result<(), Error> {
    for spec in &definition.engines {
        let digest = spec.weights.digest.ok_or_else(|| Error::NoDigest { model: spec.model.to_string() })?;
        let wanted = spec.weights.bytes.0;
        match fs::metadata(layout.blob(&digest)) {
            Ok(blob) if blob.is_file() && blob.len() == wanted => {}
            Ok(blob) if blob.is_file() => {
                return Err(Error::BlobSize { digest, found: blob.len(), wanted });
            }
            _ => return Err(Error::MissingBlob { digest }),
        }
    }
    let digest = definition.program.digest;
    let is_there = fs::metadata(layout.program(&digest).join("brambled")).is_ok_and(|file| file.is_file());
    if is_there { Ok(()) } else { Err(Error::MissingProgram { digest }) }
}

/// Hashes those blobs that no generation uses yet, and those that were written to, or came again, since. They were hashed as they
/// arrived, part by part; what a disk or its memory has changed since is found here, before it answers anybody.
///
/// A damaged one is marked, so that it counts as missing, and the next push replaces it by what is sound of it
/// and what is not.
fn check_first_use(layout: &Layout, definition: &Definition) -> Result<(), Error> {
    let mut used = BTreeSet::new();
    for number in stand::numbers(layout)? {
        // one that cannot be read proves nothing about its blobs
        let stand = Stand::read(layout, number).ok();
        let engines = stand.into_iter().flat_map(|stand| stand.definition.engines);
        used.extend(engines.filter_map(|spec| spec.weights.digest));
    }
    for digest in definition.engines.iter().filter_map(|spec| spec.weights.digest) {
        let blob = layout.blob(&digest);
        let is_proven = || fs::metadata(&blob).is_ok_and(|blob| store::is_proven(&blob));
        if !used.insert(digest) && is_proven() {
            continue;
        }
        let found = store::prove(&blob, &digest).map_err(Error::io("read", &blob))?;
        if found != digest {
            return Err(Error::DamagedBlob { digest, found });
        }
    }
    Ok(())
}

/// Units come from the plan, which is a file: their names must not lead elsewhere.
fn check_names(units: &[Unit]) -> Result<(), Error> {
    let inner = |name: &str| name.strip_prefix("bramble-")?.strip_suffix(".service").map(crate::ids::is_name);
    match units.iter().find(|unit| inner(&unit.name) != Some(true)) {
        Some(unit) => Err(Error::Units { said: format!("{:?} is not a name of ours", unit.name) }),
        None => Ok(()),
    }
}

fn is_in_use(layout: &Layout, generation: Generation) -> Result<bool, Error> {
    let pending = Pending::read(layout)?;
    let is_pending = pending.is_some_and(|p| p.generation == generation || p.previous == Some(generation));
    Ok(is_pending || stand::current(layout) == Some(generation))
}

/// Makes sure of the user that services run as. Returns it, and whether it was made now.
async fn service_user(supervisor: &dyn Supervisor) -> Result<(Option<Owner>, bool), Error> {
    let Some(user) = supervisor.user() else { return Ok((None, false)) };
    if let Some(owner) = owner(user).await {
        return Ok((Some(owner), false));
    }
    let args = [
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
        user,
    ];
    program::must("useradd", &args, Duration::from_mins(1)).await?;
    Ok((owner(user).await, true))
}

/// Returns the numbers of a user and its group, where it exists.
pub(super) async fn owner(user: &str) -> Option<Owner> {
    Some((program::id("-u", user).await?, program::id("-g", user).await?))
}

/// Makes the folder of sockets, which the services write to.
pub(super) fn make_run_dir(layout: &Layout, owner: Option<Owner>) -> Result<(), Error> {
    let run: &Path = &layout.run_dir();
    files::make_dir(run)?;
    match owner {
        Some((user, group)) => {
            std::os::unix::fs::chown(run, Some(user), Some(group)).map_err(Error::io("give away", run))
        }
        None => Ok(()),
    }
}
