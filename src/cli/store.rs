//! Looks after the store of weights on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use serde_json::json;

use super::arguments::{Global, StorePrune, StoreVerb};
use super::environment::Environment;
use super::exit::Exit;
use super::{apply, files, output};
use crate::bundle;
use crate::causes::with_causes;
use crate::fetch;
use crate::ids::Digest;
use crate::lock::Lock;
use crate::store::{Store, Unused};
use crate::units::Bytes;
use crate::view::{Style, Table, count};

pub(crate) fn run(verb: &StoreVerb, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let root = fetch::Settings::from_env().cache;
    match verb {
        StoreVerb::Ls => list(&Store::open(root)?, global, environment),
        StoreVerb::Verify => verify(&Store::open(root)?, global),
        StoreVerb::Prune(verb) => prune(&root, verb, global, environment),
    }
}

fn list(store: &Store, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let blobs = store.list()?;
    let Known { needed, names, .. } = known(store, global, environment)?;
    if global.json {
        let blobs = blobs.iter().map(|blob| {
            json!({
                "digest": blob.digest, "bytes": blob.bytes, "path": store.path(&blob.digest),
                "names": names.get(&blob.digest).cloned().unwrap_or_default(), "needed": needed.contains(&blob.digest),
            })
        });
        output::json(&json!({ "store": store.root(), "blobs": blobs.collect::<Vec<_>>() }))?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(["blob", "size", "needed", "name"]);
    for blob in &blobs {
        let needed = if needed.contains(&blob.digest) { "yes" } else { "no" };
        table.row([
            blob.digest.short(),
            blob.bytes.to_string(),
            needed.to_owned(),
            name(&names, &blob.digest),
        ]);
    }
    let total: Bytes = blobs.iter().map(|blob| blob.bytes).sum();
    output::result(&table.render(0, environment.style))?;
    output::result(&format!("{} in {}, {total}\n", count(blobs.len(), "blob"), store.root().display()))?;
    Ok(Exit::Done)
}

/// Returns what a blob is called; `-` where nothing names it.
fn name(names: &Names, digest: &Digest) -> String {
    let names: Vec<&str> = names.get(digest).into_iter().flatten().map(String::as_str).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

fn verify(store: &Store, global: &Global) -> anyhow::Result<Exit> {
    let (blobs, names) = (store.list()?, store.names());
    let damaged = Mutex::new(Vec::new());
    store.verify_all(&blobs, &|blob, result| {
        if let Err(error) = result {
            let names: Vec<String> = names.get(&blob.digest).into_iter().flatten().cloned().collect();
            let mut damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner);
            damaged.push((blob.digest, names, with_causes(error)));
        }
    });
    let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    damaged.sort();
    if global.json {
        let damaged = damaged.iter().map(|(digest, names, error)| {
            json!({ "digest": digest, "path": store.path(digest), "names": names, "error": error })
        });
        output::json(&json!({ "verified": blobs.len(), "damaged": damaged.collect::<Vec<_>>() }))?;
    } else {
        for (_, names, error) in &damaged {
            let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            output::result(&format!(
                "DAMAGED{names}: {error}: remove it, and the next run fetches or makes it again\n"
            ))?;
        }
        output::result(&format!("{} verified, {} damaged\n", count(blobs.len(), "blob"), damaged.len()))?;
    }
    Ok(if damaged.is_empty() { Exit::Done } else { Exit::Failed })
}

fn prune(root: &Path, verb: &StorePrune, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let shown = {
        let store = Store::open(root)?;
        let Known { needed, names, .. } = known(&store, global, environment)?;
        let shown = store.unused(&needed)?;
        if !global.json {
            output::result(&told(&names, &shown, environment.style))?;
        }
        shown
    };
    let question = format!("Remove them, {}?", shown.bytes());
    let is_sure = shown.is_empty() || verb.yes || verb.dry_run || apply::may_change(&question, environment)?;
    if !is_sure {
        return Ok(Exit::Refused);
    }
    let mut freed = Bytes::ZERO;
    if !verb.dry_run && !shown.is_empty() {
        // alone only now: nobody waits for the person's answer. What was needed meanwhile stays.
        let store = Store::open_alone(root)?;
        let Known { needed, gone, .. } = known(&store, global, environment)?;
        let mut unused = store.unused(&needed)?;
        unused.blobs.retain(|blob| shown.blobs.contains(blob));
        unused.leftovers.retain(|name, _| shown.leftovers.contains_key(name));
        gone.iter().try_for_each(|lock| store.forget_user(lock))?;
        store.prune(&unused)?;
        freed = unused.bytes();
    }
    if global.json {
        output::json(&json!({ "unused": shown, "bytes": shown.bytes(), "freed": freed }))?;
    }
    Ok(Exit::Done)
}

fn told(names: &Names, unused: &Unused, style: Style) -> String {
    if unused.is_empty() {
        return "Nothing: every blob is named by a lock file, or is a program for hosts.\n".to_owned();
    }
    let mut table = Table::new(["unused", "size", "name"]);
    for blob in &unused.blobs {
        table.row([blob.digest.short(), blob.bytes.to_string(), name(names, &blob.digest)]);
    }
    for (name, bytes) in &unused.leftovers {
        table.row([
            name.chars().take(12).collect(),
            bytes.to_string(),
            "left of an unfinished run".to_owned(),
        ]);
    }
    table.render(0, style)
}

/// What people call blobs.
type Names = BTreeMap<Digest, BTreeSet<String>>;

/// What is known of blobs.
#[derive(Default)]
struct Known {
    /// What lock files name, and the programs that hosts are given.
    needed: BTreeSet<Digest>,
    names: Names,
    /// The lock files that are gone for good.
    gone: Vec<PathBuf>,
}

impl Known {
    fn take(&mut self, lock: &Lock) {
        self.needed.extend(lock.digests());
        // what was taken as it is has its file's name
        for (made, quant) in lock.made.values().filter_map(|made| Some((made, made.quant?))) {
            self.names.entry(made.digest).or_default().insert(format!("weights in {quant}"));
        }
    }
}

/// Looks into the lock files that the store remembers and the one beside the manifest, and at the bundles.
///
/// A lock file whose folder is gone, too, may be on a disk that is not attached now: what it named
/// last is kept. One that cannot be read is an error, because what it needs would count as unused.
fn known(store: &Store, global: &Global, environment: &Environment) -> anyhow::Result<Known> {
    let mut known = Known { names: store.names(), ..Known::default() };
    for user in store.users()? {
        match read(&user.path)? {
            Some(lock) => known.take(&lock),
            None if user.path.parent().is_some_and(Path::is_dir) => known.gone.push(user.path),
            None => known.needed.extend(user.digests),
        }
    }
    if let Some(lock) = read(&Environment::lock_path(&global.file))? {
        known.take(&lock);
    }
    // one that came by `bundle import`; where bundles cannot be read, whoever needs one says so
    for bundle in bundle::find(&environment.bundles).unwrap_or_default().into_iter().map(|found| found.bundle)
    {
        known.needed.insert(bundle.digest);
        let name = format!("program {} for {}", bundle.version, bundle.target);
        known.names.entry(bundle.digest).or_default().insert(name);
    }
    Ok(known)
}

/// Reads a lock file; none where it is not there.
fn read(path: &Path) -> anyhow::Result<Option<Lock>> {
    match files::read_text(path, files::LONGEST_LOCK) {
        Ok(text) => Ok(Some(Lock::parse(&text).with_context(|| format!("cannot use {}", path.display()))?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
