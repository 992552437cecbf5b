use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::arguments::{Bench, Global};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{interrupt, output};
use crate::causes::with_causes;
use crate::events::{Event, Events};
use crate::execute::{Subject, Verbs};
use crate::facts;
use crate::ids::HostName;
use crate::view;

/// A slow engine takes a minute for its prompt and answer, and a host may have several.
const LIMIT: Duration = Duration::from_mins(15);

/// What became of the hosts that were asked.
#[derive(Serialize)]
struct Measured {
    measured: BTreeMap<HostName, facts::Bench>,
    failed: BTreeMap<HostName, String>,
}

/// Measures hosts, all at once, and lets each remember it for the next plan.
pub(crate) async fn run(verb: &Bench, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let fleet = Fleet::open(global, verb.login, environment)?;
    let hosts = fleet.named_or_ours(&verb.hosts);
    let (subjects, mut failed) = fleet.subjects(&hosts).await?;
    for host in &hosts {
        if !failed.contains_key(host) && !subjects.iter().any(|subject| subject.host == *host) {
            failed.insert(host.clone(), "nothing of Bramble is on it: run `bramble apply` first".to_owned());
        }
    }
    let events = output::events(environment);
    let going =
        futures_util::future::join_all(subjects.iter().map(|subject| measure(subject, false, &events)));
    let Some(all) = interrupt::or_stop(going, "nothing was changed on hosts").await else {
        return Ok(Exit::Interrupted);
    };
    let mut measured = BTreeMap::new();
    for (host, outcome) in all {
        match outcome {
            Ok(bench) => drop(measured.insert(host, bench)),
            Err(why) => drop(failed.insert(host, why)),
        }
    }
    let all = Measured { measured, failed };
    if global.json {
        output::json(&all)?;
    } else {
        output::result(&view::bench(&all.measured, &all.failed, environment.style))?;
    }
    Ok(match (all.failed.is_empty(), all.measured.is_empty()) {
        (true, _) => Exit::Done,
        (false, false) => Exit::Partly,
        (false, true) => Exit::Failed,
    })
}

/// Has a host measure itself; in a trial also how well its engines foretell a text, which plans do not count with.
pub(super) async fn measure(
    subject: &Subject,
    is_trial: bool,
    events: &Events,
) -> (HostName, Result<facts::Bench, String>) {
    let (key, what) = (format!("bench {}", subject.host), "measuring, which takes minutes".to_owned());
    events.send(Event::Started { key: key.clone(), host: Some(subject.host.clone()), what, total: None });
    let verbs = Verbs::of_current(subject.connection.as_ref(), &subject.layout, subject.is_root);
    let asked =
        verbs.run("bench", &serde_json::json!({ "text": is_trial, "is_trial": is_trial }), LIMIT).await;
    let asked = asked.map_err(|error| with_causes(&error));
    events.send(match &asked {
        Ok(_) => Event::Finished { key, outcome: None },
        Err(why) => Event::Failed { key, error: why.clone() },
    });
    (subject.host.clone(), asked)
}
