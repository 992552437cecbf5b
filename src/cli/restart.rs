use std::collections::BTreeSet;

use super::arguments::{Global, Restart};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{apply, interrupt, output};
use crate::execute::{self, Subject};
use crate::ids::ModelName;
use crate::view::Deed;

/// Starts engines of hosts anew, one host after another.
pub(crate) async fn run(verb: &Restart, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let fleet = Fleet::open(global, verb.login, environment)?;
    let (subjects, failures) = fleet.subjects(&fleet.named_or_ours(&verb.hosts)).await?;
    anyhow::ensure!(
        !subjects.is_empty() || !failures.is_empty(),
        "nothing of Bramble is on these hosts: run `bramble apply` first"
    );
    let models: BTreeSet<ModelName> = verb.models.iter().cloned().collect();
    check_models(&models, &subjects)?;
    let events = output::events(environment);
    let going = execute::restart(&subjects, &models, &environment.operator, &events);
    let Some(report) = interrupt::or_stop(going, interrupt::BETWEEN_HOSTS).await else {
        return Ok(Exit::Interrupted);
    };
    let report = apply::with_failures(report, failures);
    output::report(&report, Deed::Restart, global, environment)?;
    Ok(apply::exit_of(&report))
}

/// Refuses models that none of the hosts serves.
pub(super) fn check_models(models: &BTreeSet<ModelName>, subjects: &[Subject]) -> anyhow::Result<()> {
    let served: BTreeSet<ModelName> = subjects.iter().flat_map(Subject::models).collect();
    let unknown: Vec<&str> = models.difference(&served).map(ModelName::as_str).collect();
    let served: Vec<&str> = served.iter().map(ModelName::as_str).collect();
    anyhow::ensure!(
        unknown.is_empty(),
        "none of these hosts serves {}: they serve {}",
        unknown.join(", "),
        served.join(", ")
    );
    Ok(())
}
