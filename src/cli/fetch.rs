use std::sync::Arc;

use super::arguments::{Fetch, Global};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::output;
use crate::events::Events;
use crate::view::Progress;

/// Brings the weights of the manifest's models to this machine, and pins them in the lock.
pub(crate) async fn run(verb: &Fetch, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let mut fleet = Fleet::open(global, environment)?;
    let progress = Arc::new(Progress::new(environment.is_terminal));
    let fetcher = fleet.fetcher(Events::new(move |event| progress.show(event)))?;
    let mut exit = Exit::Done;
    for (model, facts) in fleet.models(&fetcher).await {
        if !verb.models.is_empty() && !verb.models.contains(&model) {
            continue;
        }
        match facts {
            Ok(facts) => {
                fetcher.obtain(&facts.source).await?;
                output::say(&format!("{model}: {} from {}", facts.source.bytes(), facts.source.uri));
            }
            Err(error) => {
                output::say(&format!("{model}: {error}"));
                exit = Exit::Failed;
            }
        }
    }
    fleet.save_lock()?;
    Ok(exit)
}
