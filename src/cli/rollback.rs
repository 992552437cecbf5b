use super::arguments::{Global, Rollback};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{apply, interrupt, output};
use crate::clock;
use crate::execute::{self, Author, Report, Subject};
use crate::ids::Generation;
use crate::view::{self, Deed};

/// Makes hosts run the generation before.
pub(crate) async fn run(verb: &Rollback, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let fleet = Fleet::open(global, verb.login, environment)?;
    let hosts = fleet.named_or_ours(&verb.hosts);
    let (mut subjects, mut failures) = fleet.subjects(&hosts).await?;
    anyhow::ensure!(
        !subjects.is_empty() || !failures.is_empty(),
        "nothing of Bramble is on these hosts: there is no generation to go back to"
    );
    if let Some(to) = verb.to {
        let without: Vec<String> = subjects.iter().filter_map(|subject| lacks(subject, to)).collect();
        anyhow::ensure!(without.is_empty(), "{}", without.join("; "));
    }
    let ways = execute::ways_back(&mut subjects, verb.to).await;
    failures.extend(ways.nothing);
    if subjects.is_empty() {
        let report = apply::with_failures(Report::default(), failures);
        output::report(&report, Deed::RollBack, global, environment)?;
        return Ok(apply::exit_of(&report));
    }
    if !global.json {
        let hosts = subjects.iter().map(|subject| (subject, ways.known.get(&subject.host)));
        output::say(&view::going_back(hosts, environment.style));
    }
    let question = format!("Have {} go back?", view::count(subjects.len(), "host"));
    if !verb.yes && !apply::may_change(&question, environment)? {
        return Ok(Exit::Refused);
    }
    let (events, live) = output::recorded_events(environment);
    live.begin(&fleet.safe()?.folder(), "rollback", &environment.operator, clock::unix_seconds()).await;
    let author = Author { operator: environment.operator.clone(), now: clock::now_utc() };
    let going = execute::roll_back(&subjects, verb.to, &author, &events);
    let Some(report) = interrupt::or_stop(going, interrupt::BETWEEN_HOSTS).await else {
        live.end(false, clock::unix_seconds());
        return Ok(Exit::Interrupted);
    };
    live.end(report.is_complete(), clock::unix_seconds());
    let report = apply::with_failures(report, failures);
    output::report(&report, Deed::RollBack, global, environment)?;
    Ok(apply::exit_of(&report))
}

/// Says what a host has in place of the generation that it is to go to.
fn lacks(subject: &Subject, wanted: Generation) -> Option<String> {
    let there = &subject.installed.generations;
    if there.contains(&wanted) {
        return None;
    }
    let numbers: Vec<String> = there.iter().map(ToString::to_string).collect();
    Some(format!("generation {wanted} is not on {}: there are {}", subject.host, numbers.join(", ")))
}
