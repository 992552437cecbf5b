//! Making weights on the operator's machine. Every step looks first whether its result is
//! in the store already: a run that was cut short goes on where it stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apply::Run;
use super::report::Made;
use crate::causes::with_causes;
use crate::checkpoint::Checkpoint;
use crate::convert::{self, PromptStyle};
use crate::events::Event;
use crate::fetch::Fetcher;
use crate::gguf::Header;
use crate::ids::Digest;
use crate::plan::{Action, Artifact, Plan};
use crate::source::Pinned;
use crate::store;
use crate::units::Bytes;
use crate::weights::{self, Order, Output, child};

/// How often it is looked whether another run has made the same weights.
const MAKING_PAUSE: Duration = Duration::from_millis(500);

/// What a plan still has to do on this machine, whose store a plan does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Bytes to fetch.
    pub fetch: Bytes,
    /// Files to make.
    pub make: usize,
}

/// Looks at what of a plan's weights is not here yet.
pub fn left(plan: &Plan, fetcher: &Fetcher) -> Result<Left, String> {
    let undone = Undone::of(plan, fetcher.store());
    let fetch = fetcher.missing_bytes(&undone.sources()).map_err(|error| with_causes(&error))?;
    Ok(Left { fetch, make: undone.made.len() })
}

/// Checks that this machine has room for all that a plan fetches and makes here, before the first byte.
pub fn check_room(plan: &Plan, fetcher: &Fetcher) -> Result<(), String> {
    let store = fetcher.store();
    let undone = Undone::of(plan, store);
    let left = |artifact: &&Artifact| artifact.bytes - weights::begun(&store.scratch(&artifact.id));
    let made = undone.made.iter().map(left).sum();
    fetcher.check_room(&undone.sources(), made).map_err(|error| with_causes(&error))
}

/// The artifacts of a plan that are not in the store.
struct Undone<'a> {
    /// All of them.
    all: Vec<&'a Artifact>,
    /// Those that are made here.
    made: Vec<&'a Artifact>,
}

impl<'a> Undone<'a> {
    fn of(plan: &'a Plan, store: &store::Store) -> Self {
        let undone = |ids: &[Digest]| {
            let artifacts = ids.iter().filter_map(|id| plan.artifact(id));
            artifacts.filter(|artifact| made_before(store, &artifact.id).is_none()).collect::<Vec<_>>()
        };
        let (mut all, mut made) = (Vec::new(), Vec::new());
        for step in plan.steps() {
            match &step.action {
                Action::Fetch { artifact, .. } => all.extend(undone(std::slice::from_ref(artifact))),
                Action::Make { artifacts } => {
                    made.extend(undone(artifacts));
                    all.extend(undone(artifacts));
                }
                _ => {}
            }
        }
        Self { all, made }
    }

    /// Returns each source once.
    fn sources(&self) -> Vec<&'a Pinned> {
        let source = |artifact: &&'a Artifact| (&artifact.recipe.source.uri, &artifact.recipe.source);
        self.all.iter().map(source).collect::<BTreeMap<_, _>>().into_values().collect()
    }
}

/// Brings an artifact's source here, unless all that comes from it is made already.
pub(super) async fn fetch(run: &Run<'_>, id: &Digest) -> Result<(), String> {
    let artifact = find(run, id)?;
    if let Some(made) = all_made(run, artifact) {
        report(run, made);
        return Ok(());
    }
    let folder =
        run.doors.fetcher.obtain(&artifact.recipe.source).await.map_err(|error| with_causes(&error))?;
    if artifact.recipe.quant.is_none() {
        // a GGUF as it is: its blob is the source's own file
        let file = &artifact.recipe.source.files[0];
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        let path = folder.join(&file.path);
        let path = if path.exists() { path } else { folder.join(name) };
        let store = run.doors.fetcher.store().clone();
        let digest = file.sha256;
        blocking(move || {
            if !store.has(&digest) {
                store.adopt(&path, &digest)?;
            }
            Ok(())
        })
        .await?;
        remember(run, artifact, store::Made { digest: file.sha256, bytes: file.bytes })?;
    }
    Ok(())
}

