use super::arguments::{Cordon, Global};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{apply, output};
use crate::view::Deed;
use crate::{clock, execute, facts};

/// Has hosts take no new work, or take it again where they are not to be cordoned.
pub(crate) async fn run(
    verb: &Cordon,
    is_cordon: bool,
    global: &Global,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let fleet = Fleet::open(global, verb.login, environment)?;
    let (subjects, failures) = fleet.subjects(&verb.hosts).await?;
    anyhow::ensure!(
        !subjects.is_empty() || !failures.is_empty(),
        "nothing of Bramble is on these hosts: run `bramble apply` first"
    );
    let events = output::events(environment);
    let by = facts::Cordon { by: environment.operator.clone(), at: clock::now_utc() };
    let (cordon, deed) = if is_cordon { (Some(&by), Deed::Cordon) } else { (None, Deed::Uncordon) };
    let report = execute::cordon(&subjects, cordon, &environment.operator, &events).await;
    let report = apply::with_failures(report, failures);
    output::report(&report, deed, global, environment)?;
    Ok(apply::exit_of(&report))
}
