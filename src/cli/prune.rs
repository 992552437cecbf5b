use std::collections::BTreeMap;

use serde::Serialize;

use super::arguments::{Global, Prune};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{apply, interrupt, output};
use crate::causes::with_causes;
use crate::execute::{self, PruneRequest, Pruned, VerbError};
use crate::ids::HostName;
use crate::view::{self};

/// What became of the hosts that were asked.
#[derive(Serialize)]
struct All {
    dry_run: bool,
    pruned: BTreeMap<HostName, Pruned>,
    failed: BTreeMap<HostName, String>,
}

/// Removes from hosts what nothing needs any more. What the lock names stays: it was pushed ahead.
pub(crate) async fn run(verb: &Prune, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let fleet = Fleet::open(global, verb.login, environment)?;
    let (subjects, failed) = fleet.subjects(&fleet.named_or_ours(&verb.hosts)).await?;
    anyhow::ensure!(
        !subjects.is_empty() || !failed.is_empty(),
        "nothing of Bramble is on these hosts: there is nothing to remove"
    );
    let question = format!("Remove what nothing needs from {}?", view::count(subjects.len(), "host"));
    if !verb.yes && !verb.dry_run && !apply::may_change(&question, environment)? {
        return Ok(Exit::Refused);
    }
    let events = output::events(environment);
    let request = PruneRequest {
        keep: verb.keep,
        wanted: fleet.lock.digests(),
        keep_unnamed: false,
        is_dry: verb.dry_run,
    };
    let going = execute::prune(&subjects, &request, &environment.operator, &events);
    let Some(asked) = interrupt::or_stop(going, interrupt::BETWEEN_HOSTS).await else {
        return Ok(Exit::Interrupted);
    };
    let mut all = All { dry_run: verb.dry_run, pruned: BTreeMap::new(), failed };
    let mut is_locked = false;
    for (host, outcome) in asked {
        match outcome {
            Ok(pruned) => drop(all.pruned.insert(host, pruned)),
            Err(error) => {
                is_locked |= matches!(error, VerbError::Locked { .. });
                all.failed.insert(host, with_causes(&error));
            }
        }
    }
    if global.json {
        output::json(&all)?;
    } else {
        output::result(&view::pruned(&all.pruned, &all.failed, all.dry_run, environment.style))?;
    }
    Ok(match (all.failed.is_empty(), all.pruned.is_empty()) {
        (true, _) => Exit::Done,
        (false, false) => Exit::Partly,
        (false, true) if is_locked => Exit::Locked,
        (false, true) => Exit::Failed,
    })
}
