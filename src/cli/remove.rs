use super::arguments::{Global, Remove};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{apply, interrupt, output};
use crate::clock;
use crate::execute::{self, Outcome, State};
use crate::ids::HostName;
use crate::view::Deed;

/// Takes everything of Bramble off hosts.
pub(crate) async fn run(verb: &Remove, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let mut fleet = Fleet::open(global, verb.login, environment)?;
    let hosts: Vec<HostName> = if verb.all {
        fleet.ours().map(|(host, _)| host.clone()).chain(fleet.orphans()).collect()
    } else {
        verb.hosts.clone()
    };
    let (subjects, failures) = fleet.subjects(&hosts).await?;
    let names: Vec<&str> = subjects.iter().map(|subject| subject.host.as_str()).collect();
    let question = format!("Take everything of Bramble off {}?", names.join(", "));
    if !subjects.is_empty() && !verb.yes && !apply::may_change(&question, environment)? {
        return Ok(Exit::Refused);
    }
    let (events, live) = output::recorded_events(environment);
    live.begin(&fleet.safe()?.folder(), "remove", &environment.operator, clock::unix_seconds()).await;
    let going = execute::remove(&subjects, &fleet.manifest.fleet, &environment.operator, &events);
    let Some(mut report) = interrupt::or_stop(going, interrupt::BETWEEN_HOSTS).await else {
        live.end(false, clock::unix_seconds());
        return Ok(Exit::Interrupted);
    };
    live.end(report.is_complete(), clock::unix_seconds());
    for host in &hosts {
        let is_gone = match report.hosts.get(host) {
            Some(outcome) => outcome.state == State::Done,
            None => !failures.contains_key(host),
        };
        if is_gone {
            fleet.lock.hosts.remove(host);
        }
    }
    fleet.save_lock()?;
    for host in hosts {
        let was_bare = !report.hosts.contains_key(&host) && !failures.contains_key(&host);
        if was_bare {
            report.hosts.insert(host, Outcome::without_generation(State::Unchanged));
        }
    }
    let report = apply::with_failures(report, failures);
    output::report(&report, Deed::Remove, global, environment)?;
    Ok(apply::exit_of(&report))
}
