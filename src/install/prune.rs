use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::inspect::digests;
use super::lock::Lock;
use super::record::Pending;
use super::stand::{self, Stand};
use super::{Error, files};
use crate::facts::Receipt;
use crate::generation::Layout;
use crate::ids::{Digest, Generation};
use crate::store;
use crate::units::Bytes;

/// What `prune` needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequest {
    /// How many generations to keep besides those in force, pending and to roll back to.
    pub keep: usize,
    /// Blobs and programs to keep though no generation needs them yet.
    #[serde(default)]
    pub wanted: BTreeSet<Digest>,
    /// Leave blobs that none of the generations here named, and what has arrived of such: somebody brings them ahead of an
    /// apply.
    #[serde(default)]
    pub keep_unnamed: bool,
    /// Only say what would go.
    #[serde(default)]
    pub is_dry: bool,
}

/// What `prune` removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Generations.
    pub generations: Vec<Generation>,
    /// Sealed blobs.
    pub blobs: Vec<Digest>,
    /// Unpacked bundles.
    pub programs: Vec<Digest>,
    /// The size of the blobs.
    pub freed: Bytes,
}

/// Removes generations, blobs and programs that nothing needs: not the generation in
/// force, not the one to roll back to, not one that waits to be confirmed. What was arriving and
/// nobody wants goes, too, but for what arrives at this moment.
pub fn prune(layout: &Layout, lease: u64, request: &PruneRequest) -> Result<Pruned, Error> {
    let _lock = Lock::take(layout, lease, "prune")?;
    let current = stand::current(layout);
    let laid_out = stand::numbers(layout)?;
    let mut kept: BTreeSet<Generation> = current.into_iter().collect();
    kept.extend(Receipt::previous(layout, current)?);
    if let Some(pending) = Pending::read(layout)? {
        kept.insert(pending.generation);
        kept.extend(pending.previous);
    }
    let others: Vec<_> = laid_out.iter().rev().copied().filter(|number| !kept.contains(number)).collect();
    kept.extend(others.into_iter().take(request.keep));

    // what the kept ones need is known before anything goes: one that cannot be read stops us
    let mut needed = request.wanted.clone();
    let mut prompts = BTreeSet::new();
    for number in kept.iter().filter(|number| laid_out.contains(number)) {
        let definition = Stand::read(layout, *number)?.definition;
        needed.insert(definition.program.digest);
        needed.extend(definition.engines.iter().filter_map(|spec| spec.weights.digest));
        let keeping = definition.engines.iter().filter(|spec| spec.keep_prompts);
        prompts.extend(keeping.map(|spec| layout.kept_prompts(&spec.model)));
    }

    let mut pruned = Pruned::default();
    let mut named = BTreeSet::new();
    for number in laid_out.into_iter().filter(|number| !kept.contains(number)) {
        // one that cannot be read goes all the same
        if let Ok(stand) = Stand::read(layout, number) {
            named.extend(stand.definition.engines.iter().filter_map(|spec| spec.weights.digest));
        }
        pruned.generations.push(number);
    }
    for digest in digests(&layout.root().join("blobs/sha256"))? {
        if !needed.contains(&digest) && (named.contains(&digest) || !request.keep_unnamed) {
            pruned.freed += Bytes(fs::metadata(layout.blob(&digest)).map_or(0, |blob| blob.len()));
            pruned.blobs.push(digest);
        }
    }
    let programs = digests(&layout.root().join("programs"))?;
    pruned.programs.extend(programs.into_iter().filter(|digest| !needed.contains(digest)));
    if !request.is_dry {
        // a push that was broken off goes on from there; what a generation that goes had named is nobody's any more
        let is_kept =
            |digest: &Digest| needed.contains(digest) || request.keep_unnamed && !named.contains(digest);
        clear(layout, &pruned, &is_kept, &prompts)?;
    }
    Ok(pruned)
}

/// Removes what is to be pruned, what was arriving and is not kept, and all that engines kept but `prompts`.
fn clear(
    layout: &Layout,
    pruned: &Pruned,
    is_kept: &dyn Fn(&Digest) -> bool,
    prompts: &BTreeSet<PathBuf>,
) -> Result<(), Error> {
    for number in &pruned.generations {
        // its definition goes first: half a generation is none
        let dir = layout.generation(*number);
        files::remove(&Layout::definition(&dir))?;
        files::remove_tree(&dir)?;
    }
    for digest in &pruned.blobs {
        files::remove(&layout.blob(digest))?;
    }
    for digest in digests(&layout.chunks())? {
        if !layout.blob(&digest).exists() {
            files::remove(&layout.chunks().join(digest.to_string()))?;
        }
    }
    for digest in digests(&layout.root().join("partial"))? {
        let path = layout.partial(&digest);
        if !is_kept(&digest) && store::forget_partial(&path).map_err(Error::Store)? {
            files::remove(&path.with_added_extension("chunks"))?;
        }
    }
    for digest in &pruned.programs {
        files::remove_tree(&layout.program(digest))?;
    }
    for name in files::names(&layout.run_dir())? {
        let path = layout.run_dir().join(&name);
        if name.starts_with(Layout::KEPT_PROMPTS) && !prompts.contains(&path) {
            files::remove_tree(&path)?;
        }
    }
    Ok(())
}
