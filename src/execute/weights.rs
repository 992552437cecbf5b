//! Making weights on the operator's machine. Every step looks first whether its result is
//! in the store already: a run that was cut short goes on where it stopped.

use std::path::Path;

use super::apply::Run;
use super::report::Made;
use crate::causes::with_causes;
use crate::checkpoint::Checkpoint;
use crate::convert;
use crate::events::Event;
use crate::ids::Digest;
use crate::plan::Artifact;
use crate::quant::{Quant, child};
use crate::source::{Pinned, Recipe};
use crate::store;
use crate::units::Bytes;

/// Converted checkpoints are kept as 16-bit floats: half the size of the exact form, and what
/// llama.cpp's own tools quantize from.
const INTERMEDIATE: Quant = Quant::F16;

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

/// Turns a fetched checkpoint into a GGUF of 16-bit floats.
pub(super) async fn convert(run: &Run<'_>, id: &Digest) -> Result<(), String> {
    let artifact = find(run, id)?;
    let intermediate = intermediate(artifact);
    let store = run.doors.fetcher.store().clone();
    if let Some(made) = all_made(run, artifact) {
        report(run, made);
        return Ok(());
    }
    if made_before(&store, &intermediate.digest()).is_some() {
        return Ok(());
    }
    let folder =
        run.doors.fetcher.obtain(&artifact.recipe.source).await.map_err(|error| with_causes(&error))?;
    let key = format!("convert:{id}");
    run.work(&key, &format!("converting {} to GGUF", artifact.model), Some(artifact.recipe.source.bytes()));
    let events = run.events.clone();
    let progress_key = key.clone();
    let recipe = intermediate.digest();
    let out = store.scratch(&recipe);
    let source = artifact.recipe.source.clone();
    let converted = tokio::task::spawn_blocking(move || {
        check_published(&source, &folder)?;
        let progress = |done| events.send(Event::Progress { key: progress_key.clone(), done });
        convert::to_gguf(&folder, &out, INTERMEDIATE, progress).map_err(|error| with_causes(&error))?;
        let made = store.take(&out).map_err(|error| with_causes(&error))?;
        store.remember(&recipe, &made).map_err(|error| with_causes(&error))?;
        Ok::<_, String>(made)
    })
    .await
    .unwrap_or_else(|_| Err("the conversion was cut short".to_owned()));
    run.ended(&key, converted.as_ref().map(|made| made.bytes.to_string()));
    let made = converted.map_err(|error| format!("cannot convert {}: {error}", artifact.model))?;
    if artifact.recipe.quant == Some(INTERMEDIATE) {
        remember(run, artifact, made)?;
    }
    Ok(())
}

/// Holds weights that are added up to what the publisher of the differences tells of them, if
/// there is anything: before hours are spent on what would be wrong.
fn check_published(source: &Pinned, folder: &Path) -> Result<(), String> {
    let Some((_, delta)) = source.parts() else { return Ok(()) };
    let repo = delta.uri.strip_prefix("hf:").and_then(|rest| rest.split('@').next());
    let Some(repo) = repo else { return Ok(()) };
    let checked = Checkpoint::open(folder).and_then(|sum| sum.check_published(repo));
    checked.map(drop).map_err(|error| with_causes(&error))
}

/// Quantizes a converted checkpoint, in a process of its own.
pub(super) async fn quantize(run: &Run<'_>, id: &Digest) -> Result<(), String> {
    let artifact = find(run, id)?;
    let store = run.doors.fetcher.store().clone();
    if let Some(made) = made_before(&store, id) {
        return remember(run, artifact, made);
    }
    let Some(quant) = artifact.recipe.quant else { return Ok(()) };
    let from = made_before(&store, &intermediate(artifact).digest())
        .ok_or_else(|| format!("{} was not converted", artifact.model))?;
    if quant == INTERMEDIATE {
        return remember(run, artifact, from);
    }
    let (input, output) = (store.path(&from.digest), store.scratch(id));
    let order =
        child::Order { program: &run.doors.brambled, input: &input, output: &output, quant, threads: 0 };
    let key = format!("quantize:{id}");
    run.work(&key, &format!("quantizing {} to {quant}", artifact.model), Some(from.bytes));
    let progress = |done: u32, all: u32| {
        let share = u64::from(done) * from.bytes.0 / u64::from(all.max(1));
        run.events.send(Event::Progress { key: key.clone(), done: Bytes(share) });
    };
    let quantized = match child::run(order, progress).await {
        Ok(()) => {
            let scratch = output.clone();
            blocking(move || store.take(&scratch)).await
        }
        Err(error) => Err(with_causes(&error)),
    };
    run.ended(&key, quantized.as_ref().map(|made| made.bytes.to_string()));
    let made = quantized.map_err(|error| format!("cannot quantize {}: {error}", artifact.model))?;
    remember(run, artifact, made)
}

fn find<'a>(run: &Run<'a>, id: &Digest) -> Result<&'a Artifact, String> {
    run.plan.artifact(id).ok_or_else(|| "the plan has no such weights".to_owned())
}

fn intermediate(artifact: &Artifact) -> Recipe {
    Recipe { quant: Some(INTERMEDIATE), ..artifact.recipe.clone() }
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
