use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::arguments::{BundleExport, BundleImport, BundleVerb, Global, Login};
use super::environment::Environment;
use super::exit::{Exit, Expected};
use super::fleet::{self, Fleet};
use super::{files, output};
use crate::airgap::{self, Blob, Index, Model, Opened, Weights};
use crate::bundle;
use crate::catalog::ModelFacts;
use crate::causes::with_causes;
use crate::clock;
use crate::convert;
use crate::events::{Event, Events};
use crate::fetch::{self, Fetcher};
use crate::ids::Digest;
use crate::keys::Signers;
use crate::lock::{self, Lock};
use crate::manifest;
use crate::plan;
use crate::quant::Quant;
use crate::signature::PublicKey;
use crate::source::Pinned;
use crate::store::{Made, Store};
use crate::units::Bytes;
use crate::view::{Style, Table, count};

/// What the progress of the one long step is known by.
const KEY: &str = "bundle";

pub(crate) async fn run(
    verb: &BundleVerb,
    global: &Global,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    match verb {
        BundleVerb::Export(verb) => export(verb, global, environment).await,
        BundleVerb::Import(verb) => import(verb, global, environment).await,
        BundleVerb::Key => {
            let key = Signers::new(&environment.state).own()?.public()?;
            if global.json {
                output::json(&json!({ "key": key.to_string() }))?;
            } else {
                output::verbatim(&format!("{key}\n"))?;
            }
            Ok(Exit::Done)
        }
    }
}

/// Does `work`, which says how many bytes it has come, with a bar for it.
fn shown<T, E: std::error::Error>(
    events: &Events,
    what: String,
    total: Bytes,
    work: impl FnOnce(&dyn Fn(Bytes)) -> Result<T, E>,
) -> Result<T, E> {
    events.send(Event::Started { key: KEY.to_owned(), host: None, what, total: Some(total) });
    let done =
        work(&|done| events.send(Event::Progress { key: KEY.to_owned(), done, from_hosts: Bytes::ZERO }));
    events.send(match &done {
        Ok(_) => Event::Finished { key: KEY.to_owned(), outcome: None },
        Err(error) => Event::Failed { key: KEY.to_owned(), error: with_causes(error) },
    });
    done
}

