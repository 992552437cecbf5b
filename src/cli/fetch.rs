use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use super::arguments::{AnySource, Fetch, Global, Login, Wanted};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::{self, Fleet};
use super::{interrupt, output};
use crate::causes::with_causes;
use crate::fetch::{Fetcher, Settings};
use crate::ids::ModelName;
use crate::source::{Pinned, SourceRef};
use crate::units::Bytes;

/// Brings weights to this machine: those of the manifest's models, pinned in the lock, or those of
/// sources that are named, which need no manifest.
pub(crate) async fn run(verb: &Fetch, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let events = output::events(environment);
    let has_name = verb.wanted.iter().any(|wanted| matches!(wanted, Wanted::Name(_)));
    let mut fleet = if verb.wanted.is_empty() || (has_name && global.file.exists()) {
        Some(Fleet::open(global, Login::default(), environment)?)
    } else {
        None
    };
    let (mut models, mut sources) = (Vec::new(), Vec::new());
    for wanted in &verb.wanted {
        match (wanted, &fleet) {
            (Wanted::Name(name), Some(fleet)) if fleet.manifest.models.contains_key(name) => {
                models.push(name);
            }
            (Wanted::Name(name), _) => sources.push(elsewhere(name, global)?),
            (Wanted::Source(source), _) => sources.push(source.clone()),
        }
    }
    let mut found: Vec<Found> = Vec::new();
    if !sources.is_empty() {
        let settings = Settings { limit_rate: verb.limit_rate, ..Settings::from_env() };
        let fetcher = Fetcher::new(settings, events.clone())?;
        for source in sources {
            let pinned = alone(&fetcher, &source, verb.accept_license.as_deref()).await;
            found.push((source.to_string(), fetcher.clone(), pinned));
        }
    }
    if let Some(fleet) = &mut fleet
        && (verb.wanted.is_empty() || !models.is_empty())
    {
        let settings = Settings { limit_rate: verb.limit_rate, ..fleet.settings_of_fetch()? };
        let fetcher = Fetcher::new(settings, events)?;
        found.extend(of_manifest(fleet, &fetcher, &models).await);
        fleet.save_lock()?;
    }
    // for all of it, before the first byte
    let pinned: Vec<&Pinned> = found.iter().filter_map(|(_, _, pinned)| pinned.as_ref().ok()).collect();
    if let Some((_, fetcher, _)) = found.first() {
        fetcher.check_room(&pinned, Bytes::ZERO)?;
    }
    let mut done: Done = Vec::new();
    let going = async {
        for (what, fetcher, pinned) in found {
            let outcome = match pinned {
                Ok(pinned) => obtain(&fetcher, pinned).await,
                Err(error) => Err(error),
            };
            done.push((what, outcome));
        }
    };
    let stand = "what came is kept, and the same command goes on from there";
    if interrupt::or_stop(going, stand).await.is_none() {
        return Ok(Exit::Interrupted);
    }
    let is_whole = done.iter().all(|(_, fetched)| fetched.is_ok());
    if global.json {
        let told = done.into_iter().map(|(what, fetched)| match fetched {
            Ok(fetched) => json!({ "what": what, "fetched": fetched }),
            Err(error) => json!({ "what": what, "error": error }),
        });
        output::json(&told.collect::<Vec<_>>())?;
    } else {
        for (what, fetched) in done {
            match fetched {
                Ok(Fetched { pinned, bytes, folder }) => {
                    output::result(&format!(
                        "{what}: {bytes} from {} in {}\n",
                        pinned.uri,
                        folder.display()
                    ))?;
                }
                Err(error) => output::say(&format!("{what}: {error}")),
            }
        }
    }
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

/// What came of a source.
#[derive(Debug, Serialize)]
struct Fetched {
    #[serde(flatten)]
    pinned: Pinned,
    bytes: Bytes,
    /// Has the files under their names.
    folder: PathBuf,
}

type Done = Vec<(String, Result<Fetched, String>)>;

/// A source, what brings it, and what it is.
type Found = (String, Fetcher, Result<Pinned, String>);

/// Returns the source that a name is which the manifest does not have.
fn elsewhere(name: &ModelName, global: &Global) -> anyhow::Result<SourceRef> {
    let AnySource(source) = name.as_str().parse()?;
    fleet::resolve(&source)
        .with_context(|| format!("no manifest {} has a model {name}", global.file.display()))?;
    Ok(source)
}

async fn of_manifest(fleet: &mut Fleet<'_>, fetcher: &Fetcher, wanted: &[&ModelName]) -> Vec<Found> {
    let models = fleet.models(fetcher).await;
    let models = models.into_iter().filter(|(model, _)| wanted.is_empty() || wanted.contains(&model));
    models.map(|(model, facts)| (model.to_string(), fetcher.clone(), facts.map(|f| f.source))).collect()
}

async fn alone(fetcher: &Fetcher, source: &SourceRef, accepted: Option<&str>) -> Result<Pinned, String> {
    let resolved = fleet::resolve(source).map_err(|error| with_causes(&error))?;
    let pinned = fetcher.pin(&resolved).await.map_err(|error| with_causes(&error))?;
    if let Err(error) = fetcher.check_license(&pinned, accepted) {
        return Err(format!("{}; here, say yes with --accept-license", with_causes(&error)));
    }
    Ok(pinned)
}

async fn obtain(fetcher: &Fetcher, pinned: Pinned) -> Result<Fetched, String> {
    let folder = fetcher.obtain(&pinned).await.map_err(|error| with_causes(&error))?;
    Ok(Fetched { bytes: pinned.bytes(), pinned, folder })
}