/// Makes all `ids`, which have one source, in one pass in a process of its own.
pub(super) async fn make(run: &Run<'_>, ids: &[Digest]) -> Result<(), String> {
    let artifacts = ids.iter().map(|id| find(run, id)).collect::<Result<Vec<_>, String>>()?;
    let Some(first) = artifacts.first().copied() else { return Ok(()) };
    let source = &first.recipe.source;
    let store = run.doors.fetcher.store();
    let making = run.unless_cancelled(right_to_make(store, ids)).await?;
    let mut missing = Vec::new();
    for artifact in artifacts {
        match made_before(store, &artifact.id) {
            Some(made) => remember(run, artifact, made)?,
            None if store.scratch(&artifact.id).exists() => take(run, artifact).await?,
            None => missing.push(artifact),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let (folder, imatrix) = run.unless_cancelled(inputs(run, first)).await?;
    let order = Order {
        source: if source.is_gguf() { folder.join(&source.files[0].path) } else { folder },
        outputs: missing.iter().filter_map(|artifact| output(store, artifact)).collect(),
        imatrix,
        may_requantize: missing.iter().all(|artifact| artifact.may_requantize),
        prompt_style: style(first)?,
        threads: 0,
    };
    let key = format!("make:{}", first.id);
    let quants: Vec<&str> = order.outputs.iter().map(|output| output.quant.name()).collect();
    let what = format!("making {} of {}", quants.join(" and "), first.model);
    let total = missing.iter().map(|artifact| artifact.bytes).sum();
    run.work(&key, &what, Some(total));
    let progress =
        |done, _| run.events.send(Event::Progress { key: key.clone(), done, from_hosts: Bytes::ZERO });
    let made = child::run(&run.doors.brambled, &order, run.cancel.cancelled(), progress).await;
    let made = made
        .map(|made| made.iter().map(|made| made.bytes).sum::<Bytes>())
        .map_err(|error| format!("cannot make {}: {}", first.model, with_causes(&error)));
    run.ended(&key, made.as_ref().map(ToString::to_string));
    made?;
    for artifact in missing {
        take(run, artifact).await?;
    }
    drop(making);
    Ok(())
}

/// Waits until no other run makes any of `ids`: what that makes is found then.
async fn right_to_make(store: &store::Store, ids: &[Digest]) -> Result<Vec<store::Making>, String> {
    // in one order for all runs, so that no two wait for each other
    let mut held = Vec::new();
    for id in ids.iter().collect::<BTreeSet<_>>() {
        held.push(loop {
            match store.try_making(id).map_err(|error| with_causes(&error))? {
                Some(making) => break making,
                None => tokio::time::sleep(MAKING_PAUSE).await,
            }
        });
    }
    Ok(held)
}

/// Brings here what an artifact is made of: its source, checked, and its importance matrix.
async fn inputs(run: &Run<'_>, artifact: &Artifact) -> Result<(PathBuf, Option<PathBuf>), String> {
    let fetcher = &run.doors.fetcher;
    let source = &artifact.recipe.source;
    let folder = fetcher.obtain(source).await.map_err(|error| with_causes(&error))?;
    let (published, summed) = (source.clone(), folder.clone());
    tokio::task::spawn_blocking(move || check_published(&published, &summed))
        .await
        .unwrap_or_else(|_| Err("the work was cut short".to_owned()))?;
    let imatrix = match &artifact.recipe.imatrix {
        Some(file) => Some(fetcher.find_file(file).await.map_err(|error| with_causes(&error))?),
        None => None,
    };
    Ok((folder, imatrix))
}

/// Takes a file that was made whole, by this run or by one that was killed, into the store.
async fn take(run: &Run<'_>, artifact: &Artifact) -> Result<(), String> {
    let store = run.doors.fetcher.store();
    let (store, scratch) = (store.clone(), store.scratch(&artifact.id));
    let taken = blocking(move || store.take(&scratch)).await?;
    remember(run, artifact, taken)
}

/// Holds weights that are added up to what the publisher of the differences tells of them, if
/// there is anything: before hours are spent on what would be wrong.
fn check_published(source: &Pinned, folder: &Path) -> Result<(), String> {
    let Some(repo) = source.parts().and(source.repository()) else { return Ok(()) };
    let checked = Checkpoint::open(folder).and_then(|sum| sum.check_published(repo));
    checked.map(drop).map_err(|error| with_causes(&error))
}

/// Returns what is to be made of an artifact, under a name that nothing else reads.
fn output(store: &store::Store, artifact: &Artifact) -> Option<Output> {
    Some(Output { quant: artifact.recipe.quant?, path: store.scratch(&artifact.id) })
}

fn style(artifact: &Artifact) -> Result<Option<PromptStyle>, String> {
    let style = artifact.recipe.prompt_style.as_deref().map(str::parse).transpose();
    style.map_err(|error: convert::Error| with_causes(&error))
}

fn find<'a>(run: &Run<'a>, id: &Digest) -> Result<&'a Artifact, String> {
    run.plan.artifact(id).ok_or_else(|| "the plan has no such weights".to_owned())
}

fn made_before(store: &store::Store, recipe: &Digest) -> Option<store::Made> {
    store.made(recipe).filter(|made| store.has(&made.digest))
}

/// Returns everything that the plan makes of an artifact's source, if all of it is here.
fn all_made(run: &Run<'_>, artifact: &Artifact) -> Option<Vec<(Digest, store::Made)>> {
    let store = run.doors.fetcher.store();
    let same_source = run.plan.artifacts.iter().filter(|other| other.recipe.source == artifact.recipe.source);
    same_source.map(|other| Some((other.id, made_before(store, &other.id)?))).collect()
}

/// Notes in the report what was made before.
fn report(run: &Run<'_>, made: Vec<(Digest, store::Made)>) {
    let made = made.into_iter().map(|(id, made)| (id, Made { digest: made.digest, bytes: made.bytes }));
    run.with(|report| report.made.extend(made));
}

/// Keeps what was made, and holds it to what the lock says that this recipe makes.
fn remember(run: &Run<'_>, artifact: &Artifact, made: store::Made) -> Result<(), String> {
    if let Some(locked) = artifact.digest
        && locked != made.digest
    {
        return Err(format!(
            "{} came out as {}, and bramble.lock says {}: the lock was made by another version of llama.cpp; delete that entry to take the new weights",
            artifact.model,
            made.digest.short(),
            locked.short()
        ));
    }
    run.doors.fetcher.store().remember(&artifact.id, &made).map_err(|error| with_causes(&error))?;
    run.with(|report| report.made.insert(artifact.id, Made { digest: made.digest, bytes: made.bytes }));
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| with_causes(&error)),
        Err(_) => Err("the work was cut short".to_owned()),
    }
}

/// Returns where the tensors of a GGUF file lie; of another file, nothing.
pub(super) fn tensor_starts(path: &Path) -> Vec<u64> {
    let header = File::open(path).ok().and_then(|file| Header::read(BufReader::new(file)).ok());
    header.map_or_else(Vec::new, |header| {
        header.tensors.iter().map(|tensor| header.data_offset + tensor.offset).collect()
    })
}