/// Writes what the manifest's site needs into one signed file.
async fn export(verb: &BundleExport, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    if verb.path.exists() && !verb.force {
        let next = "say --force to write over it, or another name";
        return Err(Expected::Refused(format!("{} is there already: {next}", verb.path.display())).into());
    }
    let events = output::events(environment);
    let mut fleet = Fleet::open(global, Login::default(), environment)?;
    let manifest = files::read_text(&global.file, files::LONGEST_MANIFEST)
        .with_context(|| format!("cannot read {}", global.file.display()))?;
    let fetcher = Fetcher::new(fleet.settings_of_fetch()?, events.clone())?;
    anyhow::ensure!(
        !fleet.bundles.is_empty(),
        "there is no bundle for hosts in any of {}: make one with scripts/bundle",
        environment.bundles.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    );
    let facts = fleet.models(&fetcher).await;
    fleet.save_lock()?;
    let faults: Vec<String> = facts
        .iter()
        .filter_map(|(model, facts)| Some(format!("{model}: {}", facts.as_ref().err()?)))
        .collect();
    if !faults.is_empty() {
        return Err(Expected::Refused(faults.join("; ")).into());
    }
    let mut models = Vec::new();
    let mut lock = Lock { hosts: BTreeMap::new(), ..fleet.lock.clone() };
    let mut blobs: BTreeMap<Digest, Blob> = BTreeMap::new();
    let store = fetcher.store();
    let mut add = |digest: Digest, bytes: Bytes, path: PathBuf| {
        blobs.entry(digest).or_insert(Blob { digest, bytes, path });
    };
    for (name, facts) in facts {
        let Ok(facts) = facts else { continue };
        let weights = if facts.source.is_gguf() { Vec::new() } else { made(&facts, store, &fleet.lock) };
        // what is a GGUF already is what hosts get, as it is or for another quant
        let is_file = facts.source.uri.starts_with("file:");
        if is_file {
            output::say(&format!(
                "{name} is made of a file of yours, which does not go along: at the site, have {} at the same place beside the manifest.",
                facts.source.uri.trim_start_matches("file:")
            ));
        }
        let has_source = (verb.sources || weights.is_empty()) && !is_file;
        if has_source {
            fetcher.obtain(&facts.source).await?;
            for file in &facts.source.files {
                add(file.sha256, file.bytes, store.path(&file.sha256));
            }
        }
        for made in &weights {
            add(made.digest, made.bytes, store.path(&made.digest));
            let known = lock::Made { digest: made.digest, bytes: made.bytes, quant: made.quant };
            lock.made.insert(made.recipe, known);
        }
        let kept = if has_source { None } else { Some(serde_json::to_value(&facts)?) };
        models.push(Model { model: name, source: facts.source, has_source, weights, facts: kept });
    }
    for found in &fleet.bundles {
        add(found.bundle.digest, found.bundle.bytes, found.archive.clone());
    }
    let blobs: Vec<Blob> = blobs.into_values().collect();
    let index = Index {
        format: Index::FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at: clock::now_utc(),
        fleet: fleet.manifest.fleet.clone(),
        manifest,
        lock: lock.render(),
        programs: fleet.bundles.iter().map(|found| found.bundle.clone()).collect(),
        models,
        blobs: blobs.iter().map(|blob| (blob.digest, blob.bytes)).collect(),
    };
    let key = Signers::new(&environment.state).own()?;
    let what = format!("writing {}", verb.path.display());
    shown(&events, what, index.bytes(), |told| airgap::write(&verb.path, &index, &blobs, &key, told))?;
    let public = key.public()?;
    if global.json {
        output::json(
            &json!({ "file": verb.path, "bytes": index.bytes(), "key": public.to_string(), "index": index }),
        )?;
    } else {
        let next = format!("At the site:\n  bramble bundle import {} --key {public}\n", name(&verb.path));
        output::result(&format!("{}{next}", contents(&index, environment.style)))?;
    }
    Ok(Exit::Done)
}

/// Returns what was made of a model, and is here: for this fleet, or where nothing was, for any.
fn made(facts: &ModelFacts, store: &Store, lock: &Lock) -> Vec<Weights> {
    let here = |quant: &Quant| {
        let recipe = plan::recipe(facts, Some(*quant), convert::VERSION).digest();
        let made = store.made(&recipe)?;
        Some(Weights { recipe, digest: made.digest, bytes: made.bytes, quant: Some(*quant) })
    };
    let all: Vec<Weights> = Quant::ALL.iter().filter_map(here).collect();
    let ours: Vec<Weights> =
        all.iter().filter(|made| lock.made.contains_key(&made.recipe)).cloned().collect();
    if ours.is_empty() { all } else { ours }
}

/// Takes in what another machine has exported.
async fn import(verb: &BundleImport, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let signers = Signers::new(&environment.state);
    // who names a key means that one, whoever else is trusted here
    let keys: Vec<PublicKey> = verb.key.map_or_else(|| signers.trusted(), |key| Ok(vec![key]))?;
    anyhow::ensure!(
        !keys.is_empty(),
        "whose file is {}? Say --key with the line that `bramble bundle export` ended with, or `bramble bundle key` prints there",
        verb.path.display()
    );
    let opened = airgap::open(&verb.path, &keys)?;
    if let Some(key) = &verb.key {
        signers.trust(key)?;
    }
    let events = output::events(environment);
    let store = Store::open(fetch::Settings::from_env().cache)?;
    let total = opened.index.bytes();
    let what = format!("reading {}", verb.path.display());
    let sink = events.clone();
    let (opened, store, received) = tokio::task::spawn_blocking(move || {
        let received = shown(&sink, what, total, |told| opened.receive(&store, told));
        received.map(|received| (opened, store, received))
    })
    .await??;

    let lock_path = Environment::lock_path(&global.file);
    let manifest = keep_manifest(&opened, &global.file, verb.force)?;
    keep_models(&opened, &store)?;
    merge_lock(&opened, &lock_path)?;
    let folder = environment.bundles.last().context("there is no folder for bundles")?;
    for bundle in &opened.index.programs {
        bundle::keep(folder, bundle, &store.path(&bundle.digest))?;
    }
    if global.json {
        output::json(&json!({
            "file": verb.path, "signer": opened.signer.to_string(), "comment": opened.comment, "received": received,
            "manifest": global.file, "manifest_kept": manifest == Kept::Theirs, "index": opened.index,
        }))?;
        return Ok(Exit::Done);
    }
    let known = match received.known {
        0 => String::new(),
        known => format!("{} of them were here already.\n", count(known, "blob")),
    };
    let became = match manifest {
        Kept::New => "was written",
        Kept::Same => "is the same",
        Kept::Theirs => "is another one and was left as it is; --force takes the one in the file",
    };
    output::result(&format!(
        "Signed by a key that is trusted here ({}).\n{}{known}{} {became}.\nNext: bramble plan\n",
        opened.comment,
        contents(&opened.index, environment.style),
        global.file.display(),
    ))?;
    Ok(Exit::Done)
}

/// What became of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    New,
    Same,
    Theirs,
}

fn keep_manifest(opened: &Opened, path: &Path, is_forced: bool) -> anyhow::Result<Kept> {
    let text = &opened.index.manifest;
    manifest::parse(&path.display().to_string(), text).context("the manifest in the file is wrong")?;
    match files::read_text(path, files::LONGEST_MANIFEST) {
        Ok(old) if old == *text => return Ok(Kept::Same),
        Ok(_) if !is_forced => return Ok(Kept::Theirs),
        // one that is there and cannot be read is not ours to write over, either
        Err(_) if !is_forced && fs::symlink_metadata(path).is_ok() => return Ok(Kept::Theirs),
        _ => {}
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Kept::New)
}

/// Has plans and applies find what came: how weights were made, and what models are.
fn keep_models(opened: &Opened, store: &Store) -> anyhow::Result<()> {
    for model in &opened.index.models {
        for made in &model.weights {
            store.remember(&made.recipe, &Made { digest: made.digest, bytes: made.bytes })?;
        }
        let Some(facts) = &model.facts else { continue };
        match serde_json::from_value::<ModelFacts>(facts.clone()) {
            Ok(facts) if facts.source == model.source => fleet::keep_facts(store, &facts)?,
            // another version wrote it: a plan asks for the source then, and says so
            _ => output::say(&format!(
                "{}: what bramble {} knew of it cannot be used by this one; export it with --sources, or with this version",
                model.model, opened.index.version
            )),
        }
    }
    Ok(())
}

/// Takes over what was decided there; which hosts there are is known here.
fn merge_lock(opened: &Opened, path: &Path) -> anyhow::Result<()> {
    let theirs = Lock::parse(&opened.index.lock)?;
    let mut lock = fleet::lock(path, &theirs.fleet)?;
    lock.sources.extend(theirs.sources);
    lock.made.extend(theirs.made);
    fs::write(path, lock.render()).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns a line for each thing in the file.
fn contents(index: &Index, style: Style) -> String {
    let mut table = Table::new(["WHAT", "", "SIZE", "LICENCE"]);
    for bundle in &index.programs {
        let gpu = bundle.gpu.map(|gpu| format!(" {}", gpu.name())).unwrap_or_default();
        let what = format!("{} {}{gpu}", bundle.version, bundle.target);
        table.row(["program".to_owned(), what, bundle.bytes.to_string(), "MIT OR Apache-2.0".to_owned()]);
    }
    for model in &index.models {
        let Pinned { uri, license, .. } = &model.source;
        let license = license.clone().unwrap_or_else(|| "not known".to_owned());
        let mut name = model.model.to_string();
        for made in &model.weights {
            let quant = made.quant.map_or("as is", Quant::name).to_owned();
            table.row([std::mem::take(&mut name), quant, made.bytes.to_string(), license.clone()]);
        }
        if model.has_source {
            table.row([std::mem::take(&mut name), uri.clone(), model.source.bytes().to_string(), license]);
        }
    }
    format!("{}{}, {}\n", table.render(0, style), count(index.blobs.len(), "blob"), index.bytes())
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
